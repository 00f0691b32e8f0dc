"""How providers word their refusals of `eth_getLogs`: what a simulated one says, and how many blocks it then takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RangeText:
    """`words` may name: limit (as printed), asked, first, last, first_hex, hint (last block that would do), hint_hex.

    The figure printed is the count of blocks that are served plus `printed_above`.
    """

    words: str
    code: int = -32602
    printed_above: int = 0

    def message(self, *, first: int, last: int, limit: int) -> str:
        """Word the refusal of blocks `first` to `last` by one who takes `limit` at a time."""
        hint = first + limit - 1
        return self.words.format(
            limit=limit + self.printed_above,
            asked=last - first + 1,
            first=first,
            last=last,
            first_hex=hex(first),
            hint=hint,
            hint_hex=hex(hint),
        )


USUAL_TEXT: Final = RangeText("block range is too large, limited to {limit} blocks")

RANGE_TEXTS: Final = (
    RangeText("this block range should work: [{first_hex}, {hint_hex}]"),
    RangeText("this block range should work: [{hint_hex}, {first_hex}]"),  # inverted (F18)
    RangeText("You can make eth_getLogs requests with up to a {limit} block range.", -32600),
    RangeText("query exceeds range. Try with this block range [{first_hex}, {hint_hex}].", -32005),
    RangeText("range {asked} exceeds limit of {limit}"),
    RangeText("block range exceeded, retry with the range {first}-{hint}", -32000),
    RangeText("block range is too wide", -32600),
    RangeText("maximum [from, to] blocks distance: {limit}", -32000),
    RangeText("block range is too wide (maximum {limit})", -32603),
    RangeText("eth_getLogs is limited to a {limit:,} range", -32614),
    RangeText("eth_getLogs is limited to {limit} block range. Please check the parameter requirements", -32602),
    RangeText("the range exceeds the range allowed for your plan ({asked} > {limit}).", -32600),
    RangeText("requested too many blocks from {first} to {last}, maximum is set to {limit}", -32000, 1),
    RangeText("Max range: {limit}", -32047, 1),
    RangeText("Maximum allowed number of requested blocks is {limit}"),
    RangeText("Block range limit exceeded.", -32602),
    RangeText("please limit the query to at most {limit} blocks", -32602, 1),
    RangeText("maximum block range: {limit}", -32701),
    RangeText("exceed maximum block range: {limit}", -32000),
    RangeText("query exceeds max block range {limit}"),
    RangeText("block range greater than {limit} max", -32000),
    RangeText("block range exceeds {limit}", -32600),
    RangeText("query must be smaller than size {limit}", -32000),
    RangeText("exceed max block range: {limit}", -32602, 1),
    RangeText("block range too large ({asked}), maximum allowed is {limit} blocks", -32000),
    RangeText("block range is larger than max block range, block range = {asked}, max block range = {limit}", -32000),
    RangeText("block range too large", -32000),
    RangeText("Block range is too large", -32000),
    RangeText("backend response too large", -32000),
    RangeText("no backend is currently healthy to serve traffic", -32011),
    RangeText("allowed block range threshold exceeded", -32012),
    RangeText("exceeded max allowed range", -32012),
    RangeText("range threshold exceeded", -32012),
    RangeText("ranges over {limit} blocks are not supported on freetier", 35),
    RangeText("the cursor went beyond its horizon", -32099),  # a text that nobody knows (F19)
    RangeText("this block range should work: [{first_hex}, 0xfffffff]"),  # a hint larger than what was asked (F19)
)

RESULT_TEXTS: Final = (
    (-32005, "query returned more than {limit} results"),
    (-32000, "query exceeds max results {limit}"),
    (-32000, "logs matched by query exceeds limit of {limit}"),
    (-32000, "response size should not greater than 10000000 bytes"),
    (-32000, "more than {limit} logs"),
    (-32000, "too many logs"),
    (-32008, "Response is too big"),
    (-32603, "too many results, try paginating"),
    (-32000, "query timeout exceeded"),
)

ADDRESS_TEXTS: Final = (
    "specify less number of address",
    "too many addresses or topics per search position",
    "7 filters. The current limit is {limit}",
)

PAST_HEAD_TEXTS: Final = (
    "requested to block after last accepted block",
    "block range extends beyond current head block",
    "invalid block range params",
)

PRUNED_TEXTS: Final = (
    (4444, "pruned history unavailable"),
    (-32000, "missing trie node 5f3a (path )"),
    (-32000, "height is not available, base height is {floor}"),
)

RATE_TEXTS: Final = (
    (-32005, "rate limit exceeded"),
    (429, "Your app has exceeded its compute units per second capacity"),
    (-32029, "too many requests"),
)

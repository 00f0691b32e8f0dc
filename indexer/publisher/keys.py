"""Every name in Valkey. The braces make a chain's keys one cluster slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from indexer.core.rows import agent_uuid

CHANNEL: Final = "erc8004:checkpoints"
FIGURES: Final = ("feedback_count", "average_score")
"""The figures of an agent that have a sorted set."""

_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,77})(?::0x([0-9a-f]{40}))?")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one chain."""

    chain_id: int

    @property
    def _prefix(self) -> str:
        return f"erc8004:{{{self.chain_id}}}:"

    @property
    def checkpoint(self) -> str:
        """Hash: what the other keys are vouched for up to."""
        return f"{self._prefix}checkpoint"

    @property
    def stats(self) -> str:
        """Hash: the chain's totals."""
        return f"{self._prefix}stats"

    @property
    def changes(self) -> str:
        """Stream: the feed. An entry's id is `<cursor>-0`, so that none is there twice."""
        return f"{self._prefix}changes"

    @property
    def layout(self) -> str:
        """String, ours alone: by which rules the keys are named and filled; see `layout_of`."""
        return f"{self._prefix}layout"

    @property
    def rebuild(self) -> str:
        """String, ours alone: who rebuilds at the moment; vanishes with what was written, and after its writer."""
        return f"{self._prefix}rebuild"

    @property
    def agents(self) -> str:
        """The beginning of every agent's key."""
        return f"{self._prefix}agent:"

    @property
    def pattern(self) -> str:
        """What SCAN finds all keys of the chain by."""
        return f"{self._prefix}*"

    def agent(self, name: str) -> str:
        """Hash: an agent's state and figures, by the name that `member` gives."""
        return f"{self.agents}{name}"

    def top(self, figure: str, *, building: bool = False) -> str:
        """Sorted set: agent → figure; `building` is the one that a rebuild fills before it takes the other's place."""
        return f"{self._prefix}{'rebuild:' if building else ''}top:{figure}"

    def is_fixed(self, key: str) -> bool:
        """Tell whether `key` belongs to the chain as a whole, not to an agent."""
        tops = {self.top(figure, building=building) for figure in FIGURES for building in (False, True)}
        return key in {self.checkpoint, self.stats, self.changes, self.layout, self.rebuild} | tops


def member(agent_id: str, registry: str, first_identity: str | None) -> str:
    """Return an agent's name in keys and sets; those of the chain's first deployment need no registry in it."""
    return agent_id if registry == first_identity else f"{agent_id}:{registry}"


def uuid_of(name: str, chain_id: int, first_identity: str | None) -> UUID | None:
    """Return the key of the agent with such a name; None where no agent is named so."""
    match = _NAME.fullmatch(name)
    if match is None or (identity := match[2] or (first_identity or "")[2:]) == "":
        return None
    return agent_uuid(chain_id, bytes.fromhex(identity), int(match[1]))


def layout_of(first_identity: str | None) -> str:
    """Return what `Keys.layout` holds: a number to raise when the keys' content changes, and what names hang on."""
    return f"1:{first_identity or ''}"

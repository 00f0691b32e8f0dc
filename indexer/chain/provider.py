"""One JSON-RPC endpoint over HTTP: send calls, get typed results or typed errors."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from indexer.chain.batching import BatchSize
from indexer.chain.codec import ENVELOPES, Envelope, ErrorJson
from indexer.chain.cuts import Cuts
from indexer.chain.pace import Pace
from indexer.chain.refusals import (
    RANGE_METHODS,
    BatchLimit,
    Billing,
    Failure,
    Inconsistent,
    ProviderError,
    RateLimited,
    TimedOut,
    TooManyResults,
    Transport,
    Unauthorized,
    classify,
)

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0
REQUEST_TIMEOUT_S: Final = 30.0  # providers give up on a query after 10 s; the body may take its time
MAX_BODY_BYTES: Final = (
    128 << 20
)  # about 70,000 logs; several are in flight, and a hostile body must not fill the memory
CHUNK_TRIES: Final = 3  # of each request of many: one passing fault shall not undo all the others
MAX_PARALLEL: Final = 8  # single requests at a time, where batches are refused
MIN_SECRET: Final = 8  # characters; shorter parts of an URL are words like "v2" or "rpc"
MAX_ID_DIGITS: Final = 20
MAX_ERROR_TEXT: Final = 2_000  # characters of an error body that are searched for known texts


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call and how its result is decoded."""

    method: str
    params: list[Any]
    decoder: msgspec.json.Decoder[T]
    large: int | None = None  # bytes from which on the result is left Undecoded


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A result that is so large that whoever asked shall choose where it is decoded."""

    result: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """The results of several calls in order; a refusal of one call is its result.

    `together`: they came in one HTTP response, and so, most likely, from one node.
    """

    results: list[T | ProviderError]
    together: bool


class Provider:
    """An endpoint and what was learned about it. Errors and logs know it by its host name alone."""

    def __init__(self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._max_body_bytes = max_body_bytes
        self._secrets = _secrets_of(url)
        self._session: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)
        self._parallel = asyncio.Semaphore(MAX_PARALLEL)
        self.host = urlsplit(url).hostname or "?"
        self.batches = BatchSize()
        self.cuts = Cuts()
        self.span_cap: int | None = None  # blocks a getLogs, where the provider has a rule
        self.max_addresses: int | None = None
        self.log_times = True  # blockTimestamp of its logs can be relied on
        self.pace = Pace()
        self.requests = 0  # HTTP requests sent so far
        self.admitted = False  # showed the right chain id since it last was away
        self.anchored = False  # likewise, showed that it is on the chain that we hold
        self.shown_at = 0.0  # when it showed the older of these
        self.is_showing = False  # is asked to show it again

    async def aclose(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, call: Call[T]) -> T:
        """Ask one thing. Raises ProviderError."""
        (result,) = await self.batch([call])
        if isinstance(result, ProviderError):
            raise result
        return result

    async def batch(self, calls: Sequence[Call[T]]) -> list[T | ProviderError]:
        """Ask as `ask` does, and return the results."""
        return (await self.ask(calls)).results

    async def ask(self, calls: Sequence[Call[T]]) -> Answers[T]:
        """Ask several things in one HTTP request, or in as few as the provider takes.

        Raises ProviderError only where nothing usable came back.
        """
        size = min(self.batches.calls, max(1, len(calls)))
        while True:
            try:
                results = await self._in_chunks(calls, size)
            except BatchLimit:
                if size == 1:
                    raise
                size = self.batches.smaller(size)
                continue
            self.batches.worked(size, len(calls))  # remembered only now that it worked
            return Answers(results, together=len(calls) <= size)

    async def _in_chunks(self, calls: Sequence[Call[T]], size: int) -> list[T | ProviderError]:
        chunks = [calls[start : start + size] for start in range(0, len(calls), size)]
        if len(chunks) == 1:
            return await self._send(chunks[0])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._send_bounded(chunk)) for chunk in chunks]
        outcomes = [task.result() for task in tasks]
        return [result for outcome in outcomes for result in _raised(outcome)]

    async def _send_bounded(self, chunk: Sequence[Call[T]]) -> list[T | ProviderError] | ProviderError:
        """Return the error instead of raising it: a task group would wrap it."""
        for left in reversed(range(CHUNK_TRIES)):
            async with self._parallel:
                try:
                    return await self._send(chunk)
                except ProviderError as error:
                    if not left or not isinstance(error, Transport) or isinstance(error, TimedOut):
                        return error
        raise AssertionError("the last try returns")

    async def _send(self, calls: Sequence[Call[T]]) -> list[T | ProviderError]:
        ids = [next(self._ids) for _ in calls]
        bodies = [
            {"jsonrpc": "2.0", "id": call_id, "method": call.method, "params": call.params}
            for call_id, call in zip(ids, calls, strict=True)
        ]
        answer = await self._post(msgspec.json.encode(bodies[0] if len(bodies) == 1 else bodies), calls)
        envelopes = self._envelopes(answer, calls)
        by_id: dict[int | str | None, Envelope] = {_plain_id(envelope.id): envelope for envelope in envelopes}
        if len(calls) == 1 and envelopes[0].error is not None:
            by_id = {ids[0]: envelopes[0]}  # an error may come without the id
        if len(envelopes) != len(calls) or any(call_id not in by_id for call_id in ids):
            raise Inconsistent(self.host, "answered with ids that were not asked for")
        results: list[T | ProviderError] = []
        for call_id, call in zip(ids, calls, strict=True):
            result = self._result(call, by_id[call_id], answer)
            results.append(result)
        return results

    def _envelopes(self, answer: _Answer, calls: Sequence[Call[T]]) -> list[Envelope]:
        """Split an answer into its parts, never empty; one error for all of a batch is raised."""
        try:
            decoded = ENVELOPES.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unusable(answer, calls) from error
        except RecursionError as error:
            raise Inconsistent(self.host, _TOO_DEEP) from error
        if isinstance(decoded, list):
            if not decoded:
                raise Inconsistent(self.host, "answered a batch with nothing")
            if len(decoded) == 1 < len(calls) and decoded[0].error is not None:  # so geth refuses a batch
                raise self._unusable(answer, calls, decoded[0].error)
            return decoded
        if len(calls) > 1 or not (decoded.result or decoded.error):
            raise self._unusable(answer, calls, decoded.error)
        return [decoded]

    def _unusable(
        self, answer: _Answer, calls: Sequence[Call[T]], error: ErrorJson | str | None = None
    ) -> ProviderError:
        found = classify(self._failure(_leading_method(calls), answer, error))
        refused = error is not None or 400 <= answer.status < 500
        if len(calls) > 1 and refused and not isinstance(found, (RateLimited, Billing, Unauthorized)):
            return BatchLimit(self.host, found.text)
        return found

    def _result(self, call: Call[T], envelope: Envelope, answer: _Answer) -> T | ProviderError:
        if envelope.error is not None:
            return classify(self._failure(call.method, answer, envelope.error))
        if not envelope.result:
            return Inconsistent(self.host, f"{call.method} answered neither result nor error")
        if call.large is not None and len(envelope.result) >= call.large:
            return Undecoded(envelope.result)  # type: ignore[return-value]  # as the call allows
        return self.decoded(call.method, call.decoder, envelope.result)

    def decoded(self, method: str, decoder: msgspec.json.Decoder[T], result: msgspec.Raw) -> T | ProviderError:
        """Decode the result of a call."""
        try:
            return decoder.decode(result)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Inconsistent(self.host, f"{method} answered something malformed: {self._clean(str(error))}")
        except RecursionError:
            return Inconsistent(self.host, _TOO_DEEP)

    def _failure(self, method: str, answer: _Answer, error: ErrorJson | str | None) -> Failure:
        code = None
        match error:
            case ErrorJson():
                code = error.code
                text = " ".join(filter(None, (error.message, bytes(error.data).decode(errors="replace"))))
            case str():
                text = error
            case None:
                text = f"HTTP {answer.status} " + answer.body[:MAX_ERROR_TEXT].decode(errors="replace")
        text = text[:MAX_ERROR_TEXT]
        return Failure(self.host, method, text, code, answer.status, answer.retry_after_s, self._clean(text))

    def _clean(self, text: str) -> str:
        """Cut a provider's words short and take out what may be a secret: parts of our URL, and any URL."""
        text = _URL.sub("<url>", " ".join(text.split()))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def _post(self, body: bytes, calls: Sequence[Call[T]]) -> _Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        if wait_s := self.pace.reserve(time.monotonic(), len(calls)):
            await asyncio.sleep(wait_s)
        self.requests += 1
        try:
            async with self._session.post(self._url, data=body, headers=_HEADERS) as response:
                content = await self._read(response, calls)
                return _Answer(response.status, content, _retry_after_s(response.headers.get("Retry-After")))
        except aiohttp.ConnectionTimeoutError as error:
            raise Transport(self.host, "no connection in time") from error
        except TimeoutError as error:
            raise TimedOut(self.host, f"no answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Transport(self.host, f"{type(error).__name__}: {self._clean(str(error))}") from error

    async def _read(self, response: aiohttp.ClientResponse, calls: Sequence[Call[T]]) -> bytes:
        """Read the body up to the cap, counted after decompression."""
        chunks, size = [], 0  # put together once: a growing buffer of MBs is copied again and again
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_body_bytes:
                text = f"the answer is larger than {self._max_body_bytes} bytes"
                logs = _leading_method(calls) in RANGE_METHODS
                raise TooManyResults(self.host, text) if logs else Transport(self.host, text)
        return b"".join(chunks)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after_s: float | None


_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_TOO_DEEP: Final = "answered JSON that is nested too deep"
_URL: Final = re.compile(r"(?:https?|wss?)://\S+", re.IGNORECASE)


def _secrets_of(url: str) -> tuple[str, ...]:
    """Name the parts of an URL that may be a key, longest first, as they stand and decoded."""
    parts = urlsplit(url)
    words = re.split(r"[/?&=;]", f"{parts.path}?{parts.query}")
    found = {word for word in words if len(word) >= MIN_SECRET}
    found |= {word for word in (parts.username, parts.password) if word}
    return tuple(sorted(found | {unquote(word) for word in found}, key=len, reverse=True))


def _leading_method(calls: Sequence[Call[T]]) -> str:
    """Name the call that decides what a refusal of the whole request means."""
    return next((call.method for call in calls if call.method in RANGE_METHODS), calls[0].method)


def _plain_id(call_id: int | str | None) -> int | str | None:
    """Read an id that came back as text; one of more digits than we count to is none of ours, and slow to read."""
    short = isinstance(call_id, str) and len(call_id) <= MAX_ID_DIGITS and call_id.isdecimal()
    return int(call_id) if short and call_id is not None else call_id


def _raised(outcome: list[T | ProviderError] | ProviderError) -> list[T | ProviderError]:
    if isinstance(outcome, ProviderError):
        raise outcome
    return outcome


def _retry_after_s(header: str | None) -> float | None:
    """Decode Retry-After: seconds or an HTTP date (RFC 9110 section 10.2.3); None where absent or nonsense."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None

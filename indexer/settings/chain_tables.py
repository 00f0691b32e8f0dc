"""The `[[chain]]` tables and `--chain`: collected, completed from the known chains, judged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from indexer.core.chains import (
    UNKNOWN_FINALITY_BLOCKS,
    UNKNOWN_POLL_INTERVAL_S,
    UNKNOWN_RANGE_HINT,
    KnownChain,
    closest_names,
    find_chain,
)
from indexer.core.types import Deployment
from indexer.settings.judging import judge, shown
from indexer.settings.models import ChainSettings, FileChain, Origin
from indexer.settings.rules import DEFAULT_FILE, HIDDEN, NAME_PATTERN

_PLACEHOLDER: Final = re.compile(r"\$\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A chain as it was asked for, not judged yet. `label` begins the keys in its mistakes."""

    label: str
    raw: dict[str, object]
    origin: Origin
    rpc_given: bool = False

    @property
    def known(self) -> KnownChain | None:
        """The known chain that this is, by name or else by id."""
        return find_chain(self.raw.get("name"), self.raw.get("id"))

    @property
    def deployments(self) -> list[Mapping[str, object]]:
        """Its own deployments, as far as they are tables."""
        tables = self.raw.get("deployment")
        return [one for one in tables if isinstance(one, dict)] if isinstance(tables, list) else []

    def call(self, key: str) -> str:
        """Return the name of `key` in a mistake."""
        return "--rpc" if self.rpc_given and key.startswith("rpc") else f"{self.label}.{key}"

    def origin_of(self, key: str) -> Origin:
        """Tell where the value of `key` came from."""
        return "command line" if self.rpc_given and key == "rpc" else self.origin


def configured_chains(
    tables: object, path: Path | None, wanted: tuple[str, ...], rpc: str | None, mistakes: list[str]
) -> list[Asked]:
    """Collect the file's chains; `rpc` replaces the one chain that was asked for."""
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        mistakes.append(f"{path}: chain: must be tables headed by [[chain]], in double brackets")
        return []
    asked = []
    for index, raw in enumerate(tables):
        name = raw.get("name")
        spelled = name if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) else None
        override = {"rpc": [rpc]} if rpc is not None and wanted == (name,) else {}
        label = f"{path}: chain.{spelled}" if spelled else f"{path}: chain[{index}]"
        asked.append(Asked(label, raw | override, "file", rpc_given=bool(override)))
    return asked


def chains_of_command_line(
    configured: Sequence[object], wanted: tuple[str, ...], rpc: str | None, mistakes: list[str]
) -> list[Asked]:
    """Collect the known chains that --chain names and the file does not have."""
    if rpc is not None and len(wanted) != 1:
        mistakes.append(f"--rpc = {HIDDEN}: must go with exactly one --chain; {len(wanted)} given")
    asked = []
    for name in wanted:
        if name in configured:
            continue
        if find_chain(name, None) is None:
            near = closest_names(name, tuple(str(one) for one in configured))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            mistakes.append(f"--chain = {shown('chain', name)}: must be a known or a configured chain{hint}")
        elif rpc is None:
            mistakes.append(f"--chain = {name!r}: has no RPC; add --rpc URL, or a [[chain]] with rpc to {DEFAULT_FILE}")
        else:
            asked.append(Asked(f"--chain {name}", {"name": name, "rpc": [rpc]}, "command line", rpc_given=True))
    return asked


def judge_chain(asked: Asked, environ: Mapping[str, str], mistakes: list[str]) -> ChainSettings | None:
    """Add every mistake of one chain to `mistakes`; return the chain where there was none."""
    before = len(mistakes)
    raw = asked.raw | {"rpc": _expand(asked, environ, mistakes)}
    parsed = judge(FileChain, raw, asked.call, mistakes)
    mistakes += _lacking(asked)
    mistakes += _repeated(asked)
    return _build(parsed, asked.known) if parsed and len(mistakes) == before else None


def _expand(asked: Asked, environ: Mapping[str, str], mistakes: list[str]) -> object:
    """Put the environment's values in place of `${NAME}` in the file's RPC URLs."""
    urls = asked.raw.get("rpc", [])
    if asked.rpc_given or not isinstance(urls, list):
        return urls
    expanded = []
    for index, url in enumerate(urls):
        names = _PLACEHOLDER.findall(url) if isinstance(url, str) else []
        wrong = [f"${{{name}}} must be set in the environment, and is not" for name in names if not environ.get(name)]
        if isinstance(url, str) and url.count("${") > len(names):
            wrong.append("must name variables as ${NAME}, of letters, digits and _")
        mistakes += [f"{asked.call(f'rpc[{index}]')} = {HIDDEN}: {one}" for one in wrong]
        filled = _PLACEHOLDER.sub(lambda match: environ[match[1]], url) if names and not wrong else url
        expanded.append("https://unjudged.invalid" if wrong else filled)
    return expanded


def _lacking(asked: Asked) -> Iterator[str]:
    """Name what a chain must have and has not: an id, an RPC, registries, a first block."""
    raw, known = asked.raw, asked.known
    name = raw.get("name")
    if not raw.get("rpc"):
        yield f"{asked.call('rpc')}: missing; must be {FileChain.model_fields['rpc'].description}"
    if known is None:
        yield from _lacking_of_own(asked)
    elif known.name == name and raw.get("id", known.id) != known.id:
        yield f"{asked.call('id')} = {shown('id', raw['id'])}: must be {known.id}, as the name is {name}, or left out"
    if known is None or "start_block" in raw:
        return
    for index, deployment in enumerate(asked.deployments):
        if "start_block" not in deployment:
            key = asked.call(f"deployment[{index}].start_block")
            yield f"{key}: missing; must be the block from which to index these registries"
    if not asked.deployments and known.start_block is None:
        if asked.origin == "command line":
            yield (
                f"{asked.label}: its first block is not known; must be a [[chain]] with name, rpc and start_block "
                f"in {DEFAULT_FILE}"
            )
        else:
            yield f"{asked.call('start_block')}: missing; must be the block from which to index, as it is not known"


def _lacking_of_own(asked: Asked) -> Iterator[str]:
    name = asked.raw.get("name")
    if "id" not in asked.raw and isinstance(name, str):
        near = closest_names(name)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        yield (
            f"{asked.call('name')} = {shown('name', name)}: must be a known chain; {hint}"
            "A chain of your own needs id and [[chain.deployment]]"
        )
    elif not asked.raw.get("deployment"):
        rule = "one or more [[chain.deployment]] with identity and reputation"
        yield f"{asked.call('deployment')}: missing; must be {rule}"


def _repeated(asked: Asked) -> Iterator[str]:
    """Name addresses and URLs that stand twice in one chain; two equal providers could confirm nothing."""
    seen: set[str] = set()
    for index, deployment in enumerate(asked.deployments):
        validation = deployment.get("validation")
        for key, address in (
            ("identity", deployment.get("identity")),
            ("reputation", deployment.get("reputation")),
            *(("validation", one) for one in (validation if isinstance(validation, list) else [])),
        ):
            if not isinstance(address, str):
                continue
            if address.lower() in seen:
                label = asked.call(f"deployment[{index}].{key}")
                yield f"{label} = {shown(key, address)}: must stand once in its chain; it is there already"
            seen.add(address.lower())
    urls = asked.raw.get("rpc")
    if isinstance(urls, list) and any(url in urls[:index] for index, url in enumerate(urls)):
        yield f"{asked.call('rpc')} = {HIDDEN}: must not name one URL twice"


def refuse_twins(asked: Sequence[Asked], mistakes: list[str]) -> None:
    """Refuse chains that share a name or an id."""
    names: set[object] = set()
    ids: set[object] = set()
    for one in asked:
        name, chain_id = one.raw.get("name"), one.raw.get("id", one.known.id if one.known else None)
        if isinstance(name, str) and name in names:
            mistakes.append(
                f"{one.call('name')} = {shown('name', name)}: must be different from the other chains' names"
            )
        elif isinstance(chain_id, int) and chain_id in ids:
            mistakes.append(f"{one.call('id')} = {chain_id}: must be different from the other chains' ids")
        names.add(name if isinstance(name, str) else None)
        ids.add(chain_id if isinstance(chain_id, int) else None)


def _build(parsed: FileChain, known: KnownChain | None) -> ChainSettings:
    deployments = tuple(
        Deployment(one.identity, one.reputation, one.validation, _first(one.start_block, parsed.start_block, 0))
        for one in parsed.deployment
    )
    if known and not deployments:
        deployments = (known.registries.starting_at(_first(parsed.start_block, known.start_block, 0)),)
    return ChainSettings(
        name=parsed.name,
        id=_first(parsed.id, known.id if known else None, 0),
        rpc=parsed.rpc,
        start_block=min(one.start_block for one in deployments),
        finality_blocks=parsed.finality_blocks,
        default_finality_blocks=known.finality_blocks if known else UNKNOWN_FINALITY_BLOCKS,
        poll_interval_s=parsed.poll_interval_s or (known.poll_interval_s if known else UNKNOWN_POLL_INTERVAL_S),
        max_block_range=parsed.max_block_range,
        range_hint=known.range_hint if known else UNKNOWN_RANGE_HINT,
        max_concurrency=parsed.max_concurrency,
        proof=parsed.proof,
        deployments=deployments,
    )


def _first(*candidates: int | None) -> int:
    return next(one for one in candidates if one is not None)

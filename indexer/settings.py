"""The only reader of the environment and the TOML file; judged offline and as a whole.

Environment first, then the file, then the default. Every mistake is collected and told at once, a line each, in one
SettingsError; no line and no `repr` ever holds a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from indexer.core.chains import (
    UNKNOWN_FINALITY_BLOCKS,
    UNKNOWN_POLL_INTERVAL_S,
    UNKNOWN_RANGE_HINT,
    KnownChain,
    closest_names,
    find_chain,
)
from indexer.core.types import Deployment
from indexer.errors import SettingsError

Origin = Literal["environment", "file", "command line", "default"]
Proof = Literal["off", "logs", "receipts"]

DEFAULT_FILE: Final = Path("erc8004.toml")
HIDDEN: Final = "***"

_PREFIX: Final = "ERC8004_"
_UNPREFIXED: Final = {"database_url": ("DATABASE_URL",), "valkey_url": ("VALKEY_URL", "REDIS_URL")}
_CONFIG: Final = "ERC8004_CONFIG"
_RPC_SCHEMES: Final = ("http", "https", "ws", "wss")
_SECRET_KEYS: Final = frozenset({"database_url", "valkey_url", "rpc"})
_PLACEHOLDER: Final = re.compile(r"\$\{([^}]*)\}?")


def host_of(url: str) -> str:
    """Return the host name of a URL, all of it that may be shown; `***` where that cannot be told apart safely."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return HIDDEN
    if "@" in url and "@" not in parts.netloc:  # an unescaped / ? # in the password: the "host" may be part of it
        return HIDDEN
    return host or HIDDEN


# --- what a single value may be -----------------------------------------------------------------------------------


def _url(*schemes: str, needs_host: bool) -> AfterValidator:
    def check(secret: SecretStr) -> SecretStr:
        value = secret.get_secret_value()
        parts = urlsplit(value)
        several_hosts = "," in parts.netloc  # PostgreSQL takes a list; urlsplit knows one host only
        well_formed = parts.scheme in schemes and not re.search(r"\s", value) and (several_hosts or parts.port != 0)
        if not well_formed or (needs_host and not parts.hostname) or not (parts.netloc or parts.path.strip("/")):
            raise ValueError
        return secret

    return AfterValidator(check)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - pydantic collects ValueError; TypeError would leave
    return value


def _address(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{40}", value) or not int(value, 16):
        raise ValueError
    return bytes.fromhex(value[2:])


def _bind(value: object) -> object:
    if isinstance(value, tuple) or value is None:
        return value
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - pydantic collects ValueError; TypeError would leave
    if not value.strip():
        return None
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:(\d{1,5})|([\w.-]+):(\d{1,5})", value.strip())
    if not match or int(port := match[2] or match[4]) > 65535:
        raise ValueError
    return (match[1] or match[3], int(port))


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _home(value: Path) -> Path:
    return value.expanduser().absolute()


_Number = BeforeValidator(_no_bool)
_Seconds = Annotated[float, _Number, Field(gt=0, le=86_400, allow_inf_nan=False)]
_Block = Annotated[int, _Number, Field(ge=0, le=2**63 - 1)]
_RpcUrl = Annotated[SecretStr, _url(*_RPC_SCHEMES, needs_host=True)]
_Address = Annotated[bytes, BeforeValidator(_address)]
_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
_ChainName = Annotated[str, Field(pattern=_NAME_PATTERN)]
_URL_RULE: Final = "a URL that begins with http://, https://, ws:// or wss:// and names a host"
_ADDRESS_RULE: Final = "an address: 0x and 40 hex digits, not all zero"
_IN_LIST: Final = {"rpc": _URL_RULE, "validation": _ADDRESS_RULE}


# --- the models; a field's description completes the sentence "must be …" ------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


_M = TypeVar("_M", bound=_Model)


class ChainSettings(_Model):
    """One chain to index. `rpc` is in order of preference; `start_block` is the least of its deployments'."""

    name: str
    id: int
    rpc: tuple[SecretStr, ...]
    start_block: int
    finality_blocks: int | None = None
    """Depth that wins over the `finalized` tag; None: ask for the tag."""
    default_finality_blocks: int = UNKNOWN_FINALITY_BLOCKS
    """Depth where no provider serves the tag."""
    poll_interval_s: float = UNKNOWN_POLL_INTERVAL_S
    max_block_range: int | None = None
    range_hint: int = UNKNOWN_RANGE_HINT
    max_concurrency: int = 4
    proof: Proof = "logs"
    deployments: tuple[Deployment, ...]


class _Values(_Model):
    """The settings that are one value each; in the environment `ERC8004_<NAME>`, in the file in lower case."""

    database_url: Annotated[SecretStr, _url("postgresql", "postgres", needs_host=False)] | None = Field(
        None, description="a URL postgresql://user:password@host:port/database, or unset for the embedded server"
    )
    valkey_url: Annotated[SecretStr, _url("redis", "rediss", "unix", needs_host=False)] | None = Field(
        None, description="a URL redis://…, rediss://… or unix://…, or unset for the embedded server"
    )
    data_dir: Annotated[Path, AfterValidator(_home)] = Field(
        Path("~/.local/share/erc8004-indexer"), description="a folder", validate_default=True
    )
    http_bind: Annotated[tuple[str, int] | None, BeforeValidator(_bind)] = Field(
        ("127.0.0.1", 8004), description="host:port with a port from 0 (any) to 65535, or empty for no HTTP"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="debug, info, warning or error"
    )
    max_lag_s: _Seconds = Field(60.0, description="seconds, above 0 and at most 86400")
    stall_after_s: _Seconds = Field(90.0, description="seconds, above 0 and at most 86400")
    changes_retention_h: Annotated[float, _Number, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        168.0, description="hours, above 0 and at most 1000000"
    )
    stream_maxlen: Annotated[int, _Number, Field(gt=0, le=10**9)] = Field(
        100_000, description="a count of entries, 1 to 1000000000"
    )
    publish_backfill: bool = Field(default=False, description="true or false")
    pool_size: Annotated[int, _Number, Field(ge=2, le=200)] = Field(
        10, description="a count of database connections, 2 to 200"
    )


class _FileDeployment(_Model):
    identity: _Address = Field(description=_ADDRESS_RULE)
    reputation: _Address = Field(description=_ADDRESS_RULE)
    validation: tuple[_Address, ...] = Field((), description=f"a list, each {_ADDRESS_RULE}")
    start_block: _Block | None = Field(None, description="a block number, 0 or more")


class _FileChain(_Model):
    name: _ChainName = Field(description="1 to 63 of a-z, 0-9, '-', '_', '.'")
    id: Annotated[int, _Number, Field(gt=0, le=2**63 - 1)] | None = Field(None, description="a chain id, 1 or more")
    rpc: tuple[_RpcUrl, ...] = Field((), description=f"a list, each {_URL_RULE}")
    start_block: _Block | None = Field(None, description="a block number, 0 or more")
    finality_blocks: Annotated[int, _Number, Field(ge=0, le=10**9)] | None = Field(
        None, description="a count of blocks, 0 or more"
    )
    poll_interval_s: Annotated[float, _Number, Field(gt=0, le=3600, allow_inf_nan=False)] | None = Field(
        None, description="seconds, above 0 and at most 3600"
    )
    max_block_range: Annotated[int, _Number, Field(gt=0, le=10**9)] | None = Field(
        None, description="a count of blocks, 1 or more"
    )
    max_concurrency: Annotated[int, _Number, Field(ge=1, le=64)] = Field(4, description="a count of requests, 1 to 64")
    proof: Proof = Field("logs", description="off, logs or receipts")
    deployment: tuple[_FileDeployment, ...] = Field((), description="one or more [[chain.deployment]] tables")


class Described(NamedTuple):
    """One line of `erc8004-indexer config`."""

    key: str
    value: str
    origin: Origin


class Settings(_Values):
    """All settings of one process. `http_bind` is None where HTTP is off; `data_dir` is absolute."""

    chains: tuple[ChainSettings, ...] = ()
    config_file: Path | None = None
    """The TOML file that was read."""
    origins: dict[str, Origin] = Field(default_factory=dict, repr=False)
    """Where each value that is not a default came from, by the keys that `describe` uses."""

    def describe(self) -> list[Described]:
        """List every effective setting for `config`: secrets hidden, of URLs the host alone."""
        lines = [(_CONFIG, str(self.config_file or "(none)"))]
        lines += [(_env_names(name)[0], _plain(getattr(self, name))) for name in _Values.model_fields]
        for chain in self.chains:
            shown = {name: _plain(getattr(chain, name)) for name in _SHOWN_OF_CHAIN}
            lines += [(f"chain.{chain.name}.{name}", value) for name, value in shown.items()]
            lines += [(f"chain.{chain.name}.deployment", _addresses(deployment)) for deployment in chain.deployments]
        return [Described(key, value, self.origins.get(key, "default")) for key, value in lines]


_SHOWN_OF_CHAIN: Final = tuple(name for name in ChainSettings.model_fields if name not in {"name", "deployments"})


def _env_names(name: str) -> tuple[str, ...]:
    return _UNPREFIXED.get(name, (_PREFIX + name.upper(),))


def _plain(value: object) -> str:
    match value:
        case None:
            return "(unset)"
        case bool():
            return str(value).lower()
        case SecretStr():
            url = value.get_secret_value()
            return f"{urlsplit(url).scheme}://{host_of(url)}"
        case (str(), int()):
            return f"{value[0]}:{value[1]}"
        case tuple():
            return ", ".join(host_of(url.get_secret_value()) for url in value)
        case _:
            return str(value)


def _addresses(deployment: Deployment) -> str:
    return " ".join(f"0x{address.hex()}" for address in deployment.addresses) + f" from {deployment.start_block}"


# --- reading --------------------------------------------------------------------------------------------------------


def load_settings(
    environ: Mapping[str, str], *, chains: Sequence[str] = (), rpc: str | None = None, need_chains: bool = True
) -> Settings:
    """Read and judge all settings, offline.

    `chains` (from --chain) picks configured chains, or known ones together with `rpc` (from --rpc); none picks all.
    Raises SettingsError with a line per mistake.
    """
    mistakes: list[str] = []
    path, table = _read_file(environ, mistakes)
    given, labels, origins = _gather(environ, table, path, mistakes)
    values = _judge(_Values, given, lambda key: labels.get(key, key), mistakes)

    wanted = tuple(dict.fromkeys(chains))
    asked = _configured(table.get("chain", []), path, wanted, rpc, mistakes)
    asked += _from_command_line({one.raw.get("name") for one in asked}, wanted, rpc, mistakes)
    if need_chains and not asked and not mistakes:
        mistakes.append(_NO_CHAIN)
    judged = [_judge_chain(one, environ, mistakes) for one in asked]
    _refuse_twins(asked, mistakes)
    if mistakes or values is None:
        raise SettingsError("\n".join(dict.fromkeys(mistakes)))

    kept = tuple(chain for chain in judged if chain and (not wanted or chain.name in wanted))
    for one in asked:
        origins |= {f"chain.{one.raw['name']}.{key}": one.origin_of(key) for key in one.raw}
    return Settings(**dict(values), chains=kept, config_file=path, origins=origins)


_NO_CHAIN: Final = (
    "no chain is configured; the shortest way: erc8004-indexer run --chain base --rpc https://YOUR-PROVIDER "
    f"(or list chains in {DEFAULT_FILE}, or try `erc8004-indexer demo`, which needs nothing)"
)


def _read_file(environ: Mapping[str, str], mistakes: list[str]) -> tuple[Path | None, dict[str, object]]:
    named = environ.get(_CONFIG)
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.exists():
        return None, {}
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        mistakes.append(f"{_CONFIG} = {str(path)!r}: must be a TOML file that can be read: {error.strerror}")
    except ValueError as error:  # not UTF-8, or not TOML
        mistakes.append(f"{path}: must be a TOML file: {error}")
    return path, {}


def _gather(
    environ: Mapping[str, str], table: Mapping[str, object], path: Path | None, mistakes: list[str]
) -> tuple[dict[str, object], dict[str, str], dict[str, Origin]]:
    """Merge file and environment; return the values, how to call each in a mistake, and where each came from."""
    given = {key: value for key, value in table.items() if key != "chain"}
    labels = {key: f"{path}: {key}" for key in given}
    origins: dict[str, Origin] = {_env_names(key)[0]: "file" for key in given}
    known_names = [_CONFIG]
    for key in _Values.model_fields:
        names = _env_names(key)
        known_names += names
        for name in reversed(names):  # the first name wins
            if environ.get(name) or (key == "http_bind" and name in environ):  # empty is unset, but there it means off
                given[key], labels[key], origins[names[0]] = environ[name], name, "environment"
    unknown = [name for name in environ if name.startswith(_PREFIX) and name not in known_names]
    mistakes += [f"{name} = {HIDDEN}: unknown setting{_did_you_mean(name, known_names)}" for name in unknown]
    if environ.get(_CONFIG):
        origins[_CONFIG] = "environment"
    return given, labels, origins


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(sorted(names))}"


def _judge(model: type[_M], given: Mapping[str, object], label: Callable[[str], str], mistakes: list[str]) -> _M | None:
    """Validate `given`; every mistake becomes a line: the key (by `label`), the value, what is allowed."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        issues = error.errors(include_url=False, include_context=False)
    mistakes += [_line(model, label, issue["type"], issue["loc"], issue["input"]) for issue in issues]
    return None


def _line(
    model: type[_Model], label: Callable[[str], str], kind: str, loc: tuple[int | str, ...], value: object
) -> str:
    if loc[0] == "deployment" and len(loc) > 2:
        inner, at = loc[2:], f"deployment[{loc[1]}]"
        return _line(_FileDeployment, lambda key: label(f"{at}.{key}"), kind, inner, value)
    name = str(loc[0])
    key = label(name + "".join(f"[{part}]" for part in loc[1:] if isinstance(part, int)))
    if kind == "extra_forbidden":
        above = "; it belongs above the first [[chain]]" if name in _Values.model_fields else ""
        return f"{key} = {HIDDEN}: unknown setting{above or _did_you_mean(name, model.model_fields)}"
    allowed = model.model_fields[name].description
    return (
        f"{key}: missing; must be {allowed}"
        if kind == "missing"
        else f"{key} = {_shown(name, value)}: must be {allowed}"
    )


def _shown(name: str, value: object) -> str:
    """Render a wrong value; hidden where the key holds secrets, or where it looks like a URL in the wrong place."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if name in _SECRET_KEYS or "://" in text or "@" in text:
        return HIDDEN
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- chains ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chain as it was asked for, not judged yet. `label` begins the keys in its mistakes."""

    label: str
    raw: dict[str, object]
    origin: Origin
    rpc_given: bool = False

    @property
    def known(self) -> KnownChain | None:
        return find_chain(self.raw.get("name"), self.raw.get("id"))

    @property
    def deployments(self) -> list[Mapping[str, object]]:
        tables = self.raw.get("deployment")
        return [one for one in tables if isinstance(one, dict)] if isinstance(tables, list) else []

    def call(self, key: str) -> str:
        """Return the name of `key` in a mistake."""
        return "--rpc" if self.rpc_given and key.startswith("rpc") else f"{self.label}.{key}"

    def origin_of(self, key: str) -> Origin:
        """Tell where the value of `key` came from."""
        return "command line" if self.rpc_given and key == "rpc" else self.origin


def _configured(
    tables: object, path: Path | None, wanted: tuple[str, ...], rpc: str | None, mistakes: list[str]
) -> list[_Asked]:
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        mistakes.append(f"{path}: chain: must be tables headed by [[chain]], in double brackets")
        return []
    asked = []
    for index, raw in enumerate(tables):
        name = raw.get("name")
        spelled = name if isinstance(name, str) and re.fullmatch(_NAME_PATTERN, name) else None
        override = {"rpc": [rpc]} if rpc is not None and wanted == (name,) else {}
        label = f"{path}: chain.{spelled}" if spelled else f"{path}: chain[{index}]"
        asked.append(_Asked(label, raw | override, "file", rpc_given=bool(override)))
    return asked


def _from_command_line(
    configured: AbstractSet[object], wanted: tuple[str, ...], rpc: str | None, mistakes: list[str]
) -> list[_Asked]:
    if rpc is not None and len(wanted) != 1:
        mistakes.append(f"--rpc = {HIDDEN}: must go with exactly one --chain; {len(wanted)} given")
    asked = []
    for name in wanted:
        if name in configured:
            continue
        if find_chain(name, None) is None:
            near = closest_names(name, tuple(str(one) for one in configured))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            mistakes.append(f"--chain = {_shown('chain', name)}: must be a known or a configured chain{hint}")
        elif rpc is None:
            mistakes.append(f"--chain = {name!r}: has no RPC; add --rpc URL, or a [[chain]] with rpc to {DEFAULT_FILE}")
        else:
            asked.append(_Asked(f"--chain {name}", {"name": name, "rpc": [rpc]}, "command line", rpc_given=True))
    return asked


def _judge_chain(asked: _Asked, environ: Mapping[str, str], mistakes: list[str]) -> ChainSettings | None:
    before = len(mistakes)
    raw = asked.raw | {"rpc": _expand(asked, environ, mistakes)}
    parsed = _judge(_FileChain, raw, asked.call, mistakes)
    mistakes += _lacking(asked)
    mistakes += _repeated(asked)
    return _build(parsed, asked.known) if parsed and len(mistakes) == before else None


def _expand(asked: _Asked, environ: Mapping[str, str], mistakes: list[str]) -> object:
    """Put the environment's values in place of `${NAME}` in the file's RPC URLs."""
    urls = asked.raw.get("rpc", [])
    if asked.rpc_given or not isinstance(urls, list):
        return urls
    expanded = []
    for index, url in enumerate(urls):
        names = _PLACEHOLDER.findall(url) if isinstance(url, str) else []
        absent = [name for name in names if not environ.get(name)]
        key = asked.call(f"rpc[{index}]")
        mistakes += [f"{key} = {HIDDEN}: ${{{name}}} must be set in the environment, and is not" for name in absent]
        if absent:
            expanded.append("https://unset.invalid")
        else:
            expanded.append(_PLACEHOLDER.sub(lambda match: environ[match[1]], url) if names else url)
    return expanded


def _lacking(asked: _Asked) -> Iterator[str]:
    """Name what a chain must have and has not: an id, an RPC, registries, a first block."""
    raw, known = asked.raw, asked.known
    name = raw.get("name")
    if not raw.get("rpc"):
        yield f"{asked.call('rpc')}: missing; must be {_FileChain.model_fields['rpc'].description}"
    if known is None:
        yield from _lacking_of_own(asked)
    elif known.name == name and raw.get("id", known.id) != known.id:
        yield f"{asked.call('id')} = {_shown('id', raw['id'])}: must be {known.id}, as the name is {name}, or left out"
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


def _lacking_of_own(asked: _Asked) -> Iterator[str]:
    name = asked.raw.get("name")
    if "id" not in asked.raw and isinstance(name, str):
        near = closest_names(name)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        yield (
            f"{asked.call('name')} = {_shown('name', name)}: must be a known chain; {hint}"
            "A chain of your own needs id and [[chain.deployment]]"
        )
    elif not asked.raw.get("deployment"):
        rule = "one or more [[chain.deployment]] with identity and reputation"
        yield f"{asked.call('deployment')}: missing; must be {rule}"


def _repeated(asked: _Asked) -> Iterator[str]:
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
                yield f"{label} = {_shown(key, address)}: must stand once in its chain; it is there already"
            seen.add(address.lower())
    urls = asked.raw.get("rpc")
    if isinstance(urls, list) and any(url in urls[:index] for index, url in enumerate(urls)):
        yield f"{asked.call('rpc')} = {HIDDEN}: must not name one URL twice"


def _refuse_twins(asked: Sequence[_Asked], mistakes: list[str]) -> None:
    names: set[object] = set()
    ids: set[object] = set()
    for one in asked:
        name, chain_id = one.raw.get("name"), one.raw.get("id", one.known.id if one.known else None)
        if isinstance(name, str) and name in names:
            mistakes.append(
                f"{one.call('name')} = {_shown('name', name)}: must be different from the other chains' names"
            )
        elif isinstance(chain_id, int) and chain_id in ids:
            mistakes.append(f"{one.call('id')} = {chain_id}: must be different from the other chains' ids")
        names.add(name if isinstance(name, str) else None)
        ids.add(chain_id if isinstance(chain_id, int) else None)


def _build(parsed: _FileChain, known: KnownChain | None) -> ChainSettings:
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

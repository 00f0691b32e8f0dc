"""The frozen models: what the program works with, and the tables of the file as they are written.

A field's description completes the sentence "must be …" in the message about a wrong value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from indexer.core.chains import UNKNOWN_FINALITY_BLOCKS, UNKNOWN_POLL_INTERVAL_S, UNKNOWN_RANGE_HINT
from indexer.core.types import Deployment, Proof
from indexer.settings.rules import (
    ADDRESS_RULE,
    DEFAULT_FILE,
    URL_RULE,
    Address,
    Block,
    ChainName,
    Number,
    RpcUrl,
    Seconds,
    bind_of,
    home_of,
    host_of,
    lowered,
    url_of,
)

Origin = Literal["environment", "file", "command line", "default"]

PREFIX: Final = "ERC8004_"
CONFIG: Final = "ERC8004_CONFIG"
_UNPREFIXED: Final = {"database_url": ("DATABASE_URL",), "valkey_url": ("VALKEY_URL", "REDIS_URL")}


class Model(BaseModel):
    """Base of all: frozen, refuses unknown keys, tells no value in an error or a `repr`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


M = TypeVar("M", bound=Model)


class ChainSettings(Model):
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


class Values(Model):
    """The settings that are one value each; in the environment `ERC8004_<NAME>`, in the file in lower case."""

    database_url: Annotated[SecretStr, url_of("postgresql", "postgres", needs_host=False)] | None = Field(
        None, description="a URL postgresql://user:password@host:port/database, or unset for the embedded server"
    )
    valkey_url: Annotated[SecretStr, url_of("redis", "rediss", "unix", needs_host=False)] | None = Field(
        None, description="a URL redis://…, rediss://… or unix://…, or unset for the embedded server"
    )
    data_dir: Annotated[Path, AfterValidator(home_of)] = Field(
        Path("~/.local/share/erc8004-indexer"),
        description="a folder; an absolute one where there is no home",
        validate_default=True,
    )
    http_bind: Annotated[tuple[str, int] | None, BeforeValidator(bind_of)] = Field(
        ("127.0.0.1", 8004), description="host:port with a port from 0 (any) to 65535, or empty for no HTTP"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lowered)] = Field(
        "info", description="debug, info, warning or error"
    )
    max_lag_s: Seconds = Field(60.0, description="seconds, above 0 and at most 86400")
    stall_after_s: Seconds = Field(90.0, description="seconds, above 0 and at most 86400")
    changes_retention_h: Annotated[float, Number, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        168.0, description="hours, above 0 and at most 1000000"
    )
    stream_maxlen: Annotated[int, Number, Field(gt=0, le=10**9)] = Field(
        100_000, description="a count of entries, 1 to 1000000000"
    )
    publish_backfill: bool = Field(default=False, description="true or false")
    pool_size: Annotated[int, Number, Field(ge=2, le=200)] = Field(
        10, description="a count of database connections, 2 to 200"
    )


class FileDeployment(Model):
    """A `[[chain.deployment]]` table as it is written."""

    identity: Address = Field(description=ADDRESS_RULE)
    reputation: Address = Field(description=ADDRESS_RULE)
    validation: tuple[Address, ...] = Field((), description=f"a list, each {ADDRESS_RULE}")
    start_block: Block | None = Field(None, description="a block number, 0 or more")


class FileChain(Model):
    """A `[[chain]]` table as it is written, `${NAME}` already filled in."""

    name: ChainName = Field(description="1 to 63 of a-z, 0-9, '-', '_', '.'")
    id: Annotated[int, Number, Field(gt=0, le=2**63 - 1)] | None = Field(None, description="a chain id, 1 or more")
    rpc: tuple[RpcUrl, ...] = Field((), description=f"a list, each {URL_RULE}")
    start_block: Block | None = Field(None, description="a block number, 0 or more")
    finality_blocks: Annotated[int, Number, Field(ge=0, le=10**9)] | None = Field(
        None, description="a count of blocks, 0 or more"
    )
    poll_interval_s: Annotated[float, Number, Field(gt=0, le=3600, allow_inf_nan=False)] | None = Field(
        None, description="seconds, above 0 and at most 3600"
    )
    max_block_range: Annotated[int, Number, Field(gt=0, le=10**9)] | None = Field(
        None, description="a count of blocks, 1 or more"
    )
    max_concurrency: Annotated[int, Number, Field(ge=1, le=64)] = Field(4, description="a count of requests, 1 to 64")
    proof: Proof = Field("logs", description="off, logs or receipts")
    deployment: tuple[FileDeployment, ...] = Field((), description="one or more [[chain.deployment]] tables")


class Described(NamedTuple):
    """One line of `erc8004-indexer config`."""

    key: str
    value: str
    origin: Origin
    default: str
    """Empty for what belongs to one chain: there the known chain, if it is one, brings the defaults."""


class Settings(Values):
    """All settings of one process. `http_bind` is None where HTTP is off; `data_dir` is absolute."""

    chains: tuple[ChainSettings, ...] = ()
    config_file: Path | None = None
    """The TOML file that was read."""
    origins: dict[str, Origin] = Field(default_factory=dict, repr=False)
    """Where each value that is not a default came from, by the keys that `describe` uses."""

    def describe(self) -> list[Described]:
        """List every effective setting for `config`: secrets hidden, of URLs the host alone."""
        lines = [(CONFIG, str(self.config_file or "(none)"), str(DEFAULT_FILE))]
        for name, field in Values.model_fields.items():
            lines.append((env_names(name)[0], _plain(getattr(self, name)), _plain(field.default)))
        for chain in self.chains:
            at = f"chain.{chain.name}"
            lines += [(f"{at}.{name}", _plain(getattr(chain, name)), "") for name in _SHOWN_OF_CHAIN]
            lines += [(f"{at}.deployment", _addresses(deployment), "") for deployment in chain.deployments]
        return [Described(key, value, self.origins.get(key, "default"), default) for key, value, default in lines]


_SHOWN_OF_CHAIN: Final = tuple(name for name in ChainSettings.model_fields if name not in {"name", "deployments"})


def env_names(name: str) -> tuple[str, ...]:
    """Return the variables that set the field `name`; the first one wins, and names it in messages."""
    return _UNPREFIXED.get(name, (PREFIX + name.upper(),))


def _plain(value: object) -> str:
    match value:
        case None:
            text = "(unset)"
        case bool():
            text = str(value).lower()
        case float():
            text = f"{value:g}"
        case SecretStr():
            url = value.get_secret_value()
            text = f"{urlsplit(url).scheme}://{host_of(url)}"
        case (str(), int()):
            text = f"{value[0]}:{value[1]}"
        case tuple():
            text = ", ".join(host_of(url.get_secret_value()) for url in value)
        case _:
            text = str(value)
    return text


def _addresses(deployment: Deployment) -> str:
    return " ".join(f"0x{address.hex()}" for address in deployment.addresses) + f" from {deployment.start_block}"

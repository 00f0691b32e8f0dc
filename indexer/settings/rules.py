"""What a single value may be: types that check themselves, and the words for what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

DEFAULT_FILE: Final = Path("erc8004.toml")
HIDDEN: Final = "***"

_RPC_SCHEMES: Final = ("http", "https", "ws", "wss")


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


def url_of(*schemes: str, needs_host: bool) -> AfterValidator:
    """Make the check of a secret URL: one of `schemes`, a host or a path, a possible port, no blanks."""

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


def bind_of(value: object) -> object:
    """Read `host:port`, `[v6]:port`, or empty for none."""
    if isinstance(value, tuple) or value is None:
        return value
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - as above
    if not value.strip():
        return None
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:(\d{1,5})|([\w.-]+):(\d{1,5})", value.strip())
    if not match or int(port := match[2] or match[4]) > 65535:
        raise ValueError
    return (match[1] or match[3], int(port))


def lowered(value: object) -> object:
    """Take a word in any case."""
    return value.lower() if isinstance(value, str) else value


def home_of(value: Path) -> Path:
    """Resolve `~` and make the path absolute; ValueError where there is no home directory."""
    try:
        return value.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError from error


Number = BeforeValidator(_no_bool)
Seconds = Annotated[float, Number, Field(gt=0, le=86_400, allow_inf_nan=False)]
Block = Annotated[int, Number, Field(ge=0, le=2**63 - 1)]
RpcUrl = Annotated[SecretStr, url_of(*_RPC_SCHEMES, needs_host=True)]
Address = Annotated[bytes, BeforeValidator(_address)]
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
ChainName = Annotated[str, Field(pattern=NAME_PATTERN)]
URL_RULE: Final = "a URL that begins with http://, https://, ws:// or wss:// and names a host"
ADDRESS_RULE: Final = "an address: 0x and 40 hex digits, not all zero"
IN_LIST: Final = {"rpc": URL_RULE, "validation": ADDRESS_RULE}

"""Environment, file and command line into one `Settings`, or into the list of all that is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from indexer.errors import SettingsError
from indexer.settings.chain_tables import chains_of_command_line, configured_chains, judge_chain, refuse_twins
from indexer.settings.judging import did_you_mean, judge
from indexer.settings.models import CONFIG, PREFIX, Origin, Settings, Values, env_names
from indexer.settings.rules import DEFAULT_FILE, HIDDEN


def load_settings(
    environ: Mapping[str, str], *, chains: Sequence[str] = (), rpc: str | None = None, need_chains: bool = True
) -> Settings:
    """Read and judge all settings, offline.

    `chains` (from --chain) picks configured chains, or known ones together with `rpc` (from --rpc); none picks all.
    Raises SettingsError with a line per mistake.
    """
    mistakes: list[str] = []
    path, table = _read_file(environ, mistakes)
    unread = bool(mistakes)
    given, labels, origins = _gather(environ, table, path, mistakes)
    values = judge(Values, given, lambda key: labels.get(key, key), mistakes)

    wanted = tuple(dict.fromkeys(chains))
    asked = configured_chains(table.get("chain", []), path, wanted, rpc, mistakes)
    asked += chains_of_command_line([one.raw.get("name") for one in asked], wanted, rpc, mistakes)
    if need_chains and not unread and not wanted and not table.get("chain"):
        mistakes.append(_NO_CHAIN)
    judged = [judge_chain(one, environ, mistakes) for one in asked]
    refuse_twins(asked, mistakes)
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
    named = environ.get(CONFIG)
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.exists():
        return None, {}
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        mistakes.append(f"{CONFIG} = {str(path)!r}: must be a TOML file that can be read: {error.strerror}")
    except ValueError as error:  # not UTF-8, or not TOML
        mistakes.append(f"{path}: must be a TOML file: {error}")
    return path, {}


def _gather(
    environ: Mapping[str, str], table: Mapping[str, object], path: Path | None, mistakes: list[str]
) -> tuple[dict[str, object], dict[str, str], dict[str, Origin]]:
    """Merge file and environment; return the values, how to call each in a mistake, and where each came from."""
    given = {key: value for key, value in table.items() if key != "chain"}
    labels = {key: f"{path}: {key}" for key in given}
    origins: dict[str, Origin] = {env_names(key)[0]: "file" for key in given}
    known_names = [CONFIG]
    for key in Values.model_fields:
        names = env_names(key)
        known_names += names
        for name in reversed(names):  # the first name wins
            if environ.get(name) or (key == "http_bind" and name in environ):  # empty is unset, but there it means off
                given[key], labels[key], origins[names[0]] = environ[name], name, "environment"
    unknown = [name for name in environ if name.startswith(PREFIX) and name not in known_names]
    mistakes += [f"{name} = {HIDDEN}: unknown setting{did_you_mean(name, known_names)}" for name in unknown]
    if environ.get(CONFIG):
        origins[CONFIG] = "environment"
    return given, labels, origins

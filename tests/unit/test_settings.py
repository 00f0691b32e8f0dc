from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.core.chains import KNOWN_CHAINS, MAINNET, TESTNET, UNKNOWN_FINALITY_BLOCKS, closest_names
from indexer.core.types import Deployment
from indexer.errors import SettingsError
from indexer.settings import Settings, host_of, load_settings

SECRET = "s3cret"
A, B, C, D = (f"0x{digit * 40}" for digit in "abcd")
OWN_CHAIN = f"""
[[chain]]
name = "local"
id = 31337
rpc = ["http://127.0.0.1:8545"]
start_block = 7
[[chain.deployment]]
identity = "{A}"
reputation = "{B}"
validation = ["{C}"]
"""
BASE = '[[chain]]\nname = "base"\nrpc = ["https://base.example/s3cret"]\n'

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def into(text: str) -> Path:
        path = tmp_path / "erc8004.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return into


def mistakes(environ: dict[str, str] | None = None, **arguments: Any) -> list[str]:
    """Load what must be refused, and return the lines; none may hold the secret."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ or {}, **arguments)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value).splitlines()


def only_mistake(environ: dict[str, str] | None = None, **arguments: Any) -> str:
    lines = mistakes(environ, **arguments)
    assert len(lines) == 1, lines
    return lines[0]


def load(environ: dict[str, str] | None = None) -> Settings:
    return load_settings(environ or {}, need_chains=False)


def test_known_chain_from_the_command_line_alone_just_works() -> None:
    settings = load_settings({}, chains=["base"], rpc="https://base.example/s3cret")

    (chain,) = settings.chains
    assert (chain.name, chain.id, chain.start_block) == ("base", 8453, 41663783)
    assert chain.deployments == (Deployment(MAINNET.identity, MAINNET.reputation, MAINNET.validation, 41663783),)
    assert [url.get_secret_value() for url in chain.rpc] == ["https://base.example/s3cret"]
    assert chain.finality_blocks is None
    assert chain.default_finality_blocks == KNOWN_CHAINS["base"].finality_blocks
    assert chain.poll_interval_s == 1.0
    assert (settings.database_url, settings.valkey_url) == (None, None)
    assert settings.http_bind == ("127.0.0.1", 8004)
    assert settings.data_dir == Path("~/.local/share/erc8004-indexer").expanduser()


def test_no_chain_names_the_shortest_way() -> None:
    assert "erc8004-indexer run --chain base --rpc https://" in only_mistake()


def test_no_chain_is_fine_for_verbs_that_need_none() -> None:
    assert load().chains == ()


def test_own_chain_is_read_whole(write: Write) -> None:
    write(OWN_CHAIN.replace("start_block = 7", 'start_block = 7\nfinality_blocks = 3\nproof = "receipts"'))

    (chain,) = load().chains

    assert chain.deployments == (
        Deployment(bytes.fromhex(A[2:]), bytes.fromhex(B[2:]), (bytes.fromhex(C[2:]),), start_block=7),
    )
    assert (chain.finality_blocks, chain.default_finality_blocks) == (3, UNKNOWN_FINALITY_BLOCKS)
    assert chain.proof == "receipts"


def test_own_chain_begins_at_its_first_block_unless_told_otherwise(write: Write) -> None:
    write(OWN_CHAIN.replace("start_block = 7", ""))

    assert load().chains[0].start_block == 0


def test_start_block_of_a_chain_is_the_least_of_its_deployments(write: Write) -> None:
    write(OWN_CHAIN + f'start_block = 5\n[[chain.deployment]]\nidentity = "{D}"\nreputation = "0x{"e" * 40}"\n')

    (chain,) = load().chains

    assert [one.start_block for one in chain.deployments] == [5, 7]
    assert chain.start_block == 5


def test_own_deployments_replace_those_of_a_known_chain(write: Write) -> None:
    own = f'[[chain.deployment]]\nidentity = "{A}"\nreputation = "{B}"\nstart_block = 9\n'
    write(BASE + own)

    (chain,) = load().chains

    assert chain.deployments == (Deployment(bytes.fromhex(A[2:]), bytes.fromhex(B[2:]), (), 9),)


def test_own_deployment_on_a_known_chain_needs_its_first_block(write: Write) -> None:
    write(BASE + f'[[chain.deployment]]\nidentity = "{A}"\nreputation = "{B}"\n')

    assert "chain.base.deployment[0].start_block: missing" in only_mistake()


def test_known_chain_is_found_by_id_under_another_name(write: Write) -> None:
    write('[[chain]]\nname = "mine"\nid = 11155111\nrpc = ["http://a"]\n')

    (chain,) = load().chains

    assert (chain.name, chain.deployments[0].identity) == ("mine", TESTNET.identity)


def test_chain_start_block_replaces_the_known_one(write: Write) -> None:
    write('[[chain]]\nname = "bsc-testnet"\nrpc = ["http://a"]\nstart_block = 12\n')

    assert load().chains[0].start_block == 12


def test_variables_are_filled_into_rpc_urls(write: Write) -> None:
    write('[[chain]]\nname = "base"\nrpc = ["${FIRST}", "https://b.example/${KEY}/x"]\n')

    settings = load({"FIRST": "wss://a.example", "KEY": "k"})

    assert [url.get_secret_value() for url in settings.chains[0].rpc] == ["wss://a.example", "https://b.example/k/x"]


def test_environment_wins_over_file_over_default(write: Write) -> None:
    write('max_lag_s = 5\nstall_after_s = 6\ndatabase_url = "postgresql://file/x"\nhttp_bind = "[::1]:1"\n')

    settings = load({"ERC8004_MAX_LAG_S": "7", "DATABASE_URL": "postgres://environment/x"})

    assert (settings.max_lag_s, settings.stall_after_s, settings.changes_retention_h) == (7.0, 6.0, 168.0)
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgres://environment/x"
    assert settings.http_bind == ("::1", 1)


def test_valkey_url_wins_over_redis_url() -> None:
    redis, both = {"REDIS_URL": "redis://r"}, {"REDIS_URL": "redis://r", "VALKEY_URL": "unix:///v.sock"}

    found = [settings.valkey_url.get_secret_value() for settings in map(load, (redis, both)) if settings.valkey_url]

    assert found == ["redis://r", "unix:///v.sock"]


def test_empty_variable_is_unset_but_for_http_where_it_is_off(write: Write) -> None:
    write("max_lag_s = 5\n")

    settings = load({"ERC8004_MAX_LAG_S": "", "DATABASE_URL": "", "ERC8004_CONFIG": "", "ERC8004_HTTP_BIND": ""})

    assert (settings.max_lag_s, settings.database_url, settings.http_bind) == (5.0, None, None)


def test_named_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("pool_size = 3\n")

    assert load({"ERC8004_CONFIG": "other.toml"}).pool_size == 3


def test_chain_picks_among_the_configured(write: Write) -> None:
    write(OWN_CHAIN + BASE)

    assert [chain.name for chain in load_settings({}).chains] == ["local", "base"]
    assert [chain.name for chain in load_settings({}, chains=["local"]).chains] == ["local"]


def test_rpc_replaces_that_of_the_configured_chain(write: Write) -> None:
    write('[[chain]]\nname = "base"\nrpc = ["${UNSET}"]\npoll_interval_s = 9\n')

    (chain,) = load_settings({}, chains=["base"], rpc="http://other.example").chains

    assert (chain.rpc[0].get_secret_value(), chain.poll_interval_s) == ("http://other.example", 9)


def test_known_chain_may_join_configured_ones_from_the_command_line(write: Write) -> None:
    write(OWN_CHAIN)

    assert [one.name for one in load_settings({}, chains=["base"], rpc="http://a").chains] == ["base"]


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("ERC8004_MAX_LAG_S", "soon", "seconds, above 0"),
        ("ERC8004_MAX_LAG_S", "0", "seconds, above 0"),
        ("ERC8004_MAX_LAG_S", "nan", "seconds, above 0"),
        ("ERC8004_STALL_AFTER_S", "-1", "seconds, above 0"),
        ("ERC8004_CHANGES_RETENTION_H", "x", "hours, above 0"),
        ("ERC8004_STREAM_MAXLEN", "0", "a count of entries"),
        ("ERC8004_PUBLISH_BACKFILL", "perhaps", "true or false"),
        ("ERC8004_POOL_SIZE", "1", "2 to 200"),
        ("ERC8004_LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("ERC8004_HTTP_BIND", "8004", "host:port"),
        ("ERC8004_HTTP_BIND", "0.0.0.0:70000", "host:port"),
        ("ERC8004_HTTP_BIND", "a b:1", "host:port"),
        ("ERC8004_CONFIG", "absent.toml", "a TOML file that can be read"),
    ],
)
def test_bad_value_is_told_with_key_value_and_what_is_allowed(variable: str, value: str, allowed: str) -> None:
    line = only_mistake({variable: value}, need_chains=False)

    assert line.startswith(f"{variable} = {value!r}: must be")
    assert allowed in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@h/db"),
        ("DATABASE_URL", "s3cret"),
        ("DATABASE_URL", "postgresql://u:s3cret@h:port/db"),
        ("DATABASE_URL", "postgresql://u:s3cret@h/my db"),
        ("DATABASE_URL", "postgresql://"),
        ("VALKEY_URL", "http://:s3cret@h"),
        ("REDIS_URL", "redis://:s3cret@h:99999999"),
        ("VALKEY_URL", "unix://"),
    ],
)
def test_bad_server_url_is_told_without_its_secret(variable: str, value: str) -> None:
    line = only_mistake({variable: value}, need_chains=False)

    assert line.startswith(f"{variable} = ***: must be a URL ")
    assert ("postgresql://" if variable == "DATABASE_URL" else "rediss://") in line


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:p@h1:5432,h2:5433/db", "postgresql:///db?host=/run/postgresql", "postgres://h"],
    ids=["several hosts", "socket folder", "host alone"],
)
def test_database_url_takes_every_form_of_libpq_urls(url: str) -> None:
    assert load({"DATABASE_URL": url}).database_url is not None


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("max_lags = 's3cret'", "erc8004.toml: max_lags = ***", "did you mean max_lag_s?"),
        ("max_lag_s = true", "erc8004.toml: max_lag_s = true", "seconds"),
        ("http_bind = ['h', 1]", "erc8004.toml: http_bind = ['h', 1]", "host:port"),
        ("pool_size = [", "erc8004.toml", "must be a TOML file"),
        ("[chain]\nname = 'base'", "erc8004.toml: chain", "[[chain]]"),
        (BASE + "max_lag_s = 5", "chain.base.max_lag_s = ***", "above the first [[chain]]"),
        (BASE + "prof = 'off'", "chain.base.prof = ***", "did you mean proof?"),
        (BASE + "proof = 'maybe'", "chain.base.proof = 'maybe'", "off, logs or receipts"),
        (BASE + "start_block = -1", "chain.base.start_block = -1", "0 or more"),
        (BASE + "finality_blocks = 1.5", "chain.base.finality_blocks = 1.5", "0 or more"),
        (BASE + "poll_interval_s = 0", "chain.base.poll_interval_s = 0", "above 0"),
        (BASE + "max_block_range = 0", "chain.base.max_block_range = 0", "1 or more"),
        (BASE + "max_concurrency = 99", "chain.base.max_concurrency = 99", "1 to 64"),
        (BASE + "id = 5", "chain.base.id = 5", "must be 8453"),
        (BASE + BASE, "chain.base.name = 'base'", "different from the other chains' names"),
        (BASE + BASE.replace('"base"', '"b"\nid = 8453'), "chain.b.id = 8453", "different from the other chains' ids"),
        ("[[chain]]\nname = 'base'", "chain.base.rpc: missing", "a list, each a URL"),
        ("[[chain]]\nname = 'base'\nrpc = []", "chain.base.rpc: missing", "a list, each a URL"),
        ("[[chain]]\nname = 'base'\nrpc = 'http://s3cret'", "chain.base.rpc = ***", "a list, each a URL"),
        ("[[chain]]\nname = 'base'\nrpc = ['ftp://s3cret']", "chain.base.rpc[0] = ***", "https://"),
        ("[[chain]]\nname = 'base'\nrpc = ['https:///s3cret']", "chain.base.rpc[0] = ***", "names a host"),
        ("[[chain]]\nname = 'base'\nrpc = ['http://a', 'http://a']", "chain.base.rpc = ***", "one URL twice"),
        ("[[chain]]\nname = 'base'\nrpc = ['${KEY}']", "chain.base.rpc[0] = ***", "${KEY} must be set"),
        ("[[chain]]\nname = 'base'\nrpc = ['http://${KEY/s3cret']", "chain.base.rpc[0] = ***", "as ${NAME}"),
        ("[[chain]]\nname = 'bsae'\nrpc = ['http://a']", "chain.bsae.name = 'bsae'", "did you mean base"),
        ("[[chain]]\nname = 'B!'\nid = 8453\nrpc = ['http://a']", "chain[0].name = 'B!'", "a-z"),
        ("[[chain]]\nname = 'own'\nid = 5\nrpc = ['http://a']", "chain.own.deployment: missing", "identity"),
        ("[[chain]]\nid = 8453\nrpc = ['http://a']", "chain[0].name: missing", "a-z"),
        ("[[chain]]\nname = 'metis'\nrpc = ['http://a']", "chain.metis.start_block: missing", "not known"),
        (OWN_CHAIN.replace(A, "0x12"), "deployment[0].identity = '0x12'", "40 hex digits"),
        (OWN_CHAIN.replace(A, f"0x{'0' * 40}"), "deployment[0].identity = '0x000", "not all zero"),
        (OWN_CHAIN.replace(f'["{C}"]', "[5]"), "deployment[0].validation[0] = 5", "40 hex digits"),
        (OWN_CHAIN.replace(C, A.upper().replace("X", "x")), "deployment[0].validation = '0xAAA", "once in its chain"),
        (
            OWN_CHAIN + f'[[chain.deployment]]\nidentity = "{D}"\nreputation = "{B}"',
            "deployment[1].reputation = '0xbbb",
            "once in its chain",
        ),
        (OWN_CHAIN.replace(f'identity = "{A}"', ""), "deployment[0].identity: missing", "40 hex digits"),
        (OWN_CHAIN.replace("identity =", "identiy ="), "deployment[0].identiy = ***", "did you mean identity?"),
    ],
)
def test_bad_file_is_told_with_key_value_and_what_is_allowed(text: str, key: str, told: str, write: Write) -> None:
    write(text)

    lines = mistakes(need_chains=False)

    assert any(key in line and told in line for line in lines), lines


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"chains": ["bases"], "rpc": "http://s3cret"},
            "--chain = 'bases': must be a known or a configured chain; did",
        ),
        ({"chains": ["eth"], "rpc": "http://s3cret"}, "did you mean ethereum"),
        ({"chains": ["base"]}, "--chain = 'base': has no RPC; add --rpc URL"),
        ({"rpc": "http://s3cret"}, "--rpc = ***: must go with exactly one --chain; 0 given"),
        ({"chains": ["base"], "rpc": "s3cret"}, "--rpc = ***: must be a"),
        ({"chains": ["metis"], "rpc": "http://s3cret"}, "--chain metis: its first block is not known"),
    ],
    ids=["unknown", "other name", "no rpc", "rpc alone", "bad rpc", "unknown start"],
)
def test_bad_command_line_is_told(arguments: dict[str, Any], told: str) -> None:
    assert any(told in line for line in mistakes(**arguments))


def test_unknown_variable_is_told_with_the_nearest_name() -> None:
    lines = mistakes({"ERC8004_MAXLAG": SECRET, "ERC8004_DATABASE_URL": SECRET}, need_chains=False)

    assert [line.partition("did you mean ")[2] for line in lines] == ["ERC8004_MAX_LAG_S?", "DATABASE_URL?"]


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    write('[[chain]]\nname = "bsae"\nrpc = ["${NOPE}"]\n[[chain]]\nname = "base"\nrpc = ["ftp://x"]\nproof = "x"\n')

    lines = mistakes({"ERC8004_POOL_SIZE": "x", "ERC8004_POOL": "1", "DATABASE_URL": "x"}, rpc="http://s3cret")

    keys = ("ERC8004_POOL_SIZE", "ERC8004_POOL ", "DATABASE_URL", "chain.bsae.name", "${NOPE}", "chain.base.rpc[0]")
    assert all(any(key in line for line in lines) for key in (*keys, "chain.base.proof", "--rpc"))
    assert len(lines) == 8


def test_no_chain_is_told_beside_other_mistakes() -> None:
    lines = mistakes({"ERC8004_POOL_SIZE": "x"})

    assert len(lines) == 2


def test_describe_names_origins_and_hides_secrets(write: Write) -> None:
    write(BASE + "max_concurrency = 2\n")
    environ = {"DATABASE_URL": "postgresql://user:s3cret@db.example/x", "ERC8004_MAX_LAG_S": "5"}

    lines = {line.key: line for line in load(environ).describe()}

    assert SECRET not in str(lines)
    assert lines["DATABASE_URL"][1:] == ("postgresql://db.example", "environment", "(unset)")
    assert lines["ERC8004_MAX_LAG_S"][1:] == ("5", "environment", "60")
    assert lines["ERC8004_HTTP_BIND"][1:] == ("127.0.0.1:8004", "default", "127.0.0.1:8004")
    assert lines["ERC8004_CONFIG"].value == "erc8004.toml"
    assert lines["chain.base.rpc"][1:3] == ("base.example", "file")
    assert lines["chain.base.max_concurrency"][1:3] == ("2", "file")
    assert lines["chain.base.proof"][1:3] == ("logs", "default")


def test_settings_print_no_secret() -> None:
    environ = {"DATABASE_URL": "postgresql://user:s3cret@h/x", "VALKEY_URL": "redis://:s3cret@h"}

    settings = load_settings(environ, chains=["base"], rpc="https://h/s3cret")

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://base.example:443/v2/key?x=y", "base.example"),
        ("wss://user:key@h.example", "h.example"),
        ("redis://pass/word@h", "***"),
        ("https://[broken", "***"),
        ("unix:///run/v.sock", "***"),
        ("key", "***"),
    ],
)
def test_host_of_shows_the_host_or_nothing(url: str, host: str) -> None:
    assert host_of(url) == host


def test_known_chains_have_distinct_ids_and_sane_paces() -> None:
    chains = KNOWN_CHAINS.values()

    assert len({chain.id for chain in chains}) == len(chains)
    assert all(0.5 <= chain.poll_interval_s <= 4 and chain.finality_blocks >= 16 for chain in chains)
    assert KNOWN_CHAINS["ethereum"].finality_blocks == 100


def test_closest_names_takes_what_people_also_write() -> None:
    assert closest_names("Amoy")[0] == "polygon-amoy"
    assert closest_names("zzzzzz") == []

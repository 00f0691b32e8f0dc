"""What leaves this folder: the wheel, the image, the compose file, the example of a configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from indexer.cli import cli
from indexer.core.chains import KNOWN_CHAINS
from indexer.settings import load_settings
from indexer.settings.models import FileChain

ROOT = Path(__file__).resolve().parents[2]


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _files(*folders: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel without the network and return its path."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return folder / done.stdout.strip()


def test_wheel_holds_every_file_of_the_package_and_its_data(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())

    assert _files("indexer") <= held
    assert {f"indexer/_data/{path}" for path in _files("abi", "sql")} <= held
    assert not {name for name in held if name.startswith(("tests/", "abi/", "sql/"))}


def test_installed_wheel_finds_its_data_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    code = (
        "import json; from importlib.metadata import version; from indexer.resources import data_dir;"
        "print(json.dumps([version('erc8004-indexer'), str(data_dir('abi')), str(data_dir('sql'))]))"
    )

    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)

    installed, abi, sql = json.loads(done.stdout)
    assert installed == _project()["version"]
    assert Path(abi).is_relative_to(tmp_path)
    assert Path(sql).is_relative_to(tmp_path)
    assert (tmp_path / "venv/bin/erc8004-indexer").stat().st_mode & 0o111


def test_version_is_the_one_of_the_project_and_has_a_changelog_entry() -> None:
    assert version("erc8004-indexer") == _project()["version"]
    assert f"## [{_project()['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_direct_dependency_and_nothing_loosely() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {_canonical(line.partition("==")[0]) for line in lines}
    wanted = [*_project()["dependencies"], *_project()["optional-dependencies"]["dev"]]

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line) for line in lines)
    assert {_canonical(re.split(r"[\[<>=~!; ]", one)[0]) for one in wanted} <= pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_dockerfile_copies_what_exists_and_what_dockerignore_lets_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]

    assert len(sources) >= 7
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_image_has_every_folder_that_the_wheel_is_built_from() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = (ROOT / "Dockerfile").read_text()

    for folder in (*config["packages"], *config["force-include"]):
        assert f"COPY {folder} {folder}\n" in copied


def test_compose_waits_for_services_that_it_has() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = re.findall(r"^  (\w+):$", text.partition("services:")[2].partition("\nconfigs:")[0], flags=re.MULTILINE)
    awaited = re.findall(r"^      (\w+):\n        condition: service_healthy$", text, flags=re.MULTILINE)

    assert services == ["indexer", "postgres", "valkey", "anvil"]
    assert sorted(awaited) == ["postgres", "valkey"]
    assert "\t" not in text


def test_compose_settings_are_accepted_with_the_example_configuration() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    filled = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    given = dict(re.findall(r"^      (DATABASE_URL|VALKEY_URL): (\S+)$", filled, flags=re.MULTILINE))
    assert len(given) == 2

    settings = load_settings(
        {**given, "ERC8004_CONFIG": str(ROOT / "erc8004.example.toml"), "RPC_URL": "https://rpc.example/key"}
    )

    assert settings.database_url is not None
    assert [(chain.name, chain.id) for chain in settings.chains] == [("base", 8453)]


def test_example_configuration_with_every_line_uncommented_is_accepted(tmp_path: Path) -> None:
    text = (ROOT / "erc8004.example.toml").read_text()
    whole = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    path = tmp_path / "whole.toml"
    path.write_text(whole)
    urls = {"RPC_URL": "https://rpc.example/key", "BACKUP_RPC_URL": "https://backup.example/key"}

    settings = load_settings({"ERC8004_CONFIG": str(path), **urls})

    assert [chain.name for chain in settings.chains] == ["base", "local"]
    assert settings.chains[0].proof == "receipts"
    assert len(settings.chains[1].deployments[0].validation) == 1


def test_readme_names_every_view_and_function_of_the_schema() -> None:
    readme = (ROOT / "README.md").read_text()
    sql = "\n".join(path.read_text() for path in (ROOT / "sql/views").glob("*.sql"))
    public = re.findall(r"^CREATE (?:OR REPLACE )?(?:VIEW|FUNCTION) erc8004\.(\w+)", sql, flags=re.MULTILINE)

    assert len(public) > 15
    assert [name for name in public if f"`{name}`" not in readme and f"`{name}(" not in readme] == []


def test_readme_names_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(ERC8004_\w+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    lines = {line.key: line for line in load_settings({}, need_chains=False).describe()}
    listed = {key: default.split("`")[1] for key, default in rows.items()}

    assert listed == {key: line.default for key, line in lines.items() if key.startswith("ERC8004_")}


def test_readme_names_every_key_of_a_chain() -> None:
    table = (ROOT / "README.md").read_text().partition("| key of a `[[chain]]` |")[2].partition("\n\n")[0]
    keys = re.findall(r"^\| `(?:\[\[chain\.)?(\w+)(?:\]\])?` \|", table, flags=re.MULTILINE)

    assert sorted(keys) == sorted(FileChain.model_fields)


def test_readme_lists_the_known_chains_that_need_only_an_rpc() -> None:
    listed = re.search(
        r"^Known chains with their first blocks: ([^.]+)\.", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert listed is not None

    complete = {name for name, chain in KNOWN_CHAINS.items() if chain.start_block is not None}

    assert set(listed[1].split(", ")) == complete


def test_readme_configuration_is_accepted(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.+?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert example is not None
    path = tmp_path / "erc8004.toml"
    path.write_text(example[1])

    settings = load_settings({"ERC8004_CONFIG": str(path), "BACKUP_RPC_URL": "https://backup.example/key"})

    assert [chain.name for chain in settings.chains] == ["base", "local"]


def test_readme_names_every_command() -> None:
    table = (ROOT / "README.md").read_text().partition("## Operate it")[2].partition("\n\n- ")[0]
    named = {word for row in re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE) for word in row.split()}

    assert {command.callback.__name__ for command in cli.registered_commands if command.callback} <= named

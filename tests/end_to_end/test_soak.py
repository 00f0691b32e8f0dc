"""Fixed seeds of the soak: each a world of lying providers and dying processes, whose tables equal the truth."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator.plan import draw
from soak.house import Servers
from soak.season import Season, differences

SEEDS = (2, 5, 7, 23, 25, 26, 27, 29, 30, 92288, 163165, 414389)  # `make soak` runs fresh ones


@pytest.fixture
def folder(servers: Path) -> Iterator[Path]:
    """Yield a folder that other users can enter, as PostgreSQL may be nobody."""
    folder = servers / f"season-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_the_tables_equal_the_truth(
    folder: Path, postgres_url: str, template_database: str, seed: int
) -> None:
    figures = await Season(draw(seed), Servers(postgres_url, template_database), folder, troubles=3).run()

    assert figures["looks"] > 5, json.dumps(figures)


def test_differences_name_the_table_and_what_is_unlike() -> None:
    row = {"block_number": 1, "log_index": 2, "data": "a"}
    other = {"block_number": 3, "log_index": 0, "data": "b"}
    expected = {"logs": [json.dumps(row)], "agents": ["{}"]}
    found = {"logs": [json.dumps({**row, "data": "c"}), json.dumps(other)], "agents": ["{}"]}

    told = differences(found, expected)

    assert "logs: 1 rows are missing, 2 are too many" in told
    assert "{'data': ('a', 'c')}" in told
    assert json.dumps(other) in told
    assert "agents" not in told

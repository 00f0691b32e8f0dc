"""What the tests of the faults share with those of the process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))  # where `processes` is, also when only this folder runs

from processes import Programs


@pytest.fixture
async def programs(tmp_path: Path, database_url: str, valkey_url: str) -> AsyncIterator[Programs]:
    """Yield a starter of processes over a migrated database and a Valkey of the test's own."""
    async with Programs(tmp_path, DATABASE_URL=database_url, VALKEY_URL=valkey_url) as programs:
        yield programs

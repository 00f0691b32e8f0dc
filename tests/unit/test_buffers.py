"""How much memory the embedded PostgreSQL takes for its buffers, and how much disk for its log."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.embedded import postgres

GB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "limit", "expected_mb"),
    [
        pytest.param(8 * GB, None, 1024, id="an eighth"),
        pytest.param(8 * GB, "max\n", 1024, id="a container without a limit"),
        pytest.param(64 * GB, f"{4 * GB}\n", 512, id="a container's limit"),
        pytest.param(64 * GB, None, 4096, id="never more"),
        pytest.param(GB // 2, None, 128, id="never less"),
    ],
)
def test_the_buffers_go_by_the_memory_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, limit: str | None, expected_mb: int
) -> None:
    known = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory // 4096}
    monkeypatch.setattr(postgres.os, "sysconf", known.__getitem__)
    monkeypatch.setattr(postgres, "_CONTAINER_LIMIT", tmp_path / "memory.max")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)

    assert postgres._shared_buffers_mb() == expected_mb


@pytest.mark.parametrize(
    ("free", "expected_mb"),
    [
        pytest.param(40 * GB, 10_240, id="a quarter"),
        pytest.param(GB, 1_024, id="never less"),
        pytest.param(1_000 * GB, 16_384, id="never more"),
    ],
)
def test_the_log_goes_by_the_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected_mb: int
) -> None:
    monkeypatch.setattr(postgres.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    assert postgres._max_wal_mb(tmp_path) == expected_mb

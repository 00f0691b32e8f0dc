"""How much memory the embedded PostgreSQL takes for its buffers."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.embedded import postgres

GB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "limit", "expected_mb"),
    [
        pytest.param(8 * GB, None, 512, id="a sixteenth"),
        pytest.param(8 * GB, "max\n", 512, id="a container without a limit"),
        pytest.param(64 * GB, f"{4 * GB}\n", 256, id="a container's limit"),
        pytest.param(64 * GB, None, 1024, id="never more"),
        pytest.param(GB, None, 128, id="never less"),
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

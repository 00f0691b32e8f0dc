from __future__ import annotations

import pytest

from indexer.publisher.publisher import rest_s


@pytest.mark.parametrize(
    ("spent_s", "lag_blocks", "expected_s"),
    [
        pytest.param(0.02, 0, 0.0, id="live"),
        pytest.param(3.0, 0, 0.0, id="a long pass at the head"),
        pytest.param(0.25, 100_000, 4.75, id="a short pass of a backfill"),
        pytest.param(1.0, 100_000, 19.0, id="a long pass of a backfill"),
        pytest.param(60.0, 100_000, 30.0, id="never too long"),
    ],
)
def test_it_rests_far_from_the_head_alone(spent_s: float, lag_blocks: int, expected_s: float) -> None:
    assert rest_s(spent_s, lag_blocks) == expected_s

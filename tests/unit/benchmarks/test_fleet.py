"""The figures of a fleet: idle time counts from an engine's first shard, and tokens against what engines can make."""

from __future__ import annotations

import pytest

from benchmarks.fleet_figures import Phase, Span, full_share, idle_share

A = [Span("a", 0, 10, 100), Span("a", 5, 20, 100), Span("a", 25, 40, 100)]
B = [Span("b", 30, 50, 100)]


def test_idle_time_is_without_a_shard_until_the_last_one_is_begun() -> None:
    """Shards in one engine at once overlap; engine b is not idle before its process is up."""
    assert idle_share(A[:2]) == 0
    assert idle_share([*A, *B]) == pytest.approx(5 / 30)
    assert idle_share([*A, Span("b", 50, 60, 100)]) == pytest.approx((5 + 10) / 50)
    assert idle_share([*A, Span("b", 50, 60, 100)], tail=True) == pytest.approx((5 + 20) / 70)


def test_an_engine_that_leaves_is_not_idle_after_its_last_shard() -> None:
    assert idle_share([*A, Span("b", 50, 60, 100)], own_end=True) == pytest.approx(5 / 40)


def test_full_engines_make_their_tokens() -> None:
    assert full_share([*A, *B], tokens_per_s=10) == pytest.approx(400 / (60 * 10))


def test_a_phase_has_whole_blocks_of_problems() -> None:
    assert [Phase("", 8, count, 1.0).problems for count in (0, 2_000, 300_000)] == [20, 20, 3_000]

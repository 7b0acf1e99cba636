"""The figures of a fleet: idle time counts from an engine's first shard, and tokens against what engines can make."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.fleet_figures import PROBLEMS_PER_BLOCK, SAMPLES, Phase, Span, full_share, idle_share

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


class LeavesLate(fleet.Leaving):
    """A node is just starting when the stage ends."""

    def __exit__(self, *_: object) -> None:
        time.sleep(0.6)


def test_the_time_of_the_reads_is_theirs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase("", 1, 0, 1.0)
    shards = phase.problems // PROBLEMS_PER_BLOCK * SAMPLES // fleet.SAMPLES_PER_BLOCK
    monkeypatch.setattr("rft_ray.sampling.stage.sample", lambda *_, **__: None)
    monkeypatch.setattr(fleet, "storage", lambda _: nullcontext((str(tmp_path), None)))
    monkeypatch.setattr(fleet, "cluster", lambda _: nullcontext())
    monkeypatch.setattr(fleet, "spans", lambda *_: [Span("a", time.time(), time.time() + 1, 100)] * shards)
    monkeypatch.setattr(fleet, "Leaving", LeavesLate)
    assert fleet.measured(phase).reads_s < 0.5

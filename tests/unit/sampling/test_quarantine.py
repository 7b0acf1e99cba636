"""Quarantined shards in a run's summary: the ledger still adds up, and the reason is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.evaluation.summary import summarize
from rft_ray.sampling import quarantine
from rft_ray.sampling.quarantine import past_quarantine
from rft_ray.store.shards import committed_key
from tests.report_run import make_run


def test_a_quarantined_shard_is_missing_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = make_run(tmp_path)
    [lost, *_] = plan.collected[0].sampling.shards()
    for stem in (lost.stem, next(iter(plan.collected[1].sampling.shards())).stem):  # the second one is committed
        for _ in range(3):
            quarantine.note(store, stem, quarantine.FAILED, "it hangs")
    key = committed_key(store, lost)
    assert key
    Path(store.url, key).unlink()
    summary = summarize(store, plan)
    mine, other = summary.ledger.values()
    assert mine.planned == mine.sampled + mine.skipped + mine.missing
    assert mine.missing == mine.quarantined > 0 == other.missing == other.quarantined
    [entry] = summary.quarantine
    assert (entry.shard, entry.failures, entry.reason) == (lost.stem, 3, "it hangs")
    assert past_quarantine(plan, store) is plan  # on_failed_shard is "stop"
    main(["verify", store.url])
    assert f"not sampled: {lost.stem}: its engine failed 3 times" in capsys.readouterr().out

"""Quarantined shards in a run's summary: the ledger still adds up, and holds the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.evaluation.summary import summarize
from rft_ray.sampling import quarantine
from rft_ray.sampling.quarantine import past_quarantine
from rft_ray.store import open_store
from rft_ray.store.shards import committed_keys
from tests.report_run import make_run


def test_a_quarantined_shard_is_missing_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = make_run(tmp_path)
    [lost, *_] = plan.collected[0].sampling.shards()
    for stem in (lost.stem, next(iter(plan.collected[1].sampling.shards())).stem):  # the second one is committed
        for _ in range(3):
            quarantine.Record(stem, quarantine.FAILED, "it hangs").write(store)
    key = committed_keys(store, [lost])[lost.stem]
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


def test_records_are_numbered_past_a_thousand_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in (998, 999, 1000):
        store.create(f"failures/completions/a.a{number:03d}.failed.json", b'{"reason": "it hangs"}')
    for name in ("notes.txt", "completions/a.a1.json", "completions/a.ax.failed.json", "completions/a.a2.lost.json"):
        store.create(f"failures/{name}", b"not a record")
    quarantine.Record("completions/a", quarantine.FAILED, "again").write(store)
    assert quarantine.histories(store) == {
        "completions/a": quarantine.History(4, 1002, "failures/completions/a.a1001.failed.json")
    }


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"why": 1}'])
def test_a_damaged_record_counts_and_its_reason_names_the_file(tmp_path: Path, data: bytes) -> None:
    plan, store = make_run(tmp_path)
    [lost, *_] = plan.collected[0].sampling.shards()
    Path(store.url, committed_keys(store, [lost])[lost.stem]).unlink()
    for number in range(3):
        store.create(f"failures/{lost.stem}.a{number:03d}.failed.json", data)
    [held] = quarantine.held_shards(store, plan)
    assert held.reason == f"unknown: failures/{lost.stem}.a002.failed.json is damaged"

"""The report's numbers of distinct paths: those of the selection, and a check between halves of equal size."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.evaluation.summary import write_summary
from rft_ray.report.diversity import Diversity, Doubling, grid
from rft_ray.report.facts import Check, gather
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, open_store
from tests.report_run import TRAIN, K, make_run
from tests.unit.corpus.test_verifiers_through_the_stages import WORDS, carried_out, jsonl, plan_with


def check_of(store: Store) -> Check:
    paths = gather(store).paths
    assert paths
    assert paths.check
    return paths.check


def test_the_check_of_an_odd_k_compares_as_many_more_samples(tmp_path: Path) -> None:
    _, store = make_run(tmp_path)
    summary = store.read("summary.json").decode()
    checks = {}
    for k in (4, 5):
        planned = summary.replace(f'"planned": {TRAIN * K}', f'"planned": {TRAIN * k}')
        store.replace("summary.json", planned.encode())
        checks[k] = check_of(store)
    assert checks[4].observed > 0
    assert checks[5] == checks[4]


@pytest.mark.parametrize("k", [2, 4, 8])
def test_no_new_paths_are_expected_where_every_sample_gave_the_same_one(k: int) -> None:
    paths = Diversity(grid(k))
    for _ in range(50):
        paths.add(k, [{"a": k}])
    assert paths.doubling == Doubling(0.0, 0.0, 0.0)


@pytest.mark.parametrize("distinct_by", ["equations", "normalised_text"])
def test_the_curve_of_another_verifier_ends_at_the_paths_of_its_corpus(tmp_path: Path, distinct_by: str) -> None:
    plan = plan_with(jsonl(tmp_path, WORDS), "{verifier: exact}", f"--corpus.distinct_by={distinct_by}")
    carried_out(plan, tmp_path / "run")
    store = open_store(f"{tmp_path}/run")
    store.replace("config.yaml", plan.config.to_yaml().encode())
    summary = write_summary(store, plan, Stopwatch(), finished=False)
    paths = gather(store).paths
    assert paths
    assert summary.corpus
    assert paths.curves[""][-1] == (8, pytest.approx(summary.corpus.paths / plan.train.count))

"""A run whose models got other names keeps its samples: its report and its pairs have the new names."""

from __future__ import annotations

import pytest

from rft_ray.corpus import preference_pairs
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Selector
from rft_ray.evaluation.summary import samplers_of, write_summary
from rft_ray.plan.run_plan import make_plan
from rft_ray.report.facts import gather
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store
from rft_ray.store.shards import missing_shards
from tests.report_run import make_run


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of the models a and b that was started again with the names x and y."""
    plan, store = make_run(tmp_path_factory.mktemp("renamed"))
    models = [model.model_copy(update={"name": name}) for model, name in zip(plan.config.models, "xy", strict=True)]
    settings = plan.config.model_copy(update={"models": tuple(models)})
    again = make_plan(settings, plan.train, plan.test, {"x": plan.bases["a"], "y": plan.bases["b"]})
    assert not missing_shards(store, (shard for job in again.collected for shard in job.shards()))
    selector = Selector(store, again.path_jobs)
    for shard in again.paths.shards():
        selector(shard)
    selector.close()
    build_corpus(again.corpus, store, again.train, settings.prompt.template)
    write_summary(store, again, Stopwatch(), finished=False)
    return store


def test_its_report_counts_the_samples_under_the_new_names(renamed: Store) -> None:
    facts = gather(renamed)
    accepted = {model: account.accepted for model, account in facts.summary.ledger.items()}
    assert set(accepted) == {"x", "y"}
    for model, count in accepted.items():
        assert sum(right * n for right, n in facts.samples[model].right_of_k.items()) == count > 0
    shown = {sample.model for example in facts.examples for sample in (*example.kept, *example.rejected)}
    assert shown == {"x", "y"}


def test_its_pairs_name_the_models_as_the_corpus_does(renamed: Store) -> None:
    rows = list(preference_pairs.export(renamed, samplers=samplers_of(renamed)))
    assert {row[f"{side}_model"] for row in rows for side in ("chosen", "rejected")} == {"x", "y"}

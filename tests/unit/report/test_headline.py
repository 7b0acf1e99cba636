"""The headline of a report says whose paths the models learned from."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rft_ray.evaluation.summary_records import ModelEntry, Summary
from rft_ray.report.facts import RunFacts, gather
from rft_ray.report.page import headline, run_page
from tests.report_run import make_run


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    return gather(make_run(tmp_path_factory.mktemp("headline"))[1])


def of(summary: Summary, samplers: tuple[str, ...], trained: tuple[str, ...]) -> Summary:
    """The summary of a run in which `samplers` sample and `trained` are fine-tuned on the paths."""
    return replace(
        summary,
        ledger=dict.fromkeys(samplers, summary.ledger["a"]),
        models=tuple(ModelEntry(name, "rft", name * 16, f"tiny:{name}") for name in trained),
    )


def config(**sample_from: str | None) -> dict[str, object]:
    return {"models": [{"name": name, "sample_from": place} for name, place in sample_from.items()]}


def test_it_counts_the_models_that_gave_paths(facts: RunFacts) -> None:
    assert "from 2 models" in headline(facts.summary, facts.config)[0]
    ledger = {name: replace(account, accepted=0) for name, account in facts.summary.ledger.items()}
    ledger["a"] = replace(ledger["a"], accepted=1)
    assert "from a alone" in headline(replace(facts.summary, ledger=ledger), facts.config)[0]


@pytest.mark.parametrize("place", [None, "sft", "base"])
def test_a_model_learns_from_itself_where_it_alone_samples_and_is_trained(facts: RunFacts, place: str | None) -> None:
    alone = of(facts.summary, ("a",), ("a",))
    assert "from the model itself" in headline(alone, config(a=place))[0]
    assert "from the model itself" in headline(alone, {})[0]


def test_the_paths_of_a_teacher_are_not_from_the_model_itself(facts: RunFacts) -> None:
    distilled = of(facts.summary, ("b",), ("a",))
    assert " from b " in headline(distilled, config(a=None, b=None))[0]
    assert " from a " in headline(of(facts.summary, ("a",), ("a", "b")), config(a=None, b=None))[0]


def test_samples_from_another_source_are_that_sources(facts: RunFacts) -> None:
    assert " from hub:x/y " in headline(of(facts.summary, ("a",), ("a",)), config(a="hub:x/y"))[0]


@pytest.mark.parametrize("dedup", ["none", "random"])
def test_paths_that_are_not_selected_by_their_equations_are_not_called_distinct(facts: RunFacts, dedup: str) -> None:
    repeated = {**facts.config, "corpus": {**facts.config["corpus"], "dedup": dedup}}
    assert "distinct correct paths" in headline(facts.summary, facts.config)[0]
    assert " correct paths" in headline(facts.summary, repeated)[0]
    assert "distinct" not in headline(facts.summary, repeated)[0]
    page = run_page(replace(facts, config=repeated))
    assert "<dt>Paths</dt>" in page
    assert not re.search(r"Kept: [\d,]+ distinct", page)

"""The report says what the run's config means: what is accepted, which paths are equal, whether gold is trained on."""

from __future__ import annotations

import pytest

from rft_ray.config import load
from rft_ray.report.method import method_of

MODELS = "--models=[{name: a, source: x}]"


@pytest.mark.parametrize(
    ("settings", "accepted", "same", "gold"),
    [
        ([], "all of its equations hold", "the same equations", True),
        (["--corpus.gold=false"], "all of its equations hold", "the same equations", False),
        (["--grading.verifier=choice"], "the verifier choice finds", "the same words", True),
        (["--grading.verifier=python"], "passes the tests", "the same words", True),
        (
            ["--corpus.distinct_by=answer_and_length"],
            "equations hold",
            "the same answer and about the same length",
            True,
        ),
        (["--corpus.distinct_by=rules:key"], "equations hold", "the same value of rules:key", True),
    ],
)
def test_the_words_follow_the_config(settings: list[str], accepted: str, same: str, gold: bool) -> None:
    method = method_of(load(None, [MODELS, *settings]).model_dump(mode="json"))
    assert accepted in method.accepted
    assert (method.same, method.gold) == (same, gold)


def test_a_run_without_a_saved_config_is_the_papers() -> None:
    assert method_of({}) == method_of(load(None, [MODELS]).model_dump(mode="json"))

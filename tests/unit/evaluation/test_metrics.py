"""Metrics: votes, pass@k, intervals and paired differences, against slow definitions."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from rft_ray.evaluation.metrics import EvaluationRecord, Metric, majority, metrics, paired_difference, pass_at, wilson
from rft_ray.evaluation.stage import problem_records
from rft_ray.records import GradedCompletion, Status


def test_majority_does_not_depend_on_order() -> None:
    answers: list[tuple[str | None, bool]] = [(a, False) for a in ("5", "7", "7", "5", "6")]
    for seed in range(20):
        shuffled = Random(seed).sample(answers, len(answers))
        assert majority(shuffled) == ("5", False)


def test_without_votes_there_is_no_majority_answer() -> None:
    assert majority([]) is None


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 3), (8, 0, 4), (8, 8, 1), (6, 1, 6), (7, 3, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(n: int, right: int, k: int) -> None:
    draws = list(combinations(range(n), k))
    assert pass_at(k, n, right) == pytest.approx(sum(any(i < right for i in draw) for draw in draws) / len(draws))


def test_wilson_interval_covers_its_nominal_share() -> None:
    random, covered = Random(0), 0
    for _ in range(2000):
        interval = wilson(sum(random.random() < 0.3 for _ in range(100)), 100)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_the_wilson_interval_of_no_samples_is_from_0_to_1() -> None:
    assert wilson(0, 0) == Metric(0.0, 0.0, 1.0, 0)


def graded(problem: str, index: int, status: Status, answer: str | None) -> GradedCompletion:
    return GradedCompletion(problem, index, status, answer, "")


def test_undecided_truncated_and_answerless_samples_have_no_vote() -> None:
    samples = [
        graded("p", 0, Status.UNDECIDED, "9"),
        graded("p", 1, Status.TRUNCATED, "9"),
        graded("p", 2, Status.NO_ANSWER, None),
        graded("p", 3, Status.CORRECT, "5"),
    ]
    [record] = problem_records(["p"], [graded("p", 0, Status.WRONG_ANSWER, "6")], samples, 4)
    assert (record.majority_answer, record.majority_right, record.samples_right) == ("5", True, 1)
    assert record.greedy_right is False


def test_metrics_name_their_k_and_n() -> None:
    greedy = [graded(p, 0, Status.CORRECT, "5") for p in "abcd"]
    sampled = [graded(p, i, Status.CORRECT if p != "d" else Status.WRONG_ANSWER, "5") for p in "abcd" for i in range(2)]
    measured = metrics(problem_records(list("abcd"), greedy, sampled, 2), 2)
    assert measured["maj1@1"].value == 1.0
    assert measured["maj@k"].value == measured["pass@k"].value == measured["pass@1"].value == 0.75
    assert (measured["maj@k"].k, measured["pass@k"].n) == (2, 4)


def test_a_right_and_a_wrong_answer_of_equal_text_are_two_candidates() -> None:
    samples = [graded("p", 0, Status.CORRECT, "50"), *(graded("p", i, Status.WRONG_ANSWER, "50") for i in (1, 2))]
    [record] = problem_records(["p"], [], samples, 3)
    assert record.majority_right is False


def test_a_skipped_problem_counts_as_wrong() -> None:
    right = [graded("p", 0, Status.CORRECT, "5")]
    measured = metrics(problem_records(["p", "q"], right, right, 1), 1)
    assert {(m.value, m.n) for m in measured.values()} == {(0.5, 2)}
    assert set(measured) == {"maj1@1", "maj@k", "pass@k", "pass@1"}


def records(**right: bool) -> list[EvaluationRecord]:
    """Problem id -> whether its greedy answer is right."""
    answers = [graded(p, 0, Status.CORRECT if r else Status.WRONG_ANSWER, "5") for p, r in right.items()]
    return problem_records(list(right), answers, [], 0)


def test_a_paired_interval_is_never_a_point() -> None:
    difference = paired_difference(records(a=True), records(a=False))
    assert difference.value == 1.0
    assert difference.low < 0.5


def test_paired_difference_pairs_by_problem() -> None:
    difference = paired_difference(records(a=True, b=True, c=False), records(c=False, b=False, a=True))
    assert difference.value == pytest.approx(1 / 3)
    assert difference.low < 0 < difference.high

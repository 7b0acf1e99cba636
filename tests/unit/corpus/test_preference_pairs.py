"""Preference pairs of one problem: which texts are chosen and rejected, in which order, how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rft_ray.corpus.graded import GradedSample
from rft_ray.corpus.preference_pairs import REJECTED, make_pairs
from rft_ray.records import Status


def sample(text: str, status: Status = Status.CORRECT, model: str = "a", index: int = 0) -> GradedSample:
    return GradedSample(model, model * 16, index, text, status, "", 9, "stop", "{query}")


def right(first: int, second: int, words: str = "", model: str = "a", index: int = 0) -> GradedSample:
    total = first + second
    text = f"{words}{first}+{second}=<<{first}+{second}={total}>>{total}\n#### {total}"
    return sample(text, model=model, index=index)


def wrong(text: str, status: Status = Status.WRONG_ANSWER, model: str = "a", index: int = 0) -> GradedSample:
    return sample(text, status, model, index)


MANY = [right(i, 20 - i) for i in range(1, 6)] + [wrong(f"#### {i}") for i in range(3)]


def test_every_chosen_is_correct_and_every_rejected_is_known_to_be_wrong() -> None:
    others = [wrong(f"other {status}", status) for status in Status if status is not Status.CORRECT]
    pairs = make_pairs([*MANY, *others], None)
    assert {good.status for good, _ in pairs} == {Status.CORRECT}
    assert {bad.status for _, bad in pairs} == set(REJECTED)


@pytest.mark.parametrize("status", [Status.TRUNCATED, Status.NO_ANSWER, Status.UNDECIDED])
def test_texts_not_known_to_be_wrong_are_rejected_on_request_only(status: Status) -> None:
    samples = [right(1, 2), wrong("unclear", status)]
    assert make_pairs(samples, None) == []
    assert make_pairs(samples, None, rejected={status}) == [tuple(samples)]


def test_the_paths_of_the_corpus_are_chosen_in_its_order_and_no_others() -> None:
    samples = [*(right(1, 2, words, index=i) for i, words in enumerate(("", "I say ", "Then I say "))), right(2, 1)]
    samples = [replace(one, sample_index=at) for at, one in enumerate(samples)]
    paths = [("a", 3), ("a", 1)]
    pairs = make_pairs([*samples, *(wrong(f"#### {i}", index=9) for i in range(9))], paths)
    assert [good.sample_index for good, _ in pairs] == [3, 1] * 4


def test_of_more_paths_than_pairs_some_of_each_model_are_chosen_in_their_order() -> None:
    samples = [right(i, 20 - i, model="a", index=i) for i in range(4)]
    samples += [right(i, 20 - i, model="b", index=i) for i in range(4, 8)]
    paths = [(one.model, one.sample_index) for one in samples]
    pairs = make_pairs([*samples, wrong("#### 1", index=9)], paths, most=3)
    assert [good.sample_index for good, _ in pairs] == [0, 1, 4]


def test_a_path_that_only_a_judge_calls_right_is_not_rejected() -> None:
    judged = wrong("2 and 2 make 4", Status.BAD_EQUATION)
    assert make_pairs([judged, right(2, 2, index=1)], [("a", 1), ("a", 0)]) == []
    other = wrong("#### 9", index=2)
    assert make_pairs([judged, other], [("a", 0)]) == [(judged, other)]


def test_what_was_cut_at_the_token_limit_is_rejected_on_request_only() -> None:
    """Paper mode reads `#### 1` of `#### 12` as a wrong answer."""
    samples = [right(6, 6), replace(wrong("6+6=<<6+6=12>>12\n#### 1"), finish_reason="length")]
    assert make_pairs(samples, None) == []
    assert make_pairs(samples, None, rejected={*REJECTED, Status.TRUNCATED}) == [tuple(samples)]


@pytest.mark.parametrize("asked", [{"prompt": "Q: {query} <think>"}, {"shots": 2}, {"opens_reasoning": True}])
def test_both_texts_of_a_pair_were_asked_for_in_the_same_form(asked: dict[str, Any]) -> None:
    good, bad = right(1, 2), replace(wrong("#### 4", model="b"), **asked)
    assert make_pairs([good, bad], None) == []
    alike = replace(good, model="b", completions="b" * 16, **asked)
    assert make_pairs([good, alike, bad], None) == [(alike, bad)]


def test_the_first_samples_of_repeated_texts_keep_their_order() -> None:
    samples = [right(1, 2), wrong("#### 4"), wrong("#### 5"), wrong("#### 4")]
    assert [bad.text for _, bad in make_pairs(samples, None)] == ["#### 4", "#### 5"]


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_numbers_of_uses_of_the_paths_of_one_side_differ_by_at_most_one(most: int) -> None:
    pairs = make_pairs(MANY, None, most=most)
    sides = (5, Counter(good.text for good, _ in pairs)), (3, Counter(bad.text for _, bad in pairs))
    for there, used in sides:
        uses = [*used.values(), *[0] * (there - len(used))]
        assert max(uses) - min(uses) <= 1


def test_no_two_pairs_have_the_same_texts() -> None:
    samples = [*MANY, *MANY]
    pairs = [(good.text, bad.text) for good, bad in make_pairs(samples, None, most=100)]
    assert len(pairs) == len(set(pairs)) == 5


def test_a_text_that_is_right_once_is_never_rejected() -> None:
    text = right(1, 2)
    assert make_pairs([text, wrong(text.text + " ")], None) == []


def test_blank_text_is_never_rejected() -> None:
    assert make_pairs([right(1, 2), wrong(" \n", Status.NO_ANSWER)], None, rejected=set(Status)) == []


def test_models_take_turns() -> None:
    samples = [right(i, 20 - i, model="a") for i in range(1, 6)]
    samples += [right(i, 20 - i, model="b") for i in range(6, 9)]
    samples += [wrong("#### 1"), wrong("#### 2", model="b")]
    assert [good.model for good, _ in make_pairs(samples, None, most=6)] == ["a", "b", "a", "b", "a", "b"]


def test_same_model_pairs_are_of_one_model() -> None:
    samples = [right(1, 2), wrong("#### 1"), wrong("#### 2", model="b"), right(2, 1, model="b"), right(0, 3, model="c")]
    pairs = make_pairs(samples, None, same_model=True)
    assert [(good.model, bad.model) for good, bad in pairs] == [("a", "a"), ("b", "b")]


def test_same_model_pairs_of_a_model_do_not_depend_on_the_texts_of_others() -> None:
    samples = [right(1, 2), wrong("#### 1"), right(1, 2, model="b"), wrong("#### 2", model="b")]
    pairs = make_pairs(samples, None, same_model=True)
    assert [(good.model, bad.model, bad.text) for good, bad in pairs] == [("a", "a", "#### 1"), ("b", "b", "#### 2")]
    again = [*samples, wrong("#### 1", model="b")]
    texts = [(good.text, bad.text) for good, bad in make_pairs(again, None, same_model=True)]
    assert len(texts) == len(set(texts)) == 2


def test_a_problem_without_a_wrong_path_has_no_pairs() -> None:
    assert make_pairs([right(1, 2), right(2, 1)], None) == []

"""Preference pairs of one problem: which texts are chosen and rejected, in which order, how often."""

from __future__ import annotations

from collections import Counter

import pytest

from rft_ray.corpus.graded import GradedSample
from rft_ray.corpus.preference_pairs import REJECTED, make_pairs
from rft_ray.records import Status


def sample(text: str, status: Status = Status.CORRECT, model: str = "a", index: int = 0) -> GradedSample:
    return GradedSample(model, model * 16, index, text, status, "", 9, "stop", "{query}")


def right(first: int, second: int, words: str = "", model: str = "a") -> GradedSample:
    total = first + second
    return sample(f"{words}{first}+{second}=<<{first}+{second}={total}>>{total}\n#### {total}", model=model)


def wrong(text: str, status: Status = Status.WRONG_ANSWER, model: str = "a") -> GradedSample:
    return sample(text, status, model)


MANY = [right(i, 20 - i) for i in range(1, 6)] + [wrong(f"#### {i}") for i in range(3)]


def test_every_chosen_is_correct_and_every_rejected_is_known_to_be_wrong() -> None:
    others = [wrong(f"other {status}", status) for status in Status if status is not Status.CORRECT]
    pairs = make_pairs([*MANY, *others], "strict")
    assert {good.status for good, _ in pairs} == {Status.CORRECT}
    assert {bad.status for _, bad in pairs} == set(REJECTED)


@pytest.mark.parametrize("status", [Status.TRUNCATED, Status.NO_ANSWER, Status.UNDECIDED])
def test_texts_not_known_to_be_wrong_are_rejected_on_request_only(status: Status) -> None:
    samples = [right(1, 2), wrong("unclear", status)]
    assert make_pairs(samples, "strict") == []
    assert make_pairs(samples, "strict", rejected={status}) == [tuple(samples)]


def test_representatives_are_chosen_before_other_paths_of_their_equation_list() -> None:
    like = [right(1, 2, words) for words in ("", "I say ", "Then I say ")]
    samples = [*like, right(2, 1), *(wrong(f"#### {i}") for i in range(9))]
    chosen = [good.text for good, _ in make_pairs(samples, "strict", most=4)]
    assert len({text for text in chosen[:2] if "1+2=<<" in text}) == 1
    assert "2+1=<<" in "".join(chosen[:2])
    assert len(set(chosen)) == 4


def test_a_representative_that_was_sampled_again_is_chosen_first_all_the_same() -> None:
    kept, other = right(1, 2), right(1, 2, "I say ")
    assert [good.text for good, _ in make_pairs([kept, other, wrong("#### 4")], "strict", most=1)] == [kept.text]
    again = [kept, other, right(1, 2), wrong("#### 4")]
    assert [good.text for good, _ in make_pairs(again, "strict", most=1)] == [kept.text]


def test_the_first_samples_of_repeated_texts_keep_their_order() -> None:
    samples = [right(1, 2), wrong("#### 4"), wrong("#### 5"), wrong("#### 4")]
    assert [bad.text for _, bad in make_pairs(samples, "strict")] == ["#### 4", "#### 5"]


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_numbers_of_uses_of_the_paths_of_one_side_differ_by_at_most_one(most: int) -> None:
    pairs = make_pairs(MANY, "strict", most=most)
    sides = (5, Counter(good.text for good, _ in pairs)), (3, Counter(bad.text for _, bad in pairs))
    for there, used in sides:
        uses = [*used.values(), *[0] * (there - len(used))]
        assert max(uses) - min(uses) <= 1


def test_no_two_pairs_have_the_same_texts() -> None:
    samples = [*MANY, *MANY]
    pairs = [(good.text, bad.text) for good, bad in make_pairs(samples, "strict", most=100)]
    assert len(pairs) == len(set(pairs)) == 5


def test_a_text_that_is_right_once_is_never_rejected() -> None:
    text = right(1, 2)
    assert make_pairs([text, wrong(text.text + " ")], "strict") == []


def test_blank_text_is_never_rejected() -> None:
    assert make_pairs([right(1, 2), wrong(" \n", Status.NO_ANSWER)], "strict", rejected=set(Status)) == []


def test_models_take_turns() -> None:
    samples = [right(i, 20 - i, model="a") for i in range(1, 6)]
    samples += [right(i, 20 - i, model="b") for i in range(6, 9)]
    samples += [wrong("#### 1"), wrong("#### 2", model="b")]
    assert [good.model for good, _ in make_pairs(samples, "strict", most=6)] == ["a", "b", "a", "b", "a", "b"]


def test_same_model_pairs_are_of_one_model() -> None:
    samples = [right(1, 2), wrong("#### 1"), wrong("#### 2", model="b"), right(2, 1, model="b"), right(0, 3, model="c")]
    pairs = make_pairs(samples, "strict", same_model=True)
    assert [(good.model, bad.model) for good, bad in pairs] == [("a", "a"), ("b", "b")]


def test_same_model_pairs_of_a_model_do_not_depend_on_the_texts_of_others() -> None:
    samples = [right(1, 2), wrong("#### 1"), right(1, 2, model="b"), wrong("#### 2", model="b")]
    pairs = make_pairs(samples, "strict", same_model=True)
    assert [(good.model, bad.model, bad.text) for good, bad in pairs] == [("a", "a", "#### 1"), ("b", "b", "#### 2")]
    again = [*samples, wrong("#### 1", model="b")]
    texts = [(good.text, bad.text) for good, bad in make_pairs(again, "strict", same_model=True)]
    assert len(texts) == len(set(texts)) == 2


def test_a_problem_without_a_wrong_path_has_no_pairs() -> None:
    assert make_pairs([right(1, 2), right(2, 1)], "strict") == []

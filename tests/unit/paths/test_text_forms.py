"""Paths that are equal by their words, and those that nearly are."""

from __future__ import annotations

import pytest

from rft_ray.paths.selection import select_by_key
from rft_ray.paths.text_forms import answer_and_length, grams, normalised_text, without_near_duplicates


def test_case_width_and_white_space_do_not_tell_texts_apart() -> None:
    assert normalised_text("It  is\nＣ.") == normalised_text("it is c.")
    assert normalised_text("It is C.") != normalised_text("It is D.")


def test_an_answer_in_about_as_many_words_is_one_path() -> None:
    words = "word " * 44
    assert answer_and_length("C", words) == answer_and_length("C", words + "more")
    assert answer_and_length("C", words) != answer_and_length("D", words)
    assert answer_and_length("C", words) != answer_and_length("C", words * 2)


@pytest.mark.parametrize(("threshold", "kept"), [(1.0, [0, 2, 3]), (0.5, [0, 3]), (0.01, [0, 3])])
def test_a_text_that_shares_too_much_with_one_before_it_is_left_out(threshold: float, kept: list[int]) -> None:
    first = "the cat sat on the mat and then it slept all day"
    texts = [first, first.upper(), f"{first} long", "nothing like this at all was ever said"]
    assert without_near_duplicates(texts, threshold) == kept


def test_a_short_text_is_one_gram() -> None:
    assert grams("It is C.") == {("it", "is", "c")}
    assert without_near_duplicates(["", "", "a"], 1.0) == [0, 2]


def test_one_text_of_each_key_is_selected() -> None:
    texts = ["a1", "b1", "a1", "c"]
    assert select_by_key(texts, lambda text: None if text == "c" else text[0]) == [(0, 2), (1, 1)]

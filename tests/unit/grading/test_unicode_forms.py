"""NFKC of hostile texts."""

from __future__ import annotations

import time
import unicodedata

import pytest

from rft_ray.grading.unicode_forms import compatible

TEXTS = [
    "",
    "plain",
    "Ａｎｓｗｅｒ ①",
    "e\u0301\u0316 \u1e9b\u0323",
    "가나다 \u1100\u1161",
    "“" * 200,
    "ﷺ" * 10,
    "a" + "\u0301" * 60,
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_form_is_that_of_unicodedata(text: str) -> None:
    assert compatible(text) == unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\uff9e\u0316", "\u0344\u0316", "\u0f73\u0316"])
def test_many_marks_on_one_letter_take_less_than_a_second(marks: str) -> None:
    start = time.monotonic()
    compatible("a" + marks * 50_000)
    assert time.monotonic() - start < 1

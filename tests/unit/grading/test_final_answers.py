"""Letters and words that a completion ends in."""

from __future__ import annotations

import pytest

from rft_ray.grading.final_answers import boxed, choice, gold_choice, gold_words, normalised, stated


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("So it is \\boxed{C}.", "C"),
        ("First \\boxed{A}, no: \\boxed{\\text{(D)}}", "D"),
        ("The answer is (C).", "C"),
        ("The answer is C because it is larger.", "C"),
        ("Answer: **B**", "B"),
        ("the correct answer is option B.", "B"),
        ("The answer is (a).\nNo. The answer is (b).", "B"),
        ("I think so.\n(C)", "C"),
        ("#### C", "C"),
        ("Because of that:\nE) 12 apples", "E"),
        ("The answer is (B).\nOption C forgets the tax.", "B"),
        ("The answer is (B). Answer C forgets the tax.", "B"),
        ("The answer is choice B.\nThe only other option is C.", "B"),
        ("The correct option is (B).\nOption C forgets the tax.", "B"),
        ("The answer choice is B.", "B"),
        ("Option C forgets the tax.\n(B)", "B"),
        ("Option A is too small.\nSo I choose option C.", "C"),
        ("I choose option C.\nIt is the larger one.", "C"),
        ("**Answer:** B", "B"),
        ("**Answer:** A\n\nExplanation: it is the larger one.", "A"),
        ("**Answer**: B\nIt is the larger one.", "B"),
        ("**The correct answer is:** (C)\nIt is the larger one.", "C"),
        ("The answer is A because it is larger.", "A"),
        ("The correct answer is A (12 apples), I think.", "A"),
        ("The answer should be A. Option B is too small.", "A"),
        ("The answer must be (D)", "D"),
        ("My final answer is therefore B", "B"),
        ("The answer is `A` here.", "A"),
        ('The answer is "C".', "C"),
        ("So the answer is $\\textbf{(C)}$.", "C"),
        ("\\boxed{\\textbf{(B)}\\ 42}", "B"),
        ("\\boxed{\\textrm{B}}", "B"),
        ("<think>A</think>\n<answer>B</answer>", "B"),
        ("<answer>B</answer> A is too small.", "B"),
        ("Option A is wrong, so (B) is the correct answer.", "B"),
        ("Option B is smaller than option C, so C is our answer.", "C"),
        ("The answer: A = 12 is the area.", None),
        ("B is not the correct answer.", None),
        ("With 3 pens the answer would be C.\nSo:\n(B)", "B"),
        ("I think that my answer: I am right.", None),
        ("Option B is smaller than option C.", None),
        ("So the answer is \\( \\text{D} \\).", "D"),
        ("The correct answer to this question is B.", "B"),
        ("The answer is clearly (D).", "D"),
        ("Wrong answer: A. Right answer: B.", "B"),
        ("Answer B is right. Answer C is wrong.", "B"),
        ("Option A is wrong. Option B is right.", "B"),
        ("The answer is B, and A is wrong.", "B"),
        ("The answer is (A) or (B).", None),
        ("Answer: B, C", None),
        ("<answer>(B) and (C)</answer>", None),
        ("Is the answer (A)? No, it is not.", None),
        ("The incorrect answer is A.", None),
        ("Either A or B is the answer.", None),
        ("Neither option A nor option B is the answer.", None),
        ("It is unlikely that C is the answer.", None),
        ("Let us see whether C is the correct answer.", None),
        ("Option A gives 3 and option B gives 4.", None),
        ("If B is the answer, x = 2.", None),
        ("Is (B) the best? Vitamin C is the answer to colds.", None),
        ("The answer is C++.", None),
        ("The answer is B-2 bombers", None),
        ("Which one is it?\nA. 3\nB. 4\nC. 5\nD. 6", None),
        ("The answer is a dog.", None),
        ("The answer is A dog", None),
        ("The answer is 12.", None),
        ("K", None),
        ("", None),
    ],
)
def test_a_letter_is_read_where_the_text_ends_in_one(text: str, letter: str | None) -> None:
    assert choice(text) == letter


@pytest.mark.parametrize(
    ("gold", "letter"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("c.", "C"),
        ("C) 12 apples", "C"),
        ("\\boxed{C}", "C"),
        ("12", None),
        ("Cats", None),
        ("\\textbf{(B)}\\ 42", "B"),
        ("B)42", "B"),
        ("B.42", None),
    ],
)
def test_a_gold_letter_may_have_marks_and_its_text(gold: str, letter: str | None) -> None:
    assert gold_choice(gold) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x\n\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("The answer is: Paris.", "Paris."),
        ("Thinking.\n#### New York", "New York"),
        ("Only this line", "Only this line"),
        ("\\boxed{open", "\\boxed{open"),
        ("The answer is:\nParis", "Paris"),
        ("**Answer:**\n\nParis\n\nIt is the capital.", "Paris"),
        ("**Answer**: Paris\nIt is the capital.", "Paris"),
        ("#### Answer: Paris", "Paris"),
        ("<answer>Rome</answer> No.\n<answer>\nParis\n</answer>", "Paris"),
        ("The answer is Paris.\n<answer>open", "Paris."),
        ("The answer is Paris.\n####", "Paris."),
        ("  \n", None),
    ],
)
def test_the_words_of_a_final_answer(text: str, answer: str | None) -> None:
    assert stated(text) == answer


def test_answers_are_equal_but_for_case_space_and_marks() -> None:
    assert normalised("  **New\u00a0 York.** ") == normalised("new york") == "new york"


def test_a_point_before_digits_is_no_mark() -> None:
    assert normalised("(.5)") != normalised("(5)")
    assert normalised("$.5$.") == ".5"
    assert normalised("...Paris") == "paris"


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ("**Answer:** blue", "blue"),
        ("The final answer is: blue", "blue"),
        ("#### blue", "blue"),
        ("<answer> blue </answer>", "blue"),
        ("$\\boxed{blue}$", "blue"),
        ("No answer is possible", "No answer is possible"),
        ("It depends: the answer is in the text", "It depends: the answer is in the text"),
        ("\\boxed{}", None),
        ("two\nlines", None),
    ],
)
def test_a_gold_answer_loses_only_what_is_written_around_it(gold: str, words: str | None) -> None:
    assert gold_words(gold) == words


def test_a_box_that_is_not_closed_is_none() -> None:
    assert boxed("\\boxed{1}, then \\boxed{2") is None

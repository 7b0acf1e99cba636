"""Where a text says its answer in LaTeX: the forms of other verifiers, and what it denies, asks or supposes."""

from __future__ import annotations

import time

import pytest

from rft_ray.grading.equations import MAX_TEXT_CHARS
from rft_ray.grading.latex_answers import stated_latex
from rft_ray.grading.math_answers import grade_math, is_readable
from rft_ray.records import Problem, Status

SECONDS = 5.0
"""Far more than any text takes that is read in linear time."""


def status(text: str, gold: str, *, truncated: bool = False) -> Status:
    return grade_math(Problem("1", "", "", gold), text, truncated).status


RIGHT = [
    ("<answer>3</answer>", "3"),
    ("So 7. <answer> $x^2+1$ </answer>", "x^2+1"),
    ("So 7.\n<answer>x^2+1</answer>", "x^2+1"),
    ("<answer>The answer is 5 cm</answer>", "5"),
    ("<answer>\n\\[ (1,2) \\]\n</answer>", "(1,2)"),
    ("It is \\fbox{3}.", "3"),
    ("It is \\fbox {\\frac12}.", "0.5"),
    ("\\boxed{\\boxed{3}}", "3"),
    ("\\boxed{\\fbox{3}}", "3"),
    ("\\boxed{2}. Wait, it is \\boxed{3}", "3"),
    ("It is \\boxed{3}, not \\boxed{4}.", "3"),
    ("It is $\\boxed{3}$. The value \\boxed{4} is wrong.", "3"),
    ("It is not \\boxed{4}. The answer is 3.", "3"),
    ("\\boxed{3} and \\boxed{3}", "3"),
    ("$\\boxed{1}$ and $\\boxed{2}$", "\\{1,2\\}"),
    ("\\boxed{1}, \\boxed{2} or \\boxed{3}", "\\{1,2,3\\}"),
    ("The answer is not 3, but 4.", "4"),
    ("The answer isn't 3; it's 4.", "4"),
    ("The answer is 3, not 4.", "3"),
    ("The answer is 3, which is not 4.", "3"),
    ("A common wrong answer is 4. The answer is 3.", "3"),
    ("The answer is 3.\nIf the answer is 4, then 4 = 3.", "3"),
    ("The answer is 3. Is the answer 5?", "3"),
    ("The answer is $3$ because $4$ is even.", "3"),
    ("The answer is 3. This answers question 2.", "3"),
    ("The answer is $x = 1$ or $x = 2$.", "\\{1,2\\}"),
    ("The answer is 3 or 4.", "\\{3,4\\}"),
    ("The answer is x^2 + 1.", "x^2+1"),
    ("The answer is \\sqrt{2}.", "\\sqrt{2}"),
    ("The answer is \\dfrac{7}{2}.", "3.5"),
    ("The answer is (1, 2).", "(1,2)"),
    ("The answer is [1, 2).", "[1,2)"),
    ("The answer is {1, 2}.", "\\{2,1\\}"),
    ("The answer is x = 3.", "3"),
    ("The answer is 3 1/2.", "3.5"),
    ("\\boxed{3 1/2}", "\\frac{7}{2}"),
    ("\\boxed{3\\frac12}", "3.5"),
    ("The answer is 50%.", "50\\%"),
    ("\\boxed{50}\\%", "50\\%"),
    ("\\boxed{30^\\circ}", "30"),
    ("The answer is 3 cm.", "3"),
    ("\\boxed{3\\text{ cm}}", "3"),
    ("The answer is\n\\[\n x = 3\n\\]\nas 4 > 3.", "3"),
    ("**Answer:**\n$$\n\\frac{1}{2}\n$$", "0.5"),
    ("\\boxed{\\frac{1}{2}", "0.5"),
    ("3 + 4 = 7, so there are 7 of them.", "7"),
    ("We get 4. Is that it? No, x = 3", "3"),
    ("The answer must be 3.", "3"),
    ("The answer is 30°.", "30"),
    ("The answer is .5", "0.5"),
    ("The answer is π/2.", "\\frac{\\pi}{2}"),
    ("The answer is pi/2.", "\\frac{\\pi}{2}"),
    ("The answer is 2√3.", "2\\sqrt{3}"),
    ("The answer is (-∞, 3].", "(-\\infty,3]"),
    ("The answer is 2 1/2 hours.", "2.5"),
    ("The answer is \\$5.", "5"),
    ("The answer is 5:00 pm.", "5"),
    ("The answer is $5 per day.", "5"),
    ("The answer is 12, which is not prime.", "12"),
    ("The answer is $12$, which isn't surprising.", "12"),
    ("The answer is $12$, which is too large to list.", "12"),
    ("The value of $x$ is $\\boxed{4}$, which is not a multiple of 3.", "4"),
    ("The number $\\boxed{12}$ isn't prime.", "12"),
    ("The sum is 12, which is not prime.", "12"),
    ("The answer is not an integer, it is $\\frac{7}{2}$.", "3.5"),
    ("The answer is not an integer. So $x = \\frac{7}{2}$.", "3.5"),
    ("$x = 4$. The answer is not unique.", "4"),
    ("If the answer is $5$, we are done. But $n = 12$.", "12"),
    ("The answer is not $-4$, as lengths are positive.\nSo the length is $4$.", "4"),
    ("The answer cannot be 5. So $x = 4$.", "4"),
    ("Is it \\boxed{3}? Yes.", "3"),
    ("$\\boxed{-1} \\text{ or } \\boxed{4}$", "\\{-1,4\\}"),
    ("$x=\\boxed{-1}$ or $x=\\boxed{4}$", "\\{-1,4\\}"),
    ("$$\\boxed{-1} \\quad \\text{and} \\quad \\boxed{4}$$", "-1,4"),
    ("\\boxed{x=-1} oder \\boxed{x=4}", "-1,4"),
    ("\\boxed{-1}; \\boxed{4}", "-1,4"),
    ("$a=\\boxed{3}$, $b=\\boxed{4}$, so $a+b=\\boxed{7}$.", "7"),
    ("\\boxed{\\text{Not enough information}}", "\\text{Not enough information}"),
    ("\\boxed{\\text{less than}}", "\\text{less than}"),
    ("The answer is (C) 12.", "12"),
    ("$$\\boxed{7.}$$", "7"),
]


@pytest.mark.parametrize(("text", "gold"), RIGHT)
def test_an_answer_is_read_in_this_form(text: str, gold: str) -> None:
    assert status(text, gold) is Status.CORRECT


NOT_RIGHT = [
    ("The answer is not 3", "3"),
    ("The answer is not $3$.", "3"),
    ("The answer is not simply $3$.", "3"),
    ("x = 3. The answer is not 3.", "3"),
    ("The answer isn't 3.", "3"),
    ("The answer cannot be 3.", "3"),
    ("The answer is neither 3 nor 4.", "3"),
    ("The answer is not 3, but 4.", "3"),
    ("The wrong answer is 3", "3"),
    ("An incorrect answer: 3", "3"),
    ("3 is not the answer", "3"),
    ("x = 3 is wrong", "3"),
    ("The answer is 3 is wrong", "3"),
    ("The answer is $3$, which is wrong.", "3"),
    ("Is the answer 3?", "3"),
    ("The answer is 3?", "3"),
    ("The answer is $3$?", "3"),
    ("If the answer is 3", "3"),
    ("Suppose the answer is $3$.", "3"),
    ("I doubt whether the answer is 3", "3"),
    ("It is not \\boxed{3}.", "3"),
    ("It isn't $\\boxed{3}$", "3"),
    ("\\boxed{3}?", "3"),
    ("$\\boxed{3}$ is wrong", "3"),
    ("\\boxed{\\text{not }3}", "3"),
    ("\\boxed{\\neq 3}", "3"),
    ("<answer>not 3</answer>", "3"),
    ("<answer>3?</answer>", "3"),
    ("<answer></answer>", "3"),
    ("<answer>3</answer> is wrong", "3"),
    ("<answer>3</answer>?", "3"),
    ("The answer is ≠ 3.", "3"),
    ("The answer is less than 3.", "3"),
    ("\\boxed{}", "3"),
    ("\\boxed{3 \\text{ or } 4}", "3"),
    ("\\boxed{3} or \\boxed{4}", "3"),
    ("The answer is 3 or 4", "3"),
    ("The answer is $3$ or $4$", "4"),
    ("\\boxed{3}. Wait, it is \\boxed{4}", "3"),
    ("The answer is 3. No: the answer is 4.", "3"),
    ("The answer is [1, 2].", "[1,2)"),
    ("The answer is (2, 1).", "(1,2)"),
    ("\\boxed{5\\text{ ft }3\\text{ in}}", "5"),
    ("The answer is 5 ft 3 in.", "5"),
    ("<answer>2 hours 15 minutes</answer>", "2"),
    ("\\boxed{3" + " " * 3_000 + "+ 1}", "3"),
    ("\\boxed{3", "3"),
    ("$\\boxed{3}$ is not the correct answer.", "3"),
    ("$\\boxed{3}$ is not a valid solution.", "3"),
    ("$\\boxed{3}$ isn't.", "3"),
    ("The answer is 3, which is too small.", "3"),
    ("The answer is not 3, which is prime.", "3"),
    ("$x=\\boxed{-1}$ or $x=\\boxed{4}$", "4"),
    ("\\boxed{\\text{less than }3}", "3"),
    ("The answer is not unique, not 3.", "3"),
    ("The answer cannot be 3. Hence it is unknown.", "3"),
    ("$x = 3$. If the answer is\n3", "3"),
]


@pytest.mark.parametrize(("text", "gold"), NOT_RIGHT)
def test_no_answer_is_accepted_that_the_text_does_not_state(text: str, gold: str) -> None:
    assert status(text, gold) is not Status.CORRECT


def test_an_answer_in_two_units_is_undecided_and_no_gold() -> None:
    assert status("\\boxed{5\\text{ ft }3\\text{ in}}", "5") is Status.UNDECIDED
    assert not is_readable("5 ft 3 in")
    assert is_readable("5 ft")


def test_of_a_text_that_is_cut_a_closed_box_or_tag_counts() -> None:
    assert status("It is \\fbox{3}", "3", truncated=True) is Status.CORRECT
    assert status("<answer>3</answer>", "3", truncated=True) is Status.CORRECT
    assert status("The answer is 3", "3", truncated=True) is Status.TRUNCATED
    assert status("<answer>3", "3", truncated=True) is not Status.CORRECT


REPEATED = (
    *("\\boxed{", "\\boxed{3}, ", "\\boxed{3} or ", "\\boxed{3} is wrong ", "<answer>", "<answer>3?</answer>"),
    *("the answer is ", "answer: 3? ", "the answer is not 3 ", "the answer isn't 3, but ", "not ", "is wrong ", "####"),
    *("$", "$1$ and ", "\\(", "\\[", "{", "}", "\\text{1}", "\\text", "x ", "1.", "? ", "\n", " "),
    *("3 1/2 ", "5 ft 3 in ", "\\boxed{3}\\quad\n", "not a ", "is not a valid ", "is too ", "(A) "),
)


@pytest.mark.parametrize("piece", REPEATED)
def test_no_text_takes_more_than_linear_time(piece: str) -> None:
    text = "The answer is " + piece * (MAX_TEXT_CHARS // len(piece) - 20)
    start = time.perf_counter()
    stated = stated_latex(text)
    assert time.perf_counter() - start < SECONDS
    assert stated is None or len(stated.latex) <= 50_000

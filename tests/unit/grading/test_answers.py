"""Final answers of strict mode: each kind of wording, and what it must not be taken for."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rft_ray.grading import extract_answer, grade
from rft_ray.grading.answer_values import same_value
from rft_ray.grading.answers import (
    ConflictError,
    gold_answer,
    own_part,
    read_claims,
    strict_answer,
    writes_decimal_comma,
)
from rft_ray.records import Status


def shown(text: str) -> str | None:
    """The answer as text; `?` where it is ambiguous, None where there is none."""
    try:
        answer = strict_answer(text)
    except ConflictError:
        return "?"
    return answer and answer.text


NUMBERS = [
    ("$2.5 million", "2500000"), ("$6K", "6000"), ("6K", "6000"), ("3 hundred", "300"), ("$4M", "4000000"), ("4m", "4"),
    ("7M", "?"), ("2 billion people", "2000000000"), ("6 tenths", "?"), ("5 dozen", "5"),
    ("(21, 4)", "?"), ("21, 22", "?"), ("21; 22", "?"), ("21, in all, so that is it", "21"),
    ("21, since 3*7 = 21", "21"),
    ("5\\sqrt{3}", "?"), ("7\\pi", "?"), ("7π", "?"), ("4n", "?"), ("4x + 1", "?"), ("2 + y", "?"), ("2(5)", "?"),
    ("5 and a half", "5.5"), ("2 and three quarters hours", "2.75"), ("5 hours and a half", "?"), ("5^2", "?"),
    ("2{,}750", "2750"), ("2,\\!750", "2750"), ("2\\,750", "2750"), ("3{,}5", "3.5"), ("2 750", "2750"),
    ("2'750", "2750"),
    ("1,50,000", "150000"), ("2.750,5", "2750.5"), ("2.750.000", "2750000"), ("2,5", "?"), ("2,75 €", "2.75"),
    ("\\frac14", "0.25"), ("\\dfrac{1}{4}", "0.25"), ("\\frac1{20}", "0.05"), ("2\\frac{1}{4}", "2.25"),
    ("37.5^\\circ", "37.5"), ("37.5^{\\circ}", "37.5"), ("37.5°", "37.5"), ("\\textbf{(D)}\\ 31", "31"),
    ("31\\text{ cm}^2", "31"), ("31 m²", "31"), ("\\$31", "31"), ("7/8.", "0.875"), ("7/8 of a mile", "0.875"),
    ("0.75 (75%)", "75"), ("0.75, or 75%", "75"), ("9 (9.0)", "9"), ("9 or 10", "?"), ("9 (or 10)", "?"),
    ("9 (4 boys and 5 girls)", "9"), ("3:00 pm", "3"), ("3 pm", "3"), ("3:20 pm", "15:20"), ("3:20", "3:20"),
    ("3:1", "?"), ("٤٢", "42"), ("４２", "42"), ("4万", "40000"), ("negative 6", "-6"), ("6 squared", "?"),
    ("6 minus 1", "?"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), NUMBERS)
def test_the_number_of_an_answer_takes_in_all_that_belongs_to_it(written: str, expected: str) -> None:
    assert shown(f"#### {written}") == expected


WORDINGS = [
    ("The answer is 7/8.", "0.875"), ("The answer would be 31.", "31"), ("The answer is thus 31.", "31"),
    ("Our answer comes out to $31.", "31"), ("The answer, then, is 31.", "31"), ("The answer to part b is 31.", "31"),
    ("The answer is that Kim saves $31.", "31"), ("Final answer -> 31", "31"), ("The answer is not 31.", None),
    ("The answer is x > 31.", "?"), ("The answer is 3x => 31", "31"), ('"answer": "\\"31\\""', "31"),
    ("#### <b>31</b>", "31"),
    ("a = 31, \\quad b_2 = 5. The answer is a = 31, b_2 = 5", "?"), ("Answer\n\\[\n31\n\\]", "31"),
    ("The answer is given in feet. A foot has 12 inches.", None), ("The answer is more than 31.", "?"),
    ("The answer is half of 62.", "?"), ("The answer is x = 3, y = 4.", "?"), ("The answer is eight in 2 groups.", "?"),
    ("**Answer:** Kim has 31 pens.", "31"), ("#### The whole bill is $31.", "31"), ("#### Step 3: Divide", None),
    ("Answer: Kim has 4 pens and 9 pencils.", "?"), ("Answer: Kim fills 7 boxes for 40 people.", "7"),
    ("Answer: Kim runs a 7-day race of 31 miles.", "31"), ("Answer: a + b = 12 + 19 = 31", "31"),
    ("#### 10 / 2 = 5 a day. 5 * 7 = 35 a week.", "?"), ("Answer: 7 * 3 = 21. Check: 21 / 3 = 7.", "21"),
    ("**Final Answer:**\n$31", "31"), ("The answer is:\n\\[ 31 \\]", "31"), ("## Answer\n\nKim has 31 pens.", "31"),
    ("The answer is:\n$$\n31\n$$", "31"), ("**Final Answer**\n\\boxed{31}", "31"),
    ("Answer:\n31\n\nAs 30 + 1 = 31.", "31"),
    ("Answer:\nKim has 3 + 4 = 7.\nThen 7 + 5 = 12.", None), ("Answer: Kim has 4 bags.\nEach holds 5, so 20.", None),
    ("<answer> 31 </answer>", "31"), ("<answer>\nKim has 31 pens.\n</answer>", "31"), ('{"answer": "31 pens"}', "31"),
    ('{"answer": 31, "why": "30 + 1 = 31"}', "31"), ('{"final_answer": "$31"}', "31"),
    ('**Answer:** 4 people need 31 days.", "answer": "31"', "31"), ("**Kim saves $31 a day.**", "31"),
    ("答案是：31元", "31"), ("答案：小王有31本书。", "31"), ("La respuesta es 31.", "31"), ("Réponse : 31 euros", "31"),
    ("Die Antwort lautet 3,5.", "3.5"), ("Die Antwort ist 1.300.", "?"), ("الجواب هو ٣١", "31"), ("Ответ: 31", "31"),
    ("2,50 + 1,20 = 3,70. The answer is 3,70", "3.7"), ("#### 0.4\nThe answer is 40%.", "40"),
    ("Points of the long-answer = 9.\n#### 31", "31"), ("Each correct answer: 5 points.\n#### 31", "31"),
    ("A: 20 miles\nB: 51 miles\n#### 31", "31"), ("Wrong answers: 4.\n#### 31", "31"), ("- Answer: 31", "31"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WORDINGS)
def test_an_answer_is_read_in_each_wording(text: str, expected: str | None) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>The answer is 4?</think>\nThe answer is 6.", "6"),
        ("The answer is 4?</think>#### 6", "6"),
        ("<think>The answer is 4.", None),
        ("Answer: 4\nWait, that is a mistake.\nAnswer: 6", "6"),
        ("It is \\boxed{4}. Hmm, actually \\boxed{6}", "6"),
        ("Answer: 4\nAnswer: 6", "?"),
        ("#### 6\n\nQuestion: Kim has 4 pens.\nAnswer: 4", "6"),
        ("#### 6<|im_end|>\n<|im_start|>user\nThe answer is 4", "6"),
    ],
)
def test_drafts_first_thoughts_and_other_questions_have_no_influence(text: str, expected: str | None) -> None:
    assert shown(text) == expected


def test_the_part_that_answers_the_question_keeps_positions() -> None:
    text = "<think>9?</think>\n#### 6\n\nQuestion: 2+2?\n#### 4"
    part = own_part(text)
    assert part.strip() == "#### 6"
    assert text[part.index("#") :].startswith("#### 6")
    assert own_part("3+3=6\n#### 6") == "3+3=6\n#### 6"


@pytest.mark.parametrize(
    ("gold", "value"),
    [
        ("so 3*4 = 12\n#### 12", 12),
        ("2{,}750", 2750),
        ("2,\\!750", 2750),
        ("3,5", Fraction(7, 2)),
        ("1.5", Fraction(3, 2)),
        ("$1.5 million", 1_500_000),
        ("The answer is 8.", 8),
        ("\\frac12", Fraction(1, 2)),
        ("eight", None),
        ("Kim had 3 bags of 4.\nThe answer is 12.", 12),
        ("Paris in 1900", None),
        ("(4, 5)", None),
        ("4n", None),
    ],
)
def test_a_gold_answer_is_one_number(gold: str, value: Fraction | int | None) -> None:
    answer = gold_answer(gold)
    assert (answer and answer.value) == value


def test_the_gold_answer_says_whether_a_comma_is_the_decimal_sign() -> None:
    assert [writes_decimal_comma(gold) for gold in ("12,5", "x\n#### 3.250,75 €", "1,250", "12.5", "3, 5")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    answer = strict_answer("#### 12,5", decimal_comma=True)
    assert answer is not None
    assert answer.value == Fraction(25, 2)


LATER_KINDS = [
    ("\\boxed{3.5\\text{ million}}", "3500000"), ("#### 14 r3", "?"), ("#### 6²", "?"), ("#### 5 halves", "?"),
    ("#### 15 or more", "?"), ("#### at least 15", "?"), ("#### 9h15", "?"), ("#### 21 = 3 * 7", "21"),
    ("The answer is 12 + 30\n= 42.", "42"), ("The answer is 12 + 30.", "?"),
    ("The answer is therefore:\n\n42", "42"), ("## Answer\n\n> 42", "42"), ("Answer:\n1. 42", "?"),
    ("Answer:\n\\begin{align*}\n6 \\times 7 &= 42\n\\end{align*}", "42"),
    ("Also lautet die Antwort 42 Birnen.", "42"), ("Het antwoord is 42.", "42"),
    ("Answer: The two barns hold 900 bales.", "900"), ("#### Those five boys paid $42.", "42"),
    ("Answer: Lea has two 5-dollar notes.", None), ("Answer: No, she lacks $42.", "42"),
    ("Answer: Lea has 42 pens.\n\nExplanation: 50 less 8.", "42"), ("Answer: Lea has 42 pens.\n50 - 8 = 42.", "42"),
    ("Final answer: Lea has 42 pens.\nShe gave 8 away.", "42"), ("Answer: Lea buys 7 pens.\n7 * 6 = 42\n#### 42", "42"),
    ("Correct answers: 7\nFinal answer: 42", "42"), ("An answer is worth 6 points.\n#### 42", "42"),
    ("#### 42\n\n### Question\nLea has 3 dogs.\n#### 3", "42"),
    ("**Day 3:** 42", None), ("Lea had 4. **She gets 7.** So 42.", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LATER_KINDS)
def test_an_answer_is_read_with_what_stands_around_it(text: str, expected: str | None) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("4:00 pm", "16", True),
        ("4 pm", "4", True),
        ("4 am", "4 pm", False),
        ("12:00 am", "0", True),
        ("4 pm", "5", False),
    ],
)
def test_a_time_with_its_half_of_the_day_is_its_hour_on_both_clocks(one: str, other: str, same: bool) -> None:
    left, right = strict_answer(f"#### {one}"), strict_answer(f"#### {other}")
    assert left is not None
    assert right is not None
    assert same_value(left, right) is same_value(right, left) is same


@pytest.mark.parametrize(
    ("gold", "right", "wrong", "open_"),
    [
        ("8:00 pm", ["8", "8 pm", "20:00", "8:00"], ["8 am", "8:30 pm", "9"], []),
        ("5:30 pm", ["5:30 pm", "5:30 p.m.", "17:30", "5:30"], ["5:30 am", "6:30 pm", "5", "17", "5.5"], ["5:75"]),
        ("5:30", ["5:30", "5:30 pm", "17:30"], ["6:30", "5.5"], []),
        ("5", ["5", "5:00"], ["6"], ["5:30", "5:30 pm"]),
        ("5.5", ["5.5"], ["5"], ["5:30"]),
    ],
)
def test_a_gold_may_be_a_time_of_day(gold: str, right: list[str], wrong: list[str], open_: list[str]) -> None:
    for status, answers in ((Status.CORRECT, right), (Status.WRONG_ANSWER, wrong), (Status.UNDECIDED, open_)):
        for answer in answers:
            assert (answer, grade(f"The answer is {answer}.", gold).status) == (answer, status)


@pytest.mark.parametrize("text", [text for text, _ in WORDINGS] + [f"#### {written}" for written, _ in NUMBERS])
def test_the_claims_that_count_are_those_that_decide(text: str) -> None:
    claims = read_claims(text)
    if any(claim.state == "open" for claim in claims):
        assert extract_answer(text) is None
        return
    counted = [claim.answer for claim in claims if claim.state == "counts"]
    assert (extract_answer(text) is None) == (not counted)
    assert all(answer is not None for answer in counted)


def test_a_claim_shows_its_place_its_rule_and_why_it_does_not_count() -> None:
    text = "Answer: 4\nNo, wait.\nAnswer: 6"
    first, second = read_claims(text)
    assert (text[first.start : first.end], first.state, first.note) == ("Answer: 4", "set_aside", "taken back")
    assert (second.state, second.rule, second.note) == ("counts", "after 'answer:'", "")
    assert [claim.note for claim in read_claims("#### 4\n#### 6")] == ["differs from another answer"] * 2


def test_a_text_that_repeats_the_word_for_an_answer_is_over_a_bound() -> None:
    with pytest.raises(ConflictError, match="bound"):
        strict_answer("each answer " * 1_001)

"""Final answers in words, in two units, as powers of ten, in boxes, taken back, and without a mark."""

from __future__ import annotations

import pytest

from rft_ray.grading import grade
from rft_ray.grading.answer_values import same_value
from rft_ray.grading.answer_words import with_digits
from rft_ray.grading.answers import ConflictError, gold_answer, strict_answer
from rft_ray.records import Status
from tests.unit.grading.test_hostile import is_quick


def shown(text: str) -> str | None:
    """The answer as text; `?` where it is open, None where there is none."""
    try:
        answer = strict_answer(text)
    except ConflictError:
        return "?"
    return answer.text if answer else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is thirty-four.", "34"),
        ("The answer is thirty-four (34).", "34"),
        ("The answer is thirty-four (35).", "?"),
        ("The answer is forty dollars ($40).", "40"),
        ("Answer: two hundred and six", "206"),
        ("Answer: three thousand four hundred", "3400"),
        ("#### nineteen", "19"),
        ("#### 4 thousand (4,000)", "4000"),
        ("The answer is two thirds of a mile.", "2/3"),
        ("The answer is half.", "0.5"),
        ("The answer is two and a half.", "2.5"),
        ("答案是二十三个。", "23"),
        ("#### Two cases remain\n#### 7", "7"),
        ("The answer is one that we can add up.\n#### 7", "7"),
        ("The answer is two or three.", None),
        ("The answer is six more than 7.", "?"),
    ],
)
def test_a_number_in_words_is_read_where_it_is_the_whole_number(text: str, expected: str | None) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        ("ninety-nine", "99"),
        ("twelve hundred", "1200"),
        ("a million", "1000000"),
        ("two million fifty thousand three", "2050003"),
        ("five twenty", "five twenty"),
        ("twenty ten", "twenty ten"),
        ("一万二千", "12000"),
        ("一百零五元", "105元"),
    ],
)
def test_words_spell_a_number_or_stay(words: str, digits: str) -> None:
    assert with_digits(words) == digits


def test_a_gold_answer_in_words_is_no_number() -> None:
    assert gold_answer("#### eight") is None


@pytest.mark.parametrize(
    ("written", "golds", "others"),
    [
        ("2.5 hours (150 minutes)", ["2.5", "150"], ["2", "50"]),
        ("45 cents or $0.45", ["45", "0.45"], ["4.5"]),
        ("3 weeks = 21 days", ["3", "21"], ["24"]),
        ("4 dozen (48)", ["4", "48"], ["12"]),
        ("4 dozen eggs", ["4", "48"], ["12"]),
        ("2 hours and 15 minutes", ["2.25", "135"], ["2", "15"]),
        ("6 feet 3 inches tall", ["6.25", "75"], ["6", "3"]),
        ("8 dollars and 20 cents", ["8.2", "820"], ["8", "20"]),
    ],
)
def test_one_value_in_two_units_is_right_for_a_gold_in_either(
    written: str, golds: list[str], others: list[str]
) -> None:
    assert [grade(f"#### {written}", gold).status for gold in golds] == [Status.CORRECT] * len(golds)
    assert not any(grade(f"#### {written}", gold).status is Status.CORRECT for gold in others)


@pytest.mark.parametrize(
    "written", ["2 hours and 15 pens", "3 cups, 4 hours", "2 hours and 75 minutes", "2 or 3 hours"]
)
def test_two_amounts_of_no_one_value_are_open(written: str) -> None:
    assert shown(f"#### {written}") == "?"


def test_a_value_in_two_units_equals_another_in_either() -> None:
    both, minutes, hours = (strict_answer(f"#### {said}") for said in ("2.5 hours (150 minutes)", "150", "2.5"))
    assert both is not None
    assert minutes is not None
    assert hours is not None
    assert same_value(both, minutes)
    assert same_value(hours, both)
    assert not same_value(minutes, hours)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("3.4 \\times 10^5", "340000"),
        ("3.4 x 10^5 meters", "340000"),
        ("3.4e5", "340000"),
        ("\\boxed{10^{4}}", "10000"),
        ("10⁴", "10000"),
        ("2 × 10^-2", "0.02"),
        ("3.4 × 10^5 × 2", "?"),
        ("3^4", "?"),
        ("10^n", "?"),
    ],
)
def test_a_power_of_ten_belongs_to_its_number(written: str, expected: str) -> None:
    assert shown(written if "boxed" in written else f"#### {written}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-\\boxed{7}", "?"),
        ("x = -\\boxed{7}", "?"),
        ("3\\boxed{7}", "?"),
        ("3 \\times \\boxed{7}", "?"),
        ("\\boxed{7}^2", "?"),
        ("\\boxed{7}\\sqrt{2}", "?"),
        ("\\boxed{7}\\frac{1}{2}", "?"),
        ("\\boxed{7} million", "7000000"),
        ("\\boxed{7}\\%", "7"),
        ("- \\boxed{7}", "7"),
        ("It is \\boxed{7}!", "7"),
        ("\\boxed{7}\n3 + 4 is 7.", "7"),
        ("**Answer:** **$\\boxed{7}$** pens", "7"),
        ("3 + 4 = \\boxed{7}", "7"),
        ("\\boxed{\\boxed{7}}", "7"),
    ],
)
def test_a_box_states_the_whole_number_or_is_open(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_percent_sign_after_a_box_belongs_to_its_number() -> None:
    assert grade("\\boxed{7}\\%", "0.07").status is Status.CORRECT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 26. Wait, 27.", "?"),
        ("The answer is 26 - no, I mean 27.", "?"),
        ("The answer is 26. Sorry, it should be 27.", "?"),
        ("#### 26\nActually, that is wrong. She has 27 pens.", "?"),
        ("#### 26\nOops, that isn't right.", "?"),
        ("#### 26\nWait, 30 - 3 = 27.", "?"),
        ("The answer is 26. Wait, let me check: 13 * 2 = 26. Yes.", "26"),
        ("#### 26\nNo further steps are needed.", "26"),
        ("#### 26\nActually, it is correct.", "26"),
        ("The answer is 26.\nThey wait 5 minutes.", "26"),
        ("The answer is 26. No, the answer is 27.", "27"),
        ("The answer is 26. The waiter gets 2 more.\n#### 27", "?"),
        ("The answer is 26. I recalculated it.\n#### 27", "27"),
        ("The answer is 26. I apologize.\n#### 27", "27"),
        ("The answer is 26. Hmmm.\n#### 27", "27"),
        ("#### 26\n\nQuestion: is it 3? Wait, 27.", "26"),
    ],
)
def test_an_answer_that_is_taken_back_without_another_mark_is_open(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is unknown, as 26 pens are missing.", None),
        ("The answer is impossible to find from 26 pens.", None),
        ("The answer is neither 26 nor 27.", None),
        ("The answer is 26 rather than 27.", "26"),
        ("The answer is 26 instead of 27.", "26"),
    ],
)
def test_a_denial_states_no_number(text: str, expected: str | None) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 - 4 = 26\nTherefore, Kim has 26 pens left.", "26"),
        ("Kim gives 4 away. Thus, she keeps 26 pens.", "26"),
        ("30 - 4 = 26\nSo Kim has 26 pens.", "26"),
        ("30 - 4 = 26\n**Total cost:** $26", "26"),
        ("30 - 4 = 26\nConclusion: Kim has 26 pens.", "26"),
        ("30 - 4 = 26\nTherefore, Kim has 26 pens and 4 pencils.", None),
        ("30 - 4 = 26\nTherefore, Kim has 26", None),
        ("Therefore, Kim has 26 pens.\nNow we add the pencils.", None),
        ("30 - 4 = 26\nKim has 26 pens.", None),
        ("30 - 4 = 26\nTherefore, is it 26 pens?", None),
        ("Therefore, Kim has 26 pens.\n#### 27", "27"),
        ("#### 27\nTherefore, Kim has 26 pens.", "27"),
    ],
)
def test_a_conclusion_on_the_last_line_is_the_answer_of_a_text_without_marks(text: str, expected: str | None) -> None:
    assert shown(text) == expected


def test_a_conclusion_at_the_token_limit_may_not_be_the_last() -> None:
    text = "30 - 4 = 26\nTherefore, Kim has 26 pens."
    assert grade(text, "26", truncated=True).status is Status.TRUNCATED
    assert grade(text, "26").status is Status.CORRECT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ans: 26", "26"),
        ("**Ans.** 26 pens", "26"),
        ("Final result:\n26", "26"),
        ("[Answer] 26", "26"),
        ("[ANSWER]26[/ANSWER]", "26"),
        ("【答案】26元", "26"),
        ("答：小王有26本书。", "26"),
        ('{"finalAnswer": 26}', "26"),
        ("So 26 is the answer.", "26"),
        ("So 20 + 26 is the answer.", None),
        ("The answer comes out as 26.", "26"),
        ("The answer is the number 26.", "26"),
        ("The answer is ... 26", "26"),
        ("#### => 26", "26"),
        ("Answer => 26", "26"),
        ("#### 26 #### 26", "26"),
        ("#### 26<end_of_turn>", "26"),
        ("#### 26<EOT>", "26"),
        ("#### March 26", "26"),
        ("#### Week 26", None),
        ("#### 26 = 13 x 2", "26"),
        ("#### 25.6 ≈ 26", "26"),
        ("#### 0.1666...", "0.1666"),
        ("#### Kim earns $310 in a full 7-day week.", "310"),
        ("#### 9 for Kim and 8 for Lea", "?"),
        ("#### (a) 9 (b) 8", "?"),
        ("#### a little over 9", "?"),
        ("#### 9 doubled", "?"),
        ("#### 500 K", "?"),
        ("#### 25.6 (rounded to 26)", "26"),
        ("#### 25.64 rounded to 1 decimal place", "?"),
        ("#### 0.26, i.e. 26%", "26"),
        ("#### $26,000 or $26 thousand", "26000"),
        ("#### Kim earns $5 an hour for 4 hours, which is $20.", "?"),
        ("\\boxed{\\frac{1}{-4}}", "-0.25"),
        ("\\boxed{26\\text{,}500}", "26500"),
        ("\\boxed{2{.}5}", "2.5"),
    ],
)
def test_an_answer_is_read_behind_each_mark_and_in_each_spelling(text: str, expected: str | None) -> None:
    assert shown(text) == expected


def test_a_decimal_that_goes_on_is_its_fraction_too() -> None:
    assert [grade("#### 0.1666...", gold).status for gold in ("1/6", "0.1666", "0.17")] == [
        Status.CORRECT,
        Status.CORRECT,
        Status.WRONG_ANSWER,
    ]


def test_equations_in_a_draft_under_any_name_are_not_read() -> None:
    assert grade("<scratchpad>2 + 2 = 5</scratchpad>\n2 + 2 = 4\n#### 4", "4").status is Status.CORRECT


@pytest.mark.parametrize(
    "text",
    [
        "#### 18 " + ". wait, " * 16_000,
        "The answer is " + "one hundred and " * 8_000,
        "3\\boxed{" * 16_000,
        "Ans: one\n" * 14_000,
        "<think>[THINK]◁think▷" * 6_000,
        "\nq" * 60_000,
        "5 is the answer " * 999,
        "#### 5" + "\n" * 120_000 + "wait",
        "Therefore, " * 12_000 + "18.",
    ],
)
def test_hostile_answers_take_less_than_a_second(text: str) -> None:
    assert is_quick(lambda: grade(text, "18"))

"""Grading: paper mode against the transcription of the reference's rules, strict mode, precedence, gold."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from rft_ray.cli.grading import main
from rft_ray.data.problem_sources import load_problems
from rft_ray.grading import COLLECTING, EVALUATING, arithmetic, extract_answer, grade
from rft_ray.grading.arithmetic import NotArithmeticError, OverBoundError, exact_value, python_value
from rft_ray.grading.equations import annotated
from rft_ray.grading.grader import GOLD_ITSELF
from rft_ray.records import Status
from tests.unit.grading import reference_rules as reference
from tests.unit.grading.completion_texts import completion, expression

pytestmark = pytest.mark.filterwarnings("ignore")


def gsm8k(name: str) -> list[dict[str, str]]:
    folder = os.environ.get("RFT_GSM8K_DIR")
    if not folder:
        message = "RFT_GSM8K_DIR is not set: needs train.jsonl and test.jsonl of GSM8K"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return [json.loads(line) for line in (Path(folder) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def reference_status(text: str, gold: str, evaluating: bool) -> Status:
    if reference.answer_of(text) == reference.INVALID:
        return Status.NO_ANSWER
    if not reference.answer_is_right(text, gold, evaluating):
        return Status.WRONG_ANSWER
    return Status.CORRECT if reference.equations_hold(text) else Status.BAD_EQUATION


def test_paper_mode_gives_what_the_reference_rules_give() -> None:
    rng = random.Random(1)
    undecided = 0
    for _ in range(60_000):
        text, gold = completion(rng), rng.choice(["18", "18", "18", "-3", "1800", "0.5"])
        tolerance = rng.choice([COLLECTING, EVALUATING])
        status = grade(text, gold, "paper", tolerance=tolerance).status
        if status is Status.UNDECIDED:
            undecided += 1
        else:
            assert status is reference_status(text, gold, tolerance == EVALUATING), repr(text)
    assert undecided < 60


def test_python_value_agrees_with_eval() -> None:
    rng = random.Random(2)
    for _ in range(20_000):
        source = expression(rng, 3)
        try:
            expected = repr(float(eval(source, {"__builtins__": {}})))
        except Exception:
            expected = "refused"
        try:
            result = repr(float(python_value(source)))
        except OverBoundError:
            continue
        except (NotArithmeticError, ArithmeticError, TypeError, ValueError):
            result = "refused"
        assert result == expected, source


@pytest.mark.parametrize(
    "source",
    ["9**9**9", "(9**999)**9", "1<<99999", "7**9999", "9" * 2000, "-" * 400 + "1", "*".join(["9" * 90] * 400)],
)
def test_a_value_that_grows_past_a_bound_is_over_it(source: str) -> None:
    with pytest.raises(OverBoundError):
        python_value(source)


@pytest.mark.parametrize(
    "source", ["abs(-3)", "True+1", "'3'*2", "[3][0]", "a", "lambda: 3", "__import__('os')", "3 if 1 else 2"]
)
def test_expressions_that_are_not_arithmetic_are_refused(source: str) -> None:
    with pytest.raises(NotArithmeticError):
        python_value(source)


def test_exact_value_is_exact() -> None:
    assert exact_value("0.1+0.2") == exact_value("3/10")
    assert exact_value("2**-3*8") == 1
    assert arithmetic.exact_value("(1+1/2)*2") == 3


def test_annotations_equal_those_of_the_references_regular_expression() -> None:
    rng = random.Random(3)
    for _ in range(20_000):
        text = "".join(rng.choice(["<", "<<", ">", ">>", "1", "=", "\n"]) for _ in range(rng.randint(0, 12)))
        assert annotated(text) == re.findall(r"<<([^>]*)>>", text)


STATUSES = [
    ("3+2 = <<3+2=5>>5\n#### 5", "correct", "correct"),
    ("3+2 = <<3+2=6>>6\n#### 5", "bad_equation", "bad_equation"),
    ("3+2 = <<3+2=6>>6\n#### 6", "wrong_answer", "wrong_answer"),
    ("3+2 = 5", "no_answer", "no_answer"),
    ("#### $5", "no_answer", "correct"),
    ("The answer is 5.", "no_answer", "correct"),
    ("3 + 2 = 6\n#### 5", "correct", "bad_equation"),
    ("#### 5\n\nQuestion: ...\n#### 7", "correct", "correct"),
    ("#### 5\x00 <<1=2>>", "bad_equation", "bad_equation"),
    ("<<3+2=5=9>>\n#### 5", "correct", "bad_equation"),
    ("<<10/3=3.33>>\n#### 5", "bad_equation", "correct"),
    ("<<50%*10=5>>\n#### 5", "bad_equation", "correct"),
    ("<<2.0009=2>>\n#### 5", "correct", "correct"),
    ("<<1/3=0.334>>\n#### 5", "correct", "bad_equation"),
    ("<<007+1=8>>\n#### 5", "bad_equation", "correct"),
    ("<<1+2=3/1>>\n#### 5", "bad_equation", "correct"),
    ("<<10/3=3>>\n#### 5", "bad_equation", "bad_equation"),
    ("About <<10/3=3>>3 each.\n#### 5", "bad_equation", "correct"),
    ("<<6^2=4>>\n#### 5", "correct", "bad_equation"),
    ("<<1_0+2=١٢ # dozen>>\n#### 5", "bad_equation", "bad_equation"),
    ("<<1_0+2=١٢>>\n#### 5", "correct", "bad_equation"),
    ("<<>>\n#### 5", "bad_equation", "bad_equation"),
    ("<<x=5>>\n#### 5", "bad_equation", "bad_equation"),
    ("<<5>>\n#### 5", "bad_equation", "bad_equation"),
    ("#### 5 or 6", "correct", "undecided"),
    ("#### 5. Add the costs", "correct", "no_answer"),
    ("#### 5:30", "correct", "undecided"),
    ("#### 1.2.3\n#### 5", "no_answer", "undecided"),
    ("#### $5\n#### 5", "correct", "correct"),
    ("<<9**9**9=1>>\n#### 5", "undecided", "undecided"),
    ("<<9**9**9=1>><<1=2>>\n#### 5", "bad_equation", "bad_equation"),
    ("<<9**9**9=x>>\n#### 5", "bad_equation", "bad_equation"),
]


@pytest.mark.parametrize(("text", "paper", "strict"), STATUSES)
def test_status_in_both_modes(text: str, paper: str, strict: str) -> None:
    assert (grade(text, "5", "paper").status, grade(text, "5").status) == (paper, strict)


def test_truncated_without_an_answer_is_truncated() -> None:
    for mode in ("paper", "strict"):
        assert grade("3+2 = <<3+2=5>>5", "5", mode, truncated=True).status is Status.TRUNCATED


def test_truncated_never_changes_what_paper_mode_accepts() -> None:
    assert grade("#### 5", "5", "paper", truncated=True).status is Status.CORRECT


def test_a_strict_answer_at_the_end_of_a_truncated_text_is_truncated() -> None:
    assert grade("#### 5", "5", truncated=True).status is Status.TRUNCATED
    assert grade("The answer is 5 * ", "5", truncated=True).status is Status.TRUNCATED
    for rest in ("Question: how many in 3", "Question: what is 3 + "):
        assert grade(f"#### 5\n{rest}", "5", truncated=True).status is Status.CORRECT


def test_the_evaluation_tolerance_is_that_of_the_reference() -> None:
    assert grade("#### 5.00005", "5", "paper").status is Status.WRONG_ANSWER
    assert grade("#### 5.00005", "5", "paper", tolerance=EVALUATING).status is Status.CORRECT
    assert grade("<<1=2>>\n#### 5", "5", "paper", tolerance=EVALUATING, check_equations=False).status is Status.CORRECT


def test_an_error_inside_the_grader_is_undecided_and_named() -> None:
    verdict = grade(None, "5")  # type: ignore[arg-type]
    assert verdict.status is Status.UNDECIDED
    assert "TypeError" in verdict.detail
    assert grade("#### 5", "five").status is Status.UNDECIDED


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        grade("#### 5", "5", "lenient")


ANSWERS = [
    ("#### 18", "18"), ("#### $1,800.00", "1800"), ("#### 18 apples", "18"), ("So it is **18**", "18"),
    ("\\boxed{18}", "18"), ("The answer is 18.", "18"), ("A: 18", "18"), ("#### 3/4", "0.75"), ("#### 1/3", "1/3"),
    ("#### 1 1/2", "1.5"), ("#### 50%", "50"), ("#### −3", "-3"), ("#### -$5", "-5"), ("#### 18.", "18"),
    ("\\boxed{\\frac{3}{4}}", "0.75"), ("**Answer:** 18 apples", "18"), ("the answer is \\(18\\)", "18"),
    ("#### 1. Add the costs\nThe final answer is: **$18**", "18"), ("answer: x = 5", "5"), ("#### 2½ cups", "2.5"),
    ("The answer is 18 because 9*2 = 18.", "18"), ("the answer is 9*2=<<9*2=18>>18.", "18"), ("#### 18 m^2", "18"),
    ("#### Step 1: add", None), ("#### 18 or 19", None), ("#### 5:30", "5:30"), ("#### 12,34", None), ("18", None),
    ("The answer is 18. She has 18 apples.", "18"), ("The answer is 18. To check: 20 - 3 = 17", "18"),
    ("the answer is 9 + 9 = 18 years. Later it is 18 + 3 = 21 years", "18"),
    ("the answer is 3. The answer is 18.", None),
    ("A: There are 15 trees. So 15 + 3 = 18 grow. The answer is 18.", "18"), ("A: 15 + 3 = 18 trees.", "18"),
    ("A: 7 + 8 = 15 trees. Then 15 + 3 = 18 trees.", "18"), ("A: 15 - 3 = 12. 12 + 6 = 18. #### 18", "18"),
    ("Answer: 18. Check: 2*10 = 20", "18"), ("Answer: 17, answer: 18", None),
    ("Answer: 7 + 8 = 15 trees.\nThen 15 + 3 = 18.\n#### 18", "18"), ("#### 17\nAnswer: 15 + 3 = 18", None),
    ("Answer: 17\n#### 18", None),
    ("#### 2. Answer: The answer is 18.", "18"),
    ("Answer: 1. First, 3+2 = 5", None), ("#### 18 = the number of pens", "18"), ("#### 18 = 17", None),
    ("#### 18 = 3*20", None), ("#### 9 * 2 = 18", "18"),
    ("#### 36 / 2 = 18", "18"), ("#### 18\n#### 9 * 2 =", "18"), ("#### 2*(4+5) = 18", "18"),
    ("the answer is 18, so 2 * 9 = 18", "18"),
    ("#### 1.5e3", "1500"), ("The answer is 17.\n#### 18", None), ("#### " + "9" * 300, None), ("#### ٣", "3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ANSWERS)
def test_strict_answers_as_models_write_them(text: str, expected: str | None) -> None:
    answer = extract_answer(text)
    assert (answer and answer.text) == expected


@pytest.mark.parametrize(
    ("answer", "gold"), [("50%", "50"), ("50%", "0.5"), ("0.5", "50%"), ("1/2", "0.5"), ("1,000", "1000.0")]
)
def test_strict_answers_of_equal_value_are_equal(answer: str, gold: str) -> None:
    assert grade(f"#### {answer}", gold).status is Status.CORRECT


def test_paper_mode_accepts_every_gold_solution() -> None:
    rows = gsm8k("train")
    assert len(rows) == 7473
    assert [
        row["answer"] for row in rows if grade(row["answer"], row["answer"], "paper").status is not Status.CORRECT
    ] == []


def test_strict_mode_accepts_gold_solutions_and_names_their_wrong_equations() -> None:
    """Some hold a wrong equation outside of `<<...>>`, as `14*20=140`; one names two answers."""
    rows = gsm8k("train") + gsm8k("test")
    verdicts = [grade(row["answer"], row["answer"]) for row in rows]
    assert len(rows) == 8792
    assert sum(verdict.status is Status.CORRECT for verdict in verdicts) >= 8791
    assert sum(verdict.detail.startswith(GOLD_ITSELF) for verdict in verdicts) <= 40


def test_a_wrong_equation_is_excused_in_the_gold_solution_alone() -> None:
    gold = "He plays 14*20=140 minutes, and 140*2=<<140*2=280>>280.\n#### 280"
    assert grade(gold, gold).detail == f"{GOLD_ITSELF}14*20=140: does not hold"
    assert grade(gold, gold).status is Status.CORRECT
    assert grade(f"So: {gold}", gold).status is Status.BAD_EQUATION
    assert grade(gold, "280").status is Status.BAD_EQUATION


def test_the_first_row_decides_which_column_holds_the_completions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row without its completion must not be graded by the gold answer next to it."""
    rows = [
        {"question": "3+2?", "answer": "#### 5", "completion": "#### 5"},
        {"question": "3+2?", "answer": "#### 5", "completion": None},
    ]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(samples), "--gold", str(samples)]) == 2
    assert "samples.jsonl:2" in capsys.readouterr().err


def test_the_command_grades_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        json.dumps({"question": "Tom has 3 pens, gets 2. How many?", "answer": "<<3+2=5>>5\n#### 5"}) + "\n"
    )
    samples = tmp_path / "samples.jsonl"
    texts = ["<<3+2=5>>5\n#### 5", "<<2+3=5>>5\n#### 5", "The answer is 5.", "#### 6"]
    samples.write_text(json.dumps({"question": "Tom has 3 pens, gets 2. How many?", "completion": texts}) + "\n")
    out = tmp_path / "verdicts.jsonl"
    assert main([str(samples), "--gold", str(gold), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["paper"]["status"] for row in rows] == ["correct", "correct", "no_answer", "wrong_answer"]
    assert [row["strict"]["status"] for row in rows] == ["correct", "correct", "correct", "wrong_answer"]
    assert "no_answer -> correct: 1" in capsys.readouterr().out


def test_the_command_knows_gold_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = load_problems("tiny:train:5")[3]
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"question": problem.question, "completion": problem.solution}) + "\n")
    assert main([str(samples), "--gold", "tiny:train:5", "--mode", "paper"]) == 0
    assert "correct              1  100.00%" in capsys.readouterr().out
    assert main([str(samples), "--gold", "tiny:train"]) == 2
    assert "tiny:train:600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "gold", "status"),
    [
        ("2:00 pm", "14", Status.CORRECT),
        ("2:00 pm", "2", Status.CORRECT),
        ("2:00 pm", "3", Status.WRONG_ANSWER),
        ("12:00 am", "0", Status.CORRECT),
    ],
)
def test_a_clock_time_is_its_hour_on_both_clocks(said: str, gold: str, status: Status) -> None:
    assert grade(f"The answer is {said}.", gold).status is status

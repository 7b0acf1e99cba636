"""Rows of each public file in the shape in which its authors publish it, with numbers of our own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import foreign_cases, labelled_rows, step_mistakes
from rft_ray.data.row_files import DataError
from tests.unit.judging.test_judge_stage import asked, plan_with, verified


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def zeroeval_file(folder: Path, output: str, gold: str = "# 1,200") -> str:
    path = folder / "some-model.json"
    path.write_text(json.dumps([{"output": [output], "answer": gold, "generator": "some-model"}]))
    return str(path)


def solution(text: str, *, right: bool) -> dict[str, Any]:
    return {"is_correct": right, "solution": text}


def test_example_solutions_give_four_rows_a_question(tmp_path: Path) -> None:
    row: dict[str, Any] = {"question": "How many?", "ground_truth": "4 * 3 = <<4*3=12>>12 pens.\nA: 12"}
    row |= {solver: solution(f"A: {i}", right=i == 1) for i, solver in enumerate(labelled_rows.SOLVERS)}
    read = list(labelled_rows.gsm8k_solutions(lines(tmp_path / "solutions.jsonl", [row])))
    assert [(one.text, one.gold, one.right) for one in read] == [
        ("A: 0", "12", False),
        ("A: 1", "12", True),
        ("A: 2", "12", False),
        ("A: 3", "12", False),
    ]


def test_abels_rows_have_their_own_labels(tmp_path: Path) -> None:
    rows = [{"id": 0, "response": "It is 7. #### 7 ", "pred": "7", "gold": "7", "result": True}]
    rows += [{"id": 1, "response": "It is 8. #### 8 ", "pred": "8", "gold": "9", "result": False}]
    read = list(labelled_rows.abel(lines(tmp_path / "7b.jsonl", rows)))
    assert [(one.text, one.gold, one.right) for one in read] == [
        ("It is 7. #### 7 ", "7", True),
        ("It is 8. #### 8 ", "9", False),
    ]


def test_a_json_text_is_decoded_or_left_as_written(tmp_path: Path) -> None:
    output = '{\n "reasoning": "300 * 4 = 1200\\nDone.",\n "answer": "$1,200"\n}'
    source = zeroeval_file(tmp_path, output)
    (decoded,), (written,) = (list(labelled_rows.zeroeval(source, form)) for form in ("decoded", "written"))
    assert decoded.text == "300 * 4 = 1200\nDone.\n#### $1,200"
    assert written.text == output
    assert (decoded.gold, decoded.right, written.right) == ("1,200", True, True)


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ('{"reasoning": "two \\( x \\)", "answer": "1,200 pens"}', True),  # `\(` is no escape of JSON
        ('{"reasoning": "r", "answer": 30}', False),
        ('{"reasoning": "r", "answer": "2400/2"}', True),
        ('{"reasoning": "r", "answer": "2400/0"}', False),
        ("The answer is 1200.", None),
    ],
)
def test_zeroevals_label_is_the_first_number_of_the_answer(tmp_path: Path, output: str, right: bool | None) -> None:
    (row,) = labelled_rows.zeroeval(zeroeval_file(tmp_path, output), "decoded")
    assert row.right is right


def test_braces_that_never_close_are_no_json() -> None:
    assert labelled_rows.json_values("{" * 100_000) is None
    assert labelled_rows.json_values("}" * 100_000 + "{") is None
    assert labelled_rows.json_values("{" * 50_000 + "}" * 50_000) is None


def test_a_row_of_another_file_is_refused_by_name(tmp_path: Path) -> None:
    source = lines(tmp_path / "other.jsonl", [{"question": "How many?"}])
    with pytest.raises(DataError, match=r"other\.jsonl:1: `ground_truth` must be str"):
        list(labelled_rows.gsm8k_solutions(source))


def test_the_first_flagged_step_is_compared_with_the_labelled_one(tmp_path: Path) -> None:
    right, wrong = "First 2 * 3 = 6.", "Then 6 + 5 = 12."
    chains = [
        ([right, wrong], 1),  # found
        ([wrong, right], 1),  # earlier
        ([right, right, wrong], 1),  # later
        ([right, right], 0),  # missed
        ([right, right], None),
        ([right, wrong], None),  # false alarm
    ]
    rows = [{"steps": steps, "mistake_index": mistake, "target": "1", "answer": "1"} for steps, mistake in chains]
    counts = step_mistakes.counted(step_mistakes.bigbench_mistake(lines(tmp_path / "steps.jsonl", rows)))
    assert (counts.chains, counts.right) == (6, 2)
    assert (counts.found, counts.early, counts.late, counts.missed) == (1, 1, 1, 1)
    assert (counts.false_alarms, counts.right_steps, counts.flagged_right_steps) == (1, 7, 2)


def mr_gsm8k_row(uuid: str, **changes: str) -> dict[str, Any]:
    steps = "['Step 1: 4 + 4 = 8.', \"Step 2: Tom's half is 8 / 2 = 3.\"]"
    row = {"uuid": uuid, "question_type": "original", "model_output_steps": steps}
    row |= {"model_output_solution_correctness": "wrong", "model_output_solution_first_error_step": "2"}
    return row | changes


def test_each_solution_of_several_evaluations_is_read_once_and_programs_are_not(tmp_path: Path) -> None:
    sources = [
        lines(tmp_path / "one.jsonl", [mr_gsm8k_row("a"), mr_gsm8k_row("b", question_type="POT")]),
        lines(
            tmp_path / "two.jsonl", [mr_gsm8k_row("a"), mr_gsm8k_row("c", model_output_solution_correctness="correct")]
        ),
    ]
    chains = list(step_mistakes.mr_gsm8k(sources))
    assert [chain.mistake for chain in chains] == [1, None]
    assert chains[0].steps == ("Step 1: 4 + 4 = 8.", "Step 2: Tom's half is 8 / 2 = 3.")


@pytest.mark.parametrize("step", ["3", "0", "N/A"])
def test_an_error_step_that_is_none_of_the_steps_is_refused(tmp_path: Path, step: str) -> None:
    source = lines(tmp_path / "one.jsonl", [mr_gsm8k_row("a", model_output_solution_first_error_step=step)])
    with pytest.raises(DataError, match=r"one\.jsonl:1: `model_output_solution_first_error_step`"):
        list(step_mistakes.mr_gsm8k([source]))


def test_numeric_cases_of_a_test_module_are_read_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import nothing_like_this\n"
        '@mark("gold,pred,expected", [("7.5", "7.50", 1), ("$\\\\frac{1}{4}$", r"so \\boxed{0.3}", 0),'
        ' ("$[0,1)$", "$[0,1)$", 1), ("7", "8", 0, 3), ("7", "8", 5)])\n'
        "def test_it(): ...\n"
    )
    cases = [(row.text, row.gold, row.right) for row in foreign_cases.math_verify(str(tmp_path))]
    assert cases == [("#### 7.50", "7.5", True), (r"so \boxed{0.3}", r"$\frac{1}{4}$", False)]


def test_worked_examples_of_a_task_are_read_once(tmp_path: Path) -> None:
    task = (
        "fewshot_config:\n  samples:\n  - {question: q, target: 6 - 2 = 4. The answer is 4.}\nprocess: !function u.f\n"
    )
    for name in ("gsm8k.yaml", "gsm8k-cot.yaml"):
        (tmp_path / name).write_text(task)
    (row,) = foreign_cases.lm_eval(str(tmp_path))
    assert (row.text, row.gold, row.right) == ("6 - 2 = 4. The answer is 4.", "4", True)


@pytest.mark.parametrize("read", [foreign_cases.math_verify, foreign_cases.lm_eval])
def test_a_folder_without_cases_is_an_error(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match="name the folder of a checkout"):
        list(read(str(tmp_path)))
    with pytest.raises(DataError, match="no such folder"):
        list(read(str(tmp_path / "missing")))


def test_a_judges_answers_are_no_completions_of_its_run(tmp_path: Path) -> None:
    plan = plan_with("", "--grading.judge=tiny:tiny-s")
    store = verified(plan, tmp_path)
    completions = list(labelled_rows.run_completions(str(tmp_path)))
    assert completions
    assert any(receipt.rows for receipt in asked(plan, store))
    assert list(labelled_rows.run_completions(str(tmp_path))) == completions

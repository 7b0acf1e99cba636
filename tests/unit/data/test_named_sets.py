"""Sets by name: one file of each set's form, made up here, and what is read from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray.data.hub_rows import files_of_split
from rft_ray.data.named_sets import NAMED_SETS, last_boxed, named_rows
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.row_files import DataError
from rft_ray.grading import grade
from rft_ray.records import Status

MATH_SUBJECTS = NAMED_SETS["math"].splits["train"].folders

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k:train": {"question": "Ann has 3 pens and buys 4. How many?", "answer": "3+4 = <<3+4=7>>7\n#### 7"},
    "gsm8k-platinum:test": {
        "question": "Ann has 3 pens and buys 4. How many?",
        "answer": "3+4 = <<3+4=7>>7\n#### 7",
        "cleaning_status": "consensus",
    },
    "gsm-symbolic:p1": {
        "id": 0,
        "instance": 3,
        "question": "Ann has 3 pens and buys 4. How many?",
        "answer": "3+4 = <<3+4=7>>7\n#### 7",
        "original_id": 12,
        "original_question": "Bea has 1 pen and buys 1. How many?",
        "original_answer": "1+1 = <<1+1=2>>2\n#### 2",
        "canary": "none",
    },
    "math:train": {
        "problem": "What is $3+4$?",
        "level": "Level 1",
        "type": "Prealgebra",
        "solution": r"Adding, $3+4=\boxed{7}$.",
    },
    "math-500:test": {
        "problem": "What is $3+4$?",
        "solution": r"Adding, $3+4=\boxed{7}$.",
        "answer": "7",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
    "svamp:train": {
        "ID": "chal-1",
        "Body": "Ann has 3 pens and buys 4 more.",
        "Question": "How many has she?",
        "Equation": "( 3.0 + 4.0 )",
        "Answer": "7",
        "Type": "Addition",
        "question_concat": "Ann has 3 pens and buys 4 more. How many has she?",
    },
    "mawps:validation": {
        "id": "mawps__1",
        "question": "Ann has 3 pens and buys 4. How many?",
        "chain": '<gadget id="calculator">3 + 4</gadget>\n<output>7</output>\n<result>7</result>',
        "result": "7",
        "result_float": 7.0,
        "equation": "x = 3 + 4",
        "expression": "3 + 4",
    },
    "aqua:test": {
        "question": "Ann has 3 pens and buys 4. How many?",
        "options": ["A)6", "B)7", "C)8", "D)9", "E)10"],
        "rationale": "3 + 4 = 7.\nThe answer is B.",
        "correct": "B",
    },
    "metamathqa:train": {
        "type": "GSM_Rephrased",
        "query": "Ann has 3 pens and buys 4. What is the number of her pens?",
        "original_question": "Ann has 3 pens and buys 4. How many?",
        "response": "She has 3 + 4 = 7 pens.\n#### 7\nThe answer is: 7",
    },
    "numinamath-cot:train": {
        "source": "synthetic_math",
        "problem": "What is $3+4$?",
        "solution": r"Adding, $3+4=\boxed{7}$.",
        "messages": [
            {"role": "user", "content": "What is $3+4$?"},
            {"role": "assistant", "content": r"Adding, $3+4=\boxed{7}$."},
        ],
    },
}
"""Source -> a row with the columns of its data set card."""

REPOSITORIES: dict[str, list[str]] = {
    "gsm8k:train": ["README.md", "main/test-00000-of-00001.parquet", "main/train-00000-of-00001.parquet",
                    "socratic/train-00000-of-00001.parquet"],
    "gsm8k-platinum:test": ["README.md", "main/test-00000-of-00001.parquet"],
    "gsm-symbolic:p1": ["README.md", "main/test.jsonl", "p1/test.jsonl", "p2/test.jsonl"],
    "math:train": [f"{name}/{split}-00000-of-00001.parquet" for name in MATH_SUBJECTS for split in ("test", "train")],
    "math-500:test": ["README.md", "test.jsonl"],
    "svamp:train": ["data/test-00000-of-00001-abc1.parquet", "data/train-00000-of-00001-abc2.parquet"],
    "mawps:validation": ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet",
                         "original-splits/validation-00000-of-00001.parquet"],
    "aqua:test": ["raw/test-00000-of-00001.parquet", "tokenized/test-00000-of-00001.parquet"],
    "metamathqa:train": ["README.md", "MetaMathQA-395K.json"],
    "numinamath-cot:train": ["data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet",
                             "data/train-00001-of-00002.parquet"],
}  # fmt: skip
"""Source -> the files of its repository on the hub."""
UNREAD = ("aqua:test",)
"""Sources with an answer that the rules for GSM8K do not read."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RFT_GSM8K_DIR", raising=False)
    monkeypatch.setenv("RFT_DATASETS_DIR", str(tmp_path))


def write(folder: Path, source: str, *rows: dict[str, Any], kind: str = "jsonl") -> Path:
    path = folder / f"{source.replace(':', '/')}.{kind}"
    path.parent.mkdir(exist_ok=True)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_set_has_a_test() -> None:
    assert {source.partition(":")[0] for source in ROWS} == set(NAMED_SETS)
    assert set(REPOSITORIES) == set(ROWS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", [source for source in ROWS if source not in UNREAD])
def test_a_row_of_a_set_is_a_problem(tmp_path: Path, source: str, kind: str) -> None:
    write(tmp_path, source, ROWS[source], kind=kind)
    (problem,) = load_problems(source)
    assert problem.question.startswith(("Ann has 3 pens and buys 4", "What is $3+4$?"))
    assert problem.answer == "7"
    assert problem.solution.endswith("\n#### 7")
    assert problem.solution.count("####") == 1
    assert grade(problem.solution, problem.answer).status is Status.CORRECT


@pytest.mark.parametrize("source", ROWS)
def test_the_files_of_a_set_are_found_in_its_repository(source: str) -> None:
    name, _, split = source.partition(":")
    files = NAMED_SETS[name].splits[split]
    chosen = files_of_split(source, REPOSITORIES[source], files.split, files.folders)
    expected = {
        "gsm-symbolic:p1": ["p1/test.jsonl"],
        "metamathqa:train": ["MetaMathQA-395K.json"],
        "math:train": [f"{subject}/train-00000-of-00001.parquet" for subject in MATH_SUBJECTS],
    }
    assert chosen == expected.get(source, chosen)
    others = [file for file in REPOSITORIES[source] if file not in chosen]
    assert chosen
    assert all(split in file or source in expected for file in chosen)
    assert not any(f"{Path(chosen[0]).parent.as_posix()}/{split}-" in file for file in others)


@pytest.mark.parametrize(
    ("rationale", "solution"),
    [
        ("3 + 4 = 7.\nThe answer is B.", "3 + 4 = 7.\nThe answer is B."),
        ("3 + 4 = 7", "3 + 4 = 7\nThe answer is (B)."),
        ("", None),
    ],
)
def test_options_are_lines_of_the_question_and_the_solution_ends_in_the_letter(
    tmp_path: Path, rationale: str, solution: str | None
) -> None:
    write(tmp_path, "aqua:test", ROWS["aqua:test"] | {"rationale": rationale})
    ((_, row),) = named_rows("aqua:test")
    assert row == {
        "question": "Ann has 3 pens and buys 4. How many?\n(A) 6\n(B) 7\n(C) 8\n(D) 9\n(E) 10",
        "answer": "B",
        "solution": solution,
    }


def test_a_solution_keeps_its_final_sentence_and_loses_the_line_of_gsm8k(tmp_path: Path) -> None:
    write(tmp_path, "metamathqa:train", ROWS["metamathqa:train"])
    assert load_problems("metamathqa:train")[0].solution == "She has 3 + 4 = 7 pens.\nThe answer is: 7\n#### 7"


@pytest.mark.parametrize(
    ("expression", "answer", "solution"),
    [
        ("( 87.0 / 3.0 )", 29.0, "87 / 3 = 29"),
        ("( ( 8.0 + 2.0 ) * 3.0 )", "30", "((8 + 2) * 3) = 30"),
        ("( 3.0 - 0.25 )", 2.75, "3 - 0.25 = 2.75"),
    ],
)
def test_an_equation_is_the_worked_solution(tmp_path: Path, expression: str, answer: object, solution: str) -> None:
    write(tmp_path, "svamp:train", ROWS["svamp:train"] | {"Equation": expression, "Answer": answer})
    assert load_problems("svamp:train")[0].solution.splitlines()[0] == solution


@pytest.mark.parametrize(
    ("source", "changes", "verifier"),
    [
        ("math:train", {"solution": r"It is $\boxed{x+\sqrt{2}}$."}, "math"),
        ("math-500:test", {"answer": r"\left( 3, \frac{\pi}{2} \right)"}, "math"),
        ("numinamath-cot:train", {"solution": r"It is $\boxed{2x}$."}, "math"),
        ("metamathqa:train", {"response": "So.\nThe answer is: x+1"}, "math"),
        ("aqua:test", {}, "choice"),
    ],
)
def test_an_answer_that_is_no_number_is_refused_with_the_verifier_that_reads_it(
    tmp_path: Path, source: str, changes: dict[str, Any], verifier: str
) -> None:
    path = write(tmp_path, source, ROWS[source] | changes)
    with pytest.raises(DataError, match=rf"needs grading\.verifier={verifier}$") as refusal:
        load_problems(source)
    assert str(refusal.value).startswith(f"{path}:1: 'answer' holds no number")


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [
        (r"\boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{3}", "3"),
        (r"\boxed{not closed", None),
        ("none", None),
    ],
)
def test_the_last_box_of_a_solution_holds_its_answer(solution: str, boxed: str | None) -> None:
    assert last_boxed(solution) == boxed


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=re.escape("gsm-symbolic:test: GSM-Symbolic has no split 'test': write gsm-sy")):
        load_problems("gsm-symbolic:test")


def test_a_folder_of_a_set_without_the_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "svamp").mkdir()
    with pytest.raises(DataError, match=r"RFT_DATASETS_DIR is '.*', which has no svamp/train\.jsonl: correct or unset"):
        load_problems("svamp:train")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_of_another_form_is_refused_with_its_columns(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "svamp:train", {"question": "Why?", "answer": "5"}, kind=kind)
    with pytest.raises(DataError, match="no 'Body', which SVAMP has; its columns: question, answer: give a copy of it"):
        load_problems("svamp:train")


def test_a_cell_of_another_kind_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "svamp:train", ROWS["svamp:train"] | {"Body": None})
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}:1: Body, Question, Equation, Answer do not hold"):
        load_problems("svamp:train")


def test_gsm8k_is_read_from_its_own_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "gsm8k:test", {"question": "Set?", "answer": "#### 1"})
    write(tmp_path, "own:test", {"question": "Own?", "answer": "#### 1"})
    assert load_problems("gsm8k:test")[0].question == "Set?"
    monkeypatch.setenv("RFT_GSM8K_DIR", str(tmp_path / "own"))
    assert load_problems("gsm8k:test")[0].question == "Own?"

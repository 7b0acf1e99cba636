"""The problems of files of rows, and the rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray.data.problem_sources import load_problems
from rft_ray.data.row_files import DataError
from rft_ray.records import Problem, problem_id
from tests.unit.data.problem_rows import Write, row

# --- Reading --------------------------------------------------------------------------------------


def test_a_row_becomes_a_problem_with_its_gold_answer(jsonl: Write) -> None:
    question, answer = " Tom has 3 pens. \n", "3+2 = <<3+2=5>>5\n#### 1,005 \n"
    assert load_problems(jsonl({"question": question, "answer": answer})) == [
        Problem(problem_id(question), "Tom has 3 pens.", "3+2 = <<3+2=5>>5\n#### 1,005", "1005")
    ]


def test_the_last_of_several_final_answers_is_gold(jsonl: Write) -> None:
    assert load_problems(jsonl(row(1, answer="First\n#### 4\nthen\n#### 7")))[0].answer == "7"


def test_extra_columns_are_ignored(jsonl: Write) -> None:
    assert load_problems(jsonl(row(1, source="web", level=3))) == load_problems(jsonl(row(1)))


@pytest.mark.parametrize("line", [b"", b"  ", b"\r"])
def test_blank_lines_are_skipped(jsonl: Write, line: bytes) -> None:
    assert len(load_problems(jsonl(row(1), line, row(2), line))) == 2


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(jsonl: Write, tmp_path: Path) -> None:
    plain = load_problems(jsonl(row(1), row(2)))
    data = (tmp_path / "data.jsonl").read_bytes()
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))
    assert load_problems(str(tmp_path / "windows.jsonl")) == plain


def test_a_line_separator_inside_a_question_does_not_split_the_row(jsonl: Write) -> None:
    line = json.dumps(row(1, question="One\u2028two?"), ensure_ascii=False).encode()
    assert load_problems(jsonl(line))[0].question == "One\u2028two?"


def test_parquet_and_jsonl_of_the_same_rows_are_the_same_problems(jsonl: Write, parquet: Write) -> None:
    rows = [row(number) for number in range(20)]
    assert load_problems(jsonl(*rows)) == load_problems(parquet(*rows))


# --- Refusing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON ("),
        (b'{"question": "a\xff"}', "not UTF-8 at byte 16 of the line"),
        (b'"text"', "a JSON str, not an object"),
        (row(9, question=...), "no 'question' or 'problem' or 'prompt' or 'query' or 'input'; its columns: answer"),
        (row(9, answer=...), "no 'answer' or 'final_answer' or"),
        (row(9, question=None), "no 'question'"),
        (row(9, question=5), "'question' must be text, not int"),
        (row(9, question=" \n"), "'question' is empty"),
        (row(9, question="\ud800"), "'question' has half a surrogate pair"),
        (row(9, answer="So it is 18\n####18"), "'answer' must end in '#### <number>'"),
        (row(9, answer="So it is 18\n#### 18\nThat is all."), "'answer' must end in '#### <number>'"),
        (row(9, answer="So it is blue\n#### blue"), "'answer' must end in '#### <number>' (it ends in '#### blue')"),
        (row(9, answer="Either\n#### 18 or 19"), "'answer' must end in '#### <number>'"),
        (row(9, answer="None\n#### "), "'answer' must end in '#### <number>'"),
        (row(9, answer="blue"), "'answer' holds no number that the grader can read ('blue')"),
        (row(9, answer="18 or 19"), "'answer' holds no number that the grader can read ('18 or 19')"),
        (row(9, answer="2, 3"), "'answer' holds no number"),
        (row(9, answer=r"3\sqrt{2}"), "'answer' holds no number"),
        (row(9, answer="2x"), "'answer' holds no number"),
        (row(9, answer=True), "'answer' holds no number that the grader can read (True)"),
        (row(9, answer=[18]), "'answer' must be text, not list"),
        (row(9, answer=" "), "'answer' is empty"),
        (row(9, answer=float("nan")), "no 'answer'; its columns: question, answer"),
        (row(9, answer=7, solution="So.\n#### 8"), "'answer' is '7', but 'solution' ends in '#### 8'"),
        (row(9, answer=7, solution="So.\n####8"), "'answer' is '7', but 'solution' states '8'"),
        (row(9, answer=7, solution="So.\n#### 8\nThat is all."), "'answer' is '7', but 'solution' states '8'"),
        (row(9, answer=7, solution="Either\n#### 7 or 8"), "'solution' must end in '#### <number>'"),
        (
            row(9, answer=None, solution="So it is blue."),
            "no answer, and the grader reads none at the end of 'solution'",
        ),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(jsonl: Write, bad: dict[str, Any] | bytes, said: str) -> None:
    path = jsonl(row(1), bad, row(2))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert str(refusal.value).startswith(f"{path}:2: {said}")
    if "holds no number" in said:
        assert "need another grading.verifier (docs/verifiers.md)" in str(refusal.value)


def test_a_repeated_question_is_refused_with_both_lines(jsonl: Write) -> None:
    path = jsonl(row(1), row(2), row(1, question=" What is 1 and 1? "))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert (
        str(refusal.value)
        == f"{path}:3: the same question as {path}:1: remove one of the two, or set problems.duplicates=drop"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": None}, "row 2: no 'answer'"),
        ({"answer": "blue"}, "row 2: 'answer' holds no number"),
        ({"question": "What is 1 and 1?"}, "row 2: the same question as"),
    ],
)
def test_a_bad_parquet_row_is_refused_with_its_number(parquet: Write, changes: dict[str, Any], said: str) -> None:
    path = parquet(row(1), row(2, **changes))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert str(refusal.value).startswith(f"{path}: {said}")


def test_a_parquet_file_without_a_needed_column_is_refused_with_those_it_has(parquet: Write) -> None:
    with pytest.raises(DataError, match=r"data\.parquet: no 'answer' or .*; its columns: question, text"):
        load_problems(parquet({"question": "Why?", "text": "So.\n#### 1"}))


def test_a_parquet_column_of_numbers_is_a_column_of_answers(parquet: Write) -> None:
    assert load_problems(parquet({"question": "Why?", "answer": 1}))[0].answer == "1"


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_row(tmp_path: Path) -> None:
    good, bad = pa.array([b"Why?", b"\xff"]).view(pa.string()), pa.array(["So.\n#### 1"] * 2)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"question": good, "answer": bad}), path)
    with pytest.raises(DataError, match="row 2: 'question' is not UTF-8"):
        load_problems(str(path))


@pytest.mark.parametrize("content", [b"", b"PAR1 is not enough", b"\0" * 100])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as Parquet"):
        load_problems(str(path))


@pytest.mark.parametrize("lines", [(), (b"", b" ")])
def test_an_empty_file_is_refused(jsonl: Write, lines: tuple[bytes, ...]) -> None:
    with pytest.raises(DataError, match="holds no problems"):
        load_problems(jsonl(*lines))

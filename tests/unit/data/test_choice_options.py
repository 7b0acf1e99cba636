"""Options in columns of their own are part of the question, as the model reads it and the report shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rft_ray import config
from rft_ray.config import Grading
from rft_ray.data import prompts
from rft_ray.data.choice_options import labelled
from rft_ray.data.problems import prepare
from rft_ray.data.row_files import DataError
from tests.unit.data.problem_rows import Write
from tests.unit.grading.test_verifiers import spec_with

LINES = "Which is largest?\n(A) a hen\n(B) a cow\n(C) an ant"
TEXTS = ["a hen", "a cow", "an ant"]
CHOICE = spec_with(Grading(verifier="choice"))


def question(source: str, **columns: str) -> str:
    [problem] = prepare(config.ProblemSet(source=source, **columns), 0, 10, rules=CHOICE).problems
    assert problem.answer == "B"
    return problem.question


@pytest.mark.parametrize(
    "options",
    [
        {"A": "a hen", "B": "a cow", "C": "an ant"},
        {"c": "an ant", "b": "a cow", "a": "a hen"},
        {"option_a": "a hen", "option_b": "a cow", "option_c": "an ant", "option_d": None},
        {"Choice A": "a hen", "Choice B": "a cow", "Choice C": "an ant"},
        {"options": TEXTS},
        {"choices": ["A) a hen", "B) a cow", "C) an ant"]},
        {"choices": ["A. a hen", "B. a cow", "C. an ant"]},
        {"choices": {"label": ["A", "B", "C"], "text": TEXTS}},
        {"options": [{"label": name, "text": text} for name, text in zip("ABC", TEXTS, strict=True)]},
        {"options": dict(zip("ABC", TEXTS, strict=True))},
        {"options": '["a hen", "a cow", "an ant"]'},
        {"options": str(TEXTS)},
    ],
)
def test_options_are_lines_of_the_question(options: dict[str, Any], jsonl: Write) -> None:
    asked = question(jsonl({"question": "Which is largest?", "answer": "B", **options}))
    assert asked == LINES
    assert LINES in str(prompts.build("Question: {query}", asked))


def test_options_of_a_table_are_read(tmp_path: Path, parquet: Write) -> None:
    (tmp_path / "data.csv").write_text("question,A,B,C,D,correct\nWhich is largest?,a hen,a cow,an ant,,(B)\n")
    assert question(str(tmp_path / "data.csv"), answer="correct") == LINES
    assert question(parquet({"question": "Which is largest?", "choices": TEXTS, "answer": "B"})) == LINES


@pytest.mark.parametrize("written", [LINES, LINES.replace("(A)", "A.").replace("(B)", "B.").replace("(C)", "C.")])
def test_options_that_the_question_has_are_not_repeated(written: str, jsonl: Write) -> None:
    assert question(jsonl({"question": written, "answer": "B", "options": TEXTS})) == written


def test_options_of_numbers_do_not_count_as_part_of_a_question_with_these_numbers(jsonl: Write) -> None:
    asked = question(jsonl({"question": "Is 3 or 4 more?", "answer": "B", "A": 3, "B": 4}))
    assert asked == "Is 3 or 4 more?\n(A) 3\n(B) 4"


def test_other_verifiers_read_the_question_alone(jsonl: Write) -> None:
    source = jsonl({"question": "Is 3 or 4 more?", "answer": 4, "A": 3, "B": 4})
    assert prepare(config.ProblemSet(source=source), 0, 10).problems[0].question == "Is 3 or 4 more?"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"options": "red or blue"}, "'options' must be a list of up to 10 texts"),
        ({"options": ["x"] * 11}, "'options' must be a list of up to 10 texts"),
        ({"options": ["x", None]}, "'options' must be a list of up to 10 texts"),
        ({"options": "[" * 50_000}, "'options' must be a list of up to 10 texts"),
        ({"A": "x", "B": ""}, "'A' holds one option only"),
    ],
)
def test_options_that_cannot_be_read_are_refused_with_their_place(
    options: dict[str, Any], said: str, jsonl: Write
) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:1: ") as refused:
        question(jsonl({"question": "Which?", "answer": "B", **options}))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400


def test_an_option_without_a_letter_has_that_of_its_place() -> None:
    assert labelled(["A)21", "(B) 4 (A)", "21", "D: x"]) == [("A", "21"), ("B", "4 (A)"), ("C", "21"), ("D", "x")]

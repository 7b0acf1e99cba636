"""Reads solutions whose answers others have labelled as right or wrong: a file or folder -> `LabelledRow`s, lazily.

In: the files as their authors publish them (`public_data.py` lists addresses and commits). Nothing in them is executed.
A label is the authors' own: their field where the file has one, else their published rule.

    gsm8k_solutions   openai/grade-school-math: four models' solutions of the test set, `is_correct`
    abel              GAIR-NLP/abel: responses and `result`
    zeroeval          WildEval/ZeroEval: chat models' JSON texts; labels by the rule of its `math_eval.py`, below
    run               a run of rft-ray: its completions, without labels

Every error is a DataError that names the file and the row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from rft_ray.data.problems import read_problems
from rft_ray.data.row_files import DataError, rows
from rft_ray.plan.judges import JUDGE
from rft_ray.records import Completion, from_table
from rft_ray.store import read_table
from rft_ray.store.names import committed_files
from rft_ray.store.runs import open_run

SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
"""The models whose solutions a row of GSM8K's authors holds."""
_UNQUOTED = re.compile(r'"answer"\s{0,20}:\s{0,20}(?:"([^"]{0,2000})"|([^,\s]{0,200}))')
_BRACES = re.compile(r"[{}]")
_NUMBER = re.compile(r"-?\d{1,400}(?:\.\d{1,400})?")
_QUOTIENT = re.compile(r"\s*(-?\d{1,400}(?:\.\d{1,400})?)\s*/\s*(\d{1,400}(?:\.\d{1,400})?)\s*")


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One text, the gold answer, and whether the authors call its final answer right (None: they do not say).

    Example: LabelledRow("13b.jsonl:7", "So 3 + 2 = 5 pens. #### 5", "5", True)
    """

    place: str
    text: str
    gold: str
    right: bool | None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows under the name that the tables show. `rows` starts anew with each call."""

    name: str
    rows: Callable[[], Iterator[LabelledRow]]


def gsm8k_solutions(source: str) -> Iterator[LabelledRow]:
    """`example_model_solutions.jsonl`: the gold answer is what follows the last `A:` of `ground_truth`."""
    for place, row in rows(source):
        gold = field(row, place, "ground_truth", str).rpartition("A:")[2].strip()
        for solver in SOLVERS:
            solution = field(row, place, solver, dict)
            where = f"{place} {solver}"
            right = field(solution, where, "is_correct", bool)
            yield LabelledRow(where, field(solution, where, "solution", str), gold, right)


def abel(source: str) -> Iterator[LabelledRow]:
    """`outputs/gsm8k*/*.jsonl`."""
    for place, row in rows(source):
        text, gold = field(row, place, "response", str), str(field(row, place, "gold", (str, int, float)))
        yield LabelledRow(place, text, gold, field(row, place, "result", bool))


def zeroeval(source: str, form: Literal["decoded", "written"]) -> Iterator[LabelledRow]:
    """`result_dirs/gsm/*.json`: models were asked for a JSON text with `reasoning` and `answer`.

    `written`: that text as it is. `decoded`: the reasoning and, as GSM8K writes it, the answer; the text as it is where
    it is no such JSON.
    """
    for place, row in rows(source):
        outputs = field(row, place, "output", list)
        if not outputs or not isinstance(outputs[0], str):
            raise DataError(
                f"{place}: `output` must be a list with a text: is this a file of ZeroEval's result_dirs/gsm?"
            )
        gold = field(row, place, "answer", str).replace("#", "").strip()
        text = outputs[0]
        values = json_values(text)
        said = written_answer(text) if values is None else values.get("answer")
        decoded = text if values is None or form == "written" else as_solution(values, text)
        yield LabelledRow(place, decoded, gold, None if said is None else same_first_number(str(said), gold))


def as_solution(values: Mapping[str, Any], text: str) -> str:
    """The reasoning and the answer of a JSON text, or the text itself where one of them is missing."""
    if "reasoning" not in values or "answer" not in values:
        return text
    reasoning = values["reasoning"]
    written = reasoning if isinstance(reasoning, str) else json.dumps(reasoning, ensure_ascii=False)
    return f"{written}\n#### {values['answer']}"


def json_values(text: str) -> dict[str, Any] | None:
    """The first JSON object of a text, found by its braces as ZeroEval does; None where it cannot be read."""
    depth, start = 0, -1
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            start = brace.start() if depth == 0 else start
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                return _object(text[start : brace.end()])
    return None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def written_answer(text: str) -> str | None:
    """The value after `"answer":` in a text that is no JSON, in quotes or up to a blank or a comma."""
    match = _UNQUOTED.search(text)
    return next(group for group in match.groups() if group is not None) if match else None


def same_first_number(answer: str, gold: str) -> bool:
    """ZeroEval's label: the first numbers of both are equal, without `$` and `,`, a quotient as its value."""
    said, wanted = _first_number(answer), _first_number(gold)
    return said is not None and said == wanted


def _first_number(text: str) -> Fraction | None:
    plain = text[:4_000].replace("$", "").replace(",", "").strip()
    if (quotient := _QUOTIENT.fullmatch(plain)) and Fraction(quotient[2]):
        return Fraction(quotient[1]) / Fraction(quotient[2])
    number = _NUMBER.search(plain)
    return Fraction(number[0]) if number else None


def run_completions(url: str) -> Iterator[LabelledRow]:
    """All completions of a run, those of its evaluations too, but no answers of its judge; none has a label.

    Raises StoreError.
    """
    store = open_run(url)
    for (stem, _), key in sorted(committed_files(store.list("completions/")).items()):
        golds = {problem.problem_id: problem.answer for problem in read_problems(store, stem.split("/")[1])}
        table, metadata = read_table(store, key)
        if json.loads(metadata.get("model", "{}")).get("name") == JUDGE:
            continue
        for row in from_table(table, Completion):
            place = f"{stem} {row.problem_id} {row.sample_index}"
            yield LabelledRow(place, row.text, golds[row.problem_id], None, row.finish_reason == "length")


def field(row: Mapping[str, Any], place: str, name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of a row. Raises DataError where it is missing or of another type."""
    if isinstance(row.get(name), kind):
        return row[name]
    wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
    raise DataError(f"{place}: `{name}` must be {wanted}, is {row.get(name)!r:.60}: is this the file that is meant?")

"""Well-known problem sets by name -> rows with question, answer and solution, ready for `gold_rows`.

In: a name of `NAMED_SETS` and a split, as in `svamp:test`. Out: the rows, from the folder of local copies that
RFT_DATASETS_DIR names (`<name>/<split>.jsonl`, or another kind of `row_files`), otherwise from the hub.

Sources: the data set cards of the repositories on the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.data.choice_options import labelled
from rft_ray.data.gold_rows import USUAL, number_text
from rft_ray.data.hub_rows import hub_rows
from rft_ray.data.row_files import ROW_FILES, Choose, DataError, Row, rows

DATASETS_DIR = "RFT_DATASETS_DIR"
"""Environment variable: a folder with local copies of named sets, used instead of the hub."""
GSM8K_DIR = "RFT_GSM8K_DIR"
"""Environment variable: a folder with GSM8K's train.jsonl and test.jsonl, used before all others for GSM8K."""

Parts = dict[str, Any]
"""The columns `question`, `answer` and `solution` of a row; None where it has no such part."""


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a split in a repository. Example: HubFiles("test", ("p1",)) is p1/test-….parquet or p1/test.jsonl."""

    split: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedSet:
    """One well-known set: where it is, and how its rows are read.

    Example: NamedSet("MATH-500", "HuggingFaceH4/MATH-500", {"test": HubFiles("test")}, verifier="math")
    """

    title: str
    dataset: str
    """`owner/name` on the hub."""
    splits: Mapping[str, HubFiles]
    columns: tuple[str, ...] = ()
    """The arguments of `parts`; empty where the columns are found by name."""
    parts: Callable[..., Parts] | None = None
    """The cells of `columns` -> question, answer and solution."""
    verifier: str = "gsm8k"
    """The `grading.verifier` that reads all of its answers."""


# --- How rows are read ----------------------------------------------------------------------------


def _word_problem(body: str, question: str, expression: str, answer: Any) -> Parts:
    """A story, its question, and an expression such as `( 8.0 - 3.0 )`, which is the worked solution."""
    return _solved_by_expression(f"{body.strip()} {question.strip()}", expression, answer)


def _solved_by_expression(question: str, expression: str, answer: Any) -> Parts:
    final = _without_zeros(number_text(answer) or str(answer))
    steps = re.sub(r"(?<=\() | (?=\))", "", _without_zeros(expression.strip()))
    if _PARENTHESES.fullmatch(steps):
        steps = steps[1:-1]
    return {"question": question, "answer": final, "solution": f"{steps} = {final}" if steps else None}


_PARENTHESES = re.compile(r"\([^()]*\)")


def _without_zeros(text: str) -> str:
    """Numbers such as 8.0 as 8."""
    return re.sub(r"(\d)\.0+(?!\d)", r"\1", text)


def _multiple_choice(question: str, options: list[str], letter: str, rationale: str | None) -> Parts:
    """The options, written as `A)21`, are lines of the question: `(A) 21`. The solution ends in the letter."""
    lines = [f"({name}) {text}" for name, text in labelled(options)]
    answer, solution = letter.strip(), (rationale or "").strip()
    if solution and not re.search(rf"answer is \(?{re.escape(answer)}\)?\.?\Z", solution, re.IGNORECASE):
        solution += f"\nThe answer is ({answer})."
    return {"question": "\n".join([question.strip(), *lines]), "answer": answer, "solution": solution or None}


def _boxed_solution(problem: str, solution: str) -> Parts:
    return {"question": problem, "answer": last_boxed(solution), "solution": solution}


def _answer_is(query: str, response: str) -> Parts:
    """A response that ends in `The answer is: 5`, before which the rows made from GSM8K have a line `#### 5`."""
    lines = [line for line in response.splitlines() if not line.startswith("####")]
    _, phrase, answer = response.rpartition("The answer is:")
    return {"question": query, "answer": answer if phrase else None, "solution": "\n".join(lines)}


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` or `\fbox{…}` of a solution holds; None where there is none."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    depth, opening = 0, text.find("{", start)
    for end in range(opening, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[opening + 1 : end]
    return None


# --- The sets -------------------------------------------------------------------------------------


def _of(*splits: str, folders: tuple[str, ...] = ()) -> dict[str, HubFiles]:
    return {split: HubFiles(split, folders) for split in splits}


_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

NAMED_SETS: Mapping[str, NamedSet] = {
    "gsm8k": NamedSet("GSM8K", "openai/gsm8k", _of("train", "test", folders=("main",))),
    "gsm8k-platinum": NamedSet("GSM8K-Platinum", "madrylab/gsm8k-platinum", _of("test")),
    "gsm-symbolic": NamedSet(
        "GSM-Symbolic",
        "apple/GSM-Symbolic",
        {name: HubFiles("test", (name,)) for name in ("main", "p1", "p2")},
    ),
    "math": NamedSet(
        "MATH",
        "EleutherAI/hendrycks_math",
        _of("train", "test", folders=_MATH_SUBJECTS),
        ("problem", "solution"),
        _boxed_solution,
        verifier="math",
    ),
    "math-500": NamedSet("MATH-500", "HuggingFaceH4/MATH-500", _of("test"), verifier="math"),
    "svamp": NamedSet(
        "SVAMP",
        "ChilleD/SVAMP",
        _of("train", "test"),
        ("Body", "Question", "Equation", "Answer"),
        _word_problem,
    ),
    "mawps": NamedSet(
        "MAWPS",
        "MU-NLPC/Calc-mawps",
        _of("train", "validation", "test", folders=("data",)),
        ("question", "expression", "result"),
        _solved_by_expression,
    ),
    "aqua": NamedSet(
        "AQuA",
        "deepmind/aqua_rat",
        _of("train", "validation", "test", folders=("raw",)),
        ("question", "options", "correct", "rationale"),
        _multiple_choice,
        verifier="choice",
    ),
    "metamathqa": NamedSet(
        "MetaMathQA",
        "meta-math/MetaMathQA",
        _of("train"),
        ("query", "response"),
        _answer_is,
        verifier="math",
    ),
    "numinamath-cot": NamedSet(
        "NuminaMath-CoT",
        "AI-MO/NuminaMath-CoT",
        _of("train", "test"),
        ("problem", "solution"),
        _boxed_solution,
        verifier="math",
    ),
}


def named_rows(source: str, commit: str = "") -> Iterator[Row]:
    """The rows of a source `<name>:<split>`. Raises DataError where the split or a file cannot be read.

    `commit`: the one to read from the hub, where no local copy is read; empty: the newest.
    """
    name, _, split = source.partition(":")
    named = NAMED_SETS[name]
    if split not in named.splits:
        valid = " or ".join(f"{name}:{known}" for known in named.splits)
        raise DataError(f"{source}: {named.title} has no split {split!r}: write {valid}")
    for where, row in _rows(source, name, split, commit):
        yield where, _parts(where, row, named) if named.parts else row


def hub_dataset(source: str) -> str | None:
    """The data set on the hub that a source `<name>:<split>` is read from; None where a local copy is read."""
    return None if local_copy(source) else NAMED_SETS[source.partition(":")[0]].dataset


def local_copy(source: str) -> Path | None:
    """The local file that is read for a source `<name>:<split>`; None: it is read from the hub.

    Raises DataError where there is a folder for the set and the split is not in it.
    """
    name, _, split = source.partition(":")
    if name == "gsm8k" and os.environ.get(GSM8K_DIR):
        return _copy(source, GSM8K_DIR, split)
    if (given := os.environ.get(DATASETS_DIR)) and (Path(given) / name).is_dir():
        return _copy(source, DATASETS_DIR, f"{name}/{split}")
    return None


def _copy(source: str, variable: str, file: str) -> Path:
    """The file in the folder that an environment variable names, of any kind."""
    folder = os.environ[variable]
    paths = (Path(folder) / f"{file}{kind}" for kind in ROW_FILES)
    if path := next((path for path in paths if path.is_file()), None):
        return path
    raise DataError(f"{source}: {variable} is {folder!r}, which has no {file}.jsonl: correct or unset it")


def _rows(source: str, name: str, split: str, commit: str) -> Iterator[Row]:
    named = NAMED_SETS[name]
    choose = _chooser(named) if named.parts else USUAL.choose
    if copy := local_copy(source):
        yield from rows(str(copy), choose=choose)
        return
    files = named.splits[split]
    try:
        yield from hub_rows(source, named.dataset, files.split, choose, files.folders, commit=commit)
    except DataError as error:
        raise DataError(f"{error}; or set {_remedy(name, split)}") from error


def _remedy(name: str, split: str) -> str:
    if name == "gsm8k":
        return f"{GSM8K_DIR} to a folder with train.jsonl and test.jsonl"
    return f"{DATASETS_DIR} to a folder with {name}/{split}.jsonl"


def _chooser(named: NamedSet) -> Choose:
    def choose(file: str, names: Sequence[str]) -> Sequence[str]:
        _check_columns(file, names, named)
        return named.columns

    return choose


def _check_columns(where: str, names: Iterable[str], named: NamedSet) -> None:
    if missing := [column for column in named.columns if column not in names]:
        known = ", ".join(map(str, names)) or "none"
        raise DataError(f"{where}: no {missing[0]!r}, which {named.title} has; its columns: {known}: give a copy of it")


def _parts(where: str, row: Mapping[str, Any], named: NamedSet) -> Parts:
    """The parts of one row. Raises DataError where it is not of the set's form."""
    _check_columns(where, row, named)
    cells = [row[column] for column in named.columns]
    try:
        return named.parts(*cells) if named.parts else dict(row)
    except (TypeError, AttributeError) as error:
        columns = ", ".join(named.columns)
        raise DataError(f"{where}: {columns} do not hold what they hold in {named.title} ({error})") from error

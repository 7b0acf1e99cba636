"""Problem sets by source: the embedded generator, GSM8K, a hub data set, a local or S3 file -> a list of `Problem`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft_ray.data import hub
from rft_ray.data.row_files import KINDS, DataError, Row, names_rows, rows
from rft_ray.grading.answers import ConflictError, read_number
from rft_ray.records import Problem, problem_id

QUESTION, ANSWER = "question", "answer"
"""Columns of a problem's row."""
GSM8K = "openai/gsm8k"
GSM8K_DIR = "RFT_GSM8K_DIR"
"""Environment variable: a folder with GSM8K's train.jsonl and test.jsonl, used instead of the hub."""

_TINY = re.compile(r"(?P<split>\w+):(?P<count>\d{1,7})(?::(?P<seed>\d{1,9}))?(?::(?P<low>\d)-(?P<high>\d))?")
_SPLIT_FILE = re.compile(r"(?:(?P<folder>.+)/)?(?P<split>\w+?)(?:-\d[\w-]*)?\.parquet")
_USUAL_FOLDERS = ("main", "default", "data", "")


def load_problems(source: str) -> list[Problem]:
    """All problems of a source, in the order of its rows. Raises DataError, and StoreError for S3 out of reach.

    Sources: `gsm8k:<split>`, `hub:<dataset>[/<folder>][@<revision>]:<split>`,
    `tiny:<split>:<count>[:<seed>][:<low>-<high>]`, or the path of a .jsonl or .parquet file, local or `s3://`.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "tiny":
        return _generated(source, rest)
    if colon and kind == "gsm8k":
        return problems_of(source, _gsm8k_rows(source, rest))
    if colon and kind == "hub":
        return problems_of(source, _hub_rows(source, rest))
    return problems_of(source, _file_rows(source))


# --- Where the rows come from ---------------------------------------------------------------------


def _generated(source: str, rest: str) -> list[Problem]:
    """The embedded generator's problems."""
    from rft_ray.data.tiny.generator import generate

    match = _TINY.fullmatch(rest)
    if not match or not int(match["count"]):
        raise DataError(f"{source}: write tiny:<split>:<count>, as in tiny:train:600 or tiny:test:300:7:2-4")
    options: dict[str, Any] = {}
    if match["seed"]:
        options["seed"] = int(match["seed"])
    if match["low"]:
        options["steps"] = (int(match["low"]), int(match["high"]))
    try:
        return generate(int(match["count"]), split=match["split"], **options)  # type: ignore[arg-type]  # it checks
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None


def _gsm8k_rows(source: str, split: str) -> Iterator[Row]:
    if split not in ("train", "test"):
        raise DataError(f"{source}: GSM8K has no split {split!r}: write gsm8k:train or gsm8k:test")
    if folder := os.environ.get(GSM8K_DIR):
        path = Path(folder) / f"{split}.jsonl"
        if not path.is_file():
            raise DataError(f"{source}: {GSM8K_DIR} is {folder!r}, which has no {path.name}: correct or unset it")
        yield from rows(str(path), choose=_columns)
    else:
        try:
            yield from _hub_rows(source, f"{GSM8K}:{split}")
        except DataError as error:
            raise DataError(f"{error}; or set {GSM8K_DIR} to a folder with train.jsonl and test.jsonl") from error


def _hub_rows(source: str, rest: str) -> Iterator[Row]:
    """The rows of the Parquet files of one split of a hub dataset `owner/name[/folder][@revision]:split`."""
    address, colon, split = rest.rpartition(":")
    if not colon or not address or not split:
        raise DataError(f"{source}: write hub:<dataset>:<split>, as in hub:{GSM8K}:train")
    address, at, revision = address.partition("@")
    owner, name, folder = (*address.split("/", 2), "", "")[:3]
    dataset = f"{owner}/{name}" if name else owner

    def choose(files: Sequence[str]) -> Sequence[str]:
        return _files_of_split(source, files, split, folder or None)

    try:
        paths = hub.snapshot(dataset + at + revision, "dataset", choose)
    except hub.HubError as error:
        raise DataError(f"{source}: {error}") from error
    for path in paths:
        yield from rows(str(path), name=f"{source} ({path.name})", choose=_columns)


def _files_of_split(source: str, files: Sequence[str], split: str, folder: str | None) -> list[str]:
    """The files of one split, all from one folder (a dataset may have a folder for each configuration)."""
    matches = [match for file in sorted(files) if (match := _SPLIT_FILE.fullmatch(file))]
    of_split = [match for match in matches if match["split"] == split]
    folders = sorted({match["folder"] or "" for match in of_split})
    if folder is None:
        usual = [usual for usual in _USUAL_FOLDERS if usual in folders]
        folder = folders[0] if len(folders) == 1 else usual[0] if usual else None
    if chosen := [match[0] for match in of_split if (match["folder"] or "") == folder]:
        parts = re.search(r"-of-(\d+)", chosen[0])
        if parts and int(parts[1]) != len(chosen):
            raise DataError(f"{source}: {len(chosen)} of {int(parts[1])} files are there: complete the download")
        return chosen
    if of_split:
        raise DataError(f"{source}: split {split!r} is in the folders {', '.join(folders)}: write <dataset>/<folder>")
    known = ", ".join(sorted({match["split"] for match in matches})) or "none"
    raise DataError(f"{source}: no Parquet file of a split {split!r}; splits there: {known}")


def _file_rows(source: str) -> Iterator[Row]:
    """The rows of a file that the user names by its path."""
    if not names_rows(source):
        raise DataError(
            f"{source}: not a source of problems: write gsm8k:<split>, hub:<dataset>:<split>, tiny:<split>:<count>, "
            f"or a file, a folder or a pattern of files, local or s3://, that end in {KINDS}"
        )
    return rows(source, choose=_columns)


def _columns(name: str, columns: Sequence[str]) -> Sequence[str]:
    for column in (QUESTION, ANSWER):
        if column not in columns:
            raise DataError(
                f"{name}: no column {column!r}; its columns: {', '.join(columns)}: rename the one that holds it"
            )
    return QUESTION, ANSWER


# --- From rows to problems ------------------------------------------------------------------------


def problems_of(
    source: str, rows: Iterable[Row], question_column: str = QUESTION, answer_column: str = ANSWER
) -> list[Problem]:
    """One problem per row, in order. Raises DataError for the first invalid row, or when there are no rows.

    A row needs a question, and a gold solution that ends in `#### <number>`; no question may come twice.
    """
    places: dict[str, str] = {}
    problems = []
    for where, row in rows:
        problem = _problem(where, row, question_column, answer_column)
        first = places.setdefault(problem.problem_id, where)
        if first != where:
            raise DataError(f"{where}: the same question as {first}: remove one of the two")
        problems.append(problem)
    if not problems:
        raise DataError(f"{source}: holds no problems: give rows with {question_column!r} and {answer_column!r}")
    return problems


def _problem(where: str, row: Mapping[str, Any], question_column: str, answer_column: str) -> Problem:
    """One row as a problem. Raises DataError, which names the column that cannot be used."""
    question, solution = _text(where, row, question_column), _text(where, row, answer_column)
    reasoning, mark, final = solution.rpartition("#### ")
    answer = final.replace(",", "").strip()
    if not mark or not reasoning.strip():
        raise DataError(
            f"{where}: {answer_column!r} is no gold solution: fine-tuning needs the reasoning, then a last line "
            f"'#### <number>' (it ends in {solution[-40:]!r})"
        )
    if "\n" in answer or not _is_number(answer):
        raise DataError(f"{where}: {answer_column!r} must end in '#### <number>' (it ends in {(mark + final)[:40]!r})")
    return Problem(problem_id(question), question, solution, answer)


def _is_number(answer: str) -> bool:
    """Whether the grader can read a number in the answer; without one, no completion could be correct."""
    try:
        return read_number(answer) is not None
    except ConflictError:
        return False


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError(f"{where}: no {column!r}; its columns: {', '.join(map(str, row)) or 'none'}: add it")
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, not {type(value).__name__}: put it in quotes")
    if not value.strip():
        raise DataError(f"{where}: {column!r} is empty: fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {column!r} has half a surrogate pair: write the whole character") from None
    return value.strip()

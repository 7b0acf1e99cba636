"""Problem sets by source: the embedded generator, GSM8K, a hub data set, a local or S3 file -> a list of `Problem`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.data import hub
from rft_ray.data.gold_rows import USUAL, Columns, gold_rows, problem_of, read_answer
from rft_ray.data.row_files import KINDS, DataError, Row, names_rows, rows
from rft_ray.records import Problem

GSM8K = "openai/gsm8k"
GSM8K_DIR = "RFT_GSM8K_DIR"
"""Environment variable: a folder with GSM8K's train.jsonl and test.jsonl, used instead of the hub."""

_TINY = re.compile(r"(?P<split>\w+):(?P<count>\d{1,7})(?::(?P<seed>\d{1,9}))?(?::(?P<low>\d)-(?P<high>\d))?")
_SPLIT_FILE = re.compile(r"(?:(?P<folder>.+)/)?(?P<split>\w+?)(?:-\d[\w-]*)?\.parquet")
_USUAL_FOLDERS = ("main", "default", "data", "")


Placed = tuple[str, Problem]
"""(place, problem). The place is the file and line or row that a message about the problem names."""


def load_problems(source: str, columns: Columns = USUAL) -> list[Problem]:
    """All problems of a source, in the order of its rows. Raises DataError, and StoreError for S3 out of reach.

    Sources: `gsm8k:<split>`, `hub:<dataset>[/<folder>][@<revision>]:<split>`,
    `tiny:<split>:<count>[:<seed>][:<low>-<high>]`, or a file, a folder or a glob of `row_files`, local or `s3://`.
    """
    return deduplicated(source, placed_problems(source, columns)).problems


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
        yield from rows(str(path), choose=USUAL.choose)
    else:
        try:
            yield from _hub_rows(source, f"{GSM8K}:{split}", USUAL)
        except DataError as error:
            raise DataError(f"{error}; or set {GSM8K_DIR} to a folder with train.jsonl and test.jsonl") from error


def _hub_rows(source: str, rest: str, columns: Columns) -> Iterator[Row]:
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
        yield from rows(str(path), name=f"{source} ({path.name})", choose=columns.choose)


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


def _file_rows(source: str, columns: Columns) -> Iterator[Row]:
    """The rows of a file that the user names by its path."""
    if not names_rows(source):
        raise DataError(
            f"{source}: not a source of problems: write gsm8k:<split>, hub:<dataset>:<split>, tiny:<split>:<count>, "
            f"or a file, a folder or a pattern of files, local or s3://, that end in {KINDS}"
        )
    return rows(source, choose=columns.choose)


# --- From rows to problems ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Problems without repeated questions, and the number of rows left out.

    Example: Deduplicated([<Problem>, …], 3, 2)
    """

    problems: list[Problem]
    repeated: int
    """Rows with question and answer of an earlier row."""
    conflicting: int
    """Rows of the questions that have more than one answer; all of them are left out."""


def deduplicated(source: str, placed: Iterable[Placed], *, drop: bool = False) -> Deduplicated:
    """The problems of a source, in order. Raises DataError when it has none, or a question comes twice.

    With `drop`, repeated rows are left out and counted: of equal rows, the first one with a solution stays.
    """
    first: dict[str, Placed] = {}
    rows: Counter[str] = Counter()
    conflicts: set[str] = set()
    for where, problem in placed:
        name = problem.problem_id
        place, earlier = first.setdefault(name, (where, problem))
        rows[name] += 1
        if rows[name] == 1:
            continue
        other = read_answer(problem.answer) != read_answer(earlier.answer)
        if not drop:
            but = f" with another answer ({problem.answer}, there {earlier.answer})" if other else ""
            raise DataError(
                f"{where}: the same question as {place}{but}: remove one of the two, or set problems.duplicates=drop"
            )
        if other:
            conflicts.add(name)
        elif problem.solution and not earlier.solution:
            first[name] = where, problem
    problems = [problem for name, (_, problem) in first.items() if name not in conflicts]
    if not problems:
        why = (
            "all of its questions have conflicting answers" if conflicts else "give rows with a question and an answer"
        )
        raise DataError(f"{source}: holds no problems: {why}")
    conflicting = sum(rows[name] for name in conflicts)
    return Deduplicated(problems, rows.total() - conflicting - len(problems), conflicting)


def placed_problems(source: str, columns: Columns = USUAL) -> Iterator[Placed]:
    """(place, problem) of each row of a source, in order; sources as in `load_problems`. Raises as it does."""
    kind, colon, rest = source.partition(":")
    if colon and kind == "tiny":
        return ((f"{source}: problem {number}", made) for number, made in enumerate(_generated(source, rest), start=1))
    if colon and kind == "gsm8k":
        rows = _gsm8k_rows(source, rest)
    elif colon and kind == "hub":
        rows = _hub_rows(source, rest, columns)
    else:
        rows = _file_rows(source, columns)
    return ((row.where, problem_of(row)) for row in gold_rows(rows, columns))

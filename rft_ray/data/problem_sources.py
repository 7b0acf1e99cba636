"""Problem sets by source: the embedded generator, a named set, a hub data set, files -> a list of `Problem`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.data import hub
from rft_ray.data.gold_rows import USUAL, Columns, GoldRow, Note, gold_rows, problem_of, same_gold
from rft_ray.data.hub_rows import hub_rows
from rft_ray.data.named_sets import NAMED_SETS, NamedSet, hub_dataset, named_rows
from rft_ray.data.row_files import KINDS, DataError, Row, names_rows, rows
from rft_ray.grading.verifiers import GoldReader
from rft_ray.records import Problem

_TINY = re.compile(r"(?P<split>\w+):(?P<count>\d{1,7})(?::(?P<seed>\d{1,9}))?(?::(?P<low>\d)-(?P<high>\d))?")
Placed = tuple[str, Problem]
"""(place, problem). The place is the file and line or row that a message about the problem names."""


def load_problems(source: str, columns: Columns = USUAL) -> list[Problem]:
    """All problems of a source, in the order of its rows. Raises DataError, and StoreError for S3 out of reach.

    Sources: `gsm8k:<split>` and the other sets of `named_sets`, `hub:<dataset>[/<folder>][@<revision>]:<split>`,
    `tiny:<split>:<count>[:<seed>][:<low>-<high>]`, `code:<split>`, or a file, a folder or a glob of `row_files`, local
    or `s3://`.
    """
    return deduplicated(source, placed_problems(source, columns)).problems


def dataset_of(source: str) -> str:
    """`owner/name[@revision]` of the hub's data set that a source is read from; empty where it is none of the hub."""
    kind, colon, rest = source.partition(":")
    if kind == "hub":
        return _hub_address(source, rest)[0]
    return (hub_dataset(source) or "") if colon and kind in NAMED_SETS else ""


def commit_of(source: str) -> str:
    """The commit of the hub's data set that a source was read from; empty where it was not read from the hub."""
    dataset = dataset_of(source)
    return hub.commit(dataset, "dataset") if dataset else ""


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


def _code_rows(source: str, split: str) -> Iterator[Row]:
    """Small problems for `grading.verifier=python`, in MBPP's shape: a question, code as solution, tests as answer."""
    if split not in ("train", "test"):
        raise DataError(f"{source}: write code:train or code:test")
    return rows(str(Path(__file__).with_name("code") / f"{split}.jsonl"), name=source, choose=USUAL.choose)


def _hub_rows(source: str, rest: str, columns: Columns, commit: str) -> Iterator[Row]:
    """The rows of one split of a hub data set `owner/name[/folder][@revision]:split`."""
    dataset, folder, split = _hub_address(source, rest)
    return hub_rows(source, dataset, split, columns.choose, (folder,) if folder else (), commit=commit)


def _hub_address(source: str, rest: str) -> tuple[str, str, str]:
    """(`owner/name[@revision]`, folder, split) of `owner/name[/folder][@revision]:split`."""
    address, colon, split = rest.rpartition(":")
    if not colon or not address or not split:
        raise DataError(f"{source}: write hub:<dataset>:<split>, as in hub:openai/gsm8k:train")
    address, at, revision = address.partition("@")
    owner, name, folder = (*address.split("/", 2), "", "")[:3]
    return (f"{owner}/{name}" if name else owner) + at + revision, folder, split


def _file_rows(source: str, columns: Columns) -> Iterator[Row]:
    """The rows of a file that the user names by its path."""
    if not names_rows(source):
        raise DataError(
            f"{source}: not a source of problems: write gsm8k:<split> or another set ({', '.join(NAMED_SETS)}), "
            "hub:<dataset>:<split>, tiny:<split>:<count>, code:<split>, or a file, a folder or a pattern of files, "
            f"local or s3://, that end in {KINDS}"
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


def deduplicated(
    source: str, placed: Iterable[Placed], *, drop: bool = False, golds: GoldReader | None = None
) -> Deduplicated:
    """The problems of a source, in order. Raises DataError when it has none, or a question comes twice.

    With `drop`, repeated rows are left out and counted: of equal rows, the first one with a solution stays. `golds`: as
    in `problem_of`.
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
        other = not same_gold(problem.answer, earlier.answer, golds)
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


def placed_problems(
    source: str,
    columns: Columns = USUAL,
    golds: GoldReader | None = None,
    *,
    commit: str = "",
    note: Note | None = None,
) -> Iterator[Placed]:
    """(place, problem) of each row of a source, in order; sources as in `load_problems`. Raises as it does.

    `golds`, `note`: as in `problem_of`. `commit`: of the hub's data set, to be read instead of the source's revision.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "tiny":
        return ((f"{source}: problem {number}", made) for number, made in enumerate(_generated(source, rest), start=1))
    if colon and kind in NAMED_SETS:
        return _named_problems(gold_rows(named_rows(source, commit), columns), NAMED_SETS[kind], golds, note)
    if colon and kind == "hub":
        rows = _hub_rows(source, rest, columns, commit)
    elif colon and kind == "code":
        rows = _code_rows(source, rest)
    else:
        rows = _file_rows(source, columns)
    return ((row.where, problem_of(row, golds, note)) for row in gold_rows(rows, columns))


def _named_problems(
    rows: Iterable[GoldRow], named: NamedSet, golds: GoldReader | None, note: Note | None
) -> Iterator[Placed]:
    used = golds.name if golds else "gsm8k"
    for row in rows:
        try:
            yield row.where, problem_of(row, golds, note)
        except DataError as error:
            if named.verifier == used:
                raise
            raise DataError(f"{error}; {named.title} needs grading.verifier={named.verifier}") from error

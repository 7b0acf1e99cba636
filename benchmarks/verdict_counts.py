"""Grades labelled rows by the strict rules and by those of others, in a few processes: data set -> `Counts`.

Rows are read lazily, and at most WAITING chunks wait for each process, so memory does not grow with the data. What a
reader should see by hand is written as it comes: one JSON line with the text, the verdict and its detail.

Kinds of such rows: `right_rejected` (the authors call it right, its answer is not accepted), `right_bad_equation`,
`right_partly_read`, `wrong_accepted` (called wrong, its answer is accepted), `unlabelled_bad_equation` and
`unlabelled_undecided`.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing.util import Finalize
from typing import TextIO

from benchmarks.labelled_rows import DataSet, LabelledRow
from benchmarks.other_rules import RULES, MathVerify
from rft_ray.grading import grade
from rft_ray.records import PARTLY_READ, Status, Verdict
from rft_ray.runtime.progress import Progress

CHUNK = 100
WAITING = 4
STRICT, MATH_VERIFY = "strict", "Math-Verify"
Label = bool | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What all rules say of one row; `status` is a strict verdict's, or PARTLY_READ where it names unread arithmetic.

    Example: Judged("correct", "", True, ("strict", "paper"))
    """

    status: str
    detail: str
    answer_accepted: bool
    """Whether the strict rules accept the answer when equations are not checked."""
    accepted_by: tuple[str, ...]
    """The rules that accept the answer."""
    math_verify_ran: bool = False


@dataclass(slots=True)
class Counts:
    """Numbers of rows of one data set by label, by strict status, and by the rules that accept the answer."""

    rows: Counter[Label] = field(default_factory=Counter)
    statuses: Counter[tuple[Label, str]] = field(default_factory=Counter)
    accepted: Counter[tuple[Label, str]] = field(default_factory=Counter)
    asked: Counter[Label] = field(default_factory=Counter)
    """Rows that Math-Verify was asked about."""

    def add(self, right: Label, judged: Judged) -> None:
        self.rows[right] += 1
        self.asked[right] += judged.math_verify_ran
        self.statuses[right, judged.status] += 1
        self.accepted.update((right, rule) for rule in judged.accepted_by)


def status_of(verdict: Verdict) -> str:
    """The status, or PARTLY_READ for a correct verdict whose detail says that equations were not all read."""
    partly = verdict.status is Status.CORRECT and verdict.equations == PARTLY_READ
    return PARTLY_READ if partly else str(verdict.status)


def judge(row: LabelledRow, math_verify: MathVerify | None) -> Judged:
    """What each rule says of a row. Raises ChildError where Math-Verify cannot start."""
    verdict = grade(row.text, row.gold, truncated=row.truncated)
    accepted = verdict.status in (Status.CORRECT, Status.BAD_EQUATION) or (
        verdict.status is Status.UNDECIDED and _accepts_answer(row)
    )
    rules = [STRICT] if accepted else []
    rules += [name for name, rule in RULES.items() if rule(row.text, row.gold)]
    if math_verify and math_verify(row.text, row.gold):
        rules.append(MATH_VERIFY)
    return Judged(status_of(verdict), verdict.detail, accepted, tuple(rules), math_verify is not None)


def _accepts_answer(row: LabelledRow) -> bool:
    verdict = grade(row.text, row.gold, truncated=row.truncated, check_equations=False)
    return verdict.status is Status.CORRECT


def kind_of(right: Label, judged: Judged) -> str | None:
    """Under which kind a row is to be read by hand; None for the others."""
    if right is False:
        return "wrong_accepted" if judged.answer_accepted else None
    if right is None:
        return f"unlabelled_{judged.status}" if judged.status in (Status.BAD_EQUATION, Status.UNDECIDED) else None
    if not judged.answer_accepted:
        return "right_rejected"
    return None if judged.status == Status.CORRECT else f"right_{judged.status}"


def counted(
    data: DataSet,
    *,
    processes: int = 2,
    limit: int | None = None,
    rejects: TextIO | None = None,
    math_verify_every: int = 1,
) -> Counts:
    """Judge the rows of a data set, every `math_verify_every`-th by Math-Verify too; none with 0.

    Raises DataError and ChildError.
    """
    total = sum(1 for _ in islice(data.rows(), limit))
    progress = Progress(data.name, total, "rows")
    counts = Counts()
    for row, judged in _judged(islice(data.rows(), limit), processes, math_verify_every):
        counts.add(row.right, judged)
        progress.advance(1)
        if rejects and (kind := kind_of(row.right, judged)):
            shown = {"data": data.name, "kind": kind, **asdict(row), "status": judged.status, "detail": judged.detail}
            rejects.write(json.dumps(shown, ensure_ascii=False) + "\n")
    return counts


def _judged(
    rows: Iterator[LabelledRow], processes: int, math_verify_every: int
) -> Iterator[tuple[LabelledRow, Judged]]:
    """Each row with its verdicts, in order; with one process, in this one."""
    chunks = iter(lambda: list(islice(rows, CHUNK)), [])
    if processes == 1:
        _start(math_verify_every)
        for number, chunk in enumerate(chunks):
            yield from zip(chunk, _judge_chunk(number * CHUNK, chunk), strict=True)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (math_verify_every,)) as pool:
        waiting: deque[tuple[Sequence[LabelledRow], Future[list[Judged]]]] = deque()
        for number, chunk in enumerate(chunks):
            waiting.append((chunk, pool.submit(_judge_chunk, number * CHUNK, chunk)))
            if len(waiting) >= WAITING * processes:
                yield from _results(waiting.popleft())
        while waiting:
            yield from _results(waiting.popleft())


def _results(done: tuple[Sequence[LabelledRow], Future[list[Judged]]]) -> Iterable[tuple[LabelledRow, Judged]]:
    return zip(done[0], done[1].result(), strict=True)


_library: MathVerify | None = None
"""Of a worker process: its child with Math-Verify."""
_math_verify_every = 0


def _start(math_verify_every: int) -> None:
    global _library, _math_verify_every
    _math_verify_every = math_verify_every
    if math_verify_every and _library is None:
        _library = MathVerify()
        Finalize(_library, _library.close, exitpriority=10)


def _judge_chunk(first: int, rows: Sequence[LabelledRow]) -> list[Judged]:
    """The verdicts on some rows; `first` is the index of the first of them in its data set."""
    asked = [
        _library if _math_verify_every and index % _math_verify_every == 0 else None
        for index in range(first, first + len(rows))
    ]
    return [judge(row, library) for row, library in zip(rows, asked, strict=True)]

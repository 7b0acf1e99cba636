"""The rows that flow between stages, and their Arrow schemas.

A stage reads and writes Parquet tables of these records; inside a stage they are frozen dataclasses. `to_table` and
`from_table` convert between the two.

    Problem --sampling--> Completion --grading--> Verdict --path selection--> ReasoningPath
                                                  Verdict --judge--> Judgement
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar

import pyarrow as pa


class Status(StrEnum):
    """The outcome of grading one completion. Only `CORRECT` completions become training paths."""

    CORRECT = "correct"
    WRONG_ANSWER = "wrong_answer"
    NO_ANSWER = "no_answer"
    BAD_EQUATION = "bad_equation"
    TRUNCATED = "truncated"
    UNDECIDED = "undecided"


REJECTIONS: tuple[Status, ...] = tuple(status for status in Status if status is not Status.CORRECT)


PARTLY_READ = "partly_read"
"""A verdict's `equations` where they hold as far as they can be read, and one cannot be read with confidence."""
SKIPPED = "skipped"
"""finish_reason of a planned sample that is not sampled because its prompt exceeds the model's context."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem with its gold solution.

    Example: Problem("5f0c…", "Tom has 3 pens …?", "3+2 = <<3+2=5>>5\\n#### 5", "5")
    """

    problem_id: str
    """First 16 hex digits of SHA-256 of the question: stable under reordering and file format."""
    question: str
    solution: str
    """Gold reasoning path, ending in `#### <answer>`; empty where only the answer is known."""
    answer: str
    """Gold final answer: the text after `####` without commas, or the bare answer."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One text that a model sampled for one problem.

    Example: Completion("5f0c…", 17, "3+2 = <<3+2=5>>5\\n#### 5", "stop", 61, 24)
    """

    problem_id: str
    sample_index: int
    """Index of the sample among this model's samples of the problem, from 0."""
    text: str
    finish_reason: str
    """`stop` (EOS), `length` (token limit) or `skipped` (not sampled: the prompt exceeds the context)."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of grading one completion.

    Example: Verdict(Status.WRONG_ANSWER, "6", "answer 6, gold 5")
    """

    status: Status
    answer: str | None
    """The extracted final answer in canonical form, or None."""
    detail: str
    """The equation or text that decided the status; empty when the status needs no explanation."""
    equations: str = ""
    """PARTLY_READ: the answer is right, and `detail` is the first equation that cannot be read with confidence."""

    @property
    def reason(self) -> str:
        """`detail` in words that stand alone."""
        return _reason(self.equations, self.detail)


@dataclass(frozen=True, slots=True)
class GradedCompletion:
    """A verdict and the key of its completion: one row of a verdict shard.

    Example: GradedCompletion("5f0c…", 17, Status.CORRECT, "5", "")
    """

    problem_id: str
    sample_index: int
    status: Status
    answer: str | None
    detail: str

    @property
    def reason(self) -> str:
        return self.detail

    @property
    def is_partly_read(self) -> bool:
        """Whether it is a right answer whose equations cannot all be read.

        Rows without the column `equations`, as the strict rules up to 3 made them, say so in their detail.
        """
        return self.detail.startswith(_reason(PARTLY_READ, ""))


@dataclass(frozen=True, slots=True)
class CheckedCompletion(GradedCompletion):
    """A row of a shard of strict verdicts, which says too how its equations were read.

    Example: CheckedCompletion("5f0c…", 17, Status.CORRECT, "5", "4 and a bit = 5", "partly_read")
    """

    equations: str
    """That of its Verdict."""

    @property
    def reason(self) -> str:
        return _reason(self.equations, self.detail)

    @property
    def is_partly_read(self) -> bool:
        return self.equations == PARTLY_READ


def _reason(equations: str, detail: str) -> str:
    return f"equations {equations}: {detail}" if equations else detail


@dataclass(frozen=True, slots=True)
class ReasoningPath:
    """One correct and distinct solution with its provenance: one row of the corpus.

    Example: ReasoningPath("5f0c…", "Tom has …?", "3+2 = <<3+2=5>>5\\n#### 5", ("3+2=5",), "tiny-m", 17, 4, False)
    """

    problem_id: str
    question: str
    text: str
    equations: tuple[str, ...]
    model: str
    """Name of the model that sampled it; empty for gold."""
    sample_index: int
    """Index of the representative among that model's samples; -1 for gold."""
    shared_by: int
    """Number of correct samples, over all models, with this equation list."""
    gold: bool


@dataclass(frozen=True, slots=True)
class JudgedPath(ReasoningPath):
    """A path of a corpus that rejected completions are in too, where the judge calls them right.

    Example: JudgedPath("5f0c…", "Tom has …?", "3+2 makes 5", (), "tiny-m", 17, 1, False, "no_answer")
    """

    rejected_as: str
    """The verifier's verdict on a completion that the judge calls right; empty for gold and what is `correct`."""


class Opinion(StrEnum):
    """What the judge says of one rejected completion. Only what is stated in full, and not cut off, is no `NONE`."""

    RIGHT = "right"
    WRONG = "wrong"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge's opinion on one rejected completion, next to the verifier's verdict, which stays.

    Example: Judgement("5f0c…", 17, Status.BAD_EQUATION, Opinion.RIGHT, "The rounding is meant.\n")
    """

    problem_id: str
    sample_index: int
    status: Status
    opinion: Opinion
    reason: str
    """The judge's answer without its reasoning and without the line with its verdict; all of it for `NONE`."""


Record = TypeVar("Record", Problem, Completion, GradedCompletion, ReasoningPath, Judgement)

_ARROW = {
    "str": pa.string(),
    "str | None": pa.string(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "Status": pa.string(),
    "Opinion": pa.string(),
    "tuple[str, ...]": pa.list_(pa.string()),
}


def schema_of(record: type[Any]) -> pa.Schema:
    """Arrow schema of a record class, one column per field, in field order."""
    return pa.schema([pa.field(f.name, _ARROW[str(f.type)], nullable="None" in str(f.type)) for f in fields(record)])


def to_table(rows: Iterable[Record], record: type[Record]) -> pa.Table:
    """Rows of one record class as an Arrow table with the schema `schema_of(record)`."""
    rows = list(rows)
    columns = {f.name: [getattr(row, f.name, None) for row in rows] for f in fields(record)}
    return pa.Table.from_pydict(columns, schema=schema_of(record))


def from_table(table: pa.Table, record: type[Record]) -> list[Record]:
    """The records of a table that `to_table` made. Raises KeyError when a column is missing."""
    columns = [table.column(f.name).to_pylist() for f in fields(record)]
    casts = [{"Status": Status, "Opinion": Opinion, "tuple[str, ...]": tuple}.get(str(f.type)) for f in fields(record)]
    return [
        record(*(cast(v) if cast else v for cast, v in zip(casts, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]


def paths_in(table: pa.Table) -> list[ReasoningPath]:
    """The paths of a table, as JudgedPath where the table has its column."""
    return from_table(table, JudgedPath if "rejected_as" in table.column_names else ReasoningPath)


def verdicts_in(table: pa.Table) -> list[GradedCompletion]:
    """The rows of a table of verdicts, as CheckedCompletion where the table has its column."""
    return from_table(table, CheckedCompletion if "equations" in table.column_names else GradedCompletion)


def problem_id(question: str) -> str:
    """The id of a problem: the first 16 hex digits of SHA-256 of its stripped question."""
    return hashlib.sha256(question.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]

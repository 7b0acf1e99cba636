"""The examples of a report: a fixed sample of problems, a few texts of each, every text cut to a bound.

In: the problems, and one problem's graded samples after another. Out: `Example`s, at most `PROBLEMS` of them with at
most `KEPT` kept paths and `REJECTED` rejected samples each, and within `BUDGET` characters in all: the report's size
does not grow with the run. Texts come from models: a page must escape them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rft_ray.grading import Mode
from rft_ray.grading.answers import ReadClaim, writes_decimal_comma
from rft_ray.grading.equations import Reading
from rft_ray.grading.explain import claims_of, readings_of
from rft_ray.grading.reasoning import Reasoning
from rft_ray.records import Problem, Status

if TYPE_CHECKING:
    from rft_ray.corpus.graded import GradedSample


PROBLEMS = 200
KEPT = 8
REJECTED = 6
TEXT_CHARS = 1_200
"""The longest text shown; an `Excerpt` counts the characters cut off."""
MARKS = 30
"""The most equations, and the most answers, of one text that are marked."""
BUDGET = 1_200_000
"""The most characters of all texts together."""
REASONS = (Status.BAD_EQUATION, Status.UNDECIDED, Status.WRONG_ANSWER, Status.NO_ANSWER, Status.TRUNCATED)
"""Reasons for rejection, the most instructive first."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The start of a text, and how many characters were cut off.

    Example: Excerpt("3+2 = <<3+2=5>>5\\n#### 5", 0)
    """

    text: str
    cut: int


@dataclass(frozen=True, slots=True)
class Marks:
    """The equations and the answers of a text, as the grader reads them; positions are those of the text.

    Example: Marks((Reading(0, 7, "3+4=8", "fails", "7 is not 8"),), ())
    """

    readings: tuple[Reading, ...] = ()
    claims: tuple[ReadClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class Marker:
    """Reads the marks of texts, as a run's grader does. Example: Marker("strict", ("think",))"""

    mode: Mode
    reasoning_tags: tuple[str, ...]
    decimal_comma: bool = False
    """Whether the gold answer is written with a comma as the decimal sign."""

    def __call__(self, text: str, *, draft: bool = False) -> Marks:
        """The marks of a text after its reasoning; none where reasoning is between graded parts.

        `draft`: whether the text is reasoning up to its first closing tag.
        """
        graded = Reasoning(self.reasoning_tags, draft).removed(text)
        if not text.endswith(graded):
            return Marks()
        at = len(text) - len(graded)
        readings = readings_of(graded, self.mode)
        claims = claims_of(graded, self.mode, decimal_comma=self.decimal_comma)
        return Marks(
            tuple(replace(read, start=read.start + at, end=read.end + at) for read in readings[:MARKS]),
            tuple(replace(claim, start=claim.start + at, end=claim.end + at) for claim in claims[:MARKS]),
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample as shown. `shared_by`: how many correct samples have a kept path's equations; 0 for a rejected sample.

    Example: Shown("tiny-m", 17, Status.BAD_EQUATION, "48+24=71: does not hold", Excerpt("…", 0), 0)
    """

    model: str
    sample_index: int
    status: Status
    detail: Excerpt
    text: Excerpt
    shared_by: int
    marks: Marks | None = None
    """None where the run's verifier does not read equations."""


@dataclass(frozen=True, slots=True)
class Example:
    """One problem with the verdicts of its samples and some of their texts."""

    problem_id: str
    question: Excerpt
    gold: Excerpt
    counts: dict[Status, int]
    """Verdict -> number of samples, over all models."""
    kept: tuple[Shown, ...]
    kept_in_all: int
    rejected: tuple[Shown, ...]
    gold_marks: Marks | None = None

    @property
    def size(self) -> int:
        shown = (*self.kept, *self.rejected)
        texts = [self.question, self.gold, *(sample.text for sample in shown), *(sample.detail for sample in shown)]
        return sum(len(text.text) for text in texts)


def excerpt(text: str, most: int = TEXT_CHARS) -> Excerpt:
    return Excerpt(text[:most], max(0, len(text) - most))


class Gallery:
    """Collects examples from problems added one after another.

    The hash of their ids selects the problems beforehand, so the same run always shows the same problems.
    """

    def __init__(
        self, problems: Sequence[Problem], samples: int, corpus: pa.Table | None, marker: Marker | None = None
    ) -> None:
        ranked = sorted(problems, key=lambda problem: hashlib.sha256(problem.problem_id.encode()).digest())
        self._chosen = {problem.problem_id for problem in ranked[:PROBLEMS]}
        self._samples = samples
        self._marker = marker
        self._kept = _paths_of(corpus, self._chosen)
        self._left = BUDGET
        self.examples: list[Example] = []

    def add(self, problem: Problem, rows: Sequence[GradedSample]) -> None:
        """Add one problem with its samples if it is selected and the budget of characters is not used up."""
        if problem.problem_id not in self._chosen or self._left <= 0:
            return
        kept = self._kept.get(problem.problem_id, [])
        gold = problem.solution or f"#### {problem.answer}"
        marker = self._marker and replace(self._marker, decimal_comma=writes_decimal_comma(problem.answer))
        example = Example(
            problem.problem_id,
            excerpt(problem.question),
            excerpt(gold),
            dict(Counter(row.status for row in rows)),
            tuple(_shown_path(path, marker) for path in kept[:KEPT]),
            len(kept),
            tuple(_rejected(rows, marker)),
            marker(gold) if marker else None,
        )
        self._left -= example.size
        self.examples.append(example)


def _paths_of(corpus: pa.Table | None, chosen: set[str]) -> dict[str, list[dict[str, Any]]]:
    """problem_id -> the sampled paths of the corpus, in its order."""
    paths: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if corpus is not None:
        wanted = pc.and_(pc.is_in(corpus["problem_id"], pa.array(sorted(chosen))), pc.invert(corpus["gold"]))
        for row in (
            corpus.filter(wanted).select(["problem_id", "model", "sample_index", "text", "shared_by"]).to_pylist()
        ):
            paths[row["problem_id"]].append(row)
    return paths


def _shown_path(path: dict[str, Any], marker: Marker | None) -> Shown:
    text = path["text"]
    return Shown(
        path["model"],
        path["sample_index"],
        Status.CORRECT,
        Excerpt("", 0),
        excerpt(text),
        path["shared_by"],
        marker(text) if marker else None,
    )


def _rejected(rows: Sequence[GradedSample], marker: Marker | None = None) -> list[Shown]:
    """Up to REJECTED samples: round robin over the reasons, and over the models within a reason; no text twice."""
    by_reason: dict[Status, dict[str, GradedSample]] = {status: {} for status in REASONS}
    for row in sorted(rows, key=lambda row: (row.sample_index, row.model)):
        if row.status in by_reason:
            by_reason[row.status].setdefault(row.text, row)
    queues = [list(texts.values()) for texts in by_reason.values()]
    turns = [row for turn in range(REJECTED) for queue in queues if turn < len(queue) for row in [queue[turn]]]
    return [
        Shown(
            row.model,
            row.sample_index,
            row.status,
            excerpt(row.detail, 300),
            excerpt(row.text),
            0,
            marker(row.text, draft=row.begins_in_draft(marker.reasoning_tags)) if marker else None,
        )
        for row in turns[:REJECTED]
    ]

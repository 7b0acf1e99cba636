"""Majority vote over reasoning paths: the texts of one question -> the winning answer and the votes.

Pure functions without Ray. A path votes for the canonical form of its final answer, as the strict grader extracts it.
Three kinds of paths do not vote and are counted separately: truncated (the token limit was reached before or within the
final answer, or within reasoning that the prompt opens), without a final answer, and undecided (several different final
answers, or a text beyond the grader's bounds). So votes + truncated + no_answer + undecided = paths. Equations do not
influence the votes; they are checked for display, and to choose the path to show.

The outcome depends on the multiset of paths, not on their order. The answer with most votes wins; a tie goes to the
answer whose canonical text comes first in Unicode order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rft_ray import grading, paths
from rft_ray.evaluation.metrics import wilson
from rft_ray.grading.explain import readings_of
from rft_ray.grading.reasoning import Reasoning, closes_draft
from rft_ray.records import Status

_ANY_GOLD = "0"
"""The grader needs a gold answer. Its value does not influence which answer a path votes for."""
MAX_MARKED = 200
"""Most equations of one path that are checked one by one; no real solution has as many."""


@dataclass(frozen=True, slots=True)
class Path:
    """One sampled reasoning path.

    Example: Path("3+2 = <<3+2=5>>5\\n#### 5", "stop")
    """

    text: str
    finish_reason: str
    """`stop` or `length`, from the engine."""
    opened: bool = False
    """Whether the prompt opens reasoning, in which the text begins."""
    tags: tuple[str, ...] = ("think",)
    """The run's tags of reasoning."""

    @property
    def read(self) -> str:
        """The text without its reasoning, each character at its place: of this answers and equations are read."""
        return Reasoning(self.tags).blanked(self.text)

    @property
    def cut_in_draft(self) -> bool:
        """Whether it reached the token limit within the reasoning that the prompt opens."""
        closed = closes_draft(self.text) or any(f"</{tag}>" in self.text for tag in self.tags)
        return self.opened and self.finish_reason == "length" and not closed


@dataclass(frozen=True, slots=True)
class Marked:
    """One equation of a path, and whether it holds; None where it cannot be read or decided, or is taken back.

    Example: Marked("3+2=5", True, 6, 15, "equal")
    """

    equation: str
    holds: bool | None
    start: int
    end: int
    """Characters of the text."""
    rule: str
    """The rule that decided."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """The vote of one path.

    Example: Ballot("5", None, ("3+2=5",), 1, True)
    """

    answer: str | None
    """The canonical answer that the path votes for; None where it does not vote."""
    silent: Status | None
    """The reason why the path does not vote."""
    equations: tuple[str, ...]
    distinct: int | None
    """A number from 1 in order of arrival, shared by paths with the same answer and the same equation list."""
    sound: bool
    """Whether the path votes and all its equations hold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a vote.

    Example: Outcome("5", 0.75, (0.41, 0.93), (("5", 6), ("6", 1)), Path("3+2 = …", "stop"), ("3+2=5",), 2, 0, 1, 0)
    """

    answer: str | None
    """The winning answer in canonical form; None where no path voted."""
    confidence: float
    """The winner's votes divided by all paths, voting or not: 0..1."""
    interval: tuple[float, float]
    """Wilson 95 % interval of that share."""
    votes: tuple[tuple[str, int], ...]
    """(answer, count), the winner first."""
    path: Path | None
    """The representative path of the winning answer."""
    equations: tuple[str, ...]
    """The representative's equations."""
    distinct_paths: int
    """Distinct equation lists among the winner's paths."""
    undecided: int
    no_answer: int
    truncated: int


class Tally:
    """The vote over up to k paths while they arrive, in any order."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._supporters: dict[str, list[Path]] = {}
        self._silent: Counter[Status] = Counter()
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}

    def add(self, path: Path) -> Ballot:
        """Count one path."""
        answer = _answer(path)
        if isinstance(answer, Status):
            self._silent[answer] += 1
            return Ballot(None, answer, tuple(one.equation for one in marked(path.read)), None, False)
        self._supporters.setdefault(answer, []).append(path)
        equations = paths.equation_list(path.read, "strict")
        number = self._numbers.setdefault((answer, equations), len(self._numbers) + 1)
        return Ballot(answer, None, equations, number, _sound(path, answer))

    @property
    def finished(self) -> int:
        """The number of counted paths, voting or not."""
        return sum(map(len, self._supporters.values())) + self._silent.total()

    @property
    def votes(self) -> list[tuple[str, int]]:
        """(answer, count), the leader first."""
        counts = ((answer, len(supporters)) for answer, supporters in self._supporters.items())
        return sorted(counts, key=lambda vote: (-vote[1], vote[0]))

    @property
    def silent(self) -> dict[Status, int]:
        return {status: self._silent[status] for status in (Status.UNDECIDED, Status.NO_ANSWER, Status.TRUNCATED)}

    @property
    def decided(self) -> bool:
        """Whether the leader wins whatever the missing paths vote for."""
        missing, votes = self.k - self.finished, self.votes
        if missing <= 0 or not votes:
            return missing <= 0
        leader, lead = votes[0]
        unseen = ("", 0)  # a new answer could come first in Unicode order
        return not any(count + missing > lead - (answer < leader) for answer, count in [*votes[1:], unseen])

    def share(self) -> tuple[float, tuple[float, float]]:
        """The leader's share of the counted paths, and its Wilson 95 % interval."""
        share = wilson(self.votes[0][1] if self._supporters else 0, self.finished)
        return share.value, (share.low, share.high)

    def outcome(self) -> Outcome:
        """The result of the paths counted so far."""
        votes = self.votes
        winner = votes[0][0] if votes else None
        shown = _representative(self._supporters[winner], winner) if winner is not None else (None, (), 0)
        chosen, equations, distinct = shown
        confidence, interval = self.share()
        return Outcome(
            answer=winner,
            confidence=confidence,
            interval=interval,
            votes=tuple(votes),
            path=chosen,
            equations=equations,
            distinct_paths=distinct,
            undecided=self._silent[Status.UNDECIDED],
            no_answer=self._silent[Status.NO_ANSWER],
            truncated=self._silent[Status.TRUNCATED],
        )


def vote(sampled: Sequence[Path]) -> Outcome:
    """The result of a vote over some paths."""
    tally = Tally(len(sampled))
    for path in sampled:
        tally.add(path)
    return tally.outcome()


@lru_cache(maxsize=1_024)
def marked(text: str) -> tuple[Marked, ...]:
    """The equations of a text in order, each with its check and the rule that decided, as strict grading reads them."""
    return tuple(
        Marked(
            reading.shown or text[reading.start : reading.end],
            {"holds": True, "fails": False}.get(reading.outcome),
            reading.start,
            reading.end,
            reading.rule,
        )
        for reading in readings_of(text)[:MAX_MARKED]
    )


def _answer(path: Path) -> str | Status:
    """The canonical answer that a path votes for, or the status of a path that does not vote."""
    if path.cut_in_draft:
        return Status.TRUNCATED
    cut = path.finish_reason == "length"
    verdict = grading.grade(path.read, _ANY_GOLD, "strict", truncated=cut, check_equations=False)
    read = verdict.status in (Status.CORRECT, Status.WRONG_ANSWER)
    return verdict.answer if read and verdict.answer is not None else verdict.status


def _sound(path: Path, answer: str) -> bool:
    return grading.grade(path.read, answer, "strict").status is Status.CORRECT


def _representative(supporters: Sequence[Path], answer: str) -> tuple[Path, tuple[str, ...], int]:
    """The path to show for an answer, its equations, and the number of distinct equation lists.

    Prefers a path whose equations all hold, then the equation list that most paths share, then the shortest text.
    """
    equations = {path.text: paths.equation_list(path.read, "strict") for path in supporters}
    shared = Counter(equations[path.text] for path in supporters)

    def rank(path: Path) -> tuple[bool, int, int, str]:
        return (not _sound(path, answer), -shared[equations[path.text]], len(path.text), path.text)

    chosen = min(set(supporters), key=rank)
    return chosen, equations[chosen.text], len(shared)

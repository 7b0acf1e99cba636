"""Majority vote over reasoning paths: texts of one question -> the winning answer and who voted for what.

Pure functions; needs no running Ray. A path votes for the canonical form of its final answer, read as the strict grader
reads it. Three kinds of path never vote and are counted apart: truncated (the token limit came before the final
answer, or within it), without a final answer, and undecided (several that differ, or beyond the grader's bounds).
So votes + truncated + no_answer + undecided = paths. Equations are not looked at to vote, only to mark them and to
choose what to show.

The outcome depends on the multiset of paths, not on their order. Most votes win; a tie goes to the answer whose
canonical text comes first in Unicode order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rft_ray import grading, paths
from rft_ray.evaluation.metrics import wilson
from rft_ray.grading.equations import annotated, equations_of
from rft_ray.records import Status

_ANY_GOLD = "0"
"""The grader wants a gold answer; whether a path says it or another does not matter to its vote."""
MAX_MARKED = 200
"""Equations of one path that are marked one by one; no solution has as many."""


@dataclass(frozen=True, slots=True)
class Path:
    """One sampled reasoning path.

    Example: Path("3+2 = <<3+2=5>>5\\n#### 5", "stop")
    """

    text: str
    finish_reason: str
    """`stop` or `length`, as the engine says."""


@dataclass(frozen=True, slots=True)
class Marked:
    """One equation of a path, and whether it holds; None where the grader cannot tell.

    Example: Marked("3+2=5", True)
    """

    equation: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Ballot:
    """How one path votes.

    Example: Ballot("5", None, ("3+2=5",), 1, True)
    """

    answer: str | None
    """The canonical answer that it votes for; None where it does not vote."""
    silent: Status | None
    """Why it does not vote."""
    equations: tuple[str, ...]
    distinct: int | None
    """Number of its distinct path, in order of arrival from 1: paths with one answer and one equation list share it."""
    sound: bool
    """Whether it votes and all its equations hold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a vote came to.

    Example: Outcome("5", 0.75, (0.41, 0.93), (("5", 6), ("6", 1)), Path("3+2 = …", "stop"), ("3+2=5",), 2, 0, 1, 0)
    """

    answer: str | None
    """The winning answer in canonical form; None where no path voted."""
    confidence: float
    """The winner's votes over all paths that came, voting or not: 0..1."""
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
    """The running vote over up to k paths, in whatever order they come."""

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
            return Ballot(None, answer, tuple(one.equation for one in marked(path.text)), None, False)
        self._supporters.setdefault(answer, []).append(path)
        equations = paths.equation_list(path.text, "strict")
        number = self._numbers.setdefault((answer, equations), len(self._numbers) + 1)
        return Ballot(answer, None, equations, number, _sound(path, answer))

    @property
    def came(self) -> int:
        """Paths counted so far, voting or not."""
        return sum(map(len, self._supporters.values())) + self._silent.total()

    @property
    def votes(self) -> list[tuple[str, int]]:
        """(answer, count), the leader first."""
        counts = ((answer, len(backers)) for answer, backers in self._supporters.items())
        return sorted(counts, key=lambda vote: (-vote[1], vote[0]))

    @property
    def silent(self) -> dict[Status, int]:
        return {status: self._silent[status] for status in (Status.UNDECIDED, Status.NO_ANSWER, Status.TRUNCATED)}

    @property
    def decided(self) -> bool:
        """Whether the leader wins whatever the paths say that have not come yet."""
        missing, votes = self.k - self.came, self.votes
        if missing <= 0 or not votes:
            return missing <= 0
        leader, lead = votes[0]
        unseen = ("", 0)  # an answer that nobody has given yet might come first in Unicode order
        return not any(count + missing > lead - (answer < leader) for answer, count in [*votes[1:], unseen])

    def share(self) -> tuple[float, tuple[float, float]]:
        """The leader's share of the paths that came, and its Wilson 95 % interval."""
        found = wilson(self.votes[0][1] if self._supporters else 0, self.came)
        return found["value"], (found["low"], found["high"])

    def outcome(self) -> Outcome:
        """What the vote comes to with the paths counted so far."""
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
    """Count the votes of some paths."""
    tally = Tally(len(sampled))
    for path in sampled:
        tally.add(path)
    return tally.outcome()


@lru_cache(maxsize=1_024)
def marked(text: str) -> tuple[Marked, ...]:
    """The equations of a text in order, each marked, as strict grading reads them.

    Where they stand in `<<...>>`, one for each. All are True exactly where the grader has nothing against them.
    """
    if len(text) > grading.MAX_TEXT_CHARS:
        return ()
    read = equations_of(text, "strict")
    if read.hold:
        return tuple(Marked(equation, True) for equation in read.listed[:MAX_MARKED])
    return tuple(_marks(annotated(text) or read.listed, read.fault))[:MAX_MARKED]


def _marks(written: Iterable[str], fault: str) -> Iterable[Marked]:
    for inside in written:
        alone = equations_of(f"<<{inside}>>", "strict")
        shown = alone.listed[0] if alone.listed else inside
        wrong = bool(alone.fault) or (bool(fault) and fault.startswith(f"{shown}: "))
        yield Marked(shown, False if wrong else (None if alone.over else True))


def _answer(path: Path) -> str | Status:
    """The canonical answer that a path votes for, or why it does not vote."""
    verdict = grading.grade(
        path.text, _ANY_GOLD, "strict", truncated=path.finish_reason == "length", check_equations=False
    )
    read = verdict.status in (Status.CORRECT, Status.WRONG_ANSWER)
    return verdict.answer if read and verdict.answer is not None else verdict.status


def _sound(path: Path, answer: str) -> bool:
    return grading.grade(path.text, answer, "strict").status is Status.CORRECT


def _representative(backers: Sequence[Path], answer: str) -> tuple[Path, tuple[str, ...], int]:
    """The path to show for an answer, its equations, and how many distinct equation lists there are.

    First a path whose every equation holds, then the equation list that most paths share, then the shortest text.
    """
    equations = {path.text: paths.equation_list(path.text, "strict") for path in backers}
    shared = Counter(equations[path.text] for path in backers)

    def rank(path: Path) -> tuple[bool, int, int, str]:
        return (not _sound(path, answer), -shared[equations[path.text]], len(path.text), path.text)

    chosen = min(set(backers), key=rank)
    return chosen, equations[chosen.text], len(shared)

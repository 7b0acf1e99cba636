"""Majority vote over reasoning paths: the texts of one question -> the winning answer and the votes.

Without Ray. A path votes for the canonical form of its final answer, as the run's verifier reads it
(`serve/solving/answers.py`). Three kinds of paths do not vote and are counted separately: truncated (the token limit
was reached before or within the final answer, or within reasoning that the prompt opens), without a final answer, and
undecided (several different final answers, or a text beyond the verifier's bounds). So votes + truncated + no_answer +
undecided = paths. Equations do not influence the votes; they are checked for display, and to choose the path to show.

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
from rft_ray.paths.text_forms import normalised_text
from rft_ray.records import Status
from serve.solving.answers import GSM8K, AnswerReader

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
    """A number from 1 in order of arrival, shared by the same paths to an answer."""
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
    """Distinct paths among the winner's."""
    undecided: int
    no_answer: int
    truncated: int


class Tally:
    """The vote over up to k paths while they arrive, in any order."""

    def __init__(self, k: int, reader: AnswerReader = GSM8K) -> None:
        self.k, self._reader = k, reader
        self._supporters: dict[str, list[Path]] = {}
        self._silent: Counter[Status] = Counter()
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}

    def add(self, path: Path) -> Ballot:
        """Count one path."""
        answer = self._reader.read(path.text, cut=path.finish_reason == "length", opened=path.opened)
        if isinstance(answer, Status):
            self._silent[answer] += 1
            marks = marked(self._reader.blanked(path.text))
            return Ballot(None, answer, tuple(one.equation for one in marks), None, False)
        self._supporters.setdefault(answer, []).append(path)
        key = self._key(path.text)
        number = self._numbers.setdefault((answer, key), len(self._numbers) + 1)
        return Ballot(answer, None, self._equations(path.text), number, self._sound(path, answer))

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
        chosen, distinct = self._representative(winner) if winner is not None else (None, 0)
        confidence, interval = self.share()
        return Outcome(
            answer=winner,
            confidence=confidence,
            interval=interval,
            votes=tuple(votes),
            path=chosen,
            equations=self._equations(chosen.text) if chosen else (),
            distinct_paths=distinct,
            undecided=self._silent[Status.UNDECIDED],
            no_answer=self._silent[Status.NO_ANSWER],
            truncated=self._silent[Status.TRUNCATED],
        )

    def _equations(self, text: str) -> tuple[str, ...]:
        return paths.equation_list(self._reader.blanked(text), "strict")

    def _key(self, text: str) -> tuple[str, ...]:
        """What paths to one answer share that are the same: their equations, or where there are none their words.

        With gsm8k a path without equations has an empty list of them, as in the corpus.
        """
        equations = self._equations(text)
        if equations or self._reader.checks_equations:
            return equations
        return (normalised_text(self._reader.blanked(text)),)

    def _sound(self, path: Path, answer: str) -> bool:
        """Whether all equations hold, as the verifier decides where it checks them; otherwise whether none fails."""
        if self._reader.checks_equations:
            return grading.grade(self._reader.blanked(path.text), answer, "strict").status is Status.CORRECT
        return all(equation.holds is not False for equation in marked(self._reader.blanked(path.text)))

    def _representative(self, answer: str) -> tuple[Path, int]:
        """The path to show for an answer, and the number of distinct paths to it.

        Prefers a path whose equations all hold, then the distinct path that has most votes, then the shortest text.
        """
        supporters = self._supporters[answer]
        keys = {path.text: self._key(path.text) for path in supporters}
        shared = Counter(keys[path.text] for path in supporters)

        def rank(path: Path) -> tuple[bool, int, int, str]:
            return (not self._sound(path, answer), -shared[keys[path.text]], len(path.text), path.text)

        return min(set(supporters), key=rank), len(shared)


def vote(sampled: Sequence[Path], reader: AnswerReader = GSM8K) -> Outcome:
    """The result of a vote over some paths."""
    tally = Tally(len(sampled), reader)
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

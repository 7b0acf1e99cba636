"""Majority vote over reasoning paths: texts of one question -> the winning answer and who voted for what.

Pure: no ray, torch or vllm. A path votes for the canonical form of its final answer, read as the strict grader
reads it. Three kinds of path never vote and are counted apart: truncated (the token limit came before the final
answer, or within it), without a final answer, and undecided (several that differ, or beyond the grader's bounds).
So votes + truncated + no_answer + undecided = paths. Equations are not looked at to vote, only to choose what to show.

The outcome depends on the multiset of paths, not on their order. Most votes win; a tie goes to the answer whose
canonical text comes first in Unicode order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rft_ray import grading, paths
from rft_ray.records import Status

_ANY_GOLD = "0"
"""The grader wants a gold answer; whether a path says it or another does not matter to its vote."""


@dataclass(frozen=True, slots=True)
class Path:
    """One sampled reasoning path.

    Example: Path("3+2 = <<3+2=5>>5\\n#### 5", "stop")
    """

    text: str
    finish_reason: str
    """`stop` or `length`, as the engine says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a vote came to.

    Example: Outcome("5", 0.75, (("5", 6), ("6", 1)), Path("3+2 = …", "stop"), ("3+2=5",), 2, 0, 1, 0)
    """

    answer: str | None
    """The winning answer in canonical form; None where no path voted."""
    confidence: float
    """The winner's votes over all paths, voting or not: 0..1."""
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


def vote(sampled: Sequence[Path]) -> Outcome:
    """Count the votes of at least one path."""
    supporters: dict[str, list[Path]] = {}
    silent: Counter[Status] = Counter()
    for path in sampled:
        ballot = _ballot(path)
        if isinstance(ballot, Status):
            silent[ballot] += 1
        else:
            supporters.setdefault(ballot, []).append(path)
    votes = sorted(((answer, len(backers)) for answer, backers in supporters.items()), key=lambda v: (-v[1], v[0]))
    winner = votes[0][0] if votes else None
    chosen, equations, distinct = _representative(supporters[winner], winner) if winner is not None else (None, (), 0)
    return Outcome(
        answer=winner,
        confidence=votes[0][1] / len(sampled) if votes else 0.0,
        votes=tuple(votes),
        path=chosen,
        equations=equations,
        distinct_paths=distinct,
        undecided=silent[Status.UNDECIDED],
        no_answer=silent[Status.NO_ANSWER],
        truncated=silent[Status.TRUNCATED],
    )


def _ballot(path: Path) -> str | Status:
    """The canonical answer that a path votes for, or why it does not vote."""
    verdict = grading.grade(
        path.text, _ANY_GOLD, "strict", truncated=path.finish_reason == "length", check_equations=False
    )
    read = verdict.status in (Status.CORRECT, Status.WRONG_ANSWER)
    return verdict.answer if read and verdict.answer is not None else verdict.status


def _representative(backers: Sequence[Path], answer: str) -> tuple[Path, tuple[str, ...], int]:
    """The path to show for an answer, its equations, and how many distinct equation lists there are.

    First a path whose every equation holds, then the equation list that most paths share, then the shortest text.
    """
    equations = {path.text: tuple(paths.equation_list(path.text, "strict")) for path in backers}
    shared = Counter(equations[path.text] for path in backers)

    def rank(path: Path) -> tuple[bool, int, int, str]:
        sound = grading.grade(path.text, answer, "strict").status is Status.CORRECT
        return (not sound, -shared[equations[path.text]], len(path.text), path.text)

    chosen = min(set(backers), key=rank)
    return chosen, equations[chosen.text], len(shared)

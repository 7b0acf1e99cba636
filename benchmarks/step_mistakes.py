"""How many steps with a wrong equation are found in solutions whose first wrong step people have labelled.

    bigbench_mistake   WHGTyen/BIG-Bench-Mistake, multistep_arithmetic.jsonl: `steps`, `mistake_index` from 0, or null
    mr_gsm8k           dvlab-research/MR-GSM8K: `model_output_steps`, `model_output_solution_first_error_step` from 1;
                       the file of the benchmark, or those of its evaluations, which repeat the fields; each `uuid`
                       once, and without `question_type` POT, whose solutions are programs

A step is flagged when the strict rules say that one of its equations does not hold. A mistake of another kind (a number
copied wrongly, a wrong operation) is in no equation and is not found.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.labelled_rows import field
from rft_ray.data.row_files import DataError, rows
from rft_ray.grading.equations import equations_of

MAX_STEPS_CHARS = 100_000
_STEP = re.compile(r"step\s{0,3}(\d{1,4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Chain:
    """The steps of one solution. `mistake`: index of its first wrong step, from 0; None where it has none.

    Example: Chain("multistep_arithmetic.jsonl:3", ("2 * 3 = 6", "6 + 1 = 8"), 1)
    """

    place: str
    steps: tuple[str, ...]
    mistake: int | None


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Numbers of chains and of steps. `early`, `found`, `late` and `missed` add up to the chains with a mistake."""

    chains: int
    found: int
    """Chains with a mistake whose first flagged step is the wrong one."""
    early: int
    """Those whose first flagged step is an earlier one."""
    late: int
    """Those whose first flagged step is a later one."""
    missed: int
    """Those without a flagged step."""
    right: int
    """Chains without a mistake."""
    false_alarms: int
    """Those of them with a flagged step."""
    right_steps: int
    """Steps before the first wrong one, and all steps of chains without a mistake."""
    flagged_right_steps: int


def bigbench_mistake(source: str) -> Iterator[Chain]:
    """The chains of a task's file. Raises DataError."""
    for place, row in rows(source):
        steps = field(row, place, "steps", list)
        mistake = field(row, place, "mistake_index", (int, type(None)))
        if mistake is not None and not 0 <= mistake < len(steps):
            raise DataError(f"{place}: `mistake_index` is {mistake}, and there are {len(steps)} steps")
        yield Chain(place, tuple(str(step) for step in steps), mistake)


def mr_gsm8k(sources: Iterable[str]) -> Iterator[Chain]:
    """The chains of all files, each once. Raises DataError."""
    seen: set[str] = set()
    for source in sources:
        for place, row in rows(source):
            name = field(row, place, "uuid", str)
            if row.get("question_type") == "POT" or name in seen:
                continue
            seen.add(name)
            steps = _steps(row.get("model_output_steps"), place)
            right = field(row, place, "model_output_solution_correctness", str) == "correct"
            yield Chain(place, steps, None if right else _first_error(row, place, len(steps)))


def _steps(value: object, place: str) -> tuple[str, ...]:
    """A list of texts, or such a list as Python writes it."""
    if isinstance(value, str) and len(value) <= MAX_STEPS_CHARS:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
    if not isinstance(value, list):
        raise DataError(f"{place}: `model_output_steps` must be a list of steps, or one as Python writes it")
    return tuple(str(step) for step in value)


def _first_error(row: object, place: str, steps: int) -> int:
    written = str(row["model_output_solution_first_error_step"])  # type: ignore[index]
    number = _STEP.search(written)
    digits = number[1] if number else written.strip()
    if not digits.isdecimal() or not 1 <= int(digits) <= steps:
        raise DataError(
            f"{place}: `model_output_solution_first_error_step` is {written!r:.40}, must be from 1 to {steps}"
        )
    return int(digits) - 1


def flagged(step: str) -> bool:
    """Whether the strict rules say that an equation of this step does not hold."""
    return bool(equations_of(step).fault)


def counted(chains: Iterable[Chain]) -> StepCounts:
    """Counts over all chains."""
    counts: Counter[str] = Counter()
    for chain in chains:
        flags = [flagged(step) for step in chain.steps]
        first = flags.index(True) if True in flags else None
        known_right = flags[: chain.mistake]
        counts.update(["chains", _outcome(chain.mistake, first)])
        counts.update(right_steps=len(known_right), flagged_right_steps=sum(known_right))
        counts.update(right=chain.mistake is None)
    names = StepCounts.__dataclass_fields__
    return StepCounts(**{name: counts[name] for name in names})


def _outcome(mistake: int | None, first: int | None) -> str:
    """The count that a chain goes into, by its first wrong and its first flagged step."""
    if mistake is None:
        return "silent" if first is None else "false_alarms"
    if first is None:
        return "missed"
    return "found" if first == mistake else "early" if first < mistake else "late"

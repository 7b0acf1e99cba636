"""Long fuzz of strict grading by generated solutions: python tests/fuzz_solutions.py [COUNT] [SEED] [PROCESSES] [FILE]

Each solution's verdict is known by construction (`tests/unit/grading/solution_texts.py`). Prints the accuracy each
way (right solutions graded `correct`, wrong ones graded `bad_equation` or `wrong_answer` as made) by form, and for
each form that fails the shortest shrunk counterexample as a test case; FILE gets these as JSON lines. Exit status 1
where an accuracy is below 99.9 %.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rft_ray.grading import grade
from rft_ray.records import Status
from tests.unit.grading.solution_texts import Solution, involved, random_solution, shrunk

ACCURACY = 0.999
BATCH = 2_000
EXAMPLES_PER_FORM = 5
Cell = tuple[str, str]
"""Expected status and form."""


@dataclass
class Tally:
    """Counts of one batch or of the whole run."""

    seen: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seen_by_form: Counter[Cell] = field(default_factory=Counter)
    failed_by_form: Counter[Cell] = field(default_factory=Counter)
    examples: dict[Cell, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for mine, theirs in (
            (self.seen, other.seen),
            (self.failed, other.failed),
        ):
            mine.update(theirs)
        self.seen_by_form.update(other.seen_by_form)
        self.failed_by_form.update(other.failed_by_form)
        for cell, examples in other.examples.items():
            kept = sorted([*self.examples.get(cell, []), *examples], key=lambda example: len(example["text"]))
            self.examples[cell] = kept[:EXAMPLES_PER_FORM]


def fails(solution: Solution) -> bool:
    return grade(solution.text, solution.gold).status not in solution.allowed


def run_batch(seed: int) -> Tally:
    rng = random.Random(seed)
    tally = Tally()
    for _ in range(BATCH):
        solution = random_solution(rng)
        expected = solution.expected.value
        tally.seen[expected] += 1
        for form in _charged(solution):
            tally.seen_by_form[expected, form] += 1
        if fails(solution):
            tally.failed[expected] += 1
            _record(tally, shrunk(solution, fails))
    return tally


def _charged(solution: Solution) -> set[str]:
    if solution.expected is not Status.CORRECT:
        return {solution.blamed, solution.claim_form}
    return {solution.claim_form, *(part.form for part in solution.parts)}


def _record(tally: Tally, solution: Solution) -> None:
    verdict = grade(solution.text, solution.gold)
    cell = (solution.expected.value, involved(solution))
    tally.failed_by_form[cell] += 1
    example = {
        "form": cell[1],
        "expected": cell[0],
        "graded": verdict.status.value,
        "detail": verdict.detail,
        "text": solution.text,
        "gold": solution.gold,
    }
    if len(tally.examples.setdefault(cell, [])) < EXAMPLES_PER_FORM:
        tally.examples[cell].append(example)


def run(count: int, seed: int, processes: int) -> Tally:
    """Grades at least `count` solutions in batches; the same for any number of processes."""
    batches = [seed * 1_000_003 + index for index in range(-(-count // BATCH))]
    total, started = Tally(), time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        for index, tally in enumerate(pool.map(run_batch, batches), 1):
            total.add(tally)
            if index % 10 == 0 or index == len(batches):
                done, seconds = sum(total.seen.values()), time.monotonic() - started
                print(f"{done:,} solutions, {sum(total.failed.values()):,} failed, {seconds:.0f} s", file=sys.stderr)
    return total


def report(total: Tally) -> None:
    for cell, failures in sorted(total.failed_by_form.items(), key=lambda item: -item[1]):
        seen = total.seen_by_form.get(cell, 0)
        share = f"{1 - failures / seen:.2%} of {seen:,}" if seen else "forms together"
        print(f"{cell[0]:13} {cell[1]}: {failures:,} failed, {share}")
        shortest = total.examples[cell][0]
        print(f"    ({shortest['text']!r}, {shortest['gold']!r}, {shortest['expected']!r}),  # {shortest['graded']}")
        if shortest["detail"]:
            print(f"    # {shortest['detail'][:160]}")
    clean = sum(cell not in total.failed_by_form for cell in total.seen_by_form)
    print(f"{clean} of {len(total.seen_by_form)} pairs of a verdict and a form without a failure")
    for status, seen in sorted(total.seen.items()):
        print(f"{status}: {1 - total.failed[status] / seen:.4%} of {seen:,}")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    total = run(count, seed, processes)
    report(total)
    if len(sys.argv) > 4:
        rows = [example for examples in total.examples.values() for example in examples]
        Path(sys.argv[4]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    right = 1 - total.failed["correct"] / max(1, total.seen["correct"])
    wrong_seen = total.seen["bad_equation"] + total.seen["wrong_answer"]
    wrong = 1 - (total.failed["bad_equation"] + total.failed["wrong_answer"]) / max(1, wrong_seen)
    print(f"right solutions accepted: {right:.4%}; wrong solutions rejected as made: {wrong:.4%}; bound {ACCURACY:.1%}")
    return int(min(right, wrong) < ACCURACY)


if __name__ == "__main__":
    raise SystemExit(main())

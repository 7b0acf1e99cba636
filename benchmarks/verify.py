"""Compares the speed of grade + select on one core with a plain transcription of the reference's rules.

    python benchmarks/verify.py [--problems 60] [--repeats 3]

Input: generated completions of word problems, drawn so that accepted samples, distinct paths and lengths
are near the paper's (about 60 of 100 samples correct; 5 distinct paths at k = 100, 13 in a union of
4 x 100). Much of the cost depends on how many samples repeat another's text, which the paper does not say;
so the table has four wordings, from few distinct texts to almost only distinct ones. Output: completions/s of both,
their ratio, the time of 400 against 100 samples at a fixed number of distinct paths, and peak memory.

Both sides get the same texts in the same process and must give the same result. The transcription's edit
distance is compiled: `editdistance` (what the reference uses) where installed, and RapidFuzz, which the
library uses too. All caches of the library are emptied before each run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from rft_ray import grading, paths
from rft_ray.grading import answers, equations, grader
from rft_ray.paths import normal_forms
from rft_ray.records import Status
from tests.unit.grading import reference_rules

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

Distance = Callable[[str, str], int]


class Problem(NamedTuple):
    gold: str
    texts: list[str]


class Wording(NamedTuple):
    """Number of wordings of each sentence of a solution; `frequent`: one wording is much likelier."""

    name: str
    ways: int
    frequent: float


WORDINGS = (
    Wording("mostly repeated texts", 2, 0.97),
    Wording("many repeated texts", 3, 0.92),
    Wording("some repeated texts", 3, 0.8),
    Wording("hardly any repeated text", 12, 0.1),
)
_OPENINGS = [
    "",
    "So ",
    "Then ",
    "First, ",
    "Next, ",
    "Now ",
    "Thus ",
    "After that ",
    "We see that ",
    "Here ",
    "In all ",
    "Also ",
]
_VERBS = ["has", "gets", "counts", "needs", "collects", "uses", "keeps", "takes", "finds", "buys", "sells", "holds"]
_ENDS = [
    "in total.",
    "altogether.",
    "for this part.",
    "by then.",
    "that day.",
    "from these.",
    "after all of it.",
    "in the end.",
    "at this point.",
    "each time.",
    "so far.",
    "as a result.",
]


def workload(problems: int, samples: int, plans: int, wording: Wording, seed: int = 0) -> list[Problem]:
    """Problems with sampled completions: 60 % right, over `plans` equation lists of falling frequency."""
    random_ = random.Random(seed)
    return [_problem(random_, samples, plans, wording) for _ in range(problems)]


def _problem(random_: random.Random, samples: int, plans: int, wording: Wording) -> Problem:
    start, answer = random_.randint(5, 60), random_.randint(30, 900)
    lists = [_steps(random_, start, answer) for _ in range(plans)]
    weights = [1 / (rank + 1) for rank in range(plans)]
    name = random_.choice(["Natalia", "Weng", "Betty", "Julie", "James", "Albert"])
    texts = []
    for _ in range(samples):
        steps = random_.choices(lists, weights)[0]
        right = random_.random() < 0.6
        sentences = [_sentence(random_, name, step, wording) for step in steps]
        texts.append("\n".join(sentences) + f"\n#### {answer if right else answer + random_.randint(1, 9)}")
    return Problem(str(answer), texts)


def _steps(random_: random.Random, start: int, answer: int) -> list[str]:
    """Two to five equations that lead from one number to the answer."""
    steps = []
    value = start
    for _ in range(random_.randint(1, 4)):
        other, sign = random_.randint(2, 12), random_.choice("+-*")
        result = {"+": value + other, "-": value - other, "*": value * other}[sign]
        steps.append(f"{value}{sign}{other}={result}")
        value = result
    steps.append(f"{value}+{answer - value}={answer}" if answer >= value else f"{value}-{value - answer}={answer}")
    return steps


def _sentence(random_: random.Random, name: str, step: str, wording: Wording) -> str:
    def pick(ways: list[str]) -> str:
        return ways[0 if random_.random() < wording.frequent else random_.randrange(wording.ways)]

    left, result = step.split("=")
    return (
        f"{pick(_OPENINGS)}{name} {pick(_VERBS)} {left} = <<{step}>>{result} of the things "
        f"that the question asks about {pick(_ENDS)}"
    )


def ours(work: list[Problem]) -> list[list[int]]:
    """Accepted completions and representatives by the library, in paper mode."""
    chosen = []
    for gold, texts in work:
        right = [i for i, text in enumerate(texts) if grading.grade(text, gold, "paper").status is Status.CORRECT]
        chosen.append([right[i] for i in paths.select_distinct([texts[i] for i in right], "paper")])
    return chosen


def transcription(rules: ModuleType, distance: Distance) -> Callable[[list[Problem]], list[list[int]]]:
    """Accepted completions and representatives by the transcription of the reference's rules."""

    def run(work: list[Problem]) -> list[list[int]]:
        chosen = []
        for gold, texts in work:
            right = [i for i, text in enumerate(texts) if rules.answer_is_right(text, gold)]
            chosen.append([right[i] for i in rules.select([texts[i] for i in right], distance)])
        return chosen

    return run


def empty_caches() -> None:
    for module in (answers, equations, grader, normal_forms):
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


def timed(
    run: Callable[[list[Problem]], list[list[int]]], work: list[Problem], repeats: int
) -> tuple[float, list[list[int]]]:
    """Best process time of some runs with empty caches, in seconds, and the result."""
    best, result = float("inf"), []
    for _ in range(repeats):
        empty_caches()
        started = time.process_time()
        result = run(work)
        best = min(best, time.process_time() - started)
    return best, result


def distances() -> dict[str, Distance]:
    """Compiled edit distances for the transcription, by name."""
    compiled: dict[str, Distance] = {}
    with suppress(ImportError):
        compiled["editdistance"] = import_module("editdistance").eval
    return compiled | {"RapidFuzz": Levenshtein.distance}


def compare(problems: int, repeats: int, rules: ModuleType) -> None:
    """One row per workload and wording: both speeds, and the ratio."""
    columns = ["workload", "wording", "distinct texts", "distinct paths", "library, completions/s"]
    print(f"| {' | '.join([*columns, 'transcription with', 'completions/s', 'ratio'])} |")
    print("|-|-|-|-|-|-|-|-|")
    for label, samples, plans in (("k = 100", 100, 6), ("union of 4 x 100", 400, 15)):
        for wording in WORDINGS:
            work = workload(problems, samples, plans, wording)
            total = problems * samples
            texts = sum(len(set(problem.texts)) for problem in work) / total
            seconds, chosen = timed(ours, work, repeats)
            for name, distance in distances().items():
                slow_seconds, expected = timed(transcription(rules, distance), work, 1)
                if chosen != expected:
                    raise SystemExit(f"{label}, {wording.name}: the two sides differ")
                print(
                    f"| {label} | {wording.name} | {texts:.0%} | {sum(map(len, chosen)) / problems:.1f} "
                    f"| {total / seconds:,.0f} | {name} | {total / slow_seconds:,.0f} | {slow_seconds / seconds:.1f}x |"
                )


def scaling(problems: int, repeats: int) -> None:
    """Time of 4x the samples at the same number of distinct paths."""
    for wording in WORDINGS:
        seconds = [timed(ours, workload(problems, samples, 6, wording), repeats)[0] for samples in (100, 400, 1600)]
        print(
            f"4x the samples, 6 distinct paths, {wording.name}: "
            f"100 -> 400: {seconds[1] / seconds[0]:.2f}x, 400 -> 1600: {seconds[2] / seconds[1]:.2f}x the time"
        )


def memory(problems: int) -> None:
    """Peak memory that the library allocates for the union, without the texts."""
    for count in (problems, 4 * problems):
        work = workload(count, 400, 15, WORDINGS[-1])
        empty_caches()
        tracemalloc.start()
        ours(work)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"peak memory, union of 4 x 100, {count} problems: {peak / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    compare(options.problems, options.repeats, reference_rules)
    scaling(options.problems, options.repeats)
    memory(options.problems)


if __name__ == "__main__":
    main()

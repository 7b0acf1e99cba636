"""Long fuzz of the grader: python tests/fuzz_grading.py [COUNT] [SEED]

Half of the inputs are completions for which paper mode is compared with the transcription of the
reference's rules, half are hostile texts for both modes; after every 25 completions a path selection is
compared too. Prints times (p50, p99.9, max), undecided verdicts and memory growth. Exit status 1 at the
first difference, exception inside, or text over MAX_SECONDS.
"""

from __future__ import annotations

import random
import resource
import sys
import time
import warnings
from array import array
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from rft_ray.grading import COLLECTING, EVALUATING, MODES, grade
from rft_ray.paths import NORMAL_FORMS, equation_list, select_distinct
from rft_ray.records import Status
from tests.unit.grading import reference_rules as reference
from tests.unit.grading.completion_texts import completion, random_hostile, samples_of_one_problem

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAX_SECONDS = 1.0


class Fuzz:
    """Counts and times of one run; `failure` is set by the first finding."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seconds = array("d")
        self.undecided = 0
        self.selections = 0

    def grade(self, text: str, mode: str, tolerance: float) -> Status:
        started = time.process_time()
        verdict = grade(text, "18", mode, tolerance=tolerance)
        self.seconds.append(time.process_time() - started)
        if verdict.detail.startswith("grader failed") or self.seconds[-1] > MAX_SECONDS:
            raise AssertionError(f"{mode}, {self.seconds[-1]:.3f} s, {verdict.detail}: {text!r}")
        self.undecided += verdict.status is Status.UNDECIDED
        return verdict.status

    def against_reference(self) -> None:
        text, tolerance = completion(self.rng), self.rng.choice([COLLECTING, EVALUATING])
        status = self.grade(text, "paper", tolerance)
        accepted = reference.answer_is_right(text, "18", tolerance == EVALUATING) and reference.equations_hold(text)
        if status is not Status.UNDECIDED and accepted != (status is Status.CORRECT):
            raise AssertionError(f"paper says {status}, the rules accept: {accepted}: {text!r}")

    def hostile(self) -> None:
        text = random_hostile(self.rng)
        for mode in MODES:
            self.grade(text, mode, COLLECTING)
            equation_list(text, mode, self.rng.choice(NORMAL_FORMS))

    def selection(self) -> None:
        texts = samples_of_one_problem(self.rng, 25)
        self.selections += 1
        if select_distinct(texts, "paper") != reference.select(texts, Levenshtein.distance):
            raise AssertionError(f"selection differs: {texts!r}")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("ignore")
    fuzz = Fuzz(seed)
    memory_early = 0
    try:
        for index in range(count):
            if index % 2:
                fuzz.hostile()
            else:
                fuzz.against_reference()
            if index % 50 == 0:
                fuzz.selection()
            if index == count // 4:
                memory_early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    except AssertionError as finding:
        print(f"FOUND after {index} inputs (seed {seed}): {finding}")
        return 1
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_early
    times = sorted(fuzz.seconds)  # which uses more memory than all grading
    print(f"{count} inputs, {len(times)} verdicts, {fuzz.selections} selections of 25 texts, seed {seed}: no finding")
    print(f"p50 {times[len(times) // 2] * 1e3:.3f} ms, p99.9 {times[int(len(times) * 0.999)] * 1e3:.3f} ms, ", end="")
    print(f"max {times[-1] * 1e3:.1f} ms; undecided {fuzz.undecided}; memory {growth / 1024:.1f} MiB over the last 3/4")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

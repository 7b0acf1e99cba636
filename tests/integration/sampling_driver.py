"""A driver process that only samples, with the scripted engine: `sampling_driver.py STORE [--key=value …]`.

Starts as the project's jobs do, with the problems and models of the tests, without training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

from rft_ray import config
from rft_ray.cli.job import carry_out, start
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.store import open_store

PROBLEMS = in_order(generate(40, split="train", seed=1, steps=(1, 2)), 0)
SET = ProblemSet(tuple(PROBLEMS), 40, "5" * 16)
SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="scripted")
JOB = SamplingJob(ModelRef("mA", "sft", "a" * 16), SET.fingerprint, 40, 5, SETTINGS, 4, 0)
"""8 problem blocks x 2 sample blocks."""


def prepare(store_url: str, overrides: list[str]) -> Callable[[], None]:
    engine = config.load(None, ["models=[{name: a, source: x}]", "sampling.engine=scripted", *overrides]).engine
    store = open_store(store_url)
    commit_problems(store, SET)

    def work() -> None:
        from rft_ray.sampling.stage import sample

        start(store)
        print(f"made {len(sample([JOB], store, engine, run_seed=0))} shards", flush=True)

    return work


if __name__ == "__main__":
    sys.exit(carry_out(lambda: prepare(sys.argv[1], sys.argv[2:])))

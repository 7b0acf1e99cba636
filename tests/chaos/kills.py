"""`kill -9` of real processes in runs on Ray clusters of several nodes: `python -m tests.chaos.kills` prints the table.

Each run samples, verifies, selects paths and builds a corpus in its own driver process, on a cluster of a head and two
worker nodes, each with its own raylet. Something is killed at random times drawn from the seed; a driver that has
ended is started again with the same command, until one ends with exit code 0. Then every file is compared, row by row,
with that of a run without faults. The store is slow on purpose (`store/backends/faults.py`), so that kills happen while
shards are written.

    free       nothing is killed
    sampler    an actor that samples              driver     the run's own process
    verifier   one that grades or selects paths   cluster    every process of it, the driver too; a new one is started
    raylet     a worker node's; a new node joins  any        any of these in turn
    node       a node in a network namespace, all its processes at once; a new one joins
    cut        such a node's network for some seconds: Ray declares it dead, it keeps running, and reconnects

Limits: one machine; local disk. `--vllm`: a real engine, whose texts differ between runs, so every planned sample must
exist once, and everything made from samples must equal a recomputation from the committed completions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rft_ray.store import repair
from rft_ray.store.backends.local import LocalStore
from tests.chaos import table
from tests.chaos.nodes import (
    ROOT,
    LoopbackNodes,
    NamespaceNodes,
    Nodes,
    actors,
    environment,
    kill,
    kill_tree,
    namespaces_refused,
)
from tests.chaos.ray_run import STAGES, Outcome, Run, alone, outcome
from tests.chaos.table import Tally

SLOW = "1:before:slow:15,1:after:slow:15"
WORKERS = 2
STALLED_S = 180.0
"""The proof fails when a driver commits nothing for so long although nothing is killed."""
CUT_S = 12.0
"""Longer than Ray takes to declare a node dead, with the settings of `nodes.environment`."""
ACTORS = (1, 2, 4)
ON_LOOPBACK = ("sampler", "verifier", "raylet", "driver", "cluster")
IN_NAMESPACES = ("node", "cut")
PAUSES_S = {
    "free": 1.0,
    "sampler": 1.0,
    "verifier": 1.0,
    "raylet": 2.0,
    "driver": 2.0,
    "cluster": 4.0,
    "node": 3.0,
    "cut": 6.0,
}
"""Mean of the random time before the next kill. A victim needs a second or two to start."""
NAMES = {
    "free": "none",
    "sampler": "`kill -9` of a sampler actor",
    "verifier": "`kill -9` of a verifier actor",
    "raylet": "`kill -9` of a raylet, a new node joins",
    "driver": "`kill -9` of the driver",
    "cluster": "`kill -9` of the whole cluster",
    "any": "any of these by turns",
    "node": "`kill -9` of a node in a namespace of its own",
    "cut": "such a node cut off the network, and back",
}


class Stalled(RuntimeError):
    """A driver makes no progress."""


@dataclass
class Campaign:
    """One run, its cluster, and the kills so far."""

    run: Run
    kinds: Sequence[str]
    chance: random.Random
    nodes: Nodes
    environ: dict[str, str]
    killed: list[str] = field(default_factory=list)
    started: int = 0
    """How often the driver was killed."""
    overwritten: int = 0
    _seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _driver: subprocess.Popen[bytes] | None = None
    _logged: int = 0
    """Length of the log when the driver was started."""
    _cut: list[tuple[float, int]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return Path(f"{self.run.folder}.log")

    def conduct(self, kills: int) -> None:
        """Start the run, kill until `kills` kills are done or the run is, and wait until it is done. Raises Stalled."""
        progress, since = -1, time.monotonic()
        due, ready = self._next_kill(), 3 if self.run.engine == "vllm" else 0  # a real engine must be generating
        while True:
            self._restore()
            if self._driver is None:
                self._start()
            if (code := self._driver.poll() if self._driver else None) is not None:
                self._driver = None
                if code == 0:
                    return
            if len(self.killed) < kills and progress >= ready and time.monotonic() >= due and self._strike():
                since = time.monotonic()
                due, ready = self._next_kill(), progress + 1 if self.run.engine == "vllm" else 0
            if (now := self._watch()) != progress:
                progress, since = now, time.monotonic()
            if time.monotonic() - since > STALLED_S:
                raise Stalled(f"no commit for {STALLED_S:.0f} s after {self.killed}: see {self.log}")
            time.sleep(0.1)

    def end(self) -> None:
        if self._driver:
            kill_tree(self._driver.pid)
            self._driver.wait()
        self.nodes.close()

    def _start(self) -> None:
        self.started += 1
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        run = json.dumps(asdict(self.run))
        with self.log.open("ab") as log:
            self._driver = subprocess.Popen(
                self.nodes.command([sys.executable, "-m", "tests.chaos.ray_run", run]),
                cwd=ROOT,
                env={**os.environ, **self.environ, "RAY_ADDRESS": self.nodes.address},
                stdout=log,
                stderr=log,
            )

    def _next_kill(self) -> float:
        mean = sum(PAUSES_S[kind] for kind in self.kinds) / len(self.kinds)
        return time.monotonic() + self.chance.expovariate(1 / mean)

    def _stage(self) -> str:
        """The stage that the driver last printed; empty before the first."""
        if self._driver is None:
            return ""
        log = self.log.read_bytes()[self._logged :].decode(errors="replace")
        said = [line.removeprefix("stage: ") for line in log.splitlines() if line.startswith("stage: ")]
        return said[-1] if said else ""

    def _strike(self) -> bool:
        """Kill a victim of one of the kinds. Returns whether there was one."""
        kind = self.chance.choice(list(self.kinds))
        if not getattr(self, f"_strike_{kind}")():
            return False
        self.killed.append(kind)
        return True

    def _actor(self, *stages: str) -> bool:
        if self._stage() not in stages:
            return False
        pids = sorted(pid for root in self.nodes.workers() for pid in actors(root))
        return bool(pids) and kill(self.chance.choice(pids))

    def _busy_node(self) -> int:
        """The pid of a worker node with an actor on it; 0 if there is none."""
        busy = [root for root in sorted(self.nodes.workers()) if actors(root)]
        return self.chance.choice(busy) if busy and self._driver else 0

    def _strike_sampler(self) -> bool:
        return self._actor("sample")

    def _strike_verifier(self) -> bool:
        return self._actor("verify", "paths")

    def _strike_raylet(self) -> bool:
        if not (root := self._busy_node()):
            return False
        self.nodes.kill(root)
        self.nodes.add()
        return True

    _strike_node = _strike_raylet

    def _strike_driver(self) -> bool:
        if self._driver is None or self._stage() not in STAGES[1:-1]:
            return False
        kill_tree(self._driver.pid)
        self._driver.wait()
        self._driver = None
        return True

    def _strike_cluster(self) -> bool:
        if not self._strike_driver():
            return False
        self.nodes.close()
        self.nodes = type(self.nodes)(WORKERS, self.environ)  # type: ignore[call-arg]
        return True

    def _strike_cut(self) -> bool:
        assert isinstance(self.nodes, NamespaceNodes)
        if self._cut or not (root := self._busy_node()):
            return False
        self.nodes.cut(root, up=False)
        self._cut.append((time.monotonic() + CUT_S, root))
        self.nodes.add()
        return True

    def _restore(self) -> None:
        """Reconnect the network of a node that was cut off. Ray then ends its raylet."""
        if self._cut and time.monotonic() >= self._cut[0][0]:
            assert isinstance(self.nodes, NamespaceNodes)
            _, root = self._cut.pop()
            self.nodes.cut(root, up=True)
            self.nodes.retire(root)

    def _watch(self) -> int:
        """Check that committed files do not change. Returns the number of files."""
        now = {}
        for path in Path(self.run.folder).rglob("*.*"):
            try:
                about = path.stat()
            except FileNotFoundError:  # a temporary file
                continue
            if path.is_file() and ".tmp" not in path.parts and ".probe" not in path.parts:
                now[str(path)] = (about.st_ino, about.st_size, about.st_mtime_ns)
        self.overwritten += sum(now.get(path) != about for path, about in self._seen.items())
        self._seen = now
        return len(now)


def conduct(kind: str, run: Run, kills: int, seed: int, expected: Outcome | None) -> tuple[Tally, dict[str, object]]:
    """Run once with kills of one kind. Returns the tally and an entry of the log.

    `expected` None: the run is compared with a recomputation from its committed completions.
    """
    environ = environment(SLOW if run.engine == "scripted" else "")
    started = time.monotonic()
    nodes = (NamespaceNodes if kind in IN_NAMESPACES else LoopbackNodes)(WORKERS, environ)
    kinds = ON_LOOPBACK if kind == "any" else (kind,)
    campaign = Campaign(run, kinds, random.Random(f"{seed} {kind} {run.actors}"), nodes, environ)
    try:
        campaign.conduct(kills)
    finally:
        campaign.end()
    tally = judge(run, expected or alone(replace(run, folder=f"{run.folder}.again"), run.folder), campaign)
    entry = {
        "kind": kind,
        "run": asdict(run),
        "seed": seed,
        "killed": campaign.killed,
        "drivers": campaign.started,
        "seconds": round(time.monotonic() - started, 1),
        "tally": asdict(tally),
    }
    return tally, entry


def judge(run: Run, expected: Outcome, campaign: Campaign) -> Tally:
    reached = outcome(run)
    unsound = reached.files != expected.files or reached.void or repair.find(repair.examine(LocalStore(run.folder)))
    return Tally(
        1,
        len(campaign.killed),
        run.rows,
        reached.lost,
        reached.duplicated,
        reached.phantom,
        campaign.overwritten,
        int(bool(unsound)),
    )


def prove(kind: str, runs: Sequence[Run], kills: int, seed: int, expected: Outcome | None, log: Path | None) -> None:
    """Print a line of the table: runs of one kind, which share the kills. Raises SystemExit when a run is unsound."""
    where = f"local disk, {'namespaces' if kind in IN_NAMESPACES else 'loopback'}"
    name = NAMES[kind] + ("" if runs[0].engine == "scripted" else ", vLLM")
    with table.line(name, where, log) as tallies:
        for number, run in enumerate(runs):
            struck = sum(tallies, Tally()).faults
            share = -(-(kills - struck) // (len(runs) - number))
            tally, entry = conduct(kind, run, share, seed, expected)
            tallies.append(tally)
            text = f"{run.actors} actors, {tally.faults} kills, {entry['drivers']} drivers, {entry['seconds']} s"
            print(f"  {kind}: {text}{'' if tally.sound else f': NOT SOUND: {run.folder}'}", file=sys.stderr, flush=True)
            if log:
                with log.with_suffix(".runs.jsonl").open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            if tally.sound:
                for path in (run.folder, f"{run.folder}.again"):
                    shutil.rmtree(path, ignore_errors=True)


def fault_free(run: Run, kept: Path | None) -> Outcome:
    """The outcome of a run without faults. It is computed once for all parts that name the same file."""
    if kept and kept.exists():
        return Outcome(**json.loads(kept.read_text()))
    expected = alone(run)
    if kept:
        kept.write_text(json.dumps(asdict(expected)))
    return expected


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the runs lie")
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, metavar="KIND", help="some kinds")
    parser.add_argument("--kills", type=int, help="of each kind, and half as many of the cluster (24; vLLM: 3)")
    parser.add_argument("--rows", type=int, help="of each run; a multiple of 4,000 (16,000; vLLM: 4,000)")
    parser.add_argument("--actors", type=int, nargs="+", help="a run of each kind with each of these (1 2 4; vLLM: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vllm", action="store_true", help="a real engine, the tiny models: sampler and driver only")
    parser.add_argument("--log", type=Path, help="add the lines to this file, for `python -m tests.chaos.table`")
    parser.add_argument("--expected", type=Path, help="keep here what a run must come to, for parts of the same size")
    options = parser.parse_args()
    options.kills = options.kills or (3 if options.vllm else 24)
    options.rows = options.rows or (4000 if options.vllm else 16000)
    options.actors = options.actors or ([1] if options.vllm else ACTORS)
    return options


def main() -> int:
    options = arguments()
    if "RAY_AUTH_TOKEN" not in os.environ:  # Ray reads its environment when it is imported, which it is
        command = [sys.executable, "-m", "tests.chaos.kills", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **environment("")} | {"RFT_STORE_FAULTS": ""})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that all started processes end too
    engine = "vllm" if options.vllm else "scripted"
    kinds = options.only or (["sampler", "driver"] if options.vllm else list(NAMES))
    if {*IN_NAMESPACES} & {*kinds} and (why := namespaces_refused()):
        print(f"no nodes in network namespaces here, those kinds are left out: {why}", file=sys.stderr)
        kinds = [kind for kind in kinds if kind not in IN_NAMESPACES]
    print(table.HEAD, flush=True)
    folder = tempfile.mkdtemp(prefix="rft-kills-", dir=options.folder)
    size = Run(folder, k=options.rows // 200, engine=engine)
    expected = None if options.vllm else fault_free(replace(size, folder=f"{folder}/expected"), options.expected)
    for kind in kinds:
        runs = [replace(size, folder=f"{folder}/{kind}-{count}", actors=count) for count in options.actors]
        kills = 0 if kind == "free" else options.kills // 2 if kind == "cluster" else options.kills
        prove(kind, runs, kills, options.seed, expected, options.log)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

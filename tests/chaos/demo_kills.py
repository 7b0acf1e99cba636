"""Kills `make demo` while it runs: `python -m tests.chaos.demo_kills [--kills 10] [--seed 0]`.

Starts `make demo` in this checkout with a new run, and kills a random process at random times (`kill -9` of the
command, the job's driver, a worker, the node's raylet, or everything). When the command has ended, it is started again,
and after the last kill it runs to its end. Then the committed samples are counted against the plan, `store verify`
reads the run, and a second run recomputes verdicts, paths and corpus from the committed completions alone, to compare
them row by row. Prints a line for each kill and each check; exit code 1 when a check fails. Takes as long as two demos.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from rft_ray.store import names, read_table
from rft_ray.store.backends.local import LocalStore
from tests.chaos.nodes import kill

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = {
    "the command": ("cluster/demo.py run",),
    "the driver": ("jobs/rft_pipeline.py",),
    "a worker": ("ray::",),
    "the raylet": ("raylet/raylet",),
    "everything": ("",),
}
TAKEN_OVER = ("problems", "models", "completions", "evaluation")
BOOKED = ("planned", "sampled", "accepted", "skipped", "missing", "quarantined", "ungraded")
PAUSE_S = (8.0, 50.0)
ATTEMPTS = 5
"""Attempts to finish after the last kill."""


class Demo:
    """`make demo` on one run, and all processes that it started."""

    def __init__(self, name: str, log: Path) -> None:
        self._name, self._log, self._mark = name, log, f"RFT_KILLS_MARK={os.urandom(8).hex()}"
        self.command: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        variable, _, value = self._mark.partition("=")
        with open(self._log, "ab") as log:
            self.command = subprocess.Popen(
                ["make", "demo", f"ARGS=--run.name={self._name}"],
                cwd=ROOT,
                env=os.environ | {variable: value},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        return None if self.command is None else self.command.poll()

    def processes(self, words: tuple[str, ...]) -> list[int]:
        """Pids of running processes that it started, whose command line holds one of the words."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if self._mark.encode() in (folder / "environ").read_bytes() and any(word in line for word in words):
                    pids.append(int(folder.name))
        return pids

    def strike(self, victim: str, dice: random.Random) -> int:
        """`kill -9` the victim. Returns the number of killed processes."""
        pids = sorted(self.processes(VICTIMS[victim]))
        if victim == "a worker" and pids:
            pids = [dice.choice(pids)]
        return sum(kill(pid) for pid in pids)

    def end(self) -> None:
        """End all remaining processes."""
        for pid in self.processes(("",)):
            kill(pid)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def killed(demo: Demo, kills: int, dice: random.Random) -> None:
    """Start the demo, kill, and start it again, until all kills are done and it ends with exit code 0."""
    done = tries = 0
    demo.start()
    while demo.ended() != 0 or done < kills:
        due = time.monotonic() + dice.uniform(*PAUSE_S)
        while demo.ended() is None and (done >= kills or time.monotonic() < due):
            time.sleep(0.5)
        if demo.ended() is None:
            victim = dice.choice(list(VICTIMS))
            if hit := demo.strike(victim, dice):
                done += 1
                say(f"kill {done} of {kills}: {victim} ({hit} processes)")
                time.sleep(2)
        elif demo.ended() == 0 and done < kills:
            raise SystemExit(f"the demo was over after {done} kills: it needs shorter pauses")
        elif demo.ended() != 0:
            tries += done >= kills
            if tries > ATTEMPTS:
                raise SystemExit(f"does not finish: exit code {demo.ended()}, see the log")
            say(f"it ended with {demo.ended()}: the same command again")
            demo.start()


def counted(folder: Path) -> bool:
    """Whether the files hold every planned sample once, and the summary's ledger has the same counts."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    models, k = len(settings["models"]), settings["sampling"]["samples_per_problem"]
    train, test = (int(settings["problems"][split]["source"].rpartition(":")[2]) for split in ("train", "test"))
    sampled = models * train * k
    planned = sampled + 2 * models * test  # greedy answers of SFT and RFT to the test problems
    samples: Counter[tuple[str, str, int]] = Counter()
    for path in (folder / "completions").rglob("*.parquet"):
        table = pq.read_table(path, columns=["problem_id", "sample_index"]).to_pydict()
        recipe = path.name.partition(".")[0]
        samples.update((recipe, *row) for row in zip(table["problem_id"], table["sample_index"], strict=True))
    ledger = json.loads((folder / "summary.json").read_text())["ledger"]
    say(f"planned {planned:,} samples, found {samples.total():,}, {len(samples):,} different ones")
    for model, row in ledger.items():
        say(f"ledger of {model}: " + ", ".join(f"{row[name]:,} {name}" for name in BOOKED))
    booked = sum(row["accepted"] + sum(row["rejected"].values()) for row in ledger.values())
    return planned == samples.total() == len(samples) and booked == sampled


def rows(folder: Path) -> dict[str, object]:
    """The rows of everything that is made from completions, by name."""
    store = LocalStore(str(folder))
    keys = [key for stage in ("verdicts", "paths", "corpus") for key in store.list(f"{stage}/")]
    return {
        key: read_table(store, key)[0].to_pylist() if key.endswith(".parquet") else store.read(key)
        for key in sorted(names.committed_files(keys).values())
    }


def recomputed(folder: Path, log: Path) -> bool:
    """Whether recomputing verdicts, paths and corpus from the committed completions alone gives the same rows."""
    again = folder.with_name(f"{folder.name}-recomputed")
    for name in TAKEN_OVER:
        shutil.copytree(folder / name, again / name)
    demo = Demo(again.name, log)
    demo.start()
    assert demo.command is not None
    status = demo.command.wait()
    ours, theirs = rows(folder), rows(again)
    unlike = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    say(f"recomputed (exit code {status}): {len(theirs)} files, {len(unlike)} unlike: {unlike[:3]}")
    demo.end()
    return status == 0 and not unlike and len(theirs) > 0


def verified(folder: Path) -> bool:
    command = [sys.executable, "-m", "rft_ray.store", "verify", str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    say(f"store verify: {said.stdout.strip().splitlines()[-1:]} exit code {said.returncode}")
    return said.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", default="killed", help="the run's name; it must not exist yet")
    options = parser.parse_args()
    folder, log = ROOT / "runs" / options.run, ROOT / "runs" / f"{options.run}.log"
    if folder.exists():
        parser.error(f"{folder} exists: give another --run")
    log.parent.mkdir(exist_ok=True)
    demo, began = Demo(options.run, log), time.monotonic()
    try:
        killed(demo, options.kills, random.Random(options.seed))
    finally:
        demo.end()
    say(f"complete after {time.monotonic() - began:.0f} s")
    checks = [counted(folder), verified(folder), recomputed(folder, log)]
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long a training stands still for a checkpoint: `python -m benchmarks.checkpoints [--gib 1] [--mb-per-s 100]`.

Input: the state of an imaginary worker (float32 weights and both of Adam's averages, as ZeRO divides them), and a store
that takes so many MB/s. Output, as medians of rounds by turns: seconds that the training waits when it writes, hashes
and uploads by itself, and when it hands a copy in memory to the thread that does (`checkpoint_writer.py`); the rate of
the copy; and the steps of a small matrix training during the upload, as a share of those without. From the rate,
in seconds of the core that copies so that other work on the machine counts little, follows what a checkpoint of a
larger model costs, which the last lines work out.

Limits: one process on CPUs. On GPUs the copy goes over PCIe, at 1 GB/s at the least.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rft_ray.config import Training
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import checkpoints
from rft_ray.training.checkpoint_writer import CheckpointWriter
from rft_ray.training.snapshots import Snapshots
from rft_ray.training.trainer import Group

JOB = "5f0c5f0c5f0c5f0c"
STATE_BYTES = (12, 14)
"""Bytes per weight of a ZeRO-3 checkpoint: float32 weights and two averages, and the bfloat16 weights or none."""
LARGE, WORKERS, MINUTES = 13e9, 8, 20


class SlowStore:
    """A store elsewhere that takes `rate` bytes a second."""

    def __init__(self, path: Path, rate: float) -> None:
        self._there, self._rate = LocalStore(path), rate
        self.url = self._there.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None

    def create_file(self, key: str, path: Path) -> bool:
        time.sleep(path.stat().st_size / self._rate)
        return self._there.create(key, b"")  # its content is not read


def state_of(size: float) -> dict[str, Any]:
    import torch

    weights = int(size / 12)
    return {name: torch.rand(weights) for name in ("fp32", "exp_avg", "exp_avg_sq")}


def by_itself(group: Group, state: dict[str, Any], step: int) -> Callable[[], None]:
    """Write, hash, upload and commit before the training goes on. Returns what to wait for."""
    import torch

    folder = f"work/{JOB}/a/checkpoint-{step}"
    path = checkpoints.local_folder(group.store, folder, group.scratch) / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    files = checkpoints.upload(group.store, folder, path.parent, [path.name])
    checkpoints.commit(group.store, checkpoints.Checkpoint(folder, step, 0.0, group.layout, files))
    path.unlink()
    return lambda: None


def behind(group: Group, state: dict[str, Any], step: int) -> Callable[[], None]:
    """Copy, and hand the copy on."""
    folder = checkpoints.local_folder(group.store, f"work/{JOB}/a/checkpoint-{step}", group.scratch)
    snapshots, writer = Snapshots(1), CheckpointWriter(group, JOB)
    if not snapshots.keep(state, str(folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")):
        raise SystemExit("not enough memory for the copy: give a smaller --gib")
    writer.save(step, 0.0, snapshots.take())
    return writer.finish


def steps_until(done: Callable[[], bool]) -> float:
    """Steps per second of a small training, until `done`."""
    import torch

    square, count, began = torch.rand(256, 256), 0, time.monotonic()
    while not done() or not count:
        square = torch.nn.functional.normalize(square @ square)
        count += 1
    return count / (time.monotonic() - began)


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the state (default 1)")
    parser.add_argument("--mb-per-s", type=float, default=100.0, help="what the store takes (default 100)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = options.gib * 2**30
    state = state_of(size)
    stalls: dict[str, list[float]] = {"by itself": [], "behind the training": []}
    speeds: list[float] = []
    copies: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        store: Any = SlowStore(Path(folder) / "store", options.mb_per_s * 1e6)
        group = Group("a", store, Training(), False, None, 0, 0, 1)
        for number in range(options.rounds):
            alone = steps_until(after(3.0))
            for step, (name, save) in enumerate(zip(stalls, (by_itself, behind), strict=True), 2 * number + 1):
                began, worked = time.monotonic(), time.thread_time()
                wait = save(group, state, step)
                stalls[name].append(time.monotonic() - began)
                if save is behind:
                    copies.append(time.thread_time() - worked)
                    speeds.append(steps_until(after(size / options.mb_per_s / 1e6)) / alone)
                wait()
    alone_s, behind_s = (statistics.median(times) for times in stalls.values())
    rate = size / statistics.median(copies)
    print(f"state {size / 1e9:.2f} GB, store {options.mb_per_s:g} MB/s, medians of {options.rounds} rounds, 1 thread")
    print(f"the training waits {alone_s:.2f} s where it saves itself, {behind_s:.2f} s for a copy")
    print(f"which is {rate / 1e9:.2f} GB/s of a core")
    print(
        f"it stands still for {behind_s / alone_s:.1%} of that time, and steps at {statistics.median(speeds):.0%} speed"
    )
    for each in STATE_BYTES:
        part = LARGE * each / WORKERS
        cost = part / rate / (60 * MINUTES)
        print(
            f"13B at {each} bytes a weight, {WORKERS} workers: {part / 1e9:.1f} GB each, in {part / rate:.0f} s: "
            f"{cost:.2%} of {MINUTES} minutes"
        )


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have passed since this call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


if __name__ == "__main__":
    main()

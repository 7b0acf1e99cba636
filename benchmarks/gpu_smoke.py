"""Ten minutes on a machine with GPUs: does every part work there, and how fast?

    python -m benchmarks.gpu_smoke [--minutes 10] [--only STEP …] [--keep FOLDER]
    python -m benchmarks.gpu_smoke --measure      sizes that matter, with random weights (gpu_measure.py); 20 minutes
    python -m benchmarks.gpu_smoke --cpu          the same steps on CPUs, to rehearse them

The models are the tiny ones that rft-ray carries, so that nothing is downloaded. Steps, each in a process of its own
and bounded in time, so that one that fails or hangs leaves the others their turn: `versions` of packages, driver and
cards; `sample-tp1` and `sample-tp2` (two GPUs) by `rft-ray sample`; `swap-eager` and `swap-graphs`: an engine takes
over another model and back, is closed and opened again, and its greedy texts are compared with a fresh engine's; `run`:
SFT, sampling, RFT and evaluation of one model with the settings of `make demo`; `serve`: that run's model answers
`/solve`. Prints a line of JSON as each step ends, and a table at the end. Exit code 0 where no step failed,
1 where one did, 130 stopped by Ctrl-C, 143 by SIGTERM; then the step's processes have ended.

Limits: tiny models say whether parts work together, and little of the speed of large ones. `rft-ray tune` measures an
engine with a model of your own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu_engines import swap
from benchmarks.gpu_measure import MEASUREMENTS, versions
from benchmarks.gpu_steps import Figures, Note, Place, Skipped, Step, run_step, run_steps, table, timed

PROMPTS, SAMPLES, TOKENS = 64, 16, 128
MARKER = "gpu-smoke"
"""File that marks a folder as this benchmark's own, in which its steps may delete."""


# --- Steps


def sample(place: Place, note: Note, *, size: int) -> None:
    """`rft-ray sample` with engines of so many GPUs. tiny-xs has two heads, which two GPUs can share."""
    if size > max(1, place.gpus):
        raise Skipped(f"needs {size} GPUs")
    from rft_ray.cli import sample as command
    from rft_ray.data.tiny.generator import generate

    prompts, out = place.folder / "prompts.jsonl", place.folder / f"samples-tp{size}"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier call with this folder
    problems = generate(PROMPTS, split="train", seed=1, steps=(1, 2))
    prompts.write_text("".join(json.dumps({"prompt": f"Question: {p.question}\nAnswer:"}) + "\n" for p in problems))
    engine = place.engine(tensor_parallel_size=size)
    settings = {name: getattr(engine, name) for name in ("device", "dtype", "kv_cache_gib", "gpu_memory_utilization")}
    arguments = [f"--engine.{name}={value}" for name, value in settings.items()]
    arguments += [f"--engine.tensor_parallel_size={size}", "--kind=raw", "--model=tiny:tiny-xs", f"--n={SAMPLES}"]
    began = time.monotonic()
    _must(command.main([f"--prompts={prompts}", f"--out={out}", f"--max-tokens={TOKENS}", *arguments]))
    summary = json.loads((out / "summary.json").read_text())
    note(
        samples=summary["sampled"],
        tokens_per_s=summary["tokens_per_s"],
        with_start_s=round(time.monotonic() - began, 1),
    )


def run(place: Place, note: Note) -> None:
    """SFT, sampling, RFT and evaluation of one tiny model, as `make demo` does with more of everything."""
    from rft_ray.cli import run as command

    shutil.rmtree(place.folder / "run", ignore_errors=True)  # of an earlier call with this folder
    workers = 2 if place.gpus >= 2 else 1
    settings = {
        "run.store": place.folder,
        "run.name": "run",
        "models": "[{name: tiny-s, source: 'tiny:tiny-s'}]",
        "problems.train.source": "tiny:train:96",
        "problems.test.source": "tiny:test:48",
        "sampling.samples_per_problem": 16,
        "sft.epochs": 1,
        "rft.epochs": 1,
        "engine.device": place.device,
        "engine.gpu_memory_utilization": 0.5,
        "training.device": place.device,
        "training.workers": workers,
        "training.zero_stage": 2 if place.gpus else 0,
    }
    _must(command.main(["demo", *(f"--{key}={value}" for key, value in settings.items())]))
    summary = json.loads((place.folder / "run" / "summary.json").read_text())
    note(
        stages_s={stage["name"]: round(stage["seconds"], 1) for stage in summary["stages"]},
        tokens_per_s=summary["ledger"]["tiny-s"]["tokens_per_s"],
        workers=workers,
        solved={name: metrics["maj1@1"]["value"] for name, metrics in summary["evaluation"]["tiny-s"].items()},
    )


def serve(place: Place, note: Note) -> None:
    """The run's model answers `/solve`."""
    from benchmarks import services

    if not (place.folder / "run" / "summary.json").exists():
        raise Skipped("needs the step run")
    began = time.monotonic()
    at_most = 0.8 * float(os.environ["RFT_STEP_SECONDS"])  # so that the service's own log is shown, and not lost
    with services.rft_service(place.folder / "run", "--device", place.device, start_timeout_s=at_most) as service:
        note(start_s=round(time.monotonic() - began, 1))
        question = "Tom has 3 bags of 4 nuts and eats 2 nuts. How many nuts are left?"
        body = json.dumps({"question": question, "k": 8, "early_stop": False}).encode()
        asked = urllib.request.Request(f"{service.url}/solve", body, {"content-type": "application/json"})
        answer, seconds = timed(lambda: json.load(urllib.request.urlopen(asked, timeout=120)))
    note(solve_s=seconds, answer=answer.get("answer"))


STEPS = {
    "versions": Step(versions, 25),
    "sample-tp1": Step(partial(sample, size=1), 80),
    "sample-tp2": Step(partial(sample, size=2), 80),
    "swap-eager": Step(partial(swap, eager=True), 75),
    "swap-graphs": Step(partial(swap, eager=False), 110),
    "run": Step(run, 140),
    "serve": Step(serve, 80),
}
"""Of ten minutes for all. The seconds are guesses for a GPU until one was measured."""


def _must(code: int) -> None:
    if code:
        raise RuntimeError(f"the command ended with exit code {code}: see the log")


# --- The command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="rehearse on CPUs")
    parser.add_argument("--measure", action="store_true", help="engines of 7B and training of 1.5B, instead")
    parser.add_argument("--minutes", type=float, help="of all steps together (default: 10, of --measure 20)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the steps' files and logs in this folder")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from rft_ray.runtime.gpus import built_for_gpus, usable_gpus

    steps = MEASUREMENTS if options.measure else STEPS
    names = options.only or list(steps)
    if unknown := [name for name in (*names, options.step) if name not in (*steps, None)]:
        parser.error(f"no step {', '.join(unknown)}: there are {', '.join(steps)}")
    gpus = 0 if options.cpu else usable_gpus()
    if not gpus and not options.cpu:
        why = "no NVIDIA GPU is visible (/dev/nvidia0)" if built_for_gpus() else "torch is built for CPUs"
        sys.exit(f"{why}: `make setup DEVICE=gpu` where there is a GPU, --cpu to rehearse the steps without one")
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="rft-smoke-"))).resolve()
    try:
        claim(folder)
    except ValueError as error:
        parser.error(str(error))
    place = Place(folder, gpus)
    if options.step:
        run_step(options.step, steps[options.step], place)
    flags = [flag for flag, given in (("--cpu", options.cpu), ("--measure", options.measure)) if given]
    command = ["-m", "benchmarks.gpu_smoke", *flags, "--keep", str(folder), "--step"]
    return check(steps, names, place, options.minutes or (20 if options.measure else 10), command)


def claim(folder: Path) -> None:
    """Make and mark a folder. Raises ValueError for one that holds files and was not marked: they would be deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ValueError(f"--keep {folder}: it holds files of something else: give a new or an empty folder")
    (folder / MARKER).touch()


def check(steps: dict[str, Step], names: Sequence[str], place: Place, minutes: float, command: Sequence[str]) -> int:
    """Do the steps, print their records and the table, and return the exit code."""
    records: list[Figures] = []
    stopped = 0
    signal.signal(signal.SIGTERM, _raise_sigterm)
    try:
        for record in run_steps(steps, names, place, minutes, command):
            records.append(record)
            print(json.dumps(record, ensure_ascii=False), flush=True)
    except KeyboardInterrupt as notice:  # the step's processes have ended
        stopped = 143 if notice.args else 130
    shutil.rmtree(place.folder / "models", ignore_errors=True)  # gigabytes of random weights
    print(f"\n{table(records)}\n\nlogs: {place.folder}", flush=True)
    return stopped or int(any(record["ok"] is False for record in records))


def _raise_sigterm(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    sys.exit(main())

"""Ten minutes on a machine with GPUs: does every part work there, and how fast?

    python -m benchmarks.gpu_smoke [--minutes 10] [--only STEP …] [--keep FOLDER]
    python -m benchmarks.gpu_smoke --cpu          the same steps on CPUs, to rehearse them

The models are the tiny ones that rft-ray carries, so that nothing is downloaded. Steps, each in a process of its own
and bounded in time, so that one that fails or hangs leaves the others their turn: `versions` of packages, driver and
cards; `sample-tp1` and `sample-tp2` (two GPUs) by `rft-ray sample`; `swap-eager` and `swap-graphs`: an engine takes
over another model and back, is closed and opened again, and its greedy texts are compared with a fresh engine's; `run`:
SFT, sampling, RFT and evaluation of one model with the settings of `make demo`; `serve`: that run's model answers
`/solve`. Prints a line of JSON as each step ends, and a table at the end. Exit code 0 where no step failed.

Limits: tiny models say whether parts work together, and little of the speed of large ones. `rft-ray tune` measures an
engine with a model of your own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
PROMPTS, SAMPLES, TOKENS = 64, 16, 128
SAME_TEXTS = 0.9
"""Share of greedy texts that a swapped and a fresh engine have in common at least: rounding may part some of them."""


@dataclass(frozen=True)
class Place:
    """Where the steps run. Example: Place(Path("/tmp/smoke"), gpus=8)"""

    folder: Path
    gpus: int
    """0: on CPUs."""

    @property
    def device(self) -> str:
        return "gpu" if self.gpus else "cpu"

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.gpus else "float32"

    def engine(self, **settings: Any) -> Any:
        """A config's section `engine` for the tiny models."""
        from rft_ray import config

        given = {"device": self.device, "dtype": self.dtype, "kv_cache_gib": 0.25, "gpu_memory_utilization": 0.5}
        return config.Engine.model_validate(given | settings)


class Skipped(Exception):
    """A step that this machine cannot do; the message says why."""


# --- Steps


def versions(place: Place) -> Figures:
    import deepspeed
    import ray
    import torch
    import vllm

    cards = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())] if place.gpus else []
    if place.gpus and not cards:
        raise RuntimeError("torch sees no GPU: are these the packages of requirements/gpu.lock?")
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, vllm, ray, deepspeed)},
        "cuda": torch.version.cuda,
        "cards": [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards],
    }


def sample_tp1(place: Place) -> Figures:
    return _sample(place, 1)


def sample_tp2(place: Place) -> Figures:
    if place.gpus < 2:
        raise Skipped("needs two GPUs")
    return _sample(place, 2)


def _sample(place: Place, size: int) -> Figures:
    """`rft-ray sample` with engines of so many GPUs. tiny-xs has two heads, which two GPUs can share."""
    from rft_ray.cli import sample
    from rft_ray.data.tiny.generator import generate

    prompts, out = place.folder / "prompts.jsonl", place.folder / f"samples-tp{size}"
    problems = generate(PROMPTS, split="train", seed=1, steps=(1, 2))
    prompts.write_text("".join(json.dumps({"prompt": f"Question: {p.question}\nAnswer:"}) + "\n" for p in problems))
    engine = place.engine(tensor_parallel_size=size)
    settings = {name: getattr(engine, name) for name in ("device", "dtype", "kv_cache_gib", "gpu_memory_utilization")}
    arguments = [f"--engine.{name}={value}" for name, value in settings.items()]
    arguments += [f"--engine.tensor_parallel_size={size}", "--kind=raw", "--model=tiny:tiny-xs", f"--n={SAMPLES}"]
    began = time.monotonic()
    _must(sample.main([f"--prompts={prompts}", f"--out={out}", f"--max-tokens={TOKENS}", *arguments]))
    summary = json.loads((out / "summary.json").read_text())
    return {
        "samples": summary["sampled"],
        "tokens_per_s": summary["tokens_per_s"],
        "with_start_s": round(time.monotonic() - began, 1),
    }


def swap_eager(place: Place) -> Figures:
    return _swap(place, eager=True)


def swap_graphs(place: Place) -> Figures:
    if not place.gpus:
        raise Skipped("compilation takes minutes on CPUs")
    return _swap(place, eager=False)


def _swap(place: Place, *, eager: bool) -> Figures:
    """One engine takes over a second model and goes back to the first; a fresh engine holds the second one."""
    from rft_ray.data import base_models
    from rft_ray.data.tiny.generator import generate
    from rft_ray.plan.sampling_settings import SamplingSettings
    from rft_ray.sampling.engine import Request
    from rft_ray.sampling.vllm_engine import VllmEngine

    form = "Question: {query}\nAnswer:"
    greedy = SamplingSettings(0.0, 1.0, TOKENS, 1, form)
    problems = generate(PROMPTS, split="test", seed=2, steps=(1, 2))
    requests = [Request(problem, form.replace("{query}", problem.question), 0, 1) for problem in problems]
    first, second = (base_models.resolve(f"tiny:{name}") for name in ("tiny-s", "tiny-s-50"))

    def opened(folder: Path) -> VllmEngine:
        engine = place.engine(enforce_eager=eager)
        return VllmEngine(engine, folder, max_model_len=None, gpu=bool(place.gpus), seed=0)

    def texts(engine: VllmEngine) -> list[str]:
        return [sample.text for answer in engine.generate(requests, greedy) for sample in answer.samples]

    figures: Figures = {"used_gib_before": _used_gib(place)}
    engine, figures["open_s"] = _timed(lambda: opened(first))
    one = texts(engine)
    swapped, figures["swap_s"] = _timed(lambda: engine.swap(second))
    if not swapped:
        raise RuntimeError("the engine did not take over a model of the same layout")
    two = texts(engine)
    engine.swap(first)
    back = texts(engine)
    figures["used_gib_open"] = _used_gib(place)
    _, figures["close_s"] = _timed(engine.close)
    figures["used_gib_closed"] = _used_gib(place)
    fresh, figures["reopen_s"] = _timed(lambda: opened(second))
    figures |= {"same_as_fresh": _common(two, texts(fresh)), "same_after_return": _common(one, back)}
    fresh.close()
    if one == two:
        raise RuntimeError("both models give the same texts: the swap changed nothing")
    if min(figures["same_as_fresh"], figures["same_after_return"]) < SAME_TEXTS:
        raise RuntimeError(f"a swapped engine writes other texts than a fresh one: {figures}")
    return figures


def _used_gib(place: Place) -> float | None:
    """Memory in use of the first GPU, as the driver counts it; None on CPUs."""
    if not place.gpus:
        return None
    import torch

    return round(torch.cuda.device_memory_used(0) / 2**30, 2)


def _common(one: Sequence[str], other: Sequence[str]) -> float:
    return round(sum(a == b for a, b in zip(one, other, strict=True)) / len(one), 3)


def run(place: Place) -> Figures:
    """SFT, sampling, RFT and evaluation of one tiny model, as `make demo` does with more of everything."""
    from rft_ray.cli import run as command

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
    return {
        "stages_s": {stage["name"]: round(stage["seconds"], 1) for stage in summary["stages"]},
        "tokens_per_s": summary["ledger"]["tiny-s"]["tokens_per_s"],
        "workers": workers,
        "solved": {name: metrics["maj1@1"]["value"] for name, metrics in summary["evaluation"]["tiny-s"].items()},
    }


def serve(place: Place) -> Figures:
    """The run's model answers `/solve`."""
    from benchmarks import services

    if not (place.folder / "run" / "summary.json").exists():
        raise Skipped("needs the step run")
    began = time.monotonic()
    with services.rft_service(place.folder / "run", "--device", place.device) as service:
        start_s = time.monotonic() - began
        question = "Tom has 3 bags of 4 nuts and eats 2 nuts. How many nuts are left?"
        body = json.dumps({"question": question, "k": 8, "early_stop": False}).encode()
        asked = urllib.request.Request(f"{service.url}/solve", body, {"content-type": "application/json"})
        answer, seconds = _timed(lambda: json.load(urllib.request.urlopen(asked, timeout=120)))
    return {"start_s": round(start_s, 1), "solve_s": seconds, "answer": answer.get("answer")}


STEPS: dict[str, tuple[Callable[[Place], Figures], float]] = {
    "versions": (versions, 90),
    "sample-tp1": (sample_tp1, 150),
    "sample-tp2": (sample_tp2, 150),
    "swap-eager": (swap_eager, 150),
    "swap-graphs": (swap_graphs, 200),
    "run": (run, 300),
    "serve": (serve, 180),
}
"""Step -> what it does, and the seconds that it may take at most, of ten minutes for all."""


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return work(), round(time.monotonic() - began, 2)


def _must(code: int) -> None:
    if code:
        raise RuntimeError(f"the command ended with exit code {code}: see the log")


# --- One process a step


def run_step(name: str, place: Place) -> None:
    """Do a step in this process, and write its record beside its log."""
    record: Figures = {}
    try:
        record = {"ok": True, **STEPS[name][0](place)}
    except Skipped as reason:
        record = {"ok": None, "skipped": str(reason)}
    except BaseException as failure:
        import traceback

        traceback.print_exc()
        record = {"ok": False, "error": " ".join(f"{type(failure).__name__}: {failure}".split())[:500]}
    (place.folder / f"{name}.json").write_text(json.dumps(record))
    sys.stdout.flush()
    os._exit(0)  # the parent ends the processes that a step leaves


def step(name: str, place: Place, seconds: float) -> Figures:
    """Do a step in a process of its own, for so long at most. Returns its record."""
    command = [sys.executable, "-m", "benchmarks.gpu_smoke", "--step", name, "--keep", str(place.folder)]
    command += [] if place.gpus else ["--cpu"]
    log = place.folder / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        child = subprocess.Popen(
            command, env=os.environ | _threads(place) | variables, stdout=output, stderr=output, start_new_session=True
        )
        try:
            late = False
            child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    result = place.folder / f"{name}.json"
    if late:
        record: Figures = {"ok": False, "error": f"not done within {seconds:.0f} s: {log}"}
    elif not result.exists():
        record = {"ok": False, "error": f"its process ended with status {child.returncode}: {log}"}
    else:
        record = json.loads(result.read_text())
    return {"step": name, "seconds": round(time.monotonic() - began, 1), **record}


def _threads(place: Place) -> dict[str, str]:
    """The environment of an engine in the step's own process."""
    from rft_ray.sampling.vllm_arguments import process_environment

    return process_environment(place.engine(), gpu=bool(place.gpus))


def table(records: Sequence[Figures]) -> str:
    """All steps as a Markdown table."""
    lines = ["| step | | seconds | figures |", "|-|-|-|-|"]
    for record in records:
        state = {True: "ok", False: "FAILED", None: "skipped"}[record["ok"]]
        figures = {key: value for key, value in record.items() if key not in ("step", "ok", "seconds")}
        text = ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in figures.items())
        lines.append(f"| {record['step']} | {state} | {record['seconds']:.0f} | {text} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="rehearse on CPUs")
    parser.add_argument("--minutes", type=float, default=10, help="of all steps together (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help="these steps")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the steps' files and logs in this folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from rft_ray.runtime.gpus import usable_gpus

    gpus = 0 if options.cpu else usable_gpus()
    if not gpus and not options.cpu:
        sys.exit(
            "no NVIDIA GPU is visible, or torch is built for CPUs (cluster/setup.sh --gpu): --cpu rehearses the steps"
        )
    folder = options.keep or Path(tempfile.mkdtemp(prefix="rft-smoke-"))
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder.resolve(), gpus)
    if options.step:
        run_step(options.step, place)
    deadline = time.monotonic() + options.minutes * 60
    records: list[Figures] = []
    stopped = False
    try:
        for name in options.only:
            left = deadline - time.monotonic()
            late = {"step": name, "seconds": 0, "ok": False, "error": f"no time left of {options.minutes:g} minutes"}
            records.append(step(name, place, min(left, STEPS[name][1] * options.minutes / 10)) if left > 0 else late)
            print(json.dumps(records[-1], ensure_ascii=False), flush=True)
    except KeyboardInterrupt:  # the step's processes have ended
        stopped = True
    print(f"\n{table(records)}\n\nlogs: {folder}", flush=True)
    if stopped:
        return 130
    return int(any(record["ok"] is False for record in records))


if __name__ == "__main__":
    sys.exit(main())

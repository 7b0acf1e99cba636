"""Steps of a check on a machine with GPUs: each in a process of its own, bounded in time, with one record.

In: steps by name, and the seconds for all of them. Out: a record of each, as a line of JSON when it ends. A step that
fails, hangs or kills its process leaves the others their turn, and its record keeps the figures that it had.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft_ray.sampling.child_errors import root_cause

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
ERROR_CHARS = 500
ROOM = 0.85
"""Share of the time in which a step has to end by itself, where it can measure less."""


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


@dataclass(frozen=True)
class Note:
    """Takes a step's figures as they become known, `note(open_s=12.1)`, into a file that outlives the step."""

    path: Path

    def __call__(self, **figures: Any) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.figures() | figures))
        partial.replace(self.path)

    def figures(self) -> Figures:
        """All figures so far."""
        return dict(json.loads(self.path.read_text())) if self.path.exists() else {}


@dataclass(frozen=True)
class Step:
    """One part of a check. `work` raises Skipped where the machine cannot do it, and anything else where it fails."""

    work: Callable[[Place, Note], object]
    seconds: float
    """What it usually takes, which the steps before it leave to it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its process."""


class Skipped(Exception):
    """A step that this machine cannot do; the message says why."""


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and its seconds."""
    began = time.monotonic()
    return work(), round(time.monotonic() - began, 2)


def used_gib(place: Place) -> float | None:
    """Memory in use of the first GPU, by all processes; None on CPUs. Does not initialize CUDA, as PyTorch would."""
    if not place.gpus:
        return None
    import pynvml  # type: ignore[import-not-found]  # of gpu.lock

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    pynvml.nvmlInit()
    find = pynvml.nvmlDeviceGetHandleByIndex if first.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
    used: int = pynvml.nvmlDeviceGetMemoryInfo(find(int(first) if first.isdigit() else first)).used
    return round(used / 2**30, 2)


def driver_version() -> str:
    """The version of the NVIDIA driver."""
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())


# --- In the step's process


def run_step(name: str, step: Step, place: Place) -> None:
    """Do a step in this process, and write its record beside its log. Does not return."""
    note = Note(place.folder / f"{name}.json")
    try:
        step.work(place, note)
        note(ok=True)
    except Skipped as reason:
        note(ok=None, skipped=str(reason))
    except BaseException as failure:
        traceback.print_exc()
        note(ok=False, error=one_line(failure))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the parent ends the processes that a step leaves


def one_line(failure: BaseException) -> str:
    """Type and message of an error; of the lines of a log in it only the cause."""
    first, _, rest = f"{type(failure).__name__}: {failure}".partition("\n")
    text = f"{first} {root_cause(rest.splitlines())}" if rest.count("\n") > 2 else f"{first} {rest}"
    return " ".join(text.split())[:ERROR_CHARS]


# --- In the check's own process


def run_steps(
    steps: Mapping[str, Step], names: Sequence[str], place: Place, minutes: float, command: Sequence[str]
) -> Iterator[Figures]:
    """The record of each named step, as it ends. `command`: runs one step, whose name is appended."""
    deadline = time.monotonic() + 60 * minutes
    usual = [steps[name].seconds for name in names]
    for at, name in enumerate(names):
        seconds = bound(deadline - time.monotonic(), usual[at:])
        yield do(name, steps[name], place, seconds, [*command, name])


def bound(left: float, usual: Sequence[float]) -> float:
    """Seconds that the first of the steps to come may take, of `left` for all: its own, and what there is to spare.

    A step that hangs so leaves the later ones the time that they usually take, or their share of it.
    """
    return left - sum(usual[1:]) * min(1.0, left / sum(usual))


def do(name: str, step: Step, place: Place, seconds: float, command: Sequence[str]) -> Figures:
    """Do a step in a process of its own, for so long at most. Returns its record."""
    log, note = place.folder / f"{name}.log", Note(place.folder / f"{name}.json")
    note.path.unlink(missing_ok=True)  # of an earlier call in this folder
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RFT_STEP_SECONDS": str(ROOM * seconds),
    }
    began = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **_engine_environment(place), **variables, **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            child.wait(timeout=seconds)
            ending = f"its process ended by {_status(child.returncode)}"
        except subprocess.TimeoutExpired:
            ending = f"not done within {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    record = note.figures()
    if "ok" not in record:
        record |= {"ok": False, "error": f"{ending}; last in its log: {_last(log)}"[:ERROR_CHARS]}
    if record["ok"] is False:
        record["log"] = str(log)
    return {"step": name, "seconds": round(time.monotonic() - began, 1), **record}


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last(log: Path) -> str:
    """The last errors of a log, or else its last lines."""
    return root_cause(log.read_text(errors="replace").splitlines()[-200:]) or "nothing"


def _engine_environment(place: Place) -> dict[str, str]:
    """The environment of an engine in the step's own process."""
    from rft_ray.sampling.vllm_arguments import process_environment

    return process_environment(place.engine(), gpu=bool(place.gpus))


def table(records: Sequence[Figures]) -> str:
    """All steps as a Markdown table."""
    lines = ["| step | | seconds | figures |", "|-|-|-|-|"]
    for record in records:
        state = {True: "ok", False: "FAILED", None: "skipped"}[record["ok"]]
        figures = {key: value for key, value in record.items() if key not in ("step", "ok", "seconds", "log")}
        text = "; ".join(_cell(key, value) for key, value in figures.items() if value not in (None, [], {}))
        lines.append(f"| {record['step']} | {state} | {record['seconds']:.0f} | {text} |")
    return "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    if key == "skipped":
        return str(value)
    if isinstance(value, dict):
        return f"{key}: " + ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return f"{key}: " + ", ".join(map(_text, value))
    return f"{key} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "/")

"""Which AdamW a training runs: the same on every worker.

In: the worker group and a job's recipe. Out: the optimizer's name, as the TrainingRecord has it, and why it is not the
fastest. Where its state is in the host's memory (`training.offload_optimizer`) that is DeepSpeed's Adam for CPUs, if
every node has it compiled, and otherwise PyTorch's fused AdamW.

Limits: DeepSpeed's multiplies the powers of its betas step by step, and takes them anew when a training goes on from a
checkpoint: its weights are those of an uninterrupted one up to rounding only.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from rft_ray.config import Recipe
from rft_ray.training import cpu_adam, transformers_private
from rft_ray.training.agreement import together
from rft_ray.training.trainer import ADAMW, CPU_ADAM, FUSED, Group, offloads


def choose(group: Group, recipe: Recipe) -> tuple[str, str]:
    """The optimizer of a training, and why DeepSpeed's is not used; every rank must call this, and gets the same.

    The first call compiles DeepSpeed's Adam where a node has none yet, which takes a minute or so.
    """
    if not offloads(group.settings, recipe):
        return (FUSED if group.gpu else ADAMW), ""
    what = "DeepSpeed's CPU Adam could not be prepared"
    here = together(group, what, lambda: (group.node_rank, *(_compiled() if group.local_rank == 0 else (None, ""))))
    why = next((reason for _, _, reason in here if reason), "")
    file = next((file for node, file, _ in here if node == group.node_rank and file), None)
    reasons = together(group, what, partial(_loaded, file) if file and not why else str)
    why = why or next(filter(None, reasons), "")
    return (FUSED if why else CPU_ADAM), why


@cache
def _compiled() -> tuple[Path | None, str]:
    """This node's compiled operator, or the reason why there is none."""
    try:
        return cpu_adam.compiled(), ""
    except (cpu_adam.CompileError, OSError) as error:
        return None, str(error)


def _loaded(file: Path) -> str:
    """Load the operator into this process. Returns why not; empty where it is loaded."""
    try:
        transformers_private.load_cpu_adam(file)
    except (ImportError, OSError) as error:
        return str(error)
    return ""

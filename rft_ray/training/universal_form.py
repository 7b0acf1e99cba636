"""A DeepSpeed checkpoint of any number of workers and any ZeRO stage, converted into what another run loads.

In: a complete checkpoint. Out: a folder in DeepSpeed's universal form, with one file for each tensor of a parameter
(weight and Adam's two moments in float32, step). DeepSpeed writes two variants of it, which load only in ZeRO 1 and 2
and only in ZeRO 3: tensors with and without their shape, the step in other places, files of other names. The form
written here is both. A run without ZeRO gets a state that is not divided.

Of the settings of the optimizer's parameter groups only the learning rate is carried over, which the schedule changes.
The others come from the recipe: in ZeRO 3, DeepSpeed would set the first group's weight decay in all groups.

Checked against DeepSpeed 0.19.8.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "fp32"
_PARTS = "zero"
"""Folder with a subfolder for each parameter."""
_OPTIMIZER = "optimizer_state.pt"

Names = Sequence[Sequence[str]]
"""Names of the trained parameters, by parameter group, in the optimizer's order."""


@dataclass(frozen=True)
class _Optimizer:
    """What is common to all parameters."""

    names: Names
    groups: Sequence[dict[str, Any]]
    """The settings of each parameter group, as PyTorch saves them."""
    step: Any
    """Number of steps so far: as the checkpoint has it, which is a tensor or, by DeepSpeed's Adam for CPUs, an int."""


def convert(checkpoint: Path, out: Path, zero_stage: int, names: Callable[[], Names]) -> Path:
    """Write a checkpoint for a run of this ZeRO stage to a new folder `out`, with the trainer's files. Returns `out`.

    `names` is called where the checkpoint does not name the optimizer's parameters: when its state is not divided.
    Takes as much space as the checkpoint, and twice as much meanwhile. Raises ValueError where the checkpoint's
    optimizer has other parameters than the model.
    """
    import torch

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    step = (checkpoint / "latest").read_text().strip()
    (out / "latest_universal").write_text(step)
    saved, target = checkpoint / step, out / step
    state = _load(min(saved.glob("*model_states.pt")), mmap=True)
    divided = any(saved.glob("*optim_states.pt"))
    optimizer = _merged(saved, target, state) if divided else _taken_apart(state, target, names())
    optimizer = replace(optimizer, step=torch.tensor(float(optimizer.step), dtype=torch.float32))
    if zero_stage:
        _write_universal(target, state, optimizer, zero_stage)
    else:
        _write_undivided(target, state, optimizer)
    return out


# --- From the checkpoint to files of parameters ----------------------------------------------------


def _merged(saved: Path, target: Path, state: dict[str, Any]) -> _Optimizer:
    """Merge the parts of all ranks."""
    from deepspeed.checkpoint import ds_to_universal

    arguments = Namespace(
        input_folder=str(saved),
        output_folder=str(target),
        num_extract_workers=1,  # in this process: a forked one would hang on the training's threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    for copied in target.glob("*model_states.pt"):
        copied.unlink()
    common = _load(target / _PARTS / _OPTIMIZER)
    shapes: Sequence[dict[str, Any]] = state["param_shapes"]  # of each part of the optimizer's state
    names = [[name for part in group["params"] for name in shapes[part]] for group in common["param_groups"]]
    for name, shape in (item for part in shapes for item in part.items()):
        for what in (WEIGHT, *MOMENTS):
            tensor = _load(_file(target, name, what))
            if not isinstance(tensor, dict):  # ZeRO 3's are flat
                _write(target, name, what, tensor.view(shape))
    if "optimizer_state_dict" in common:  # ZeRO 3
        step = common["optimizer_state_dict"]["state"][0]["step"]
    else:
        step = _load(_file(target, next(name for group in names for name in group), "step"))
    return _Optimizer(names, common["param_groups"], step)


def _taken_apart(state: dict[str, Any], target: Path, names: Names) -> _Optimizer:
    """Write the tensors of a state that is not divided."""
    optimizer, module = state["optimizer"], state["module"]
    groups = optimizer["param_groups"]
    for group, own in zip(groups, names, strict=True):
        for index, name in zip(group["params"], own, strict=True):
            moments = optimizer["state"][index]
            _write(target, name, WEIGHT, module[name])
            for what in MOMENTS:
                _write(target, name, what, moments[what].view(module[name].shape))
    return _Optimizer(names, groups, optimizer["state"][groups[0]["params"][0]]["step"])


# --- From files of parameters to what a run loads --------------------------------------------------


def _write_universal(target: Path, state: dict[str, Any], optimizer: _Optimizer, zero_stage: int) -> None:
    """Add what is common to all parameters, and each parameter's step."""
    import torch

    for name in (name for group in optimizer.names for name in group):
        torch.save(optimizer.step, _file(target, name, "step"))
    groups = [{"params": [], "lr": group["lr"]} for group in optimizer.groups]
    common = {"ds_version": state["ds_version"], "param_groups": groups}
    of_zero_3 = {"state": {0: {"step": optimizer.step}}, "param_groups": groups}
    torch.save({**common, "optimizer_state_dict": of_zero_3}, target / _PARTS / _OPTIMIZER)
    kept = {name: value for name, value in state.items() if name not in ("module", "optimizer")}
    prefix = "zero_pp_rank_0_" if zero_stage == 3 else ""
    torch.save(kept, target / f"{prefix}mp_rank_00_model_states.pt")


def _write_undivided(target: Path, state: dict[str, Any], optimizer: _Optimizer) -> None:
    """Put the files of all parameters into one, and delete them."""
    import torch

    flat = [name for group in optimizer.names for name in group]
    trained, shared = set(flat), state["shared_params"] or {}
    module = {}
    for name, tensor in state["module"].items():
        if (own := shared.get(name, name)) in trained:
            module[name] = _read(target, own, WEIGHT)
        elif tensor.numel():  # ZeRO 3 leaves nothing of a frozen weight's second name
            module[name] = tensor
    moments = {
        index: {"step": optimizer.step.clone(), **{what: _read(target, name, what) for what in MOMENTS}}
        for index, name in enumerate(flat)
    }
    indices = iter(range(len(flat)))
    groups = [
        {**group, "params": [next(indices) for _ in own]}
        for group, own in zip(optimizer.groups, optimizer.names, strict=True)
    ]
    whole = {**state, "module": module, "optimizer": {"state": moments, "param_groups": groups}}
    torch.save(whole, target / "mp_rank_00_model_states.pt")
    shutil.rmtree(target / _PARTS)


def _file(target: Path, name: str, what: str) -> Path:
    return target / _PARTS / name / f"{what}.pt"


def _write(target: Path, name: str, what: str, tensor: Any) -> None:
    import torch

    _file(target, name, what).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"param": tensor, "cat_dim": 0}, _file(target, name, what))


def _read(target: Path, name: str, what: str) -> Any:
    return _load(_file(target, name, what))["param"]


def _load(path: Path, *, mmap: bool = False) -> Any:
    """Read a file without running code of it: of classes it may hold the harmless ones of DeepSpeed.

    `mmap`: leave the tensors in the file, which must not be written while they are used.
    """
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)

"""Checkpoints in DeepSpeed's forms are converted exactly; `test_resized_training.py` loads what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rft_ray.training.universal_form import convert

SHAPES = {"embed.weight": (3, 5), "dense.weight": (2, 3), "norm.weight": (3,)}
NAMES = (("embed.weight", "dense.weight"), ("norm.weight",))
RANKS = 2
EXTRA = {"ds_version": "0.19.8", "lr_scheduler": {"last_epoch": 4}, "mp_world_size": 1, "ds_config": {}}
"""Part of what DeepSpeed saves beside the states."""

Tensors = Mapping[str, Mapping[str, torch.Tensor]]


@pytest.fixture
def tensors() -> Tensors:
    """Weight and moments of each parameter."""
    torch.manual_seed(0)
    return {
        name: {what: torch.randn(shape) for what in ("fp32", "exp_avg", "exp_avg_sq")} for name, shape in SHAPES.items()
    }


@pytest.fixture(params=[torch.tensor(4.0), 4], ids=["PyTorch's", "DeepSpeed's for CPUs"])
def step(request: pytest.FixtureRequest) -> Any:
    """The number of steps, as each Adam counts it."""
    return request.param


@pytest.fixture
def whole(tmp_path: Path, tensors: Tensors, step: Any) -> Path:
    """A checkpoint without ZeRO, of two parameter groups; the output layer shares the embedding's weights."""
    moments = [
        {"step": step, **{what: tensors[name][what] for what in ("exp_avg", "exp_avg_sq")}}
        for group in NAMES
        for name in group
    ]
    optimizer = {"state": dict(enumerate(moments)), "param_groups": groups([[0, 1], [2]])}
    module = {name: tensors[name]["fp32"] for name in SHAPES} | {"head.weight": tensors["embed.weight"]["fp32"]}
    folder = written(tmp_path / "whole")
    state = {**EXTRA, "module": module, "optimizer": optimizer, "param_shapes": None, "shared_params": None}
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    return folder.parent


@pytest.fixture
def parts(tmp_path: Path, tensors: Tensors, step: Any) -> Path:
    """The same state as two ranks save it under ZeRO 3: flat, filled up with zeros, a part of each parameter a rank."""
    folder = written(tmp_path / "parts")
    for rank in range(RANKS):
        flat = [
            {what: torch.cat([part(tensors[name][what], rank) for name in group]) for what in tensors["norm.weight"]}
            for group in NAMES
        ]
        shapes = [{name: torch.Size(SHAPES[name]) for name in group} for group in NAMES]
        module = {name: torch.empty(0) for name in [*SHAPES, "head.weight", "frozen.weight"]}
        module |= {"position": torch.arange(3)}
        state = {**EXTRA, "module": module, "optimizer": None, "param_shapes": shapes}
        state["shared_params"] = {"head.weight": "embed.weight"}
        torch.save(state, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        moments = {index: {"step": step, **states} for index, states in enumerate(flat)}
        optimizer = {
            "zero_stage": 3,
            "fp32_flat_groups": [states.pop("fp32") for states in moments.values()],
            "optimizer_state_dict": {"state": moments, "param_groups": groups([[0], [1]])},
        }
        torch.save({"optimizer_state_dict": optimizer}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder.parent


def written(checkpoint: Path) -> Path:
    folder = checkpoint / "global_step4"
    folder.mkdir(parents=True)
    (checkpoint / "latest").write_text("global_step4")
    (checkpoint / "trainer_state.json").write_text("{}")
    return folder


def part(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    size = -(-tensor.numel() // RANKS)
    filled = torch.nn.functional.pad(tensor.flatten(), (0, size * RANKS - tensor.numel()))
    return filled.narrow(0, size * rank, size)


def groups(indices: list[list[int]]) -> list[dict[str, Any]]:
    return [{"lr": 1e-3, "weight_decay": decay, "params": own} for decay, own in zip((0.3, 0.0), indices, strict=True)]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def is_four(step: Any) -> bool:
    """As PyTorch's Adam counts; DeepSpeed's gets its whole number from that (`fit_loaded_state`)."""
    return isinstance(step, torch.Tensor) and (step.dtype, step.shape, float(step)) == (torch.float32, (), 4.0)


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("source", ["whole", "parts"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_reads_every_tensor_with_its_shape(
    source: str, stage: int, tensors: Tensors, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = convert(request.getfixturevalue(source), tmp_path / "out", stage, lambda: NAMES)
    assert (out / "latest_universal").read_text() == "global_step4"
    assert (out / "trainer_state.json").exists()
    folder = out / "global_step4"
    for name, states in tensors.items():
        for what, tensor in states.items():
            assert torch.equal(load(folder / "zero" / name / f"{what}.pt")["param"], tensor)
        assert is_four(load(folder / "zero" / name / "step.pt"))
    common = load(folder / "zero" / "optimizer_state.pt")
    assert is_four(common["optimizer_state_dict"]["state"][0]["step"])
    for settings in (common["param_groups"], common["optimizer_state_dict"]["param_groups"]):
        assert settings == [{"lr": 1e-3, "params": []}] * 2, "a group keeps its own weight decay"
    [state] = folder.glob("*model_states.pt")
    assert state.name == ("zero_pp_rank_0_" if stage == 3 else "") + "mp_rank_00_model_states.pt"
    assert load(state)["lr_scheduler"] == {"last_epoch": 4}


def test_parts_become_the_whole_state_again(whole: Path, parts: Path, tmp_path: Path) -> None:
    out = convert(parts, tmp_path / "out", 0, lambda: pytest.fail("the checkpoint names its parameters"))
    made = load(out / "global_step4" / "mp_rank_00_model_states.pt")
    expected = load(whole / "global_step4" / "mp_rank_00_model_states.pt")
    for name, tensor in expected["module"].items():
        assert torch.equal(made["module"][name], tensor)
    assert torch.equal(made["module"]["position"], torch.arange(3))
    assert made["module"].keys() == {*expected["module"], "position"}, "without the frozen weight, which is empty here"
    assert made["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for index, states in expected["optimizer"]["state"].items():
        own = made["optimizer"]["state"][index]
        assert all(torch.equal(own[what], states[what]) for what in ("exp_avg", "exp_avg_sq"))
        assert is_four(own["step"])
    assert not (out / "global_step4" / "zero").exists()


def test_an_optimizer_of_other_parameters_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        convert(whole, tmp_path / "out", 3, lambda: (("embed.weight",), ("norm.weight",)))

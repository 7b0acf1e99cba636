"""Every internal name that training/transformers_private.py uses exists and behaves as that module describes."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from accelerate.state import AcceleratorState, GradientState
from transformers.integrations import deepspeed as hf_deepspeed

from rft_ray.training import transformers_private


def test_internal_call_distinguishes_a_checkpoint_from_a_model() -> None:
    assert "_internal_call" in inspect.signature(transformers.Trainer.save_model).parameters
    assert "_internal_call=True" in inspect.getsource(transformers.Trainer._save_checkpoint)
    trainer = transformers_private.trainer_without_weights_in_checkpoints()
    assert trainer.save_model(object(), _internal_call=True) is None


def test_transformers_forgets_the_deepspeed_config() -> None:
    assert callable(hf_deepspeed.unset_hf_deepspeed_config)
    transformers_private.forget_deepspeed_config()
    assert not hf_deepspeed.is_deepspeed_zero3_enabled()


def test_accelerates_state_is_reset() -> None:
    assert "reset_partial_state" in inspect.signature(AcceleratorState._reset_state).parameters
    GradientState()
    assert GradientState._shared_state
    transformers_private.reset_accelerate()
    assert not GradientState._shared_state


def test_deepspeed_writes_the_files_of_a_checkpoint_through_an_engine_that_can_be_asked_first() -> None:
    from deepspeed.runtime.engine import DeepSpeedEngine

    for method in (DeepSpeedEngine._save_checkpoint, DeepSpeedEngine._save_zero_checkpoint):
        assert "self.checkpoint_engine.save(" in inspect.getsource(method)
        assert "torch.save(" not in inspect.getsource(method)
    asked: list[str] = []
    written: list[str] = []
    engine = SimpleNamespace(
        checkpoint_engine=SimpleNamespace(save=lambda state_dict, path: written.append(path)),
    )
    transformers_private.let_states_be_kept(engine, lambda state, path: asked.append(path) or path == "kept")
    engine.checkpoint_engine.save(state_dict={}, path="kept")
    engine.checkpoint_engine.save({}, "not kept")
    assert (asked, written) == (["kept", "not kept"], ["not kept"])


def test_save_pretrained_stores_tensors_by_the_functions_that_say_which_it_stores() -> None:
    source = inspect.getsource(transformers.PreTrainedModel.save_pretrained)
    assert "self._keys_to_ignore_on_save" in source
    assert "= remove_tied_weights_from_state_dict(state_dict, model_to_save)" in source
    assert "= revert_weight_conversion(model_to_save, state_dict)" in source


def test_deepspeed_has_a_table_with_the_operator() -> None:
    import deepspeed

    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
    transformers_private.switch_off_shm_comm()
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False


def test_parts_of_an_optimizer_that_share_a_step_counter_count_once_a_step() -> None:
    import torch

    groups = [{"params": [torch.ones(2, requires_grad=True)]} for _ in range(3)]
    optimizer, shared = torch.optim.AdamW(groups), torch.tensor(8.0)
    for group, step in zip(groups, (shared, shared, 8), strict=True):  # the last as DeepSpeed's Adam has saved it
        group["params"][0].grad = torch.ones(2)
        optimizer.state[group["params"][0]] = {"step": step, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    engine = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    transformers_private.fit_loaded_state(engine)
    optimizer.step()
    assert [float(state["step"]) for state in optimizer.state.values()] == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("saved", [8.0, 8], ids=["PyTorch's", "DeepSpeed's for CPUs"])
@pytest.mark.parametrize(
    ("setting", "emptied", "device"),
    [("fused", False, "meta"), ("fused", True, "meta"), ("capturable", False, "meta"), ("foreach", False, "cpu")],
)
def test_a_step_counter_is_where_the_optimizer_wants_it(saved: float, setting: str, emptied: bool, device: str) -> None:
    """In one kernel with its parameter, else on the CPU. ZeRO 3 keeps no parameters in groups (`emptied`)."""
    import torch

    weight = torch.ones(2, device="meta", requires_grad=True)  # in place of a GPU
    optimizer = torch.optim.AdamW([weight], **{setting: True})
    optimizer.state[weight] = {"step": torch.tensor(saved) if isinstance(saved, float) else saved}
    if emptied:
        optimizer.param_groups[0]["params"] = []
    transformers_private.fit_loaded_state(SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer)))
    step = optimizer.state[weight]["step"]
    assert (step.device.type, step.dtype, step.shape) == (device, torch.float32, ())


def test_a_trainers_optimizer_has_the_parameters_with_weight_decay_in_its_first_group(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, weight_decay=0.3, report_to="none")
    optimizer = transformers.Trainer(model, arguments).create_optimizer()
    decayed, others = ({id(parameter) for parameter in group["params"]} for group in optimizer.param_groups)
    names = transformers_private.names_with_weight_decay(model)
    assert {id(model.get_parameter(name)) for name in names} == decayed
    assert {id(parameter) for name, parameter in model.named_parameters() if name not in names} == others
    assert others


def test_deepspeeds_adam_counts_in_whole_numbers_whatever_was_saved() -> None:
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer = DeepSpeedCPUAdam.__new__(DeepSpeedCPUAdam)  # without its operator, which takes a minute to compile
    weights = [torch.ones(2), torch.ones(2), torch.ones(2)]
    optimizer.defaults, optimizer.param_groups = {"lr": 0.1, "bias_correction": True}, [{"lr": 0.2}]
    optimizer.state = dict(zip(weights, ({"step": torch.tensor(8.0)}, {"step": 8}, {}), strict=True))
    transformers_private.fit_loaded_state(SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer)))
    assert [optimizer.state[weight] for weight in weights] == [{"step": 8}, {"step": 8}, {}]
    assert all(type(state.get("step", 0)) is int for state in optimizer.state.values())
    assert optimizer.param_groups == [{"lr": 0.2, "bias_correction": True}], "PyTorch's AdamW saves no such setting"


def test_deepspeed_takes_an_operator_that_is_loaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.ops.op_builder import CPUAdamBuilder
    from deepspeed.ops.op_builder.builder import OpBuilder

    loaded = object()
    monkeypatch.setattr(OpBuilder, "_loaded_ops", {CPUAdamBuilder.NAME: loaded})
    assert CPUAdamBuilder().load() is loaded

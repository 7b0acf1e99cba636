"""The private names of transformers, Accelerate and DeepSpeed that training uses, and why each is needed.

Checked against transformers 5.23.0, Accelerate 1.15.0 and DeepSpeed 0.19.8. When an upgrade removes one of the names,
`tests/unit/training/test_transformers_private.py` fails and shows it.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def switch_off_shm_comm() -> None:
    """Keep DeepSpeed from compiling its shared-memory operator for CPUs.

    The operator is for inference and needs a C++ compiler. `deepspeed.ops.__compatible_ops__` is the table of operators
    that DeepSpeed may compile.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_deepspeed_config() -> None:
    """Make transformers load whole models again: under ZeRO 3 it loads partitions until the DeepSpeed config is unset.

    Uses `unset_hf_deepspeed_config` of transformers.integrations.deepspeed, which is not documented.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def reset_accelerate() -> None:
    """Reset the state that Accelerate keeps per process, so that the next Trainer sets up its own.

    Uses `_reset_state` of `AcceleratorState` and `GradientState`; Accelerate offers a public reset only in its test
    helpers.
    """
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer_without_weights_in_checkpoints() -> type[Any]:
    """A subclass of `transformers.Trainer` without weights in checkpoints: DeepSpeed's files already hold them.

    The argument `_internal_call` of `Trainer.save_model` is true for a checkpoint and false for a finished model.
    """
    from transformers import Trainer

    class TrainerWithoutWeights(Trainer):  # type: ignore[misc]
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            if not _internal_call:
                super().save_model(output_dir)

    return TrainerWithoutWeights


def names_with_weight_decay(model: Any) -> set[str]:
    """The parameters that `transformers.Trainer` puts into the first of its optimizer's two groups.

    Uses `Trainer.get_decay_parameter_names` without a Trainer: the method needs the model alone.
    """
    from transformers import Trainer

    return set(Trainer.get_decay_parameter_names(None, model))


def let_states_be_kept(engine: Any, keep: Callable[[Any, str], bool]) -> None:
    """Ask `keep(state, path)` before a DeepSpeed engine writes a file of a checkpoint, and write it only on False.

    Uses `DeepSpeedEngine.checkpoint_engine`, whose method `save(state_dict, path)` writes every such file. DeepSpeed's
    own background writers need compiled extensions and a process per rank, and wait for it at each step.
    """
    write = engine.checkpoint_engine.save

    def save(state_dict: Any, path: str) -> None:
        if not keep(state_dict, path):
            write(state_dict, path)

    engine.checkpoint_engine.save = save


def fit_loaded_state(engine: Any) -> None:
    """Make the state that an optimizer has loaded its own: its step counters, and the settings of its groups.

    DeepSpeed's ZeRO 3 loads one tensor into all parts from a universal checkpoint
    (`load_hp_checkpoint_state_from_checkpoint_dir_stage3`), which PyTorch's Adam then raises once for each part. And a
    checkpoint may be another optimizer's: DeepSpeed's Adam for CPUs counts in whole numbers, PyTorch's in tensors, and
    its groups have a setting that PyTorch's have not. A universal checkpoint's counters are on the CPU, and PyTorch's
    Adam in one kernel (`fused`) needs each with its parameter: only its own loading moves them there. Uses
    `DeepSpeedEngine.optimizer.optimizer`, the optimizer that ZeRO calls.
    """
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer = engine.optimizer.optimizer
    for group in optimizer.param_groups:
        for setting, value in optimizer.defaults.items():
            group.setdefault(setting, value)
    # the same in all groups, of which ZeRO 3's hold no parameters between steps
    with_parameter = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for parameter, state in optimizer.state.items():
        step = state.get("step")
        if step is None:
            continue
        if isinstance(optimizer, DeepSpeedCPUAdam):
            state["step"] = int(step)
        else:
            device = parameter.device if with_parameter else "cpu"
            state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)


def load_cpu_adam(file: Path) -> None:
    """Load DeepSpeed's compiled Adam for CPUs, which DeepSpeed would otherwise compile in this process.

    It gets as many threads as PyTorch has: Ray sets OMP_NUM_THREADS to 1. Uses `OpBuilder._loaded_ops`, in which
    DeepSpeed keeps the operators of a process, by name. Raises ImportError.
    """
    import torch
    from deepspeed.ops.op_builder import CPUAdamBuilder
    from deepspeed.ops.op_builder.builder import OpBuilder

    name = CPUAdamBuilder.NAME
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    operator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(operator)
    OpBuilder._loaded_ops[name] = operator
    ctypes.CDLL(str(file)).omp_set_num_threads(torch.get_num_threads())  # of the OpenMP that the operator is linked to


def stored_tensors(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors that `save_pretrained` stores for a model's `tensors`, by the names it gives them.

    Of parameters that are one, only the one that the model names. Tensors on the device "meta" will do: then nothing is
    read or copied. Uses what `save_pretrained` uses, and what is not documented: the model's `_keys_to_ignore_on_save`,
    `remove_tied_weights_from_state_dict` of transformers.modeling_utils and `revert_weight_conversion` of
    transformers.core_model_loading.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(model._keys_to_ignore_on_save or ())
    tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    tensors = remove_tied_weights_from_state_dict(tensors, model)
    stored: dict[str, Any] = revert_weight_conversion(model, tensors)
    return stored


def sdpa(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    """PyTorch's attention as transformers' models call it, of shape (batch, tokens, heads, head size).

    Uses `sdpa_attention_forward` of transformers.integrations.sdpa_attention, which is not documented: it knows the
    models' options and refuses those that PyTorch's attention does not have.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attended, _ = sdpa_attention_forward(module, query, key, value, mask, **options)
    return attended

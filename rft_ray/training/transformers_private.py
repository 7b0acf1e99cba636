"""What training uses of the internals of transformers, Accelerate and DeepSpeed: each name here, and why it is needed.

Seen in transformers 5.23.0, Accelerate 1.15.0 and DeepSpeed 0.19.8. `tests/unit/training/test_transformers_private.py`
fails by name when an upgrade removes one of them.
"""

from __future__ import annotations

from typing import Any


def switch_off_shm_comm() -> None:
    """Keep DeepSpeed from compiling its shared-memory operator for CPUs.

    It is for inference, and would need a C++ compiler. It is an entry of `deepspeed.ops.__compatible_ops__`, the table
    of what may be compiled.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_deepspeed_config() -> None:
    """Let models load whole again: under ZeRO 3, transformers loads them in pieces as long as it knows the config.

    `unset_hf_deepspeed_config` of transformers.integrations.deepspeed, which is not documented.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def reset_accelerate() -> None:
    """Delete the state that Accelerate keeps by process, so that the next Trainer sets up its own.

    `_reset_state` of `AcceleratorState` and `GradientState`; Accelerate resets them publicly only in its tests.
    """
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer_without_weights_in_checkpoints() -> type[Any]:
    """`transformers.Trainer`, whose checkpoints hold no weights of their own: DeepSpeed's files hold them already.

    `_internal_call` of `Trainer.save_model` tells a checkpoint from a finished model.
    """
    from transformers import Trainer

    class TrainerWithoutWeights(Trainer):  # type: ignore[misc]
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            if not _internal_call:
                super().save_model(output_dir)

    return TrainerWithoutWeights

"""One of two gloo ranks that train a small random model that is stored in float16 under several settings, without Ray.

    python -m tests.integration.precision_driver FOLDER RANK PORT

In: a folder with `base/`. Out, by rank 0: `result.json` with the losses of each case, and how far the float32 weights
are from the base's before the first step. Of the cases in `KEPT` also the trained weights before and after the
training, as `<case> begin.safetensors` and `<case> end.safetensors`.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import mark_run
from rft_ray.store.backends.local import LocalStore
from rft_ray.training.batches import Example, plan
from rft_ray.training.checkpoint_writer import CheckpointWriter
from rft_ray.training.packed_attention import BY_EXAMPLE
from rft_ray.training.packing import divide
from rft_ray.training.trainer import Group, Task, forget_deepspeed, make_trainer
from rft_ray.training.worker import _watch

WORLD = 2
FLOAT32 = {"dtype": "float32"}
ADAPTERS = {"dtype": "float32", "lora_rank": 4}
CASES: dict[str, tuple[int, dict[str, Any], bool]] = {
    "plain": (2, {}, False),
    "checkpointing": (2, {}, True),
    "checkpointing, stage 3": (3, {}, True),
    "plain, stage 3": (3, {}, False),
    "float32 sums": (2, {"grad_accum_dtype": "float32"}, False),
    "float32 sums, stage 1": (1, {"grad_accum_dtype": "float32"}, False),
    "float32 sums, stage 3": (3, {"grad_accum_dtype": "float32"}, False),
    "base": (2, {"master_weights": "base"}, False),
    "base, stage 1 and float32 sums": (1, {"master_weights": "base", "grad_accum_dtype": "float32"}, False),
    "base, stage 3": (3, {"master_weights": "base"}, False),
    "padded": (2, FLOAT32, False),
    "padded, adapters": (2, ADAPTERS, False),
    **{f"packed, stage {stage}": (stage, FLOAT32, False) for stage in range(4)},
    **{f"packed, adapters, stage {stage}": (stage, ADAPTERS, False) for stage in (2, 3)},
    "packed, checkpointing": (2, FLOAT32, True),
    "whole": (2, {**FLOAT32, "weight_decay": 0.5, "warmup_ratio": 0.4}, False),
    "whole, stage 0": (0, {**FLOAT32, "weight_decay": 0.5, "warmup_ratio": 0.4}, False),
    "adapters": (2, {**ADAPTERS, "lora_alpha": 12, "weight_decay": 0.5}, False),
}
"""Name -> ZeRO stage, what is added to the recipe, and whether activations are computed again."""
KEPT = ("whole", "whole, stage 0", "adapters")


class Tokenizer:
    """What a Trainer's collator asks of a tokenizer."""

    pad_token_id = eos_token_id = 1


def main(folder: Path, rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(WORLD)}
    import deepspeed
    import torch

    from rft_ray.training import transformers_private

    transformers_private.switch_off_shm_comm()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    store = LocalStore(folder / "store")
    if rank == 0:
        mark_run(store)
    results = {name: trained(folder, store, rank, name) for name in CASES}
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(results))


def recipe_of(name: str) -> Recipe:
    return Recipe(epochs=2, batch_size=8, learning_rate=1e-3, max_tokens=32, **CASES[name][1])


def made_examples() -> list[Example]:
    return [Example(array("I", [2 + (7 * i + j) % 60 for j in range(12 + i % 5)]), 3 + i % 3) for i in range(21)]


def kept(model: Any, folder: Path | None, name: str, when: str) -> None:
    """Write the weights that are trained, unless there is no folder."""
    from safetensors.torch import save_file

    if folder:
        trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, folder / f"{name} {when}.safetensors")


def trained(folder: Path, store: LocalStore, rank: int, name: str) -> dict[str, Any]:
    """Losses of a case, and the largest distance of a float32 weight from the base's at the start."""
    from transformers import TrainerCallback

    base = folder / "base"
    stage, _, checkpointing = CASES[name]
    recipe = recipe_of(name)
    settings = Training(workers=WORLD, zero_stage=stage, micro_batch_size=1, device="cpu")
    job = TrainingJob("small", "sft", "a" * 16, str(base), "training/none.parquet", recipe, "{query}", 0)
    examples = made_examples()
    lengths = [len(example.tokens) for example in examples]
    batches = plan(lengths, recipe.epochs, recipe.batch_size, 0)
    division = divide(batches, lengths, settings, recipe, rank=rank, attention=BY_EXAMPLE if "packed" in name else "")
    group = Group("attempt", store, settings, False, None, rank, rank, WORLD)
    task = Task(job, base, Tokenizer(), examples, 0, batches, division, checkpointing)
    watch = _watch(group, task, None, CheckpointWriter(group, job.fingerprint))
    trainer = watch.trainer = make_trainer(group, task, watch)
    seen: dict[str, float] = {}

    class Distance(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            if not recipe.lora_rank:
                seen["distance"] = distance(model, base)

    trainer.add_callback(Distance())
    keep = partial(kept, trainer.model, folder if rank == 0 and name in KEPT else None, name)
    keep("begin")
    trainer.train()
    keep("end")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.deepspeed.destroy()
    forget_deepspeed()
    return {"losses": losses, **seen}


def master(parameter: Any) -> Any:
    """The whole of a parameter's float32 master; the parameter itself without ZeRO, in float32."""
    from deepspeed.utils import safe_get_full_fp32_param

    whole = safe_get_full_fp32_param(parameter)
    return parameter if whole is None else whole


def distance(model: Any, base: Path) -> float:
    """The largest distance of a float32 weight of the optimizer from the base's weight."""
    from safetensors.torch import load_file

    stored = load_file(base / "model.safetensors")
    return max(
        float((master(parameter).detach().cpu().flatten() - stored[name].float().flatten()).abs().max())
        for name, parameter in model.named_parameters()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

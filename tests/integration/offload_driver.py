"""One process that trains a small random model whose optimizer's state is offloaded to the host, without Ray.

    python -m tests.integration.offload_driver FOLDER PORT STAGE OPTIMIZER [FROM TO]

In: a folder with `base/`, a ZeRO stage and the optimizer. `FROM`: a checkpoint to go on from, `TO`: where to leave one
after the second step. Out: the losses as JSON, on the last line.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import mark_run
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import optimizers, transformers_private
from rft_ray.training.batches import Example, plan
from rft_ray.training.packing import divide
from rft_ray.training.trainer import CPU_ADAM, Group, Task, make_trainer


class Tokenizer:
    """What a Trainer's collator asks of a tokenizer."""

    pad_token_id = eos_token_id = 1


def main(folder: Path, port: int, stage: int, optimizer: str, start: str, leave: str) -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "1"}
    import deepspeed
    import torch

    transformers_private.switch_off_shm_comm()
    torch.set_num_threads(2)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=1e-3, max_tokens=64, dtype="float32", weight_decay=0.1)
    settings = Training(zero_stage=stage, micro_batch_size=8, device="cpu", offload_optimizer=bool(optimizer))
    store = LocalStore(folder / "store")
    mark_run(store)
    group = Group("attempt", store, settings, False, None, 0, 0, 1)
    if optimizer == CPU_ADAM:
        assert optimizers.choose(group, recipe) == (CPU_ADAM, "")
    base = folder / "base"
    job = TrainingJob("small", "sft", "a" * 16, str(base), "training/none.parquet", recipe, "{query}", 0)
    examples = [Example(array("I", [2 + (7 * i + j) % 60 for j in range(12 + i % 5)]), 4) for i in range(24)]
    lengths = [len(example.tokens) for example in examples]
    batches = plan(lengths, recipe.epochs, recipe.batch_size, 0)
    division = divide(batches, lengths, settings, recipe, rank=0, attention="")
    task = Task(job, base, Tokenizer(), examples, 0, batches, division, optimizer=optimizer or "adamw_torch")
    print(json.dumps(losses(group, task, start, leave)), flush=True)


def losses(group: Group, task: Task, start: str, leave: str) -> list[float]:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        trainer: Any

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            if start:
                transformers_private.fit_loaded_state(self.trainer.deepspeed)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save = bool(leave) and state.global_step == 2

    watch = Watch()
    trainer = watch.trainer = make_trainer(group, task, watch)
    trainer.train(resume_from_checkpoint=start or None)
    if leave:
        (Path(trainer.args.output_dir) / "checkpoint-2").rename(leave)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], *(sys.argv[5:7] or ("", "")))

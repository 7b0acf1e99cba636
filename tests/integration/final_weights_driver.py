"""One of two gloo ranks that train small models and commit them together, each rank as a node of its own, without Ray.

    python -m tests.integration.final_weights_driver FOLDER RANK PORT

In: a folder with the bases `tied/` and `untied/`. Out, for each case: a model committed by both ranks in `store/`, the
same one as rank 0 alone exports it in `alone-CASE/`, and by each rank `result-RANK.json` with the files that it had.
In one case a rank takes longer to write a file than the time-out of the training's collectives.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import mark_run
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import final_weights
from rft_ray.training.agreement import SavingError, patient_group, wait_for_all
from rft_ray.training.batches import Example, plan
from rft_ray.training.packing import divide
from rft_ray.training.trainer import Group, Task, forget_deepspeed, make_trainer

WORLD, TIMEOUT_S, WRITING_S = 2, 20, 25
FILE_SIZE = "40KB"
CASES: dict[str, tuple[int, str, str, int]] = {
    "0-float32": (0, "float32", "untied", 0),
    "1-bfloat16": (1, "bfloat16", "untied", 0),
    "2-bfloat16": (2, "bfloat16", "untied", 0),
    "2-float32-tied": (2, "float32", "tied", 0),
    "3-float32": (3, "float32", "untied", 0),
    "3-bfloat16": (3, "bfloat16", "untied", 0),
    "3-bfloat16-tied": (3, "bfloat16", "tied", 0),
    "2-bfloat16-lora": (2, "bfloat16", "untied", 2),
}
"""Name -> ZeRO stage, dtype, base and rank of LoRA."""
SLOW = "3-float32"


def main(folder: Path, rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(WORLD)}
    import deepspeed
    import torch

    from rft_ray.training import transformers_private

    transformers_private.switch_off_shm_comm()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, timeout=timedelta(seconds=TIMEOUT_S))
    final_weights.FILE_SIZE = FILE_SIZE
    store = LocalStore(folder / "store")
    if rank == 0:
        mark_run(store)
    settings = Training(workers=WORLD, micro_batch_size=1, device="cpu")
    group = Group(*("attempt", store, settings, False, None, rank, 0, WORLD), node_rank=rank, patient=patient_group())
    results = {name: committed(folder, group, name) for name in CASES}
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


def committed(folder: Path, group: Group, name: str) -> dict[str, Any]:
    """Train the model of a case and commit it. Returns the files of this rank, and the error of one that it lacks."""
    from transformers import AutoTokenizer, TrainerCallback

    stage, dtype, base, lora_rank = CASES[name]
    settings = group.settings.model_copy(update={"zero_stage": stage})
    group = Group(**{**group.__dict__, "settings": settings})
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-3, max_tokens=64, dtype=dtype, lora_rank=lora_rank)
    job = TrainingJob("small", "sft", name, str(folder / base), "training/none.parquet", recipe, "Q: {query}", 0)
    examples = [Example(array("I", [2 + (7 * i + j) % 60 for j in range(12 + i % 5)]), 4) for i in range(16)]
    lengths = [len(example.tokens) for example in examples]
    batches = plan(lengths, recipe.epochs, recipe.batch_size, 0)
    division = divide(batches, lengths, settings, recipe, rank=group.rank, attention="")
    tokenizer = AutoTokenizer.from_pretrained(folder / base)
    task = Task(job, folder / base, tokenizer, examples, 0, batches, division)
    trainer = make_trainer(group, task, TrainerCallback())
    trainer.train()
    own, alone = folder / f"own-{name}-{group.rank}", folder / f"alone-{name}"
    own.mkdir()
    with slow_files() if name == SLOW and group.rank == 1 else nullcontext():
        files = final_weights.export(group, task, trainer, own)
    final_weights.commit(group, name, files, {"rank": group.rank})
    error = ""
    if not lora_rank:
        error = failure(group, trainer.model, own)
        final_weights._export_by_rank_0(group, task, trainer, alone)
    wait_for_all(group)
    trainer.deepspeed.destroy()
    forget_deepspeed()
    return {"files": sorted(path.name for path in files), "error": error}


@contextmanager
def slow_files() -> Iterator[None]:
    """The first file that this process writes takes longer than a collective may."""
    import safetensors.torch

    write = safetensors.torch.save_file

    def save_file(tensors: Any, path: Path, **options: Any) -> None:
        safetensors.torch.save_file = write
        time.sleep(WRITING_S)
        write(tensors, path, **options)

    safetensors.torch.save_file = save_file
    yield


def failure(group: Group, model: Any, own: Path) -> str:
    """The error of this rank when the other one has no folder to write into."""
    files = final_weights.files_of(model)
    assert files is not None
    folder = own / "again" if group.rank == 0 else own / "missing"
    (own / "again").mkdir()
    try:
        final_weights.write_weights(group, files, folder)
    except SavingError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

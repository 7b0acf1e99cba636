"""A small training, for tests: a random model over bytes, tables of sums, settings, and what a call of `train` left."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import Store, commit_table, mark_run
from rft_ray.store.models.committed import committed_model, fetch_model
from rft_ray.training.results import TrainingProgress, TrainingResult
from rft_ray.training.stage import train

S = TypeVar("S", bound=Store)
TEMPLATE = "Question: {query}\nAnswer:"
DATA, LONG, TWICE = "training/rows.parquet", "training/long.parquet", "training/twice.parquet"
RECIPE = Recipe(epochs=4, learning_rate=2e-3, batch_size=8, max_tokens=128, dtype="float32")
SETTINGS = Training(
    workers=2,
    zero_stage=2,
    micro_batch_size=2,
    packing="off",
    threads_per_worker=1,
    checkpoint_every_steps=4,
    device="cpu",
)
PACKED = SETTINGS.model_copy(update={"packing": "on"})
"""Rows of at most 256 tokens, which hold three or four examples; a step needs several from each worker."""
PLAIN, SEEDED, LORA, SAME_STEPS = "a" * 16, "b" * 16, "c" * 16, "d" * 16


def rows(count: int) -> list[tuple[str, str]]:
    """Sums as questions, solutions in GSM8K's form."""
    numbers = random.Random(0)
    made = []
    for _ in range(count):
        a, b = numbers.randint(1, 99), numbers.randint(1, 9)
        made.append((f"Tom has {a} pens and buys {b}." + " How many?" * (b % 3), f"{a}+{b}\n#### {a + b}"))
    return made


def filled(store: S) -> S:
    """The store as a run with a table of 62 rows, two of them longer than `max_tokens`, and a table of only such rows.

    A third table takes twice as many steps as the first.
    """
    mark_run(store)
    good, long = rows(60), [("why? " * 50, "5"), ("?", "1+1 " * 50)]
    tables = {DATA: [*good[:30], *long, *good[30:]], LONG: long, TWICE: [*long, *rows(126)]}
    for key, table in tables.items():
        questions, texts = zip(*table, strict=True)
        commit_table(store, key, pa.table({"question": list(questions), "text": list(texts)}), {})
    return store


@dataclass(frozen=True)
class Trained:
    """The store and results of one call of `train`."""

    store: Store
    jobs: Sequence[TrainingJob]
    results: dict[str, TrainingResult]
    progress: list[TrainingProgress]

    def weights(self, fingerprint: str) -> bytes:
        return (fetch_model(self.store, fingerprint) / "model.safetensors").read_bytes()

    def training(self, fingerprint: str) -> Any:
        manifest = committed_model(self.store, fingerprint)
        assert manifest is not None
        return manifest.metadata["training"]


def run(store: Store, jobs: Sequence[TrainingJob], settings: Training = SETTINGS) -> Trained:
    progress: list[TrainingProgress] = []
    results = train(jobs, store.url, settings, progress.append)
    return Trained(store, jobs, {result.fingerprint: result for result in results}, progress)


def written_base(folder: Path, *, tied: bool = False, width: int = 64) -> Path:
    """A random Llama of 90,000 parameters over bytes; its pad token is its EOS token, as SmolLM2's is.

    `tied`: input and output embeddings are one tensor.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    symbols = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {"vocab_size": len(symbols), "num_key_value_heads": 2, "max_position_embeddings": 256, **shape}
    config = LlamaConfig(tie_word_embeddings=tied, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder

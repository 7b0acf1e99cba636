"""A real engine draws what the settings say: two tokens' joint frequencies against Transformers' probabilities."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from rft_ray import config
from rft_ray.data.prompts import render
from rft_ray.data.tiny import model_dir
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling.engine import Request
from rft_ray.sampling.stage import pool_of
from rft_ray.sampling.vllm_engine import VllmEngine

pytestmark = pytest.mark.timeout(300)

TEMPLATE = "Question: {query}\nAnswer:"
PROBLEM = next(iter(generate(1, split="train", seed=5)))
PROMPT = render(TEMPLATE, PROBLEM.question)
SAMPLES, REQUESTS, TOKENS = 500, 24, 2
SPECULATIVE = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
"""With it vLLM draws noise on CPUs, so that engines must do without."""
ENGINE = config.Engine(kv_cache_gib=0.1, threads_per_actor=1, dtype="float32", speculative=SPECULATIVE)
FEWEST = 8
"""Samples expected of a text that is counted by itself; rarer ones are counted together."""
CHANCE = 1e-6
"""How seldom a right engine fails one of these tests."""


CASES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.5, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
)


def settings_of(case: dict[str, Any]) -> SamplingSettings:
    return SamplingSettings(
        **{"top_p": 1.0, "max_new_tokens": TOKENS, "samples_per_block": SAMPLES, "prompt": TEMPLATE, **case}
    )


def counts_of_all(folder: Path) -> list[Counter[str]]:
    """How often each text is sampled, for each case, by one engine in a process with a sampler's environment."""
    engine = VllmEngine(ENGINE, folder, max_model_len=512, gpu=False, seed=7)
    problem = Problem("a" * 16, PROBLEM.question, "", "1")
    requests = [Request(problem, PROMPT, 0, SAMPLES)] * REQUESTS
    answers = [engine.generate(requests, settings_of(case)) for case in CASES]
    engine.close()
    return [Counter(sample.text for answer in each for sample in answer.samples) for each in answers]


@pytest.fixture(scope="module")
def counts(ray_cluster: str) -> list[Counter[str]]:
    import ray

    environment = {"env_vars": pool_of(ENGINE, False, cores=1).env}
    run: Any = ray.remote(counts_of_all).options(num_cpus=1, runtime_env=environment)
    counted: list[Counter[str]] = ray.get(run.remote(model_dir("tiny-m")))
    return counted


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_dir("tiny-m")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def drawn(logits: torch.Tensor, seen: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Probabilities of the next token, [sequences, vocabulary], where `seen` are the tokens so far."""
    had = logits.gather(1, seen)
    penalised = torch.where(had > 0, had / settings.repetition_penalty, had * settings.repetition_penalty)
    logits = logits.scatter(1, seen, penalised) / settings.temperature
    ordered, at = logits.sort(descending=True)
    probabilities = ordered.softmax(1)
    keep = probabilities >= settings.min_p * probabilities[:, :1]
    if settings.top_k:
        keep[:, settings.top_k :] = False
    kept = ordered.masked_fill(~keep, -torch.inf).softmax(1)
    keep &= kept.cumsum(1) - kept < settings.top_p
    kept = kept * keep
    return torch.zeros_like(kept).scatter(1, at, kept / kept.sum(1, keepdim=True))


@torch.inference_mode()
def expected(reference: tuple[Any, Any], settings: SamplingSettings) -> dict[str, float]:
    """The probability of each text of two tokens."""
    model, tokenizer = reference
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    first = drawn(model(prompt).logits[:, -1], prompt, settings)[0]
    firsts = first.nonzero().flatten()
    two = torch.cat([prompt.expand(len(firsts), -1), firsts[:, None]], dim=1)
    second = drawn(model(two).logits[:, -1], two, settings)
    texts: dict[str, float] = defaultdict(float)
    for token, after in zip(firsts.tolist(), second, strict=True):
        if token == tokenizer.eos_token_id:
            texts[""] += float(first[token])
            continue
        for follower in after.nonzero().flatten().tolist():
            text = tokenizer.decode([token, follower], skip_special_tokens=True)
            texts[text] += float(first[token] * after[follower])
    return texts


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: json.dumps(CASES[case]))
def test_samples_have_the_distribution_of_the_settings(
    counts: list[Counter[str]], reference: tuple[Any, Any], case: int
) -> None:
    count, chances = counts[case], expected(reference, settings_of(CASES[case]))
    assert set(count) <= set(chances), "texts that the settings rule out"
    common = [text for text, chance in chances.items() if chance * count.total() >= FEWEST]
    seen = [count[text] for text in common]
    wanted = [chances[text] * count.total() for text in common]
    rare = count.total() - sum(wanted)
    if rare >= FEWEST:
        seen, wanted = [*seen, count.total() - sum(seen)], [*wanted, rare]
    assert len(seen) >= 5, "too few texts to tell distributions apart"
    assert chisquare(seen, [each * sum(seen) / sum(wanted) for each in wanted]).pvalue > CHANCE

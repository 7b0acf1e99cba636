"""The README.md of an exported model and of its corpus, from a run's ledger. Pure: text from records.

Figures are those of the run's summary, with their intervals. What is not known is said to be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rft_ray.config import Config
from rft_ray.evaluation.model_index import percent
from rft_ray.evaluation.summary_records import ModelEntry, Summary
from rft_ray.grading.spec import GSM8K, distinct_by
from rft_ray.report.method import method_of

TAGS = ["rejection-sampling-fine-tuning", "rft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the cards of one exported model say."""

    name: str
    """The name that a person gave the model by the target of the export."""
    summary: Summary
    config: Config
    entry: ModelEntry
    trained: Mapping[str, Any]
    """The metadata of the model's manifest."""
    rows: Mapping[str, int]
    """Where the rows of the corpus come from (`gold`, or a sampler's name) -> their number."""
    licence: str
    """Of the base model; empty where it is unknown."""
    version: str


def model_card(facts: CardFacts) -> str:
    """README.md of the model."""
    entry, summary = facts.entry, facts.summary
    sections = [
        _front_matter(facts),
        f"# {facts.name}",
        f"`{entry.base}` after {_stage(entry.stage)}, by [rft-ray](https://github.com/rft-ray/rft-ray) {facts.version} "
        f"(run `{summary.run}`, model `{entry.fingerprint}`).",
        "```python\nfrom transformers import pipeline\n\n"
        f'pipe = pipeline("text-generation", model="{facts.name}")\n'
        'pipe([{"role": "user", "content": "…"}], max_new_tokens=256)\n```\n\n'
        f"The chat template renders the prompt of training. With vLLM: `vllm serve {facts.name}`.",
        "## Evaluation",
        _evaluation(facts),
        "## Data",
        _data(facts),
        *(["## Samplers", _samplers(summary)] if summary.ledger else []),
        "## Settings",
        _settings(facts),
        "## Licence",
        _licence(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts) -> str:
    base = facts.entry.base.removeprefix("hub:").partition("@")[0] if facts.entry.base.startswith("hub:") else None
    tree = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"license": facts.licence} if facts.licence else {}),
        **({"base_model": base} if base else {}),
        "tags": TAGS,
    }
    return f"---\n{yaml.safe_dump(tree, sort_keys=False)}---"


def _stage(stage: str) -> str:
    return {
        "sft": "supervised fine-tuning on worked solutions",
        "rft": "rejection-sampling fine-tuning ([arXiv 2308.01825](https://arxiv.org/abs/2308.01825))",
    }.get(stage, f"fine-tuning in the stage `{stage}`")


def _evaluation(facts: CardFacts) -> str:
    """A table of this model's accuracies next to those of its other stages."""
    stages = facts.summary.evaluation.get(facts.entry.model, {})
    if facts.entry.stage not in stages:
        return "The run has not evaluated this model."
    rows = [
        f"| {'**' * (stage == facts.entry.stage)}{stage}{'**' * (stage == facts.entry.stage)} "
        f"| {name.replace('@k', f'@{metric.k}')} | {percent(metric)} | {metric.n:,} |"
        for stage, metrics in stages.items()
        for name, metric in metrics.items()
    ]
    lines = [
        f"On the problems of `{facts.config.problems.test.source}`, with 95 % Wilson intervals. `maj1@1` is one greedy "
        "answer per problem.",
        "",
        "| stage | metric | accuracy | problems |",
        "|-|-|-|-|",
        *rows,
    ]
    for name, difference in facts.summary.paired.get(facts.entry.model, {}).items():
        if name.startswith(f"{facts.entry.stage}_minus_"):
            bounds = f"{100 * difference.low:+.1f}, {100 * difference.high:+.1f}"
            other = name.partition("_minus_")[2]
            lines += ["", f"Against `{other}` on the same problems: {100 * difference.value:+.1f} points [{bounds}]."]
    return "\n".join(lines)


def _data(facts: CardFacts) -> str:
    return f"{_counts(facts)} They are in `corpus/`, each with its provenance."


def _counts(facts: CardFacts) -> str:
    parts = [f"{count:,} {_origin(name)}" for name, count in facts.rows.items()]
    return (
        f"{sum(facts.rows.values()):,} examples ({', '.join(parts)}) for {facts.summary.problems.train:,} problems of "
        f"`{facts.config.problems.train.source}`."
    )


def _origin(name: str) -> str:
    return "worked solutions of the data" if name == "gold" else f"sampled from `{name}`"


def _samplers(summary: Summary) -> str:
    lines = ["| model | samples | accepted | distinct correct paths |", "|-|-|-|-|"]
    for name, account in summary.ledger.items():
        share = account.accepted / account.sampled if account.sampled else 0.0
        lines.append(
            f"| {name} | {account.sampled:,} | {account.accepted:,} ({share:.1%}) | {account.distinct_paths:,} |"
        )
    return "\n".join(lines)


def _settings(facts: CardFacts) -> str:
    sampling, grading, corpus = facts.config.sampling, facts.config.grading, facts.config.corpus
    values = {
        "recipe": facts.trained.get("recipe"),
        "seed": facts.trained.get("seed"),
        "prompt": facts.trained.get("template"),
        "samples per problem": sampling.samples_per_problem,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **sampling.beyond_openai,
        "max_new_tokens": sampling.max_new_tokens,
        "verifier": grading.verifier,
        **({"grading": grading.mode} if grading.verifier == GSM8K else {}),
        "distinct by": distinct_by(corpus.distinct_by, grading.verifier),
        **({"dedup": corpus.dedup} if corpus.dedup != "equations" else {}),
    }
    return "\n".join(f"- {name}: `{json.dumps(value, ensure_ascii=False)}`" for name, value in values.items())


def _licence(facts: CardFacts) -> str:
    if not facts.licence:
        return f"That of the base model `{facts.entry.base}`, which names none: look it up before you pass this on."
    return f"`{facts.licence}`, that of the base model `{facts.entry.base}`. The problems of the corpus have their own."


def corpus_card(facts: CardFacts, columns: Sequence[str]) -> str:
    """README.md of the corpus, as a `datasets` repository."""
    tree = {
        "pretty_name": f"Corpus of {facts.name}",
        "task_categories": ["text-generation"],
        "tags": TAGS,
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}],
    }
    same = method_of(facts.config.model_dump(mode="json")).same
    described = ", ".join(f"`{column}`" for column in columns)
    return "\n\n".join(
        [
            f"---\n{yaml.safe_dump(tree, sort_keys=False)}---",
            f"# Corpus of {facts.name}",
            _counts(facts),
            f"Columns: {described}. `gold` marks worked solutions of the data; for sampled paths, `model` and "
            f"`sample_index` name the sample, and `shared_by` counts the correct samples with {same}.",
            "The problems have the licence of their source.\n",
        ]
    )

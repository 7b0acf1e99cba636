"""The records of a run's `summary.json`, and their JSON.

In: the bytes of a `summary.json`. Out: a `Summary`, and back: the fields have the names and the order of the keys, and
a Summary that was read is written with the same bytes. A field with a default may be absent in the summary of an older
version. Pure: no Ray, no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from rft_ray.evaluation.metrics import Difference, Metric
from rft_ray.runtime.progress import StoredStageTime
from rft_ray.sampling.engine_load import EngineLoad


@dataclass(frozen=True, slots=True)
class ProblemCounts:
    """The problems of a run. Example: ProblemCounts(500, 1000, answer_only=20, dropped={"train": {"repeated": 3}})"""

    train: int
    test: int
    answer_only: int = 0
    """Training problems without a worked solution."""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """`train` or `test` -> why -> rows of the data that were left out: `repeated`, `conflicting`, `in_test`."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that the run trains. Example: ModelEntry("tiny-m", "rft", "6d522aa63c172ac4", "tiny:tiny-m")"""

    model: str
    stage: str
    fingerprint: str
    """Names the model's folder in the store: `models/<fingerprint>/`."""
    base: str


@dataclass(frozen=True, slots=True)
class Charged:
    """What an endpoint charged for one model's samples. Example: Charged(120000, 450000, 4.8)"""

    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """By `endpoint.price_per_million_tokens`; None where no price is set."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The judge's opinions on the completions of one model that were rejected with one verdict.

    Example: Judged(40, 31, 6, 3)
    """

    judged: int
    """agreed + disagreed + no_opinion."""
    agreed: int
    """The judge calls the completion wrong too."""
    disagreed: int
    """The judge calls the completion right."""
    no_opinion: int
    """Answers that state no opinion in the form that is asked for, or were cut off or skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account of one model's samples of training problems.

    planned = sampled + skipped + missing, and sampled = accepted + ungraded + sum of rejected.

    Example: Account(planned=8, skipped=0, missing=0, sampled=8, accepted=6, rejected={"wrong_answer": 2}, ungraded=0,
    distinct_paths=3, tokens=412, tokens_per_s=96.1)
    """

    planned: int
    skipped: int
    """Samples of problems whose prompt exceeds the model's context."""
    missing: int
    quarantined: int = 0
    """The part of `missing` on which engines failed."""
    sampled: int
    accepted: int
    rejected: dict[str, int]
    """Status -> samples."""
    partly_read: int = 0
    """Samples with the right answer, accepted or undecided, of whose equations some cannot be read."""
    ungraded: int
    distinct_paths: int
    """Distinct correct paths of the model, over all problems."""
    tokens: int
    tokens_per_s: float
    """Tokens per second of the time in which at least one of the model's shards was being sampled."""
    load: EngineLoad | None = None
    """The most that one engine had at a time, and the preemptions of all; None where no engine has such statistics."""
    charged: Charged | None = None
    """Of a model behind an endpoint only."""
    judged: dict[str, Judged] = field(default_factory=dict)
    """Verdict -> the judge's opinions on the completions rejected with it, which change no other count. Empty without a
    judge."""
    judge_charged: Charged | None = None
    """What the judge's endpoint charged for them."""

    def in_words(self) -> str:
        """What became of the samples. Example: `6 of 8 samples accepted (2 wrong_answer)`"""
        others = {**self.rejected, "ungraded": self.ungraded, "skipped": self.skipped, "missing": self.missing}
        counts = ", ".join(f"{count:,} {name}" for name, count in others.items() if count)
        return f"{self.accepted:,} of {self.planned:,} samples accepted" + (f" ({counts})" if counts else "")


@dataclass(frozen=True, slots=True)
class QuarantinedShard:
    """A shard that is no longer tried, because engines failed on it.

    Example: QuarantinedShard("tiny-m (sft)", "completions/5f0c…/p000003/41ab….s00001", (30, 40), 100, 3, "no answer")
    """

    model: str
    """Name and stage of the model that samples the shard."""
    shard: str
    """Stem of the shard in the store."""
    problems: tuple[int, int]
    """Index of the first problem, and one past the last."""
    samples: int
    failures: int
    reason: str
    """What the last failure was."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows of a committed training corpus, and its file.

    Example: Corpus(500, 2042, {"tiny-s": 529, "tiny-m": 1513}, "corpus/f47cf88399dec590.jsonl")
    """

    gold: int
    paths: int
    """Sampled paths, gold not counted."""
    by_model: dict[str, int] = field(default_factory=dict)
    """Model -> the paths that it sampled."""
    file: str | None = None
    """Key of the corpus as JSONL; None before it is committed."""


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """The distinct paths of one model, over all problems. Example: ModelPaths(692, 259, 0.1268)"""

    distinct: int
    exclusive: int
    """Paths that no other model sampled."""
    marginal_gain: float
    """`exclusive` as a share of the union: what the union loses without this model."""


@dataclass(frozen=True, slots=True)
class Complementarity:
    """How the models' distinct paths complement each other, over all problems.

    Example: Complementarity(9, {"a": ModelPaths(7, 7, 0.7778), "b": ModelPaths(2, 2, 0.2222)},
    {"a": {"a": 7, "b": 0}, "b": {"a": 0, "b": 2}}, {"as_written": 9, "multiset": 6})
    """

    union: int = 0
    by_model: dict[str, ModelPaths] = field(default_factory=dict)
    overlap: dict[str, dict[str, int]] = field(default_factory=dict)
    """Model -> model -> number of paths that both sampled."""
    distinct_under: dict[str, int] = field(default_factory=dict)
    """Normal form -> paths of the union under it, without gold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """What one stage used of the GPUs.

    Example: GpuUse(stage="sample", gpus=8, gpu_hours=12.4, idle=0.06, mfu=0.11, usd=31.0)
    """

    stage: str
    gpus: float
    """At once, at most; several engines may share one."""
    gpu_hours: float
    """These GPUs for as long as the stage took."""
    idle: float
    """Share of the GPU-hours in which no shard was sampled and nothing was trained: starts, loads, waits, commits."""
    mfu: float | None
    """FLOPs of the model over those that the card can do in the time that is not idle; None where card or model are not
    known."""
    usd: float | None
    """By `cost.usd_per_gpu_hour`; None without it."""


@dataclass(frozen=True, slots=True)
class BadPlace:
    """A host or its GPUs that could not load a model which others have sampled with.

    Example: BadPlace("10.0.0.7 (node 5f0c2d1e) GPU 3", ("tiny-m (sft)",), "no kernel image is available")
    """

    place: str
    models: tuple[str, ...]
    """Name and stage of each."""
    reason: str
    """Why the first of them was not loaded."""


def _none_without_counts(corpus: Any) -> Any:
    """None for `{}`, which stands for a corpus that is not committed; any other value as it is."""
    return None if corpus == {} else corpus


StoredCorpus = Annotated[Corpus | None, BeforeValidator(_none_without_counts)]
"""A corpus, or None when it is not committed. In JSON: `{}` for None."""
Evaluation = dict[str, dict[str, dict[str, Metric]]]
"""Model -> setting (`sft`) -> name of the metric (`maj1@1`) -> metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run's summary: an account of every planned sample, the corpora, and the accuracy of every model.

    Example: Summary(run="demo", fingerprint="9429783691c4d693", problems=ProblemCounts(500, 1000), models=(),
    ledger={}, evaluation={}, finished=False, stages=(StageTime("sft", 98.361, {"trained": 3}),), seconds=98.361)
    """

    run: str
    fingerprint: str
    """Names the plan of the run."""
    problems: ProblemCounts
    samplers: dict[str, str] = field(default_factory=dict)
    """Model -> fingerprint of the sampling job that the summary counts."""
    models: tuple[ModelEntry, ...]
    """The models that the run trains, committed or not."""
    ledger: dict[str, Account]
    """Model -> account of its samples."""
    quarantine: tuple[QuarantinedShard, ...] = ()
    corpus: StoredCorpus = None
    own_corpora: dict[str, StoredCorpus] = field(default_factory=dict)
    """Model -> corpus of its own paths alone, for the controls."""
    complementarity: Complementarity = field(default_factory=Complementarity)
    evaluation: Evaluation
    """The committed evaluations."""
    paired: dict[str, dict[str, Difference]] = field(default_factory=dict)
    """Model -> `rft_minus_<setting>` -> greedy accuracy of RFT minus that of the setting."""
    finished: bool
    stages: tuple[StoredStageTime, ...]
    seconds: float
    """Sum over the stages."""
    gpu_use: tuple[GpuUse, ...] = ()
    """Of a finished run on GPUs: for each stage that used them."""
    bad_places: tuple[BadPlace, ...] = ()
    """Where sampling did without an engine."""


OPTIONAL = ("load", "charged", "judged", "judge_charged", "partly_read")
"""Fields of an Account that are left out of the JSON where they are empty."""
_TREE: TypeAdapter[Summary] = TypeAdapter(Summary)


def parse_summary(data: bytes) -> Summary:
    """The Summary in the bytes of a `summary.json`. Raises ValueError when they are no JSON, or no run's summary."""
    return _TREE.validate_python(json.loads(data))


def summary_json(summary: Summary) -> bytes:
    """The bytes of `summary.json`."""
    evaluation = {
        model: {
            setting: {name: metric.as_data() for name, metric in metrics.items()}
            for setting, metrics in by_setting.items()
        }
        for model, by_setting in summary.evaluation.items()
    }
    problems = {name: value for name, value in asdict(summary.problems).items() if value or name in ("train", "test")}
    ledger = {
        model: {name: value for name, value in asdict(account).items() if value or name not in OPTIONAL}
        for model, account in summary.ledger.items()
    }
    tree = asdict(summary) | {
        "ledger": ledger,
        "problems": problems,
        "corpus": _corpus_data(summary.corpus),
        "own_corpora": {model: _corpus_data(corpus) for model, corpus in summary.own_corpora.items()},
        "evaluation": evaluation,
        "stages": [stage.as_data() for stage in summary.stages],
    }
    for name in ("gpu_use", "bad_places"):
        if not tree[name]:
            del tree[name]
    return json.dumps(tree, indent=2, ensure_ascii=False).encode()


def _corpus_data(corpus: Corpus | None) -> dict[str, Any]:
    return asdict(corpus) if corpus else {}

"""The scaling study's result: `study.json`, a view made from committed files alone.

The paper's questions (arXiv 2308.01825), and the fits, comparisons and tables that answer each for the study's models:

1. Does accuracy fall with pre-training loss?     fits `sft-loss`, `rft-loss`, `gain-loss`; comparisons `rft-sft`,
                                                   `rft-steps`
2. What does doubling the gold data add?           fits `sft-data` (one per model), `slope-loss`
3. What do k and distinct paths add?               fits `rft-k`, `rft-paths` (one per model); comparisons
                                                   `distinct-all`, `distinct-thinned`, `distinct-random`
4. Does pooling beat the best single model?        comparisons `union-own`, `union-best`, `union-without`; tables
5. What does a point of accuracy cost?             tables

Units: accuracies and differences are shares in 0..1 (greedy maj1@1 on the test problems), losses nats per token,
costs FLOPs and seconds on the hardware of the run. All intervals are 95 %. `skipped` lists what could not be answered,
with the reason. `plan.py` decides the points, `answers.py` makes everything else from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from rft_ray.config.errors import RunError
from rft_ray.runtime.progress import StoredStageTime
from rft_ray.store import Store

KEY = "study.json"

Selection = Literal["gold", "equations", "none", "random", "thinned"]
"""Which sampled paths a model was trained on in addition to gold data.

`gold`: none. `equations`: one path per distinct equation list. `none`: all correct paths. `random`: for each problem a
random choice of as many correct paths as it has distinct lists. `thinned`: a random choice from the correct paths of
all problems, as many as `equations` has.
"""


class StudyError(RunError, ValueError):
    """A study.json that cannot be read."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. Example: Estimate(0.352, 0.311, 0.395)"""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Model:
    """One base model of the study. Example: Model("tiny-m", "tiny:tiny-m", 724608, 0.0443, True, True)"""

    name: str
    source: str
    parameters: int
    pretraining_loss: float | None
    """Held-out loss, nats per token; None when unknown."""
    headline: bool
    """Whether every question includes it; for other models only 1, 2 and 5 do."""
    sampler: bool
    """Whether its SFT model samples paths."""


@dataclass(frozen=True)
class Point:
    """One trained and evaluated model.

    Example: Point("tiny-m rft union k=48 #0", "tiny-m", "rft", "equations", ("tiny-s", "tiny-m"), 48, 1.0, "epochs",
    0, 400, 1890, 4.725, …)
    """

    name: str
    """Unique in the study, for people."""
    model: str
    stage: Literal["sft", "rft"]
    selection: Selection
    samplers: tuple[str, ...]
    """The models whose samples the corpus pools; empty for gold alone."""
    k: int
    """Samples per problem of each sampler; 0 for gold alone."""
    share: float
    """Share of the gold problems: 1, 1/2, 1/4, …"""
    schedule: Literal["epochs", "steps"]
    """`epochs`: the recipe's. `steps`: as many optimizer steps as on all gold problems; where the share is 1, as many
    as the model's RFT on the union makes (the control of RFT's longer training)."""
    seed: int
    gold: int
    """Gold examples in its corpus."""
    paths: int
    """Sampled paths in its corpus, gold not counted."""
    paths_per_problem: float
    """`paths` per training problem. Add 1 to count the gold path, as one of the paper's two conventions does."""
    steps: int
    tokens: int
    """Prompt and response tokens trained on, over all epochs."""
    training_seconds: float
    sampled: int
    """Samples drawn for its corpus, by all samplers."""
    sampling_tokens: int
    sampling_seconds: float
    """Engine time of these samples: a share of each shard's time, by number of samples."""
    training_flops: float
    """6 FLOPs per parameter and token, its own training only (not its samplers')."""
    sampling_flops: float
    """2 FLOPs per parameter and sampled token."""
    right: int
    problems: int
    accuracy: Estimate
    """Greedy maj1@1 with Wilson interval over the test problems."""
    training: str
    """Fingerprint of the model: `models/<training>/`."""
    evaluation: str
    """Store key of the per-problem records."""


@dataclass(frozen=True)
class Fit:
    """A least-squares line: y = intercept + slope * x, or * log2(x).

    Example: Fit(2, "sft-data", "tiny-m", "gold problems", "SFT accuracy", True, Estimate(0.06, 0.04, 0.08), …)
    """

    question: int
    name: str
    """One of the names in this module's docstring."""
    group: str
    """The model that the points are of; empty for a fit over models."""
    x: str
    """Label of the axis."""
    y: str
    log2_x: bool
    """The slope is then per doubling of x."""
    slope: Estimate
    intercept: Estimate
    r2: float
    points: tuple[tuple[float, float, str], ...]
    """(x, y, name of the point or model), x not in logarithms."""


@dataclass(frozen=True)
class CommonSlope:
    """One slope for the lines of several models, with an intercept per model.

    Example: CommonSlope(2, "sft-data", Estimate(0.054, 0.046, 0.063), 0.90, 7, 28)
    """

    question: int
    name: str
    """The name of the models' own fits."""
    log2_x: bool
    slope: Estimate
    r2: float
    """Of the variance within the models."""
    models: int
    points: int


@dataclass(frozen=True)
class Comparison:
    """Accuracy of one point minus another's, paired by test problem, averaged over the seeds that both have.

    Example: Comparison(3, "dedup-none", "tiny-m", "distinct", "all correct", Estimate(0.01, -0.02, 0.04), 500)
    """

    question: int
    name: str
    model: str
    """The trained model; empty for the mean over the headline models."""
    first: str
    second: str
    difference: Estimate
    """first - second."""
    problems: int


@dataclass(frozen=True)
class Table:
    """A table of text, ready to print."""

    question: int
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


Holds = Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class Finding:
    """One finding of the paper, and whether it holds here.

    Example: Finding("data", 2, "SFT accuracy is log-linear in data", "yes", "4 of 4 models: …", "yes where …")
    """

    key: str
    question: int
    paper: str
    """What the paper says."""
    holds: Holds
    here: str
    """The figures that decide it, as text."""
    rule: str
    """The rule that decides `holds`, the same for every run."""


@dataclass(frozen=True)
class Skipped:
    """A question, or a part of one, that these models or settings cannot answer."""

    question: int
    reason: str


@dataclass(frozen=True)
class Study:
    """The whole result; see the module's docstring."""

    run: str
    fingerprint: str
    """Names the outcome: equal for two configs that differ only in how to run."""
    command: str
    """The command that made the study."""
    finished: bool
    """Whether every planned point is evaluated. An unfinished study has answers from the points so far."""
    planned: int
    """Points in the plan."""
    train_problems: int
    test_problems: int
    k: int
    """The largest number of samples per problem and model: that of the headline points."""
    models: tuple[Model, ...]
    """In the order of the config."""
    points: tuple[Point, ...] = ()
    fits: tuple[Fit, ...] = ()
    slopes: tuple[CommonSlope, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    tables: tuple[Table, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    stages: tuple[StoredStageTime, ...] = ()
    """The time of each stage, over all runs of the study."""


_JSON: TypeAdapter[Study] = TypeAdapter(Study)


def write_study(store: Store, study: Study) -> None:
    """Replace the view `study.json`."""
    store.replace(KEY, _JSON.dump_json(study, indent=1))


def read_study(store: Store) -> Study:
    """The study as last written. Raises NotFound when there is none, StudyError when the file is not a study."""
    try:
        return _JSON.validate_json(store.read(KEY))
    except ValidationError as error:
        raise StudyError(
            f"{store.url}/{KEY} is damaged, or of another version: run the study's command again, which rewrites it"
        ) from error

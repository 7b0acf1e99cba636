"""A run's store -> the data of its report. Reads committed data only, one problem block at a time.

In: `summary.json`, `config.yaml`, manifests of models, and the shards of completions and verdicts that the summary's
samplers name. Out: `RunFacts`: sums, histograms of bounded size, and examples from a fixed, bounded sample of problems.
Memory: one problem block's samples, the problems, and the corpus as an Arrow table. Verdicts whose
completions have changed since are refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rft_ray.config.loading import saved_tree
from rft_ray.corpus.graded import GradedSample, Source, read_block, recorded_rules, verified_blocks
from rft_ray.corpus.path_keys import equations_or_words
from rft_ray.data.problems import read_problems
from rft_ray.evaluation.summary import required_summary
from rft_ray.evaluation.summary_records import Summary
from rft_ray.grading import Mode
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.spec import distinct_by, saved_spec
from rft_ray.paths import NormalForm, equation_list
from rft_ray.paths.normal_forms import normalise
from rft_ray.paths.text_forms import normalised_text
from rft_ray.records import Status
from rft_ray.report.diversity import Diversity, Doubling, grid
from rft_ray.report.examples import Example, Gallery, Marker
from rft_ray.store import NotFound, Store, read_table
from rft_ray.store.models.committed import committed_model
from rft_ray.training.results import TrainingRecord, training_record


@dataclass(slots=True)
class Samples:
    """Counts over one model's samples of the training problems."""

    right_of_k: Counter[int] = field(default_factory=Counter)
    """Number of correct samples of a problem -> number of problems."""
    lengths: dict[Status, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Verdict -> length in tokens -> number of samples."""
    cut: int = 0
    """Samples that stopped at the token limit."""


@dataclass(frozen=True, slots=True)
class Check:
    """The doubling estimate checked on the run itself: made from the first k samples, compared with the next k.

    Example: Check(4, 0.61, 0.58)
    """

    k: int
    """Half of the run's samples per problem and model, rounded down."""
    expected: float
    observed: float


@dataclass(frozen=True, slots=True)
class PathFacts:
    """Distinct paths per problem against k: one curve per model, and one of their union (named "")."""

    k: int
    curves: dict[str, list[tuple[int, float]]]
    doubling: dict[str, Doubling]
    check: Check | None


@dataclass(frozen=True, slots=True)
class Training:
    """How a committed model of the run was trained.

    Example: Training("tiny-m", "rft", TrainingRecord(examples=1446, …))
    """

    model: str
    stage: str
    record: TrainingRecord


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The data of a run's report."""

    url: str
    summary: Summary
    config: dict[str, Any]
    """The resolved config; empty when the store has none."""
    config_text: str
    samples: dict[str, Samples]
    paths: PathFacts | None
    examples: list[Example]
    problems_seen: int
    unsolved: int
    """Problems without a correct sample."""
    trainings: list[Training]
    """Of each committed model, in the summary's order."""
    module_sha256: str = ""
    """Of the module of a user's verifier, as it was when it graded; empty for other verifiers."""
    partly_verified: str = ""
    """A line that says how many samples have no verdicts of the rules in use; empty where all have."""


def gather(store: Store) -> RunFacts:
    """Read a run. Raises StoreError when it has no summary, or when committed data cannot be read."""
    summary = required_summary(store, "has no report: its figures are in its summary.json")
    text = _config_data(store)
    config = saved_tree(text, f"{store.url}/config.yaml")
    samples: dict[str, Samples] = {}
    examples: list[Example] = []
    paths, seen, unsolved, module, note = None, 0, 0, "", ""
    if any(account.sampled - account.ungraded for account in summary.ledger.values()):
        reading = _Reading(store, summary, config)
        paths, examples = reading.read()
        samples, seen, unsolved = reading.samples, reading.seen, reading.unsolved
        module, note = reading.module, reading.note
    trainings = list(_trainings(store, summary))
    return RunFacts(
        url=store.url,
        summary=summary,
        config=config,
        config_text=text.decode(),
        samples=samples,
        paths=paths,
        examples=examples,
        problems_seen=seen,
        unsolved=unsolved,
        trainings=trainings,
        module_sha256=module,
        partly_verified=note,
    )


def _config_data(store: Store) -> bytes:
    try:
        return store.read("config.yaml")
    except NotFound:
        return b""


def _trainings(store: Store, summary: Summary) -> Iterator[Training]:
    for entry in summary.models:
        manifest = committed_model(store, entry.fingerprint)
        if manifest and (record := training_record(manifest.metadata)):
            yield Training(entry.model, entry.stage, record)


class _Reading:
    """One pass over the blocks of the training problems."""

    def __init__(self, store: Store, summary: Summary, config: dict[str, Any]) -> None:
        self._store, self._summary = store, summary
        mode = config["grading"]["mode"] if config else None
        self._rules = recorded_rules(store, saved_spec(config), summary.fingerprint)
        self._mode: Mode
        verified = verified_blocks(store, mode, summary.samplers.values(), self._rules)
        self._mode, self._blocks = verified.mode, verified.blocks
        self.note = verified.note
        self._form: NormalForm = config["corpus"]["normal_form"] if config else "as_written"
        chosen = config["corpus"].get("distinct_by") if config else None
        self._distinct_by = distinct_by(chosen, self._rules.name)
        self._models = list(summary.ledger)
        self._count = summary.problems.train
        planned = max(account.planned for account in summary.ledger.values())
        self._k = max(1, planned // max(self._count, 1))
        self.samples = {model: Samples() for model in self._models}
        self._own = {model: Diversity(grid(self._k)) for model in self._models}
        self._union = Diversity(grid(self._k), len(self._models))
        self._half = Diversity((max(self._k // 2, 1),), len(self._models))
        self._after_half = 0
        self.seen = self.unsolved = 0
        self.module = self._rules.source_sha256

    def read(self) -> tuple[PathFacts, list[Example]]:
        gallery: Gallery | None = None
        for block in self._blocks:
            problems = read_problems(self._store, block[0].problems_fingerprint)[: self._count]
            if gallery is None:
                marker = Marker(self._mode, self._rules.reasoning_tags) if self._rules.is_gsm8k else None
                gallery = Gallery(problems, self._k * len(self._models), self._kept_paths(), marker)
            sampled = self._samples_of(block)
            for problem in problems:
                if rows := sampled.get(problem.problem_id):
                    self._add(rows)
                    gallery.add(problem, rows)
        return self._paths(), gallery.examples if gallery else []

    def _samples_of(self, block: Sequence[Source]) -> dict[str, list[GradedSample]]:
        """problem_id -> its graded samples with an index below the run's k."""
        samples = read_block(self._store, block, self._summary.samplers)
        return {problem: [row for row in rows if row.sample_index < self._k] for problem, rows in samples.items()}

    def _add(self, rows: Sequence[GradedSample]) -> None:
        """Count one problem's samples."""
        self.seen += 1
        right: Counter[str] = Counter()
        hits: dict[Hashable, Counter[str]] = defaultdict(Counter)
        early: dict[Hashable, Counter[str]] = defaultdict(Counter)
        half, by_twice = self._k // 2, set[Hashable]()
        for row in rows:
            mine = self.samples[row.model]
            mine.lengths[row.status][row.tokens] += 1
            mine.cut += row.finish_reason == "length"
            if row.status is Status.CORRECT:
                right[row.model] += 1
                tags = self._rules.reasoning_tags
                read = Reasoning(tags, row.begins_in_draft(tags)).removed(row.text)
                path = self._path(read)
                hits[path][row.model] += 1
                if row.sample_index < half:
                    early[path][row.model] += 1
                if row.sample_index < 2 * half:
                    by_twice.add(path)
        self.unsolved += not hits
        for model in {row.model for row in rows}:
            self.samples[model].right_of_k[right[model]] += 1
        for model in self._models:
            self._own[model].add(self._k, [{model: by[model]} for by in hits.values() if by[model]])
        self._union.add(self._k, hits.values())
        self._half.add(max(half, 1), early.values())
        self._after_half += len(by_twice) - len(early)

    def _path(self, text: str) -> Hashable:
        """What equal paths share; their words, where it is neither equations nor words."""
        if self._distinct_by != "equations":
            return normalised_text(text)
        if self._rules.is_gsm8k:
            return normalise(equation_list(text, self._mode), self._form)
        return equations_or_words(text, self._mode, self._form)

    def _paths(self) -> PathFacts:
        named = {**self._own, "": self._union}
        check = None
        if self._k >= 4 and self._half.problems:
            check = Check(self._k // 2, self._half.doubling.gain, self._after_half / self._half.problems)
        return PathFacts(
            self._k,
            {name: diversity.curve for name, diversity in named.items()},
            {name: diversity.doubling for name, diversity in named.items()},
            check,
        )

    def _kept_paths(self) -> Any:
        """The corpus as an Arrow table; None before it is built."""
        corpus = self._summary.corpus
        return read_table(self._store, corpus.file.replace(".jsonl", ".parquet"))[0] if corpus and corpus.file else None

"""Graded samples: committed completions read together with their verdicts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rft_ray.grading import MODES, Mode
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.plan.jobs import JudgementJob, SamplingJob, VerdictJob, verdicts_fingerprint
from rft_ray.records import SKIPPED, Completion, GradedCompletion, Judgement, Opinion, Status, from_table, verdicts_in
from rft_ray.store import Store, StoreError, read_table
from rft_ray.store.names import FIRST_SHOTS, FIRST_STRICT_RULES, FIRST_VERIFIER_RULES, VERSIONS, committed_files
from rft_ray.store.parquet import content_hash
from rft_ray.store.plans import recipe_of, saved_plans
from rft_ray.store.shards import Shard, committed_keys, read_ahead
from rft_ray.store.tables import identity, read_part
from rft_ray.store.tables import made_from as made_from_of


@dataclass(frozen=True, slots=True)
class Source:
    """A completion shard and the verdict shard that grades it.

    Example: Source("41…", 3, "9c3f…", "completions/41…/p000003/9c3f….s00000.g0.parquet", "verdicts/…")
    """

    problems_fingerprint: str
    problem_block: int
    completions: str
    """Fingerprint of the sampling job."""
    completions_key: str
    verdicts_key: str


@dataclass(frozen=True, slots=True)
class GradedSample:
    """One graded sample of a training problem, with its text.

    Example: GradedSample("tiny-m", "9c3f…", 17, "3+2 = …", Status.CORRECT, "", 24, "stop", "Question: {query}")
    """

    model: str
    completions: str
    """Fingerprint of the sampling job: together with the problem and sample_index it identifies the completion."""
    sample_index: int
    text: str
    status: Status
    detail: str
    tokens: int
    finish_reason: str
    prompt: str
    """The prompt that the model was sampled with, in its stored form (`data/prompts.py`)."""
    shots: int = 0
    """Worked examples before the question, as in `SamplingSettings`."""
    shots_from: str = ""
    shots_version: int = FIRST_SHOTS
    opens_reasoning: bool = False
    """As in `VerdictJob`."""

    def begins_in_draft(self, tags: Sequence[str]) -> bool:
        """Whether it was graded as a text that begins inside reasoning. `tags`: of reasoning."""
        return Reasoning.after(self.prompt, tags).begins_inside or (
            self.opens_reasoning and self.finish_reason == "length"
        )


class Verified(NamedTuple):
    """The verdicts of one mode and one version of the rules on the samples of training problems.

    Example: Verified("strict", [[<Source>, <Source>], [<Source>]], 4): one of four shards is not graded.
    """

    mode: Mode
    blocks: list[list[Source]]
    """For each problem block, in order, the completion shards that have such verdicts."""
    sampled: int
    """Completion shards of these problems and sampling jobs, graded or not."""
    passed_over: int = 0
    """Shards with verdicts of strict mode, where those of paper mode are on more."""

    @property
    def note(self) -> str:
        """One line that says which verdicts are missing or passed over, and what to do; empty where none are."""
        graded = sum(map(len, self.blocks))
        if self.passed_over:
            return (
                f"mode {self.mode} is in use, as {graded:,} of {self.sampled:,} shards of completions are graded in it "
                f"and {self.passed_over:,} in mode strict: finish the strict grading, or name the mode"
            )
        if graded >= self.sampled:
            return ""
        return (
            f"{graded:,} of {self.sampled:,} shards of completions are graded by the rules in use, and the others are "
            "left out: run the command that grades this run again, which goes on where it stopped"
        )


def verified_blocks(
    store: Store, mode: Mode | None, samplers: Collection[str], rules: VerifierSpec = DEFAULT
) -> Verified:
    """The verdicts to read: of all modes and versions of the rules in question, those on the most shards.

    So a grading by new rules that has stopped midway does not hide the complete one before it. Of several, the newest
    rules count. `mode` None: strict or paper; of both, strict. `samplers`: fingerprints of the sampling jobs to include
    (a run's summary lists them); empty: all. `rules`: the verifier. Raises StoreError when there are no such verdicts.
    """
    completions = _by_block(store, "completions")
    verdicts = _by_block(store, "verdicts")
    most: Verified | None = None
    strict = 0
    for used in [mode] if mode else MODES:
        for version in rule_versions(used, rules):
            names = _verdicts_of(completions, verdicts, (used, rules, version))
            every = [_sources(key, completions, verdicts, samplers, names) for key in completions]
            blocks = [block for block in every if block]
            graded = sum(map(len, blocks))
            strict = max(strict, graded) if used == "strict" else strict
            if graded > (sum(map(len, most.blocks)) if most else 0):
                sets = {block[0].problems_fingerprint for block in blocks}
                most = Verified(used, blocks, _shards_of(completions, sets, samplers))
    if most:
        return most if most.mode == "strict" else most._replace(passed_over=strict)
    modes = mode or " or ".join(MODES)
    kind = modes if rules.is_gsm8k else rules.name
    kind += "" if rules.unread == DEFAULT.unread else f" (unread={rules.unread})"
    raise StoreError(f"{store.url} has no {kind} verdicts on training problems: name a run that has been verified")


def recorded_rules(store: Store, rules: VerifierSpec, plan: str) -> VerifierSpec:
    """The rules with the hash of the user's module that the run's verdicts were made with; other rules as they are.

    Of several hashes, that of the plan with the fingerprint `plan` counts, else that of the newest plan. The module
    itself may be absent, or another one by now. Raises StoreError where a table or a plan is damaged.
    """
    if not rules.is_users:
        return rules
    graded: dict[str, VerifierSpec] = {}
    tables = {recipe_of(key): key for key in committed_files(store.list("verdicts/")).values()}
    every_metadata = read_ahead(lambda key: read_part(store, key).metadata, tables.values())
    for name, metadata in zip(tables, every_metadata, strict=True):
        identity = json.loads(metadata.get("verifier", "{}"))
        made_by = replace(rules, source_sha256=str(identity.get("source_sha256", "")))
        if metadata.get("purpose") == "collect" and identity == json.loads(json.dumps(made_by.identity())):
            graded[name] = made_by
    for saved in sorted(saved_plans(store), key=lambda saved: (plan in saved.recipes, saved.saved_unix), reverse=True):
        if planned := graded.keys() & saved.recipes:
            return graded[min(planned)]
    return next(iter(graded.values()), rules)


def rule_versions(mode: Mode, rules: VerifierSpec = DEFAULT) -> range:
    """The versions of the rules that verdicts can be made by, the newest first: of strict mode, or of the verifier."""
    newest, first = FIRST_STRICT_RULES, FIRST_STRICT_RULES
    if rules.versioned in VERSIONS:
        newest, first = VERSIONS[rules.versioned], FIRST_VERIFIER_RULES
    elif mode == "strict":
        newest = VERSIONS["strict_rules"]
    return range(newest, first - 1, -1)


def _by_block(store: Store, stage: str) -> dict[tuple[str, int], dict[str, str]]:
    """(problem set, problem block) -> `<fingerprint>.s<sample block>` -> key, all sorted."""
    blocks: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for (stem, _), key in sorted(committed_files(store.list(f"{stage}/")).items()):
        _, problems_fingerprint, block, name = stem.split("/")
        blocks[problems_fingerprint, int(block.removeprefix("p"))][name] = key
    return dict(blocks)


def _shards_of(
    completions: Mapping[tuple[str, int], Mapping[str, str]], problem_sets: Collection[str], samplers: Collection[str]
) -> int:
    """How many completion shards there are of these problem sets; only those of `samplers`, unless it is empty."""
    names = [name for (problems, _), block in completions.items() if problems in problem_sets for name in block]
    return sum(not samplers or name.partition(".")[0] in samplers for name in names)


def _verdicts_of(
    completions: Mapping[tuple[str, int], Mapping[str, str]],
    verdicts: Mapping[tuple[str, int], Mapping[str, str]],
    graded_by: tuple[Mode, VerifierSpec, int],
) -> dict[str, str]:
    """Fingerprint of each sampling job -> that of its verdicts: of two, those on the most shards.

    There are two where an earlier version, which did not know that the chat template opens reasoning, graded it too;
    on as many shards, the newer ones count.
    """
    mode, rules, version = graded_by
    shards = Counter(name.partition(".")[0] for block in verdicts.values() for name in block)
    sampled = {name.partition(".")[0] for block in completions.values() for name in block}
    names = {
        job: [
            verdicts_fingerprint(job, mode, "collect", rules, version, opens_reasoning=opens) for opens in (True, False)
        ]
        for job in sampled
    }
    return {job: max(both, key=shards.__getitem__) for job, both in names.items()}


def _sources(
    block: tuple[str, int],
    completions: Mapping[tuple[str, int], Mapping[str, str]],
    verdicts: Mapping[tuple[str, int], Mapping[str, str]],
    samplers: Collection[str],
    names: Mapping[str, str],
) -> list[Source]:
    """The shards of one block that were graded to collect paths; only those of `samplers`, unless it is empty.

    `names`: sampling job -> the fingerprint of its verdicts.
    """
    sources = []
    for name, key in completions[block].items():
        sampled, _, sample_block = name.partition(".")
        if samplers and sampled not in samplers:
            continue  # sampled with earlier settings of this run
        if verdict := verdicts.get(block, {}).get(f"{names[sampled]}.{sample_block}"):
            sources.append(Source(*block, sampled, key, verdict))
    return sources


def read_completions(store: Store, job: SamplingJob, shard: Shard) -> tuple[list[Completion], str]:
    """The committed completions that a shard of a later stage is made from, and their content hash.

    Raises StoreError when they are missing.
    """
    [key] = _committed(store, [replace(shard, stage="completions", fingerprint=job.fingerprint)])
    table, _ = read_table(store, key)
    return from_table(table, Completion), content_hash(table)


def read_graded(
    store: Store, job: VerdictJob, shard: Shard, made_from: dict[str, str] | None = None
) -> list[tuple[Completion, GradedCompletion]]:
    """Each sampled completion of a verdict shard with its verdict, in order. Adds the tables it reads to `made_from`.

    Raises StoreError when a table is missing, or when the verdicts were made for other completions than the committed
    ones: sampling again gives other texts, so a completion shard that was made again needs new verdicts.
    """
    [rows] = read_graded_shards(store, job, [shard], made_from)
    return rows


def read_graded_shards(
    store: Store, job: VerdictJob, shards: Sequence[Shard], made_from: dict[str, str] | None = None
) -> Iterator[list[tuple[Completion, GradedCompletion]]]:
    """`read_graded` of several verdict shards of a job, in order; a few of them are read, and in memory, at a time."""
    completions, keys = _graded_keys(store, job, shards)
    read = read_ahead(lambda pair: _joined(store, *pair), keys)
    for sampled, shard, joined in zip(completions, shards, read, strict=True):
        if made_from is not None:
            made_from[shard.stem], made_from[sampled.stem] = joined.verdicts, joined.completions
        yield joined.rows


def read_verdicts(
    store: Store, job: VerdictJob, problem_block: int | None = None, made_from: dict[str, str] | None = None
) -> Iterator[GradedCompletion]:
    """All committed verdicts of a job, or those of one problem block, in shard order; a few shards are read at a time.

    The texts of the completions are not decoded. Raises StoreError as `read_graded` does.
    """
    shards = [shard for shard in job.shards() if problem_block in (None, shard.problem_block)]
    completions, keys = _graded_keys(store, job, shards)
    read = read_ahead(lambda pair: _verdicts(store, *pair), keys)
    for sampled, shard, (rows, content, verdicts) in zip(completions, shards, read, strict=True):
        if made_from is not None:
            made_from[shard.stem], made_from[sampled.stem] = verdicts, content
        yield from rows


def _graded_keys(
    store: Store, job: VerdictJob, shards: Sequence[Shard]
) -> tuple[list[Shard], Iterable[tuple[str, str]]]:
    """The completion shards of these verdict shards, and the keys of both. Raises StoreError where one is missing."""
    sampled = job.sampling.fingerprint
    completions = [replace(shard, stage="completions", fingerprint=sampled) for shard in shards]
    return completions, zip(_committed(store, completions), _committed(store, shards), strict=True)


def called_right(store: Store, job: JudgementJob, verdicts: Shard, made_from: dict[str, str]) -> set[tuple[str, int]]:
    """(problem_id, sample_index) of the rejected completions of a verdict shard that the judge calls right.

    Empty where the run does without the judge's answers. `made_from`: what `read_graded` has added for the verdict
    shard; adds the judgements. Raises StoreError when they are missing, or were made for other completions.
    """
    shard = job.shard_for(verdicts)
    if shard is None:
        return set()
    [key] = _committed(store, [shard])
    table, metadata = read_table(store, key)
    completions = replace(verdicts, stage="completions", fingerprint=job.sampling.judged.sampling.fingerprint).stem
    if made_from_of(metadata)[completions] != made_from[completions][:16]:
        raise StoreError(_other_completions(store, key))
    made_from[shard.stem] = identity(table)
    return {(row.problem_id, row.sample_index) for row in from_table(table, Judgement) if row.opinion is Opinion.RIGHT}


def _committed(store: Store, shards: Sequence[Shard]) -> list[str]:
    """Keys of these shards. Raises StoreError where one is missing."""
    keys = committed_keys(store, shards)
    if missing := next((shard for shard in shards if shard.stem not in keys), None):
        raise StoreError(f"{store.url}/{missing.stem}: not committed yet; run the stage {missing.stage!r} first")
    return list(keys.values())


def read_block(store: Store, block: Sequence[Source], samplers: Mapping[str, str]) -> dict[str, list[GradedSample]]:
    """problem_id -> its graded samples, in the order of the block. Raises StoreError as `read_graded` does.

    `samplers`: model -> fingerprint of its sampling job, by which the samples are named. A model may have had another
    name when its samples were committed; that name is used for samplers that are not listed.
    """
    names = {fingerprint: model for model, fingerprint in samplers.items()}
    samples: dict[str, list[GradedSample]] = defaultdict(list)
    read = read_ahead(lambda source: _joined(store, source.completions_key, source.verdicts_key), block)
    for source, joined in zip(block, read, strict=True):
        model = names.get(source.completions) or json.loads(joined.metadata["model"])["name"]
        settings = json.loads(joined.metadata["settings"])
        for row, verdict in joined.rows:
            sample = GradedSample(
                model,
                source.completions,
                row.sample_index,
                row.text,
                verdict.status,
                verdict.reason,
                row.completion_tokens,
                row.finish_reason,
                settings["prompt"],
                settings.get("shots", 0),
                settings.get("shots_from", ""),
                settings.get("shots_version", FIRST_SHOTS),
                joined.opens_reasoning,
            )
            samples[row.problem_id].append(sample)
    return samples


@dataclass(frozen=True, slots=True)
class _Joined:
    rows: list[tuple[Completion, GradedCompletion]]
    completions: str
    """Hash of the completions' content."""
    verdicts: str
    """Identity of the verdicts' table."""
    metadata: dict[str, str]
    """Metadata of the completions."""
    opens_reasoning: bool


def _joined(store: Store, completions_key: str, verdicts_key: str) -> _Joined:
    """Join the sampled completions and verdicts of two keys. Raises StoreError when the verdicts are of other texts."""
    verdicts, about = read_table(store, verdicts_key)
    completions, metadata = read_table(store, completions_key)
    content = content_hash(completions)
    if about["completions"] != content:
        raise StoreError(_other_completions(store, verdicts_key))
    sampled = [row for row in from_table(completions, Completion) if row.finish_reason != SKIPPED]
    rows = list(zip(sampled, verdicts_in(verdicts), strict=True))
    return _Joined(rows, content, identity(verdicts), metadata, "opens_reasoning" in about)


def _verdicts(store: Store, completions_key: str, verdicts_key: str) -> tuple[list[GradedCompletion], str, str]:
    """The verdicts of two keys, with the content hash of the completions and the verdicts' identity.

    Raises StoreError when the verdicts are of other texts.
    """
    verdicts = read_part(store, verdicts_key, columns=None)
    content = read_part(store, completions_key).content
    if verdicts.metadata["completions"] != content:
        raise StoreError(_other_completions(store, verdicts_key))
    return verdicts_in(verdicts.table), content, verdicts.content[:16]


def _other_completions(store: Store, key: str) -> str:
    return (
        f"{store.url}/{key}: its verdicts were made for other completions than the committed ones: run "
        f"`python -m rft_ray.store verify --repair {store.url}`, then the same command again"
    )

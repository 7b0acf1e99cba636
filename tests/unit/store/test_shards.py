"""Names of shards: what enters a fingerprint, what does not, and which generation of a shard counts."""

from __future__ import annotations

from dataclasses import replace

from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.store.names import committed_files, fingerprint_of, next_generation
from rft_ray.store.shards import Shard

SETTINGS = SamplingSettings(0.7, 1.0, 256, 4, "Q: {query}\nA:")
JOB = SamplingJob(ModelRef("m", "sft", "f" * 16), "p" * 16, 100, 50, SETTINGS, 8, 0)


def test_shard_names_never_change() -> None:
    """If this fails, the names of every committed file have changed: raise the stage's version only on purpose."""
    assert JOB.fingerprint == "654738b6eb401140"
    assert fingerprint_of("training", a=1, b=[None, "ü"]) == "e1042f56a9371a29"
    first = next(JOB.shards())
    assert first.key() == f"completions/{'p' * 16}/p000000/{JOB.fingerprint}.s00000.g0.parquet"


def test_a_job_has_every_sample_exactly_once() -> None:
    cells = [
        (problem, (shard.sample_block or 0) * 4 + i)
        for shard in JOB.shards()
        for problem in range(shard.problem_start, shard.problem_stop)
        for i in range(4)
    ]
    assert sorted(cells) == [(p, s) for p in range(100) for s in range(8)]
    assert len(cells) == JOB.planned


def test_raising_k_only_adds_shards() -> None:
    more = replace(JOB, samples_per_problem=16)
    assert {s.key() for s in JOB.shards()} < {s.key() for s in more.shards()}


def test_raising_the_limit_only_adds_shards() -> None:
    more = replace(JOB, problems=150)
    assert {s.key() for s in JOB.shards()} < {s.key() for s in more.shards()}


def test_renaming_a_model_keeps_its_samples() -> None:
    renamed = replace(JOB, model=replace(JOB.model, name="other"))
    assert renamed.fingerprint == JOB.fingerprint


def test_each_setting_that_decides_the_samples_changes_the_name() -> None:
    variants = [
        replace(JOB, settings=replace(SETTINGS, temperature=0.8)),
        replace(JOB, settings=replace(SETTINGS, top_p=0.9)),
        replace(JOB, settings=replace(SETTINGS, max_new_tokens=128)),
        replace(JOB, settings=replace(SETTINGS, samples_per_block=8)),
        replace(JOB, settings=replace(SETTINGS, prompt="{query}")),
        replace(JOB, settings=replace(SETTINGS, shots=8)),
        replace(JOB, settings=replace(SETTINGS, shots_from="a")),
        replace(JOB, settings=replace(SETTINGS, max_model_len=512)),
        replace(JOB, settings=replace(SETTINGS, engine="scripted")),
        replace(JOB, seed=1),
        replace(JOB, model=replace(JOB.model, fingerprint="0" * 16)),
        replace(JOB, problems_fingerprint="0" * 16),
    ]
    assert len({job.fingerprint for job in [JOB, *variants]}) == len(variants) + 1


def test_a_tombstone_voids_its_generation_only() -> None:
    shard = Shard("completions", "p", "f", 0, 0, 50, 1)
    keys = [shard.key(0), f"{shard.stem}.g0.tombstone"]
    assert committed_files(keys) == {}
    assert next_generation(shard.stem, keys) == 1
    assert committed_files([*keys, shard.key(1)]) == {(shard.stem, "parquet"): shard.key(1)}


def test_the_first_living_generation_counts_once() -> None:
    shard = Shard("completions", "p", "f", 0, 0, 50, 1)
    assert committed_files([shard.key(1), shard.key(0)]) == {(shard.stem, "parquet"): shard.key(0)}


def test_files_of_another_kind_are_not_shards() -> None:
    shard = Shard("completions", "p", "f", 0, 0, 50, 1)
    keys = [f"{shard.stem}.txt", f"{shard.stem}.gx.parquet"]
    assert (shard.stem, "parquet") not in committed_files(keys)

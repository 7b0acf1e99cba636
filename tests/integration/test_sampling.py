"""Several models in one stage with real engines: swapped engines sample as fresh ones do, closed ones free memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rft_ray import config
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.prompts import render_few_shot
from rft_ray.data.tiny import model_dir
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.runtime import actor_pool
from rft_ray.runtime.ray_cluster import uses_gpu
from rft_ray.sampling.engine import Answered, Request
from rft_ray.sampling.stage import pool_of, sample
from rft_ray.sampling.vllm_engine import VllmEngine
from rft_ray.store import Store, open_store, read_table
from rft_ray.store.models.committed import commit_model

pytestmark = pytest.mark.timeout(300)

PROBLEMS = in_order(generate(24, split="train", seed=3, steps=(1, 2)), 0)
SET = ProblemSet(tuple(PROBLEMS), 24, "6" * 16)
GREEDY = SamplingSettings(
    0.0, 1.0, 24, 1, "Question: {query}\nAnswer:", shots=3, shots_from=SET.fingerprint, max_model_len=512
)
"""Three worked examples fill several blocks of the prefix cache."""
ENGINE = config.Engine(kv_cache_gib=0.1, shards_in_flight=3, threads_per_actor=1)


def changed(source: Path, folder: Path, seed: int) -> Path:
    """A model of the same layout with other weights."""
    shutil.copytree(source, folder)
    chance, weights = torch.Generator().manual_seed(seed), load_file(source / "model.safetensors")
    for name, tensor in weights.items():
        noise = torch.randn(tensor.shape, generator=chance)
        weights[name] = (tensor + 0.3 * tensor.float().std() * noise).to(tensor.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def damaged(source: Path, folder: Path) -> Path:
    """A model whose files are complete, but which vLLM refuses because a tensor is missing."""
    changed(source, folder, 8)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def untied(source: Path, folder: Path) -> Path:
    """A model of the same sizes whose output layer is not tied to the embeddings."""
    changed(source, folder, 9)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass
class Texts:
    """Greedy completions of all problems by each model, and the process's MiB after each closing of an engine."""

    fresh: dict[str, list[str]]
    swapped: dict[str, list[str]]
    refused: bool
    resident: list[float]


def texts(answers: Sequence[Answered]) -> list[str]:
    return [answer.samples[0].text for answer in answers]


def say(engine: VllmEngine) -> list[str]:
    shots: Sequence[Problem] = PROBLEMS[: GREEDY.shots]
    requests = [Request(p, render_few_shot(GREEDY.prompt, p.question, shots), 0, 1) for p in PROBLEMS]
    return texts(engine.generate(requests, GREEDY))


def opened(folder: Path, gpu: bool, seed: int) -> VllmEngine:
    return VllmEngine(ENGINE, folder, max_model_len=GREEDY.max_model_len, gpu=gpu, seed=seed)


def with_engines(folders: dict[str, Path], other: Path, gpu: bool) -> Texts:
    """Sample all texts with fresh engines and with a swapped one, in a process with a sampler's environment."""
    import psutil

    fresh, swapped, resident = {}, {}, []

    def close(engine: VllmEngine) -> None:
        engine.close()
        resident.append(psutil.Process().memory_info().rss / 2**20)

    for name, folder in folders.items():
        engine = opened(folder, gpu, seed=1)
        fresh[name] = say(engine)
        close(engine)
    engine = opened(next(iter(folders.values())), gpu, seed=1)
    say(engine)  # its prefix cache now holds the prompts of the first model
    for name, folder in reversed(folders.items()):
        assert engine.swap(folder)
        swapped[name] = say(engine)
    refused = not engine.swap(other)
    close(engine)
    close(opened(other, gpu, seed=2))
    return Texts(fresh, swapped, refused, resident)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "a": changed(model_dir("tiny-s"), folder / "a", 0),
        "b": changed(model_dir("tiny-s"), folder / "b", 1),
        "damaged": damaged(model_dir("tiny-s"), folder / "damaged"),
        "other": untied(model_dir("tiny-s"), folder / "other"),
    }


def in_a_sampler(folders: dict[str, Path], gpu: bool) -> Texts:
    import ray

    tied = {name: folders[name] for name in ("a", "b")}
    run: Any = ray.remote(with_engines).options(
        num_cpus=1, num_gpus=int(gpu), runtime_env={"env_vars": pool_of(ENGINE, gpu, cores=1).env}
    )
    texts: Texts = ray.get(run.remote(tied, folders["other"], gpu))
    return texts


@pytest.fixture(scope="module")
def said(ray_cluster: str, folders: dict[str, Path]) -> Texts:
    return in_a_sampler(folders, gpu=False)


@pytest.mark.gpu
def test_a_swapped_engine_on_a_gpu_samples_the_same_texts_as_a_fresh_one(
    ray_cluster: str, folders: dict[str, Path]
) -> None:
    """With 0.9 of the GPU's memory for each, the second engine opens only when the first has freed its memory."""
    import ray

    if not uses_gpu("auto", ray.cluster_resources()):
        pytest.skip("no GPU here")
    on_gpu = in_a_sampler(folders, gpu=True)
    assert on_gpu.swapped == on_gpu.fresh


def test_a_swapped_engine_samples_the_same_texts_as_a_fresh_one(said: Texts) -> None:
    assert said.swapped == said.fresh


def test_the_models_sample_different_texts(said: Texts) -> None:
    assert sum(a == b for a, b in zip(said.fresh["a"], said.fresh["b"], strict=True)) < len(PROBLEMS) / 2


def test_a_model_of_another_layout_is_refused(said: Texts) -> None:
    assert said.refused


def test_a_closed_engine_frees_its_memory(said: Texts) -> None:
    kept = said.resident[-1] - said.resident[0]  # after three more engines
    assert kept < ENGINE.kv_cache_gib * 1024, said.resident


@dataclass
class Sampled:
    store: Store
    jobs: dict[str, SamplingJob]
    error: str

    def shards(self, name: str) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Rows and metadata of each of the model's shards."""
        tables = [
            read_table(self.store, key) for shard in self.jobs[name].shards() for key in self.store.list(shard.stem)
        ]
        return [(table.to_pylist(), metadata) for table, metadata in tables]


@pytest.fixture(scope="module")
def sampled(ray_cluster: str, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """One call for three models of two layouts, after one that does not exist and with a damaged one between."""
    store = open_store(str(tmp_path_factory.mktemp("run")))
    commit_problems(store, SET)
    jobs = {"gone": SamplingJob(ModelRef("gone", "sft", "0" * 16), SET.fingerprint, 24, 4, GREEDY, 1, 0)}
    for name, folder in folders.items():
        model = ModelRef(name, "sft", name.ljust(16, "0"))
        commit_model(store, model.fingerprint, folder, {})
        jobs[name] = replace(jobs["gone"], model=model)
    with pytest.raises(actor_pool.StageError) as error:
        sample(list(jobs.values()), store, ENGINE, run_seed=0)
    return Sampled(store, jobs, str(error.value))


@pytest.mark.parametrize("name", ["a", "b"])
def test_every_shard_is_sampled_by_its_own_model(sampled: Sampled, said: Texts, name: str) -> None:
    by_problem = dict(zip((problem.problem_id for problem in PROBLEMS), said.fresh[name], strict=True))
    rows = [row for rows, _ in sampled.shards(name) for row in rows]
    assert len(rows) == len(PROBLEMS)
    same = sum(row["text"] == by_problem[row["problem_id"]] for row in rows)
    assert same >= 0.9 * len(rows)  # vLLM is not batch-invariant, so a few texts may differ


def test_models_of_the_same_layout_share_an_engine_and_others_do_not(sampled: Sampled) -> None:
    """On a busy machine, shards of a second model may come in between; then an actor swaps models more often."""
    used = {
        name: {(engine["incarnation"], engine["seed"]) for engine in engines}
        for name in ("a", "b", "other")
        for engines in [[json.loads(data["engine"]) for _, data in sampled.shards(name)]]
    }
    assert used["a"] & used["b"]
    assert not used["other"] & (used["a"] | used["b"])
    seeds = {seed for engines in used.values() for _, seed in engines}
    assert len(seeds) == len(set().union(*used.values())), "two engines had one seed"


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_load_of_the_engine_is_recorded_with_its_shards(sampled: Sampled, name: str) -> None:
    """Of two shards that end in the same step, one has it."""
    loads = [json.loads(metadata["load"]) for _, metadata in sampled.shards(name) if "load" in metadata]
    assert max(load["running"] for load in loads) > 1
    assert 0 < max(load["kv_cache"] for load in loads) <= 1


def test_a_model_that_does_not_exist_is_named(sampled: Sampled) -> None:
    assert "sample gone (sft): " in sampled.error
    assert "0" * 16 in sampled.error
    assert len(sampled.error.splitlines()) == 1


def test_a_model_that_vllm_refuses_is_named_and_the_next_is_sampled(sampled: Sampled) -> None:
    assert "sample damaged (sft): " in sampled.error
    assert "model.norm.weight" in sampled.error


def test_every_loadable_model_is_sampled_completely(sampled: Sampled) -> None:
    counts = Counter({name: len(sampled.shards(name)) for name in sampled.jobs})
    assert counts == {"gone": 0, "a": 6, "b": 6, "damaged": 0, "other": 6}

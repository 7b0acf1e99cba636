"""GPUs are used where the cluster has some and the packages can: the demo's stages, and a driver's own Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.config import Config, load
from rft_ray.runtime import gpus
from rft_ray.runtime.ray_cluster import uses_gpu
from rft_ray.sampling.stage import pool_of

DEMO = Path(__file__).parents[3] / "jobs" / "configs" / "demo.yaml"
ONE_GPU, NO_GPU = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}


@pytest.fixture
def demo() -> Config:
    return load(DEMO, [])


def test_the_demo_samples_and_trains_on_a_gpu_where_the_cluster_has_one(demo: Config) -> None:
    assert uses_gpu(demo.training.device, ONE_GPU)
    assert demo.training.workers == 1
    pool = pool_of(demo.engine, uses_gpu(demo.engine.device, ONE_GPU), cores=2)
    assert (pool.min_actors, pool.max_actors, pool.gpus) == (1, 2, 1)  # which grows with the cluster's GPUs
    assert "OMP_NUM_THREADS" not in pool.env
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in pool.env  # the engine has a process of its own


def test_the_demo_without_a_gpu_has_an_engine_for_each_of_two_cores(demo: Config) -> None:
    assert not uses_gpu(demo.training.device, NO_GPU)
    pool = pool_of(demo.engine, uses_gpu(demo.engine.device, NO_GPU), cores=2)
    assert (pool.min_actors, pool.max_actors, pool.gpus) == (1, 2, 0)
    assert pool.env == {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENGINE_READY_TIMEOUT_S": "86400",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


@pytest.mark.parametrize(("torch", "options"), [("2.13.0+cpu", {"num_gpus": 0}), ("2.13.0", {})])
def test_a_rays_gpus_count_only_where_torch_can_use_them(
    torch: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "version", lambda package: torch)
    assert gpus.ray_options() == options


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("NoDevFiles", 0), ("1", 1), ("0, 1", 2), ("0,-1,1", 1), ("0,1,2,3", 2)]
)
def test_gpus_that_the_environment_hides_are_not_usable(
    visible: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / "nvidia0", folder / "nvidia1"]))
    monkeypatch.setattr(gpus, "version", lambda package: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.usable_gpus() == count


def test_a_machine_with_cpu_packages_has_no_usable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / "nvidia0", folder / "nvidia1"]))
    monkeypatch.setattr(gpus, "version", lambda package: "2.13.0+cpu")
    assert gpus.usable_gpus() == 0
    monkeypatch.setattr(gpus, "version", lambda package: "2.13.0")
    assert gpus.usable_gpus() == 2

"""Trainings that are broken off and go on: with other workers and ZeRO stages, and with LoRA; real processes, gloo."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import committed_model, fetch_model
from rft_ray.training.results import TrainingError
from tests.integration.resizing_driver import Run
from tests.integration.small_training import DATA, PLAIN, RECIPE, SETTINGS, TEMPLATE, Trained, filled, run, written_base
from tests.integration.test_training import kill_after_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ADAPTERS = RECIPE.model_copy(update={"lora_rank": 4})


def having(**changes: object) -> Training:
    return SETTINGS.model_copy(update=changes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    base = written_base(tmp_path_factory.mktemp("base"))
    return TrainingJob("tiny", "sft", PLAIN, str(base), DATA, RECIPE, TEMPLATE, 0)


def broken_off(job: TrainingJob, settings: Training, folder: Path) -> Path:
    """The work folder of a training whose worker was killed after a checkpoint."""
    store, left = filled(LocalStore(folder / "store")), folder / "left"
    killer = threading.Thread(target=kill_after_checkpoint, args=(store, PLAIN, left), daemon=True)
    killer.start()
    with pytest.raises(TrainingError, match="attempt 1 of 1 failed"):
        run(store, [job], settings.model_copy(update={"max_attempts": 1}))
    killer.join(60)
    return left


def gone_on(job: TrainingJob, settings: Training, left: Path, folder: Path) -> Trained:
    store = filled(LocalStore(folder / "store"))
    shutil.copytree(left, store.local_path(f"work/{PLAIN}"))
    return run(store, [job], settings)


def losses(trained: Trained) -> list[float]:
    return [point[1] for point in trained.training(PLAIN)["curve"]]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: str, plain: TrainingJob, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(filled(LocalStore(tmp_path_factory.mktemp("undisturbed") / "store")), [plain])


@pytest.fixture(scope="module", params=[2, 3])
def stage_and_left(
    request: pytest.FixtureRequest, ray_cluster: str, plain: TrainingJob, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """A ZeRO stage, and what a training of two workers with it leaves when it is broken off."""
    stage: int = request.param
    return stage, broken_off(plain, having(zero_stage=stage), tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_goes_on_with_as_many_workers_or_fewer(
    stage_and_left: tuple[int, Path], workers: int, plain: TrainingJob, undisturbed: Trained, tmp_path: Path
) -> None:
    stage, left = stage_and_left
    again = gone_on(plain, having(zero_stage=stage, workers=workers), left, tmp_path)
    record = again.results[PLAIN].record
    assert record.resumed_at_step > 0
    assert record.resumed_from == f"2 workers, ZeRO stage {stage}"
    assert losses(again) == pytest.approx(losses(undisturbed), rel=1e-3), "rounding alone sets them apart"


def test_a_training_of_one_worker_goes_on_with_two_and_another_stage(
    plain: TrainingJob, undisturbed: Trained, tmp_path: Path
) -> None:
    left = broken_off(plain, having(workers=1, zero_stage=1), tmp_path / "broken")
    again = gone_on(plain, having(), left, tmp_path / "again")
    assert again.results[PLAIN].record.resumed_from == "1 worker, ZeRO stage 1"
    assert losses(again) == pytest.approx(losses(undisturbed), rel=1e-3)


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_resume_and_change_the_linear_layers_alone(
    ray_cluster: str, stage: int, plain: TrainingJob, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    job, settings = replace(plain, recipe=ADAPTERS), having(zero_stage=stage)
    whole = run(filled(LocalStore(tmp_path / "whole")), [job], settings)
    again = gone_on(job, settings, broken_off(job, settings, tmp_path / "broken"), tmp_path / "again")
    assert again.results[PLAIN].record.resumed_at_step > 0
    assert losses(again) == losses(whole)
    assert losses(whole)[-1] < losses(whole)[0]
    assert again.weights(PLAIN) == whole.weights(PLAIN)
    (tmp_path / "merged.safetensors").write_bytes(whole.weights(PLAIN))
    before, after = load_file(Path(job.base) / "model.safetensors"), load_file(tmp_path / "merged.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


# --- Every ZeRO stage from every other, without Ray -----------------------------------------------

ROOT = Path(__file__).parents[2]
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, float32 sums": {"dtype": "bfloat16", "grad_accum_dtype": "float32"},
    "adapters": {"dtype": "float32", "lora_rank": 4},
    "adapters in bfloat16": {"dtype": "bfloat16", "lora_rank": 4},
}
COMMON = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 20, "max_tokens": 128, "weight_decay": 0.3}
STAGES = range(4)
CHANGES = [(before, after) for before in STAGES for after in STAGES if before != after]
SOME = [(0, 3), (1, 3), (2, 0), (3, 0), (3, 1), (3, 2)]
WITH_WORKERS = [(0, 3), (3, 0), (3, 1), (2, 3)]
NEAR = {"float32": 1e-6, "bfloat16": 2e-2}
"""Largest difference of a weight or a loss by rounding."""


@dataclass(frozen=True)
class Ended:
    losses: list[float]
    weights: dict[str, Any]
    record: dict[str, Any]

    def assert_near(self, other: Ended, near: float) -> None:
        assert self.losses == pytest.approx(other.losses, abs=near)
        assert self.weights.keys() == other.weights.keys()
        for name in self.weights:
            assert float((self.weights[name].float() - other.weights[name].float()).abs().max()) <= near, name


def driven(folder: Path, workers: int, runs: Sequence[Run]) -> None:
    """Let as many gloo ranks do these runs, one after another."""
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.integration.resizing_driver", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen([*command, str(rank), str(workers), str(port)], cwd=ROOT, env=env) for rank in range(workers)
    ]
    try:
        assert [rank.wait(timeout=840) for rank in ranks] == [0] * workers
    finally:
        for rank in ranks:
            rank.kill()


def ended(folder: Path, name: str) -> Ended:
    from safetensors.torch import load_file

    store = LocalStore(folder / "stores" / name)
    manifest = committed_model(store, PLAIN)
    assert manifest is not None
    record = manifest.metadata["training"]
    return Ended(
        [point[1] for point in record["curve"]], load_file(fetch_model(store, PLAIN) / "model.safetensors"), record
    )


@pytest.fixture(scope="module", params=KINDS)
def changed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind of training, and a folder with its runs: whole, broken off in every stage, and gone on in others.

    Two workers do them. In float32, one worker goes on as well, and two go on from what one left.
    """
    kind: str = request.param
    recipe, folder = {**COMMON, **KINDS[kind]}, tmp_path_factory.mktemp("changed")
    written_base(folder / "base", tied=True)
    whole = [Run(f"whole-{stage}", stage, recipe) for stage in STAGES]
    broken = [Run(f"from-{stage}", stage, recipe, broken_off=True) for stage in STAGES]
    driven(folder, 2, [*whole, *broken, *(Run(f"{a}-to-{b}", b, recipe, after=f"from-{a}") for a, b in changes(kind))])
    if kind == "float32":
        fewer = [Run(f"{a}-to-{b}-alone", b, recipe, after=f"from-{a}") for a, b in WITH_WORKERS]
        driven(folder, 1, [*fewer, *(replace(run, name=f"{run.name}-alone") for run in broken)])
        driven(folder, 2, [Run(f"{a}-alone-to-{b}", b, recipe, after=f"from-{a}-alone") for a, b in WITH_WORKERS])
    return kind, folder


def changes(kind: str) -> list[tuple[int, int]]:
    return CHANGES if kind == "float32" else SOME


def test_a_training_goes_on_in_another_stage(changed: tuple[str, Path]) -> None:
    kind, folder = changed
    near = NEAR[KINDS[kind]["dtype"]]
    for before, after in changes(kind):
        again = ended(folder, f"{before}-to-{after}")
        assert again.record["resumed_at_step"] == 2
        assert again.record["resumed_from"] == f"2 workers, ZeRO stage {before}"
        for stage in (before, after):
            again.assert_near(ended(folder, f"whole-{stage}"), near)


@pytest.mark.parametrize("changed", ["float32"], indirect=True)
@pytest.mark.parametrize(("before", "after"), WITH_WORKERS)
def test_the_stage_and_the_number_of_workers_change_together(
    changed: tuple[str, Path], before: int, after: int
) -> None:
    _, folder = changed
    for name, workers in ((f"{before}-to-{after}-alone", "2 workers"), (f"{before}-alone-to-{after}", "1 worker")):
        again = ended(folder, name)
        assert again.record["resumed_from"] == f"{workers}, ZeRO stage {before}"
        again.assert_near(ended(folder, f"whole-{before}"), NEAR["float32"])

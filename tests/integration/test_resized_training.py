"""Trainings that are broken off and go on: with other workers and ZeRO stages, and with LoRA; real processes, gloo."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store.backends.local import LocalStore
from rft_ray.training.results import TrainingError
from tests.integration.test_training import (
    DATA,
    PLAIN,
    RECIPE,
    SETTINGS,
    TEMPLATE,
    Trained,
    filled,
    kill_after_checkpoint,
    run,
    written_base,
)

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

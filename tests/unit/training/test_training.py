"""The driver's part of training: which errors end it, and their messages."""

from __future__ import annotations

import logging

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rft_ray.config import ALPACA, ConfigError, Recipe, Training
from rft_ray.corpus.builder import CorpusCounts
from rft_ray.pipeline import check_rows
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store.models.folder import ModelError
from rft_ray.training.results import TrainingError, TrainingProgress
from rft_ray.training.stage import _give_up_or_go_on, train

JOB = TrainingJob("tiny-s", "sft", "a" * 16, "tiny:tiny-s", "training/x.parquet", Recipe(), ALPACA, 0)


class GroupError(Exception):
    """The error that Ray Train raises: failures by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\n" + "a long stack\n" * 100)
        self.worker_failures = failures


def test_the_last_attempt_ends_in_one_line_that_names_job_attempts_and_cause() -> None:
    actor_death = RuntimeError("The actor died unexpectedly.\n\tpid: 4711\n\tnode: 127.0.0.1")
    death = WorkerHealthCheckFailedError("A worker health check failed.", actor_death)
    lost = ConnectionError("Connection closed by peer")
    with pytest.raises(TrainingError) as caught:
        _give_up_or_go_on(JOB, 3, 3, GroupError({0: lost, 1: death}))
    message = str(caught.value)
    assert message.startswith(
        "sft of tiny-s: attempt 3 of 3 failed: RuntimeError: The actor died unexpectedly. pid: 4711"
    )
    assert "\n" not in message


def test_a_failed_attempt_before_the_last_is_logged_and_training_continues(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _give_up_or_go_on(JOB, 1, 3, GroupError({0: MemoryError("out of memory")}))
    assert "sft of tiny-s: attempt 1 of 3 failed: MemoryError: out of memory" in caplog.text


@pytest.mark.parametrize("cause", [TrainingError("no example is left"), ModelError("no such folder")])
def test_an_error_that_every_attempt_would_meet_is_not_retried(cause: Exception) -> None:
    with pytest.raises(TrainingError, match=f"^sft of tiny-s: {cause}$"):
        _give_up_or_go_on(JOB, 1, 3, GroupError({0: ConnectionError("lost"), 1: cause}))


def test_an_error_outside_the_workers_is_reported_too() -> None:
    error = Exception("Training failed")
    error.controller_failure = TimeoutError("workers could not be placed")  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="TimeoutError: workers could not be placed"):
        _give_up_or_go_on(JOB, 1, 1, error)


def test_impossible_settings_are_refused_before_ray_starts(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="cannot share batch_size=128"):
        train([JOB], str(tmp_path), Training(workers=3))


def test_a_corpus_without_rows_is_refused_before_workers_start() -> None:
    check_rows([JOB], {JOB.data_key: CorpusCounts(0, 1, {"tiny-s": 1})})
    with pytest.raises(TrainingError, match=r"^sft of tiny-s: no example is left .* training/x.parquet has no rows"):
        check_rows([JOB], {JOB.data_key: CorpusCounts(0, 0, {})})


def test_progress_is_one_line() -> None:
    line = str(TrainingProgress("tiny-s", "sft", 10, 15, 0.52, 13529.4, 75.2))
    assert line == "sft tiny-s: step 10/15, loss 0.5200, 13,529 tokens/s, 1:15 left"

"""The training record in a model's manifest: what is read of it, also where an older version wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from rft_ray.training.results import TrainingRecord, TrainingResult, training_record

RECORD = TrainingRecord(
    examples=600,
    skipped_too_long=2,
    steps=2,
    tokens=69000,
    seconds=5.1,
    tokens_per_s=13529.4,
    final_loss=0.41,
    attempt="5f0c",
    curve=[[1, 0.93, 0.001], [2, 0.41, 0.0]],
    settings={"workers": 2},
    device="cpu",
    versions={"torch": "2.13.0"},
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert training_record(json.loads(json.dumps({"training": asdict(RECORD)}))) == RECORD


def test_a_record_of_another_version_is_read() -> None:
    stored = asdict(RECORD) | {"a_newer_key": 1}
    del stored["versions"], stored["device"], stored["ended_unix"]
    record = training_record({"training": stored})
    assert record is not None
    assert (record.tokens, record.versions, record.device, record.ended_unix) == (69000, {}, "", 0.0)


def test_a_user_is_told_of_skipped_examples_and_of_what_a_training_went_on_from() -> None:
    resumed = replace(RECORD, resumed_at_step=8, resumed_from="2 workers, ZeRO stage 3")
    here, earlier = (TrainingResult("tiny", "sft", "9c", resumed, committed_here) for committed_here in (True, False))
    assert list(here.notes()) == [
        "2 examples are longer than the limit and were skipped",
        "went on at step 8 from a checkpoint of 2 workers, ZeRO stage 3",
    ]
    assert len(list(earlier.notes())) == 1


def test_a_model_without_a_record_has_none() -> None:
    assert training_record({"model": "tiny-s"}) is None


def test_a_record_without_its_counts_is_refused() -> None:
    with pytest.raises(TypeError, match="'tokens'"):
        training_record({"training": {name: value for name, value in asdict(RECORD).items() if name != "tokens"}})

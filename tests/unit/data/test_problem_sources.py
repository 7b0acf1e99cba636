"""Problem sources by their names: files, the embedded generator, GSM8K."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.data.leaks import Overlap
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.problems import (
    prepare,
)
from rft_ray.data.row_files import DataError
from tests.unit.data.problem_rows import Write, row

# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gsm8k:dev", "GSM8K has no split 'dev': write gsm8k:train or gsm8k:test"),
        ("hub:openai/gsm8k", "write hub:<dataset>:<split>, as in hub:openai/gsm8k:train"),
        ("tiny:train", "write tiny:<split>:<count>"),
        ("tiny:train:0", "write tiny:<split>:<count>"),
        ("tiny:dev:10", "split 'dev': it must be one of train, test, pretrain"),
        ("tiny:train:10:1:4-2", "steps 4..2"),
        ("data.docx", "not a source of problems: write gsm8k:<split>"),
        ("s3://bucket/a b.jsonl", "bad store key 'a b.jsonl'"),
    ],
)
def test_a_malformed_source_is_refused_with_the_valid_forms(source: str, said: str) -> None:
    with pytest.raises(DataError) as refusal:
        load_problems(source)
    assert str(refusal.value).startswith(f"{source}: {said}")


def test_a_missing_file_is_refused_with_the_nearest_name(jsonl: Write) -> None:
    path = jsonl(row(1), name="train.jsonl")
    with pytest.raises(DataError, match=r"there is no such file; nearest file there: train\.jsonl"):
        load_problems(path.replace("train", "trian"))


def test_a_gsm8k_folder_without_the_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_GSM8K_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"RFT_GSM8K_DIR is .*, which has no test\.jsonl: correct or unset it"):
        load_problems("gsm8k:test")


# --- The embedded generator -----------------------------------------------------------------------


def test_a_tiny_source_gives_the_requested_number_of_problems() -> None:
    assert len({problem.problem_id for problem in load_problems("tiny:train:200")}) == 200


def test_seed_and_steps_of_a_tiny_source_change_its_problems() -> None:
    sources = ["tiny:train:50", "tiny:train:50:1", "tiny:train:50:0:1-2", "tiny:train:50:1-2"]
    plain, seeded, steps, steps_alone = (load_problems(source) for source in sources)
    assert plain != seeded
    assert plain != steps
    assert steps == steps_alone


# --- GSM8K ----------------------------------------------------------------------------------------


@pytest.fixture
def gsm8k() -> None:
    if not os.environ.get("RFT_GSM8K_DIR"):
        if os.environ.get("CI") == "true":
            pytest.fail("RFT_GSM8K_DIR is not set, and CI must test with GSM8K")
        pytest.skip("RFT_GSM8K_DIR is not set: give a folder with GSM8K's train.jsonl and test.jsonl")


@pytest.mark.usefixtures("gsm8k")
@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_all_of_gsm8k_is_read(split: str, count: int) -> None:
    assert len(load_problems(f"gsm8k:{split}")) == count


@pytest.mark.usefixtures("gsm8k")
def test_every_gold_answer_of_gsm8k_is_a_whole_number() -> None:
    answers = [problem.answer for problem in load_problems("gsm8k:train") + load_problems("gsm8k:test")]
    assert [answer for answer in answers if not answer.lstrip("-").isdigit()] == []


@pytest.mark.usefixtures("gsm8k")
def test_train_and_test_of_gsm8k_share_no_question() -> None:
    leaks = Overlap(load_problems("gsm8k:test"), 0.8).leaks(load_problems("gsm8k:train"))
    assert [leak for leak in leaks if leak.exact] == []


@pytest.mark.usefixtures("gsm8k")
def test_the_name_of_gsm8k_never_changes() -> None:
    assert prepare(config.ProblemSet(source="gsm8k:test"), 0, 50).fingerprint == "3d5f6070c702ad3d"

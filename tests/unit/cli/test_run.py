"""The command line of a run: invalid input ends with exit code 2 and one clear line, before Ray starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import ray

from rft_ray.cli.run import main
from rft_ray.data.tiny.generator import generate

CONFIG = str(Path(__file__).parents[3] / "jobs" / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when Ray is started."""

    def start(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", start)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Arguments that name two small valid files and a store."""
    for split in ("train", "test"):
        rows = [{"question": p.question, "answer": p.solution} for p in generate(20, split=split, seed=3, steps=(1, 2))]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--config",
        CONFIG,
        f"--problems.train.source={tmp_path}/train.jsonl",
        f"--problems.test.source={tmp_path}/test.jsonl",
        f"--run.store={tmp_path}/runs",
        "--problems.per_block=10",
    ]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) <= 3
    return error


def test_an_unknown_key_is_refused(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "sampling.temperature" in refused([*data, "--sampling.temprature=1"], capsys)


def test_a_missing_config_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml" in refused(["--config", "nowhere.yaml"], capsys)


def test_a_missing_data_file_is_refused(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.jsonl" in refused([*data, "--problems.train.source=/gone.jsonl"], capsys)


def test_a_malformed_row_is_named_by_its_line(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"question": "no answer"}\n')
    assert f"{tmp_path}/train.jsonl:21" in refused(data, capsys)


def test_an_empty_dataset_is_refused(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.jsonl").write_text("")
    assert "test.jsonl" in refused(data, capsys)


def test_an_unknown_tiny_model_is_refused_with_the_nearest_name(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tiny-m" in refused([*data, "--models=[{name: a, source: 'tiny:tiny-n'}]"], capsys)


def test_a_missing_model_folder_is_refused(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "/no/such/model" in refused([*data, "--models=[{name: a, source: /no/such/model}]"], capsys)


def test_a_store_that_cannot_be_written_is_refused(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused([*data, f"--run.store={tmp_path}/file"], capsys)


def test_dry_run_prints_plan_and_estimate_and_writes_nothing(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*data, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    # 3 models x (2 train blocks x 2 sample blocks + 2 test blocks x (sft + rft)) = 24
    assert "shards of completions: 24, missing: 24" in shown
    assert "samples_per_problem: 32" in shown
    assert "left: about" in shown
    assert not (tmp_path / "runs" / "demo" / "completions").exists()


def test_a_dry_run_shows_the_memory_of_the_card_that_is_named(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*data, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "host memory: about " in shown
    assert "memory of each" not in shown
    assert main([*data, "--dry-run", "--hardware.gpu=L4"]) == 0
    shown = capsys.readouterr().out
    assert "memory of each L4" in shown
    assert len(re.findall(r"^(sft|rft) tiny-\w .* fits$", shown, re.MULTILINE)) == 6
    assert "host memory" not in shown


def test_what_does_not_fit_the_card_is_refused_in_a_dry_run_and_at_the_start(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = ["--rft={epochs: 1, batch_size: 65536, max_tokens: 512}", "--training.micro_batch_size=65536"]
    arguments = [*data, *crowd, "--training.activation_checkpointing=off", "--hardware.gpu=L4"]
    assert "rft of tiny-l needs about" in refused([*arguments, "--dry-run"], capsys)
    assert "would fit: training." in refused(arguments, capsys)
    assert not (tmp_path / "runs" / "demo" / "run.json").exists()


def test_limit_is_rounded_up_to_whole_blocks(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*data, "--dry-run", "--limit", "3"]) == 0
    assert "shards of completions: 18" in capsys.readouterr().out

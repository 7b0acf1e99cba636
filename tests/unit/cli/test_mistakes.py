"""Mistakes on the command line: refused, or noted, before any work, in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import ray

from rft_ray.cli import grading, pairs, run, study
from rft_ray.cli.job import config_file
from rft_ray.data.tiny.generator import generate

CONFIG = str(Path(__file__).parents[3] / "jobs" / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when Ray is started; no cluster, no credentials, no instance that could give some."""

    def start(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", start)
    for name in [name for name in os.environ if name.startswith("AWS_")] + ["RAY_ADDRESS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def problem_file(path: Path, split: str, count: int = 20) -> str:
    rows = [{"question": p.question, "answer": p.solution} for p in generate(count, split=split, seed=3, steps=(1, 2))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return [
        CONFIG,
        f"--problems.train.source={problem_file(tmp_path / 'train.jsonl', 'train')}",
        f"--problems.test.source={problem_file(tmp_path / 'test.jsonl', 'test')}",
        f"--run.store={tmp_path}/runs",
        "--problems.per_block=10",
        "--models=[{name: a, source: 'tiny:tiny-xs'}]",
    ]


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    [line] = shown.err.splitlines()
    return line


def noted(data: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run.main([*data, "--dry-run"]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("note: ", "warning: "))]


def test_a_sound_dry_run_has_no_notes(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert noted(data, capsys) == []


@pytest.mark.parametrize("command", [run.main, study.main])
def test_the_training_file_as_test_file_is_refused_in_a_dry_run(
    command: type, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command([*data, f"--problems.test.source={tmp_path}/train.jsonl", "--dry-run"])
    shown = capsys.readouterr()
    assert code == 2
    assert "problems.test: 20 of its 20 questions are in problems.train too" in shown.err


@pytest.mark.parametrize("command", [run.main, study.main])
def test_refused_data_leaves_nothing_in_the_store(command: type, data: list[str], tmp_path: Path) -> None:
    assert command([*data, f"--problems.test.source={tmp_path}/train.jsonl"]) == 2
    assert not (tmp_path / "runs").exists()


def test_some_test_questions_in_train_are_warned_of_in_a_dry_run(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (tmp_path / "train.jsonl").read_text().splitlines()[0]
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(first + "\n")
    [line] = noted(data, capsys)
    assert line.startswith("warning: test questions in the training set: 1 exactly, ")


def test_gold_answers_that_the_papers_rules_misread_are_noted(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "train.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"question": f"Which share {number}?", "answer": answer}) + "\n"
            for number, answer in enumerate(["1/3", "1800.00", "50%", "9" * 400])
        )
    [line] = noted(data, capsys)
    assert line.startswith("note: problems.train: grading.mode=paper reads 1 gold answers wrongly, '1/3' as '1'")
    assert noted([*data, "--grading.mode=strict"], capsys) == []


def test_a_limit_that_is_rounded_up_is_noted(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert noted([*data, "--limit", "3"], capsys) == [
        "note: problems.train: limit 3 is rounded up to 10, whole blocks of problems (problems.per_block=10)"
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["--sft.lora_alpha=64"],
            "sft.lora_alpha has no effect with sft.lora_rank=0, but gives the models other names",
        ),
        (
            ["--corpus.normal_form=multiset", "--corpus.distinct_by=normalised_text"],
            "corpus.normal_form has no effect where equal paths share normalised_text (corpus.distinct_by), not "
            "equations",
        ),
        (
            ["--training.offload_optimizer=true", "--training.zero_stage=0", "--rft.dtype=bfloat16"],
            "training.offload_optimizer has no effect on sft: with sft.dtype=float32 it needs training.zero_stage=1 or "
            "more",
        ),
        (
            ["--evaluation.icl_shots=32"],
            "evaluation.icl_shots=32: the training set has 20 worked solutions, so that prompts show no more",
        ),
        (
            ["--models.0.shots=21"],
            "models.0.shots=21: the training set has 20 worked solutions, so that prompts show no more",
        ),
    ],
)
def test_a_setting_without_effect_is_noted(
    settings: list[str], line: str, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert noted([*data, *settings], capsys) == [f"note: {line}"]


def test_a_teachers_reasoning_that_would_be_graded_is_noted(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = "{name: b, source: 'openai:big', rft: false, endpoint: {key_env: null}}"
    data = [*data, f"--models=[{{name: a, source: 'tiny:tiny-xs'}}, {teacher}]"]
    assert noted([*data, "--corpus.reasoning_tags=[think, plan]"], capsys) == []
    [line] = noted([*data, "--corpus.reasoning_tags=[plan]"], capsys)
    assert line.startswith("note: models.1: reasoning that an endpoint gives apart is put between <think> and </think>")


def test_a_longer_context_than_the_models_is_refused(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [*data, "--sampling.max_model_len=513", "--dry-run"]
    assert run.main([*data, "--sampling.max_model_len=512", "--dry-run"]) == 0
    assert run.main(longer) == 2
    words = "sampling.max_model_len=513 is more than the context of tiny:tiny-xs, 512 tokens: lower it, or leave it out"
    assert words in capsys.readouterr().err
    assert run.main([*longer, "--engine.extra={hf_overrides: {max_position_embeddings: 1024}}"]) == 0
    assert run.main([*longer, "--sampling.engine=scripted"]) == 0
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert run.main(longer) == 0


def test_statuses_to_reject_add_up() -> None:
    given = ["runs/x", "--out", "p.jsonl", "--also-reject", "truncated", "--also-reject", "no_answer", "undecided"]
    assert pairs.arguments(given, "rft-ray pairs").also_reject == ["truncated", "no_answer", "undecided"]


def test_a_store_that_cannot_be_made_is_refused_in_a_dry_run(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    line = refused(run.main([*data, f"--run.store={tmp_path}/file", "--dry-run"]), capsys)
    assert line.endswith(f"cannot be made, since {tmp_path}/file is a file: choose another path")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is not writable" in refused(run.main([*data, "--dry-run"]), capsys)


def test_token_limits_that_fit_nothing_are_refused_or_noted(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = noted([*data, "--sampling.max_new_tokens=16"], capsys)
    assert line.startswith("note: sampling.max_new_tokens=16: about ")
    assert run.main([*data, "--rft.max_tokens=16", "--dry-run", "--prompt.template=" + 200 * "x" + "{query}"]) == 2
    assert "rft.max_tokens=16: no example fits" in capsys.readouterr().err
    lines = noted([*data, "--rft.max_tokens=20"], capsys)
    assert lines[0].startswith("note: rft.max_tokens=20: about ")


def test_absent_gpus_are_noted_in_a_dry_run(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rft_ray.cli.job.usable_gpus", lambda: 0)
    lines = noted([*data, "--engine.device=gpu", "--training.device=gpu", "--training.workers=2"], capsys)
    assert lines[0].startswith("note: engine.device=gpu needs 1 GPU, and this machine has none: ")
    assert lines[1].startswith("note: training.device=gpu needs 2 GPUs, and this machine has none: ")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_speculative_decoding_is_noted_where_engines_do_without(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("rft_ray.cli.job.usable_gpus", lambda: 0)
    speculative = "--engine.speculative={method: ngram, num_speculative_tokens: 2}"
    lines = noted([*data, speculative, f"--engine.device={device}"], capsys)
    assert lines[0].startswith("note: engine.speculative has no effect on CPUs")


@pytest.mark.parametrize(("name", "meant"), [("a100", "A100"), ("A100-80GB", "A100"), ("RTX-4090", "GeForce-RTX-4090")])
def test_a_type_of_card_that_ray_does_not_know_is_noted(
    name: str, meant: str, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = noted([*data, f"--engine.accelerator_type={name}"], capsys)
    assert line.startswith(f"note: engine.accelerator_type={name} is none of Ray's types of the cards in docs/cost.md")
    assert f"did you mean {meant}?" in line
    assert not noted([*data, f"--engine.accelerator_type={meant}"], capsys)


def test_more_gpus_than_heads_divide_by_are_refused(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*data, "--engine.tensor_parallel_size=3", "--dry-run"]) == 2
    line = capsys.readouterr().err
    assert "engine.tensor_parallel_size=3 cannot divide the 2 attention heads of tiny:tiny-xs evenly: use 1, 2;" in line


@pytest.mark.parametrize("settings", [["--engine.device=gpu"], ["--training.device=gpu"], ["--hardware.gpu=L4"]])
def test_a_config_for_gpus_is_estimated_for_gpus(
    settings: list[str], data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*data, *settings, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "GPU-hours" in shown
    assert "two CPU cores" not in shown
    assert run.main([*data, "--hardware.gpu=L4", "--engine.device=cpu", "--training.device=cpu", "--dry-run"]) == 0
    assert "two CPU cores" in capsys.readouterr().out


@pytest.mark.parametrize("command", [run, study])
def test_an_estimate_for_gpus_is_asked_of_a_dry_run_only(
    command: type, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([*data, "--gpu"])  # type: ignore[attr-defined]
    assert "--gpu belongs to --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["huggingface:some/base", "hf:some/base", "https://huggingface.co/some/base"])
def test_another_prefix_of_the_hub_suggests_a_valid_source(
    source: str, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(run.main([*data, f"--models=[{{name: a, source: '{source}'}}]", "--dry-run"]), capsys)
    assert "hub:some/base" in line.replace("huggingface:some", "")


def test_s3_without_credentials_is_one_line(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(run.main([*data, "--run.store=s3://some-bucket/x", "--dry-run"]), capsys)
    assert line.startswith("error: no S3 credentials for ")


def test_grade_checks_out_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = problem_file(tmp_path / "c.jsonl", "train", 3)
    line = refused(grading.main([file, "--gold", file, "--out", f"{file}/x.jsonl"]), capsys)
    assert line.endswith(f"since {file} is a file: choose another path")
    assert "is a folder: give a file in it" in refused(
        grading.main([file, "--gold", file, "--out", str(tmp_path)]), capsys
    )
    assert grading.main([file, "--gold", file, "--out", f"{tmp_path}/new/x.jsonl"]) == 0
    assert len((tmp_path / "new" / "x.jsonl").read_text().splitlines()) == 3


def test_grade_exits_with_2_on_input_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = problem_file(tmp_path / "c.jsonl", "train", 3)
    assert "no such file" in refused(grading.main([f"{tmp_path}/none.jsonl", "--gold", file]), capsys)
    other = problem_file(tmp_path / "d.jsonl", "test", 3)
    assert "no question of" in refused(grading.main([other, "--gold", file]), capsys)


def test_pairs_and_study_refuse_a_folder_as_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(pairs.main(["--run", "nowhere", "--out", str(tmp_path)]), capsys)
    assert line == f"error: --out {tmp_path} is a folder: give a file in it, as in {tmp_path}/result.jsonl"
    assert "--markdown" in refused(study.main(["study", "--markdown", str(tmp_path)]), capsys)


def test_out_is_written_below_the_home_folder_and_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = problem_file(tmp_path / "c.jsonl", "train", 3)
    assert grading.main([file, "--gold", file, "--out=~/made/x.jsonl"]) == 0
    assert not (tmp_path / "~").exists()
    (tmp_path / "latest.jsonl").symlink_to(tmp_path / "made" / "x.jsonl")
    (tmp_path / "made" / "x.jsonl").write_text("")
    assert grading.main([file, "--gold", file, "--out", "latest.jsonl"]) == 0
    assert (tmp_path / "latest.jsonl").is_symlink()
    assert len((tmp_path / "made" / "x.jsonl").read_text().splitlines()) == 3


def test_out_that_is_no_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As /dev/stdout, which would be replaced by a file."""
    os.mkfifo(tmp_path / "pipe")
    line = refused(pairs.main(["nowhere", "--out", f"{tmp_path}/pipe"]), capsys)
    assert line == (f"error: --out {tmp_path}/pipe is not a regular file: give the path of one, which is written whole")


def test_grade_does_not_replace_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = problem_file(tmp_path / "c.jsonl", "train", 3)
    before = (tmp_path / "c.jsonl").read_bytes()
    (tmp_path / "link").symlink_to(file)
    for out in (file, str(tmp_path / "link")):
        line = refused(grading.main([file, "--gold", "tiny:train:20:3:1-2", "--out", out]), capsys)
        assert line == f"error: --out {out} is a file that is read here: choose another one"
    assert (tmp_path / "c.jsonl").read_bytes() == before


def test_a_config_is_found_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the `~` of `--config=~/mine.yaml` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file("~/mine.yaml") == tmp_path / "mine.yaml"

"""`rft-ray tune`: what it would try, and what it refuses before it opens an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.cli import tune
from rft_ray.data.base_models import fingerprint
from rft_ray.data.tiny import model_dir
from rft_ray.store import Store

TINY = ["--problems.train.source=tiny:train:100", "--problems.test.source=tiny:test:10"]


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    return ["--config", "demo", *TINY, f"--run.store={tmp_path}/runs"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert tune.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    return line


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(
    run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*run, "--model", "tiny-m", "--prompts=20", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "20 prompts x 16 samples of tiny-m (its base's weights: the run has not fine-tuned it yet), on CPU, for 20 "
        "minutes at most",
        "first the config's own settings, then from the fastest:",
        "  max_num_seqs: 16, 32, 64, 128, 256 (own: 512)",
        "  max_num_batched_tokens: 4096, 8192, 16384 (own: null)",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_weights_are_those_that_the_run_has_committed(run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch_base(store: Store, source: str, fingerprint: str) -> Path:
        asked.append(f"{source} {fingerprint}")
        return model_dir("tiny-m")

    monkeypatch.setattr("rft_ray.data.base_weights.fetch_base", fetch_base)
    tune.prepare(*tune.arguments([*run, "--model=tiny-m"], "tune"))
    assert asked == [f"tiny:tiny-m {fingerprint('tiny:tiny-m')}"]


def test_the_prompts_are_spread_over_the_problems(run: list[str]) -> None:
    tuning = tune.prepare(*tune.arguments([*run, "--prompts=20", "--dry-run"], "tune"))
    everything = tune.prepare(*tune.arguments([*run, "--prompts=500"], "tune"))
    assert tuning.task.problems == everything.task.problems[::5]
    assert len(everything.task.problems) == 100


def test_asked_keys_replace_the_others(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*run, "--try", "extra.block_size=16,32", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["  extra.block_size: 16, 32 (own: null)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=tiny-q"], "no model 'tiny-q' samples in this config: use tiny-s, tiny-m, tiny-l"),
        (["--sampling.engine=scripted"], "not sampled by vLLM on this machine"),
        (["--try=max_seqs=3"], "has no key 'max_seqs'"),
        (["--try=max_num_seqs=0"], "engine.max_num_seqs=0: "),
        (["--try=speculative.num_speculative_tokens=2,4"], "engines on CPUs do without speculative decoding"),
        (["--engine.max_num_seq=3"], "max_num_seq"),
        (["--engine.device=gpu"], "an engine takes 1 GPUs"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    run: list[str],
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune, "usable_gpus", lambda: 0)
    assert message in refused([*run, *arguments], capsys)


@pytest.mark.parametrize(
    ("device", "gpus", "size", "expected"), [("auto", 0, 1, False), ("auto", 2, 2, True), ("cpu", 8, 1, False)]
)
def test_engines_get_gpus_where_this_machine_has_some(
    run: list[str], device: str, gpus: int, size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "usable_gpus", lambda: gpus)
    settings = [f"--engine.device={device}", f"--engine.pipeline_parallel_size={size}"]
    tuning = tune.prepare(*tune.arguments([*run, *settings], "tune"))
    assert tuning.task.gpu is expected
    assert ("kv_cache_dtype" in [axis.key for axis in tuning.varied]) is expected


def test_numbers_below_the_least_are_refused(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("--prompts=0", "--minutes=0", "--minutes=nan", "--minutes=inf"):
        with pytest.raises(SystemExit):
            tune.main([*run, wrong])
        assert "--prompts must be at least 1" in capsys.readouterr().err

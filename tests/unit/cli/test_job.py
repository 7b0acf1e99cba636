"""The parts that all jobs share: the config argument, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

import pytest
import ray

from rft_ray.cli.job import (
    CONFIGS,
    carry_out,
    check_engines_here,
    check_memory_here,
    config_file,
    parse,
    shipped_configs,
)
from rft_ray.cli.main import main
from rft_ray.config import ConfigError, load
from rft_ray.config.errors import InputError, RftError, RunError
from rft_ray.data.hub import HubError
from rft_ray.data.row_files import DataError
from rft_ray.pipeline import Incomplete
from rft_ray.plan import memory_plan
from rft_ray.runtime.actor_pool import StageError
from rft_ray.store import StoreError
from rft_ray.store.models.folder import ModelError
from rft_ray.training.results import TrainingError

INPUT_ERRORS = (ConfigError, DataError, ModelError, HubError)
RUN_ERRORS = (StoreError, StageError, TrainingError, Incomplete)


def parsed(*argv: str) -> tuple[str, list[str]]:
    options, settings = parse(argparse.ArgumentParser(), argv)
    return options.config, settings


def test_the_config_is_a_bare_word_at_any_place_or_an_option() -> None:
    assert parsed("demo", "--run.name=a") == ("demo", ["--run.name=a"])
    assert parsed("--run.name=a", "demo") == ("demo", ["--run.name=a"])
    assert parsed("--config", "demo", "--run.name=a") == ("demo", ["--run.name=a"])


@pytest.mark.parametrize("argv", [(), ("demo", "study"), ("--config", "demo", "study"), ("demo", "--run.name", "a")])
def test_no_config_or_several_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*argv)
    assert ended.value.code == 2


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_by_its_bare_name(name: str) -> None:
    assert config_file(name) == CONFIGS / f"{name}.yaml"
    assert load(config_file(name)).models


def test_a_path_is_used_unchanged(tmp_path: Path) -> None:
    assert config_file("demo.yaml") == Path("demo.yaml")
    assert config_file(f"{tmp_path}/demo") == tmp_path / "demo"


def test_an_unknown_name_lists_the_shipped_configs() -> None:
    with pytest.raises(ConfigError, match="smollm2, study"):
        config_file("dmo")


@pytest.mark.parametrize(
    ("settings", "cards", "checked"),
    [
        (["--hardware.gpu=null"], ["A100", "L4"], ["A100-80GB", "L4"]),
        ([], ["A100"], []),  # planned for an A100-80GB, and checked before
        ([], ["L4"], ["L4"]),  # planned for another card than the cluster's
        (["--engine.accelerator_type=A100"], ["A100", "L4"], []),  # engines stay off the L4
        (["--hardware.gpu=null"], [], []),
        (["--hardware.gpu=H100-NVL"], ["H100"], []),  # which Ray's name does not tell from an H100 with less memory
        (["--hardware.gpu=A100-40GB"], ["A100", "A40"], ["A40"]),
    ],
)
def test_the_cards_that_are_there_are_checked_whatever_card_is_planned(
    settings: list[str], cards: list[str], checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    resources = {f"accelerator_type:{name}": 1.0 for name in cards}
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(memory_plan, "check", lambda needed, card: seen.append(card.name))
    check_memory_here(load(config_file("qwen"), settings), lambda: None)
    assert seen == checked


def test_a_cache_with_which_engines_on_cpus_sample_noise_is_refused_where_the_ray_has_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load(config_file("demo"), ["--engine.kv_cache_dtype=int8_per_token_head"])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    check_engines_here(config)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ConfigError, match="on CPUs vLLM samples noise"):
        check_engines_here(config)


@pytest.mark.parametrize("error", INPUT_ERRORS + RUN_ERRORS)
def test_each_error_is_an_input_error_or_a_run_error(error: type[Exception]) -> None:
    kind = InputError if error in INPUT_ERRORS else RunError
    assert issubclass(error, kind)
    assert issubclass(error, ValueError if error in (ConfigError, DataError) else RuntimeError)


def fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", INPUT_ERRORS + RUN_ERRORS)
def test_an_error_before_the_work_exits_with_2(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(lambda: fails(error("the reason"))) == 2
    assert capsys.readouterr().err == "error: the reason\n"


@pytest.mark.parametrize("error", [error for error in INPUT_ERRORS + RUN_ERRORS if error is not ConfigError])
def test_an_error_in_the_work_exits_with_1(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(lambda: lambda: fails(error("the reason"))) == 1
    assert capsys.readouterr().err.startswith("error: the reason\ncommitted results are kept")


def test_a_config_that_does_not_fit_the_cluster_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(lambda: lambda: fails(ConfigError("too big for this card"))) == 2
    assert capsys.readouterr().err == "error: too big for this card\n"


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    assert carry_out(lambda: work) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_ctrl_c_before_the_work_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def prepare() -> None:
        raise KeyboardInterrupt

    assert carry_out(prepare) == 130
    assert capsys.readouterr().err == "stopped before the work began\n"


def test_a_path_that_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As a folder of another user, which only root may read."""
    assert carry_out(lambda: fails(PermissionError(errno.EACCES, "Permission denied", "/home/other/x"))) == 2
    assert "error: /home/other/x cannot be used (Permission denied): check the path" in capsys.readouterr().err
    long = 5000 * "x"
    assert main(["grade", f"{long}.jsonl", "--gold", "tiny:train:50"]) == 2
    assert main(["verify", f"{long}.jsonl", "--gold", "tiny:train:50", "--out", long]) == 2
    assert capsys.readouterr().err.count("File name too long") == 2


def test_a_defect_keeps_its_traceback() -> None:
    assert not issubclass(ZeroDivisionError, RftError)
    with pytest.raises(ZeroDivisionError):
        carry_out(lambda: lambda: fails(ZeroDivisionError()))
    with pytest.raises(OSError, match="no file"):
        carry_out(lambda: fails(OSError("no file")))

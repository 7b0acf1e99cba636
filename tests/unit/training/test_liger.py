"""When Liger kernels are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.config import Training
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import liger
from rft_ray.training.liger import choose
from rft_ray.training.results import TrainingError
from rft_ray.training.trainer import Group


def group(tmp_path: Path, setting: str, *, gpu: bool = True) -> Group:
    return Group("attempt", LocalStore(tmp_path), Training(liger=setting), gpu, None, 0, 0, 1)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liger, "PACKAGE", "json")


@pytest.mark.usefixtures("installed")
def test_they_are_used_on_gpus_for_tested_models(tmp_path: Path) -> None:
    assert choose(group(tmp_path, "auto"), "llama")
    assert choose(group(tmp_path, "on"), "qwen2")
    assert not choose(group(tmp_path, "off"), "llama")
    assert not choose(group(tmp_path, "auto"), "gpt2")
    assert not choose(group(tmp_path, "auto", gpu=False), "llama")


@pytest.mark.usefixtures("installed")
def test_on_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^training.liger=on: the kernels need a GPU: set it to auto or off$"):
        choose(group(tmp_path, "on", gpu=False), "llama")
    with pytest.raises(TrainingError, match="not tested for models of type 'gpt2'"):
        choose(group(tmp_path, "on"), "gpt2")


def test_without_the_package_on_is_refused_and_auto_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liger, "PACKAGE", "no_such_package")
    assert not choose(group(tmp_path, "auto"), "llama")
    with pytest.raises(TrainingError, match="the package liger-kernel is not installed"):
        choose(group(tmp_path, "on"), "llama")


def test_a_rank_without_the_package_stops_all_from_using_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liger, "PACKAGE", "json")
    monkeypatch.setattr(
        liger, "together", lambda group, what, act: [act(), "the package liger-kernel is not installed"]
    )
    assert not choose(group(tmp_path, "auto"), "llama")

"""Which optimizer a training runs, where its state is on the device and where it is in the host's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.config import Recipe, Training
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import cpu_adam, optimizers, transformers_private
from rft_ray.training.cpu_adam import CompileError
from rft_ray.training.optimizers import choose
from rft_ray.training.results import TrainingRecord, TrainingResult
from rft_ray.training.trainer import ADAMW, CPU_ADAM, FUSED, Group

RECIPE = Recipe(dtype="bfloat16")


def group(tmp_path: Path, *, gpu: bool = True, **settings: object) -> Group:
    made = Training().model_copy(update={"offload_optimizer": True, **settings})
    return Group("attempt", LocalStore(tmp_path), made, gpu, None, 0, 0, 1)


@pytest.fixture(autouse=True)
def operator(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The operators that are loaded; each node has one."""
    loaded: list[Path] = []
    optimizers._compiled.cache_clear()
    monkeypatch.setattr(cpu_adam, "compiled", lambda: Path("cpu_adam.so"))
    monkeypatch.setattr(transformers_private, "load_cpu_adam", loaded.append)
    return loaded


def test_a_state_on_the_device_has_pytorchs_optimizer(tmp_path: Path, operator: list[Path]) -> None:
    assert choose(group(tmp_path, offload_optimizer=False), RECIPE) == (FUSED, "")
    assert choose(group(tmp_path, gpu=False, offload_optimizer=False), RECIPE) == (ADAMW, "")
    assert not operator


def test_without_zero_there_is_nothing_to_offload(tmp_path: Path) -> None:
    float32 = RECIPE.model_copy(update={"dtype": "float32"})
    assert choose(group(tmp_path, zero_stage=0), float32) == (FUSED, "")
    assert choose(group(tmp_path, zero_stage=0), RECIPE) == (CPU_ADAM, "")  # bfloat16 has ZeRO 1 at the least


@pytest.mark.parametrize("gpu", [True, False])
def test_a_state_on_the_host_has_deepspeeds_optimizer(tmp_path: Path, operator: list[Path], gpu: bool) -> None:
    assert choose(group(tmp_path, gpu=gpu), RECIPE) == (CPU_ADAM, "")
    assert operator == [Path("cpu_adam.so")]


def test_where_it_does_not_compile_pytorchs_is_taken_and_the_reason_kept(
    tmp_path: Path, operator: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Path:
        tries.append(1)
        raise CompileError("there is no C++ compiler c++")

    tries: list[int] = []
    monkeypatch.setattr(cpu_adam, "compiled", refuse)
    for _ in range(2):
        assert choose(group(tmp_path), RECIPE) == (FUSED, "there is no C++ compiler c++")
    assert (operator, len(tries)) == ([], 1), "the next model asks again"


def test_where_it_does_not_load_pytorchs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> None:
        raise ImportError(f"{file}: undefined symbol")

    monkeypatch.setattr(transformers_private, "load_cpu_adam", refuse)
    assert choose(group(tmp_path), RECIPE) == (FUSED, "cpu_adam.so: undefined symbol")


def test_a_worker_without_an_operator_stops_all_from_using_it(
    tmp_path: Path, operator: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_another_node(group: Group, what: str, act: object) -> list[object]:
        own = act()  # type: ignore[operator]
        return [own, (1, None, "there is no C++ compiler c++") if isinstance(own, tuple) else ""]

    monkeypatch.setattr(optimizers, "together", with_another_node)
    assert choose(group(tmp_path), RECIPE) == (FUSED, "there is no C++ compiler c++")
    assert not operator


def notes(**record: str) -> list[str]:
    figures = {"examples": 1, "skipped_too_long": 0, "steps": 1, "tokens": 1, "seconds": 1.0, "tokens_per_s": 1.0}
    return list(TrainingResult("m", "sft", "9c", TrainingRecord(**figures, final_loss=1.0, **record), True).notes())


def test_the_user_reads_which_optimizer_ran_and_why() -> None:
    assert notes() == notes(optimizer=ADAMW) == notes(optimizer=FUSED) == []
    assert notes(optimizer=CPU_ADAM) == ["optimizer: DeepSpeed's CPU Adam, as its state is in the host's memory"]
    why = "there is no C++ compiler c++"
    (line,) = notes(optimizer=FUSED, optimizer_reason=why)
    assert line == f"optimizer: PyTorch's fused AdamW, not DeepSpeed's CPU Adam: {why}"

"""Short proofs on local disk and S3: no fault loses, repeats, invents or overwrites anything.

`python -m tests.chaos.proofs` runs the long ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rft_ray.store.backends import faults
from tests.chaos.proofs import kept, operations, pairs, real, singles
from tests.chaos.small_run import Outcome, outcome, run
from tests.chaos.table import Tally
from tests.s3server import s3_server


def sound(tally: Tally, least_faults: int) -> bool:
    return tally.sound and tally.faults >= least_faults


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder in /dev/shm where that exists, because a run syncs about two hundred times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield name


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Outcome]:
    """The number of operations of a run without faults, and its outcome."""
    url = str(tmp_path_factory.mktemp("free"))
    return operations(url), outcome(url)


def test_the_fault_free_run_has_every_planned_row(free: tuple[int, Outcome]) -> None:
    last, expected = free
    assert last > 50
    assert (expected.lost, expected.duplicated, expected.phantom) == (0, 0, 0)
    assert len([key for key in expected.files if key.startswith("paths/")]) == 2


def test_one_fault_at_any_operation_leaves_the_result_unchanged(folder: str, free: tuple[int, Outcome]) -> None:
    last, expected = free
    trials = [*singles(last, 40)]
    assert sound(kept(trials, folder, expected, 1), len(trials))


def test_two_faults_in_order_leave_the_result_unchanged(folder: str, free: tuple[int, Outcome]) -> None:
    last, expected = free
    assert sound(kept(pairs(last, 10, seed=5), folder, expected, 1), 16)


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_process_killed_or_stopped_at_any_operation_leaves_the_result_unchanged(
    folder: str, free: tuple[int, Outcome], kind: str
) -> None:
    last, expected = free
    plans = [f"{at}:{'before' if at % 2 else 'after'}:{kind}" for at in range(2, last, 35)]
    assert sound(real(folder, plans, expected), len(plans))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server.url("chaos")


@pytest.mark.s3
def test_on_s3_one_fault_leaves_the_result_unchanged(server: str, free: tuple[int, Outcome]) -> None:
    last, _ = free
    run(f"{server}/free")
    expected = outcome(f"{server}/free")
    assert expected.files == free[1].files
    trials = [*pairs(last, 1, seed=1), *([trial] for trial in ("40:http:lost", "60:http:503"))]
    assert sound(kept([tuple(trial) for trial in trials], server, expected, 1), 4)


def test_a_fault_plan_with_unknown_words_is_refused() -> None:
    for text in ("7", "7:after", "7:during:error", "7:after:503", "7:http:kill", "x:after:error"):
        with pytest.raises(ValueError, match=r"7|x|fault"):
            faults.parse(text)


def test_a_slow_store_delays_the_run_and_leaves_the_result_unchanged(folder: str, free: tuple[int, Outcome]) -> None:
    last, expected = free
    start = time.monotonic()
    with faults.injected("11:before:slow:3") as injection:
        run(f"{folder}/slow")
    assert time.monotonic() - start >= (last - 10) * 0.003
    assert injection.struck == []
    assert outcome(f"{folder}/slow").files == expected.files

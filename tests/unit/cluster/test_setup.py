"""`cluster/setup.sh`: what it installs and refuses, with a Python and tools that only record their calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


FAKE_PYTHON = """\
#!{bash}
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
  *version_info*) [[ -z ${{OLD:-}} ]] ;;
  *ensurepip*) [[ -z ${{NO_VENV:-}} ]] ;;
  *sysconfig*) [[ -z ${{NO_HEADERS:-}} ]] ;;
  *libnuma*) [[ -z ${{NO_NUMA:-}} ]] ;;
  '-m venv .venv') {mkdir} -p .venv/bin && {cp} "$0" .venv/bin/python ;;
  *--index-url*torch.lock*) [[ ${{NO_TORCH:-}} != anywhere ]] ;;
  *'pip install'*torch.lock*) [[ -z ${{NO_TORCH:-}} ]] ;;
  *'pip install'*'-e .')
    [[ -z ${{CUT:-}} ]] || {{ echo 'Installing collected packages: x'; {sleep} 0.5; kill -9 $PPID; }} ;;
  *) [[ -z ${{OLD:-}} ]] ;;
esac
"""
TOOLS = ("make", "g++", "cat", "sha256sum", "flock", "rm", "mkdir", "grep", "tail")


class SetUp:
    """A copy of the files that set-up reads, and a PATH that holds only chosen tools."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls = folder / "project", folder / "bin", folder / "calls"
        self.bin.mkdir()
        locks = (f"requirements/{name}.lock" for name in ("pip", "torch", "cpu", "gpu"))
        for name in ("cluster/setup.sh", "pyproject.toml", *locks):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(path_of(tool))
        names = {tool: path_of(tool) for tool in ("bash", "mkdir", "cp", "sleep")}
        (self.bin / "python3").write_text(FAKE_PYTHON.format(**names))
        (self.bin / "python3").chmod(0o755)

    def run(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run set-up with these options and variables, after emptying the interpreter's log."""
        self.calls.write_text("")
        fixed = {"PATH": str(self.bin), "CALLS": str(self.calls), "RFT_NVIDIA_ROOT": str(self.root.parent)}
        environment = fixed | variables
        command = [path_of("bash"), "cluster/setup.sh", *options]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    def add_gpu(self, driver: str | None) -> None:
        """Make the machine look as if it had a GPU, and this version of its driver or none."""
        folder = self.root.parent
        (folder / "dev").mkdir()
        (folder / "dev" / "nvidia0").touch()
        if driver:
            (folder / "proc/driver/nvidia").mkdir(parents=True)
            line = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Sep  4 17:00:00 UTC 2025\n"
            (folder / "proc/driver/nvidia/version").write_text(line)

    @property
    def installs(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if "pip install" in line]


def path_of(tool: str) -> str:
    path = shutil.which(tool)
    assert path is not None, f"{tool} is needed for this test"
    return path


@pytest.fixture
def setup(tmp_path: Path) -> SetUp:
    return SetUp(tmp_path)


@pytest.mark.parametrize(
    ("variables", "missing", "message"),
    [
        ({}, "python3", "Python 3.11 or newer is needed and was not found"),
        ({"OLD": "1"}, None, "Python 3.11 or newer is needed and was not found"),
        ({"OLD": "1", "PYTHON": "python3"}, None, "PYTHON=python3 is not a Python of version 3.11 or newer"),
        ({"PYTHON": "/nowhere/python"}, None, "PYTHON=/nowhere/python is not a Python"),
        ({"NO_VENV": "1"}, None, "lacks the module venv"),
        ({"NO_HEADERS": "1"}, None, "has no headers (Python.h)"),
        ({"NO_NUMA": "1"}, None, "apt-get install libnuma1"),
        ({}, "make", "make is needed and was not found"),
        ({}, "g++", "g++ is needed and was not found"),
    ],
)
def test_setup_names_a_missing_tool_before_it_creates_anything(
    setup: SetUp, variables: dict[str, str], missing: str | None, message: str
) -> None:
    if missing:
        (setup.bin / missing).unlink()
    done = setup.run(**variables)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (setup.root / ".venv").exists()


def test_setup_installs_torch_first_and_resolves_nothing(setup: SetUp) -> None:
    done = setup.run()
    assert done.returncode == 0, done.stderr
    pip, torch, locked, project = setup.installs
    assert pip.endswith("-r requirements/pip.lock")
    assert torch.endswith("-r requirements/torch.lock")
    assert "--index-url" not in torch
    assert locked.endswith("--build-constraint requirements/cpu.lock -r requirements/cpu.lock")
    assert all("--require-hashes" in install for install in (pip, torch, locked))
    assert "--no-build-isolation" not in locked  # DeepSpeed's build fails where it sees torch
    assert project.endswith("-e .")
    assert all("--no-deps" in install for install in setup.installs)


def test_a_second_setup_installs_nothing(setup: SetUp) -> None:
    setup.run()
    done = setup.run()
    assert done.returncode == 0
    assert setup.installs == []


def test_a_changed_lock_is_installed_into_the_same_environment(setup: SetUp) -> None:
    setup.run()
    with (setup.root / "requirements/cpu.lock").open("a") as handle:
        handle.write("another==1.0\n")
    setup.run()
    assert len(setup.installs) == 4
    assert "-m venv .venv" not in setup.calls.read_text().splitlines()


def test_a_setup_interrupted_while_unpacking_starts_again(setup: SetUp) -> None:
    assert setup.run(CUT="1").returncode != 0
    done = setup.run()
    assert done.returncode == 0
    assert "starting again" in done.stdout
    assert "-m venv .venv" in setup.calls.read_text().splitlines()


@pytest.mark.parametrize("options", [(), ("--gpu", "--force")])
@pytest.mark.parametrize("python", ["false", "true"])
def test_an_environment_that_something_else_made_is_left_as_it_is(
    setup: SetUp, options: tuple[str, ...], python: str
) -> None:
    """One of `uv venv`, which has no pip, and one that has."""
    (setup.root / ".venv/bin").mkdir(parents=True)
    (setup.root / ".venv/bin/python").symlink_to(path_of(python))
    (setup.root / ".venv/pyvenv.cfg").write_text("uv = 0.9\n")
    done = setup.run(*options)
    assert done.returncode == 1
    assert ".venv was not made by this set-up" in done.stderr
    assert "Move it away (mv .venv .venv.old), then run this again." in done.stderr
    assert (setup.root / ".venv/pyvenv.cfg").read_text() == "uv = 0.9\n"
    assert setup.installs == []


@pytest.mark.parametrize("marker", [".rft-unfinished", ".rft-lock-0123456789abcdef", ".rft-cpu"])
def test_an_environment_of_a_set_up_whose_interpreter_is_gone_is_made_anew(setup: SetUp, marker: str) -> None:
    (setup.root / ".venv/bin").mkdir(parents=True)
    (setup.root / ".venv" / marker).touch()
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert "-m venv .venv" in setup.calls.read_text().splitlines()


def test_packages_of_the_other_kind_replace_those_of_a_set_up_that_was_interrupted(setup: SetUp) -> None:
    """Before anything was unpacked: neither the stamp nor the mark of an unfinished environment is there."""
    assert setup.run("--cpu", NO_TORCH="anywhere").returncode == 1
    setup.add_gpu("580.65.06")
    done = setup.run("--gpu")
    assert done.returncode == 0, done.stderr


def test_torch_is_installed_from_pytorchs_index_only_when_pips_own_does_not_offer_it(setup: SetUp) -> None:
    done = setup.run(NO_TORCH="own")
    assert done.returncode == 0, done.stderr
    own, fallback = setup.installs[1:3]
    assert "--index-url" not in own
    assert "--index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 20" in fallback


def test_torch_that_no_index_offers_is_one_clear_error(setup: SetUp) -> None:
    done = setup.run(NO_TORCH="anywhere")
    assert done.returncode == 1
    assert "torch==2.13.0+cpu could not be installed" in done.stderr
    assert len(setup.installs) == 3


GPU_LOCK = "-r requirements/gpu.lock"


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, "no NVIDIA driver with a GPU is visible"),
        ("570.86.15", "the NVIDIA driver is version 570, and the packages need 580 or newer"),
    ],
)
def test_gpu_packages_are_refused_where_no_driver_runs_them_unless_forced(
    setup: SetUp, driver: str | None, message: str
) -> None:
    setup.add_gpu(driver)
    done = setup.run("--gpu")
    assert done.returncode == 1
    assert f"setup: --gpu: {message}" in done.stderr
    assert not (setup.root / ".venv").exists()
    done = setup.run("--gpu", "--force")
    assert done.returncode == 0, done.stderr
    assert setup.installs[1].endswith(GPU_LOCK)


@pytest.mark.parametrize("options", [("--gpus",), ("--force",), ("--cpu", "--gpu"), ("--cpu", "--force")])
def test_setup_refuses_options_that_say_nothing(setup: SetUp, options: tuple[str, ...]) -> None:
    done = setup.run(*options)
    assert done.returncode == 1
    assert "unknown option" in done.stderr
    assert setup.installs == []


def test_gpu_packages_are_installed_from_their_lock_alone(setup: SetUp) -> None:
    setup.add_gpu("580.65.06")
    done = setup.run("--gpu")
    assert done.returncode == 0, done.stderr
    pip, locked, project = setup.installs
    assert pip.endswith("-r requirements/pip.lock")
    assert locked.endswith(f"--build-constraint requirements/gpu.lock {GPU_LOCK}")
    assert "--require-hashes" in locked
    assert "--no-deps" in locked
    assert project.endswith("-e .")


def test_a_first_setup_takes_the_packages_that_the_machine_can_run(setup: SetUp) -> None:
    setup.add_gpu("581.1")
    setup.run()
    assert setup.installs[1].endswith(GPU_LOCK)


def test_an_old_driver_means_cpu_packages_and_is_said(setup: SetUp) -> None:
    setup.add_gpu("535.104.05")
    done = setup.run()
    assert "for CPUs, although there is a GPU: the NVIDIA driver is version 535" in done.stdout
    assert setup.installs[-2].endswith("-r requirements/cpu.lock")


def test_an_environment_stays_what_it_was_made_for_until_told_otherwise(setup: SetUp) -> None:
    setup.run("--cpu")
    setup.add_gpu("580.65.06")
    setup.run()
    assert setup.installs == []
    done = setup.run("--gpu")
    assert "replacing .venv, which has the packages for CPUs" in done.stdout
    assert setup.installs[1].endswith(GPU_LOCK)
    setup.run()
    assert setup.installs == []
    done = setup.run("--cpu")
    assert "replacing .venv, which has the packages for GPUs" in done.stdout
    assert setup.installs[-2].endswith("-r requirements/cpu.lock")


# --- the lock file

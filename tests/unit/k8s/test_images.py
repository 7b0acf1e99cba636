"""cluster/Dockerfile and the workflows are consistent with the manifests, the source tree and the pins.

Limits: what a container build does is not seen here.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.unit.k8s.tree import DOCKERFILE, ROOT, clusters, instructions, pinned_ray, pods, project, stages


def test_the_dockerfile_holds_only_instructions_that_a_builder_knows() -> None:
    steps = instructions(DOCKERFILE)
    assert {word for word, _ in steps} <= {"FROM", "RUN", "ENV", "COPY", "WORKDIR", "USER"}
    assert steps[0][0] == "FROM"
    for word, rest in steps:
        assert not rest.rstrip().endswith("\\"), f"{word} ends in a continuation: {rest[-60:]}"
        if word in {"COPY", "ENV", "RUN"}:
            assert shlex.split(rest), f"{word}: unbalanced quotes"


def test_every_run_instruction_is_a_shell_command() -> None:
    for word, rest in instructions(DOCKERFILE):
        if word == "RUN":
            parsed = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True, check=False)
            assert parsed.returncode == 0, f"{rest}\n{parsed.stderr}"


def test_the_lock_files_of_the_images_hold_the_projects_versions() -> None:
    cpu, gpu, torch = ((ROOT / "requirements" / f"{name}.lock").read_text() for name in ("cpu", "gpu", "torch"))
    assert set(re.findall(r"^torch==([\d.]+)", gpu, re.MULTILINE)) == set(re.findall(r"^torch==([\d.]+)", torch, re.M))
    assert f"\n{project()['optional-dependencies']['gpu'][0]} " in gpu
    assert f"\nray=={pinned_ray()} " in cpu
    assert f"\nray=={pinned_ray()} " in gpu


def test_every_build_stage_starts_from_an_earlier_stage_or_from_an_image_by_digest() -> None:
    earlier: set[str] = set()
    for base, name in stages(instructions(DOCKERFILE)):
        by_digest = re.fullmatch(r"\S+:\d+\.\d+\.\d+\S*@sha256:[0-9a-f]{64}", base)
        assert base in earlier or by_digest, f"{name} starts from {base}"
        earlier.add(name)
    assert {"cpu", "gpu"} <= earlier
    assert "# syntax=" not in DOCKERFILE.read_text()  # another image, which builds this one


@pytest.mark.parametrize(
    ("image", "locks"), [("cpu-build", ["pip.lock", "torch.lock", "cpu.lock"]), ("gpu-build", ["pip.lock", "gpu.lock"])]
)
def test_an_image_installs_only_files_whose_hashes_are_locked(image: str, locks: list[str]) -> None:
    steps, stage, installs = instructions(DOCKERFILE), "", []
    for word, rest in steps:
        stage = rest.split()[2] if word == "FROM" else stage
        if word == "RUN" and stage == image:
            installs.append(rest)
    *packages, project_itself = installs
    assert [Path(rest.split()[-1]).name for rest in packages] == locks
    assert all("--no-deps --require-hashes" in rest for rest in packages)
    assert project_itself.endswith("--no-deps --no-build-isolation /build")


def test_actions_are_pinned_by_commit() -> None:
    for path in sorted((ROOT / ".github").rglob("*.yml")):
        for used in re.findall(r"uses: (.+)", path.read_text()):
            assert used.startswith("./") or re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{path}: {used}"


def test_every_copy_has_a_source_that_reaches_the_builder() -> None:
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    known: set[str] = set()
    for word, rest in instructions(DOCKERFILE):
        if word == "FROM":
            known.add(rest.split()[2])
        elif word == "COPY":
            options = [part for part in rest.split() if part.startswith("--")]
            *sources, _ = (part for part in rest.split() if not part.startswith("--"))
            if options:
                assert options[0].removeprefix("--from=") in known
                continue
            for source in sources:
                assert (ROOT / source).exists(), f"COPY {source}: not in the tree"
                assert source.split("/")[0] in kept, f"COPY {source}: .dockerignore leaves it out"


def test_both_images_run_as_the_user_of_the_manifests() -> None:
    users: dict[str, str] = {}
    name = ""
    for word, rest in instructions(DOCKERFILE):
        if word == "FROM":
            name = rest.split()[2]
        elif word == "USER":
            users[name] = rest
    contexts = [pod["securityContext"] for _, cluster in clusters() for _, pod in pods(cluster)]
    assert {f"{context['runAsUser']}:{context['runAsGroup']}" for context in contexts} == {"1000:1000"}
    assert {users["cpu"], users["gpu"]} == {"1000:1000"}


def test_the_workdir_of_the_images_is_where_the_manifests_start() -> None:
    workdirs = {rest for word, rest in instructions(DOCKERFILE) if word == "WORKDIR"}
    containers = [container for _, cluster in clusters() for _, pod in pods(cluster) for container in pod["containers"]]
    assert workdirs == {container["workingDir"] for container in containers}

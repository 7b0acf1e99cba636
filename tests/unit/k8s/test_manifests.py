"""k8s/, jobs/configs/ and cluster/Dockerfile are consistent with KubeRay's schemas, the source tree and the pins.

The schemas are KubeRay's CRDs as their release ships them, in the folder RFT_CRD_DIR. Limits: what the operator
checks beyond its schema (CEL rules, its own validation) and what a container build does are not seen here.
"""

from __future__ import annotations

import ast
import copy
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from rft_ray import config
from serve.http import proxy_middleware

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = sorted((ROOT / "k8s").rglob("*.yaml"))
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
METADATA = {"name", "namespace", "labels", "annotations"}
"""The metadata fields that these manifests may have; the CRDs do not restrict an object's metadata."""


# --- Reading ---------------------------------------------------------------------------------------


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document is not None]


@cache
def crd_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) -> closed schema, of every version that the CRDs serve."""
    folder = os.environ.get("RFT_CRD_DIR", "")
    if not folder:
        reason = "RFT_CRD_DIR is unset: the folder with KubeRay's CRDs (ray.io_rayjobs.yaml and its siblings)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    schemas = {}
    for path in sorted(Path(folder).glob("ray.io_ray*.yaml")):
        [crd] = documents(path)
        group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
        for version in crd["spec"]["versions"]:
            if version["served"] and not version.get("deprecated", False):
                schemas[f"{group}/{version['name']}", kind] = closed(version["schema"]["openAPIV3Schema"])
    return schemas


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema that refuses what the API server would prune or reject."""
    result = {key: value for key, value in schema.items() if key in KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in result:
        types = result["type"]
        result["type"] = [*(types if isinstance(types, list) else [types]), "null"]
    if "items" in schema:
        result["items"] = closed(schema["items"])
    if "properties" in schema:
        result["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        result["additionalProperties"] = closed(extra)
    elif "properties" in schema and extra is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return result


KEPT = {"type", "enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}


def problems(document: dict[str, Any]) -> list[str]:
    """What the API server would refuse or drop, one `path: message` each."""
    identity = (document.get("apiVersion"), document.get("kind"))
    schema = crd_schemas().get(identity)  # type: ignore[arg-type]
    if schema is None:
        return [f"$: no CRD for {identity}; there are {sorted(crd_schemas())}"]
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]
    return errors + [f"$.metadata: unknown field {name!r}" for name in sorted(set(document["metadata"]) - METADATA)]


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


# --- The manifests against KubeRay's CRDs ----------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_document_satisfies_its_crd(path: Path) -> None:
    assert documents(path), f"{path} holds no document"
    assert [line for document in documents(path) for line in problems(document)] == []


def test_the_crds_are_those_that_the_manifests_need() -> None:
    assert {("ray.io/v1", "RayJob"), ("ray.io/v1", "RayService"), ("ray.io/v1", "RayCluster")} <= crd_schemas().keys()
    assert {document["kind"] for path in MANIFESTS for document in documents(path)} >= {"RayJob", "RayService"}


def test_the_checker_refuses_an_unknown_field_and_names_its_path() -> None:
    planted = manifest("RayJob")
    planted["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["tolerate"] = []
    [line] = problems(planted)
    assert line.startswith("$.spec.rayClusterSpec.workerGroupSpecs[0].template.spec:")
    assert "'tolerate'" in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("backoffLimit", "three", "is not of type 'integer'"),
        ("shutdownAfterJobFinishes", 1, "is not of type 'boolean'"),
        ("rayClusterSpec", {}, "'headGroupSpec' is a required property"),
    ],
)
def test_the_checker_refuses_a_wrong_type_and_a_missing_field(key: str, value: object, said: str) -> None:
    planted = manifest("RayJob")
    planted["spec"][key] = value
    [line] = problems(planted)
    assert line.startswith(f"$.spec.{key}:")
    assert said in line


def test_the_checker_refuses_a_value_outside_an_enum_and_takes_int_or_string() -> None:
    planted = manifest("RayJob")
    planted["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "none"
    head = planted["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["resources"]["limits"] = {"cpu": 4, "memory": "16Gi"}
    [line] = problems(planted)
    assert line.startswith("$.spec.rayClusterSpec.authOptions.mode: 'none' is not one of")
    head["resources"]["limits"]["cpu"] = True
    assert any("limits.cpu" in line for line in problems(planted))


def test_the_checker_refuses_an_unknown_kind_and_unknown_metadata() -> None:
    assert "no CRD" in problems({"apiVersion": "ray.io/v2", "kind": "RayJob"})[0]
    planted = manifest("RayService")
    planted["metadata"]["label"] = {}
    assert problems(planted) == ["$.metadata: unknown field 'label'"]


# --- What the manifests name ------------------------------------------------------------------------


def test_the_job_runs_a_script_and_a_config_of_the_tree() -> None:
    python, script, *arguments = shlex.split(manifest("RayJob")["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / script).is_file()
    path = ROOT / arguments[arguments.index("--config") + 1]
    overrides = [argument for argument in arguments if argument.startswith("--") and "=" in argument]
    assert config.load(path, overrides).run.store.startswith("s3://"), "pods share no disk"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads(path: Path) -> None:
    assert config.load(path).models


def test_the_cluster_can_grow_to_the_actors_of_its_config() -> None:
    settings = config.load(ROOT / "jobs" / "configs" / "k8s.yaml")
    groups = {group["groupName"]: group for group in manifest("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    gpus = int(limits["gpu"]["nvidia.com/gpu"])
    most = gpus * groups["gpu"]["maxReplicas"]
    assert settings.engine.device == settings.training.device == "gpu", "no GPU is there when the job starts"
    assert settings.engine.max_actors * settings.engine.tensor_parallel_size <= most
    assert settings.training.workers <= gpus, "training spans pods, over the network"
    assert settings.grading.actors <= int(limits["cpu"]["cpu"]) * groups["cpu"]["maxReplicas"]


def test_llama_and_k8s_describe_the_same_run() -> None:
    trees = [config.load(ROOT / "jobs" / "configs" / f"{name}.yaml").model_dump() for name in ("paper", "k8s")]
    for tree in trees:
        del tree["engine"], tree["training"], tree["run"]["store"]
    assert trees[0] == trees[1]


def test_serve_config_builds_an_application_of_the_tree() -> None:
    serve_config = yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"])
    assert serve_config["http_options"]["host"] == "0.0.0.0"
    for application in serve_config["applications"]:
        fields, required = builder_arguments(application["import_path"])
        assert set(application["args"]) <= fields
        assert required <= set(application["args"])


def test_serving_pods_have_keys_from_a_secret_and_the_proxys_middleware() -> None:
    spec = manifest("RayService")["spec"]["rayClusterConfig"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        [container] = pod["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert variables[proxy_middleware.VARIABLE] == proxy_middleware.IMPORT_PATH
        file = Path(str(variables["RFT_API_KEYS_FILE"]))
        [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == str(file.parent)]
        [volume] = [v for v in pod["volumes"] if v["name"] == mount["name"]]
        assert file.name in [item["path"] for item in volume["secret"]["items"]]
    for group in spec["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        assert "localhost:8000/readyz" in container["readinessProbe"]["exec"]["command"][-1]


def test_serve_config_holds_no_key_that_serve_would_ignore() -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    serve_config = yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(serve_config)
    assert set(serve_config) <= set(ServeDeploySchema.model_fields)
    assert set(serve_config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    for application in serve_config["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)


def builder_arguments(import_path: str) -> tuple[set[str], set[str]]:
    """All and the required fields of a builder's one annotated parameter, read without importing the module."""
    module, attribute = import_path.split(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    [builder] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == attribute]
    [parameter] = builder.args.args
    assert isinstance(parameter.annotation, ast.Name), f"{import_path}: annotate {parameter.arg} with its model"
    name = parameter.annotation.id
    [model] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    lines = [line for line in model.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    names = {line.target.id: line.value is None for line in lines if isinstance(line.target, ast.Name)}
    return set(names), {field for field, bare in names.items() if bare}


def test_images_and_ray_are_of_the_pinned_versions() -> None:
    version = project()["version"]
    targets = {name for _, name in stages(instructions(DOCKERFILE))}
    for where, cluster in clusters():
        assert cluster["rayVersion"] == pinned_ray(), where
        for _, pod in pods(cluster):
            for container in pod["containers"]:
                name, tag = container["image"].rsplit(":", 1)
                assert name.endswith("/rft-ray")
                assert tag.rpartition("-")[0] == version, f"{where}: {container['image']}"
                assert tag.rpartition("-")[2] in targets


def test_every_cluster_requires_a_token_and_scales_from_its_minimum() -> None:
    for where, cluster in clusters():
        assert cluster["authOptions"] == {"mode": "token"}, where
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert {group["minReplicas"] for group in manifest("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]} == {0}


def test_no_container_runs_as_root_or_gains_privileges() -> None:
    for where, cluster in clusters():
        for group, pod in pods(cluster):
            assert pod["securityContext"]["runAsNonRoot"] is True, f"{where}: {group}"
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False, f"{where}: {group}"
                assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
                assert container["resources"]["limits"] == container["resources"]["requests"]


def test_every_mount_has_its_volume() -> None:
    for where, cluster in clusters():
        for group, pod in pods(cluster):
            volumes = {volume["name"] for volume in pod["volumes"]}
            mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            assert mounts == volumes, f"{where}: {group}"


def test_the_readme_explains_every_secret_and_placeholder() -> None:
    text = "\n".join(path.read_text() for path in MANIFESTS)
    readme = (ROOT / "k8s" / "README.md").read_text()
    secrets = set(re.findall(r"(?:secretKeyRef: \{name|secretName): ([a-z0-9-]+)", text))
    assert secrets == set(re.findall(r"create secret generic ([a-z0-9-]+)", readme))
    explained = set(re.findall(r"^\| `([A-Z]+)`", readme, re.MULTILINE))
    assert set(re.findall(r"\b(?:OWNER|BUCKET|RUN)\b", text)) == explained


# --- cluster/Dockerfile -----------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) with comments dropped and continued lines joined, as a builder reads them."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined)]


def stages(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(base, name) of every build stage, in order."""
    return [(rest.split()[0], rest.split()[2]) for word, rest in steps if word == "FROM"]


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


def test_the_images_pin_the_projects_versions() -> None:
    text = DOCKERFILE.read_text()
    torch = (ROOT / "requirements" / "torch.lock").read_text()
    assert set(re.findall(r"torch==([\d.]+)", text)) == set(re.findall(r"torch==([\d.]+)", torch))
    assert set(re.findall(r"vllm==([\d.]+)", text)) == {project()["optional-dependencies"]["gpu"][0].partition("==")[2]}
    assert f"\nray=={pinned_ray()} " in (ROOT / "requirements" / "cpu.lock").read_text()


def test_every_build_stage_starts_from_an_earlier_stage_or_from_an_image_by_digest() -> None:
    earlier: set[str] = set()
    for base, name in stages(instructions(DOCKERFILE)):
        by_digest = re.fullmatch(r"\S+:\d+\.\d+\.\d+\S*@sha256:[0-9a-f]{64}", base)
        assert base in earlier or by_digest, f"{name} starts from {base}"
        earlier.add(name)
    assert {"cpu", "gpu"} <= earlier
    assert "# syntax=" not in DOCKERFILE.read_text()  # another image, which builds this one


def test_the_cpu_image_installs_only_files_whose_hashes_are_locked() -> None:
    steps, stage, installs = instructions(DOCKERFILE), "", []
    for word, rest in steps:
        stage = rest.split()[2] if word == "FROM" else stage
        if word == "RUN" and stage == "cpu-build":
            installs.append(rest)
    *packages, project_itself = installs
    assert [Path(rest.split()[-1]).name for rest in packages] == ["pip.lock", "torch.lock", "cpu.lock"]
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

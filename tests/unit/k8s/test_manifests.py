"""k8s/ and jobs/configs/ are consistent with KubeRay's schemas, the source tree and the pins.

The schemas are KubeRay's CRDs as their release ships them, in the folder RFT_CRD_DIR. Limits: what the operator
checks beyond its schema (CEL rules, its own validation) is not seen here.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from rft_ray import config
from serve.http import proxy_middleware
from tests.unit.k8s.tree import (
    DOCKERFILE,
    MANIFESTS,
    ROOT,
    clusters,
    documents,
    instructions,
    manifest,
    pinned_ray,
    pods,
    project,
    stages,
)

CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
METADATA = {"name", "namespace", "labels", "annotations"}
"""The metadata fields that these manifests may have; the CRDs do not restrict an object's metadata."""


# --- Reading ---------------------------------------------------------------------------------------


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

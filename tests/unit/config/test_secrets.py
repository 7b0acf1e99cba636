"""No credential is in a run's files or messages; nothing in a run's directory is executed when it is read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rft_ray.config import ConfigError, load
from rft_ray.store import StoreError, open_store, read_table
from tests.chaos.small_run import run

ROOT = Path(__file__).parents[3]
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA7SECRETID0000000",
    "AWS_SECRET_ACCESS_KEY": "7secretkey0000000000000000000000000000wxyz",
    "AWS_SESSION_TOKEN": "7secretsession00000000",
    "RAY_AUTH_TOKEN": "7secretray000000000000",
    "HF_TOKEN": "hf_7secrethub000000000",
}
EXECUTES = {"eval", "exec", "pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_no_credential_is_in_a_store_or_its_config(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(str(tmp_path))
    store = open_store(str(tmp_path))
    config = load(ROOT / "jobs/configs/demo.yaml", [f"--run.store={tmp_path}"])
    store.replace("config.yaml", config.to_yaml().encode())
    kept = [store.read(key) for key in store.list()]
    tables = [read_table(store, key) for key in store.list() if key.endswith(".parquet")]
    kept += [repr((table.to_pylist(), metadata)).encode() for table, metadata in tables]
    printed = "".join(capfd.readouterr()).encode()
    assert len(kept) > 30
    assert not [name for name, secret in SECRETS.items() for data in (*kept, printed) if secret.encode() in data]


@pytest.mark.parametrize("endpoint", ["http://user:7secretword@127.0.0.1:9", "no-url-7secretword"])
def test_no_credential_is_in_an_error(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(StoreError) as error:
        open_store("s3://bucket/prefix").check()
    message = str(error.value)
    assert not [secret for secret in SECRETS.values() if secret in message]
    assert "user:7secretword" not in message


def test_a_store_url_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(StoreError) as error:
        open_store("s3://AKIA7:secretword@bucket/prefix")
    assert "secretword" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "run.store=s3://AKIA7:secretword@bucket/prefix",
        "problems.train.source=https://user:secretword@host/train.jsonl",
        "models.0.source=s3://AKIA7:secretword@bucket/model",
    ],
)
def test_a_config_with_credentials_is_refused_and_not_repeated(override: str) -> None:
    with pytest.raises(ConfigError, match="credentials come from the environment") as error:
        load(ROOT / "jobs/configs/demo.yaml", [override])
    assert "secretword" not in str(error.value)


def names_of(tree: ast.AST) -> set[str]:
    """Modules imported and functions called by name, anywhere in a module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.add(node.func.id)
        elif isinstance(node, ast.Call) and "weights_only=True" not in map(ast.unparse, node.keywords):
            names.add(ast.unparse(node.func))
    return names


def test_no_module_unpickles_or_executes_the_data_it_reads() -> None:
    """Resume checkpoints, which transformers and DeepSpeed read, are loaded only where their hashes match.

    `grading/code_tests.py` executes code, in a sandbox: it is what the verifier `python` is for.
    """
    for path in [*(ROOT / "rft_ray").rglob("*.py"), *(ROOT / "serve").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        names = names_of(ast.parse(path.read_text()))
        if path == ROOT / "rft_ray/grading/code_tests.py":
            names -= {"exec"}
        assert not names & (EXECUTES | {"torch.load", "yaml.load", "yaml.unsafe_load", "numpy.load", "np.load"}), path


def test_the_search_for_executed_data_finds_it() -> None:
    for code in ("import pickle", "from joblib import load", "x = eval(y)", "import torch\ntorch.load('a')"):
        assert names_of(ast.parse(code)) & (EXECUTES | {"torch.load"})

"""Problems and models on S3, and a run's models in an S3 store, with a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import pytest

from rft_ray.data.base_models import resolve
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.row_files import DataError
from rft_ray.store import Store, StoreError, open_store
from rft_ray.store.models.committed import commit_model, fetch_model
from rft_ray.store.models.folder import ModelError
from tests.s3server import BUCKET, S3Server, s3_server
from tests.unit.store.test_models import FINGERPRINT, model_files, write_model

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def store(server: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """An empty prefix of the server's bucket, and an empty cache."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**server.environment(), "RFT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return open_store(server.url(request.node.name.replace("[", "/").rstrip("]")))


def put(store: Store, name: str, content: bytes) -> None:
    """Write an object and replace an existing one, which a store never does."""
    key = f"{store.url}/{name}".removeprefix(f"s3://{BUCKET}/")
    boto3.session.Session().client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)


def put_model(store: Store, weight: float) -> None:
    for name, content in model_files(weight).items():
        put(store, name, content)


def test_problems_are_read_from_s3(store: Store) -> None:
    put(store, "data.jsonl", json.dumps({"question": "Why?", "answer": "So.\n#### 1"}).encode())
    assert [problem.answer for problem in load_problems(f"{store.url}/data.jsonl")] == ["1"]


def test_a_bad_row_on_s3_is_refused_with_object_and_line(store: Store) -> None:
    put(store, "data.jsonl", b"\n{}")
    with pytest.raises(DataError, match=f"^{store.url}/data.jsonl:2: no 'question'"):
        load_problems(f"{store.url}/data.jsonl")


def test_a_missing_problem_file_on_s3_is_named(store: Store) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl: there is no such object"):
        load_problems(f"{store.url}/data.jsonl")


def test_a_model_on_s3_is_copied_into_the_cache(store: Store) -> None:
    put_model(store, 1.0)
    put(store, "optimizer/state.pt", b"a pickle")
    put(store, "training_args.bin", b"a pickle")
    assert {path.name: path.read_bytes() for path in resolve(store.url).iterdir()} == model_files(1.0)


def test_a_changed_model_of_the_same_size_on_s3_is_copied_again(store: Store) -> None:
    put_model(store, 1.0)
    before = resolve(store.url)
    put_model(store, 2.0)
    assert (resolve(store.url) / "model.safetensors").read_bytes() == model_files(2.0)["model.safetensors"]
    assert (before / "model.safetensors").read_bytes() == model_files(1.0)["model.safetensors"]


def test_a_missing_model_on_s3_is_named(store: Store) -> None:
    with pytest.raises(ModelError, match=f"^{store.url}: no config.json there"):
        resolve(store.url)


def test_an_unreachable_s3_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="out of reach"):
        resolve(open_store(store.url).url)


def test_a_committed_model_is_fetched_into_the_cache(store: Store, tmp_path: Path) -> None:
    commit_model(store, FINGERPRINT, write_model(tmp_path / "model"), {})
    fetched = fetch_model(store, FINGERPRINT)
    assert fetched.is_relative_to(tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == model_files()


def test_a_damaged_object_of_a_committed_model_is_named(store: Store, tmp_path: Path) -> None:
    commit_model(store, FINGERPRINT, write_model(tmp_path / "model"), {})
    weights = next(key for key in store.list() if key.endswith(".safetensors"))
    put(store, weights, store.read(weights)[:-1] + b"!")
    with pytest.raises(ModelError, match=r"model\.safetensors in .* is damaged \(its content is not"):
        fetch_model(store, FINGERPRINT)


def test_a_damaged_copy_in_the_cache_is_fetched_again(store: Store, tmp_path: Path) -> None:
    commit_model(store, FINGERPRINT, write_model(tmp_path / "model"), {})
    copy = fetch_model(store, FINGERPRINT) / "model.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    assert (fetch_model(store, FINGERPRINT) / "model.safetensors").read_bytes() == model_files()["model.safetensors"]

"""Model sources and committed models, on folders of a few bytes: nothing here loads torch."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from rft_ray.data.base_models import resolve
from rft_ray.data.tiny import model_dir
from rft_ray.store import Store, commit_table, open_store, repair
from rft_ray.store.models import hashes
from rft_ray.store.models.cache import cached
from rft_ray.store.models.committed import commit_model, committed_model, fetch_model
from rft_ray.store.models.folder import ModelError, check_complete, files_fingerprint
from rft_ray.store.tables import noted

FINGERPRINT = "0123456789abcdef"


def model_files(weight: float = 1.0) -> dict[str, bytes]:
    """Name -> content of the smallest folder that counts as a model."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": save({"weight": np.full(4, weight, np.float32)}),
        "tokenizer.json": b"{}",
    }


def write_model(folder: Path, weight: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    for name, content in model_files(weight).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- Sources --------------------------------------------------------------------------------------


def test_a_complete_local_folder_is_used_unchanged(folder: Path) -> None:
    assert resolve(str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "lacks config.json"),
        ("model.safetensors", "lacks *.safetensors"),
        ("tokenizer.json", "lacks tokenizer.json or tokenizer.model or vocab.json"),
    ],
)
def test_a_folder_without_one_of_a_models_files_is_refused(folder: Path, name: str, said: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError) as refusal:
        resolve(str(folder))
    assert f"{folder}: {folder} {said}: give a folder as save_pretrained" in str(refusal.value)


def test_a_shard_that_the_index_lists_must_be_there(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        resolve(str(folder))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_torn_weights_are_refused_by_name(folder: Path, content: bytes | None) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated, or no safetensors file"):
        resolve(str(folder))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_refused_by_name(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{parent}/modle", "there is no such folder; nearest folder there: model"),
        ("HuggingFaceTB/SmolLM2-135M", "for other sources write hub:HuggingFaceTB/SmolLM2-135M"),
        ("bse", "in sample_from: sft, base or a source, no name"),
        ("hubb:a/b", "nearest kind of source: hub:a/b"),
        ("tiny:tiny-z", "the shipped models are tiny-xs, tiny-s, tiny-m, tiny-l, tiny-s-25"),
        ("package:no-such-package", "the package 'no-such-package' is not installed here: pip install no-such-package"),
        ("package:pyyaml", "the package must carry one .gguf file, found 0"),
    ],
)
def test_a_missing_model_is_named_with_what_to_do(folder: Path, source: str, said: str) -> None:
    source = source.format(parent=folder.parent)
    with pytest.raises(ModelError) as refusal:
        resolve(source)
    assert str(refusal.value).startswith(f"{source}: ")
    assert said in str(refusal.value)


# --- Fingerprints ---------------------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    assert files_fingerprint(folder) == files_fingerprint(write_model(tmp_path / "elsewhere"))


def test_the_fingerprint_of_given_files_never_changes(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(name.encode())
    assert files_fingerprint(tmp_path) == "925acfc900681b39"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_change_of_a_models_file_changes_the_fingerprint(folder: Path, name: str) -> None:
    before = files_fingerprint(folder)
    with open(folder / name, "ab") as file:
        file.write(b" ")
    assert files_fingerprint(folder) != before


@pytest.mark.parametrize("name", ["README.md", "pretraining.json", "training_args.bin"])
def test_other_files_do_not_enter_the_fingerprint(folder: Path, name: str) -> None:
    before = files_fingerprint(folder)
    (folder / name).write_text("anything")
    assert files_fingerprint(folder) == before


# --- Committed models -----------------------------------------------------------------------------


def test_a_committed_model_is_fetched_with_the_same_content(store: Store, folder: Path) -> None:
    assert commit_model(store, FINGERPRINT, folder, {"loss": 0.25})
    fetched = fetch_model(store, FINGERPRINT)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == model_files()


def test_the_manifest_records_files_and_metadata(store: Store, folder: Path) -> None:
    commit_model(store, FINGERPRINT, folder, {"loss": 0.25, "steps": [1, 2]})
    manifest = committed_model(store, FINGERPRINT)
    assert manifest is not None
    assert manifest.metadata == {"loss": 0.25, "steps": [1, 2]}
    assert {name: entry.bytes for name, entry in manifest.files.items()} == {
        name: len(content) for name, content in model_files().items()
    }


def test_only_a_models_files_are_committed(store: Store, folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-10").mkdir()
    commit_model(store, FINGERPRINT, folder, {})
    assert sorted(path.name for path in fetch_model(store, FINGERPRINT).iterdir()) == sorted(model_files())


def test_the_first_commit_wins(store: Store, folder: Path, tmp_path: Path) -> None:
    late = write_model(tmp_path / "late", weight=2.0)
    assert commit_model(store, FINGERPRINT, folder, {"by": "first"})
    assert not commit_model(store, FINGERPRINT, late, {"by": "second"})
    assert (fetch_model(store, FINGERPRINT) / "model.safetensors").read_bytes() == model_files()["model.safetensors"]


def _commit(url: str, folder: Path, who: int) -> bool:
    return commit_model(open_store(url), FINGERPRINT, folder, {"by": who})


def test_exactly_one_of_concurrent_commits_wins_and_is_complete(store: Store, tmp_path: Path) -> None:
    attempts = [(store.url, write_model(tmp_path / str(who), float(who)), who) for who in range(4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.starmap(_commit, attempts)
    manifest = committed_model(store, FINGERPRINT)
    assert won.count(True) == 1
    assert manifest is not None
    assert manifest.metadata == {"by": won.index(True)}
    fetched = fetch_model(store, FINGERPRINT) / "model.safetensors"
    assert fetched.read_bytes() == model_files(float(won.index(True)))["model.safetensors"]


def test_files_without_a_manifest_are_not_a_model(store: Store, folder: Path) -> None:
    for name in model_files():
        store.create_file(f"models/{FINGERPRINT}/attempt/{name}", folder / name)
    assert committed_model(store, FINGERPRINT) is None
    with pytest.raises(ModelError, match=f"model {FINGERPRINT} is not committed in"):
        fetch_model(store, FINGERPRINT)


def test_an_interrupted_commit_is_finished_by_the_next(store: Store, folder: Path) -> None:
    commit_model(store, FINGERPRINT, folder, {})
    manifest_file = store.local_path(f"models/{FINGERPRINT}/manifest.json")
    assert manifest_file is not None
    manifest_file.unlink()
    assert commit_model(store, FINGERPRINT, folder, {})
    assert len(list(store.list(f"models/{FINGERPRINT}/"))) == len(model_files()) + 1


def test_an_incomplete_folder_is_never_committed(store: Store, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json"):
        commit_model(store, FINGERPRINT, folder, {})
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], " were committed)"),
        (lambda data: data[:-1] + b"!", "(its content is not what was committed)"),
        (None, "model.safetensors is missing from"),
    ],
)
def test_a_damaged_file_of_a_committed_model_is_named(
    store: Store, folder: Path, damage: Callable[[bytes], bytes] | None, said: str
) -> None:
    commit_model(store, FINGERPRINT, folder, {})
    weights = fetch_model(store, FINGERPRINT) / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    if damage:
        weights.write_bytes(damage(data))
    with pytest.raises(ModelError) as refusal:
        fetch_model(store, FINGERPRINT)
    assert said in str(refusal.value)
    assert "model.safetensors" in str(refusal.value)
    assert f"move models/{FINGERPRINT}/ out of the store" in str(refusal.value)


@pytest.mark.parametrize("change", [("loss", "lost"), ("0.25", "0.26"), ("}", "")])
def test_a_damaged_manifest_is_named(store: Store, folder: Path, change: tuple[str, str]) -> None:
    commit_model(store, FINGERPRINT, folder, {"loss": 0.25})
    path = store.local_path(f"models/{FINGERPRINT}/manifest.json")
    assert path is not None
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ModelError, match=f"damaged manifest models/{FINGERPRINT}/manifest.json"):
        committed_model(store, FINGERPRINT)


def test_a_manifest_under_another_models_name_is_refused(store: Store, folder: Path) -> None:
    commit_model(store, FINGERPRINT, folder, {})
    other = "f" * 16
    store.create(f"models/{other}/manifest.json", store.read(f"models/{FINGERPRINT}/manifest.json"))
    with pytest.raises(ModelError, match=f"it is that of model {FINGERPRINT}"):
        committed_model(store, other)


def test_metadata_that_is_not_json_is_refused_before_anything_is_written(store: Store, folder: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        commit_model(store, FINGERPRINT, folder, {"loss": float("nan")})
    assert list(store.list()) == []


# --- The cache ------------------------------------------------------------------------------------


def _build_slowly(cache: str, log: str) -> str:
    os.environ["RFT_CACHE"] = cache

    def build(folder: Path) -> None:
        with open(log, "a") as file:
            file.write("built\n")
        for name, content in model_files().items():
            (folder / name).write_bytes(content)

    return str(cached("x/y", build, lambda folder: check_complete(folder, "test")))


def test_concurrent_processes_build_a_cached_model_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        folders = pool.starmap(_build_slowly, [(str(cache), str(log))] * 4)
    assert set(folders) == {str(cache / "x/y")}
    assert log.read_text() == "built\n"


def test_a_build_that_fails_leaves_nothing_in_the_cache(cache: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ModelError("the source broke off")

    with pytest.raises(ModelError, match="the source broke off"):
        cached("x/y", build, lambda folder: check_complete(folder, "test"))
    assert [path.name for path in (cache / "x").iterdir()] == [".y.lock"]


def test_a_damaged_cached_model_is_built_again(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _build_slowly(str(cache), str(log))
    (cache / "x/y/model.safetensors").write_bytes(b"torn")
    _build_slowly(str(cache), str(log))
    assert log.read_text() == "built\nbuilt\n"
    assert sorted(path.name for path in (cache / "x").iterdir()) == [".y.lock", "y"]


def test_the_files_of_a_killed_build_are_removed_by_the_next(cache: Path, tmp_path: Path) -> None:
    left = cache / "x" / ".y.abc.part" / "made"
    left.mkdir(parents=True)
    _build_slowly(str(cache), str(tmp_path / "log"))
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file, not a folder")
    with pytest.raises(ModelError, match=r"cannot write .*: free some space, or set RFT_CACHE"):
        _build_slowly(str(cache), str(tmp_path / "log"))


def test_resolving_a_local_model_loads_neither_torch_nor_transformers(folder: Path) -> None:
    code = "from rft_ray.data.base_models import resolve; resolve(sys.argv[1])"
    code += "; print({'torch', 'transformers'} & {*sys.modules})"
    command = [sys.executable, "-c", f"import sys; {code}", str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_samples_of_other_weights_than_a_models_are_found(tmp_path: Path) -> None:
    store, fingerprint = open_store(str(tmp_path)), "f" * 16
    commit_model(store, fingerprint, model_dir("tiny-s"), {})
    manifest = committed_model(store, fingerprint)
    assert manifest
    table = pa.table({"text": ["a"]})
    for name, weights in {"same": manifest.attempt, "other": "0" * 16}.items():
        commit_table(store, f"completions/{name}.g0.parquet", table, noted({f"models/{fingerprint}/manifest": weights}))
    findings = repair.find(repair.examine(store))
    assert [(finding.key, finding.corrupt) for finding in findings] == [("completions/other.g0.parquet", False)]
    assert f"models/{fingerprint}/manifest.json" in findings[0].reason


def verified(store: Store) -> list[str]:
    return [file.damage for file in repair.examine(store) if file.damage]


def test_a_verification_reads_files_whose_hashes_are_known(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "LARGE", 1)
    commit_model(store, FINGERPRINT, folder, {})
    path = fetch_model(store, FINGERPRINT) / "model.safetensors"
    rotten = path.read_bytes()[:-1] + b"\xff"
    status = path.stat()
    path.write_bytes(rotten)  # a disk does it without a new time
    monkeypatch.setattr(Path, "stat", lambda self, **_: status if self == path else os.stat(self))
    assert fetch_model(store, FINGERPRINT)
    assert "model.safetensors" in verified(store)[0]


class Elsewhere:
    """A store whose files are not on this machine's disk, as on S3."""

    def __init__(self, there: Store) -> None:
        self._there = there

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None


def test_a_verification_reads_what_is_in_the_store_and_not_a_copy_of_this_machine(
    store: Store, folder: Path, tmp_path: Path, cache: Path
) -> None:
    commit_model(store, FINGERPRINT, folder, {})
    [committed] = (tmp_path / "store").glob(f"models/{FINGERPRINT}/*/model.safetensors")
    elsewhere: Any = Elsewhere(store)
    assert fetch_model(elsewhere, FINGERPRINT).is_relative_to(cache)
    assert verified(elsewhere) == []
    committed.write_bytes(committed.read_bytes()[:-1] + b"\xff")
    assert "model.safetensors" in verified(elsewhere)[0]
    committed.unlink()
    assert "model.safetensors is missing" in verified(elsewhere)[0]
    assert not list(cache.glob(".copy-*"))

"""Models in a run's store: safetensors, tokenizer, and a create-only `manifest.json`.

The manifest is written last and is the commit: files without one do not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray.store.base import NotFound, Store
from rft_ray.store.models.cache import cached, scratch_copy
from rft_ray.store.models.folder import ModelError, check_complete, digest_of, model_files
from rft_ray.store.models.hashes import digest_of_file, sha256_of
from rft_ray.store.outages import through_outages
from rft_ray.store.tables import present, writable


@dataclass(frozen=True)
class FileEntry:
    """One file of a committed model. Example: FileEntry("9f86d0…", 3444536)"""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The commit of one model: its files, and what is recorded about it.

    Example: Manifest("41…", "7be1…", {"config.json": FileEntry("9f…", 712), …}, {"loss": 0.31})
    """

    fingerprint: str
    attempt: str
    files: dict[str, FileEntry]
    metadata: dict[str, Any]

    @property
    def folder(self) -> str:
        """Key prefix of the files in the run's store, without a slash at the end."""
        return f"models/{self.fingerprint}/{self.attempt}"


def commit_model(store: Store, fingerprint: str, folder: Path, metadata: dict[str, Any]) -> bool:
    """Commit the model in `folder` under its recipe's fingerprint. False: another commit was first, and stays.

    Only files that match `MODEL_FILES` are committed. An interrupted commit leaves files without a manifest, which do
    not count; a later commit of the same content does not upload them again. Raises ModelError and StoreError.
    """
    if present(store, _manifest_key(fingerprint)):
        return False
    paths = model_files(check_complete(folder, str(folder)))
    manifest = manifest_of(fingerprint, entries(paths), metadata)
    _manifest_text(manifest)  # refuses metadata before the upload
    upload_files(store, manifest, paths)
    return commit_manifest(store, manifest)


def entries(paths: Iterable[Path]) -> dict[str, FileEntry]:
    """Name -> size and SHA-256 of files.

    Several processes can commit a model together, each some of its files: each makes the entries of its files, then
    uploads them (`upload_files`), and when all have, one of them calls `commit_manifest`.
    """
    return {path.name: FileEntry(sha256_of(path), path.stat().st_size) for path in paths}


def manifest_of(fingerprint: str, files: Mapping[str, FileEntry], metadata: dict[str, Any]) -> Manifest:
    """The manifest of a model with these files."""
    attempt = digest_of({name: entry.sha256 for name, entry in files.items()})[:16]
    return Manifest(fingerprint, attempt, dict(files), metadata)


def upload_files(store: Store, manifest: Manifest, paths: Iterable[Path]) -> None:
    """Put files of the model where the manifest says. Raises StoreError."""
    for path in paths:
        key = f"{manifest.folder}/{path.name}"
        through_outages(partial(store.create_file, key, path), key)


def commit_manifest(store: Store, manifest: Manifest) -> bool:
    """Commit a model whose files are all there. False: another commit was first, and stays. Raises StoreError."""
    key, text = _manifest_key(manifest.fingerprint), _manifest_text(manifest).encode()
    return through_outages(lambda: store.create(writable(store, key), text), key)


def committed_model(store: Store, fingerprint: str) -> Manifest | None:
    """The manifest of a committed model; None where it is missing or void. Raises ModelError if it is damaged."""
    key = present(store, _manifest_key(fingerprint))
    return None if key is None else manifest_at(store, key)


def committed_through_outages(store: Store, fingerprint: str) -> Manifest | None:
    """`committed_model`, asked again while the store cannot be reached: a training costs more."""
    return through_outages(lambda: committed_model(store, fingerprint), _manifest_key(fingerprint))


def manifest_at(store: Store, key: str) -> Manifest:
    """The manifest under a key, whether or not it counts. Raises NotFound, and ModelError if it is damaged."""
    fingerprint = key.split("/")[1]
    try:
        body = json.loads(store.read(key))
        if body.pop("sha256") != digest_of(body):
            raise ValueError("it does not have the hash that it holds")
        body["files"] = {name: FileEntry(**entry) for name, entry in body["files"].items()}
        manifest = Manifest(**body)
        if manifest.fingerprint != fingerprint:
            raise ValueError(f"it is that of model {manifest.fingerprint}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"damaged manifest {key} in {store.url} ({error}){_remedy(fingerprint)}") from error
    return manifest


def fetch_model(store: Store, fingerprint: str) -> Path:
    """Local folder of a committed model, every file checked against the manifest (once per process).

    For a local store it is the folder in the store, for S3 a copy in the cache. Raises ModelError and StoreError.
    """
    return fetch_with_manifest(store, fingerprint)[0]


def fetch_with_manifest(store: Store, fingerprint: str) -> tuple[Path, Manifest]:
    """`fetch_model`, and the manifest that the folder was checked against."""
    manifest = committed_model(store, fingerprint)
    if manifest is None:
        raise ModelError(f"model {fingerprint} is not committed in {store.url}: run the stage that trains it")
    return fetch_files(store, manifest), manifest


def fetch_files(store: Store, manifest: Manifest) -> Path:
    """As `fetch_model`, the files of this manifest."""
    folder = store.local_path(manifest.folder)
    if folder is not None:
        try:
            _verify(folder, manifest, f"{manifest.folder} in {store.url}")
        except (ModelError, OSError):
            store.exists(_manifest_key(manifest.fingerprint))  # raises StoreUnreachable while the whole run is away
            raise
        return folder

    def download(target: Path) -> None:
        for name, entry in manifest.files.items():
            store.fetch(f"{manifest.folder}/{name}", target / name)
            only = replace(manifest, files={name: entry})
            _verify(target, only, f"{manifest.folder} in {store.url}")  # now: the system still has it in memory

    return cached(manifest.folder, download, lambda copy: _verify(copy, manifest, str(copy)))


def check_files(store: Store, manifest: Manifest) -> None:
    """Read every file of this manifest where it is committed: no copy, and no hash that is known, stands for it.

    Raises ModelError, which names the first missing or damaged file, and StoreError.
    """
    where = f"{manifest.folder} in {store.url}"
    if folder := store.local_path(manifest.folder):
        _verify(folder, manifest, where, digest_of_file)
        return
    for name, entry in manifest.files.items():
        with scratch_copy(name) as copy:
            with suppress(NotFound):
                store.fetch(f"{manifest.folder}/{name}", copy)
            _verify(copy.parent, replace(manifest, files={name: entry}), where, digest_of_file)


def _manifest_text(manifest: Manifest) -> str:
    """The manifest as JSON with a hash of itself. Raises ValueError for metadata that JSON cannot hold, as NaN."""
    body = json.loads(json.dumps(asdict(manifest), allow_nan=False))
    return json.dumps({**body, "sha256": digest_of(body)}, indent=1, sort_keys=True)


def _verify(folder: Path, manifest: Manifest, where: str, digest: Callable[[Path], str] = sha256_of) -> None:
    """Raises ModelError, which names the file, unless the folder holds every file that the manifest lists."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"committed model: {name} is missing from {where}{_remedy(manifest.fingerprint)}")
        if (size := path.stat().st_size) != entry.bytes:
            wrong = f"{size} bytes, {entry.bytes} were committed"
        elif digest(path) != entry.sha256:
            wrong = "its content is not what was committed"
        else:
            continue
        raise ModelError(f"committed model: {name} in {where} is damaged ({wrong}){_remedy(manifest.fingerprint)}")


def _remedy(fingerprint: str) -> str:
    return (
        f": put an intact copy in its place, or move models/{fingerprint}/ out of the store "
        "and run the same command again, which trains this model again"
    )


def _manifest_key(fingerprint: str) -> str:
    return f"models/{fingerprint}/manifest.json"

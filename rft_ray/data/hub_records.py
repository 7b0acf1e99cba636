"""What a run records of its hub models and data sets, to go on as planned when a branch moves or the hub is away.

In: sources pinned to commits. Out: create-only files `sources/<owner>/<name>/<commit>/…` in the run's store, for data
sets `sources/datasets/…`: what the hub says of the commit (`repository.json`, written last) and its files. Of a model
these are the small ones: config, tokenizer, card, and no weights; of a data set those that the run has read. A driver
that reads them back plans the same run without a request to the hub. `repository.json` has their SHA-256, except in
records of earlier versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from rft_ray.data import base_models, hub
from rft_ray.data.hub import Repository, RepositoryFile
from rft_ray.data.model_files import choose, is_weights
from rft_ray.data.problems import ProblemSet
from rft_ray.store import Store
from rft_ray.store.base import is_key
from rft_ray.store.models.cache import cached
from rft_ray.store.models.folder import ModelError
from rft_ray.store.models.hashes import sha256_of

FOLDER = "sources/"
DATA_SETS = f"{FOLDER}datasets/"
LISTING = "repository.json"
RECORDED = "recorded"
"""Key of the listing: file -> SHA-256."""
WHAT_TO_DO = "put an intact copy in its place, or move it out of the run"


def record(store: Store, sources: Iterable[str], problems: Iterable[ProblemSet] = ()) -> None:
    """Commit what this process knows of the hub models among the sources, of bases of adapters, and of data sets."""
    for pinned in sorted({f"{part.dataset}@{part.commit}" for part in problems if part.commit}):
        read = hub.known(pinned, "dataset")
        if read and not store.exists(f"{_folder_of(read)}/{LISTING}"):
            paths = hub.files_read(read)
            sizes = {name: paths[name].stat().st_size if name in paths else 0 for name in read.files}
            files = {name: RepositoryFile(size, "") for name, size in sizes.items()}
            _create(store, replace(read, files=files), paths)
    for name in sorted({name for source in sources for name in base_models.hub_names(source)}):
        repository = hub.known(name)
        if repository is None or store.exists(f"{_folder_of(repository)}/{LISTING}"):
            continue
        with suppress(hub.HubError):  # a hub that is gone by now: the next start records it
            _commit(store, repository)


def _commit(store: Store, repository: Repository) -> None:
    """Commit the listing of a model's repository and its small files."""
    small = _small_files(repository)
    paths = hub.snapshot(repository.pinned, "model", lambda files: small)
    _create(store, repository, dict(zip(small, paths, strict=True)))


def _create(store: Store, repository: Repository, paths: Mapping[str, Path]) -> None:
    """Commit these files and the listing, unless the store takes no file of such a name."""
    folder = _folder_of(repository)
    if all(is_key(f"{folder}/{file}") for file in paths):
        for file, path in paths.items():
            store.create_file(f"{folder}/{file}", path)
        listing = {**asdict(repository), RECORDED: {file: sha256_of(path) for file, path in paths.items()}}
        store.create(f"{folder}/{LISTING}", json.dumps(listing, indent=1).encode())


def recall(store: Store, *, data: bool = True) -> None:
    """Let this process know what the run has recorded, so that it does not ask the hub. `data`: of data sets too.

    Raises StoreError, ModelError.
    """
    for key in list(store.list(FOLDER)):
        if key.endswith(f"/{LISTING}") and (data or not key.startswith(DATA_SETS)):
            repository, hashes = _read(store, key)
            hub.remember(repository, _fetched(store, repository, hashes))


def moved(pins: Mapping[str, str]) -> list[str]:
    """A line for each hub model whose branch or tag is at another commit now. `pins`: source -> pinned source.

    Of an adapter's base, only where the source names it. A hub that does not answer is asked once for each model, all
    at the same time.
    """

    def line(name: str, commit: str) -> str:
        newer = hub.newer_commit(name, "model", commit)
        return newer and (
            f"hub:{name} is at commit {newer} by now: this run goes on with {commit}, which it was planned with; name "
            "the new commit, or start a run under another name, to use it"
        )

    named = [
        pair
        for source, pin in pins.items()
        for pair in zip(base_models.hub_names(source), base_models.hub_names(pin), strict=False)
    ]
    asked = {name: place.partition("@")[2] for name, place in named}
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        return list(filter(None, pool.map(line, asked, asked.values())))


def _folder_of(repository: Repository) -> str:
    return f"{FOLDER if repository.kind == 'model' else DATA_SETS}{repository.name}/{repository.commit}"


def _recorded_files(repository: Repository) -> list[str]:
    if repository.kind == "model":
        return _small_files(repository)
    return [name for name, file in repository.files.items() if file.bytes]  # of the others only the names are known


def _small_files(repository: Repository) -> list[str]:
    model = [file for file in choose(list(repository.files)) if not is_weights(file)]
    return model + [file for file in repository.files if base_models.is_document(file) and file not in model]


def _read(store: Store, key: str) -> tuple[Repository, dict[str, str]]:
    """A repository, and the SHA-256 of its recorded files."""
    try:
        body = json.loads(store.read(key))
        files = {name: RepositoryFile(**file) for name, file in body["files"].items()}
        kind: hub.Kind = "dataset" if body.get("kind") == "dataset" else "model"
        hashes = {str(file): str(sha256) for file, sha256 in body.get(RECORDED, {}).items()}
        return Repository(str(body["name"]), str(body["commit"]), files, kind), hashes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"damaged file {key} in {store.url} ({error}): {WHAT_TO_DO}") from error


def _fetched(store: Store, repository: Repository, hashes: Mapping[str, str]) -> Path:
    """A local folder with the recorded files, whose name is the commit, as in the hub client's cache.

    Raises ModelError where a file in the store is not the one that was recorded.
    """
    recorded = _recorded_files(repository)

    def is_whole(file: str, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != repository.files[file].bytes:
            return False
        return file not in hashes or sha256_of(path) == hashes[file]

    def download(folder: Path) -> None:
        for file in recorded:
            key, path = f"{_folder_of(repository)}/{file}", folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(key, path)
            if not is_whole(file, path):
                raise ModelError(f"damaged file {key} in {store.url}: {WHAT_TO_DO}")

    def check(folder: Path) -> None:
        for file in recorded:
            if not is_whole(file, folder / file):
                raise ModelError(f"{folder / file} is not whole")

    return cached(_folder_of(repository), download, check)

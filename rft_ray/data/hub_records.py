"""What a run records of its hub models, so that it goes on as planned when a branch moves or the hub is away.

In: sources pinned to commits. Out: create-only files `sources/<owner>/<name>/<commit>/…` in the run's store: what the
hub says of the commit (`repository.json`, written last) and its small files: config, tokenizer, card. Weights are not
among them. A driver that reads them back plans the same run without a request to the hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rft_ray.data import base_models, hub
from rft_ray.data.hub import Repository, RepositoryFile
from rft_ray.data.model_files import choose, is_weights
from rft_ray.store import Store
from rft_ray.store.base import is_key
from rft_ray.store.models.cache import cached
from rft_ray.store.models.folder import ModelError

FOLDER = "sources/"
LISTING = "repository.json"


def record(store: Store, sources: Iterable[str]) -> None:
    """Commit what this process knows of the hub models among the sources, and of the bases of adapters."""
    for name in sorted({name for source in sources for name in base_models.hub_names(source)}):
        repository = hub.known(name)
        if repository is None or store.exists(f"{_folder_of(repository)}/{LISTING}"):
            continue
        with suppress(hub.HubError):  # a hub that is gone by now: the next start records it
            _commit(store, repository)


def _commit(store: Store, repository: Repository) -> None:
    """Commit the listing of a repository and its small files, unless the store takes no file of such a name."""
    folder, small = _folder_of(repository), _small_files(repository)
    if all(is_key(f"{folder}/{file}") for file in small):
        for path in hub.snapshot(repository.pinned, "model", lambda files: small):
            store.create_file(f"{folder}/{path.name}", path)
        store.create(f"{folder}/{LISTING}", json.dumps(asdict(repository), indent=1).encode())


def recall(store: Store) -> None:
    """Let this process know what the run has recorded, so that it does not ask the hub.

    Raises StoreError, ModelError.
    """
    for key in list(store.list(FOLDER)):
        if key.endswith(f"/{LISTING}"):
            repository = _read(store, key)
            hub.remember(repository, _fetched(store, repository))


def _folder_of(repository: Repository) -> str:
    return f"{FOLDER}{repository.name}/{repository.commit}"


def _small_files(repository: Repository) -> list[str]:
    model = [file for file in choose(list(repository.files)) if not is_weights(file)]
    return model + [file for file in repository.files if base_models.is_document(file) and file not in model]


def _read(store: Store, key: str) -> Repository:
    try:
        body = json.loads(store.read(key))
        files = {name: RepositoryFile(**file) for name, file in body["files"].items()}
        return Repository(str(body["name"]), str(body["commit"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"damaged file {key} in {store.url} ({error}): put an intact copy in its place, or move it out of the run"
        ) from error


def _fetched(store: Store, repository: Repository) -> Path:
    """A local folder with the small files, whose name is the commit, as in the hub client's cache."""
    small = _small_files(repository)

    def download(folder: Path) -> None:
        for file in small:
            store.fetch(f"{_folder_of(repository)}/{file}", folder / file)

    def check(folder: Path) -> None:
        for file in small:
            if not (folder / file).is_file() or (folder / file).stat().st_size != repository.files[file].bytes:
                raise ModelError(f"{folder / file} is not whole")

    return cached(_folder_of(repository), download, check)

"""Base models on S3: a copy in the cache of each state of the objects under a prefix."""

from __future__ import annotations

from pathlib import Path

from rft_ray.data.model_files import ADAPTER_CONFIG, Form, choose, form_of
from rft_ray.store import open_store
from rft_ray.store.models.cache import cached
from rft_ray.store.models.folder import ModelError, check_complete, digest_of


def from_s3(source: str) -> Path:
    """A copy in the cache, named after the ETags of the S3 objects, so that a changed model gets a new copy."""
    store = open_store(source)
    if not store.exists("config.json") and not store.exists(ADAPTER_CONFIG):
        raise ModelError(f"{source}: no config.json there: give the prefix of a Hugging Face folder")
    tags = _entity_tags(store.url)

    def download(folder: Path) -> None:
        for name in tags:
            store.fetch(name, folder / name)
        if _entity_tags(store.url) != tags:
            raise ModelError(f"{source}: it changed while it was downloaded: run the same command again")
        check_whole(folder)

    def check_whole(folder: Path) -> None:
        if missing := sorted(tags.keys() - {path.name for path in folder.iterdir()}):
            raise ModelError(f"{source}: {folder} lacks {', '.join(missing)}")
        if form_of(tags) is Form.SAFETENSORS:
            check_complete(folder, source)

    return cached(f"s3/{digest_of([store.url, tags])[:16]}", download, check_whole)


def _entity_tags(url: str) -> dict[str, str]:
    """Name -> ETag of each file of the model. The ETag changes with the content, even when the size stays equal.

    Raises StoreError where they cannot be listed: a ModelError, which no other attempt mends, would end a training.
    """
    from rft_ray.store.backends.s3 import S3Store

    tags = S3Store(url).entity_tags()
    return {name: tags[name] for name in choose(sorted(tags))}

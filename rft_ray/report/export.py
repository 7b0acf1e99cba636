"""A model of a run -> a folder by a name that a person chose, and from there to the Hugging Face hub or S3.

In: a run's store and one of its models. Out: the model's files as transformers and vLLM load them, README.md made from
the ledger, the licence files of the base, and `corpus/`: a `datasets` repository with the rows that it was trained on.

Limits: a target that holds anything is refused, and nothing is overwritten.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray import __version__
from rft_ray.config.errors import InputError, RunError
from rft_ray.config.loading import saved_config
from rft_ray.corpus.builder import jsonl_line
from rft_ray.data.licences import licence_of
from rft_ray.evaluation.summary import required_summary
from rft_ray.evaluation.summary_records import ModelEntry, Summary
from rft_ray.records import paths_in
from rft_ray.report.model_card import CardFacts, corpus_card, model_card
from rft_ray.store import Store, StoreError, open_store, read_table
from rft_ray.store.models.committed import fetch_with_manifest

CORPUS = "corpus"
_HUB_FILES = {".gitattributes", "README.md"}
"""What a new repository of the hub holds."""


class ExportError(InputError, ValueError):
    """A model or target that cannot be exported. The message says which, and what to do."""


class UploadError(RunError, RuntimeError):
    """An upload that failed."""


def choose(store: Store, model: str | None, stage: str) -> tuple[Summary, ModelEntry]:
    """The run's summary and one of its trained models. `model` may be None where the stage has one model only.

    Raises ExportError where there is no such model, and StoreError where there is no summary.
    """
    summary = required_summary(store, "trains no models: name the folder of a run")
    staged = [entry for entry in summary.models if entry.stage == stage]
    chosen = [entry for entry in staged if model in (None, entry.model)]
    if len(chosen) == 1:
        return summary, chosen[0]
    there = ", ".join(f"{entry.model} ({entry.stage})" for entry in summary.models)
    if not chosen:
        wanted = f"{stage} model {model}" if model else f"{stage} model"
        raise ExportError(f"{store.url} has no {wanted}: it has {there or 'none'}: name one of these")
    raise ExportError(f"{store.url} has {len(chosen)} {stage} models: name one of them with --model: {there}")


def write_folder(store: Store, summary: Summary, entry: ModelEntry, folder: Path, name: str) -> None:
    """Write the model, its card and its corpus into an empty folder. Raises ModelError and StoreError."""
    source, manifest = fetch_with_manifest(store, entry.fingerprint)
    for file in manifest.files:
        shutil.copyfile(source / file, folder / file)
    rows = paths_in(read_table(store, manifest.metadata["data"])[0])
    licence, texts = licence_of(entry.base)
    for text in texts:
        shutil.copyfile(text, folder / text.name)
    facts = CardFacts(
        name=name,
        summary=summary,
        config=saved_config(store.read("config.yaml"), f"{store.url}/config.yaml"),
        entry=entry,
        trained=manifest.metadata,
        rows=Counter("gold" if row.gold else row.model for row in rows),
        licence=licence,
        version=__version__,
    )
    examples = [json.loads(jsonl_line(row, manifest.metadata["template"])) for row in rows]
    _write_corpus(folder / CORPUS, examples, facts)
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def _write_corpus(folder: Path, examples: list[Mapping[str, Any]], facts: CardFacts) -> None:
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(examples)
    pq.write_table(table, folder / "data" / "train.parquet")
    (folder / "README.md").write_text(corpus_card(facts, table.column_names), encoding="utf-8")


def check_target(target: str) -> None:
    """Raises ExportError where the target holds anything, or cannot be reached."""
    if target.startswith("s3://"):
        if (key := next(iter(open_store(target).list()), None)) is not None:
            raise ExportError(f"{target} holds files already, such as {key}: choose another prefix")
    elif target.startswith("hub:"):
        _check_repository(target.removeprefix("hub:"))
    elif Path(target).exists() and (not Path(target).is_dir() or any(Path(target).iterdir())):
        raise ExportError(f"{target} exists and is not an empty folder: choose another one")


def _check_repository(name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    for repo, kind in _repositories(name):
        try:
            files = set(HfApi().list_repo_files(repo, repo_type=kind)) - _HUB_FILES
        except RepositoryNotFoundError:
            continue
        except HFValidationError:
            raise ExportError(f"hub:{name} is no name of a hub repository: write hub:owner/name") from None
        except Exception as error:  # the client's HTTP library is not the same in all of its versions
            raise ExportError(
                f"hub:{name} cannot be reached ({_line(error)}): check the network and HF_TOKEN"
            ) from error
        if files:
            raise ExportError(f"the hub's {kind} {repo} holds files already: choose another name")


def _repositories(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Name and kind of the repositories of the model and of its corpus."""
    return (name, "model"), (f"{name}-{CORPUS}", "dataset")


def upload(folder: Path, target: str) -> list[str]:
    """Copy an exported folder to the hub or S3, and return the addresses. Raises UploadError."""
    if target.startswith("hub:"):
        return _to_hub(folder, target.removeprefix("hub:"))
    store = open_store(target)
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if not store.create_file(path.relative_to(folder).as_posix(), path):
                raise UploadError(f"{target} was written to during the export: choose another prefix")
    except StoreError as error:
        raise UploadError(f"{error}; {target} may hold a part of the files: export to another prefix") from error
    return [store.url]


def _to_hub(folder: Path, name: str) -> list[str]:
    """New repositories are private: their owner makes them public."""
    from huggingface_hub import HfApi

    api, urls = HfApi(), []
    for repo, kind in _repositories(name):
        part, ignored = (folder / CORPUS, None) if kind == "dataset" else (folder, [f"{CORPUS}/*"])
        try:
            urls.append(str(api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)))
            api.upload_folder(
                repo_id=repo,
                repo_type=kind,
                folder_path=part,
                ignore_patterns=ignored,
                commit_message="Exported by rft-ray",
            )
        except Exception as error:  # the client's HTTP library is not the same in all of its versions
            raise UploadError(
                f"the {kind} {repo} could not be uploaded ({_line(error)}): check HF_TOKEN, which needs write access, "
                "and the network"
            ) from error
    return urls


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]

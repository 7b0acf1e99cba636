"""Rows of one split of a data set on the Hugging Face hub.

In: `owner/name[@revision]`, a split and, where the data set has several configurations, their folders. Out: the rows of
the split's data files. They are found by name, as the hub does: `train.jsonl`, `data/train-00000-of-00002.parquet`,
`train/part-1.csv`; the only data file of a repository is its split `train`. Of several kinds of file, one is read.

Limits: the split patterns in a data set's card are not read, and no code of a data set runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from rft_ray.data import hub
from rft_ray.data.row_files import KINDS, METADATA, ROW_FILES, Choose, DataError, Row, rows

_SPLIT_NAME = re.compile(r"(?P<split>\w+?)(?:-\d[\w-]*)?")
_PARTS = re.compile(r"-of-(\d+)")
_USUAL_FOLDERS = ("main", "default", "data", "")
_KINDS = sorted(ROW_FILES, key=lambda kind: (kind != ".parquet", ROW_FILES.index(kind)))
"""Parquet first: where the hub's own conversion stands next to the original files, it is complete."""

_SPLITS = frozenset({"train", "test", "validation", "valid", "dev"})
"""Names of folders that hold the files of one split."""

_Placed = tuple[str, str, str]
"""(folder of the configuration, split, file)."""


def hub_rows(
    source: str, dataset: str, split: str, choose: Choose | None, folders: Sequence[str] = (), *, commit: str = ""
) -> Iterator[Row]:
    """The rows of one split of a data set `owner/name[@revision]`. Raises DataError, whose message names the source.

    `folders`: those of the configurations to read, in this order; without any, a usual one or the only one. `commit`:
    the one that the run has planned with, which is read instead of the revision.
    """
    if commit:
        dataset = f"{dataset.partition('@')[0]}@{commit}"
    try:
        paths = hub.snapshot(dataset, "dataset", lambda files: files_of_split(source, files, split, folders))
    except hub.HubError as error:
        planned = f"; the run was planned with commit {commit}: start another one to read other data" if commit else ""
        raise DataError(f"{source}: {error}{planned}") from error
    for path in paths:
        yield from rows(str(path), name=f"{source} ({path.name})", choose=choose)


def files_of_split(source: str, files: Sequence[str], split: str, folders: Sequence[str] = ()) -> list[str]:
    """The files of one split among those of a repository, folder by folder. Raises DataError where there are none."""
    data = [file for file in sorted(files) if file.endswith(ROW_FILES) and PurePosixPath(file).name not in METADATA]
    placed = [_placed(file) for file in data]
    of_split = [place for place in placed if place[1] == split]
    if not of_split and split == "train" and len(data) == 1 and not folders:
        return data
    there = sorted({folder for folder, _, _ in of_split})
    wanted = list(folders) or [folder for folder in _USUAL_FOLDERS if folder in there][:1] or there
    if not of_split or not set(wanted) <= set(there):
        known = ", ".join(sorted({name for _, name, _ in placed})) or f"none (it holds no {KINDS})"
        where = f" in the folder {', '.join(folders)}" if folders else ""
        raise DataError(f"{source}: no data file of a split {split!r}{where}; splits there: {known}")
    if not folders and len(wanted) > 1:
        raise DataError(f"{source}: split {split!r} is in the folders {', '.join(there)}: write <dataset>/<folder>")
    return [file for folder in wanted for file in _of_one_kind(source, folder, of_split)]


def _placed(file: str) -> _Placed:
    """A data file's place: its split is its name without number and ending, or the folder named as a split."""
    path = PurePosixPath(file)
    stem = path.name.removesuffix(next(kind for kind in _KINDS if file.endswith(kind)))
    match = _SPLIT_NAME.fullmatch(stem)
    split, folder = match["split"] if match else stem, path.parent
    if split not in _SPLITS and folder.name in _SPLITS:
        split, folder = folder.name, folder.parent
    return folder.as_posix().removeprefix("."), split, file


def _of_one_kind(source: str, folder: str, of_split: Sequence[_Placed]) -> list[str]:
    """The files of a split in one folder, of the first kind that is there. Raises DataError where parts are missing."""
    files = [file for place, _, file in of_split if place == folder]
    kind = next(kind for kind in _KINDS if any(file.endswith(kind) for file in files))
    chosen = [file for file in files if file.endswith(kind)]
    parts = _PARTS.search(chosen[0])
    if parts and int(parts[1]) != len(chosen):
        raise DataError(f"{source}: {len(chosen)} of {int(parts[1])} files are there: complete the download")
    return chosen

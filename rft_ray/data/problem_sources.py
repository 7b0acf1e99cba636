"""Problem sets by source: the embedded generator, GSM8K, a hub data set, a local or S3 file -> a list of `Problem`."""

from __future__ import annotations

import codecs
import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray.data import hub
from rft_ray.data.row_files import JSONL, DataError
from rft_ray.grading.answers import ConflictError, read_number
from rft_ray.records import Problem, problem_id
from rft_ray.store import NotFound, open_store

GSM8K = "openai/gsm8k"


GSM8K_DIR = "RFT_GSM8K_DIR"
"""Environment variable: a folder with GSM8K's train.jsonl and test.jsonl, used instead of the hub."""


_TINY = re.compile(r"(?P<split>\w+):(?P<count>\d{1,7})(?::(?P<seed>\d{1,9}))?(?::(?P<low>\d)-(?P<high>\d))?")


_SPLIT_FILE = re.compile(r"(?:(?P<folder>.+)/)?(?P<split>\w+?)(?:-\d[\w-]*)?\.parquet")


_USUAL_FOLDERS = ("main", "default", "data", "")


def load_problems(source: str) -> list[Problem]:
    """All problems of a source, in the order of its rows. Raises DataError, and StoreError for S3 out of reach.

    Sources: `gsm8k:<split>`, `hub:<dataset>[/<folder>][@<revision>]:<split>`,
    `tiny:<split>:<count>[:<seed>][:<low>-<high>]`, or the path of a .jsonl or .parquet file, local or `s3://`.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "tiny":
        return _generated(source, rest)
    if colon and kind == "gsm8k":
        return _parsed(source, _gsm8k_files(source, rest))
    if colon and kind == "hub":
        return _parsed(source, _hub_files(source, rest))
    return _parsed(source, [_named_file(source)])


# --- Where the rows come from ---------------------------------------------------------------------


def _generated(source: str, rest: str) -> list[Problem]:
    """The embedded generator's problems."""
    from rft_ray.data.tiny.generator import generate

    match = _TINY.fullmatch(rest)
    if not match or not int(match["count"]):
        raise DataError(f"{source}: write tiny:<split>:<count>, as in tiny:train:600 or tiny:test:300:7:2-4")
    options: dict[str, Any] = {}
    if match["seed"]:
        options["seed"] = int(match["seed"])
    if match["low"]:
        options["steps"] = (int(match["low"]), int(match["high"]))
    try:
        return generate(int(match["count"]), split=match["split"], **options)  # type: ignore[arg-type]  # it checks
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None


def _gsm8k_files(source: str, split: str) -> Iterator[tuple[str, bytes]]:
    if split not in ("train", "test"):
        raise DataError(f"{source}: GSM8K has no split {split!r}: write gsm8k:train or gsm8k:test")
    if folder := os.environ.get(GSM8K_DIR):
        path = Path(folder) / f"{split}.jsonl"
        if not path.is_file():
            raise DataError(f"{source}: {GSM8K_DIR} is {folder!r}, which has no {path.name}: correct or unset it")
        yield _local_file(str(path))
    else:
        try:
            yield from _hub_files(source, f"{GSM8K}:{split}")
        except DataError as error:
            raise DataError(f"{error}; or set {GSM8K_DIR} to a folder with train.jsonl and test.jsonl") from error


def _hub_files(source: str, rest: str) -> Iterator[tuple[str, bytes]]:
    """The Parquet files of one split of a hub dataset `owner/name[/folder][@revision]:split`."""
    address, colon, split = rest.rpartition(":")
    if not colon or not address or not split:
        raise DataError(f"{source}: write hub:<dataset>:<split>, as in hub:{GSM8K}:train")
    address, at, revision = address.partition("@")
    owner, name, folder = (*address.split("/", 2), "", "")[:3]
    dataset = f"{owner}/{name}" if name else owner

    def choose(files: Sequence[str]) -> Sequence[str]:
        return _files_of_split(source, files, split, folder or None)

    try:
        paths = hub.snapshot(dataset + at + revision, "dataset", choose)
    except hub.HubError as error:
        raise DataError(f"{source}: {error}") from error
    for path in paths:
        yield f"{source} ({path.name})", path.read_bytes()


def _files_of_split(source: str, files: Sequence[str], split: str, folder: str | None) -> list[str]:
    """Which of a dataset's files hold a split; one folder's (a dataset may carry several configurations)."""
    matches = [match for file in sorted(files) if (match := _SPLIT_FILE.fullmatch(file))]
    found = [match for match in matches if match["split"] == split]
    folders = sorted({match["folder"] or "" for match in found})
    if folder is None:
        usual = [usual for usual in _USUAL_FOLDERS if usual in folders]
        folder = folders[0] if len(folders) == 1 else usual[0] if usual else None
    if chosen := [match[0] for match in found if (match["folder"] or "") == folder]:
        parts = re.search(r"-of-(\d+)", chosen[0])
        if parts and int(parts[1]) != len(chosen):
            raise DataError(f"{source}: {len(chosen)} of {int(parts[1])} files are there: complete the download")
        return chosen
    if found:
        raise DataError(f"{source}: split {split!r} is in the folders {', '.join(folders)}: write <dataset>/<folder>")
    known = ", ".join(sorted({match["split"] for match in matches})) or "none"
    raise DataError(f"{source}: no Parquet file of a split {split!r}; splits there: {known}")


def _named_file(source: str) -> tuple[str, bytes]:
    """A file that the user names by its path."""
    if not source.endswith((*JSONL, ".parquet")):
        raise DataError(
            f"{source}: not a source of problems: write gsm8k:<split>, hub:<dataset>:<split>, tiny:<split>:<count>, "
            "or the path of a .jsonl or .parquet file, local or s3://"
        )
    if not source.startswith("s3://"):
        return _local_file(source)
    parent, _, name = source.rpartition("/")
    try:
        return source, open_store(parent).read(name)
    except NotFound:
        raise DataError(f"{source}: there is no such object: check bucket and path") from None
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None


def _local_file(name: str) -> tuple[str, bytes]:
    path = Path(name).expanduser()
    try:
        return name, path.read_bytes()
    except FileNotFoundError:
        there = [file.name for file in path.parent.glob("*") if file.suffix] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, there, 1, 0.5)
        hint = f"; nearest file there: {near[0]}" if near else ""
        raise DataError(f"{name}: there is no such file{hint}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}): check path and permissions") from None


# --- From rows to problems ------------------------------------------------------------------------


def _parsed(source: str, files: Iterable[tuple[str, bytes]]) -> list[Problem]:
    """The problems of all rows of the files. Raises DataError for the first bad row, or where there is none."""
    seen: dict[str, str] = {}
    problems = []
    for name, data in files:
        rows = _parquet_rows(name, data) if not name.endswith(JSONL) else _jsonl_rows(name, data)
        for where, row in rows:
            problem = _problem(where, row)
            first = seen.setdefault(problem.problem_id, where)
            if first != where:
                raise DataError(f"{where}: the same question as {first}: remove one of the two")
            problems.append(problem)
    if not problems:
        raise DataError(f"{source}: holds no problems: give rows with 'question' and 'answer'")
    return problems


def _jsonl_rows(name: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 at byte {error.start + 1} of the line: save it as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}): write one JSON object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON {type(row).__name__}, not an object: write one JSON object a line")
        yield where, row


def _parquet_rows(name: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        wanted = [field for field in ("question", "answer") if field in file.schema_arrow.names]
        columns = dict(zip(wanted, file.read(columns=wanted).columns, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: not readable as Parquet ({error}): copy or write it again") from None
    if missing := {"question", "answer"} - set(wanted):
        there = ", ".join(file.schema_arrow.names)
        raise DataError(f"{name}: no column {sorted(missing)[0]!r}; its columns: {there}: rename the one that holds it")
    for index in range(file.metadata.num_rows):
        where = f"{name}: row {index + 1}"
        try:
            yield where, {field: column[index].as_py() for field, column in columns.items()}
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8: write the file again from text in UTF-8") from None


def _problem(where: str, row: Mapping[str, Any]) -> Problem:
    """One row as a problem; DataError says what it lacks."""
    question, solution = _text(where, row, "question"), _text(where, row, "answer")
    reasoning, mark, final = solution.rpartition("#### ")
    answer = final.replace(",", "").strip()
    if not mark or not reasoning.strip():
        raise DataError(
            f"{where}: 'answer' is no gold solution: fine-tuning needs the reasoning, then a last line '#### <number>' "
            f"(found: {solution[-40:]!r})"
        )
    if "\n" in answer or not _says_a_number(answer):
        raise DataError(f"{where}: 'answer' must end in '#### <number>' (found: {(mark + final)[:40]!r})")
    return Problem(problem_id(question), question, solution, answer)


def _says_a_number(answer: str) -> bool:
    """Whether grading can read the answer: with a gold that it cannot, no sample would ever count."""
    try:
        return read_number(answer) is not None
    except ConflictError:
        return False


def _text(where: str, row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        raise DataError(f"{where}: no {field!r}; fields there: {', '.join(map(str, row)) or 'none'}: add it")
    if not isinstance(value, str):
        raise DataError(f"{where}: {field!r} must be text, found {type(value).__name__}: put it in quotes")
    if not value.strip():
        raise DataError(f"{where}: {field!r} is empty: fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {field!r} has half a surrogate pair: write the character whole") from None
    return value.strip()

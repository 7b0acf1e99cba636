"""Data sets of the hub: the files of a split by name, and what is read from a hub on a loopback port."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rft_ray.config import ProblemSet
from rft_ray.data.hub_rows import files_of_split
from rft_ray.data.problem_sources import commit_of
from rft_ray.data.problems import origins, prepare
from rft_ray.data.row_files import DataError
from tests.hubserver import COMMIT, hub_server

ROW = {"question": "What is 1 and 1?", "answer": "1+1 = 2\n#### 2"}
LINE = json.dumps(ROW).encode() + b"\n"


@pytest.mark.parametrize(
    ("split", "files", "chosen"),
    [
        ("train", ["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        ("train", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], None),
        ("test", ["data/test-00000-of-00001-0a1b.parquet"], None),
        ("train", ["train-1.csv.gz", "train-2.csv.gz"], None),
        ("train", ["train.jsonl", "train.parquet", "train.csv"], ["train.parquet"]),
        ("train", ["train/a.arrow", "train/state.json", "test/a.arrow"], ["train/a.arrow"]),
        ("train", ["train/1.arrow", "train/2.arrow", "dataset_dict.json"], ["train/1.arrow", "train/2.arrow"]),
        ("train", ["README.md", "dataset_infos.json", "All-395K.json"], ["All-395K.json"]),
        ("test", ["main/test.jsonl", "other/test.jsonl"], ["main/test.jsonl"]),
        ("validation", ["val.jsonl", "validation.tsv.zst"], ["validation.tsv.zst"]),
    ],
)  # fmt: skip
def test_the_files_of_a_split_are_found_by_name(split: str, files: list[str], chosen: list[str] | None) -> None:
    assert files_of_split("hub:a/b", files, split) == (chosen or files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["test.jsonl", "dev.jsonl"], "no data file of a split 'train'; splits there: dev, test"),
        (["README.md"], "no data file of a split 'train'; splits there: none (it holds no .jsonl, "),
        (["a/train.jsonl", "b/train.jsonl"], "split 'train' is in the folders a, b: write <dataset>/<folder>"),
        (["train-00000-of-00003.parquet"], "1 of 3 files are there: complete the download"),
    ],
)
def test_a_split_that_cannot_be_read_is_refused(files: list[str], said: str) -> None:
    with pytest.raises(DataError) as refusal:
        files_of_split("hub:a/b:train", files, "train")
    assert str(refusal.value).startswith(f"hub:a/b:train: {said}")


def test_a_folder_without_the_split_is_named() -> None:
    with pytest.raises(DataError, match="no data file of a split 'train' in the folder c; splits there: train"):
        files_of_split("hub:a/b/c:train", ["a/train.jsonl"], "train", ("c",))


def arrow() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([ROW])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_files_of_every_kind_are_read_from_the_hub_with_the_commit(tmp_path: Path) -> None:
    code = (
        "import sys; from rft_ray.data.problem_sources import commit_of, load_problems\n"
        "for source in sys.argv[1:]: print(len(load_problems(source)), commit_of(source))"
    )
    repositories = {
        "datasets/own/lines": {"README.md": b"", "test.jsonl": LINE},
        "datasets/own/packed": {"part/train.json.gz": gzip.compress(b"[" + LINE + b"]")},
        "datasets/own/arrow": {"train/data-00000-of-00001.arrow": arrow(), "train/state.json": b"{}"},
        "datasets/own/csv": {"data/train.csv": b'question,answer\n"What is 1 and 1?",2\n'},
        "datasets/apple/GSM-Symbolic": {f"{name}/test.jsonl": LINE for name in ("main", "p1", "p2")},
    }
    sources = ["hub:own/lines:test", f"hub:own/lines@{COMMIT}:test", "hub:own/packed/part:train"]
    sources += ["hub:own/arrow:train", "hub:own/csv:train", "gsm-symbolic:p2"]
    with hub_server(repositories) as endpoint:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RFT_"))}
        variables |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": endpoint, "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", code, *sources]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"1 {COMMIT}"] * len(sources), done.stderr
    assert not list(tmp_path.rglob("p1/test.jsonl"))


def test_a_file_has_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(LINE)
    assert commit_of(str(path)) == commit_of("tiny:train:10") == ""


def test_a_plan_names_the_commits_of_its_data(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(LINE)
    problems = prepare(ProblemSet(source=str(path)), 0, 10)
    assert origins(problems, problems) == {"train": problems.fingerprint, "test": problems.fingerprint}
    pinned = type(problems)(problems.problems, problems.count, problems.fingerprint, commit=COMMIT)
    assert origins(pinned, problems)["commit of train"] == COMMIT

"""Prompts as people have them: the columns, the order of the file, repeated rows, and rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray.data.prompt_rows import read_prompts
from rft_ray.data.row_files import DataError


def written(folder: Path, *rows: object) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(source: str, column: str | None = None) -> list[str]:
    read = read_prompts(source, column=column, per_block=2)
    return [problem.question for problem in read.prompts.problems]


def test_the_order_is_that_of_the_file_and_a_repeated_prompt_counts_once(tmp_path: Path) -> None:
    source = written(tmp_path, {"prompt": "b"}, {"question": "a", "answer": "1"}, {"prompt": " b "}, {"input": "c"})
    assert texts(source) == ["b", "a", "c"]
    assert read_prompts(source, column=None, per_block=2).repeated == 1


def test_a_prompt_is_a_text_or_one_message_of_the_user(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    assert texts(written(tmp_path, chat, {"prompt": chat["messages"]})) == ["Hello"]
    assert texts(written(tmp_path, {"prompt": "a", "text": "b"}), "text") == ["b"]


def test_only_the_prompts_of_a_table_are_read(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b"], "picture": pa.array([b"\x00", b"\x01"])})
    pq.write_table(table, tmp_path / "prompts.parquet")
    assert texts(str(tmp_path / "prompts.parquet")) == ["a", "b"]


def test_the_name_of_the_set_holds_the_prompts_and_their_order(tmp_path: Path) -> None:
    def name(*prompts: str, per_block: int = 2) -> str:
        source = written(tmp_path, *({"prompt": prompt} for prompt in prompts))
        return read_prompts(source, column=None, per_block=per_block).prompts.fingerprint

    assert len({name("a", "b"), name("b", "a"), name("a", "c"), name("a", "b", per_block=3)}) == 4
    assert name("a", "b") == name("a", "b", "a")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": "1"}, "prompts.jsonl:1: no column 'prompt' or .*; it has: answer: .*--column"),
        ({"prompt": " "}, "prompts.jsonl:1: 'prompt' is empty"),
        ({"prompt": 3}, "prompts.jsonl:1: 'prompt' must be text, not int"),
        ({"prompt": "\ud800"}, "half a surrogate pair"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, "with --system"),
    ],
)
def test_a_row_that_is_no_prompt_is_refused_with_file_and_line(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        texts(written(tmp_path, row))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no row: give a file of prompts"):
        texts(written(tmp_path))

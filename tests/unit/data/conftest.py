"""Fixtures that write rows of problems into files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.problem_rows import Write


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Write rows, or raw lines, into a .jsonl file and return its path."""

    def write(*rows: dict[str, Any] | bytes, name: str = "data.jsonl") -> str:
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in rows]
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
        return str(tmp_path / name)

    return write


@pytest.fixture
def parquet(tmp_path: Path) -> Write:
    def write(*rows: dict[str, Any], name: str = "data.parquet") -> str:
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / name)
        return str(tmp_path / name)

    return write

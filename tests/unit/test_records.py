"""Records survive Arrow; schemas follow the classes."""

from dataclasses import asdict

import pyarrow as pa
import pytest

from rft_ray.records import (
    Completion,
    GradedCompletion,
    JudgedPath,
    Problem,
    ReasoningPath,
    Status,
    from_table,
    problem_id,
    schema_of,
    to_table,
)

ROWS = [
    Problem("a" * 16, "Tom has 3 pens …?", "3+2 = <<3+2=5>>5\n#### 5", "5"),
    Completion("a" * 16, 17, "3+2 = 5\n#### 5", "stop", 61, 24),
    GradedCompletion("a" * 16, 17, Status.NO_ANSWER, None, "no answer"),
    ReasoningPath("a" * 16, "Tom has …?", "#### 5", ("3+2=5", "5*1=5"), "tiny-m", 17, 4, False),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_rows_survive_arrow(row: Problem | Completion | GradedCompletion | ReasoningPath) -> None:
    assert from_table(to_table([row], type(row)), type(row)) == [row]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_table_is_that_of_its_rows_as_dictionaries(row: Problem | Completion | GradedCompletion) -> None:
    """A column that a row does not have is null, as in a corpus that has both kinds of paths."""
    record = JudgedPath if isinstance(row, ReasoningPath) else type(row)
    assert to_table(iter([row]), record).equals(pa.Table.from_pylist([asdict(row)], schema=schema_of(record)))


@pytest.mark.parametrize("record", [type(row) for row in ROWS])
def test_an_empty_table_has_the_schema(record: type) -> None:
    assert to_table([], record).schema == schema_of(record)


def test_identity_of_a_problem_ignores_outer_space_only() -> None:
    assert problem_id(" a b\n") == problem_id("a b")
    assert problem_id("a b") != problem_id("a  b")

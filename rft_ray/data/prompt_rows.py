"""Rows of prompts, as people have them -> problems without answers, in the order of the file.

In: any file of rows (`row_files.py`). A prompt is a text in one of PROMPT_COLUMNS, or `messages` with one message of
the user. A row that cannot be read is refused with file, line and column. Limits: the prompts are held in memory; a
prompt that comes again is counted and sampled once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft_ray.data.gold_rows import MESSAGES, QUESTION_COLUMNS
from rft_ray.data.problems import ProblemSet
from rft_ray.data.row_files import DataError, rows, text_of
from rft_ray.records import Problem, problem_id
from rft_ray.store.names import fingerprint_of

PROMPT_COLUMNS = ("prompt", *(column for column in QUESTION_COLUMNS if column != "prompt"))
COLUMNS_HELP = f"""\
columns of a file of prompts:
  prompt  the first of {", ".join(PROMPT_COLUMNS)}; or {MESSAGES}, with one message of the user
"""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The prompts of a file. Example: PromptFile(<ProblemSet of 1200>, repeated=3)"""

    prompts: ProblemSet
    """Problems without solution and answer, in the order of the file."""
    repeated: int
    """Rows with the prompt of an earlier row."""


def read_prompts(source: str, *, column: str | None, per_block: int) -> PromptFile:
    """The prompts of a file, a folder or a glob. Raises DataError, and StoreError for S3 out of reach.

    `column`: the column of the prompt; None: found by name.
    """
    columns = (column,) if column else PROMPT_COLUMNS

    def choose(file: str, names: Sequence[str]) -> Sequence[str]:
        chosen = [name for name in names if name in (*columns, MESSAGES)]
        return chosen or [_column(file, dict.fromkeys(names), columns)]

    texts = [_prompt(where, row, columns) for where, row in rows(source, choose=choose)]
    if not texts:
        raise DataError(f"{source}: there is no row: give a file of prompts")
    distinct = tuple(Problem(problem_id(text), text, "", "") for text in dict.fromkeys(texts))
    content = hashlib.sha256("\n".join(problem.problem_id for problem in distinct).encode()).hexdigest()
    name = fingerprint_of("problems", per_block=per_block, prompts=content)
    return PromptFile(ProblemSet(distinct, len(distinct), name), len(texts) - len(distinct))


def _prompt(where: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The prompt of a row. Raises DataError."""
    column = _column(where, row, columns)
    text = _said(where, row[column]) if isinstance(row[column], list) else text_of(where, row, column)
    if not text.strip():
        raise DataError(f"{where}: {column!r} is empty: fill it in or remove the row")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {column!r} has half a surrogate pair: write the whole character") from None
    return text.strip()


def _column(where: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The first of the columns that the row has, or MESSAGES. Raises DataError where it has neither."""
    for column in (*columns, MESSAGES):
        if column in row:
            return column
    wanted, has = " or ".join(map(repr, columns)), ", ".join(map(str, row)) or "none"
    raise DataError(f"{where}: no column {wanted}; it has: {has}: rename one, or name it with --column")


def _said(where: str, messages: list[Any]) -> str:
    """The text of a chat's one message. Raises DataError for a chat of several, whose order no prompt format keeps."""
    message = messages[0] if len(messages) == 1 and isinstance(messages[0], dict) else {}
    if message.get("role") != "user" or not isinstance(message.get("content"), str):
        raise DataError(
            f"{where}: {MESSAGES!r} must hold one message, of the user, with a text: give a system text with --system, "
            "and remove earlier turns"
        )
    return str(message["content"])

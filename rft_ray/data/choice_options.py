"""The options of a multiple-choice problem -> lines of its question: `(A) 21`. Pure.

In: a row with options in a column of their own: `options` or `choices`, or one column for each, as `A`, `B`, `C` or
`option_a`, `option_b`. A list holds texts, or texts with their labels, as JSON or Python write it. Out: the question
with its options, which is what a model is asked and what reports show.

Limits: ten options, A to J, which are the letters that `grading.verifier=choice` reads.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rft_ray.data.row_files import DataError

LETTERS = "ABCDEFGHIJ"
LISTS = ("options", "choices")
_COLUMN = re.compile(r"(?:(?:option|choice)[ _]?)?([a-j])", re.IGNORECASE)
_LABEL = re.compile(r"\s*\(?([A-J])\)\s*|\s*([A-J])[.:]\s+")
_MOST_CHARACTERS = 100_000

Option = tuple[str, str]
"""(letter, text)."""


def option_columns(names: Sequence[str]) -> list[str]:
    """The columns that hold options: a list, or a column for each letter from A on; none where there is no B."""
    if lists := [name for name in names if name.lower() in LISTS]:
        return lists[:1]
    lettered = {match[1].upper(): name for name in reversed(names) if (match := _COLUMN.fullmatch(name))}
    return [lettered[letter] for letter in sorted(lettered)] if {"A", "B"} <= lettered.keys() else []


def with_options(where: str, question: str, row: Mapping[str, Any]) -> str:
    """The question and a line for each option, unless it has them. Raises DataError where they cannot be read."""
    columns = option_columns(list(row))
    if len(columns) == 1:
        options = _listed(where, columns[0], row[columns[0]])
    else:
        cells = [(LETTERS[at], _text(row[column])) for at, column in enumerate(columns)]
        options = [(letter, text) for letter, text in cells if text]
    if len(options) == 1:
        raise DataError(f"{where}: {columns[0]!r} holds one option only: give two or more, or remove the row")
    if all(_is_in(question, *option) for option in options):
        return question
    return "\n".join([question, *(f"({letter}) {text}" for letter, text in options)])


def labelled(options: Sequence[str]) -> list[Option]:
    """Options in order, with the letters that they are written with, as in `A)21`, else those of their places."""
    return [_labelled(LETTERS[at], option) for at, option in enumerate(options)]


def _labelled(letter: str, text: str) -> Option:
    match = _LABEL.match(text)
    return (match[1] or match[2], text[match.end() :]) if match else (letter, text.strip())


def _is_in(question: str, letter: str, text: str) -> bool:
    return re.search(rf"\b{letter}[).:]\s*{re.escape(text)}", question) is not None


def _text(value: Any) -> str:
    """The text of a cell; empty where it holds nothing."""
    return "" if value is None or value != value else " ".join(str(value).split())


def _listed(where: str, column: str, value: Any) -> list[Option]:
    """The options of a list column; none where the cell holds nothing."""
    value = _parsed(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple | Mapping) and not _text(value):
        return []
    texts, labels = _texts_and_labels(value)
    if not isinstance(texts, list | tuple) or not all(map(_text, texts)) or len(texts) > len(LETTERS):
        raise DataError(
            f"{where}: {column!r} must be a list of up to {len(LETTERS)} texts, or of labels and texts "
            f"(it is {str(value)[:60]!r}): correct the row"
        )
    letters = [_text(label).upper() for label in labels]
    if len(set(letters)) == len(texts) == len(letters) and set(letters) <= set(LETTERS):
        return list(zip(letters, map(_text, texts), strict=True))
    return labelled(list(map(_text, texts)))


def _texts_and_labels(value: Any) -> tuple[Any, Sequence[Any]]:
    """Of `[text, …]`, `[{label, text}, …]`, `{label: […], text: […]}` and `{label: text, …}`."""
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), list | tuple):
            return value["text"], value.get("label") or ()
        return list(value.values()), list(value)
    if isinstance(value, list | tuple) and all(isinstance(option, Mapping) for option in value):
        return [option.get("text") for option in value], [option.get("label") for option in value]
    return value, ()


def _parsed(text: str) -> Any:
    """A list or an object as JSON or Python writes it; other text as it is."""
    if not text.strip().startswith(("[", "{")) or len(text) > _MOST_CHARACTERS:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text

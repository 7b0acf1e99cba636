"""`rft-ray grade --explain`: one text with its equations and answers marked, the rules that decided, and the verdict.

In: a text from a file, standard input, or a row of a file of rows, and its gold answer. Out: plain text on standard
output, in colour on a terminal, or JSON. Every character of the text is shown: none acts on the terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rft_ray.config.errors import RftError
from rft_ray.data import external
from rft_ray.data.gold_rows import QUESTION_COLUMNS
from rft_ray.data.row_files import DataError, rows
from rft_ray.grading import COLLECTING, EVALUATING, Mode
from rft_ray.grading.answers import Answer, ReadClaim
from rft_ray.grading.explain import Explanation, Piece, explain, pieces
from rft_ray.grading.unicode_forms import visible

_SOURCE = re.compile(r"(?:gsm8k|hub|tiny|s3):.+")
COLOURS = {"holds": "32", "fails": "1;31", "unread": "33", "over": "33", "taken_back": "2", "answer": "1;36"}
"""Outcome of an equation -> ANSI colour."""


def main(options: argparse.Namespace) -> int:
    """Print the explanations and return the exit code: 0 done, 2 the file, the row or the gold cannot be used."""
    try:
        texts = list(_texts(options))
    except (RftError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    modes: tuple[Mode, ...] = ("paper", "strict") if options.mode == "both" else (options.mode or "strict",)
    tolerance = EVALUATING if options.tolerance == "evaluating" else COLLECTING
    explained = [
        explain(text, gold, mode, truncated=reason == "length", tolerance=tolerance, unread=options.unread)
        for text, gold, reason in texts
        for mode in modes
    ]
    if options.json:
        shown = json.dumps([as_data(explanation) for explanation in explained], indent=1)
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        shown = "\n\n".join(as_text(explanation, colour=colour) for explanation in explained)
    print(shown)
    return 0


# --- Input ----------------------------------------------------------------------------------------


def _texts(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """(text, gold answer, finish reason). Raises DataError, OSError, and StoreError for S3 out of reach."""
    if options.row is None:
        content = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
        yield content.decode("utf-8", "replace"), options.gold, ""
        return
    where, row = next(islice(rows(options.file), options.row - 1, None), ("", None))
    if row is None:
        raise DataError(f"{options.file}: it has no row {options.row}: give the number of a row, from 1")
    wanted = [options.completion_column] if options.completion_column else external.COMPLETION_COLUMNS
    column = next((name for name in wanted if name in row), None)
    if column is None:
        raise DataError(f"{where}: no column {' or '.join(wanted)}: name it with --completion-column")
    written = row[column]
    gold = _gold_of(options, where, row)
    reason = str(row.get("finish_reason") or "").lower()
    for text in written if isinstance(written, list) else [written]:
        if not isinstance(text, str):
            raise DataError(f"{where}: {column!r} must be text or a list of texts, not {type(text).__name__}")
        yield text, gold, "length" if reason in external.TOKEN_LIMIT else reason


def _gold_of(options: argparse.Namespace, where: str, row: Mapping[str, Any]) -> str:
    """The gold answer of a row. Raises DataError where there is none."""
    if options.gold is None:
        if row.get("gold") is None:
            raise DataError(f"{where}: no column 'gold': give --gold, the answer or a source of gold answers")
        return str(row["gold"])
    if not _SOURCE.fullmatch(options.gold) and not os.path.exists(options.gold):  # Path.exists raises for long texts
        return str(options.gold)
    gold = external.gold_answers(options.gold)
    names = [options.question_column] if options.question_column else QUESTION_COLUMNS
    asked = [str(row[name]) for name in names if name in row]
    question = next((question for question in asked if question.strip() in gold), None)
    if question is None:
        raise DataError(f"{where}: its question is not in {options.gold}: choose the matching --gold")
    return gold[question.strip()]


# --- Output ---------------------------------------------------------------------------------------


def as_data(explanation: Explanation) -> dict[str, Any]:
    """An explanation in JSON's types. `start` and `end` count characters of `text`."""
    text = explanation.text
    return {
        "text": text,
        "gold": explanation.gold,
        "mode": explanation.mode,
        "verdict": asdict(explanation.verdict),
        "equations": [
            asdict(reading) | {"text": text[reading.start : reading.end]} for reading in explanation.readings
        ],
        "answers": [_claim_data(claim) | {"text": text[claim.start : claim.end]} for claim in explanation.claims],
    }


def _claim_data(claim: ReadClaim) -> dict[str, Any]:
    return {
        "start": claim.start,
        "end": claim.end,
        "rule": claim.rule,
        "answer": _number(claim.answer) if claim.answer else None,
        "note": claim.note,
    }


def as_text(explanation: Explanation, *, colour: bool = False) -> str:
    """An explanation as lines: the marked text, its equations and answers by number, and the verdict."""
    verdict = explanation.verdict
    lines = [*_marked(explanation, colour).split("\n"), ""]
    if explanation.readings:
        lines += ["equations", *_table(_equation_rows(explanation)), ""]
    if explanation.claims:
        lines += ["answers", *_table(_answer_rows(explanation)), ""]
    lines.append(f"{explanation.mode}: {verdict.status}" + (f" ({_line(verdict.reason)})" if verdict.reason else ""))
    lines.append(f"answer: {'none' if verdict.answer is None else _line(verdict.answer)}")
    lines.append(f"gold: {_line(explanation.gold[-200:])}")
    return "\n".join(lines)


def _marked(explanation: Explanation, colour: bool) -> str:
    """The text with `[1|3+4 = 7]` around equations and `{a|#### 7}` around answers."""
    cut = pieces(explanation.text, explanation.readings, explanation.claims)
    before = Piece("", None, None)
    written: list[str] = []
    for piece, after in zip(cut, [*cut[1:], before], strict=True):
        opened = f"{{{_letter(piece.claim)}|" if piece.claim not in (None, before.claim) else ""
        opened += f"[{piece.reading + 1}|" if piece.reading is not None and piece.reading != before.reading else ""
        closed = "]" if piece.reading not in (None, after.reading) else ""
        closed += "}" if piece.claim not in (None, after.claim) else ""
        kind = "" if piece.claim is None else "answer"
        kind = kind if piece.reading is None else explanation.readings[piece.reading].outcome
        written.append(opened + _coloured(visible(piece.text), COLOURS.get(kind, "") if colour else "") + closed)
        before = piece
    return "".join(written)


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _equation_rows(explanation: Explanation) -> list[list[str]]:
    return [
        [str(number), reading.outcome, _line(reading.shown) or "-", _line(reading.rule)]
        for number, reading in enumerate(explanation.readings, 1)
    ]


def _answer_rows(explanation: Explanation) -> list[list[str]]:
    return [
        [
            _letter(index),
            _number(claim.answer) if claim.answer else "-",
            claim.rule,
            _line(claim.note) or "counts",
        ]
        for index, claim in enumerate(explanation.claims)
    ]


def _number(answer: Answer) -> str:
    return answer.text + "%" * answer.percent


def _letter(index: int | None) -> str:
    """`a` to `z`, then `a1` to `z1`, …"""
    turn, letter = divmod(index or 0, 26)
    return chr(ord("a") + letter) + (str(turn) if turn else "")


def _line(text: str) -> str:
    return visible(text.replace("\n", " "))


def _table(table: list[list[str]]) -> list[str]:
    """Rows with their columns aligned; the last is as long as it is."""
    widths = [min(48, max(map(len, column))) for column in zip(*table, strict=True)][:-1]
    return [
        "  " + "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in table
    ]

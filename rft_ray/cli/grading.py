"""Grades and selects over anyone's completions: a file and gold answers -> counts, and verdicts where asked for.

    rft-ray grade completions.jsonl --gold gsm8k:train [--mode both] [--out verdicts.jsonl]

FILE has one completion a row (JSONL or Parquet): the question under `question`, `problem`, `prompt` or `query`; the
text under `completion`, `response`, `text`, `output` or `answer`, a string or a list of strings; `finish_reason`, where
present, tells truncated texts. Gold is a file with `question` and `answer` (the final answer or the whole solution), or
a source by name: `gsm8k:train`, `hub:<dataset>:<split>`, `tiny:train:600`. The first row of a file says which of these
columns it has. A gold file is itself a FILE, which must come out all correct.

Limits: both files are read into memory; rows without a gold answer are counted and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.data import external
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.row_files import DataError, rows, text_of
from rft_ray.grading import COLLECTING, EVALUATING, MODES, grade
from rft_ray.paths import NORMAL_FORMS, distinct_counts, select
from rft_ray.records import Status, Verdict

QUESTION_COLUMNS = ("question", "problem", "prompt", "query")
COMPLETION_COLUMNS = ("completion", "response", "text", "output", "generation", "answer")
NAMED = ("gsm8k", "hub", "tiny")
GOLD_COLUMNS = ("answer", "solution", "response", "gold")


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a file.

    Example: Sample("Tom has 3 pens …?", "3+2 = <<3+2=5>>5\\n#### 5", "stop")
    """

    question: str
    text: str
    finish_reason: str


def main(arguments: Sequence[str] | None = None, prog: str = "rft-ray grade") -> int:
    """Grade the file and return the exit code: 1 when a file cannot be read or no completion has a gold answer."""
    options = _parser(prog).parse_args(arguments)
    try:
        gold = read_gold(options.gold)
        samples = list(read_samples(options.file))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    known = [sample for sample in samples if sample.question in gold]
    if not known:
        print(f"error: no question of {options.file} stands in {options.gold}", file=sys.stderr)
        return 1
    print(f"{len(known)} completions of {len({s.question for s in known})} problems", end="")
    print(f"; {len(samples) - len(known)} more without a gold answer left out")
    modes = MODES if options.mode == "both" else (options.mode,)
    tolerance = EVALUATING if options.tolerance == "evaluating" else COLLECTING
    verdicts: dict[str, list[Verdict]] = {}
    for mode in modes:
        started = time.perf_counter()
        verdicts[mode] = [
            grade(s.text, gold[s.question], mode, truncated=s.finish_reason == "length", tolerance=tolerance)
            for s in known
        ]
        _print_mode(mode, known, verdicts[mode], time.perf_counter() - started)
    if len(modes) > 1:
        _print_differences(verdicts)
    if options.out:
        _write(options.out, known, verdicts)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="completions: .jsonl or .parquet")
    parser.add_argument("--gold", metavar="SOURCE", required=True, help="gsm8k:train, hub:…, tiny:…, or a file")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both")
    parser.add_argument("--tolerance", choices=["collecting", "evaluating"], default="collecting")
    parser.add_argument("--out", type=Path, help="write one JSON line per completion: verdicts, selection")
    return parser


def read_gold(source: str) -> dict[str, str]:
    """Question (stripped) -> gold answer or solution. Raises DataError where a row or a column cannot be read."""
    if source.partition(":")[0] in NAMED and not Path(source).exists():
        return {problem.question.strip(): problem.solution for problem in load_problems(source)}
    found: dict[str, str] = {}
    question = answer = ""
    for where, row in rows(source):
        question = question or _column(where, row, QUESTION_COLUMNS)
        answer = answer or _column(where, row, GOLD_COLUMNS)
        if row.get(answer) is None:
            raise DataError(f"{where}: no {answer!r}: add the gold answer or remove the row")
        found[text_of(where, row, question).strip()] = str(row[answer])
    return found


def read_samples(path: Path) -> Iterator[Sample]:
    """Completions of a file, a list of texts flattened. Raises DataError where a row or a column cannot be read."""
    question = completion = ""
    for where, row in rows(str(path)):
        question = question or _column(where, row, QUESTION_COLUMNS)
        completion = completion or _column(where, row, COMPLETION_COLUMNS)
        asked = text_of(where, row, question).strip()
        for text, reason in external.samples_of(where, row, completion):
            yield Sample(asked, text, reason)


def _column(where: str, row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Which column of a file holds something: the first known one. The first row decides."""
    for name in names:
        if name in row:
            return name
    raise DataError(f"{where}: none of the columns {', '.join(names)}; it has: {', '.join(row) or 'none'}: rename one")


def _texts_by_question(samples: list[Sample], verdicts: list[Verdict]) -> dict[str, list[str]]:
    """Correct texts of each question, in the order of the file."""
    texts: dict[str, list[str]] = {}
    for sample, verdict in zip(samples, verdicts, strict=True):
        if verdict.status is Status.CORRECT:
            texts.setdefault(sample.question, []).append(sample.text)
    return texts


def _print_mode(mode: str, samples: list[Sample], verdicts: list[Verdict], seconds: float) -> None:
    counts = Counter(verdict.status for verdict in verdicts)
    distinct: Counter[str] = Counter()
    for texts in _texts_by_question(samples, verdicts).values():
        distinct.update(distinct_counts(texts, mode))
    print(f"\n{mode} ({len(verdicts) / max(seconds, 1e-9):,.0f} completions/s)")
    for status in Status:
        print(f"  {status.value:<13}{counts[status]:>9}  {counts[status] / len(verdicts):7.2%}")
    for form in NORMAL_FORMS:
        print(f"  distinct paths, {form:<16}{distinct[form]:>7}")


def _print_differences(verdicts: dict[str, list[Verdict]]) -> None:
    pairs = zip(verdicts["paper"], verdicts["strict"], strict=True)
    changed = Counter((paper.status, strict.status) for paper, strict in pairs if paper.status != strict.status)
    print("\ndifferences, paper -> strict")
    for (paper_status, strict_status), count in changed.most_common():
        print(f"  {paper_status.value} -> {strict_status.value}: {count}")
    if not changed:
        print("  none")


def _write(path: Path, samples: list[Sample], verdicts: dict[str, list[Verdict]]) -> None:
    """One JSON line per completion: question, text, and per mode status, answer, detail, selected."""
    selected = {mode: _selected(samples, found, mode) for mode, found in verdicts.items()}
    with path.open("w", encoding="utf-8") as out:
        for index, sample in enumerate(samples):
            row: dict[str, Any] = {"question": sample.question, "completion": sample.text}
            for mode, found in verdicts.items():
                verdict = found[index]
                row[mode] = {
                    "status": verdict.status.value,
                    "answer": verdict.answer,
                    "detail": verdict.detail,
                    "shared_by": selected[mode].get(index, 0),
                }
            out.write(json.dumps(row) + "\n")


def _selected(samples: list[Sample], verdicts: list[Verdict], mode: str) -> dict[int, int]:
    """Index of each representative -> how many completions share its equation list."""
    indices: dict[str, list[int]] = {}
    for index, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
        if verdict.status is Status.CORRECT:
            indices.setdefault(sample.question, []).append(index)
    return {
        of_question[one.index]: one.shared_by
        for of_question in indices.values()
        for one in select([samples[i].text for i in of_question], mode)
    }

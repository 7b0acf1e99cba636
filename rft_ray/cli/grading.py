"""Grade completions of any sampler against gold answers: prints counts, and writes verdicts with --out.

    rft-ray grade completions.jsonl --gold gsm8k:train [--mode both] [--out verdicts.jsonl]
    rft-ray grade --explain solution.txt --gold 18
    rft-ray grade --explain completions.jsonl --row 3 --gold gsm8k:train

FILE is any file of rows (docs/your-data.md), with one completion or one list of completions per row. Gold is a file of
questions with final answers or whole solutions, or a source by name: `gsm8k:train`, `hub:<dataset>:<split>`,
`tiny:train:600`.
A gold file graded against itself is all correct.

With --explain, FILE is one text (`-`: standard input) or, with --row, a file of rows. It prints the text with its
equations and answers marked, how each is read, the rule that decided, and the verdict. Gold is then the answer itself
or, with --row, also a source as above, or the row's column `gold` where --gold is left out.

Exit codes: 0 done, 2 the files or --out cannot be used.
Limits: both files are read into memory; completions without a gold answer are counted and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.cli import explain
from rft_ray.cli.job import check_out
from rft_ray.config.errors import InputError, RftError
from rft_ray.data import external
from rft_ray.grading import COLLECTING, EVALUATING, MODES, grade
from rft_ray.grading.grader import UNREAD
from rft_ray.paths import NORMAL_FORMS, distinct_counts, select
from rft_ray.records import PARTLY_READ, Status, Verdict
from rft_ray.store.base import partial_file


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a file.

    Example: Sample("Tom has 3 pens …?", "3+2 = <<3+2=5>>5\\n#### 5", "stop")
    """

    question: str
    text: str
    finish_reason: str


def main(arguments: Sequence[str] | None = None, prog: str = "rft-ray grade") -> int:
    """Grade the file and return the exit code: 0 done, 2 the files or --out cannot be used."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.explain:
        return explain.main(options)
    try:
        out = _checked_out(options)
        gold = external.gold_answers(options.gold)
        samples = list(_samples(options, gold))
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = [sample for sample in samples if sample.question in gold]
    if not known:
        print(f"error: no question of {options.file} is in {options.gold}", file=sys.stderr)
        return 2
    print(f"{len(known)} completions of {len({s.question for s in known})} problems", end="")
    print(f"; {len(samples) - len(known)} more without a gold answer left out")
    modes = MODES if options.mode in ("both", None) else (options.mode,)
    tolerance = EVALUATING if options.tolerance == "evaluating" else COLLECTING
    verdicts: dict[str, list[Verdict]] = {}
    for mode in modes:
        started = time.perf_counter()
        verdicts[mode] = [
            grade(
                s.text,
                gold[s.question],
                mode,
                truncated=s.finish_reason == "length",
                tolerance=tolerance,
                unread=options.unread,
            )
            for s in known
        ]
        _print_mode(mode, known, verdicts[mode], time.perf_counter() - started)
    if len(modes) > 1:
        _print_differences(verdicts)
    if out:
        _write(out, known, verdicts)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog=external.COLUMNS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="completions")
    parser.add_argument("--gold", metavar="SOURCE", help="see above")
    parser.add_argument("--question-column", metavar="NAME", help="column of the question (default: see below)")
    parser.add_argument("--completion-column", metavar="NAME", help="column of the completion (default: see below)")
    parser.add_argument("--mode", choices=[*MODES, "both"], help="how to grade (default: both; with --explain: strict)")
    parser.add_argument(
        "--unread",
        choices=UNREAD,
        default="accept",
        help="strict: a right answer is correct, or undecided, where some equations cannot be read "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        choices=["collecting", "evaluating"],
        default="collecting",
        help="compare answers as when paths are collected, or as in evaluation (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.jsonl",
        help="local file to write or replace: each completion's verdicts and selection as a line of JSON",
    )
    parser.add_argument("--explain", action="store_true", help="explain the verdict on one text")
    parser.add_argument("--row", type=int, metavar="N", help="with --explain: the row of the file, from 1")
    parser.add_argument("--json", action="store_true", help="with --explain: print JSON")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message where options do not fit together."""
    if not options.explain and (options.row is not None or options.json):
        parser.error("--row and --json belong to --explain")
    if options.explain and options.out:
        parser.error("--explain prints; --out belongs to grading a file")
    if options.row is not None and options.row < 1:
        parser.error("--row must be 1 or more")
    if options.gold is None and not (options.explain and options.row):
        parser.error("the following arguments are required: --gold")


def _checked_out(options: argparse.Namespace) -> Path | None:
    """The file to write, if any. Raises InputError where it cannot be written, or is one of those that are read."""
    if options.out is None:
        return None
    out = check_out("--out", options.out)
    if out.exists() and any(os.path.exists(read) and out.samefile(read) for read in (options.file, options.gold)):
        raise InputError(f"--out {options.out} is a file that is read here: choose another one")
    return out


def _samples(options: argparse.Namespace, gold: Mapping[str, str]) -> Iterator[Sample]:
    """The completions of the file, one by one, with the question as the gold writes it where the gold has it."""
    questions = external.GoldQuestions(gold)
    rows = external.completion_rows(
        options.file, question_column=options.question_column, completion_column=options.completion_column
    )
    for row in rows:
        question = questions.match(row)
        for text, reason in row.texts:
            yield Sample(row.questions[0] if question is None else question, text, reason)


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
    if partly_read := sum(verdict.equations == PARTLY_READ for verdict in verdicts):
        print(f"  right answers whose equations cannot all be read (partly_read): {partly_read}")
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
    """Write one JSON object per completion: question, text, and for each mode status, answer, detail, shared_by."""
    selected = {mode: _selected(samples, of_mode, mode) for mode, of_mode in verdicts.items()}
    with partial_file(path) as partial, partial.open("w", encoding="utf-8") as out:
        for index, sample in enumerate(samples):
            row: dict[str, Any] = {"question": sample.question, "completion": sample.text}
            for mode, of_mode in verdicts.items():
                verdict = of_mode[index]
                row[mode] = {
                    "status": verdict.status.value,
                    "answer": verdict.answer,
                    "detail": verdict.detail,
                    "equations": verdict.equations,
                    "shared_by": selected[mode].get(index, 0),
                }
            out.write(json.dumps(row) + "\n")


def _selected(samples: list[Sample], verdicts: list[Verdict], mode: str) -> dict[int, int]:
    """Index of each representative -> number of completions that share its equation list."""
    indices: dict[str, list[int]] = {}
    for index, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
        if verdict.status is Status.CORRECT:
            indices.setdefault(sample.question, []).append(index)
    return {
        of_question[path.index]: path.shared_by
        for of_question in indices.values()
        for path in select([samples[i].text for i in of_question], mode)
    }

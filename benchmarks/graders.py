"""Grades public data that others have labelled, by the strict rules and by those of other graders.

    python -m benchmarks.graders --fetch FOLDER [--rejects FILE]
    python -m benchmarks.graders --gsm8k-solutions FILE --abel FOLDER --zeroeval FOLDER --bigbench-mistake FILE …

Prints Markdown tables: strict verdicts by the authors' label; which answers each grader accepts; how many wrong steps
are found. `--fetch` gets the files that are not named by an option from their public addresses at pinned commits
(`public_data.py`, 137 MB) into a folder, and uses those that are there. `--rejects` writes the rows to be read by hand
(`verdict_counts.py` lists their kinds).

Exit codes: 0 done, 1 a grader cannot start, 2 a file cannot be used or fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path

from benchmarks import foreign_cases, labelled_rows, public_data, step_mistakes
from benchmarks.labelled_rows import DataSet, LabelledRow
from benchmarks.other_rules import RULES
from benchmarks.step_mistakes import StepCounts
from benchmarks.verdict_counts import MATH_VERIFY, PARTLY_READ, STRICT, Counts, Label, counted
from rft_ray.config.errors import InputError, RftError
from rft_ray.records import Status

STATUSES = (Status.CORRECT, PARTLY_READ, *(status for status in Status if status is not Status.CORRECT))
LABELS: dict[Label, str] = {True: "right", False: "wrong", None: "none"}
Read = Callable[[str], Iterator[LabelledRow]]
READERS: dict[str, tuple[tuple[str, Read], ...]] = {
    "gsm8k-solutions": (("GSM8K's example solutions", labelled_rows.gsm8k_solutions),),
    "abel": (("abel", labelled_rows.abel),),
    "zeroeval": (
        ("ZeroEval, JSON decoded", partial(labelled_rows.zeroeval, form="decoded")),
        ("ZeroEval, as written", partial(labelled_rows.zeroeval, form="written")),
    ),
    "math-verify": (("Math-Verify's test cases", foreign_cases.math_verify),),
    "lm-eval": (("lm-eval's examples", foreign_cases.lm_eval),),
    "run": (("run", labelled_rows.run_completions),),
}
"""Option -> the data sets that are read from its files, by the name that tables show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        sources = _sources(options)
        data = list(_data_sets(sources))
        steps = list(_step_counts(sources, options.limit))
        with options.rejects.open("w", encoding="utf-8") if options.rejects else nullcontext() as rejects:
            counts = {
                one.name: counted(
                    one,
                    processes=options.processes,
                    limit=options.limit,
                    rejects=rejects,
                    math_verify_every=options.math_verify_every,
                )
                for one in data
            }
    except (RftError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (InputError, OSError)) else 1
    print("\n".join(chain(_lines(counts, options.math_verify_every > 0), step_table(steps))))
    return 0


def _lines(counts: dict[str, Counts], with_library: bool) -> Iterator[str]:
    if counts:
        yield from verdict_table(counts)
        yield from answer_table(counts, (STRICT, *RULES, *([MATH_VERIFY] if with_library else [])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in (*READERS, "bigbench-mistake", "mr-gsm8k"):
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="PATH", help=_help(name))
    parser.add_argument(
        "--fetch", type=Path, metavar="FOLDER", help="use the public files in this folder, or fetch them"
    )
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="write the rows to be read by hand, as JSON lines")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first N rows of each data set only")
    parser.add_argument("--processes", type=_positive, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--math-verify-every",
        type=_count,
        default=1,
        metavar="N",
        help="ask Math-Verify about every N-th row only, or with 0 about none: it takes most of the time",
    )
    return parser


def _help(name: str) -> str:
    if name == "run":
        return "runs of rft-ray: their completions, which have no labels"
    return f"files or folders of {public_data.SETS[name].repository}"


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return _count(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number")
    return int(text)


def _sources(options: argparse.Namespace) -> dict[str, list[str]]:
    """Option -> the files or folders to read. Raises FetchError, and InputError where there is nothing to do."""
    sources = {name: list(getattr(options, name.replace("-", "_"))) for name in (*READERS, *public_data.SETS)}
    if options.fetch:
        for name in public_data.SETS:
            if not sources[name]:
                public_data.fetched(name, options.fetch)
                sources[name] = [str(options.fetch / name)]
    if not any(sources.values()):
        raise InputError("no data: name files by options (--help lists them), or fetch them with --fetch FOLDER")
    return sources


def _data_sets(sources: dict[str, list[str]]) -> Iterator[DataSet]:
    for option, readers in READERS.items():
        for name, read in readers:
            if option == "run":  # each run is a data set of its own
                yield from (DataSet(f"run {Path(url).name}", partial(read, url)) for url in sources[option])
            elif sources[option]:
                yield DataSet(name, partial(_rows, read, tuple(sources[option])))


def _rows(read: Read, sources: Iterable[str]) -> Iterator[LabelledRow]:
    return chain.from_iterable(read(source) for source in sources)


def _step_counts(sources: dict[str, list[str]], limit: int | None) -> Iterator[tuple[str, StepCounts]]:
    if paths := sources["bigbench-mistake"]:
        chains = chain.from_iterable(step_mistakes.bigbench_mistake(path) for path in paths)
        yield "BIG-Bench-Mistake, arithmetic", step_mistakes.counted(islice(chains, limit))
    if paths := sources["mr-gsm8k"]:
        yield "MR-GSM8K", step_mistakes.counted(islice(step_mistakes.mr_gsm8k(paths), limit))


def verdict_table(counts: dict[str, Counts]) -> Iterator[str]:
    """Strict verdicts: a line for each data set and label."""
    yield from _head("data set", "label", "rows", *map(str, STATUSES), "accepted by answer")
    for name, data in counts.items():
        for right, label in LABELS.items():
            if rows := data.rows[right]:
                statuses = [f"{data.statuses[right, status]:,}" for status in STATUSES]
                yield _line(name, label, f"{rows:,}", *statuses, _share(data.accepted[right, STRICT], rows))


def answer_table(counts: dict[str, Counts], graders: Sequence[str]) -> Iterator[str]:
    """The rows whose answer each grader accepts: a line for each data set and label, a column for each grader."""
    yield from _head("answers accepted", "label", *graders)
    for name, data in counts.items():
        for right, label in LABELS.items():
            if rows := data.rows[right]:
                of = {grader: data.asked[right] if grader == MATH_VERIFY else rows for grader in graders}
                accepted = {grader: data.accepted[right, grader] for grader in graders}
                yield _line(name, label, *(_of(accepted[grader], of[grader], rows) for grader in graders))


def step_table(steps: Sequence[tuple[str, StepCounts]]) -> Iterator[str]:
    """Wrong steps found: a line for each data set."""
    if not steps:
        return
    yield from _head(
        "steps",
        "solutions with a wrong step",
        "first flagged step is the wrong one",
        "a later one",
        "an earlier one",
        "none is flagged",
        "right solutions",
        "of them with a flagged step",
        "right steps",
        "of them flagged",
    )
    for name, count in steps:
        mistaken = count.chains - count.right
        found = f"{count.found:,} ({_share(count.found, mistaken)})"
        of_solutions = [count.late, count.early, count.missed, count.right, count.false_alarms]
        numbers = [*of_solutions, count.right_steps, count.flagged_right_steps]
        yield _line(name, f"{mistaken:,}", found, *(f"{number:,}" for number in numbers))


def _of(part: int, asked: int, rows: int) -> str:
    """`93 (93.00 %)`, and `of` how many where not all rows were asked about."""
    return f"{part:,} ({_share(part, asked)}{'' if asked == rows else f' of {asked:,}'})"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _head(*columns: str) -> Iterator[str]:
    yield ""
    yield _line(*columns)
    yield "|" + "-|" * len(columns)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())

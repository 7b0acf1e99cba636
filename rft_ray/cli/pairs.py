"""Export preference pairs for DPO from a run: the paths of its corpus against its wrong completions.

    rft-ray pairs runs/demo --out pairs.jsonl --max-per-problem 4

Works on any run with verdicts, made by `rft-ray run` or `rft-ray verify`; does not start Ray. Chosen are the paths of
the run's corpus; where it has none yet, all correct completions, which a note says. Rejected are wrong completions that
were not cut at the token limit. Writes one JSON object per line: `prompt`, `chosen`, `rejected`, as TRL's DPOTrainer
reads them, then the origin of both texts. The three are texts, or lists of messages where the model was asked by its
chat template. Exit codes: 0 done, 2 the run has no pairs, or the run or the file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rft_ray.cli.job import check_out
from rft_ray.cli.named_run import add_run, run_of
from rft_ray.config.errors import RftError
from rft_ray.config.loading import saved_tree
from rft_ray.corpus import preference_pairs
from rft_ray.corpus.graded import recorded_rules
from rft_ray.evaluation.summary import corpora_of, read_summary, samplers_of
from rft_ray.grading import MODES
from rft_ray.grading.grader import UNREAD, Unread
from rft_ray.grading.spec import VerifierSpec, saved_spec
from rft_ray.records import REJECTIONS, Status
from rft_ray.store import NotFound, Store, StoreError, open_run
from rft_ray.store.base import partial_file

EVERY = 50_000
"""A line of progress is printed each time this many pairs are written."""


def main(argv: Sequence[str], prog: str = "rft-ray pairs") -> int:
    """Write the pairs and return the exit code."""
    try:
        options = arguments(argv, prog)
        counts, problems = export(options)
    except (RftError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    print(f"{counts.total():,} pairs of {problems:,} problems: {options.out} (rejected: {shown})")
    return 0


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The parsed options. Raises InputError where there is no run."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_run(parser, "a run with verdicts")
    add("--out", required=True, type=Path, metavar="FILE.jsonl", help="local file to write or replace")
    add("--mode", choices=MODES, help="which verdicts to use (default: those that the run's corpus was made from)")
    add(
        "--max-per-problem",
        type=int,
        default=8,
        metavar="N",
        help="at most N pairs per problem (default: %(default)s)",
    )
    add(
        "--same-model",
        action="store_true",
        help="take both texts of a pair from the same model; a path is of the model whose text is in the corpus",
    )
    add("--unread", choices=UNREAD, help="as in the `rft-ray verify` that graded (default: as in the run's config)")
    others = sorted(set(REJECTIONS) - preference_pairs.REJECTED)
    add(
        "--also-reject",
        nargs="+",
        action="extend",
        default=[],
        choices=others,
        help="statuses to reject as well; truncated: whatever was cut, also with another status",
    )
    options = parser.parse_args(argv)
    if options.max_per_problem < 1:
        parser.error("--max-per-problem must be at least 1")
    options.run = run_of(parser, options, "summary.json")
    return options


def export(options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Write the run's pairs to the file. Returns the counts of `write`. Raises StoreError when the run has none."""
    out = check_out("--out", options.out)
    store = open_run(options.run)
    config = config_of(store)
    corpora = corpora_of(store, config)
    mode = options.mode or next((mode for mode in MODES if mode in corpora), None)
    rows = preference_pairs.export(
        store,
        samplers=samplers_of(store),
        corpus=corpora.get(mode) if mode else None,
        drop_reasoning=config.get("corpus", {}).get("reasoning") == "drop",
        mode=mode,
        rules=rules_of(store, config, options.unread),
        rejected=preference_pairs.REJECTED | {Status(name) for name in options.also_reject},
        most=options.max_per_problem,
        same_model=options.same_model,
        note=lambda line: print(f"note: {line}", file=sys.stderr),
    )
    with partial_file(out) as partial, partial.open("w", encoding="utf-8") as file:
        counts, problems = write(rows, file)
        if not counts:
            raise StoreError(f"no problem of {options.run} has both a right and a wrong path, so nothing was written")
    return counts, problems


def config_of(store: Store) -> dict[str, Any]:
    """The run's saved config, as a tree; empty where it has none, as that of `rft-ray verify`. Raises ConfigError."""
    try:
        return saved_tree(store.read("config.yaml"), f"{store.url}/config.yaml")
    except NotFound:
        return {}


def rules_of(store: Store, config: Mapping[str, Any], unread: Unread | None) -> VerifierSpec:
    """The verifier of a run's config; gsm8k where it has none, as samples graded by `rft-ray verify`."""
    summary = read_summary(store)
    rules = recorded_rules(store, saved_spec(config), summary.fingerprint if summary else "")
    return replace(rules, unread=unread) if unread else rules


def write(rows: Iterable[dict[str, Any]], file: TextIO) -> tuple[Counter[str], int]:
    """Write the pairs as they come. Returns the number of pairs by rejected status, and the number of problems."""
    counts: Counter[str] = Counter()
    problems: set[str] = set()
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[row["rejected_verdict"]] += 1
        problems.add(row["problem_id"])
        if counts.total() % EVERY == 0:
            print(f"  {counts.total():,} pairs", file=sys.stderr, flush=True)
    return counts, len(problems)

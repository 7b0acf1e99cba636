"""Preference pairs for DPO from a run's right and wrong reasoning paths.

    python jobs/export_pairs.py --run runs/demo --out pairs.jsonl --max-per-problem 4

Works on any run that has been verified, of jobs/rft_pipeline.py or jobs/verify.py; starts no Ray. Writes one JSON
object a line: `prompt`, `chosen`, `rejected`, as TRL's DPOTrainer reads them, then where both texts come from.
Exit codes: 0 done, 2 the run has no pairs, or it or the file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rft_ray.corpus import preference_pairs
from rft_ray.data.row_files import DataError
from rft_ray.evaluation.summary import samplers_of
from rft_ray.grading import MODES
from rft_ray.records import REJECTIONS, Status
from rft_ray.store import StoreError, open_store
from rft_ray.store.base import partial_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

EVERY = 50_000


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", required=True, metavar="RUN", help="local folder or s3://bucket/prefix of a verified run")
    add("--out", required=True, type=Path, metavar="FILE.jsonl", help="local file to write or replace")
    add("--mode", choices=MODES, help="whose verdicts (default: strict where the run has them, else paper)")
    add("--max-per-problem", type=int, default=8, metavar="N", help="pairs of one problem (default: %(default)s)")
    add("--same-model", action="store_true", help="both paths of a pair from one model")
    others = sorted(set(REJECTIONS) - preference_pairs.REJECTED)
    add("--also-reject", nargs="+", default=[], choices=others, help="reject these too, not only what is wrong")
    options = parser.parse_args(argv)
    if options.max_per_problem < 1:
        parser.error("--max-per-problem must be at least 1")
    return options


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    try:
        rows = preference_pairs.export(
            store := open_store(options.run),
            samplers=samplers_of(store),
            mode=options.mode,
            rejected=preference_pairs.REJECTED | {Status(name) for name in options.also_reject},
            most=options.max_per_problem,
            same_model=options.same_model,
        )
        with partial_file(options.out) as partial, partial.open("w", encoding="utf-8") as file:
            counts, problems = write(rows, file)
            if not counts:
                raise StoreError(f"no problem of {options.run} has a right and a wrong path: nothing was written")
    except (DataError, StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    print(f"{counts.total():,} pairs of {problems:,} problems: {options.out} (rejected: {shown})")
    return 0


def write(rows: Iterable[dict[str, Any]], file: Any) -> tuple[Counter[str], int]:
    """Write the pairs as they come; returns how many of each rejected verdict, and of how many problems."""
    counts: Counter[str] = Counter()
    problems: set[str] = set()
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[row["rejected_verdict"]] += 1
        problems.add(row["problem_id"])
        if counts.total() % EVERY == 0:
            print(f"  {counts.total():,} pairs", flush=True)
    return counts, len(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

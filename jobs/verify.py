"""Grade anyone's completions and select their distinct reasoning paths, without having run our sampler.

    python jobs/verify.py mistral.jsonl llama.parquet --gold gsm8k:train --mode both --out runs/verify

COMPLETIONS: .jsonl or .parquet, one row per completion (or list of completions), in the columns that
`rft_ray.data.external` lists; `model` where the file holds several (else the file's name), `finish_reason` where known.
Writes a run: completions, verdicts, paths and the corpus (.parquet and .jsonl), and summary.json. Running it again
grades only what is new. Exit codes: 0 done, 1 a stage failed, 2 the files or the store cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.corpus import mode_comparison
from rft_ray.corpus.external import commit, grade_and_select, merge
from rft_ray.data import external
from rft_ray.data.problems import commit_problems
from rft_ray.data.row_files import DataError
from rft_ray.evaluation.summary import read_summary
from rft_ray.grading import MODES, Mode
from rft_ray.paths import NORMAL_FORMS
from rft_ray.plan.jobs import PathJob, VerdictJob
from rft_ray.records import Status
from rft_ray.runtime import actor_pool, ray_cluster
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, StoreError, open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

ray_cluster.prepare_environment()  # before anything below imports Ray


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("completions", nargs="+", metavar="COMPLETIONS", help=".jsonl or .parquet files of completions")
    add("--gold", required=True, metavar="SOURCE", help="gsm8k:train, hub:<dataset>:<split>, tiny:train:600, or a file")
    add("--out", default="runs/verify", metavar="RUN", help="local folder or s3://bucket/prefix (default: %(default)s)")
    add("--mode", choices=[*MODES, "both"], default="strict", help="how to grade (default: %(default)s)")
    add("--normal-form", choices=NORMAL_FORMS, default="as_written", help="when two paths are one")
    add("--dedup", choices=["equations", "none"], default="equations", help="none: every correct path is kept")
    add("--template", default=config.ALPACA, help="prompt template of the corpus, with {query} (default: Alpaca's)")
    question, completion = ", ".join(external.QUESTION_COLUMNS), ", ".join(external.COMPLETION_COLUMNS)
    add("--question-column", metavar="NAME", help=f"default: the first of {question}")
    add("--completion-column", metavar="NAME", help=f"default: the first of {completion}")
    add("--actors", type=int, default=os.cpu_count() or 1, metavar="N", help="verifier actors (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.template.count("{query}") != 1:
        parser.error("--template must contain {query} exactly once")
    if options.actors < 1:
        parser.error("--actors must be at least 1")
    return options


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    try:
        store = open_store(options.out)
        store.check()
        check_other_run(store)
        print(f"reading {', '.join(options.completions)} …", flush=True)
        gold = external.read_gold(options.gold)
        found = external.read_files(
            options.completions,
            gold.problems.problems,
            question_column=options.question_column,
            completion_column=options.completion_column,
        )
        check_known(found, options.gold)
        known = sum(map(len, found.by_model.values()))
        print(f"read {known + found.unknown.total():,} completions, {known:,} of them of {options.gold}", flush=True)
    except (DataError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        summary = run(options, gold, found, store)
    except (actor_pool.StageError, StoreError) as error:
        print(f"error: {error}\nwhat is committed stays: run the same command again to go on", file=sys.stderr)
        return 1
    show(summary)
    print(f"\nsummary: {store.url}/summary.json")
    return 0


def check_other_run(store: Store) -> None:
    """Refuse to replace the summary of a run that another job made."""
    summary = read_summary(store)
    if summary is not None and summary.get("job") != "verify":
        raise StoreError(f"{store.url} holds another job's run: choose another --out")


def check_known(found: external.Foreign, source: str) -> None:
    if found.by_model:
        return
    if not found.unknown:
        raise DataError("the files hold no completions")
    raise DataError(
        f"none of the {found.unknown.total():,} completions answers a question of {source}; the first asks "
        f"{found.unknown_questions[0][:80]!r}: choose the gold it belongs to, or the column with --question-column"
    )


def run(options: argparse.Namespace, gold: external.Gold, found: external.Foreign, store: Store) -> dict[str, Any]:
    """Commit the rows as completions, then grade, select and merge what is missing. Returns the summary, as written."""
    modes: Sequence[Mode] = ("paper", "strict") if options.mode == "both" else (options.mode,)
    watch = Stopwatch(None)
    with watch.stage("completions") as counts:
        commit_problems(store, gold.problems)
        sampled, counts["new_shards"] = commit(found, gold, store, options.template)
    graded = {mode: tuple(VerdictJob(job, mode, "collect") for job in sampled) for mode in modes}
    selected = {mode: PathJob(graded[mode], options.dedup, options.normal_form) for mode in modes}
    grade_and_select(graded, selected, store, options.actors, watch)
    with watch.stage("corpus"):
        corpora = {mode: merge(job, gold, store, options.template) for mode, job in selected.items()}
    with watch.stage("summary"):
        summary = {
            "job": "verify",
            "gold": {"source": options.gold, "problems": gold.problems.count},
            "files": list(options.completions),
            "unknown": {"completions": dict(found.unknown), "questions": found.unknown_questions},
            **mode_comparison.summarize(graded, selected, store),
            "corpus": corpora,
        }
    summary["stages"] = watch.stages
    store.replace("summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
    return summary


def show(summary: Mapping[str, Any]) -> None:
    """The summary as tables."""
    width = max(len("model"), *map(len, summary["ledger"]))
    shown = [str(status) for status in Status]
    print(f"\n{'model':<{width}}  {'mode':<6}  {'completions':>11}", *(f"{name:>12}" for name in shown), end="")
    print(f"  {'accepted':>8}  {'distinct paths':>14}")
    for model, entry in summary["ledger"].items():
        for mode, found in entry["modes"].items():
            print(f"{model:<{width}}  {mode:<6}  {entry['completions']:>11,}", end=" ")
            print(*(f"{found['status'][name]:>12,}" for name in shown), end="")
            print(f"  {found['accepted_share']:>8.2%}  {found['distinct_paths']:>14,}")
    for model, count in summary["unknown"]["completions"].items():
        print(f"left out: {count:,} completions of {model} whose question is not in {summary['gold']['source']}")
    for mode, corpus in summary["corpus"].items():
        under = ", ".join(f"{form} {count:,}" for form, count in summary["distinct_paths"][mode]["under"].items())
        print(f"{mode}: {summary['distinct_paths'][mode]['union']:,} distinct paths of all models ({under})")
        print(f"{mode}: corpus of {corpus['gold']:,} gold solutions and {corpus['paths']:,} paths: {corpus['file']}")
    if len(summary["corpus"]) > 1:
        show_differences(summary["differences"])


def show_differences(differences: Mapping[str, Any]) -> None:
    print(f"\nthe modes differ on {differences['completions']:,} completions ({' -> '.join(differences['modes'])})")
    for kind, count in differences["by_status"].items():
        print(f"  {kind}: {count:,}")
    for example in differences["examples"]:
        print(f"\n  {example['model']}, sample {example['sample_index']} of: {example['question'][:90]!r}")
        for mode, verdict in example["verdicts"].items():
            detail = f" ({verdict['detail']})" if verdict["detail"] else ""
            print(f"    {mode + ':':<7} {verdict['status']}, answer {verdict['answer']}{detail}")
        print(f"    text:   {example['text'][-160:]!r}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

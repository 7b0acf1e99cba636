"""Grade completions of any sampler and select their distinct reasoning paths.

    rft-ray verify mistral.jsonl llama.parquet --gold gsm8k:train --mode both --out runs/verify

COMPLETIONS: any file of rows (docs/your-data.md), with one completion or one list of completions per row.
Writes a run: completions, verdicts, paths and the corpus (.parquet and .jsonl), and summary.json. Running it again
grades only what is new. Exit codes: 0 done, 1 a stage failed, 2 the files or the store cannot be used, 130 stopped by
Ctrl-C, 143 stopped by SIGTERM (docs/run.md).
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from rft_ray.cli.job import carry_out, check_other_run, start
from rft_ray.config import ALPACA
from rft_ray.grading import MODES, Mode
from rft_ray.grading.grader import UNREAD
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.grading.unicode_forms import visible
from rft_ray.paths import NORMAL_FORMS
from rft_ray.plan.jobs import CorpusJob, PathJob, SamplingJob, VerdictJob
from rft_ray.records import Status

if TYPE_CHECKING:
    from rft_ray.corpus.mode_comparison import Differences
    from rft_ray.corpus.verify_summary import VerifySummary
    from rft_ray.data.external import Foreign, Gold
    from rft_ray.store import Store


def main(argv: Sequence[str], prog: str = "rft-ray verify") -> int:
    """Run the job and return its exit code."""
    options = arguments(argv, prog)
    return carry_out(lambda: prepare(options))


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The parsed options."""
    from rft_ray.data.external import COLUMNS_HELP

    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, epilog=COLUMNS_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("completions", nargs="+", metavar="COMPLETIONS", help="files of completions")
    add("--gold", required=True, metavar="SOURCE", help="gsm8k:train, hub:<dataset>:<split>, tiny:train:600, or a file")
    add("--out", default="runs/verify", metavar="RUN", help="local folder or s3://bucket/prefix (default: %(default)s)")
    add("--mode", choices=[*MODES, "both"], default="strict", help="how to grade (default: %(default)s)")
    add(
        "--unread",
        choices=UNREAD,
        default="accept",
        help="strict: a right answer is correct, or undecided, where some equations cannot be read "
        "(default: %(default)s)",
    )
    add(
        "--normal-form",
        choices=NORMAL_FORMS,
        default="as_written",
        help="which paths are equal (default: %(default)s)",
    )
    add(
        "--dedup",
        choices=["equations", "none"],
        default="equations",
        help="none: keep all correct paths (default: %(default)s)",
    )
    add("--template", default=ALPACA, help="prompt template of the corpus, with {query} (default: Alpaca's)")
    add("--question-column", metavar="NAME", help="column of the question (default: see below)")
    add("--completion-column", metavar="NAME", help="column of the completion (default: see below)")
    add("--actors", type=int, default=os.cpu_count() or 1, metavar="N", help="verifier actors (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.template.count("{query}") != 1:
        parser.error("--template must contain {query} exactly once")
    if options.actors < 1:
        parser.error("--actors must be at least 1")
    return options


def prepare(options: argparse.Namespace) -> Callable[[], None]:
    """Read and check everything. Returns the job's work as a function."""
    from rft_ray.corpus.verify_summary import JOB
    from rft_ray.data import hub_records
    from rft_ray.store import mark_run, open_store
    from rft_ray.store.plans import recorded_commits
    from rft_ray.store.run_lock import run_lock

    store = open_store(options.out)
    store.check()
    check_other_run(store, JOB)
    hub_records.recall(store)
    gold, completions = read(options, recorded_commits(store))
    mark_run(store)

    def work() -> None:
        from rft_ray.corpus import external
        from rft_ray.store.shards import missing_shards

        sampled = external.sampling_jobs(completions, gold, options.template)
        graded, selected = plan(options, list(sampled.values()))
        save(options, gold, store, [*sampled.values(), *chain(*graded.values()), *selected.values()])
        with run_lock(store, "job"):
            if missing_shards(store, external.shards_of(graded, selected)):
                start(store)
            summary = run(options, gold, completions, store, sampled=sampled, graded=graded, selected=selected)
        show(summary)
        print(f"\nsummary: {store.url}/summary.json")

    return work


def read(options: argparse.Namespace, commits: Mapping[str, str]) -> tuple[Gold, Foreign]:
    """The gold problems and the completions of all files. Raises DataError.

    `commits`: those that the run has recorded of data sets of the hub.
    """
    from rft_ray.data import external

    print(f"reading {', '.join(options.completions)} …", flush=True)
    gold = external.read_gold(options.gold, commits)
    if gold.problems.note:
        print(f"note: {gold.problems.note}", flush=True)
    completions = external.read_files(
        options.completions,
        gold.problems.problems,
        question_column=options.question_column,
        completion_column=options.completion_column,
    )
    check_known(completions, options.gold)
    known = sum(map(len, completions.by_model.values()))
    total = known + completions.unknown.total()
    print(f"read {total:,} completions, {known:,} of them for questions of {options.gold}", flush=True)
    return gold, completions


def check_known(completions: Foreign, source: str) -> None:
    """Raise DataError when no completion answers a gold problem."""
    from rft_ray.data.row_files import DataError

    if completions.by_model:
        return
    if not completions.unknown:
        raise DataError("the files hold no completions")
    raise DataError(
        f"none of the {completions.unknown.total():,} completions answers a question of {source}; the first asks "
        f"{completions.unknown_questions[0][:80]!r}: choose the matching --gold, or name the right column with "
        "--question-column"
    )


def plan(
    options: argparse.Namespace, sampled: Sequence[SamplingJob]
) -> tuple[dict[Mode, tuple[VerdictJob, ...]], dict[Mode, PathJob]]:
    """The verdict jobs and the path job of each mode."""
    modes: Sequence[Mode] = ("paper", "strict") if options.mode == "both" else (options.mode,)
    strict = VerifierSpec(unread=options.unread)
    rules = {mode: strict if mode == "strict" else DEFAULT for mode in modes}
    graded = {mode: tuple(VerdictJob(job, mode, "collect", rules=rules[mode]) for job in sampled) for mode in modes}
    return graded, {mode: PathJob(graded[mode], options.dedup, options.normal_form) for mode in modes}


def save(options: argparse.Namespace, gold: Gold, store: Store, jobs: Sequence[object]) -> None:
    """Commit the plan to the run, unless it is saved there. `jobs`: all jobs but those of the corpora."""
    from rft_ray.data import hub_records
    from rft_ray.store.plans import COMMIT, save_plan

    problems = gold.problems
    hub_records.record(store, [], [problems])
    corpora = [CorpusJob(problems.fingerprint, problems.count, job) for job in jobs if isinstance(job, PathJob)]
    config = json.dumps(vars(options), indent=1, default=str, ensure_ascii=False)
    data = {"gold": problems.fingerprint} | ({f"{COMMIT}gold": problems.commit} if problems.commit else {})
    save_plan(store, [*jobs, *corpora], job="verify", config=config, data=data)


def run(
    options: argparse.Namespace,
    gold: Gold,
    completions: Foreign,
    store: Store,
    *,
    sampled: Mapping[str, SamplingJob],
    graded: Mapping[Mode, Sequence[VerdictJob]],
    selected: Mapping[Mode, PathJob],
) -> VerifySummary:
    """Commit the completions, then grade, select and merge what is missing. Returns the summary as written.

    Uses Ray only when verdicts or paths are missing.
    """
    from rft_ray.corpus import external, mode_comparison
    from rft_ray.corpus.verify_summary import VerifySummary
    from rft_ray.data.problems import commit_problems
    from rft_ray.runtime.progress import Stopwatch

    watch = Stopwatch()
    with watch.stage("completions") as counts:
        commit_problems(store, gold.problems)
        counts["new_shards"] = external.commit(sampled, completions, gold, store)
    external.grade_and_select(graded, selected, store, options.actors, watch)
    with watch.stage("corpus"):
        corpora = {mode: external.merge(job, gold, store, options.template) for mode, job in selected.items()}
    with watch.stage("summary"):
        comparison = mode_comparison.summarize(graded, selected, store)
    summary = VerifySummary(
        gold=options.gold,
        problems=gold.problems.count,
        files=tuple(options.completions),
        samplers={model: job.fingerprint for model, job in sampled.items()},
        unknown=dict(completions.unknown),
        unknown_questions=tuple(completions.unknown_questions),
        comparison=comparison,
        corpora=corpora,
        stages=watch.stages,
    )
    store.replace("summary.json", summary.as_json())
    return summary


def show(summary: VerifySummary) -> None:
    """Print the summary as tables."""
    comparison = summary.comparison
    width = max(len("model"), *(len(_shown(model)) for model in comparison.ledger))
    shown = [str(status) for status in Status]
    print(f"\n{'model':<{width}}  {'mode':<6}  {'completions':>11}", *(f"{name:>12}" for name in shown), end="")
    print(f"  {'accepted':>8}  {'distinct paths':>14}")
    partly_read: Counter[str] = Counter()
    for model, entry in comparison.ledger.items():
        for mode, counts in entry.modes.items():
            print(f"{_shown(model):<{width}}  {mode:<6}  {entry.completions:>11,}", end=" ")
            print(*(f"{counts.status[name]:>12,}" for name in shown), end="")
            print(f"  {counts.accepted_share:>8.2%}  {counts.distinct_paths:>14,}")
            partly_read[mode] += counts.partly_read
    for graded_by, count in (+partly_read).items():
        print(f"{graded_by}: {count:,} right answers whose equations cannot all be read (partly_read)")
    for model, count in summary.unknown.items():
        print(f"left out: {count:,} completions of {_shown(model)}: their question is not in {summary.gold}")
    for mode, corpus in summary.corpora.items():
        paths = comparison.distinct_paths[mode]
        under = ", ".join(f"{form} {count:,}" for form, count in paths.under.items())
        print(f"{mode}: {paths.union:,} distinct paths of all models together ({under})")
        print(f"{mode}: corpus of {corpus.gold:,} gold solutions and {corpus.paths:,} paths: {corpus.file}")
    if len(summary.corpora) > 1:
        show_differences(comparison.differences)


def show_differences(differences: Differences) -> None:
    """Print the completions on which the two modes differ: counts and examples."""
    print(f"\nthe modes differ on {differences.completions:,} completions ({' -> '.join(differences.modes)})")
    for kind, count in differences.by_status.items():
        print(f"  {kind}: {count:,}")
    for example in differences.examples:
        print(f"\n  {_shown(example.model)}, sample {example.sample_index} of: {example.question[:90]!r}")
        for mode, verdict in example.verdicts.items():
            detail = f" ({_shown(verdict.reason)})" if verdict.reason else ""
            print(f"    {mode + ':':<7} {verdict.status}, answer {verdict.answer}{detail}")
        print(f"    text:   {example.text[-160:]!r}")


def _shown(text: str) -> str:
    """A text of a file or of a completion as a part of one line, without what acts on a terminal."""
    return visible(" ".join(text.split("\n")))

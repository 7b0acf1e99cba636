"""Look into a run's store, check all of its files, void the corrupt ones, delete the ones that are not needed.

    rft-ray store ls|du [RUN]            count files, or add up bytes, by the first two parts of their keys
    rft-ray store verify [RUN]           list the files that are corrupt, or made from files that no longer count
    rft-ray store verify --repair [--undo] [--yes] RUN    list what a repair would void; void it with --yes
    rft-ray store prune [--superseded [--forget PLAN]] [--yes] RUN
                                         list the files that the run does not need; delete them with --yes

Without RUN, the newest run in runs/ is read; --yes needs RUN.

`--undo` lists the void files that are intact, and takes their tombstones back with --yes. Exit codes: 0 done, 1 verify
lists a file that is not repaired, 2 RUN is no run or cannot be read. Rules: `store/runs.py`, `store/repair.py` and
`store/prune.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rft_ray.cli.named_run import ANY, add_run, run_of
from rft_ray.config.errors import RftError
from rft_ray.store import NotFound, Store, StoreError, open_run


def _verify(store: Store, options: argparse.Namespace) -> int:
    """Read every file that counts and list those that must not count. A repair needs a run without jobs at work."""
    check = _undone if options.undo else _verified
    if not options.yes:
        return check(store, options)
    from rft_ray.store.run_lock import run_lock
    from rft_ray.store.runs import mark_run

    mark_run(store)
    with run_lock(store, "repair", others_ended=options.no_job_runs):
        return check(store, options)


def _verified(store: Store, options: argparse.Namespace) -> int:
    from rft_ray.sampling import quarantine
    from rft_ray.store import repair  # reads models, which ls and du do not need

    files = repair.examine(store)
    if not files:
        raise StoreError(f"no .parquet file in {store.url}: nothing to verify")
    findings = repair.find(files)
    for finding in findings:
        print(finding.reason if finding.corrupt else f"stale file {finding.key} in {store.url}: {finding.reason}")
    corrupt = sum(finding.corrupt for finding in findings)
    print(f"{len(files)} files read, {corrupt} corrupt, {len(findings) - corrupt} made from what no longer counts")
    failed = {stem: past for stem, past in quarantine.histories(store).items() if past.failures}
    for stem in sorted(set(failed) - {file.stem for file in files}):
        print(f"not sampled: {stem}: its engine failed {failed[stem].failures} times ({failed[stem].last_failure})")
    if not findings or not options.repair:
        return 1 if findings else 0
    if not options.yes:
        print(f"{sum(map(repair.can_be_void, findings))} of these would be void: add --yes")
        return 1
    done = repair.void(store, findings)
    print(f"{len(done)} are void now: run the same command again, which makes them anew and nothing else")
    return 0 if len(done) == len(findings) else 1


def _undone(store: Store, options: argparse.Namespace) -> int:
    """List the void files that are intact and were not made again; with --yes they count again."""
    from rft_ray.store import repair

    files = repair.restorable(store)
    for file in files:
        print(f"void but intact: {file.key}")
    if files and options.yes:
        repair.restore(store, files)
        print(f"{len(files)} count again")
    else:
        print(f"{len(files)} void files can count again" + (": add --yes" if files else ""))
    return 0


def _summary(store: Store, unit: str) -> int:
    """Print the number of files, or of bytes, by the first two parts of their keys."""
    totals: Counter[str] = Counter()
    for key, size in store.sizes():
        totals["/".join(key.split("/")[:2])] += size if unit == "bytes" else 1
    for name, total in sorted(totals.items()):
        print(f"{total:>15,}  {name}")
    print(f"{totals.total():>15,}  {unit} in {store.url}")
    return 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    """List the files that the run does not need, and delete them with --yes. Deleting needs a run without jobs."""
    if not options.yes:
        return _pruned(store, options)
    from rft_ray.store.run_lock import run_lock

    with run_lock(store, "prune", others_ended=options.no_job_runs):
        return _pruned(store, options)


def _pruned(store: Store, options: argparse.Namespace) -> int:
    from rft_ray.store import prune

    files = prune.unneeded(store, _needed(store, options) if options.superseded else None)
    forgotten = {f"plans/{name}.json" for name in options.forget}
    files += [prune.Unneeded(key, size, "forgotten") for key, size in store.sizes("plans/") if key in forgotten]
    totals: Counter[tuple[str, str]] = Counter()
    for file in files:
        totals[file.reason, "/".join(file.key.split("/")[:2])] += file.bytes
    for (reason, name), total in sorted(totals.items()):
        print(f"{total:>15,}  {name}  ({reason})")
    print(f"{totals.total():>15,}  bytes in {len(files)} files that the run does not need")
    if files and options.yes:
        print(f"{prune.delete(store, files)} files deleted")
    elif files:
        print("nothing was deleted: add --yes")
    return 0


def _needed(store: Store, options: argparse.Namespace) -> set[str]:
    """The recipes of the plans to keep. Raises StoreError where files are not known to be superseded."""
    from rft_ray.store import plans, prune

    saved = plans.saved_plans(store)
    for plan in saved:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(plan.saved_unix))
        print(f"plan {plan.name} of {plan.job}, saved {at} UTC" + (": forgotten" * (plan.name in options.forget)))
    if unknown := sorted(set(options.forget) - {plan.name for plan in saved}):
        raise StoreError(f"{store.url} has no plan {', '.join(unknown)}: --superseded alone lists the plans")
    if not saved:
        return set(plans.recipes(_plan_of_config(store)))
    if len(set(options.forget)) == len(saved):
        raise StoreError(f"no plan of {store.url} would be left: remove the run's folder if you need nothing of it")
    files = prune.unplanned(store, saved)
    if files and not options.unplanned:
        raise StoreError(
            f"no saved plan of {store.url} names {len(files)} files, such as {files[0]}: nothing is pruned. If they "
            "are needed, run the job that made them again, which saves its plan; if not, add --unplanned"
        )
    return prune.recipes_to_keep(saved, options.forget)


def _plan_of_config(store: Store) -> Any:
    """The plan of a run that an earlier version made, which saved none, and the same without quarantined shards.

    Raises StoreError unless the summary shows that it is the plan that the run was made by.
    """
    from rft_ray import pipeline
    from rft_ray.config import ConfigError
    from rft_ray.config.loading import saved_config
    from rft_ray.data.row_files import DataError
    from rft_ray.sampling.quarantine import past_quarantine
    from rft_ray.store.models.folder import ModelError

    remedy = "nothing is pruned. Run the job that made the run again, which saves its plan, or leave out --superseded"
    try:
        plan, _ = pipeline.prepare(saved_config(store.read("config.yaml"), f"{store.url}/config.yaml"))
        plans = plan, past_quarantine(plan, store)
    except NotFound:
        raise StoreError(f"{store.url} holds neither saved plans nor config.yaml: {remedy}") from None
    except (ConfigError, DataError, ModelError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"the plan of {store.url} cannot be made from config.yaml ({reason}): {remedy}") from error
    if store.exists("study.json") or _made_by(store) not in {plan.fingerprint for plan in plans}:
        raise StoreError(
            f"{store.url} holds no saved plan, and was not made by the plan of its config.yaml: it is a study, not "
            f"finished, graded by earlier rules, or its data, models or config have changed: {remedy}"
        )
    return plans


def _made_by(store: Store) -> object:
    """The fingerprint of the plan that the summary belongs to; None where there is no such summary."""
    try:
        summary = json.loads(store.read("summary.json"))
    except (NotFound, ValueError):
        return None
    return summary.get("fingerprint") if isinstance(summary, dict) else None


def main(arguments: Sequence[str] | None = None, prog: str = "rft-ray store") -> int:
    """Run the subcommand and return the exit code."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if options.command == "verify" and (options.yes or options.undo or options.no_job_runs) and not options.repair:
        parser.error("--undo, --yes and --no-job-runs belong to --repair")
    if options.command == "prune" and (options.forget or options.unplanned) and not options.superseded:
        parser.error("--forget and --unplanned belong to --superseded")
    if getattr(options, "yes", False) and options.run is options.run_option is None:
        parser.error("--yes changes the run: give RUN")
    try:
        store = open_run(run_of(parser, options, *ANY))
        if options.command == "verify":
            return _verify(store, options)
        if options.command == "prune":
            return _prune(store, options)
        return _summary(store, "files" if options.command == "ls" else "bytes")
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls|du|verify|prune")
    for name, text in {
        "ls": "count files by the first two parts of their keys",
        "du": "add up bytes by the first two parts of their keys",
        "verify": "read everything; list the files that are corrupt, or made from files that no longer count",
        "prune": "list checkpoints of committed models, and void files; delete them with --yes",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        add_run(command)
        if name == "verify":
            command.add_argument("--repair", action="store_true", help="list what would be void; with --yes, void it")
            command.add_argument("--undo", action="store_true", help="with --repair: void files that are intact count")
            command.add_argument("--yes", action="store_true", help="with --repair: do it, unless a job runs")
            command.add_argument("--no-job-runs", action="store_true", help="with --repair: you know that no job runs")
        if name == "prune":
            command.add_argument("--superseded", action="store_true", help="also what no plan needs; lists the plans")
            command.add_argument(
                "--forget", action="append", default=[], metavar="PLAN", help="with --superseded: not this plan's files"
            )
            command.add_argument("--unplanned", action="store_true", help="with --superseded: also files of no plan")
            command.add_argument("--yes", action="store_true", help="delete the listed files, unless a job runs")
            command.add_argument("--no-job-runs", action="store_true", help="with --yes: you know that no job runs")
    return parser

"""Look into a run's store, check all of its files, void the corrupt ones, delete the ones that are not needed.

    rft-ray store ls|du RUN              count files, or add up bytes, by the first two parts of their keys
    rft-ray store verify RUN             list the files that are corrupt, or made from files that no longer count
    rft-ray store verify --repair [--undo] [--yes] RUN    list what a repair would void; void it with --yes
    rft-ray store prune [--superseded] [--yes] RUN    list the files that the run does not need; delete them with --yes

`--undo` lists the void files that are intact, and takes their tombstones back with --yes. Exit codes: 0 done, 1 verify
lists a file that is not repaired, 2 RUN is no run or cannot be read. Rules: `store/runs.py`, `store/repair.py` and
`store/prune.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

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


def _prune(store: Store, superseded: bool, yes: bool) -> int:
    """List the files that the run does not need, by reason and folder; delete them with `yes`."""
    from rft_ray.store import prune

    files = prune.unneeded(store, _plan(store) if superseded else None)
    totals: Counter[tuple[str, str]] = Counter()
    for file in files:
        totals[file.reason, "/".join(file.key.split("/")[:2])] += file.bytes
    for (reason, name), total in sorted(totals.items()):
        print(f"{total:>15,}  {name}  ({reason})")
    print(f"{totals.total():>15,}  bytes in {len(files)} files that the run does not need")
    if files and yes:
        print(f"{prune.delete(store, [file.key for file in files])} files deleted")
    elif files:
        print("nothing was deleted: add --yes")
    return 0


def _plan(store: Store) -> Any:
    """The plan of the run whose config the store holds, and the same without quarantined shards."""
    from rft_ray import pipeline
    from rft_ray.config import Config, ConfigError
    from rft_ray.data.row_files import DataError
    from rft_ray.sampling.quarantine import past_quarantine
    from rft_ray.store.models.folder import ModelError

    try:
        plan, _ = pipeline.prepare(Config.model_validate(yaml.safe_load(store.read("config.yaml"))))
        return plan, past_quarantine(plan, store)
    except NotFound:
        raise StoreError(
            f"{store.url} holds no config.yaml, which says what is superseded: leave out --superseded"
        ) from None
    except (ConfigError, DataError, ModelError, ValueError) as error:
        raise StoreError(f"the plan of {store.url} cannot be made ({error}): nothing is pruned") from error


def main(arguments: Sequence[str] | None = None, prog: str = "rft-ray store") -> int:
    """Run the subcommand and return the exit code."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if options.command == "verify" and (options.yes or options.undo or options.no_job_runs) and not options.repair:
        parser.error("--undo, --yes and --no-job-runs belong to --repair")
    try:
        store = open_run(options.url)
        if options.command == "verify":
            return _verify(store, options)
        if options.command == "prune":
            return _prune(store, options.superseded, options.yes)
        return _summary(store, "files" if options.command == "ls" else "bytes")
    except StoreError as error:
        print(error, file=sys.stderr)
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
        "prune": "list checkpoints of committed models, and void files; delete them with --yes (local disk)",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("url", help="a run's directory: a local path or s3://bucket/prefix")
        if name == "verify":
            command.add_argument("--repair", action="store_true", help="list what would be void; with --yes, void it")
            command.add_argument("--undo", action="store_true", help="with --repair: void files that are intact count")
            command.add_argument("--yes", action="store_true", help="with --repair: do it, unless a job runs")
            command.add_argument("--no-job-runs", action="store_true", help="with --repair: you know that no job runs")
        if name == "prune":
            command.add_argument("--superseded", action="store_true", help="also what the saved config does not use")
            command.add_argument("--yes", action="store_true", help="delete the listed files")
    return parser

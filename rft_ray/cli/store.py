"""Look into a run's store, check the whole of it, give up what is corrupt, delete what is no longer needed.

    python -m rft_ray.store ls|du URL              files, or bytes, by the first two parts of their keys
    python -m rft_ray.store verify [--repair] URL  name what is corrupt, or made from what no longer counts (repair.py)
    python -m rft_ray.store prune [--superseded] [--yes] URL     see prune.py; without --yes only a list

Exit codes: 0; 1 where verify found something that is not repaired; 2 where the store cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from rft_ray.store import NotFound, Store, StoreError, open_store


def _verify(store: Store, repair: bool, no_job_runs: bool) -> int:
    """Read everything that counts and name what must not; to void it, no job may be at work."""
    if not repair:
        return _verified(store, repair=False)
    from rft_ray.store.run_lock import run_lock

    with run_lock(store, "repair", others_ended=no_job_runs):
        return _verified(store, repair=True)


def _verified(store: Store, *, repair: bool) -> int:
    from rft_ray.sampling import quarantine
    from rft_ray.store import repair as repairs  # imports what reads models: not needed by ls and du

    files = repairs.examine(store)
    if not files:
        raise StoreError(f"no .parquet file in {store.url}: nothing to verify")
    found = repairs.find(files)
    for finding in found:
        print(finding.reason if finding.corrupt else f"stale file {finding.key} in {store.url}: {finding.reason}")
    corrupt = sum(finding.corrupt for finding in found)
    print(f"{len(files)} files read, {corrupt} corrupt, {len(found) - corrupt} made from what no longer counts")
    failed = {stem: past for stem, past in quarantine.histories(store).items() if past.failures}
    for stem in sorted(set(failed) - {file.stem for file in files}):
        print(f"not sampled: {stem}: its engine failed {failed[stem].failures} times ({failed[stem].last_failure})")
    if not found or not repair:
        return 1 if found else 0
    done = repairs.void(store, found)
    print(f"{len(done)} are void now: run the same command again, which makes them anew and nothing else")
    return 0 if len(done) == len(found) else 1


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
    """List what the run does not need, by reason and recipe; delete it where told to."""
    from rft_ray.store import prune

    found = prune.unneeded(store, _plan(store) if superseded else None)
    totals: Counter[tuple[str, str]] = Counter()
    for one in found:
        totals[one.reason, "/".join(one.key.split("/")[:2])] += one.bytes
    for (reason, name), total in sorted(totals.items()):
        print(f"{total:>15,}  {name}  ({reason})")
    print(f"{totals.total():>15,}  bytes in {len(found)} files that the run does not need")
    if found and yes:
        print(f"{prune.delete(store, [one.key for one in found])} files deleted")
    elif found:
        print("nothing was deleted: add --yes")
    return 0


def _plan(store: Store) -> Any:
    """The plan of the run whose config the store holds, whole and without what is quarantined. Reads its data sets."""
    from rft_ray import pipeline
    from rft_ray.config import Config, ConfigError
    from rft_ray.data.row_files import DataError
    from rft_ray.sampling.quarantine import past_quarantine
    from rft_ray.store.models.folder import ModelError

    try:
        plan, _ = pipeline.prepare(Config.model_validate(yaml.safe_load(store.read("config.yaml"))))
        return plan, past_quarantine(plan, store)
    except NotFound:
        raise StoreError(f"{store.url} holds no config.yaml: what is superseded cannot be told") from None
    except (ConfigError, DataError, ModelError, ValueError) as error:
        raise StoreError(f"the plan of {store.url} cannot be made ({error}): nothing is pruned") from error


def main(arguments: Sequence[str] | None = None, prog: str = "rft-ray store") -> int:
    """Run the subcommand and return the exit code."""
    options = _parser(prog).parse_args(arguments)
    try:
        store = open_store(options.url)
        if options.command == "verify":
            return _verify(store, options.repair, options.no_job_runs)
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
            command.add_argument("--repair", action="store_true", help="void the listed files, unless a job runs")
            command.add_argument("--no-job-runs", action="store_true", help="with --repair: you know that no job runs")
        if name == "prune":
            command.add_argument("--superseded", action="store_true", help="also what the saved config does not use")
            command.add_argument("--yes", action="store_true", help="delete the listed files")
    return parser

"""The argument RUN of the commands that read a run: a bare word or `--run`, by default the newest run in `runs/`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from rft_ray.config.errors import InputError
from rft_ray.config.schema import Run

FOLDER = str(Run.model_fields["store"].default)
"""Where runs are made when `run.store` is not set, and so where the newest one is looked for."""
ANY = ("run.json", "config.yaml", "summary.json", "study.json")
"""Files of every run that change when a job works on it."""


def add_run(parser: argparse.ArgumentParser, what: str = "a run") -> None:
    """Add RUN to a command's arguments, for `run_of`. `what`: which kind of run, for the help."""
    text = f"local folder or s3://bucket/prefix of {what} (default: the newest in {FOLDER}/)"
    parser.add_argument("run", nargs="?", metavar="RUN", help=text)
    parser.add_argument("--run", dest="run_option", metavar="RUN", help="the same as the bare word RUN")


def run_of(parser: argparse.ArgumentParser, options: argparse.Namespace, *files: str, finished: bool = False) -> str:
    """The run that the arguments name, or `newest_run`, which is printed on standard error. Raises InputError."""
    named = sorted({options.run, options.run_option} - {None})
    if len(named) > 1:
        parser.error(f"give one run (given: {' and '.join(map(repr, named))})")
    if named:
        return str(named[0])
    run = newest_run(*files, finished=finished)
    print(f"run: {run}, the newest in {FOLDER}/; RUN names another one", file=sys.stderr)
    return run


def newest_run(*files: str, finished: bool = False) -> str:
    """The run in FOLDER whose `files` were written last. Raises InputError where none has one of them.

    `finished`: only those whose summary says that they finished.
    """
    written: dict[Path, float] = {}
    for path in (path for file in files for path in Path(FOLDER).glob(f"*/{file}")):
        with suppress(FileNotFoundError):  # a view that a job replaces now
            written[path.parent] = max(written.get(path.parent, 0.0), path.stat().st_mtime)
    for folder in sorted(written, key=lambda folder: (written[folder], folder.name), reverse=True):
        if not finished or _is_finished(folder):
            return str(folder)
    what = "finished run" if finished else f"run with {' or '.join(files)}" if files != ANY else "run"
    raise InputError(f"there is no {what} in {FOLDER}/: give RUN, the folder or s3:// address of one")


def _is_finished(folder: Path) -> bool:
    with suppress(OSError, ValueError):
        summary = json.loads((folder / "summary.json").read_bytes())
        return isinstance(summary, dict) and summary.get("finished") is True
    return False

"""Faults put into the product on purpose: every one must fail a test. `python -m tests.chaos.mutants` prints the table.

In: names of mutants (none: all). Each is applied to a copy of the tree, and the tests that should notice it run there.
Out: a Markdown table of what each mutant does and which test fails first. Exit code 1 where a mutant survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.mutations import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
SURVIVED = "**no test**"


@dataclass(frozen=True)
class Outcome:
    """The result of one mutant.

    Example: Outcome(mutant, "test_local.py::test_one_of_several_concurrent_processes_wins", 2.1)
    """

    mutant: Mutant
    killed_by: str
    seconds: float


def copy_of_tree(folder: Path) -> Path:
    """A copy of the files that git tracks, and of those that it does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


@contextmanager
def applied(mutant: Mutant, tree: Path) -> Iterator[None]:
    """The mutant in the tree for the duration of the block. Raises ValueError where its text is not there just once."""
    path = tree / mutant.file
    original = path.read_text()
    if original.count(mutant.before) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has its text {original.count(mutant.before)} times, not once")
    path.write_text(original.replace(mutant.before, mutant.after))
    try:
        yield
    finally:
        path.write_text(original)


def first_failure(tree: Path, tests: Sequence[str]) -> str:
    """The first test of these that fails or cannot be collected; empty where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--timeout=90", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"time-out after {TIMEOUT_S} s"
    if not ran.returncode:
        return ""
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, re.MULTILINE)
    return named[1].removeprefix("tests/") if named else f"pytest ended with {ran.returncode}: {ran.stdout[-200:]!r}"


def outcomes(mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory(prefix="rft-mutants-") as folder:
        tree = copy_of_tree(Path(folder))
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if failure := first_failure(tree, tests):
            raise SystemExit(f"without any mutant {failure} fails: mend that first")
        for mutant in mutants:
            began = time.monotonic()
            with applied(mutant, tree):
                killed_by = first_failure(tree, mutant.tests)
            yield Outcome(mutant, killed_by, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; none: all")
    names = parser.parse_args().names
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"unknown mutants: {', '.join(sorted(unknown))}")
    survivors = 0
    print("| mutant | what it does | killed by | s |\n|---|---|---|---|", flush=True)
    for outcome in outcomes([mutant for mutant in MUTANTS if not names or mutant.name in names]):
        survivors += not outcome.killed_by
        mutant, killed_by = outcome.mutant, f"`{outcome.killed_by}`" if outcome.killed_by else SURVIVED
        print(f"| {mutant.name} | {mutant.what} | {killed_by} | {outcome.seconds:.0f} |", flush=True)
    if survivors:
        print(f"\n{survivors} survived", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())

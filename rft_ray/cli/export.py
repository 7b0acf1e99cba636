"""Export a model of a run: a folder with a name of your choice, a model card, and the corpus that it was trained on.

    rft-ray export runs/demo --model tiny-m --to my-model
    rft-ray export runs/demo --model tiny-m --stage sft --to s3://bucket/models/my-model
    rft-ray export runs/demo --model tiny-m --to hub:owner/my-model --dry-run

Does not start Ray. A folder, prefix or repository that holds anything is refused. On the hub, the corpus becomes the
data set owner/my-model-corpus, and new repositories are private. Exit codes: 0 done, 1 an upload failed, 2 the run, the
model or the target cannot be used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rft_ray.cli.job import check_folder
from rft_ray.cli.named_run import add_run, run_of
from rft_ray.config.errors import RftError
from rft_ray.evaluation.summary_records import ModelEntry, Summary
from rft_ray.report import export
from rft_ray.store import Store, open_run

REMOTE = ("hub:", "s3://")
"""What targets that are no folders begin with."""


def main(argv: Sequence[str], prog: str = "rft-ray export") -> int:
    """Export the model and return the exit code."""
    try:
        addresses = run(arguments(argv, prog))
    except export.UploadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (RftError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"exported: {address}" for address in addresses))
    return 0


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The parsed options. Raises InputError where there is no run."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_run(parser, "a finished run")
    add("--model", metavar="NAME", help="the model's name in the run (default: the only one of the stage)")
    add("--stage", default="rft", help="rft, sft, or another stage that the run has trained (default: %(default)s)")
    add("--to", required=True, metavar="DIR|hub:OWNER/NAME|s3://BUCKET/PREFIX", help="where to write it; must be empty")
    add("--dry-run", action="store_true", help="for hub and S3: write the folder ./NAME and upload nothing")
    options = parser.parse_args(argv)
    if options.dry_run and not options.to.startswith(REMOTE):
        parser.error(f"--dry-run is for hub: and s3:// targets: without it, --to {options.to} writes the same folder")
    options.run = run_of(parser, options, "summary.json", finished=True)
    return options


def run(options: argparse.Namespace) -> list[str]:
    """Write and upload the folder. Returns the addresses. Raises RftError and OSError."""
    store = open_run(options.run)
    summary, entry = export.choose(store, options.model, options.stage)
    target = options.to.rstrip("/")
    if not target.startswith(REMOTE):
        return [_write(store, summary, entry, Path(target).expanduser().absolute())]
    name = target.removeprefix("hub:").rpartition("/")[2]
    if options.dry_run:
        return [_write(store, summary, entry, Path(name).absolute())]
    export.check_target(target)
    with tempfile.TemporaryDirectory(prefix="rft-export-") as folder:
        export.write_folder(store, summary, entry, Path(folder), name)
        return export.upload(Path(folder), target)


def _write(store: Store, summary: Summary, entry: ModelEntry, folder: Path) -> str:
    """Write the folder, which appears whole or not at all. Returns its path."""
    export.check_target(str(folder))
    check_folder("--to", folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        whole = Path(temporary) / "model"
        whole.mkdir()
        export.write_folder(store, summary, entry, whole, folder.name)
        if folder.exists():  # empty, as checked
            folder.rmdir()
        whole.rename(folder)
    return str(folder)

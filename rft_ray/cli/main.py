"""The command `rft-ray`. Each subcommand is a module of this folder, imported when it is called.

So `rft-ray --help` loads no subcommand, and an unknown config key is refused before Ray, PyTorch or vLLM are loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper

from rft_ray import __version__

COMMANDS = {
    "run": ("run", "fine-tune, sample, verify, merge, fine-tune again, evaluate: the whole of RFT"),
    "verify": ("verify", "grade completions of any sampler and select their distinct reasoning paths, on Ray"),
    "sample": ("sample", "sample any model on a file of prompts, on Ray: resumable, without a run"),
    "tune": ("tune", "find the engine settings that sample a config's prompts fastest on this machine"),
    "report": ("report", "rebuild the report of a run or of a scaling study"),
    "serve": ("serve", "serve the models of a finished run over HTTP"),
    "study": ("study", "answer the paper's scaling questions on a family of models"),
    "store": ("store", "ls, du, verify, prune: list, measure, check and clean a run's store"),
    "pairs": ("pairs", "export preference pairs for DPO from a run"),
    "export": ("export", "export a model of a run: folder, hub or S3, with a model card and its corpus"),
    "grade": ("grading", "grade a file of completions in this process, without Ray and without a run"),
}
"""Subcommand -> its module and a description."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 2 when there is no such subcommand, else as `call`."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    return _ended(lambda: _run(name, rest))


def call(command: str, argv: Sequence[str], prog: str) -> int:
    """Run a subcommand as the program `prog` and return its exit code.

    130 after Ctrl-C, 141 where nobody reads the output any more (`| head`).
    """
    return _ended(lambda: _main_of(command)(argv, prog))


def _run(name: str, argv: Sequence[str]) -> int:
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"rft-ray {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"{_help()}\n\nrft-ray: error: there is no command {name!r}", file=sys.stderr)
        return 2
    return _main_of(name)(argv, f"rft-ray {name}")


def _main_of(command: str) -> Callable[[Sequence[str], str], int]:
    main_of: Callable[[Sequence[str], str], int] = import_module(f"rft_ray.cli.{COMMANDS[command][0]}").main
    return main_of


def _ended(run: Callable[[], int]) -> int:
    """The exit code of a command, whatever ends it. What the terminal's encoding lacks is printed as an escape."""
    if isinstance(sys.stdout, TextIOWrapper):  # None where it is closed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return run()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:  # what Python still has to write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        from rft_ray.cli.job import path_error

        print(path_error(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _help() -> str:
    lines = [f"  {name:<8}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rft-ray COMMAND …",
            "",
            "Rejection-sampling fine-tuning (arXiv 2308.01825) as a distributed Ray service.",
            "",
            *lines,
            "",
            "rft-ray COMMAND --help lists a command's options; rft-ray --version prints the version.",
        ]
    )

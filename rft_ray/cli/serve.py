"""Serve the models of a finished run: `rft-ray serve runs/demo` is `python -m serve.app runs/demo`."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str], prog: str = "rft-ray serve") -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code."""
    from serve import app

    return app.main(argv, prog)

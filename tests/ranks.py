"""Runs a driver as several ranks of one group on loopback, without Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_ranks(module: str, folder: Path, count: int, *, limit_s: float, env: Mapping[str, str] | None = None) -> None:
    """`python -m MODULE FOLDER RANK PORT` once for each rank. Fails unless all end with 0 within the limit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, str(folder)]
    whole = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    ranks = [subprocess.Popen([*command, str(rank), str(port)], cwd=ROOT, env=whole) for rank in range(count)]
    try:
        assert [rank.wait(timeout=limit_s) for rank in ranks] == [0] * count
    finally:
        for rank in ranks:
            rank.kill()

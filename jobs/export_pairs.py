"""Export preference pairs for DPO from a run: the same as `rft-ray pairs`.

    python jobs/export_pairs.py runs/demo --out pairs.jsonl --max-per-problem 4

Runs `rft_ray/cli/pairs.py` from a checkout, which need not be installed. `--help` lists the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("pairs", sys.argv[1:], "python jobs/export_pairs.py"))

"""Grade completions of any source and select their distinct reasoning paths: the same as `rft-ray verify`.

    python jobs/verify.py mistral.jsonl llama.parquet --gold gsm8k:train --mode both --out runs/verify

Runs `rft_ray/cli/verify.py` from a checkout, which need not be installed. `--help` lists the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("verify", sys.argv[1:], "python jobs/verify.py"))

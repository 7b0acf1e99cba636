"""The whole of RFT as one job, as `rft-ray run` does it.

    ray job submit -- python jobs/rft_pipeline.py --config FILE [--section.key=value …]

`rft_ray/cli/run.py`, from a checkout that need not be installed. `python jobs/rft_pipeline.py --help` says more.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], prog="python jobs/rft_pipeline.py"))

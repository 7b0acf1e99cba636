"""The paper's scaling questions as one job, as `rft-ray study` does it.

    python jobs/scaling_study.py --config jobs/configs/study.yaml

`rft_ray/cli/study.py`, from a checkout that need not be installed. `python jobs/scaling_study.py --help` says more.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.study import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], prog="python jobs/scaling_study.py"))

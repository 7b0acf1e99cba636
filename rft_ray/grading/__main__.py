"""`python -m rft_ray.grading`: a door to `rft_ray.cli.grading`."""

from __future__ import annotations

import sys

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("grade", sys.argv[1:], "python -m rft_ray.grading"))

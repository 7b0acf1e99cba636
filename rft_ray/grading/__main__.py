"""`python -m rft_ray.grading`: a door to `rft_ray.cli.grading`."""

from __future__ import annotations

from rft_ray.cli.grading import main

if __name__ == "__main__":
    raise SystemExit(main(prog="python -m rft_ray.grading"))

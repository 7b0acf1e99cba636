"""`python -m rft_ray.grading`: a door to `grading_cli`."""

from rft_ray.grading_cli import main

if __name__ == "__main__":
    raise SystemExit(main())

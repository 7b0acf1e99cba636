"""`python -m rft_ray.store`: runs the command line in `rft_ray.cli.store`."""

from __future__ import annotations

from rft_ray.cli.store import main

if __name__ == "__main__":
    raise SystemExit(main(prog="python -m rft_ray.store"))

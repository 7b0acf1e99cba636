"""`python -m rft_ray.store`: runs the command line in `rft_ray.cli.store`."""

from __future__ import annotations

import sys

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("store", sys.argv[1:], "python -m rft_ray.store"))

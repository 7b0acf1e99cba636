"""A scripted engine behind the real ingress and Ray Serve, until a signal: `python -m benchmarks.scripted_service`.

The same as `python -m serve.app` without a model: Serve's proxy, the ingress and the engine's replica are processes of
their own. Prints `ready: URL` once it answers. For `benchmarks/serve.py`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from serve.runner import run_until_stopped

if TYPE_CHECKING:
    from ray.serve import Application


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-s", type=float, default=0.03, help="seconds between two words")
    parser.add_argument("--capacity", type=int, default=64, help="paths that may be in progress")
    options = parser.parse_args()

    def build() -> Application:
        from serve import scripted  # not at the top: it imports Ray, and the runner sets variables first

        return scripted.deployed(options.token_s, options.capacity)

    run_until_stopped(
        build,
        host="127.0.0.1",
        port=options.port,
        address=None,
        verbose=False,
        ready=lambda url: print(f"ready: {url}", flush=True),
    )


if __name__ == "__main__":
    main()

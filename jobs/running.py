"""What every job does around its work: Ray, SIGTERM, errors in one line, and exit codes.

0 done; 1 a stage failed or samples are missing; 2 the config, the data or a model cannot be used; 130 stopped by
Ctrl-C; 143 stopped by SIGTERM. After 1, 130 and 143 the same command goes on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

AGAIN = "what is committed stays: run the same command again to go on"
END_S = 15.0
"""How long Ray may take to let go of a run that has been told to stop."""


def carry_out(prepare: Callable[[], Callable[[], None] | None]) -> int:
    """Run `prepare`, which reads and checks, then with Ray what it returns; None: it was all. Returns the exit code."""
    try:
        work = prepare()
    except Exception as error:
        if not isinstance(error, _refusals()):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _with_ray(work) if work else 0


def _refusals() -> tuple[type[Exception], ...]:
    """Imported once there is an error: a wrong key is refused without waiting for what reads models."""
    from rft_ray.config import ConfigError
    from rft_ray.data.row_files import DataError
    from rft_ray.store import StoreError
    from rft_ray.store.models.folder import ModelError

    return ConfigError, DataError, ModelError, StoreError


def _with_ray(work: Callable[[], None]) -> int:
    from ray.exceptions import RayError

    from rft_ray.pipeline import Incomplete
    from rft_ray.runtime import actor_pool, sigterm
    from rft_ray.runtime.ray_cluster import start_ray
    from rft_ray.store import StoreError
    from rft_ray.store.models.folder import ModelError
    from rft_ray.training.results import TrainingError

    try:
        start_ray()
        sigterm.install_handler()
        work()
    except (Incomplete, actor_pool.StageError, TrainingError, StoreError, ModelError) as error:
        print(f"error: {error}\n{AGAIN}", file=sys.stderr)
        return 1
    except (ConnectionError, RayError) as error:
        print(f"error: Ray: {actor_pool.cause_of(error)}\nwhat is committed stays", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; {AGAIN}", file=sys.stderr)
        return 130
    except sigterm.Preempted as notice:
        print(f"stopped by SIGTERM ({notice or 'not while sampling'}); {AGAIN}", file=sys.stderr, flush=True)
        last = threading.Timer(END_S, os._exit, (sigterm.EXIT_CODE,))
        last.daemon = True
        last.start()
        return sigterm.EXIT_CODE
    return 0

"""SIGTERM to a driver: a notice that the machine, or the job, goes. What is in flight is finished within a bound.

In: the signal, by `ray job stop`, Kubernetes or a person. Out: `Preempted`, raised in the main thread: at once where
there is nothing to finish, else when sampling has committed what was in flight, or when the bound is over. A second
SIGTERM does not wait. Only the main thread can take a signal: elsewhere nothing is installed.

Limits: `ray job stop` kills after RAY_JOB_STOP_WAIT_TIME_S (3 in Ray 2.60), set in the head's environment; a pod has
its terminationGracePeriodSeconds. A worker process or node that is told to go is lost as by a kill.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(BaseException):
    """The run is to end now. No error: no handler of errors may take it. The message says what is done."""


@dataclass
class _State:
    drain: Callable[[], None] | None = None
    bound_s: float = 0.0
    noticed: bool = False


_state = _State()


def heed() -> None:
    """From now on SIGTERM is a notice. To be called after `ray.init`, which takes the signal for itself."""
    if threading.current_thread() is threading.main_thread():
        _state.noticed = False
        signal.signal(signal.SIGTERM, _noticed)
        signal.signal(signal.SIGALRM, _over)


@contextmanager
def draining(drain: Callable[[], None], bound_s: float) -> Iterator[None]:
    """Within it a notice calls `drain`, in a thread; what does not end within `bound_s` then is abandoned.

    Raises Preempted at its end where there was a notice.
    """
    _state.drain, _state.bound_s = drain, bound_s
    try:
        yield
    finally:
        _state.drain = None
        if _state.noticed:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if _state.noticed:
        raise Preempted


def _noticed(number: int, frame: FrameType | None) -> None:
    again, _state.noticed = _state.noticed, True
    if again or _state.drain is None or _state.bound_s <= 0:
        raise Preempted
    print(f"SIGTERM: what is in flight has {_state.bound_s:g} s to be committed; nothing else is begun", flush=True)
    threading.Thread(target=_quietly, args=(_state.drain,), daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, _state.bound_s)


def _quietly(drain: Callable[[], None]) -> None:
    with suppress(Exception):  # the bound is there for this
        drain()


def _over(number: int, frame: FrameType | None) -> None:
    if _state.drain is not None:
        raise Preempted

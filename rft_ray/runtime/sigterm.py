"""SIGTERM to a driver: the machine or the job is about to end, and shards in flight get a bounded time to finish.

In: the signal, sent by `ray job stop`, Kubernetes or a person. Out: `Preempted`, raised in the main thread: at once
where there is nothing to finish, otherwise when sampling has committed the shards in flight, or when the time is over.
A second SIGTERM does not wait. Python handles signals in the main thread only: in others nothing is installed.

Limits: `ray job stop` kills after RAY_JOB_STOP_WAIT_TIME_S (3 in Ray 2.60), which is set in the head's environment; a
pod is killed after its terminationGracePeriodSeconds. In a worker process or node, SIGTERM has the effect of a kill.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(KeyboardInterrupt):
    """The run is to end now; the message says what is done. No Exception, so that no handler of errors catches it.

    A KeyboardInterrupt, because code that waits for Ray drops every other exception that a signal handler raises; it
    raises a plain KeyboardInterrupt then (`ray._raylet.check_signals` of 2.60), which `was_received` tells from Ctrl-C.
    """


@dataclass
class _State:
    """The process's state, since a signal handler takes no argument of ours."""

    drain: Callable[[], None] | None = None
    bound_s: float = 0.0
    received: bool = False


_state = _State()


def install_handler() -> None:
    """Handle SIGTERM as described above. Call it after `ray.init`, which installs a handler of its own."""
    if threading.current_thread() is threading.main_thread():
        _state.received = False
        signal.signal(signal.SIGTERM, _received)
        signal.signal(signal.SIGALRM, _time_is_over)


def was_received() -> bool:
    """Whether this process has got a SIGTERM since `install_handler`."""
    return _state.received


@contextmanager
def draining(drain: Callable[[], None], bound_s: float) -> Iterator[None]:
    """Inside the block SIGTERM calls `drain`, in a thread; a block that has not ended `bound_s` later is abandoned.

    Raises Preempted at the end of the block if there was a SIGTERM.
    """
    _state.drain, _state.bound_s = drain, bound_s
    try:
        yield
    except KeyboardInterrupt:
        if _state.received:
            raise Preempted from None
        raise
    finally:
        _state.drain = None
        if _state.received:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if _state.received:
        raise Preempted


def _received(number: int, frame: FrameType | None) -> None:
    again, _state.received = _state.received, True
    if again or _state.drain is None or _state.bound_s <= 0:
        raise Preempted
    print(f"SIGTERM: shards in flight have {_state.bound_s:g} s to be committed; no other shard is started", flush=True)
    threading.Thread(target=_quietly, args=(_state.drain,), daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, _state.bound_s)


def _quietly(drain: Callable[[], None]) -> None:
    with suppress(Exception):  # whatever fails here, the time is bounded
        drain()


def _time_is_over(number: int, frame: FrameType | None) -> None:
    if _state.drain is not None:
        raise Preempted

"""A lock by key: any number of threads may hold the same key at once, and no two keys are held at once.

It guards one thing that is in one state at a time, such as an engine that holds one model. `change` brings it into the
state of another key, while no thread holds the lock. Pure threading: no Ray, no engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class GroupLock(Generic[Key]):
    """Threads that ask for the current key enter first, so that interleaved keys do not change back and forth; then
    comes the key that has waited longest.

    There is no deadlock: once no thread is inside, a waiting one enters. There is no starvation as long as the calls
    with the current key are finite in number, as the shards of a model are.
    """

    def __init__(self, change: Callable[[Key], None]) -> None:
        self._change = change
        self._condition = threading.Condition()
        self._waiting: list[Key] = []
        self._current: Key | None = None
        self._inside = 0
        self._changing = False

    @contextmanager
    def hold(self, key: Key) -> Iterator[None]:
        """Hold the lock with `key` inside the block.

        Raises what `change` raises; then no key is current, and the next waiting one is tried.
        """
        self._enter(key)
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    def _enter(self, key: Key) -> None:
        with self._condition:
            self._waiting.append(key)
            self._condition.wait_for(lambda: self._may_enter(key))
            self._waiting.remove(key)
            if key == self._current:
                self._inside += 1
                return
            self._changing, self._current = True, None
        current = None
        try:
            self._change(key)  # takes seconds, in which other threads may start to wait
            current = key
        finally:
            with self._condition:
                self._changing, self._current = False, current
                self._inside += current is not None
                self._condition.notify_all()

    def _may_enter(self, key: Key) -> bool:
        if self._changing:
            return False
        if key == self._current:
            return True
        return not self._inside and self._current not in self._waiting and self._waiting[0] == key

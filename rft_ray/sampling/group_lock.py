"""Threads that share one thing that is in one state at a time, such as an engine that holds one model.

Any number of threads may be inside with the same key; between two keys `change` runs, while nobody is inside.
Pure threading: no Ray, no engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Turns(Generic[Key]):
    """Who waits for the present key goes first, so that interleaved keys do not change back and forth; then the key
    that has waited longest. Somebody waiting always gets in once nobody is inside: no deadlock; and no thread waits
    longer than the present key's calls last, which are finite where each is a shard.
    """

    def __init__(self, change: Callable[[Key], None]) -> None:
        self._change = change
        self._condition = threading.Condition()
        self._waiting: list[Key] = []
        self._present: Key | None = None
        self._inside = 0
        self._changing = False

    @contextmanager
    def turn(self, key: Key) -> Iterator[None]:
        """Inside it the key is present. Raises what `change` raises; then no key is present, and the next is tried."""
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
            if key == self._present:
                self._inside += 1
                return
            self._changing, self._present = True, None
        present = None
        try:
            self._change(key)  # takes seconds: the others may queue up meanwhile
            present = key
        finally:
            with self._condition:
                self._changing, self._present = False, present
                self._inside += present is not None
                self._condition.notify_all()

    def _may_enter(self, key: Key) -> bool:
        if self._changing:
            return False
        if key == self._present:
            return True
        return not self._inside and self._present not in self._waiting and self._waiting[0] == key

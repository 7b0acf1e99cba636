"""GroupLock: one key at a time, changes while no thread is inside, the current key first, no deadlock or starvation."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rft_ray.sampling.group_lock import GroupLock


class Shared:
    """Records the changes and whether any thread was ever inside with another key, or during a change."""

    def __init__(self) -> None:
        self.group_lock: GroupLock[str] = GroupLock(self.change)
        self.current, self.inside, self.most = "", 0, 0
        self.changes: list[str] = []
        self.wrong: list[str] = []
        self.lock = threading.Lock()

    def change(self, key: str) -> None:
        if self.inside:
            self.wrong.append(f"change to {key} with {self.inside} inside")
        self.current = ""
        time.sleep(0.001)
        self.changes.append(key)
        self.current = key

    def call(self, key: str, seconds: float = 0.0) -> str:
        with self.group_lock.hold(key):
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            if self.current != key:
                self.wrong.append(f"{key} inside with {self.current}")
            time.sleep(seconds)
            if self.current != key:
                self.wrong.append(f"{key} still inside with {self.current}")
            with self.lock:
                self.inside -= 1
        return key


def test_calls_in_any_order_end_and_never_run_under_another_key() -> None:
    shared, chosen = Shared(), random.Random(0)
    keys = [chosen.choice("abc") for _ in range(600)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(shared.call, key, chosen.random() / 500) for key in keys]
        assert [call.result(timeout=30) for call in done] == keys
    assert not shared.wrong
    assert shared.most > 1


def started(shared: Shared, key: str, waiting: int) -> threading.Thread:
    """A thread that calls with the key; returns when `waiting` threads wait."""
    thread = threading.Thread(target=shared.call, args=(key,))
    thread.start()
    while len(shared.group_lock._waiting) < waiting:
        time.sleep(0.001)
    return thread


def test_a_call_with_the_current_key_enters_without_a_change_while_others_wait() -> None:
    shared = Shared()
    with shared.group_lock.hold("a"):
        other = started(shared, "b", 1)
        assert shared.call("a") == "a"
        assert shared.changes == ["a"]
    other.join(10)
    assert shared.changes == ["a", "b"]


def test_waiting_keys_are_served_once_each_in_order_of_arrival() -> None:
    shared = Shared()
    with shared.group_lock.hold("a"):
        threads = [started(shared, key, place) for place, key in enumerate("cbcb", 1)]
    for thread in threads:
        thread.join(10)
    assert shared.changes == ["a", "c", "b"]
    assert not shared.wrong


def test_a_failed_change_raises_in_its_own_call_only() -> None:
    def change(key: str) -> None:
        if key == "bad":
            raise ValueError("no such key")

    lock = GroupLock(change)

    def call(key: str) -> str:
        with lock.hold(key):
            return key

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, key) for key in ("a", "bad", "b", "bad", "a")]
        assert [calls[i].result(10) for i in (0, 2, 4)] == ["a", "b", "a"]
        for i in (1, 3):
            with pytest.raises(ValueError, match="no such key"):
                calls[i].result(10)

"""A store as S3 is, whose operations meet an outage each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable


class FlickeringStore:
    """Elsewhere, and out of reach at the first try of each operation on each key; the next ones succeed.

    `slow`: an operation on a key that begins so takes `seconds` to fail, as where packets are lost.
    """

    url = "s3://bucket/flickering"

    def __init__(self, path: Path, slow: str = "-", seconds: float = 0.0) -> None:
        self.there = LocalStore(path)
        self._slow, self._seconds = slow, seconds
        self.met: list[tuple[str, str]] = []
        """Operation and key of each failure."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.there, name)

    def local_path(self, key: str) -> None:
        return None

    def create(self, key: str, data: bytes) -> bool:
        self._reach("create", key)
        return self.there.create(key, data)

    def create_file(self, key: str, path: Path) -> bool:
        self._reach("create_file", key)
        return self.there.create_file(key, path)

    def read(self, key: str) -> bytes:
        self._reach("read", key)
        return self.there.read(key)

    def fetch(self, key: str, path: Path) -> None:
        self._reach("fetch", key)
        self.there.fetch(key, path)

    def exists(self, key: str) -> bool:
        self._reach("exists", key)
        return self.there.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        self._reach("list", prefix)
        yield from self.there.list(prefix)

    def _reach(self, operation: str, key: str) -> None:
        if (operation, key) not in self.met:
            self.met.append((operation, key))
            time.sleep(self._seconds if key.startswith(self._slow) else 0)
            raise StoreUnreachable(f"S3 is out of reach for {key}")

"""A cache of model folders on this machine: one process builds an entry, the others wait for it."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rft_ray.store.models.arrivals import arriving
from rft_ray.store.models.folder import ModelError
from rft_ray.store.models.node import CACHE, cache_root, locked


def cached(name: str, build: Callable[[Path], None], check: Callable[[Path], object]) -> Path:
    """The folder `<cache>/<name>`, which `build` makes under another name first, unless it exists and passes `check`.

    Processes that need the same folder wait for the one that builds it. Raises ModelError where it cannot be written.
    """
    try:
        final = cache_root() / name
    except OSError as error:
        raise ModelError(f"no folder for models ({error.strerror}): set {CACHE} to a folder") from error
    with suppress(ModelError, OSError):
        check(final)
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        parts = f".{glob.escape(final.name)}.*.part"
        with arriving(final.parent, f"{parts}/**/*"), locked(final.with_name(f".{final.name}.lock")) as is_locked:
            with suppress(ModelError, OSError):
                check(final)  # another process has built it while this one waited
                return final
            if is_locked:  # no other process builds it: these were left by killed ones
                for stale in final.parent.glob(parts):
                    shutil.rmtree(stale, ignore_errors=True)
            _build(final, build)
    except OSError as error:
        why = error.strerror or error
        raise ModelError(f"cannot write {final} ({why}): free some space, or set {CACHE} to another folder") from error
    return final


@contextmanager
def scratch_copy(name: str) -> Iterator[Path]:
    """A path in the cache for a file that is deleted after the block. Raises ModelError where none can be made."""
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache_root(), prefix=".copy-")
    except OSError as error:
        raise ModelError(f"no folder for models ({error.strerror}): set {CACHE} to a folder") from error
    with folder as path:
        yield Path(path, name)


def _build(final: Path, build: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.", suffix=".part") as temp:
        made = Path(temp) / "made"
        made.mkdir()
        build(made)
        if final.exists():  # a damaged copy
            shutil.move(final, Path(temp) / "damaged")
        made.rename(final)

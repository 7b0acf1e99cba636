"""Python's cyclic garbage collector, which stands in the way while packages are imported: none of them is garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Inside the block nothing is collected, and what exists after imports is left out of all later collections.

    Modules live as long as the process. With some 5,000 of them the collector looks at all of their objects over and
    over: it takes a quarter of the time in which vLLM is imported. Blocks may overlap, in several threads too. For
    blocks that import and do nothing else. Where nothing was left to import, later collections leave out nothing more:
    by then there may be garbage, such as an engine that could not be opened.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if was_enabled:
            gc.enable()

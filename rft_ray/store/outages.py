"""Operations that are tried again while a store cannot be reached: a failure would cost more than the wait."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from rft_ray.store.base import StoreError, StoreUnreachable

T = TypeVar("T")

OUTAGE_S, OUTAGE_WAIT_S = 600.0, 5.0
"""For how long, and about how often, an operation is tried again during an outage."""

logger = logging.getLogger(__name__)


def through_outages(act: Callable[[], T], key: str, *, resumes: bool = False) -> T:
    """The result of `act()` on `key`, tried again for OUTAGE_S from its first failure on.

    `resumes`: whether each call goes on where the last one ended. One that ran for longer than OUTAGE_S has then met
    another outage. Raises StoreUnreachable after OUTAGE_S, and at once where `act` itself has waited for so long.
    """
    deadline: float | None = None
    while True:
        began = time.monotonic()
        try:
            return act()
        except StoreUnreachable as error:
            now = time.monotonic()
            if deadline is None or (resumes and now - began > OUTAGE_S):
                deadline = now + OUTAGE_S
            left_s = deadline - now
            if error.waited_out or left_s <= 0:
                error.waited_out = True
                raise
            logger.warning("%s; %s is tried again for %.0f s", error, key, left_s)
            time.sleep(min(left_s, OUTAGE_WAIT_S * (1 + random.random())))


@contextmanager
def kept_on_failure(keep: Callable[[], object]) -> Iterator[None]:
    """Where the block raises, `keep` is called once before the exception goes on, whose place no StoreError takes.

    Not after an outage, which the block has waited out: `keep` would wait for the store once more.
    """
    try:
        yield
    except StoreUnreachable:
        raise
    except BaseException:
        with suppress(StoreError):
            keep()
        raise

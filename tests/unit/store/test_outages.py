"""For how long an operation is tried again while the store is out of reach."""

from __future__ import annotations

import pytest

from rft_ray.store import outages
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.outages import OUTAGE_S, through_outages


class Clock:
    """Time that passes only in waits, and in operations that say so."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    return clock


def test_a_download_that_takes_longer_than_an_outage_may_is_tried_again_too(clock: Clock) -> None:
    tries: list[float] = []

    def download() -> str:
        tries.append(clock.now)
        clock.sleep(2 * OUTAGE_S)
        if len(tries) == 1:
            raise StoreUnreachable("S3 is out of reach")
        return "model"

    assert through_outages(download, "models/x") == "model"


def test_an_outage_without_end_is_an_error(clock: Clock) -> None:
    def read() -> None:
        raise StoreUnreachable("S3 is out of reach")

    began = clock.now
    with pytest.raises(StoreUnreachable):
        through_outages(read, "models/x")
    assert clock.now - began == pytest.approx(OUTAGE_S)


def test_what_goes_on_where_it_was_waits_for_each_outage(clock: Clock) -> None:
    """A run that has worked for hours since an outage waits for the next one as long as for the first."""
    works_s = [0.0, 0.0, 8 * OUTAGE_S, 0.0]

    def run() -> str:
        clock.sleep(works_s.pop(0))
        if works_s:
            raise StoreUnreachable("S3 is out of reach")
        return "finished"

    assert through_outages(run, "the run", resumes=True) == "finished"


def test_what_has_waited_for_an_outage_is_not_tried_again_around_it(clock: Clock) -> None:
    tries = []

    def read() -> None:
        tries.append(clock.now)
        raise StoreUnreachable("S3 is out of reach")

    began = clock.now
    with pytest.raises(StoreUnreachable):
        through_outages(lambda: through_outages(read, "models/x"), "the run", resumes=True)
    assert clock.now - began == pytest.approx(OUTAGE_S)

"""Disks that fill or turn read-only in the middle of a run: nothing acknowledged is lost, and the run resumes."""

from __future__ import annotations

import random
import re

import pytest

from tests.chaos.disks import ROOM, must_run, on_a_disk, refused

pytestmark = pytest.mark.network
WORDS = {
    "full": r"disk full: .* in /\S+/run \(No space left on device\): free some space and run the same command again",
    "read-only": r"read-only disk: .* in /\S+/run \(Read-only file system\): mount it writable.*the same command again",
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_disk_that_fails_in_mid_run_loses_nothing_and_the_run_resumes(kind: str) -> None:
    if why := refused():
        if must_run():
            pytest.fail(f"no disk of its own: {why}")
        pytest.skip(f"no disk of its own: {why}")
    points = sorted(random.Random(kind).sample(range(8, 90), 3))
    for report in on_a_disk(kind, [(at, ROOM) for at in points]):
        assert not report.lost, report
        assert not report.torn, report
        assert report.same, report
        assert report.message, report
        assert re.search(WORDS[kind], report.message), report

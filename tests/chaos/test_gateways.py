"""Two jobs through two gateways to one S3 server, with delays and lost answers: nothing is lost or repeated."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import botocore.loaders
import pytest

from tests.chaos.gateways import CUT, conduct, probe
from tests.chaos.proxy import proxy
from tests.chaos.small_run import outcome, run
from tests.s3server import S3Server, s3_server, second_gateway

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[S3Server]]:
    """Two gateways to the same objects; the environment names the first."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as server, second_gateway(server, folder) as second, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        patch.setattr(botocore.loaders, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield server, second


def test_two_jobs_through_two_gateways_and_a_repair_lose_nothing(gateways: Sequence[S3Server], tmp_path: Path) -> None:
    run(str(tmp_path))
    tally = conduct(gateways, gateways[0].url("two-gateways"), 0, outcome(str(tmp_path)))
    assert tally.sound, tally
    assert tally.faults, "no answer was lost"


def test_one_of_several_writers_through_slow_gateways_wins(gateways: Sequence[S3Server]) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(proxy(gateway.endpoint, gateway.endpoint, CUT)) for gateway in gateways]
        probe(gateways[0].url("probe"), [running.url for running in proxies])

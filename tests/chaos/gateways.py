"""Two jobs on one run, each through a gateway of its own to one S3 server, with delays and lost answers in between.

In: two gateways to the same objects, and seeds. Out: a tally of each trial. Two processes do the small run at once,
each through its own gateway and a proxy that delays every request and answer and cuts some connections (`proxy.py`).
Then a bit of a file is flipped, a repair through the first gateway voids it, and both processes run again. Every create
that was acknowledged is read back byte for byte through both gateways.

Limits: the gateways and the server are processes of one machine.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import cycle
from pathlib import Path
from unittest import mock

import boto3

from rft_ray.cli.store import main
from rft_ray.store import Store, names, open_store
from rft_ray.store.backends.s3 import S3Store
from rft_ray.store.base import check_create_only
from tests.chaos.proxy import proxy
from tests.chaos.small_run import ROWS, Outcome, outcome, run
from tests.chaos.table import Tally
from tests.s3server import BUCKET, S3Server, s3_server, second_gateway, share_service_models

CUT = 0.03
"""Part of the answers that are lost."""
SUBMISSIONS, JOIN_S = 5, 300.0
Acknowledged = dict[str, bytes]


@contextmanager
def through(endpoint: str) -> Iterator[None]:
    """Stores that are first used in the block reach S3 at this endpoint."""
    with mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": endpoint}):
        yield


def conduct(gateways: Sequence[S3Server], url: str, seed: int, expected: Outcome) -> Tally:
    """One trial in a new run at `url`."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(proxy(g.endpoint, f"{seed} {n}", CUT)) for n, g in enumerate(gateways)]
        endpoints = [running.url for running in proxies]
        first = together(url, endpoints)
        before = seen(url, endpoints[1])
        damaged = damage(gateways[0], url, random.Random(seed))
        with through(endpoints[0]), redirect_stdout(io.StringIO()):
            repaired = main(["verify", "--repair", "--yes", url]) == 0
        second = together(url, endpoints)
        with through(endpoints[1]), redirect_stdout(io.StringIO()):
            verified = main(["verify", url]) == 0
        after = seen(url, endpoints[0])
        acknowledged = [*first, *second]
        changed = sum(unreadable(url, endpoint, acknowledged, damaged) for endpoint in endpoints)
        sound = repaired and verified and before.files == expected.files  # after the repair some keys are others
        return Tally(
            1,
            sum(running.cuts for running in proxies),
            ROWS,
            max(before.lost, after.lost),
            max(before.duplicated, after.duplicated),
            max(before.phantom, after.phantom),
            changed + twice(acknowledged),
            0 if sound else 1,
        )


def trials(seeds: Sequence[int], root: str) -> Iterator[Tally]:
    """One trial for each seed, on one server that keeps its data in a folder below `root` and has two gateways."""
    with tempfile.TemporaryDirectory(dir=root) as name, ExitStack() as stack:
        folder = Path(name)
        run(f"{name}/free")
        expected = outcome(f"{name}/free")
        server = stack.enter_context(s3_server(folder))
        gateways = (server, stack.enter_context(second_gateway(server, folder)))
        stack.enter_context(mock.patch.dict(os.environ, server.environment()))
        for seed in seeds:
            yield conduct(gateways, server.url(f"gateways-{seed}"), seed, expected)


def seen(url: str, endpoint: str) -> Outcome:
    with through(endpoint):
        return outcome(url)


def together(url: str, endpoints: Sequence[str]) -> list[Acknowledged]:
    """Do what is missing in two processes at once. Returns the creates that each was told it did."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.gateways"])
    barrier = context.Barrier(len(endpoints))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(number)) for number in range(len(endpoints))]
        jobs = [
            context.Process(target=job, args=(url, os.environ | {"AWS_ENDPOINT_URL": endpoint}, barrier, file))
            for endpoint, file in zip(endpoints, files, strict=True)
        ]
        for process in jobs:
            process.start()
        for process in jobs:
            process.join(JOIN_S)
            if process.exitcode != 0:
                process.kill()
                raise RuntimeError(f"a job on {url} ended with {process.exitcode}")
        return [pickle.loads(file.read_bytes()) for file in files]


def job(url: str, environment: dict[str, str], barrier: object, file: Path) -> None:
    """The small run, submitted again where an error ends it. Writes the acknowledged creates to `file`."""
    os.environ |= environment
    share_service_models()
    acknowledged: Acknowledged = {}
    create = S3Store.create

    def noted(self: S3Store, key: str, data: bytes) -> bool:
        committed = create(self, key, data)
        if committed:
            assert key not in acknowledged, f"{key} was acknowledged twice"
            acknowledged[key] = data
        return committed

    barrier.wait()  # type: ignore[attr-defined]
    with mock.patch.object(S3Store, "create", noted):
        for left in reversed(range(SUBMISSIONS)):
            try:
                run(url)
                break
            except RuntimeError:
                if not left:
                    raise
    file.write_bytes(pickle.dumps(acknowledged))


def damage(server: S3Server, url: str, chance: random.Random) -> str:
    """Flip a bit of a file of completions. Returns its key."""
    with through(server.endpoint):
        store = open_store(url)
        key = chance.choice(sorted(names.committed_files(store.list("completions/")).values()))
        data = bytearray(store.read(key))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        name = f"{url.removeprefix(f's3://{BUCKET}/')}/{key}"
        boto3.client("s3").put_object(Bucket=BUCKET, Key=name, Body=bytes(data))
    return key


def twice(acknowledged: Sequence[Acknowledged]) -> int:
    """Number of creates beyond the first of each key."""
    return sum(map(len, acknowledged)) - len(set().union(*acknowledged))


def unreadable(url: str, endpoint: str, acknowledged: Sequence[Acknowledged], damaged: str) -> int:
    """Number of acknowledged creates that are not in the store as they were written. `damaged`: by this test."""
    with through(endpoint):
        store = open_store(url)
        there = set(store.list())
        creates = {key: data for keys in acknowledged for key, data in keys.items() if key != damaged}
        return sum(key not in there or store.read(key) != data for key, data in creates.items())


class Alternating:
    """A store whose creates go through one gateway and the other in turn, for `check_create_only`."""

    def __init__(self, url: str, endpoints: Sequence[str]) -> None:
        self.url = url
        self._stores = [self._store(endpoint) for endpoint in endpoints]
        self._turn = cycle(self._stores)

    def _store(self, endpoint: str) -> Store:
        with through(endpoint):
            store = open_store(self.url)
            store.exists("none")  # makes the client
            return store

    def create(self, key: str, data: bytes) -> bool:
        return next(self._turn).create(key, data)

    def exists(self, key: str) -> bool:
        return next(self._turn).exists(key)

    def read(self, key: str) -> bytes:
        contents = {store.read(key) for store in self._stores}
        return contents.pop() if len(contents) == 1 else b""


def probe(url: str, endpoints: Sequence[str]) -> None:
    """Raises StoreError unless one of several writers through different gateways wins each key."""
    check_create_only(Alternating(url, endpoints))  # type: ignore[arg-type]

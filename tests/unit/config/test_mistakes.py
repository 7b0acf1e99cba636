"""Mistakes in a config, as a new user makes them: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft_ray.config import ConfigError, load

MODELS = "models: [{name: a, source: x}]\n"


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(path, overrides)
    message = str(error.value).removeprefix(f"{tmp_path}/")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run: {name: a}\n" + MODELS + "run: {seed: 1}\n",
            "c.yaml:3:1: the key 'run' is given in line 1 and in line 3",
        ),
        (MODELS + "sft:\n  epochs: 1\n  epochs: 2\n", "c.yaml:4:3: the key 'epochs' is given in line 3 and in line 4"),
        (MODELS + "sft: {epochs: 1, epochs: 2}\n", "c.yaml:2:18: the key 'epochs' is given twice in line 2"),
        ("run:\n\tname: a\n", "c.yaml:2:1: a tab: indent with spaces"),
        ("run:\n  name: a\n   seed: 1\n", "c.yaml:3:8: a second ': ' in one line, or a wrong indentation"),
        ("run:\n    name: a\n  seed: 1\n", "c.yaml:3:3: the indentation does not fit the lines above"),
        ("run: {name: a\n" + MODELS, "c.yaml:2:7: a section in { } lacks a comma or its '}'"),
        ("run: {name: 'a}\n", "c.yaml:2:1: a quote is not closed"),
        ("run: {name: 2026-02-30}\n", "c.yaml:1:13: '2026-02-30' is no date: put a text in quotes"),
        ("run: {seed: 0x_}\n", "c.yaml:1:13: '0x_' is no number"),
        ('run: {name: "\\ud83d"}\n', "c.yaml:1:13: "),
    ],
)
def test_bad_yaml_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(MODELS + "sft: &r {epochs: 3}\nrft: {<<: *r, epochs: 4}\n")
    assert load(path).rft.epochs == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {name: a}\n", "models: is missing: write models: [{name: a"),
        ("models: {a: x}\n", "models: must be a list: write models: [{name: a"),
        ("models: []\n", "models: is empty: write models: [{name: a"),
        ("models: [a]\n", "models.0: must be a section"),
        ("models: [{name: a, sorce: x}]\n", "unknown key 'models.0.sorce'; nearest known key: 'models.*.source'"),
        ("model: [{name: a, source: x}]\n", "unknown key 'model'; nearest known key: 'models'"),
    ],
)
def test_models_that_are_no_list_of_models_have_one_plain_message(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(f"c.yaml: {message}")


def test_a_bad_override_is_an_error_of_the_command_line(tmp_path: Path) -> None:
    assert refused(tmp_path, MODELS, "--sft.epochs=0").startswith("the command line: sft.epochs: ")
    assert refused(tmp_path, MODELS, "--engine.kind=x").startswith("the command line: sampling.engine: ")
    assert refused(tmp_path, MODELS, "--sft.epocs=1").startswith("the command line: unknown key 'sft.epocs'")
    both = refused(tmp_path, MODELS, "--sampling.samples_per_problem=30")
    assert both.startswith("c.yaml with --sampling.samples_per_problem: sampling: ")
    assert refused(tmp_path, MODELS + "sft: {epochs: 0}\n", "--rft.epochs=1").startswith("c.yaml: sft.epochs: ")
    assert "--sft=[: not a YAML value" in refused(tmp_path, MODELS, "--sft=[")
    assert refused(tmp_path, MODELS, "--sft=none").endswith("(key: value), or null for no SFT")
    assert "'a' is no index of this list" in refused(tmp_path, MODELS, "--models.a.source=x")


@pytest.mark.parametrize("text", ["Question: {query}", "{query}: [", "- {query} # no comment", "'{query}' it's"])
def test_a_text_on_the_command_line_is_not_parsed(text: str) -> None:
    models = "--models=[{name: a, source: x}]"
    assert load(None, [models, f"--prompt.template={text}"]).prompt.template == text
    assert load(None, [models, "--run.name=2024", "--models.0.source=007"]).models[0].source == "007"
    assert load(None, [models, '--prompt.template="Q: {query}\\n"']).prompt.template == "Q: {query}\n"


@pytest.mark.parametrize("pattern", ["#### (\\d+)", "(\\d+) # (x)", "[0-9]+(x)", "answer: (.*)", "(1)"])
def test_a_text_that_may_be_null_is_not_parsed_either(pattern: str) -> None:
    regex = ["--models=[{name: a, source: x}]", "--grading.verifier=regex"]
    assert load(None, [*regex, f"--grading.pattern={pattern}"]).grading.pattern == pattern
    columns = load(None, [*regex, "--grading.pattern=(x)", "--problems.train.question=Question #1"]).problems.train
    assert columns.question == "Question #1"
    for null in ("null", "~", ""):
        assert load(None, [regex[0], f"--models.0.endpoint.key_env={null}"]).models[0].endpoint.key_env is None


def test_a_pair_of_escapes_of_json_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"models": [{"name": "a", "source": "x"}], "prompt": {"system": "😀"}}))
    assert load(tmp_path / "c.json").prompt.system == "😀"


@pytest.mark.parametrize("key", ["run.store", "models.0.source", "problems.train.source"])
def test_an_empty_address_is_refused(tmp_path: Path, key: str) -> None:
    """As of an unset variable of the shell: `--run.store=$STORE` meant the root of the file system."""
    message = refused(tmp_path, MODELS + "problems: {test: {source: x}}\n", f"--{key}=")
    assert message.startswith(f"the command line: {key}: is empty: a variable of the shell may be unset")


@pytest.mark.parametrize("value", ["true", "yes", "on", "false"])
@pytest.mark.parametrize(
    "key", ["training.workers", "training.zero_stage", "problems.train.limit", "run.seed", "engine.kv_cache_gib"]
)
def test_a_truth_value_is_no_number(tmp_path: Path, key: str, value: str) -> None:
    assert refused(tmp_path, MODELS, f"--{key}={value}").startswith(
        f"the command line: {key}: must be a number, not true or false"
    )


def test_an_own_training_set_needs_a_test_set_by_name(tmp_path: Path) -> None:
    own = MODELS + "problems: {train: {source: mine.jsonl}}\n"
    assert "train is your own, so name the test set too: write test: {source: …}" in refused(tmp_path, own)
    assert "name the test set too" in refused(tmp_path, own, "--problems.test.limit=50")
    (tmp_path / "c.yaml").write_text(own)
    saved = load(tmp_path / "c.yaml", ["--problems.test.source=gsm8k:test"])
    (tmp_path / "c.yaml").write_text(saved.to_yaml())
    assert load(tmp_path / "c.yaml") == saved


def test_a_limit_of_the_test_set_does_not_turn_it_into_the_training_set() -> None:
    config = load(None, ["--models=[{name: a, source: x}]", "--problems.test.limit=50"])
    assert config.problems.test.source == "hub:openai/gsm8k:test"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.wait_minutes=.inf", "training.wait_minutes: Input should be a finite number (given: inf)"),
        ("training.checkpoint_minutes=1e300", "training.checkpoint_minutes: Input should be less than or equal to"),
        ("engine.stall_seconds=.inf", "engine.stall_seconds: Input should be a finite number"),
        ("engine.drain_seconds=1e12", "engine.drain_seconds: Input should be less than or equal to"),
        ("engine.kv_cache_gib=.inf", "engine.kv_cache_gib: Input should be a finite number"),
        ("cost.usd_per_gpu_hour=.inf", "cost.usd_per_gpu_hour: Input should be a finite number"),
        ("engine.gpus_per_engine=0.00001", "engine.gpus_per_engine: Input should be greater than or equal to 0.001"),
        ("training.scratch_folder=s3://bucket/x", "training.scratch_folder: must be the whole path of a folder"),
        ("training.scratch_folder=scratch", "training.scratch_folder: must be the whole path of a folder"),
        ("grading.memory_gib=1e30", "grading.memory_gib: Input should be less than or equal to 1000000"),
        ("study.pretraining_losses={a: .nan}", "study.pretraining_losses.a: Input should be a finite number"),
        ("study.pretraining_losses={a: 0}", "study.pretraining_losses: the loss of 'a' must be above 0, and is 0"),
    ],
)
def test_a_value_that_no_timer_and_no_file_takes_is_refused(tmp_path: Path, override: str, message: str) -> None:
    assert refused(tmp_path, MODELS, f"--{override}").startswith(f"the command line: {message}")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("study={questions: []}", "study.questions"),
        ("grading={judge: {source: q, statuses: []}}", "grading.judge.statuses"),
    ],
)
def test_an_empty_list_is_refused_in_plain_words(tmp_path: Path, override: str, key: str) -> None:
    assert refused(tmp_path, MODELS, f"--{override}") == f"the command line: {key}: must not be empty"


@pytest.mark.parametrize("section", ["sampling", "evaluation"])
def test_more_samples_of_a_request_than_vllm_takes_are_refused(tmp_path: Path, section: str) -> None:
    message = refused(tmp_path, MODELS, f"--{section}={{samples_per_problem: 20000, samples_per_block: 20000}}")
    assert message.startswith(f"the command line: {section}.samples_per_block: Input should be less than or equal to ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.parallel_jobs=0", "Input should be 'auto', or: Input should be greater than or equal to 1"),
        ("engine.enforce_eager=maybe", "Input should be 'auto', or: Input should be a valid boolean"),
    ],
)
def test_a_key_with_several_kinds_of_value_has_one_line(tmp_path: Path, override: str, message: str) -> None:
    key = override.partition("=")[0]
    assert refused(tmp_path, MODELS, f"--{override}").startswith(f"the command line: {key}: {message}")


@pytest.mark.parametrize(
    "override",
    [
        "training.parallel_jobs=3",
        "training.wait_minutes=0.01",
        "training.checkpoint_minutes=1000000",
        "training.scratch_folder=~/scratch",
        "training.scratch_folder=null",
        "engine.gpus_per_engine=0.3333333",
        "engine.stall_seconds=100000000",
    ],
)
def test_odd_values_that_work_are_read(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(MODELS)
    assert load(path, [f"--{override}"])

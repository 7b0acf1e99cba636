"""Config: defaults follow the paper; invalid input is refused with the key and the nearest valid one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rft_ray.config import Config, ConfigError, load
from rft_ray.config.loading import known_keys

MODELS = "--models=[{name: a, source: 'tiny:tiny-s'}]"
CONFIGS = sorted((Path(__file__).parents[3] / "jobs" / "configs").glob("*.yaml"))


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(None, [MODELS, *overrides])
    return str(error.value)


def test_defaults_are_the_papers() -> None:
    config = load(None, [MODELS])
    assert (config.sampling.temperature, config.sampling.samples_per_problem, config.sampling.max_new_tokens) == (
        0.7,
        100,
        256,
    )
    recipe = config.rft
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.max_tokens) == (3, 2e-5, 128, 512)
    assert (recipe.warmup_ratio, recipe.weight_decay) == (0.03, 0.0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    load(path)


def test_unknown_key_names_the_nearest_known_one() -> None:
    assert "'sampling.temprature'; nearest known key: 'sampling.temperature'" in refused("--sampling.temprature=1")


def test_unknown_key_of_a_model_names_the_nearest_known_one() -> None:
    assert "models.*.source" in refused("--models.0.sourc=x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "--sampling.samples_per_problem=30",
            "multiple of samples_per_block=20: use 20 or 40, or samples_per_block=15",
        ),
        ("--sampling.samples_per_problem=8", "multiple of samples_per_block=20: use 20, or samples_per_block=8"),
        ("--sampling.temperature=-1", "sampling.temperature"),
        ("--problems.train={limit: 5, fraction: 0.5}", "not both"),
        ("--prompt.template=hello", "{query}"),
        ("--run.name=a/b", "letters, digits"),
        ("--engine={min_actors: 3, max_actors: 2}", "less than"),
        ("--grading.mode=lax", "'strict' or 'paper'"),
        ("--training.zero_stage=4", "training.zero_stage"),
        ("--engine.script='die:'", "engine.script needs sampling.engine: scripted"),
        ("--engine.kind=vlm", "sampling.engine: Input should be 'vllm' or 'scripted'"),
    ],
)
def test_impossible_value_is_refused_by_key(override: str, words: str) -> None:
    assert words in refused(override)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        load(None, ["--models=[{name: a, source: x}, {name: a, source: y}]"])


def test_an_old_key_is_read_and_its_new_name_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: [{name: a, source: x}]\nengine: {max_model_len: 512, max_num_seqs: 8}\n")
    config = load(path, ["--engine.kind=scripted"])
    assert (config.sampling.engine, config.sampling.max_model_len) == ("scripted", 512)
    assert config == load(path, ["--engine={max_num_seqs: 8}", "--sampling={engine: scripted, max_model_len: 512}"])
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: engine.kind is now sampling.engine: the old key is still read",
        f"{path}: engine.max_model_len is now sampling.max_model_len: the old key is still read",
    ]


def test_the_config_that_an_earlier_version_saved_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    saved = load(None, [MODELS]).model_dump(mode="json")
    saved["engine"] |= {
        "kind": saved["sampling"].pop("engine"),
        "max_model_len": saved["sampling"].pop("max_model_len"),
    }
    assert Config.model_validate(saved) == load(None, [MODELS])
    assert not capsys.readouterr().err


def test_an_old_key_and_its_new_one_must_not_differ() -> None:
    message = refused("--engine.kind=scripted", "--sampling.engine=vllm")
    assert "engine.kind: scripted and sampling.engine: vllm differ: give sampling.engine only" in message
    assert load(None, [MODELS, "--engine.kind=scripted", "--sampling.engine=scripted"]).sampling.engine == "scripted"


@pytest.mark.parametrize(("written", "read"), [("on", "on"), ("off", "off"), ("'on'", "on"), ("auto", "auto")])
def test_on_and_off_need_no_quotes_in_yaml(written: str, read: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"models: [{{name: a, source: x}}]\ntraining: {{packing: {written}}}\n")
    assert load(tmp_path / "run.yaml").training.packing == read
    assert load(None, ["--models=[{name: a, source: x}]", f"--training.packing={written}"]).training.packing == read


def test_missing_config_file_names_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("run: {}\n")
    with pytest.raises(ConfigError, match=r"nearest file there: demo\.yaml"):
        load(tmp_path / "demo.yml")


def test_broken_yaml_is_refused_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("run: [\n")
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load(path)


def test_override_without_a_value_says_how_to_write_it() -> None:
    assert "--section.key=value" in refused("--run.name")


def test_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load(None, [MODELS, "--sampling.top_p=0.9", "--problems.train.limit=7"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load(tmp_path / "c.yaml") == config


def test_every_known_key_is_in_the_resolved_config() -> None:
    keys = set(known_keys())
    assert {"run.name", "models.*.source", "sft.lora_rank", "engine.tensor_parallel_size"} <= keys
    resolved = load(None, [MODELS]).model_dump()
    for key in keys:
        node = resolved
        for part in key.replace("*", "0").split("."):
            if node is None:  # an optional section
                break
            node = node[int(part) if part.isdigit() else part]


def test_an_override_of_one_section_leaves_its_yaml_twin_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: [{name: a, source: x}]\nsft: &r {epochs: 3}\nrft: *r\n")
    config = load(path, ["--sft.epochs=1"])
    assert (config.sft.epochs, config.rft.epochs) == (1, 3)


def test_an_override_below_null_is_refused() -> None:
    with pytest.raises(ConfigError):
        load(None, ["--models=[null]", "--models.0.name=x"])


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("source: 'openai:big'", "(openai:big) only samples: write rft: false"),
        ("source: 'openai:big', rft: false, samples: false", "only samples"),
        ("source: 'openai:', rft: false", "write openai:<model>"),
        ("source: 'openai:big', rft: false, endpoint: {base_url: 'ftp://h'}", "must start with http:// or https://"),
        ("source: 'openai:big', rft: false, endpoint: {timeout_seconds: 1800}", "less than engine.stall_seconds=1800"),
        ("source: 'openai:big', rft: false, endpoint: {key_env: 'sk-7secret'}", "not a key: write the variable's name"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_refused_without_a_key_in_the_message(teacher: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        load(None, [f"--models=[{{name: a, source: x}}, {{name: b, {teacher}}}]"])
    assert "7secret" not in str(error.value)

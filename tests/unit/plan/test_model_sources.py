"""A run keeps the commits of its hub models, and checks each model with the prompts that it reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.config import Config, ConfigError
from rft_ray.data import base_models
from rft_ray.data.row_files import DataError
from rft_ray.data.tiny import model_dir
from rft_ray.plan.checks import check_models, missing_gpus, notes
from rft_ray.store import mark_run
from rft_ray.store.models.folder import ModelError
from rft_ray.store.plans import _name_of, recorded_sources, saved_plans


def config(folder: Path, **changes: object) -> Config:
    tree = {
        "run": {"name": "mine", "store": str(folder)},
        "problems": {"train": {"source": "tiny:train:20"}, "test": {"source": "tiny:test:20"}, "per_block": 10},
        "models": [{"name": "a", "source": "tiny:tiny-s"}],
        "sampling": {"samples_per_problem": 4, "samples_per_block": 4},
        "prompt": {"kind": "template"},
    }
    return Config.model_validate(tree | changes)


def test_a_pinned_source_is_recorded_in_the_run_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = pipeline.prepare(config(tmp_path))
    mark_run(store)
    pipeline.save(replace(plan, sources={"hub:owner/name": "hub:owner/name@c0ffee"}), store)
    assert recorded_sources(store) == {"hub:owner/name": "hub:owner/name@c0ffee"}
    monkeypatch.setattr(base_models, "fingerprint", lambda source: {"hub:owner/name@c0ffee": "f" * 16}[source])
    again, _ = pipeline.prepare(config(tmp_path, models=[{"name": "a", "source": "hub:owner/name"}]))
    assert again.config.models[0].source == "hub:owner/name@c0ffee"
    assert again.sft[0].base == "hub:owner/name@c0ffee"
    assert again.past(["completions/x"]).sources == again.sources == {"hub:owner/name": "hub:owner/name@c0ffee"}


def test_a_second_spelling_of_a_pinned_source_is_recorded_too(tmp_path: Path) -> None:
    """The same plan is saved already; without a record, the second spelling would follow its branch."""
    plan, store = pipeline.prepare(config(tmp_path))
    mark_run(store)
    spellings = ({}, {"hub:own/m@main": "hub:own/m@c0ffee"}, {"hub:own/m": "hub:own/m@c0ffee"})
    for pins in (*spellings, *spellings):
        pipeline.save(replace(plan, sources=pins), store)
    assert recorded_sources(store) == spellings[1] | spellings[2]
    assert len(saved_plans(store)) == len(spellings)
    assert len({saved.recipes for saved in saved_plans(store)}) == 1
    first = min(saved_plans(store), key=lambda saved: len(saved.pins))
    assert first.name == _name_of(first.recipes)  # of a plan without pins, as in earlier versions


def test_a_source_enters_no_fingerprint(tmp_path: Path) -> None:
    elsewhere = shutil.copytree(model_dir("tiny-s"), tmp_path / "elsewhere")
    here, _ = pipeline.prepare(config(tmp_path))
    there, _ = pipeline.prepare(config(tmp_path, models=[{"name": "a", "source": str(elsewhere)}]))
    assert here.fingerprint == there.fingerprint


def test_models_are_checked_with_their_own_prompt_and_source(tmp_path: Path) -> None:
    broken = shutil.copytree(model_dir("tiny-s"), tmp_path / "broken")
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    template = "{{ raise_exception('no') }}"
    (broken / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    train = pipeline.prepare(config(tmp_path))[0].train
    check_models(config(tmp_path, models=[{"name": "a", "source": str(broken)}]), train)
    for models in (
        [{"name": "a", "source": str(broken), "prompt": {"kind": "chat"}}],
        [{"name": "a", "source": "tiny:tiny-s", "sample_from": str(broken), "prompt": {"kind": "chat"}}],
    ):
        with pytest.raises(ModelError, match="chat template"):
            check_models(config(tmp_path, models=models), train)


def test_a_model_behind_an_endpoint_has_no_files_to_check(tmp_path: Path) -> None:
    teacher = {"name": "b", "source": "openai:teacher", "rft": False}
    train = pipeline.prepare(config(tmp_path))[0].train
    check_models(config(tmp_path, models=[{"name": "a", "source": "tiny:tiny-s"}, teacher]), train)


def test_a_choice_that_has_no_effect_or_a_bad_one_is_noted(tmp_path: Path) -> None:
    models = [{"name": "a", "source": "tiny:tiny-s", "sample_from": "tiny:tiny-m"}]
    prompt = {"template": "{query} <think>"}
    chosen = config(tmp_path, models=models, prompt=prompt, rft={"from": "sampler"}, corpus={"reasoning": "drop"})
    plan, _ = pipeline.prepare(chosen)
    lines = list(notes(plan.config, plan.train, plan.test))
    assert any(line.startswith("models.0: its training starts from its base tiny:tiny-s") for line in lines)
    assert any("ends inside reasoning" in line for line in lines)
    usual, _ = pipeline.prepare(config(tmp_path))
    assert list(notes(usual.config, usual.train, usual.test)) == []


def test_a_prompt_that_opens_reasoning_is_noted_where_the_model_learns_texts_that_do_not_close_it(
    tmp_path: Path,
) -> None:
    def noted(**changes: object) -> bool:
        plan, _ = pipeline.prepare(config(tmp_path, prompt={"template": "{query} <think>"}, **changes))
        return any("ends inside reasoning" in line for line in notes(plan.config, plan.train, plan.test))

    assert noted()
    assert noted(sft=None)
    assert not noted(sft=None, corpus={"gold": False})
    assert noted(sft=None, corpus={"gold": False, "reasoning": "drop"})


def test_a_chat_template_that_opens_reasoning_is_noted_for_the_model_that_learns(tmp_path: Path) -> None:
    reasons = shutil.copytree(model_dir("tiny-s"), tmp_path / "reasons")
    settings = json.loads((reasons / "tokenizer_config.json").read_text())
    template = "{{ messages[0]['content'] }}<think>"
    (reasons / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    chat = {"source": str(reasons), "prompt": {"kind": "chat"}}

    train = pipeline.prepare(config(tmp_path))[0].train

    def noted(**changes: object) -> bool:
        lines = check_models(config(tmp_path, **changes), train)
        return any("ends in <think>, and it learns from texts that do not close it" in line for line in lines)

    assert noted(models=[{"name": "b", **chat, "shots": 1, "rft": False}, {"name": "a", **chat}], sft=None)
    assert not noted(models=[{"name": "a", **chat, "rft": False}], sft=None)


def test_answers_alone_are_refused_with_sft_and_planned_without(tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [json.dumps({"question": f"What is 3 + {n} in {name}?", "answer": 3 + n}) for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    sets = {name: {"source": str(tmp_path / f"{name}.jsonl")} for name in ("train", "test")}
    with pytest.raises(DataError, match=r"problems.train: none of 20 .* --sft=null, or the preset self_improve"):
        pipeline.prepare(config(tmp_path, problems=sets))
    assert pipeline.prepare(config(tmp_path, problems=sets, sft=None))[0].train.solved == 0


def test_what_only_gpus_sample_with_is_refused_on_cpus_and_noted_where_there_may_be_gpus(tmp_path: Path) -> None:
    engine = {"kv_cache_dtype": "int8_per_token_head", "device": "cpu"}
    noise = "kv_cache_dtype=int8_per_token_head: on CPUs vLLM samples noise"
    with pytest.raises(ConfigError, match=noise):
        list(missing_gpus(config(tmp_path, engine=engine), gpus=0))
    scripted = {"samples_per_problem": 4, "samples_per_block": 4, "engine": "scripted"}
    assert list(missing_gpus(config(tmp_path, engine=engine, sampling=scripted), gpus=0)) == []
    auto = config(tmp_path, engine={**engine, "device": "auto"})
    (line,) = missing_gpus(auto, gpus=0)  # a dry run for another machine than this one
    assert noise in line
    assert list(missing_gpus(auto, gpus=1)) == []


def test_speculative_decoding_has_no_effect_on_cpus_and_the_user_reads_so(tmp_path: Path) -> None:
    engine = {"speculative": {"method": "ngram", "num_speculative_tokens": 2}}
    (line,) = missing_gpus(config(tmp_path, engine=engine), gpus=0)
    assert line.startswith("engine.speculative has no effect on CPUs")
    assert list(missing_gpus(config(tmp_path, engine=engine), gpus=1)) == []

"""The estimated memory of trainings and engines, and what is refused."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.config import Config, ConfigError, ProblemSet, Recipe, Training, load
from rft_ray.config.hardware import BY_NAME
from rft_ray.config.section import Switch
from rft_ray.data.problems import prepare
from rft_ray.plan.memory import (
    GIB,
    EngineSettings,
    TrainingSettings,
    alternatives,
    engine_memory,
    fewest_gpus,
    fits,
    planned_card,
    training_memory,
)
from rft_ray.plan.memory_plan import Needs, check, engine_settings, host_line, needs, table, training_settings
from rft_ray.plan.model_shape import ModelShape, shape_of
from rft_ray.plan.run_plan import make_plan
from rft_ray.plan.samplers import sources
from tests.unit.config.test_engine_arguments import source

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
A100 = BY_NAME["A100-80GB"]
EIGHT = TrainingSettings(workers=8, zero_stage=3, micro_batch=4, tokens=512, batch_size=128)


def shape(
    parameters: int, hidden: int, intermediate: int, layers: int, heads: tuple[int, int], vocabulary: int
) -> ModelShape:
    """As the model's config.json states it. `heads`: of queries, and of keys."""
    made = shape_of(
        {
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768 if vocabulary > 100_000 else 2048,
            "torch_dtype": "bfloat16",
        },
        parameters,
    )
    assert made is not None
    return made


LLAMA_7B = shape(6_738_415_616, 4096, 11008, 32, (32, 32), 32000)
LLAMA_13B = shape(13_015_864_320, 5120, 13824, 40, (40, 40), 32000)
LLAMA_33B = shape(32_528_943_616, 6656, 17920, 60, (52, 52), 32000)
LLAMA_70B = shape(68_976_648_192, 8192, 28672, 80, (64, 8), 32000)
SHAPES = {
    "hub:huggyllama/llama-7b": LLAMA_7B,
    "hub:meta-llama/Llama-2-7b-hf": LLAMA_7B,
    "hub:huggyllama/llama-13b": LLAMA_13B,
    "hub:meta-llama/Llama-2-13b-hf": LLAMA_13B,
    "hub:huggyllama/llama-30b": LLAMA_33B,
    "hub:Qwen/Qwen2.5-0.5B-Instruct": shape(494_032_768, 896, 4864, 24, (14, 2), 151936),
    "hub:Qwen/Qwen2.5-1.5B-Instruct": shape(1_543_714_304, 1536, 8960, 28, (12, 2), 151936),
    "hub:Qwen/Qwen2.5-7B-Instruct": shape(7_615_616_512, 3584, 18944, 28, (28, 4), 152064),
}


def needed(config: Config) -> Needs:
    train, test = (prepare(ProblemSet(source=f"tiny:{split}:50"), 0, 50) for split in ("train", "test"))
    config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"kind": "template"})})
    plan = make_plan(config, train, test, dict(sources(config)))
    return needs(config, plan.trainings, plan.samplings, SHAPES, 100)


def shipped(name: str, *settings: str) -> Config:
    return load(CONFIGS / f"{name}.yaml", settings)


@pytest.mark.parametrize("name", ["paper", "k8s", "qwen"])
def test_a_shipped_config_fits_the_card_that_it_names(name: str) -> None:
    found = needed(shipped(name))
    card = found.config.hardware.card
    assert card is not None
    assert len(found.trainings) >= 3
    assert len(found.samplings) >= 3
    check(found, card)
    assert "DOES NOT FIT" not in table(found, card)
    assert not found.unknown


def test_33b_on_eight_cards_of_80_gb_is_planned_with_checkpointing() -> None:
    memory = training_memory(LLAMA_33B, EIGHT, A100)
    assert memory.checkpointing
    assert fits(memory, A100)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * LLAMA_33B.parameters / 8
    with_13b = training_memory(LLAMA_13B, EIGHT, A100)
    assert not with_13b.checkpointing
    assert fits(with_13b, A100)


def test_33b_without_checkpointing_is_refused_with_what_would_fit() -> None:
    llama = '--models=[{name: llama-33b, source: "hub:huggyllama/llama-30b"}]'
    config = shipped("paper", llama, "--training.activation_checkpointing=off")
    with pytest.raises(ConfigError, match=r"rft of llama-33b needs about \d+.* GiB on each of 8 A100-80GB") as caught:
        check(needed(config), A100)
    assert "would fit: training.activation_checkpointing=on" in str(caught.value)
    check(needed(shipped("paper", llama)), A100)


def test_33b_with_sums_in_float32_needs_offload_or_sixteen_cards() -> None:
    config = shipped(
        "paper", '--models=[{name: big, source: "hub:huggyllama/llama-30b"}]', "--rft.grad_accum_dtype=float32"
    )
    with pytest.raises(ConfigError) as caught:
        check(needed(config), A100)
    assert "would fit: training.offload_optimizer=true" in str(caught.value)
    assert "GiB of the hosts' memory), or training.workers=16" in str(caught.value)


def test_a_misfit_can_be_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    config = shipped("paper", "--training.workers=1", "--hardware.on_misfit=continue")
    check(needed(config), A100)
    assert capsys.readouterr().out.startswith("note: sft of llama-7b needs about ")


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("model", [LLAMA_7B, LLAMA_33B, LLAMA_70B])
@pytest.mark.parametrize("card", ["L4", "A100-40GB", "H200"])
def test_every_alternative_fits_and_divides_the_batch(workers: int, model: ModelShape, card: str) -> None:
    settings = replace(EIGHT, workers=workers, zero_stage=1, micro_batch=8)
    for choice in alternatives(model, settings, BY_NAME[card]):
        assert fits(training_memory(model, choice, BY_NAME[card]), BY_NAME[card])
        assert choice.batch_size % (choice.workers * choice.micro_batch) == 0
        assert choice.workers >= workers


@pytest.mark.parametrize(("packing", "examples"), [("auto", 4), ("on", 4), ("off", 3)])
def test_a_packed_row_is_planned_whole_though_its_examples_do_not_divide_a_workers_share(
    packing: Switch, examples: int
) -> None:
    training = Training(workers=2, micro_batch_size=4, packing=packing)
    assert training_settings(training, Recipe(batch_size=12), LLAMA_7B).micro_batch == examples
    assert training_settings(training, Recipe(batch_size=4), LLAMA_7B).micro_batch == 2


def test_each_zero_stage_divides_more() -> None:
    totals = [training_memory(LLAMA_7B, replace(EIGHT, zero_stage=stage), None).total for stage in (0, 1, 2, 3)]
    assert totals == sorted(totals, reverse=True)
    more = training_memory(LLAMA_7B, replace(EIGHT, workers=16), None)
    assert more.total < totals[3]


def test_offload_moves_the_optimizer_to_the_host() -> None:
    there = training_memory(LLAMA_7B, replace(EIGHT, offload=True), None)
    assert there.optimizer == there.gradients == 0
    assert there.host == 2 * LLAMA_7B.parameters  # 16 bytes of an eighth


def test_adapters_train_few_weights() -> None:
    adapters = training_memory(LLAMA_7B, replace(EIGHT, zero_stage=1, workers=1, lora_rank=16), None)
    assert LLAMA_7B.adapter_parameters(16) == 39_976_960  # as peft counts for all linear layers of 7B
    assert adapters.optimizer == 12 * 39_976_960


ENGINE = EngineSettings(gpus=1, utilization=0.9, sequences=256, context=2048, tokens=400, eager=False)


def test_keys_and_values_of_7b_take_half_a_mib_a_token() -> None:
    memory = engine_memory(LLAMA_7B, ENGINE, A100)
    assert memory.kv_per_context == 2048 * 2**19
    assert memory.sequences == memory.kv_cache // (400 * 2**19)
    assert memory.weights / GIB == pytest.approx(12.55, abs=0.01)


def test_70b_needs_several_cards_to_sample() -> None:
    assert not engine_memory(LLAMA_70B, ENGINE, A100).fits
    assert fewest_gpus(LLAMA_70B, ENGINE, A100) == 4


def test_an_engine_without_room_for_one_sequence_is_refused() -> None:
    config = shipped("paper", "--hardware.gpu=L4", "--training.device=cpu")
    with pytest.raises(
        ConfigError, match=r"with llama-13b: 1 L4 have no room .*: would fit: engine\.tensor_parallel_size=2"
    ) as caught:
        check(needed(config), BY_NAME["L4"])
    assert "7b" not in str(caught.value)


def test_on_cpus_one_line_says_what_the_host_needs() -> None:
    line = host_line(needed(shipped("paper", "--training.workers=1")))
    assert line.startswith("host memory: about ")
    assert "\n" not in line
    assert host_line(replace(needed(shipped("paper")), trainings=(), samplings=())) == ""


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": "4096", "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9},
        {"hidden_size": 8, "num_hidden_layers": True, "num_attention_heads": 2, "vocab_size": 9},
        {"hidden_size": 8, "num_hidden_layers": -2, "num_attention_heads": 2, "vocab_size": 9},
        {"text_config": [1], "hidden_size": None},
    ],
)
def test_a_config_without_sizes_has_no_shape(config: dict[str, object]) -> None:
    assert shape_of(config, 1000) is None


def test_the_sizes_of_the_text_model_and_of_older_names_are_read() -> None:
    text = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 128}
    made = shape_of({"text_config": text, "vision_config": {"hidden_size": 9}}, 5000)
    assert made == ModelShape(5000, 64, 2, 256, 64, 64, 100, 128, heads=4)


def test_the_accelerator_type_of_the_engines_names_a_card_too() -> None:
    typed = shipped("qwen", "--hardware.gpu=null", "--engine.accelerator_type=L4")
    assert planned_card(typed) is BY_NAME["L4"]
    assert planned_card(shipped("qwen", "--engine.accelerator_type=L4")) is A100
    assert planned_card(shipped("demo")) is None


def test_an_engine_with_a_share_of_a_card_has_that_share_of_its_memory() -> None:
    """As the sampler opens it: `engine_arguments` of sampling/vllm_arguments.py."""
    small = '--models=[{name: s, source: "hub:Qwen/Qwen2.5-1.5B-Instruct"}]'
    large = '--models=[{name: l, source: "hub:Qwen/Qwen2.5-7B-Instruct"}]'
    check(needed(shipped("qwen", small, "--engine.gpus_per_engine=0.25")), A100)
    misfit = needed(shipped("qwen", large, "--engine.gpus_per_engine=0.1"))
    with pytest.raises(
        ConfigError, match=r"0\.1 of a A100-80GB has no room .*: would fit: engine\.gpus_per_engine=0\.5"
    ):
        check(misfit, A100)
    assert "DOES NOT FIT" in table(misfit, A100)
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel_size=2 with engine\.gpus_per_engine=null"):
        check(needed(shipped("paper", "--engine.gpus_per_engine=0.5", "--training.device=cpu")), BY_NAME["L4"])


def test_engines_of_one_type_are_checked_on_its_card() -> None:
    typed = shipped("paper", "--engine.accelerator_type=L4")
    with pytest.raises(ConfigError, match="sampling with llama-13b: 1 L4 have no room"):
        check(needed(typed), A100)
    shown = table(needed(typed), A100)
    assert "memory of each A100-80GB" in shown
    assert "engines are on L4, in GiB of 21.0" in shown
    forty = shipped("paper", "--engine.accelerator_type=A100", "--hardware.gpu=A100-40GB", "--training.device=cpu")
    assert "engines are on" not in table(needed(forty), BY_NAME["A100-40GB"])  # Ray has one name for both


QWEN_7B = SHAPES["hub:Qwen/Qwen2.5-7B-Instruct"]


def test_a_head_of_keys_is_whole_on_each_of_its_gpus() -> None:
    four, eight = (replace(ENGINE, gpus=n) for n in (4, 8))
    by_four, by_eight = (engine_memory(LLAMA_70B, engine, A100).kv_per_sequence for engine in (four, eight))
    assert by_eight == by_four // 2  # 8 heads of keys
    assert engine_memory(QWEN_7B, eight, A100).kv_per_sequence == engine_memory(QWEN_7B, four, A100).kv_per_sequence
    layers = engine_memory(QWEN_7B, replace(eight, pipeline=2), A100).kv_per_sequence
    assert layers == engine_memory(QWEN_7B, four, A100).kv_per_sequence // 2


def test_only_parallelism_that_divides_the_heads_is_proposed() -> None:
    assert [n for n in range(1, 65) if QWEN_7B.divides_by(n)] == [1, 2, 4, 28]
    assert [n for n in range(1, 65) if LLAMA_70B.divides_by(n)] == [1, 2, 4, 8, 16, 32, 64]
    small = replace(BY_NAME["L4"], memory_gb=6)
    assert fewest_gpus(replace(QWEN_7B, queries=4096, heads=64), ENGINE, small) == 8
    assert fewest_gpus(QWEN_7B, ENGINE, small) == 0


def test_longer_steps_of_an_engine_take_more_memory() -> None:
    longer = engine_memory(LLAMA_7B, replace(ENGINE, batched_tokens=32768), A100)
    assert longer.activations > 8 * engine_memory(LLAMA_7B, ENGINE, A100).activations


def test_a_model_in_float32_is_sampled_in_bfloat16_unless_told() -> None:
    """By vLLM's rule for `auto`."""
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
    wide = shape_of({**sizes, "intermediate_size": 11008, "dtype": "float32"}, LLAMA_7B.parameters)
    assert wide
    weights = {}
    for dtype in ("auto", "bfloat16", "float32"):
        planned = needed(shipped("paper", f"--engine.dtype={dtype}"))
        [(job, _), *_] = planned.samplings
        weights[dtype] = engine_memory(wide, engine_settings(planned, job, wide), A100).weights
    assert weights["float32"] == 2 * weights["bfloat16"]
    assert weights["auto"] == weights["bfloat16"]
    assert "if config_dtype == torch.float32:\n        config_dtype = preferred_dtype" in ast.unparse(
        source("config/model.py")
    )

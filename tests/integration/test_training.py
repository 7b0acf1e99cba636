"""Real fine-tuning: two CPU workers, DeepSpeed over gloo, small random models, a worker killed for real."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rft_ray.data.prompts import encode_prompt, render
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import open_store
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import committed_model, fetch_model
from rft_ray.training.batches import encode, padded, plan
from rft_ray.training.checkpoints import MANIFEST, committed
from rft_ray.training.results import STARTED, TrainingError
from tests.integration.small_training import (
    DATA,
    LONG,
    LORA,
    PACKED,
    PLAIN,
    RECIPE,
    SAME_STEPS,
    SEEDED,
    SETTINGS,
    TEMPLATE,
    TWICE,
    Trained,
    filled,
    rows,
    run,
    written_base,
)
from tests.s3server import S3Server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def jobs(base: Path) -> dict[str, TrainingJob]:
    plain = TrainingJob("tiny", "sft", PLAIN, str(base), DATA, RECIPE, TEMPLATE, 0)
    adapters = RECIPE.model_copy(update={"lora_rank": 4, "dtype": "bfloat16", "epochs": 1})
    return {
        PLAIN: plain,
        SEEDED: replace(plain, fingerprint=SEEDED, seed=1),
        LORA: replace(plain, fingerprint=LORA, stage="rft", recipe=adapters),
        SAME_STEPS: replace(
            plain, fingerprint=SAME_STEPS, recipe=RECIPE.model_copy(update={"epochs": 2}), same_steps_as=TWICE
        ),
    }


@pytest.fixture(scope="module")
def trained(ray_cluster: str, jobs: dict[str, TrainingJob], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Four jobs in one worker group, without a kill."""
    return run(filled(LocalStore(tmp_path_factory.mktemp("run") / "store")), list(jobs.values()))


@pytest.fixture(scope="module")
def interrupted(
    ray_cluster: str, jobs: dict[str, TrainingJob], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Path]:
    """Two of the jobs in another order; a worker is killed in the second. Also a copy of its work folder."""
    folder = tmp_path_factory.mktemp("interrupted")
    store = filled(LocalStore(folder / "store"))
    killer = threading.Thread(target=kill_after_checkpoint, args=(store, PLAIN, folder / "left"), daemon=True)
    killer.start()
    result = run(store, [jobs[SEEDED], jobs[PLAIN]])
    killer.join(10)
    return result, folder / "left"


def kill_after_checkpoint(store: LocalStore, fingerprint: str, copy: Path) -> None:
    """`kill -9` of the rank 0 worker once a checkpoint is complete, then a copy of the job's work folder."""
    while not (manifests := [key for key in store.list(f"work/{fingerprint}/") if key.endswith(MANIFEST)]):
        time.sleep(0.01)
    attempt = manifests[0].split("/")[2]
    os.kill(json.loads(store.read(f"work/{fingerprint}/{attempt}/{STARTED}"))["pid"], signal.SIGKILL)
    shutil.copytree(store.local_path(f"work/{fingerprint}"), copy)


@pytest.fixture(scope="module")
def packed(
    ray_cluster: str, jobs: dict[str, TrainingJob], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Trained]:
    """A job in packed rows, undisturbed, and the same job whose worker of rank 0 is killed."""
    folder = tmp_path_factory.mktemp("packed")
    stores = [filled(LocalStore(folder / name)) for name in ("undisturbed", "killed")]
    undisturbed = run(stores[0], [jobs[PLAIN]], PACKED)
    killer = threading.Thread(target=kill_after_checkpoint, args=(stores[1], PLAIN, folder / "left"), daemon=True)
    killer.start()
    again = run(stores[1], [jobs[PLAIN]], PACKED)
    killer.join(10)
    return undisturbed, again


JOB = """
import pickle, sys, ray
from rft_ray.training.stage import train
ray.init(log_to_driver=False)
train(*pickle.load(open(sys.argv[1], "rb")))
"""


@dataclass(frozen=True)
class KilledJob:
    """A job that was killed while it wrote a checkpoint, and the result of submitting it again."""

    complete: int
    """Step of the newest checkpoint that had its manifest."""
    half: Path
    again: Trained


@pytest.fixture(scope="module")
def killed_job(ray_cluster: str, jobs: dict[str, TrainingJob], tmp_path_factory: pytest.TempPathFactory) -> KilledJob:
    """`kill -9` of the rank 0 worker while it writes a checkpoint that is not the first, then of the driver."""
    folder = tmp_path_factory.mktemp("killed")
    store = filled(LocalStore(folder / "store"))
    (folder / "job").write_bytes(pickle.dumps(([jobs[PLAIN]], store.url, SETTINGS)))
    driver = subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder / "job")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_ADDRESS": ray_cluster},
    )
    half = kill_inside_checkpoint(store, PLAIN, driver)
    complete = max(checkpoint.step for checkpoint in committed(store, PLAIN))
    return KilledJob(complete, half, run(store, [jobs[PLAIN]]))


def kill_inside_checkpoint(store: LocalStore, fingerprint: str, driver: subprocess.Popen[bytes]) -> Path:
    """Kill where one checkpoint is complete and another is being written; that one's folder."""
    work = store.local_path(f"work/{fingerprint}")
    while True:
        assert driver.poll() is None, "the job ended before it could be killed"
        saved = {int(path.name.rpartition("-")[2]): path for path in work.glob("*/checkpoint-*")}
        half = saved[max(saved)] if len(saved) > 1 else None  # not an old one that is being deleted
        if half and not (half / MANIFEST).exists():
            os.kill(json.loads((half.parent / STARTED).read_bytes())["pid"], signal.SIGKILL)
            driver.kill()
            driver.wait()
            if not (half / MANIFEST).exists():
                return half
            pytest.fail("the checkpoint was complete before the worker was dead")
        time.sleep(0.001)


def test_a_job_killed_while_it_writes_a_checkpoint_resumes_from_the_last_complete_one(
    trained: Trained, killed_job: KilledJob
) -> None:
    assert killed_job.again.results[PLAIN].record.resumed_at_step == killed_job.complete > 0
    assert int(killed_job.half.name.rpartition("-")[2]) > killed_job.complete
    assert killed_job.again.weights(PLAIN) == trained.weights(PLAIN)


def test_every_row_is_accounted_for(trained: Trained, base: Path) -> None:
    from transformers import AutoTokenizer

    examples, skipped = encode(AutoTokenizer.from_pretrained(base), TEMPLATE, rows(60), RECIPE.max_tokens)
    assert skipped == 0
    for result in trained.results.values():
        epochs = trained.training(result.fingerprint)["tokens"] // sum(len(e.tokens) for e in examples)
        assert (result.record.examples, result.record.skipped_too_long) == (60, 2)
        assert result.record.steps == epochs * 8
        assert result.record.tokens == epochs * sum(len(example.tokens) for example in examples)
        assert result.committed_here
        assert result.record.resumed_at_step == 0


def test_steps_of_another_table_are_reached_by_more_epochs(trained: Trained) -> None:
    assert trained.results[SAME_STEPS].record.steps == trained.results[PLAIN].record.steps
    assert trained.weights(SAME_STEPS) == trained.weights(PLAIN)


def test_the_first_loss_is_the_bases_mean_over_response_tokens(trained: Trained, base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    examples, _ = encode(tokenizer, TEMPLATE, rows(60), RECIPE.max_tokens)
    first = plan([len(example.tokens) for example in examples], 1, RECIPE.batch_size, 0).steps[0]
    total, count = 0.0, 0
    for example in (examples[index] for index in first):
        columns = {name: torch.tensor(row) for name, row in padded([example], tokenizer.pad_token_id).items()}
        learned = len(example.tokens) - example.prompt_tokens
        total += model(**columns).loss.item() * learned
        count += learned
    assert trained.training(PLAIN)["curve"][0][1] == pytest.approx(total / count, rel=1e-5)


def test_the_loss_falls_and_its_curve_is_kept(trained: Trained) -> None:
    for fingerprint, result in trained.results.items():
        curve = trained.training(fingerprint)["curve"]
        assert [point[0] for point in curve] == list(range(1, result.record.steps + 1))
        assert curve[-1][1] == result.record.final_loss < curve[0][1]
        assert result.record.began_unix + result.record.seconds <= result.record.ended_unix <= time.time()
    rates = [point[2] for point in trained.training(PLAIN)["curve"]]
    assert max(rates) == pytest.approx(RECIPE.learning_rate)
    assert rates[-1] < 0.05 * RECIPE.learning_rate


def test_the_model_carries_the_prompt_as_its_chat_template(trained: Trained) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    question = " It's 5 o'clock: {braces} and\nlines?  "
    for fingerprint in trained.results:
        folder = fetch_model(trained.store, fingerprint)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        chat = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=True, return_dict=False)
        assert chat == encode_prompt(tokenizer, render(TEMPLATE, question))
        assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
        assert AutoModelForCausalLM.from_pretrained(folder).config.use_cache


def test_adapters_are_merged_into_weights_of_the_recipes_dtype(trained: Trained, base: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = fetch_model(trained.store, LORA)
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    changed = {name for name in after if not torch.equal(before[name].bfloat16(), after[name])}
    assert changed
    assert all("proj" in name for name in changed), "only linear layers have adapters"


def test_progress_reaches_the_driver(trained: Trained) -> None:
    ended = {(progress.stage, progress.step) for progress in trained.progress if progress.step == progress.steps}
    assert ended == {("sft", 32), ("rft", 8)}
    assert any(str(progress).startswith("rft tiny: step 8/8, loss ") for progress in trained.progress)


def test_a_finished_job_is_not_trained_again(trained: Trained) -> None:
    before = time.monotonic()
    again = run(trained.store, trained.jobs)
    assert time.monotonic() - before < 3
    assert {f: replace(r, committed_here=True) for f, r in again.results.items()} == trained.results
    assert not any(result.committed_here for result in again.results.values())
    assert list(trained.store.list("work/")) == [], "a finished job's checkpoints are deleted"


def test_a_job_gives_the_same_bytes_after_any_other_job(trained: Trained, interrupted: tuple[Trained, Path]) -> None:
    assert interrupted[0].weights(SEEDED) == trained.weights(SEEDED)
    assert trained.weights(SEEDED) != trained.weights(PLAIN)


def test_after_a_killed_worker_the_model_has_the_bytes_of_an_uninterrupted_one(
    trained: Trained, interrupted: tuple[Trained, Path]
) -> None:
    again, _ = interrupted
    assert again.results[PLAIN].record.resumed_at_step > 0
    assert again.results[PLAIN].record.resumed_at_step % SETTINGS.checkpoint_every_steps == 0
    assert again.weights(PLAIN) == trained.weights(PLAIN)
    curves = [[point[1] for point in run.training(PLAIN)["curve"]] for run in (trained, again)]
    assert curves[0] == curves[1]


def test_packed_rows_train_on_the_same_loss_and_waste_nothing(
    trained: Trained, packed: tuple[Trained, Trained]
) -> None:
    record, padded_record = packed[0].results[PLAIN].record, trained.results[PLAIN].record
    assert (record.attention, padded_record.attention) == ("rft_by_example", "padded")
    assert (record.steps, record.tokens, record.examples) == (32, padded_record.tokens, padded_record.examples)
    assert record.useful_tokens > max(0.9, padded_record.useful_tokens)
    losses, padded_losses = ([point[1] for point in each.curve] for each in (record, padded_record))
    assert losses[0] == pytest.approx(padded_losses[0], rel=1e-5)
    assert losses == pytest.approx(padded_losses, rel=1e-3), "rounding alone sets the weights apart"


def test_packed_rows_leave_no_trace_in_the_models_config(packed: tuple[Trained, Trained]) -> None:
    folder = fetch_model(packed[0].store, PLAIN)
    assert "rft_by_example" not in (folder / "config.json").read_text()


def test_after_a_killed_worker_packed_rows_give_the_bytes_of_an_uninterrupted_training(
    packed: tuple[Trained, Trained],
) -> None:
    undisturbed, again = packed
    assert again.results[PLAIN].record.resumed_at_step > 0
    assert again.weights(PLAIN) == undisturbed.weights(PLAIN)


def test_a_checkpoint_on_s3_is_resumed_too(
    ray_cluster: str, s3: S3Server, jobs: dict[str, TrainingJob], trained: Trained, interrupted: tuple[Trained, Path]
) -> None:
    store, left = filled(open_store(s3.url("training"))), interrupted[1]
    for path in sorted(left.rglob("*")):
        if path.is_file():
            store.create_file(f"work/{PLAIN}/{path.relative_to(left)}", path)
    again = run(store, [jobs[PLAIN]])
    assert again.results[PLAIN].record.resumed_at_step > 0
    assert again.weights(PLAIN) == trained.weights(PLAIN)
    assert again.results[PLAIN].record.checkpoint_seconds > 0, "this attempt saved checkpoints too"
    assert not list(committed(store, PLAIN)), "those of a finished training are deleted"


def test_a_checkpoint_of_another_form_is_gone_on_from_and_untrainable_data_raises_one_clear_error(
    ray_cluster: str, jobs: dict[str, TrainingJob], interrupted: tuple[Trained, Path], tmp_path: Path
) -> None:
    store = filled(LocalStore(tmp_path / "store"))
    shutil.copytree(interrupted[1], store.local_path(f"work/{PLAIN}"))
    alone = SETTINGS.model_copy(update={"workers": 1, "zero_stage": 3})
    untrainable = replace(jobs[SEEDED], data_key=LONG)
    with pytest.raises(
        TrainingError, match=r"^sft of tiny: no example is left .* 2 of them longer than 128 "
    ) as caught:
        run(store, [jobs[PLAIN], untrainable], alone)
    assert "\n" not in str(caught.value)
    (result,) = run(store, [jobs[PLAIN]], alone).results.values()
    assert result.record.checkpoints_passed_over == 0
    assert result.record.resumed_at_step > 0
    assert result.record.resumed_from == "2 workers, ZeRO stage 2"
    assert result.record.final_loss == pytest.approx(interrupted[0].results[PLAIN].record.final_loss, rel=0.02)
    assert committed_model(store, SEEDED) is None

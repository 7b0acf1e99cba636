"""`rft-ray sample` around the sampling itself, which is done in this process: options, resume, views, dry run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from rft_ray import config
from rft_ray.cli.sample import arguments, config_of, main, per_block
from rft_ray.cli.store import main as store_main
from rft_ray.data.external import completion_rows
from rft_ray.plan.jobs import SamplingJob
from rft_ray.runtime.actor_pool import StageError
from rft_ray.sampling.places import LoadFailure, Place, note
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import Store, open_run, read_table
from rft_ray.store.plans import recipe_of
from rft_ray.store.shards import missing_shards
from tests.unit.sampling.chat_server import completion, serving

PROMPTS = ["What is 2+3?", "What is 1+1?", "How many legs has a dog?"]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr("rft_ray.cli.sample.start", lambda _: None)
    monkeypatch.setattr("rft_ray.sampling.stage.sample", sampled_here)


def sampled_here(
    jobs: Sequence[SamplingJob], store: Store, engine: config.Engine, *, run_seed: int, endpoints: Any
) -> list[SampleReceipt]:
    """The stage without Ray: one sampler, one shard after another."""
    sample = Sampler(store, jobs, engine, False, run_seed, endpoints=endpoints)
    receipts = [sample(shard) for job in jobs for shard in missing_shards(store, job.shards())]
    if reasons := [receipt.unloadable for receipt in receipts if receipt.unloadable]:
        raise StageError(reasons[0])
    return receipts


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Arguments that sample three prompts with the scripted engine into a run."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return [
        *("--prompts", str(file), "--model", "tiny:tiny-s", "--out", str(tmp_path / "run"), "--n", "4"),
        *("--prompts-per-block", "2", "--samples-per-block", "2", "--sampling.engine=scripted"),
    ]


def view(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]


def test_completions_are_in_the_order_of_the_prompts_in_both_files(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    rows = view(tmp_path / "run")
    assert [row["prompt"] for row in rows] == PROMPTS
    assert all(len(row["completion"]) == len(row["finish_reason"]) == 4 for row in rows)
    assert pq.read_table(tmp_path / "run" / "completions.parquet").to_pylist() == rows
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["job"], summary["prompts"], summary["sampled"], summary["missing"]) == ("sample", 3, 12, 0)


def test_the_weights_are_committed_before_sampling_where_nodes_take_them_from_the_run(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[tuple[str, list[str], int]] = []

    def commit_bases(store: Store, bases: dict[str, str]) -> int:
        committed.append((store.url, list(bases), len(list(store.list("completions/")))))
        return 1

    monkeypatch.setattr("rft_ray.runtime.base_weights.commit_bases", commit_bases)
    assert main([*command, "--run.base_weights=store"]) == 0
    assert committed == [(str(tmp_path / "run"), ["tiny:tiny-s"], 0)]
    assert main([*command, "--n=8"]) == 0
    assert len(committed) == 1


def test_a_place_that_others_stood_in_for_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert "bad_places" not in json.loads((tmp_path / "run" / "summary.json").read_text())
    store = open_run(str(tmp_path / "run"))
    [key, *_] = store.list("completions/")
    fingerprint = json.loads(read_table(store, key)[1]["model"])["fingerprint"]
    note(store, LoadFailure(fingerprint, Place("", "10.0.0.7", ("3",)), "no kernel image"))
    capsys.readouterr()
    assert main(command) == 0
    assert "not used: 10.0.0.7 GPU 3 could not load the model: no kernel image" in capsys.readouterr().out
    [bad] = json.loads((tmp_path / "run" / "summary.json").read_text())["bad_places"]
    assert (bad["place"], bad["reason"]) == ("10.0.0.7 GPU 3", "no kernel image")


def test_verify_and_grade_read_the_file_of_completions(command: list[str], tmp_path: Path) -> None:
    main(command)
    rows = list(completion_rows(str(tmp_path / "run" / "completions.jsonl")))
    assert [(row.questions, len(row.texts), row.model) for row in rows] == [
        ((prompt,), 4, "tiny-s") for prompt in PROMPTS
    ]


def test_more_samples_add_shards_and_keep_the_first_ones(command: list[str], tmp_path: Path) -> None:
    main(command)
    store = open_run(str(tmp_path / "run"))
    before = {key: store.read(key) for key in store.list("completions/")}
    rows = view(tmp_path / "run")
    assert main([*command, "--n", "6"]) == 0
    after = {key: store.read(key) for key in store.list("completions/")}
    assert before.items() < after.items()
    assert [row["completion"][:4] for row in view(tmp_path / "run")] == [row["completion"] for row in rows]
    assert main([*command, "--n", "6"]) == 0  # nothing left to sample
    assert {key: store.read(key) for key in store.list("completions/")} == after


@pytest.mark.parametrize(("first", "then"), [(4, 8), (4, 12), (3, 21), (20, 100)])
def test_more_samples_keep_those_of_the_run_without_a_size_of_blocks(
    command: list[str], tmp_path: Path, first: int, then: int
) -> None:
    at = command.index("--samples-per-block")
    command = command[:at] + command[at + 2 :]
    main([*command, "--n", str(first)])
    store = open_run(str(tmp_path / "run"))
    before = {key: store.read(key) for key in store.list("completions/")}
    rows = view(tmp_path / "run")
    assert main([*command, "--n", str(then)]) == 0
    after = {key: store.read(key) for key in store.list("completions/")}
    assert before.items() < after.items()
    assert {recipe_of(key) for key in after} == {recipe_of(key) for key in before}
    assert len(after) == len(before) * then // first
    assert [row["completion"][:first] for row in view(tmp_path / "run")] == [row["completion"] for row in rows]


@pytest.mark.parametrize("others", [["--n", "6"], ["--n", "2"], ["--n", "8", "--samples-per-block", "2"]])
def test_samples_that_are_not_kept_are_announced(
    command: list[str], others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at = command.index("--samples-per-block")
    command = command[:at] + command[at + 2 :]
    main(command)
    assert "note: " not in capsys.readouterr().out
    assert main([*command, *others, "--dry-run"]) == 0
    assert "in blocks of 4, which are not kept: all are sampled anew in blocks of" in capsys.readouterr().out
    assert main([*command, "--seed", "1", *others, "--dry-run"]) == 0  # those of another seed cannot be kept
    assert "note: " not in capsys.readouterr().out


def test_the_views_are_not_taken_for_corrupt_shards(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command)
    run = str(tmp_path / "run")
    assert store_main(["verify", "--repair", "--yes", run]) == 0
    assert "0 corrupt" in capsys.readouterr().out
    (tmp_path / "run/completions.g0.tombstone").write_text("{}")  # of an earlier version, which voided the view
    assert store_main(["prune", "--yes", run]) == 0
    assert (tmp_path / "run/completions.parquet").exists()


def test_a_dry_run_writes_nothing_and_shows_the_first_prompt(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dry-run", "--kind", "raw"]) == 0
    shown = capsys.readouterr().out
    assert "3 prompts x 4 samples of tiny:tiny-s" in shown
    assert "shards of completions: 4, missing: 4" in shown
    assert shown.endswith(f"the first prompt:\n{PROMPTS[0]}\n")
    assert not (tmp_path / "run").exists()


def test_the_run_of_another_job_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert main(command) == 2
    assert "holds another job's run: choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "0"], "--n, --prompts-per-block and --samples-per-block must be at least 1"),
        (["--samples-per-block", "0"], "--n, --prompts-per-block and --samples-per-block must be at least 1"),
        (["--kind", "raw", "--template", "Q: {query}"], "--template belongs to --kind template, not to --kind raw"),
        (["--template", ""], "the template must contain {query} exactly once"),
        (
            ["--n", "4", "--samples-per-block", "3"],
            "--n 4 must be a multiple of --samples-per-block 3: use 3 or 6, or --samples-per-block 2",
        ),
        (["--endpoint.base_ulr=x"], "unknown key 'endpoint.base_ulr'; nearest known key: 'endpoint.base_url'"),
        (["--engine.max_actor=2"], "unknown key 'engine.max_actor'; nearest known key: 'engine.max_actors'"),
        (["--run.name=x"], "unknown argument '--run.name=x'"),
        (["--temperature", "-1"], "the command line: --temperature: Input should be greater than 0 (given: -1.0)"),
        (["--top-p", "1.5"], "--top-p: Input should be less than or equal to 1 (given: 1.5)"),
        (["--top-p", "nan"], "--top-p: Input should be a finite number"),
        (["--sampling.top_p=0"], "the command line: sampling.top_p: Input should be greater than 0"),
        (["--max-tokens", "0"], "--max-tokens: Input should be greater than or equal to 1"),
        (["--seed", "-1"], "--seed: Input should be greater than or equal to 0"),
        (
            ["--sampling.engine=vllm", "--temperature", "0"],
            "--temperature 0 takes the likeliest tokens, so that all 4 samples of a prompt would be the same",
        ),
        (["--model", "no/such/folder"], "no/such/folder: there is no such folder"),
        (["--template", "no query"], "the template must contain {query} exactly once"),
        (["--kind", "raw", "--system", "Be brief."], "--system belongs to --kind chat"),
        (["--kind", "chat"], "tiny:tiny-s has no chat template: use --kind template or --kind raw"),
        (["--column", "text"], "prompts.jsonl:1: no column 'text'; it has: prompt"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[str], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*command, *options])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert words in line


def test_samples_of_an_endpoint_with_a_budget_are_resumed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-key")
    with serving(lambda body, _: completion(*["x y"] * body.get("n", 1))) as server:
        teacher = [
            *command[:-1],
            "--model",
            "openai:gpt/x",
            f"--endpoint.base_url={server.url}",
            "--system",
            "Be brief.",
        ]
        assert main([*teacher, "--endpoint.token_budget=30"]) == 1
        assert "token budget of 30 is used up" in capsys.readouterr().err
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["missing"] > 0
        assert not (tmp_path / "run" / "completions.jsonl").exists()
        assert main([*teacher, "--endpoint.price_per_million_tokens.completion=1000000"]) == 0
        assert len(server.asked) == 6
    system = {"role": "system", "content": "Be brief."}
    assert all(body["messages"][0] == system for body in server.asked)
    assert {body["messages"][1]["content"] for body in server.asked} == set(PROMPTS)
    assert "charged: 30 prompt and 72 completion tokens, cost 72.00" in capsys.readouterr().out
    assert {row["model"] for row in view(tmp_path / "run")} == {"x"}


def test_blocks_divide_the_samples() -> None:
    assert [per_block(n) for n in (1, 16, 17, 32, 100)] == [1, 16, 17, 16, 20]


def test_a_temperature_of_zero_is_greedy(command: list[str]) -> None:
    options, settings = arguments([*command, "--temperature", "0"], "sample")
    assert config_of(options, settings).sampling.temperature == 0.7
    from rft_ray.cli.sample import sampling_job
    from rft_ray.data.prompt_rows import read_prompts

    file = read_prompts(options.prompts, column=None, per_block=2)
    assert sampling_job(options, config_of(options, settings), file).settings.temperature == 0.0


def test_one_greedy_sample_of_each_prompt_is_planned(command: list[str]) -> None:
    greedy = [*command, "--sampling.engine=vllm", "--temperature", "0", "--dry-run"]
    assert main([*greedy, "--n", "1", "--samples-per-block", "1"]) == 0


def test_characters_beyond_16_bits_are_sampled_as_they_are(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--template", "😀 {query}", "--dry-run"]) == 0
    assert "\n😀 " in capsys.readouterr().out

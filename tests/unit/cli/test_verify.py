"""`rft-ray verify` before it starts Ray: what is refused, and the run lock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

from rft_ray.cli import pairs
from rft_ray.cli.job import check_other_run
from rft_ray.cli.verify import arguments, main, plan, show
from rft_ray.corpus.external import MergedCorpus
from rft_ray.corpus.mode_comparison import Comparison, Differences, DistinctPaths, Example, ModeCounts, ModelCounts
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import Verifier
from rft_ray.corpus.verify_summary import VerifySummary
from rft_ray.data.tiny.generator import generate
from rft_ray.grading import MODES
from rft_ray.grading.spec import VerifierSpec
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Status, Verdict
from rft_ray.runtime.actor_pool import ShardReceipt
from rft_ray.store import Store, open_store
from rft_ray.store.marker import KEY
from rft_ray.store.plans import saved_plans
from rft_ray.store.run_lock import FOLDER, run_lock
from rft_ray.store.shards import missing_shards

GOLD = "tiny:train:20:5:1-2"


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", start)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Arguments that name a file of 20 completions, gold for it and a run."""
    problems = generate(20, split="train", seed=5, steps=(1, 2))
    rows = [{"question": problem.question, "completion": problem.solution} for problem in problems]
    file = tmp_path / "completions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(file), "--gold", GOLD, "--out", str(tmp_path / "run")]


def test_a_run_locked_by_a_repair_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path / "run"))
    with run_lock(store, "repair"):
        assert main(command) == 1
    assert "a repair has been running on it" in capsys.readouterr().err
    assert [key for key in store.list() if not key.startswith(FOLDER)] == [KEY]


def test_the_job_holds_the_run_lock_while_it_works(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "run"))
    records: list[list[str]] = []
    monkeypatch.setattr("rft_ray.cli.verify.start", lambda _: records.append(list(store.list(FOLDER))))
    monkeypatch.setattr("rft_ray.cli.verify.run", lambda *_, **__: {})
    monkeypatch.setattr("rft_ray.cli.verify.show", lambda _: None)
    assert main(command) == 0
    [at_start] = records
    ended = {key.replace(".ended.", ".began.") for key in at_start if ".ended." in key}  # saving the plan held it too
    [began] = [key for key in at_start if ".ended." not in key and key not in ended]
    assert began.startswith(f"{FOLDER}job-")
    assert began.endswith(".began.json")
    assert began.replace(".began.", ".ended.") in set(store.list(FOLDER))
    [plan] = saved_plans(store)
    assert plan.job == "verify"


def test_a_store_with_the_summary_of_another_job_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path / "run"))
    store.replace("summary.json", b'{"job": "verify"}')
    check_other_run(store, "verify")
    store.replace("summary.json", b'{"run": "demo"}')
    assert main(command) == 2
    assert "another job's run: choose another --out" in capsys.readouterr().err


def test_completions_that_answer_no_gold_problem_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(command[0]).write_text(json.dumps({"question": "Who?", "completion": "#### 1"}) + "\n")
    assert main(command) == 2
    assert "--question-column" in capsys.readouterr().err


def test_unread_equations_matter_to_strict_verdicts_only(command: list[str]) -> None:
    sampled = [SamplingJob(ModelRef("m", "foreign", "f" * 16), "p" * 16, 2, 2, SamplingSettings(0, 1, 0, 1, ""), 1, 0)]
    accepted, _ = plan(arguments([*command, "--mode", "both"], "verify"), sampled)
    rejected, _ = plan(arguments([*command, "--mode", "both", "--unread", "reject"], "verify"), sampled)
    assert accepted["paper"][0].fingerprint == rejected["paper"][0].fingerprint
    assert accepted["strict"][0].fingerprint != rejected["strict"][0].fingerprint


@pytest.mark.parametrize(("options", "unread"), [([], "accept"), (["--unread", "reject"], "reject")])
def test_pairs_are_of_the_verdicts_of_a_run_that_was_verified_so(
    tmp_path: Path, options: list[str], unread: str
) -> None:
    read = pairs.arguments(["--run", "r", "--out", "o.jsonl", *options], "pairs")
    assert pairs.rules_of(open_store(str(tmp_path)), {}, read.unread) == VerifierSpec(unread=unread)


def test_pairs_are_of_the_completions_that_were_verified_last(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was changed between two verifications of one run: completions that it lost are in no pair."""

    def in_this_process(kind: type[Verifier] | type[Selector]) -> Callable[..., list[ShardReceipt]]:
        def made(jobs: Sequence[Any], store: Store, actors: int) -> list[ShardReceipt]:
            worker = kind(store, jobs)
            receipts = [worker(shard) for job in jobs for shard in missing_shards(store, job.shards())]
            worker.close()
            return receipts

        return made

    monkeypatch.setattr("rft_ray.cli.verify.start", lambda _: None)
    monkeypatch.setattr("rft_ray.corpus.external.verify", in_this_process(Verifier))
    monkeypatch.setattr("rft_ray.corpus.external.select_paths", in_this_process(Selector))
    [problem, *_] = generate(20, split="train", seed=5, steps=(1, 2))
    out = tmp_path / "pairs.jsonl"
    for wrong in ("#### 91234", "#### 95678"):
        rows = [{"question": problem.question, "completion": text} for text in (problem.solution, wrong)]
        Path(command[0]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(command) == 0
        assert pairs.main([str(tmp_path / "run"), "--out", str(out)]) == 0
        assert [json.loads(line)["rejected"] for line in out.read_text().splitlines()] == [wrong]


def test_what_completions_and_files_say_does_not_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    model, detail = "m\x1b[2J", "1+1\x1b]0;mine\x07\nsecond line=3: cannot be read"
    verdicts = {mode: Verdict(Status.BAD_EQUATION, "5", detail) for mode in MODES}
    example = Example(model, "p", 0, "Q?", "\x1b[2J", verdicts)
    counts = ModelCounts(1, 1, {mode: ModeCounts(dict.fromkeys(map(str, Status), 0), 0.0, 0) for mode in MODES})
    paths = DistinctPaths(0, {model: 0}, {})
    compared = Comparison(
        {model: counts}, dict.fromkeys(MODES, paths), Differences(MODES, 1, {"a -> b": 1}, (example,))
    )
    corpora = dict.fromkeys(MODES, MergedCorpus(0, 0, None))
    show(VerifySummary("gold", 1, ("f",), {}, {model: 1}, (), compared, corpora, ()))
    printed = capsys.readouterr().out
    assert not {character for character in printed if not character.isprintable()} - {"\n"}
    assert "1+1\u241b]0;mine\u2407 second line=3" in printed

"""`jobs/verify.py` over a file of two models' completions, as a user runs it, and `jobs/export_pairs.py` on its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rft_ray.cli import pairs, verify
from rft_ray.config import ALPACA
from rft_ray.data.prompts import render
from rft_ray.data.tiny.generator import generate
from rft_ray.records import Problem
from rft_ray.store import mark_run, open_store, run_lock

ROOT = Path(__file__).parents[2]
PROBLEMS = generate(60, split="train", seed=5, steps=(1, 2))
UNKNOWN = {"question": "Who?", "completion": "#### 1", "model": "big"}


def samples(problem: Problem) -> dict[str, str]:
    """Completions by the verdicts that the two modes must give."""
    reasoning = problem.solution.rpartition("\n")[0]
    return {
        "correct in both": problem.solution,
        "correct in strict, no_answer in paper": f"{reasoning}\nThe answer is {problem.answer}.",
        "wrong_answer in both": f"{reasoning}\n#### {problem.answer}7",
        "bad_equation in both": f"So 1+1 = <<1+1=3>>3\n{problem.solution}",
    }


def completions() -> list[dict[str, str]]:
    """All four kinds for every problem by one model, in arbitrary order; two kinds of every third by another."""
    rows = [UNKNOWN]
    for at, problem in enumerate(PROBLEMS):
        kinds = list(samples(problem).values())
        rows += [{"question": problem.question, "completion": text, "model": "big"} for text in kinds]
        if at % 3 == 0:
            rows += [{"question": problem.question, "completion": text, "model": "small"} for text in kinds[:2]]
    return rows[::-1]


@dataclass
class Job:
    folder: Path
    command: list[str]
    output: str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def summary(self) -> dict:
        return json.loads((self.run / "summary.json").read_text())


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def verified(folder: Path, gold: list[dict], ray_cluster: str, *options: str) -> Job:
    files = [write(folder / "completions.jsonl", completions()), "--gold", write(folder / "gold.jsonl", gold)]
    command = [sys.executable, str(ROOT / "jobs" / "verify.py"), *files, "--out", str(folder / "run"), *options]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Job(folder, command, done.stdout)


@pytest.fixture(scope="module")
def job(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    gold = [{"question": problem.question, "answer": problem.solution} for problem in PROBLEMS]
    return verified(tmp_path_factory.mktemp("verify"), gold, ray_cluster, "--mode", "both")


def test_each_mode_gives_the_verdicts_that_the_completions_were_written_for(job: Job) -> None:
    status = {
        (model, mode): {name: count for name, count in counts["status"].items() if count}
        for model, entry in job.summary["ledger"].items()
        for mode, counts in entry["modes"].items()
    }
    assert status == {
        ("big", "strict"): {"correct": 120, "wrong_answer": 60, "bad_equation": 60},
        ("big", "paper"): {"correct": 60, "no_answer": 60, "wrong_answer": 60, "bad_equation": 60},
        ("small", "strict"): {"correct": 40},
        ("small", "paper"): {"correct": 20, "no_answer": 20},
    }


def test_every_row_is_graded_or_counted_as_unknown(job: Job) -> None:
    graded = sum(entry["completions"] for entry in job.summary["ledger"].values())
    assert job.summary["unknown"]["completions"] == {"big": 1}
    assert graded + 1 == len(completions())


def test_the_differences_of_the_modes_are_counted_and_shown(job: Job) -> None:
    differences = job.summary["differences"]
    assert differences["by_status"] == {"no_answer -> correct": 80}
    assert len(differences["examples"]) == 10
    assert all("The answer is" in example["text"] for example in differences["examples"])
    assert "the modes differ on 80 completions (paper -> strict)" in job.output


def test_the_corpus_is_gold_and_one_path_of_each_problem(job: Job) -> None:
    for corpus in job.summary["corpus"].values():
        rows = [json.loads(line) for line in (job.run / corpus["file"]).read_text().splitlines()]
        assert sum(row["gold"] for row in rows) == corpus["gold"] == len(PROBLEMS)
        assert sum(not row["gold"] for row in rows) == corpus["paths"] == len(PROBLEMS)


def committed(run: Path) -> set[str]:
    """The files of a run, without the run lock's records."""
    return {key for key in open_store(str(run)).list() if not key.startswith(run_lock.FOLDER)}


def test_a_second_run_commits_nothing_and_needs_no_ray(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    before, summary = committed(job.run), job.summary
    assert verify.main(job.command[2:]) == 0  # in this process, which cannot start a second Ray
    assert committed(job.run) == before
    assert {**job.summary, "stages": 0} == {**summary, "stages": 0}
    assert "new shards 0" in capsys.readouterr().out


def test_a_malformed_row_is_refused_before_anything_is_committed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "c.jsonl", [*completions()[:3], {"question": PROBLEMS[0].question}])
    assert verify.main([file, "--gold", "tiny:train:60:5:1-2", "--out", str(tmp_path / "run")]) == 2
    assert f"{file}:4: 'completion' must be text" in capsys.readouterr().err
    assert not list(open_store(str(tmp_path / "run")).list())


def test_completions_of_other_problems_are_refused_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "c.jsonl", [UNKNOWN])
    assert verify.main([file, "--gold", "tiny:train:60", "--out", str(tmp_path / "run")]) == 2
    assert "--question-column" in capsys.readouterr().err


def test_the_summary_of_another_job_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(tmp_path)).replace("summary.json", b'{"finished": true}')
    assert verify.main([str(tmp_path / "c.jsonl"), "--gold", "tiny:train:60", "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_bare_gold_answers_give_the_same_verdicts_and_a_corpus_of_paths_only(
    job: Job, ray_cluster: str, tmp_path: Path
) -> None:
    gold = [{"question": problem.question, "answer": problem.answer} for problem in PROBLEMS]
    bare = verified(tmp_path, gold, ray_cluster).summary
    assert {model: entry["modes"]["strict"] for model, entry in bare["ledger"].items()} == {
        model: entry["modes"]["strict"] for model, entry in job.summary["ledger"].items()
    }
    corpus = bare["corpus"]["strict"]
    assert (corpus["gold"], corpus["paths"]) == (0, len(PROBLEMS))


def exported(job: Job, out: Path, *options: str) -> list[dict]:
    assert pairs.main(["--run", str(job.run), "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_pairs_prefer_a_right_path_to_a_wrong_one_of_the_same_problem(job: Job, tmp_path: Path) -> None:
    of_prompt = {render(ALPACA, problem.question): samples(problem) for problem in PROBLEMS}
    rows = exported(job, tmp_path / "pairs.jsonl")
    assert {row["prompt"] for row in rows} == set(of_prompt)
    for row in rows:
        kind = {text: kind for kind, text in of_prompt[row["prompt"]].items()}
        assert kind[row["chosen"]].startswith("correct")
        assert kind[row["rejected"]] == f"{row['rejected_verdict']} in both"


def test_exporting_pairs_twice_gives_the_same_bytes(job: Job, tmp_path: Path) -> None:
    exported(job, tmp_path / "a.jsonl")
    exported(job, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_pairs_use_the_verdicts_of_the_requested_mode(job: Job, tmp_path: Path) -> None:
    rows = exported(job, tmp_path / "pairs.jsonl", "--mode", "paper", "--also-reject", "no_answer")
    assert {row["rejected_verdict"] for row in rows} == {"wrong_answer", "bad_equation", "no_answer"}


def test_with_same_model_both_paths_are_of_one_model(job: Job, tmp_path: Path) -> None:
    rows = exported(job, tmp_path / "pairs.jsonl", "--same-model")
    assert {(row["chosen_model"], row["rejected_model"]) for row in rows} == {("big", "big")}


def test_a_run_that_was_not_verified_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark_run(open_store(str(tmp_path)))
    assert pairs.main(["--run", str(tmp_path), "--out", str(tmp_path / "pairs.jsonl")]) == 2
    assert "name a run that has been verified" in capsys.readouterr().err
    assert not (tmp_path / "pairs.jsonl").exists()

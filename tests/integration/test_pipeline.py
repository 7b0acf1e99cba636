"""The main job with real engines and trainings: killed during sampling, submitted again, finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.data.tiny.generator import generate
from rft_ray.paths import select_distinct
from rft_ray.records import Completion, GradedCompletion, ReasoningPath, from_table
from rft_ray.store import open_store, read_table
from rft_ray.store.models.committed import committed_model

ROOT = Path(__file__).parents[2]
K, TRAIN, TEST, PER_BLOCK = 4, 40, 20, 5

pytestmark = pytest.mark.timeout(600)


@dataclass
class Run:
    folder: Path
    command: list[str]
    environment: dict[str, str]
    before_kill: dict[str, bytes]
    summary: dict
    log: str
    """The output of both submissions."""

    def table(self, prefix: str, record: type) -> list:
        store = open_store(str(self.folder))
        return [row for key in store.list(prefix) for row in from_table(read_table(store, key)[0], record)]

    @property
    def collected(self) -> str:
        """Prefix of the shards over the training problems."""
        [name] = {p.parts[-3] for p in self.folder.glob("paths/*/*/*.parquet")}
        return name


def write_problems(path: Path, split: str, count: int, *, too_long: bool) -> None:
    rows = [{"question": p.question, "answer": p.solution} for p in generate(count, split=split, seed=7, steps=(1, 2))]
    if too_long:
        question = "Tom has 3 pens. " * 400 + "How many pens?"
        rows[-1] = {"question": question, "answer": "Tom has 1+2 = <<1+2=3>>3 pens.\n#### 3"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run, its driver killed once after the first committed shard of completions."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_problems(folder / "train.jsonl", "train", TRAIN, too_long=True)
    write_problems(folder / "test.jsonl", "test", TEST, too_long=False)
    command = [
        sys.executable,
        str(ROOT / "jobs" / "rft_pipeline.py"),
        "--config",
        str(ROOT / "jobs" / "configs" / "demo.yaml"),
        "--models=[{name: tiny-m, source: 'tiny:tiny-m'}]",
        f"--run.store={folder}",
        "--run.name=r",
        f"--problems.train.source={folder}/train.jsonl",
        f"--problems.test.source={folder}/test.jsonl",
        f"--problems.per_block={PER_BLOCK}",
        f"--sampling={{samples_per_problem: {K}, samples_per_block: 2, max_new_tokens: 64}}",
        "--evaluation={samples_per_problem: 2, samples_per_block: 2, icl_shots: 2}",
        "--engine.shards_in_flight=1",
        "--sft.epochs=1",
        "--rft.epochs=1",
    ]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster, "PYTHONUNBUFFERED": "1", "HF_TOKEN": "hf_7secret0000000"}
    shards = folder / "r" / "completions"
    with (folder / "first.log").open("w") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while not list(shards.glob("*/*/*.parquet")):
            assert driver.poll() is None, (folder / "first.log").read_text()
            assert time.monotonic() < deadline, "no shard was committed in time"
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = {str(p.relative_to(folder)): p.read_bytes() for p in shards.glob("*/*/*.parquet")}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    summary = json.loads((folder / "r" / "summary.json").read_text())
    log = (folder / "first.log").read_text() + again.stdout + again.stderr
    return Run(folder / "r", command, environment, before, summary, log)


def test_the_driver_was_killed_during_sampling(run: Run) -> None:
    whole = len(list((run.folder / "completions" / run.collected).glob("*/*.parquet")))
    assert 0 < len(run.before_kill) < whole


def test_files_committed_before_the_kill_are_unchanged(run: Run) -> None:
    assert all((run.folder.parent / name).read_bytes() == data for name, data in run.before_kill.items())


def test_every_planned_sample_exists_once(run: Run) -> None:
    rows = run.table(f"completions/{run.collected}/", Completion)
    counts = Counter((row.problem_id, row.sample_index) for row in rows)
    assert set(counts.values()) == {1}
    assert len(counts) == TRAIN * K
    assert {index for _, index in counts} == set(range(K))


def test_the_ledger_adds_up(run: Run) -> None:
    [account] = run.summary["ledger"].values()
    assert account["planned"] == TRAIN * K == account["sampled"] + account["skipped"] + account["missing"]
    assert account["sampled"] == account["accepted"] + sum(account["rejected"].values())
    assert (account["missing"], account["ungraded"]) == (0, 0)
    assert account["tokens"] > 0


def test_a_problem_longer_than_the_context_is_skipped_and_counted(run: Run) -> None:
    assert run.summary["ledger"]["tiny-m"]["skipped"] == K


def test_two_engines_of_one_run_had_different_seeds(run: Run) -> None:
    store = open_store(str(run.folder))
    engines = [json.loads(read_table(store, key)[1]["engine"]) for key in store.list(f"completions/{run.collected}/")]
    seeds = {engine["incarnation"]: engine["seed"] for engine in engines}
    assert len(seeds) == len(set(seeds.values())) >= 2


def test_paths_are_those_selected_from_the_committed_completions(run: Run) -> None:
    completions = run.table(f"completions/{run.collected}/", Completion)
    verdicts = run.table(f"verdicts/{run.collected}/", GradedCompletion)
    right = {(v.problem_id, v.sample_index) for v in verdicts if v.status == "correct"}
    kept = run.table("paths/", ReasoningPath)
    for problem in {row.problem_id for row in completions}:
        texts = {
            row.sample_index: row.text
            for row in sorted(completions, key=lambda row: row.sample_index)
            if row.problem_id == problem and (problem, row.sample_index) in right
        }
        expected = [list(texts)[i] for i in select_distinct(list(texts.values()), "paper")]
        assert [path.sample_index for path in kept if path.problem_id == problem] == expected


def test_corpus_is_gold_first_then_paths_of_each_problem(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / run.summary["corpus"]["file"]).read_text().splitlines()]
    golds = [line["problem_id"] for line in lines if line["gold"]]
    assert len(golds) == len(set(golds)) == TRAIN == run.summary["corpus"]["gold"]
    assert len(lines) == TRAIN + run.summary["corpus"]["paths"]
    owner = None
    for line in lines:
        owner = line["problem_id"] if line["gold"] else owner
        assert line["problem_id"] == owner


def test_base_sft_and_rft_are_evaluated_on_every_test_problem(run: Run) -> None:
    settings = run.summary["evaluation"]["tiny-m"]
    assert set(settings) == {"icl", "sft", "rft"}
    for setting, metrics in settings.items():
        assert set(metrics) == ({"maj1@1"} if setting == "icl" else {"maj1@1", "maj@k", "pass@k", "pass@1"})
        assert all(0 <= m["low"] <= m["value"] <= m["high"] <= 1 and m["n"] == TEST for m in metrics.values())


def test_no_credential_is_in_the_run_or_in_its_output(run: Run) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN")
    secrets = [run.environment[name].encode() for name in names]
    said = [path.read_bytes() for path in run.folder.rglob("*") if path.is_file()] + [run.log.encode()]
    store = open_store(str(run.folder))
    for table, metadata in (read_table(store, key) for key in store.list() if key.endswith(".parquet")):
        said.append(repr((table.to_pylist(), metadata)).encode())
    assert not [secret for secret in secrets for text in said if secret in text]


def test_store_verify_accepts_the_finished_run(run: Run) -> None:
    assert main(["verify", str(run.folder)]) == 0


def test_a_finished_run_does_nothing(run: Run) -> None:
    files = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}
    started = time.monotonic()
    again = subprocess.run(run.command, env=run.environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert time.monotonic() - started < 60
    assert {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()} == files


# --- Other methods than the paper's: the shipped presets -------------------------------------------


def by_preset(run: Run, name: str, *models: str) -> dict:
    """The summary of a run by a shipped preset. `MODEL` in `models`: the run's RFT model, with its chat template."""
    [rft] = [entry["fingerprint"] for entry in run.summary["models"] if entry["stage"] == "rft"]
    manifest = committed_model(open_store(str(run.folder)), rft)
    assert manifest is not None
    data = run.folder.parent
    command = [
        *(sys.executable, str(ROOT / "jobs" / "rft_pipeline.py"), name, f"--run.store={data}"),
        f"--models=[{', '.join(models).replace('MODEL', str(run.folder / manifest.folder))}]",
        f"--problems={{train: {{source: {data}/train.jsonl, limit: 20}}, test: {{source: {data}/test.jsonl}}}}",
        "--problems.per_block=5",
        "--sampling={samples_per_problem: 4, samples_per_block: 4, max_new_tokens: 64, max_model_len: 512}",
        *("--rft.dtype=float32", "--rft.epochs=1", "--rft.max_tokens=256"),
        *("--engine.dtype=float32", "--engine.kv_cache_gib=0.5"),
    ]
    done = subprocess.run(command, env=run.environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = [path.parent for path in data.glob("*/summary.json") if path.parent.name == name.replace("_", "-")]
    assert main(["verify", str(folder)]) == 0
    return json.loads((folder / "summary.json").read_text()) | {"folder": folder}


def test_a_model_improves_itself_without_a_gold_solution(run: Run) -> None:
    summary = by_preset(run, "self_improve", "{name: own, source: MODEL}")
    assert (summary["corpus"]["gold"], set(summary["corpus"]["by_model"])) == (0, {"own"})
    assert summary["corpus"]["paths"] > 0
    assert set(summary["evaluation"]["own"]) == {"base", "rft"}
    assert set(summary["paired"]["own"]) == {"rft_minus_base"}
    store = open_store(str(summary["folder"]))
    [entry] = summary["models"]
    manifest = committed_model(store, entry["fingerprint"])
    assert manifest is not None
    assert manifest.metadata["template"].startswith('{"chat": ')
    own = (summary["folder"] / manifest.folder / "chat_template.jinja").read_text()
    [rft] = [model["fingerprint"] for model in run.summary["models"] if model["stage"] == "rft"]
    before = committed_model(open_store(str(run.folder)), rft)
    assert before is not None
    assert own == (run.folder / before.folder / "chat_template.jinja").read_text()  # the model keeps its own template
    line = json.loads((summary["folder"] / summary["corpus"]["file"]).read_text().splitlines()[0])
    assert [message["role"] for message in (*line["prompt"], *line["completion"])] == ["user", "assistant"]


def test_a_student_learns_from_a_teachers_paths_alone(run: Run) -> None:
    teacher, student = "{name: big, source: MODEL, rft: false}", "{name: small, source: 'tiny:tiny-s', samples: false}"
    summary = by_preset(run, "distil", teacher, student)
    assert (summary["corpus"]["gold"], set(summary["corpus"]["by_model"])) == (0, {"big"})
    assert {(entry["model"], entry["stage"]) for entry in summary["models"]} == {("small", "rft")}
    assert set(summary["evaluation"]) == {"small"}
    assert set(summary["evaluation"]["small"]) == {"base", "rft"}
    text = (summary["folder"] / "report.html").read_text()
    assert "Against Base, on the same problems" in text

"""A union of two engines in one sampling stage on Ray, and `rft-ray sample` as a user runs it, stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray import config, pipeline
from rft_ray.data.problems import commit_problems, ordered
from rft_ray.data.tiny.generator import generate
from rft_ray.judging.asking import ask_about_rejects
from rft_ray.judging.opinions import read_opinions
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Opinion
from rft_ray.runtime.actor_pool import StageError
from rft_ray.runtime.progress import Stopwatch
from rft_ray.sampling.stage import sample
from rft_ray.store import open_store
from rft_ray.store.shards import missing_shards
from tests.unit.judging.test_judge_stage import judgements, plan_with, thoughtful, verified
from tests.unit.sampling.chat_server import completion, refusal, serving

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from rft_ray.cli.main import main; sys.exit(main(sys.argv[1:]))"
PROBLEMS = ordered(generate(8, split="train", seed=3, steps=(1, 2)), 0, 4)


def job(name: str, engine: str, source: str) -> SamplingJob:
    settings = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine=engine)
    return SamplingJob(ModelRef(name, "base", name * 16, source), PROBLEMS.fingerprint, 8, 4, settings, 4, 0)


def test_a_failing_teacher_leaves_the_other_models_to_be_sampled_and_is_resumed(
    ray_cluster: str, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "run"))
    commit_problems(store, PROBLEMS)
    jobs = [job("t", "openai", "openai:gpt-x"), job("s", "scripted", "x")]
    with serving(lambda body, _: completion("a", "b") if body["model"] == "good" else refusal(401)) as server:
        endpoint = config.Endpoint(base_url=server.url, key_env=None)
        with pytest.raises(StageError, match=r"sample t \(base\): gpt-x at .*HTTP 401: the key is refused"):
            sample(jobs, store, config.Engine(), run_seed=0, endpoints={"t": endpoint})
        assert {shard.fingerprint for shard in missing_shards(store, [s for j in jobs for s in j.shards()])} == {
            jobs[0].fingerprint
        }
    jobs[0] = job("t", "openai", "openai:good")
    with serving(lambda *_: completion("a", "b")) as server:
        endpoint = config.Endpoint(base_url=server.url, key_env=None)
        receipts = sample(jobs, store, config.Engine(), run_seed=0, endpoints={"t": endpoint})
    assert len(receipts) == 4
    assert not missing_shards(store, [shard for each in jobs for shard in each.shards()])


def test_the_sampler_alone_adds_samples_to_those_that_it_has(ray_cluster: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,prompt\n1,What is 2+3?\n2,How many legs has a dog?\n")
    command = [
        *(sys.executable, "-c", COMMAND, "sample", "--prompts", str(prompts), "--model", "tiny:tiny-s"),
        *("--out", str(tmp_path / "run"), "--samples-per-block", "2", "--sampling.engine=scripted", "--kind", "raw"),
    ]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster, "PYTHONPATH": str(ROOT)}
    texts: list[list[str]] = []
    for n in ("2", "4"):
        done = subprocess.run([*command, "--n", n], env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
        assert [row["prompt"] for row in rows] == ["What is 2+3?", "How many legs has a dog?"]
        texts.append([row["completion"] for row in rows])
    assert [samples[:2] for samples in texts[1]] == texts[0]
    assert "shards of completions: 2, missing: 1" in done.stdout


def test_a_judge_behind_an_endpoint_is_asked_on_ray_and_only_about_what_is_missing(
    ray_cluster: str, tmp_path: Path
) -> None:
    with serving(thoughtful) as server:
        plan = plan_with(server.url, "--grading.judge.endpoint.key_env=null")
        store = verified(plan, tmp_path / "run")
        shards = [shard for opinions in plan.judged for shard in opinions.sampling.shards()]
        for number, some in ((4, plan.judged[:1]), (4, plan.judged), (0, plan.judged)):
            assert pipeline.sample_all(some, plan, store, Stopwatch(), ask_about_rejects) == (plan, number)
        assert not missing_shards(store, shards)
        assert len(read_opinions(plan.judged, store, 1)) == len(shards)
    rows = [row for each in plan.judged for row in judgements(each, store)]
    assert len(server.asked) == len(rows)
    assert {row.opinion for row in rows} == set(Opinion)

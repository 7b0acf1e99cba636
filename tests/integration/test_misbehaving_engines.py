"""Failing engines and drivers that get SIGTERM, on Ray: shards that can be sampled are, once; others are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rft_ray import config, pipeline
from rft_ray.cli.store import main
from rft_ray.config import load
from rft_ray.data.problems import commit_problems
from rft_ray.evaluation.summary import read_summary
from rft_ray.records import Completion, from_table
from rft_ray.runtime import actor_pool
from rft_ray.sampling import quarantine
from rft_ray.sampling.stage import sample
from rft_ray.store import Store, open_store, read_table
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreError, StoreUnreachable
from tests.integration.sampling_driver import JOB, PROBLEMS, SET
from tests.integration.test_controls import CONFIG, arguments, trained

DRIVER = Path(__file__).with_name("sampling_driver.py")
POISON = PROBLEMS[7].question[:25]
"""In the second problem block: two shards of sixteen."""

pytestmark = pytest.mark.timeout(240)


def engine(script: str, **settings: object) -> config.Engine:
    return config.Engine.model_validate({"script": script, "stall_seconds": 2, **settings})


def rows(store: Store) -> Counter[tuple[str, int]]:
    """The number of times that each sample is committed."""
    shards = [from_table(read_table(store, key)[0], Completion) for key in store.list("completions/")]
    return Counter((row.problem_id, row.sample_index) for shard in shards for row in shard)


class WeatheredStore(LocalStore):
    """Cannot write records of failures: for some seconds from the first one on, in all processes, or for good."""

    def __init__(self, path: str, run_id: str = "", *, outage_s: float | None) -> None:
        super().__init__(path, run_id)
        self._outage_s = outage_s
        self._first = Path(path).with_name("first-failure")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(WeatheredStore, outage_s=self._outage_s), (self.url, self._run_id)

    def list(self, prefix: str = "") -> Iterator[str]:
        if prefix.startswith(f"{quarantine.FOLDER}completions/"):
            if self._outage_s is None:
                raise StoreError("disk full")
            if not self._first.exists():
                self._first.touch()
            if time.time() < self._first.stat().st_mtime + self._outage_s:
                raise StoreUnreachable("S3 is out of reach")
        return super().list(prefix)


WHOLE = {(problem.problem_id, index): 1 for problem in PROBLEMS for index in range(4)}
SPARED = {place: 1 for place in WHOLE if place[0] not in {problem.problem_id for problem in PROBLEMS[5:10]}}


@pytest.fixture
def store(ray_cluster: str, tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "run"))
    commit_problems(store, SET)
    return store


def test_no_sample_is_lost_or_repeated_when_engines_fail_in_every_way(store: Store, tmp_path: Path) -> None:
    """Each way occurs once, at another problem; the first two attempts to load the model fail."""
    ways = ["die", "hang", "oom", "raise", "empty"]
    faults = [f"{way}:{PROBLEMS[7 * place].question[:25]}:1:{tmp_path}" for place, way in enumerate(ways)]
    script = ",".join([*faults, f"open-oom::1:{tmp_path}", f"open-hang::1:{tmp_path}"])
    sample([JOB], store, engine(script), run_seed=0)
    assert {path.name for path in tmp_path.glob("*.0")} == {f"{way}.0" for way in [*ways, "open-oom", "open-hang"]}
    assert rows(store) == WHOLE
    assert all(past.failures < 3 for past in quarantine.histories(store).values())


def test_shards_that_keep_failing_are_quarantined_and_tried_again_on_demand(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One shard kills its process, the other one's generation never ends; then the faults are removed."""
    once = {"max_failures": 1, "shards_in_flight": 1}
    with pytest.raises(actor_pool.StageError, match=r"2 shards \(20 samples\) are quarantined"):
        sample([JOB], store, engine(f"die:{POISON}:1:{tmp_path},endless:{POISON}", **once), run_seed=0)
    assert rows(store) == SPARED
    shown = capsys.readouterr().out
    assert "an endless sample: 4000000 tokens" in shown
    assert "5-9" in shown
    with pytest.raises(actor_pool.StageError, match="retry_quarantined"):  # recorded, so nothing is tried again
        sample([JOB], store, engine("", **once), run_seed=0)
    assert rows(store) == SPARED
    sample([JOB], store, engine("", **once, retry_quarantined=True), run_seed=0)
    assert rows(store) == WHOLE
    assert {past.failures for past in quarantine.histories(store).values()} == {0}


def test_sampling_stops_soon_when_the_engine_fails_on_every_shard(store: Store) -> None:
    with pytest.raises(actor_pool.StageError, match="the engine seems to be the cause"):
        sample([JOB], store, engine("few:", max_failures=1, max_quarantined=0), run_seed=0)
    assert len(quarantine.histories(store)) <= 2


def test_a_model_that_is_refused_or_runs_out_of_memory_is_reported(store: Store) -> None:
    with pytest.raises(actor_pool.StageError, match=r"sample mA \(sft\): the engine refuses"):
        sample([JOB], store, engine("open-refuse:"), run_seed=0)
    with pytest.raises(actor_pool.StageError, match=r"out of memory.* \(1 times\)"):
        sample([JOB], store, engine("open-oom:", max_failures=1), run_seed=0)
    assert not rows(store)
    assert not quarantine.histories(store)


@pytest.mark.long
def test_engines_that_fail_during_an_outage_of_the_store_end_no_stage_and_are_recorded_after_it(
    ray_cluster: str, tmp_path: Path
) -> None:
    """Records are out of reach for a while from the first failure on; the other shards are sampled meanwhile."""
    store = WeatheredStore(str(tmp_path / "run"), outage_s=12.0)
    commit_problems(store, SET)
    with pytest.raises(actor_pool.StageError, match=r"2 shards \(20 samples\) are quarantined"):
        sample([JOB], store, engine(f"raise:{POISON}", max_failures=2, shards_in_flight=2), run_seed=0)
    assert rows(store) == SPARED
    assert sorted(quarantine.failures(store).values()) == [2, 2]
    began = (tmp_path / "first-failure").stat().st_mtime
    records = [Path(store.url, key) for key in store.list(quarantine.FOLDER)]
    assert min(record.stat().st_mtime for record in records) - began >= 12


@pytest.mark.long
def test_a_failure_that_cannot_be_recorded_is_reported_at_the_end(ray_cluster: str, tmp_path: Path) -> None:
    store = WeatheredStore(str(tmp_path / "run"), outage_s=None)
    commit_problems(store, SET)
    with pytest.raises(actor_pool.StageError, match=r"failures of shards are not recorded, first failure 1 of .*full"):
        sample([JOB], store, engine(f"raise:{POISON}", max_failures=1), run_seed=0)
    assert rows(store) == SPARED


# --- Drivers ---------------------------------------------------------------------------------------


def driver(folder: Path, cluster: str, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_ADDRESS": cluster, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(DRIVER), str(folder), "--engine.shards_in_flight=2", *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def after_a_shard(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob("completions/*/*/*.parquet")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no shard was committed in time"
        time.sleep(0.02)


def test_after_sigterm_shards_in_flight_are_committed_and_the_same_command_resumes(
    ray_cluster: str, tmp_path: Path
) -> None:
    """Each problem takes 0.1 s, so a shard takes half a second."""
    first = driver(tmp_path, ray_cluster, "--engine.script='slow=0.1:'")
    after_a_shard(tmp_path, first)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 143, output
    made = len(list(tmp_path.glob("completions/*/*/*.parquet")))
    assert 1 <= made < 16
    assert f"sampling: {made} of 16 shards were committed" in output
    assert "run the same command again" in output
    again = driver(tmp_path, ray_cluster)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert f"made {16 - made} shards" in output
    assert rows(open_store(str(tmp_path))) == WHOLE


def test_shards_not_finished_within_drain_seconds_are_abandoned(ray_cluster: str, tmp_path: Path) -> None:
    first = driver(tmp_path, ray_cluster, f"--engine.script='hang:{POISON}'", "--engine.drain_seconds=1")
    after_a_shard(tmp_path, first)
    time.sleep(1)
    first.send_signal(signal.SIGTERM)
    started = time.monotonic()
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 143, output
    assert time.monotonic() - started < 30
    assert set(rows(open_store(str(tmp_path))).values()) == {1}
    assert not list(tmp_path.glob("failures/**/*.json"))


WAITING = """
import sys, time
import ray
from rft_ray.cli import job
from rft_ray.runtime import sigterm

def work():
    ray.init(log_to_driver=False)
    sigterm.install_handler()
    waiting = ray.remote(lambda: time.sleep(120)).remote()
    print("ready", flush=True)
    try:
        ray.get(waiting)
    except Exception:
        print("taken for an error", flush=True)

sys.exit(job.carry_out(lambda: work))
"""


def test_sigterm_ends_a_job_that_waits_for_ray(ray_cluster: str) -> None:
    """As a job does that trains: its main thread waits in Ray, not in Python."""
    environment = os.environ | {"RAY_ADDRESS": ray_cluster, "PYTHONPATH": str(Path(__file__).parents[2])}
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAITING], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert waiting.stdout
    lines = []
    while "ready\n" not in lines:
        lines.append(waiting.stdout.readline())
        assert lines[-1], lines
    time.sleep(2)
    waiting.send_signal(signal.SIGTERM)
    output = waiting.communicate(timeout=40)[0]
    assert waiting.returncode == 143, output
    assert "stopped by SIGTERM (not while sampling)" in output
    assert "taken for an error" not in output


def test_two_concurrent_drivers_commit_every_sample_once(ray_cluster: str, tmp_path: Path) -> None:
    both = [driver(tmp_path, ray_cluster, "--engine.script='slow=0.2:'") for _ in range(2)]
    output = [driver.communicate(timeout=120)[0] for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], output
    store = open_store(str(tmp_path))
    assert rows(store) == WHOLE


# --- The whole run --------------------------------------------------------------------------------


def test_a_run_stops_at_quarantined_shards_continues_without_them_or_retries_them(
    ray_cluster: str, tmp_path: Path
) -> None:
    given = arguments(tmp_path)
    plan, store = pipeline.prepare(load(CONFIG, given))
    name = plan.train.problems[3].question  # of the first of two problem blocks
    broken = [*given, f"--engine={{max_failures: 1, script: 'raise:{name[:25]}'}}"]
    stems = [s.stem for job in plan.collected for s in job.sampling.shards() if s.problem_block == 0]

    plan, _ = pipeline.prepare(load(CONFIG, broken))
    trained(plan, store)
    with pytest.raises(actor_pool.StageError, match="4 shards"):
        pipeline.run(plan, store)
    assert account(store) == {"planned": 160, "missing": 160 - 80, "quarantined": 80, "sampled": 80}
    summary = read_summary(store)
    assert summary is not None
    assert sorted(entry.shard for entry in summary.quarantine) == sorted(stems)

    plan, _ = pipeline.prepare(load(CONFIG, [*broken, "--engine.on_failed_shard=continue"]))
    trained(plan.past(stems), store)
    without = pipeline.run(plan, store)
    assert without.finished
    assert without.corpus is not None
    assert without.corpus.gold == 20
    assert account(store)["missing"] == account(store)["quarantined"] == 80
    assert pipeline.run(plan, store) == without  # nothing to do
    assert main(["verify", store.url]) == 0

    plan, _ = pipeline.prepare(load(CONFIG, [*given, "--engine.retry_quarantined=true"]))
    whole = pipeline.run(plan, store)
    assert account(store) == {"planned": 160, "missing": 0, "quarantined": 0, "sampled": 160}
    assert whole.corpus is not None
    assert whole.corpus.file != without.corpus.file
    assert whole.corpus.paths > without.corpus.paths


def account(store: Store) -> dict[str, int]:
    """The sum of both models' counts, after a check that each model's counts add up."""
    total: Counter[str] = Counter()
    summary = read_summary(store)
    assert summary is not None
    for ledger in summary.ledger.values():
        assert ledger.planned == ledger.sampled + ledger.skipped + ledger.missing
        total.update({name: getattr(ledger, name) for name in ("planned", "missing", "quarantined", "sampled")})
    return dict(total)

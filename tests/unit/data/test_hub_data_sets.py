"""A run of problems from the hub goes on with the commit of its first plan. By the real client, in new processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rft_ray.config import ProblemSet
from rft_ray.data import hub, hub_records
from rft_ray.data.hub import Repository, RepositoryFile
from rft_ray.data.problems import prepare
from rft_ray.data.row_files import DataError
from rft_ray.store import StoreError, mark_run, open_store
from rft_ray.store.plans import recorded_commits, recorded_sources, save_plan
from tests.hubserver import COMMIT, hub_server
from tests.integration.test_hub import ask, closed_port, parquet

MOVED = "bad" + "0" * 37
RUN = """
from rft_ray import pipeline
from rft_ray.config import load
from rft_ray.data.problems import describe
from rft_ray.store import mark_run
options = ["problems.train.source=gsm8k:train", "problems.test.source=hub:own/sums:test"]
options += ["models=[{name: a, source: 'tiny:tiny-s'}]", "prompt.kind=template", "problems.per_block=1"]
plan, store = pipeline.prepare(load(None, [*options, "run.store=" + sys.argv[1]]))
mark_run(store)
pipeline.save(plan, store)
lines = describe(plan.train, plan.test, [], 0.8)
print([part.fingerprint for part in (plan.train, plan.test)], plan.fingerprint, lines)
"""
VERIFY = """
from rft_ray.cli import verify
run, file = sys.argv[1].split()
options = verify.arguments(["--gold", "hub:own/sums:train", "--out", run, file], "")
verify.prepare(options)
from rft_ray.data import hub_records
from rft_ray.store import open_store
from rft_ray.store.plans import recorded_commits
store = open_store(options.out)
gold, _ = verify.read(options, recorded_commits(store))
verify.save(options, gold, store, [])
print(gold.problems.fingerprint, gold.problems.commit, bool(gold.problems.note))
"""


def files(*answers: int) -> dict[str, dict[str, bytes]]:
    split = {"train-00000-of-00001.parquet": parquet(*answers), "test-00000-of-00001.parquet": parquet(5, 6)}
    return {"datasets/own/sums": split, "datasets/openai/gsm8k": {f"main/{name}": data for name, data in split.items()}}


def on(machine: Path, code: str, argument: str, endpoint: str) -> str:
    return ask(code, argument, machine / "hub", endpoint, RFT_CACHE=str(machine / "cache"))[0]


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The commit at which the branch of own/sums is, under `at`; "" when the hub does not answer."""
    head = {"at": COMMIT}

    def asked(name: str, kind: hub.Kind) -> Repository:
        if known := hub.known(name, kind):
            return known
        if not head["at"] or "@" in name:
            raise ConnectionError("gone")
        (folder := tmp_path / "hub" / head["at"]).mkdir(parents=True, exist_ok=True)
        for file, content in files(1, 2, len(head["at"]) * (head["at"] == MOVED))["datasets/own/sums"].items():
            (folder / file).write_bytes(content)
        repository = Repository(name, head["at"], {path.name: RepositoryFile(1, "") for path in folder.iterdir()}, kind)
        hub.remember(repository, folder)
        return repository

    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_asked", asked)
    return head


@pytest.fixture
def new_driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forget() -> None:
        for memory in ("_known", "_folders", "_read", "_commits"):
            monkeypatch.setattr(hub, memory, {})

    forget()
    return forget


def test_problems_are_those_of_the_recorded_commit_wherever_the_branch_is(
    tmp_path: Path, branch: dict[str, str], new_driver: Callable[[], None]
) -> None:
    section = ProblemSet(source="hub:own/sums:train")
    first = prepare(section, 0, 1)
    assert (first.commit, first.dataset, first.note) == (COMMIT, "own/sums", "")
    mark_run(store := open_store(str(tmp_path / "run")))
    hub_records.record(store, [], [first])
    for at in (MOVED, ""):
        new_driver()
        branch["at"] = at
        hub_records.recall(store)
        again = prepare(section, 0, 1, commits={section.source: COMMIT})
        assert (again.fingerprint, again.commit) == (first.fingerprint, COMMIT)
        assert bool(again.note) == bool(at)
    branch["at"] = MOVED
    assert prepare(section, 0, 1).fingerprint != first.fingerprint


def test_a_commit_that_is_gone_and_not_recorded_is_named(branch: dict[str, str], new_driver: object) -> None:
    branch["at"] = ""
    with pytest.raises(DataError, match=f"the run was planned with commit {COMMIT}: start another one"):
        prepare(ProblemSet(source="hub:own/sums:train"), 0, 1, commits={"hub:own/sums:train": COMMIT})


@pytest.mark.long
def test_a_run_goes_on_with_the_data_of_its_first_plan(tmp_path: Path) -> None:
    """Where the branch has moved and the commit is gone, on another driver, which says so; and without the hub."""
    argument = str(tmp_path / "runs")
    with hub_server(files(1, 2)) as endpoint:
        first = on(tmp_path / "a", RUN, argument, endpoint)
    assert first.endswith(" []")
    with hub_server(files(1, 2, 3), commit=MOVED) as endpoint:
        resumed = on(tmp_path / "b", RUN, argument, endpoint)
    for source in ("train: gsm8k:train", "test: hub:own/sums:test"):
        assert f"problems.{source} is at commit {MOVED} by now: this run goes on with {COMMIT}" in resumed
    assert resumed.partition(" ['problems")[0] == first.removesuffix(" []")
    with closed_port() as endpoint:
        assert on(tmp_path / "c", RUN, argument, endpoint) == first


@pytest.mark.long
def test_verify_grades_against_the_gold_of_its_first_plan(tmp_path: Path) -> None:
    (completions := tmp_path / "samples.jsonl").write_text('{"question": "What is 1?", "completion": "#### 1"}\n')
    argument = f"{tmp_path / 'run'} {completions}"
    with hub_server(files(1, 2)) as endpoint:
        first = on(tmp_path / "a", VERIFY, argument, endpoint)
    assert first.endswith(f" {COMMIT} False")
    with hub_server(files(1, 2, 3), commit=MOVED) as endpoint:
        assert on(tmp_path / "b", VERIFY, argument, endpoint) == first.replace("False", "True")


def test_the_commits_in_plans_of_earlier_versions_are_read(tmp_path: Path) -> None:
    mark_run(store := open_store(str(tmp_path)))
    config = "problems:\n  train: {source: 'hub:own/sums:train'}\n  test: {source: 'tiny:test:20'}\n"
    save_plan(store, [], job="run", config=config, data={"train": "9c41", "commit of train": COMMIT})
    assert recorded_commits(store) == {"hub:own/sums:train": COMMIT}


def test_a_second_spelling_of_a_data_set_is_recorded_too(tmp_path: Path) -> None:
    mark_run(store := open_store(str(tmp_path)))
    sources = ["hub:own/sums@main:train", "hub:own/sums:train"]
    for source in (*sources, *sources):
        config = f"problems:\n  train: {{source: '{source}'}}\n"
        save_plan(store, [], job="run", config=config, data={"train": "9c41", "commit of train": COMMIT})
    assert recorded_commits(store) == dict.fromkeys(sources, COMMIT)
    assert len(list(store.list("plans/"))) == 2


def test_a_damaged_record_of_pins_is_named(tmp_path: Path) -> None:
    mark_run(store := open_store(str(tmp_path)))
    for source in ("hub:a/b@main", "hub:a/b"):
        save_plan(store, [], job="run", config="", data={f"source {source}": "hub:a/b@c0ffee"})
    [key] = [key for key in store.list("plans/") if json.loads(store.read(key))["data"].keys() == {"source hub:a/b"}]
    path = store.local_path(key)
    assert path is not None
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("@c0ffee", "@c0ffef"))
    with pytest.raises(StoreError, match=f"damaged plan {key}"):
        recorded_sources(store)


def test_settings_without_problems_record_no_commit(tmp_path: Path) -> None:
    mark_run(store := open_store(str(tmp_path)))
    for config in (json.dumps({"gold": None, "n": 1}), "[", "problems: null"):
        save_plan(store, [], job="sample", config=config, data={"commit of train": COMMIT})
    assert recorded_commits(store) == {}

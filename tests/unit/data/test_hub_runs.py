"""A run of hub models: what it records at its first start, and where its nodes take the weights from.

By the real client, which reads its settings at import: in new processes. A machine is a folder, for HF_HOME and
RFT_CACHE.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rft_ray.data.tiny import model_dir
from rft_ray.store.models.folder import files_fingerprint
from tests.hubserver import COMMIT, hub_server
from tests.integration.test_hub import ask, closed_port
from tests.unit.store.test_models import model_files

MOVED = "bad" + "0" * 37
RUN = """
from rft_ray import pipeline
from rft_ray.config import load
from rft_ray.store import mark_run
options = ["problems.train.source=tiny:train:20", "problems.test.source=tiny:test:20", "problems.per_block=10"]
options += ["models=[{name: a, source: 'hub:meta/llama'}]", "prompt.kind=template", "sampling.samples_per_problem=20"]
plan, store = pipeline.prepare(load(None, [*options, "run.store=" + sys.argv[1]]))
mark_run(store)
pipeline.save(plan, store)
from rft_ray.data.base_models import documents, size
source = plan.config.models[0].source
print(source, plan.bases["a"], size(source), [path.name for path in documents(source)])
"""
NOTES = f"""{RUN}
import contextlib, io
from rft_ray.cli.job import check_before
with contextlib.redirect_stdout(io.StringIO()) as printed:
    check_before(plan.config, plan.train, plan.test, plan.sources)
print([line for line in printed.getvalue().splitlines() if "hub:" in line])
"""
FETCH = """
from rft_ray.data.base_weights import commit_base, fetch_base
from rft_ray.store import mark_run, open_store
store = open_store(sys.argv[1].split()[0])
mark_run(store)
print(HOW(store, "hub:meta/llama@" + sys.argv[1].split()[1], sys.argv[1].split()[2]))
"""


def tiny_files() -> dict[str, bytes]:
    """A model that ships with the project, and a card."""
    folder = model_dir("tiny-s")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} | {"README.md": b"card"}


def on(machine: Path, code: str, argument: str, endpoint: str) -> str:
    return ask(code, argument, machine / "hub", endpoint, RFT_CACHE=str(machine / "cache"))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The machines and the run's folder, after its first start on machine a, and what that printed."""
    folder = tmp_path_factory.mktemp("machines")
    with hub_server({"meta/llama": tiny_files()}) as endpoint:
        said = on(folder / "a", RUN, str(folder / "runs"), endpoint)
    assert said.startswith(f"hub:meta/llama@{COMMIT} ")
    assert not list((folder / "a").rglob("*.safetensors"))
    return folder, said


def test_a_run_resumes_when_its_branch_has_moved_and_its_commit_is_gone(run: tuple[Path, str]) -> None:
    """On another driver, which has nothing of the hub."""
    folder, first = run
    with hub_server({"meta/llama": tiny_files() | {"config.json": b"{}"}}, commit=MOVED) as endpoint:
        assert on(folder / "b", RUN, str(folder / "runs"), endpoint) == first


def test_a_line_says_that_the_branch_of_a_model_has_moved_and_what_the_run_keeps(tmp_path: Path) -> None:
    argument, moved = str(tmp_path / "runs"), tiny_files() | {"config.json": b"{}"}
    asked: list[str] = []
    with hub_server({"meta/llama": tiny_files()}, asked) as endpoint:
        assert on(tmp_path / "a", NOTES, argument, endpoint) == "[]"
    assert sum("blobs=true" in path for path in asked) == 1, "the hub is asked for a model once"
    with hub_server({"meta/llama": moved}, commit=MOVED) as endpoint:
        assert on(tmp_path / "a", NOTES, argument, endpoint) == (
            f"['note: hub:meta/llama is at commit {MOVED} by now: this run goes on with {COMMIT}, which it was planned "
            "with; name the new commit, or start a run under another name, to use it']"
        )
    with closed_port() as endpoint:
        assert on(tmp_path / "a", NOTES, argument, endpoint) == "[]"


@pytest.mark.parametrize("machine", ["a", "c"])
def test_a_run_resumes_without_the_hub(run: tuple[Path, str], machine: str) -> None:
    """On the driver of the first start and on another one; neither has the weights."""
    folder, first = run
    with closed_port() as endpoint:
        assert on(folder / machine, RUN, str(folder / "runs"), endpoint) == first


def fetch(tmp_path: Path, machine: str, endpoint: str, how: str = "fetch_base") -> str:
    (local := tmp_path / "local").mkdir(exist_ok=True)
    for name, content in model_files().items():
        (local / name).write_bytes(content)
    argument = f"{tmp_path / 'run'} {COMMIT} {files_fingerprint(local)}"
    return on(tmp_path / machine, FETCH.replace("HOW", how), argument, endpoint)


def weights(sent: list[str]) -> list[str]:
    return [name for name in sent if name.endswith(".safetensors")]


def test_processes_of_one_node_fetch_the_weights_from_the_hub_once(tmp_path: Path) -> None:
    sent: list[str] = []
    with hub_server({"meta/llama": model_files()}, sent=sent) as endpoint, ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda _: fetch(tmp_path, "a", endpoint), range(2)))
    assert COMMIT in said[0]
    assert len(set(said)) == 1
    assert weights(sent) == ["model.safetensors"]


def test_nodes_fetch_the_weights_once_each_or_once_where_they_share_the_hubs_cache(tmp_path: Path) -> None:
    sent: list[str] = []
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "hub").symlink_to(tmp_path / "a" / "hub")
    with hub_server({"meta/llama": model_files()}, sent=sent) as endpoint:
        said = [fetch(tmp_path, machine, endpoint) for machine in ("a", "shared", "b")]
    assert [COMMIT in place for place in said] == [True] * 3
    assert weights(sent) == ["model.safetensors"] * 2


def test_nodes_take_committed_weights_from_the_run_without_the_hub(tmp_path: Path) -> None:
    sent: list[str] = []
    with hub_server({"meta/llama": model_files()}, sent=sent) as endpoint:
        assert fetch(tmp_path, "a", endpoint, "commit_base") == "True"
    assert weights(sent) == ["model.safetensors"]
    with closed_port() as endpoint:
        assert str(tmp_path / "run/models") in fetch(tmp_path, "b", endpoint)


def test_weights_that_are_other_ones_than_planned_are_not_committed(tmp_path: Path) -> None:
    with hub_server({"meta/llama": model_files(2.0)}) as endpoint:
        assert "another model here than where the run was planned" in fetch(tmp_path, "a", endpoint, "commit_base")
    assert not list((tmp_path / "run").glob("models/**/*"))

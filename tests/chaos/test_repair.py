"""Repair: corrupt files get a tombstone, and only they and the files made from them are made again."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.config import load
from rft_ray.data import base_models
from rft_ray.plan.jobs import CorpusJob, ModelRef
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling import engine
from rft_ray.sampling import sampler as sampler_module
from rft_ray.sampling.scripted_engine import ScriptedEngine
from rft_ray.store import (
    NotFound,
    Store,
    StoreError,
    names,
    open_store,
    plans,
    present,
    prune,
    read_table,
    repair,
    run_lock,
)
from rft_ray.store.backends import faults
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import commit_model, committed_model
from rft_ray.store.names import TOMBSTONE, split, tombstone
from rft_ray.store.tables import identity, noted
from tests.chaos.proofs import Watch
from tests.chaos.small_run import CORPUS, JOBS, outcome, run, sampler

LAST = JOBS[1].sampling
COMPLETIONS, VERDICTS = (f"{stage}/{LAST.problems_fingerprint}/p000001" for stage in ("completions", "verdicts"))


class Moody(ScriptedEngine):
    """Like a real engine, it never samples the same texts again: they depend on how many engines were opened before."""

    def __init__(self, seed: int, before: int) -> None:
        super().__init__(seed)
        self._before = before

    def generate(self, requests: list[engine.Request], settings: SamplingSettings) -> list[engine.Answered]:  # type: ignore[override]
        later = [replace(request, sample_start=request.sample_start + 10 * self._before) for request in requests]
        return super().generate(later, settings)


@pytest.fixture
def url() -> Iterator[str]:
    """A finished run."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        run(name)
        yield name


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = itertools.count()
    monkeypatch.setattr(sampler_module, "open_engine", lambda *_, seed, **__: Moody(seed, next(opened)))


def flip(url: str, key: str) -> None:
    path = Path(url) / key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def first(url: str, prefix: str) -> str:
    """The first file that counts."""
    return min(names.committed_files(open_store(url).list(prefix)).values())


def rows(store: Store) -> dict[tuple[str, str], object]:
    """The rows of every file that counts, without generations; the corpus as its lines."""
    living = names.committed_files(key for key in store.list() if key.split("/")[0] in ("verdicts", "paths", "corpus"))
    return {
        name: read_table(store, key)[0].to_pylist() if name[1] == "parquet" else store.read(key)
        for name, key in living.items()
    }


def recomputed(store: Store, folder: str) -> dict[tuple[str, str], object]:
    """The rows that the committed completions alone give, in a new store."""
    copy = open_store(folder)
    for (stem, ending), key in names.committed_files(store.list("completions/")).items():
        copy.create(f"{stem}.g0.{ending}", store.read(key))
    run(folder)
    return rows(copy)


def test_a_sound_run_verifies(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", url]) == 0
    assert capsys.readouterr().out == "20 files read, 0 corrupt, 0 made from what no longer counts\n"


def listed(store: Store) -> set[str]:
    """All keys of a run, without the records of its lock."""
    return {key for key in store.list() if not key.startswith(run_lock.FOLDER)}


@pytest.mark.usefixtures("moody")
def test_lost_samples_and_everything_made_from_them_are_made_again(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, lost = open_store(url), first(url, COMPLETIONS)
    before = {key: store.read(key) for key in store.list()}
    flip(url, lost)
    assert main(["verify", url]) == 1
    assert f"corrupt shard {lost} in {url}" in capsys.readouterr().out
    assert main(["verify", "--repair", "--yes", url]) == 0
    assert "run the same command again" in capsys.readouterr().out
    run(url)
    new = {key for key in listed(store) if key not in before}
    remade = {key for key in new if ".g1." in key}
    assert {key.split("/")[0] for key in remade} == {"completions", "verdicts", "paths", "corpus"}
    assert len(remade) == 5, "one shard of completions, its verdicts, its block of paths, the corpus in both formats"
    assert len(new - remade) == 4, "one tombstone each; one for both formats of the corpus"
    assert all(store.read(key) == data for key, data in before.items() if key not in (lost, "summary.json"))
    assert rows(store) == recomputed(store, str(tmp_path))
    assert (outcome(url).lost, outcome(url).duplicated, outcome(url).phantom) == (0, 0, 0)
    assert store.read(present(store, CORPUS.jsonl_key) or "") != before[CORPUS.jsonl_key]
    assert main(["verify", url]) == 0


@pytest.mark.parametrize("prefix", ["verdicts/", "paths/", "corpus/", "problems/"])
def test_only_files_that_can_be_recomputed_are_recomputed(url: str, prefix: str) -> None:
    store, lost = open_store(url), min(k for k in open_store(url).list(prefix) if k.endswith(".parquet"))
    before, keys = rows(store), listed(store)
    flip(url, lost)
    assert main(["verify", "--repair", "--yes", url]) == 0
    assert listed(store) - keys == {tombstone(lost)}
    run(url)
    assert rows(store) == before
    assert main(["verify", url]) == 0


def test_a_damaged_jsonl_is_named_and_written_again(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(url)
    intact = store.read(CORPUS.jsonl_key)
    flip(url, CORPUS.jsonl_key)
    assert main(["verify", "--repair", "--yes", url]) == 0
    assert f"corrupt file {CORPUS.jsonl_key}" in capsys.readouterr().out
    run(url)
    assert store.read(present(store, CORPUS.jsonl_key) or "") == intact


@pytest.mark.usefixtures("moody")
def test_corrupt_files_of_every_stage_are_repaired_together(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    for prefix in (COMPLETIONS, VERDICTS, "paths/"):
        flip(url, first(url, prefix))
    assert main(["verify", "--repair", "--yes", url]) == 0
    run(url)
    assert rows(store) == recomputed(store, str(tmp_path))
    assert main(["verify", url]) == 0


@pytest.mark.usefixtures("moody")
def test_a_repair_interrupted_at_any_operation_is_finished_by_the_next(url: str, tmp_path: Path) -> None:
    """Also when the run is submitted before the next repair."""
    for at, when in itertools.product((1, 2, 4), ("before", "after")):
        flip(url, first(url, COMPLETIONS))
        files = repair.find(repair.examine(open_store(url)))
        with faults.injected(f"{at}:{when}:die"), pytest.raises(faults.Died):
            repair.void(open_store(url), files)
        if at == 2:
            with suppress(StoreError):  # it may need the corrupt shard
                run(url)
        assert main(["verify", "--repair", "--yes", url]) in (0, 1)
        run(url)
        assert main(["verify", url]) == 0
        assert (outcome(url).lost, outcome(url).duplicated, outcome(url).phantom) == (0, 0, 0)
        assert rows(open_store(url)) == recomputed(open_store(url), str(tmp_path / f"{at}{when}"))


@pytest.mark.usefixtures("moody")
def test_samples_moved_away_by_hand_make_dependent_files_stale(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(url) / first(url, COMPLETIONS)).unlink()
    assert main(["verify", url]) == 1
    run(url)
    capsys.readouterr()
    assert main(["verify", "--repair", "--yes", url]) == 0
    assert "made from other rows than those of" in capsys.readouterr().out
    run(url)
    assert rows(open_store(url)) == recomputed(open_store(url), str(tmp_path))


def rft_model(store: Store) -> str:
    """Commit a model that was trained on the run's corpus, and samples of it."""
    made_from = noted({split(CORPUS.key)[0]: identity(read_table(store, CORPUS.key)[0])})
    commit_model(store, "f" * 16, base_models.resolve("tiny:tiny-s"), made_from)
    job = replace(LAST, model=ModelRef("mA", "rft", "f" * 16), seed=9)
    for shard in job.shards():
        sampler(store, job)(shard)
    return job.fingerprint


@pytest.mark.usefixtures("moody")
def test_a_model_trained_on_lost_samples_and_its_samples_are_void(url: str) -> None:
    store = open_store(url)
    samples = rft_model(store)
    assert main(["verify", url]) == 0
    flip(url, first(url, COMPLETIONS))
    assert main(["verify", "--repair", "--yes", url]) == 0
    assert committed_model(store, "f" * 16) is None
    assert not [key for stem, key in names.committed_files(store.list("completions/")).items() if samples in stem[0]]
    run(url)
    rft_model(store)
    assert committed_model(store, "f" * 16) is not None
    assert main(["verify", url]) == 0


def test_a_damaged_model_is_named_and_its_samples_stay(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    rft_model(open_store(url))
    [weights] = Path(url).glob("models/*/*/model.safetensors")
    weights.chmod(0o644)
    flip(url, str(weights.relative_to(url)))
    assert main(["verify", "--repair", "--yes", url]) == 1
    assert "model.safetensors" in (output := capsys.readouterr().out)
    assert "1 corrupt, 0 made from" in output
    assert not [key for key in open_store(url).list() if key.endswith(TOMBSTONE)]


def test_a_void_file_is_not_found(url: str) -> None:
    store = open_store(url)
    store.create(tombstone(CORPUS.key), b"{}")
    assert present(store, CORPUS.key) is None
    with pytest.raises(NotFound, match=CORPUS.key):
        read_table(store, CORPUS.key)


# --- Pruning --------------------------------------------------------------------------------------


def test_checkpoints_of_committed_models_and_void_files_can_be_pruned(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(url)
    rft_model(store)
    for fingerprint in ("f" * 16, "e" * 16):
        store.create(f"work/{fingerprint}/a1/checkpoint-3/state.bin", b"123")
    lost = first(url, "paths/")
    flip(url, lost)
    main(["verify", "--repair", "--yes", url])
    run(url)
    for name, age_s in (("old", 2 * prune.LEFT_AFTER_S), ("new", 0)):
        (Path(url) / ".tmp" / name).write_bytes(b"half")
        os.utime(Path(url) / ".tmp" / name, (time.time() - age_s,) * 2)
    watch = Watch(url)
    assert main(["prune", url]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    watch.look()
    assert main(["prune", "--yes", url]) == 0
    gone = {f"work/{'f' * 16}/a1/checkpoint-3/state.bin", lost}
    watch.look()
    assert watch.overwritten == len(gone)
    assert not gone & set(store.list())
    assert [path.name for path in (Path(url) / ".tmp").iterdir()] == ["new"]
    assert main(["verify", url]) == 0


def test_superseded_recipes_can_be_pruned_and_planned_ones_cannot(url: str) -> None:
    store = open_store(url)
    samples = rft_model(store)
    plan = (CORPUS, CorpusJob(CORPUS.problems_fingerprint, CORPUS.problems))
    files = prune.unneeded(store, set(plans.recipes(plan)))
    assert {plans.recipe_of(file.key) for file in files} == {samples, "f" * 16}
    prune.delete(store, files)
    run(url)
    assert main(["verify", url]) == 0


class Dying(LocalStore):
    """A store whose process dies before one of its deletions, those before it done."""

    def __init__(self, url: str, deletions: int) -> None:
        super().__init__(url)
        self.left = deletions

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            if not self.left:
                raise faults.Died(key)
            self.left -= 1
            super().remove([key])


@pytest.mark.usefixtures("moody")
def test_what_a_prune_leaves_that_is_interrupted_follows_from_the_samples_that_it_leaves(
    url: str, tmp_path: Path
) -> None:
    flip(url, first(url, COMPLETIONS))
    assert main(["verify", "--repair", "--yes", url]) == 0  # and no job makes again what is void
    files = prune.unneeded(open_store(url), set())
    assert sum(bool(names.record_kind(file.key)) for file in files) == 4
    for deletions in (3, 11, len(files) - 4, len(files) - 2):
        left = str(tmp_path / str(deletions))
        shutil.copytree(url, left)
        with pytest.raises(faults.Died):
            prune.delete(Dying(left, deletions), files)
        run(left)
        assert rows(open_store(left)) == recomputed(open_store(left), f"{left}-again"), deletions
        assert main(["verify", left]) == 0


def test_without_the_runs_config_no_recipe_is_superseded(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--superseded", url]) == 2
    assert "neither saved plans nor config.yaml" in capsys.readouterr().err


def test_the_demo_plan_names_every_recipe(tmp_path: Path) -> None:
    """`recipes` finds each part of a real plan."""
    from rft_ray import pipeline

    config = load("jobs/configs/demo.yaml", [f"--run.store={tmp_path}", "--problems.train.limit=20"])
    plan, _ = pipeline.prepare(config)
    names = set(plans.recipes(plan))
    parts = [*plan.sft, *plan.rft, *plan.collected, plan.paths, plan.corpus, plan.gold]
    assert {part.fingerprint for part in parts} <= names
    assert {shard.fingerprint for shard in plan.completion_shards()} <= names
    assert {plans.recipe_of(job.key) for job in plan.evaluations} <= names

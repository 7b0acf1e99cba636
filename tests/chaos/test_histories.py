"""Histories: jobs, repairs and prunes work on one run while bits flip: no acknowledged commit is lost or changed.

Real threads are the clients, and any of them can be a zombie: it falls asleep before or after any operation of the
store and wakes when the others have moved on (`zombies.py`). Some jobs work without the run's lock, as one does that
was taken for dead, so repairs and prunes happen in the middle of their work. Each create is recorded with its answer.
At the end every create that was acknowledged is in the store byte for byte, unless this test damaged it or a repair
voided it and a prune deleted it; no key that counts was acknowledged twice; no paths were selected by the verdicts of
other samples; and one more job, after one more repair, completes the run.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from rft_ray.cli.store import main
from rft_ray.sampling import sampler as sampler_module
from rft_ray.store import StoreError, names, open_store, parquet, read_table, run_lock
from rft_ray.store.backends import faults
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import commit_model
from rft_ray.store.parquet import content_hash
from rft_ray.store.run_lock import RunLocked
from rft_ray.store.shards import committed_keys, missing_shards
from rft_ray.store.tables import identity, made_from, noted
from tests.chaos.small_run import CORPUS, JOBS, outcome, run, sampler
from tests.chaos.test_repair import Moody
from tests.chaos.zombies import Sleeps, recording, sleeping

SECONDS, AT_MOST_S, EACH = 10.0, 120.0, 3
"""The clients work for so long, and on until each has ended so often, within a bound."""
TAKEN_FOR_DEAD, AIMED = 0.9, 0.8
"""Part of the jobs that work without the lock, and of the flips that hit what a sleeping thread has read."""


@dataclass
class History:
    """What the clients did. Example: History() with `acknowledged` {"corpus/5f….parquet": [b"…"]}"""

    acknowledged: dict[str, list[bytes]] = field(default_factory=dict)
    """Key -> the content of each create that was acknowledged."""
    damaged: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def record(self, key: str, data: bytes) -> None:
        with self.guard:
            self.acknowledged.setdefault(key, []).append(data)


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> History:
    """The history of all creates in this process. Each engine draws other samples, so those of two jobs differ."""
    kept, opened = History(), itertools.count()
    create, create_file = LocalStore.create, LocalStore.create_file
    monkeypatch.setattr(sampler_module, "open_engine", lambda *_, seed, **__: Moody(seed, next(opened)))

    def recorded(self: LocalStore, key: str, data: bytes) -> bool:
        committed = create(self, key, data)
        if committed:
            kept.record(key, data)
        return committed

    def recorded_file(self: LocalStore, key: str, path: Path) -> bool:
        committed = create_file(self, key, path)
        if committed:
            kept.record(key, path.read_bytes())
        return committed

    monkeypatch.setattr(LocalStore, "create", recorded)
    monkeypatch.setattr(LocalStore, "create_file", recorded_file)
    return kept


@pytest.fixture
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield f"{folder}/run"


def job(url: str, rng: random.Random) -> None:
    """The run, and a training of its corpus; under the lock, or without it as a job that was taken for dead."""
    dead = rng.random() < TAKEN_FOR_DEAD
    with nullcontext() if dead else run_lock.run_lock(open_store(url), "job"):
        run(url)
        train(url, rng)


def train(url: str, rng: random.Random) -> None:
    """Commit a model. Jobs that do so within the same second commit other weights under the same name."""
    store, fingerprint = open_store(url), f"{int(time.monotonic()):016x}"
    corpus = identity(read_table(store, CORPUS.key)[0])
    with tempfile.TemporaryDirectory() as folder:
        weights = save({"weight": np.full(4, rng.random(), np.float32)})
        for name, content in (("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", weights)):
            Path(folder, name).write_bytes(content)
        commit_model(store, fingerprint, Path(folder), noted({names.split(CORPUS.key)[0]: corpus}))


def repair(url: str, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, 0.1))  # the jobs find the lock free now and then
    done(main(["verify", "--repair", "--yes", url]))


def prune(url: str, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, 0.3))
    done(main(["prune", "--yes", url]))


def done(code: int) -> None:
    """Raises RunLocked where a command was refused."""
    assert code in (0, 1, 2), code
    if code == 2:
        raise RunLocked("refused, or a file was damaged")


def flip(url: str, rng: random.Random, history: History, sleeps: Sleeps) -> None:
    """Flip a bit of a table, often of one that a thread has read which sleeps before it commits what it made of it."""
    until, aims = time.monotonic() + rng.uniform(0.1, 0.5), set[str]()
    aimed = rng.random() < AIMED
    while time.monotonic() < until and not aims:
        aims = {key for key in sleeps.about_to_commit.copy().values() if aimed and key.startswith("completions/")}
        time.sleep(0.002)
    stages = ("completions/", "verdicts/", "paths/", "corpus/")[: rng.choice((1, 4))]
    tables = aims or {key for key in open_store(url).list() if key.endswith(".parquet") and key.startswith(stages)}
    if tables:
        damage(url, rng.choice(sorted(tables)), rng, history)
    time.sleep(rng.uniform(0.1, 0.3))


def damage(url: str, key: str, rng: random.Random, history: History) -> None:
    """Flip a bit of a file."""
    history.damaged.add(key)
    data = bytearray(Path(url, key).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    Path(url, key).write_bytes(data)


def client(history: History, name: str, act: Callable[[], None], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            act()
            history.done[name] += 1
        except RunLocked:
            history.done[f"{name}, locked"] += 1
            time.sleep(0.02)
        except BaseException as error:
            if isinstance(error, StoreError | FileNotFoundError) or isinstance(error.__cause__, StoreError):
                history.done[f"{name}, {type(error).__name__}"] += 1  # it met a damaged or deleted file
                time.sleep(0.02)
            else:
                history.unexpected.append(f"{name}: {type(error).__name__}: {error}")


def fewest(history: History) -> int:
    """How often the client that ended least often did its work."""
    return min(history.done[name] for name in ("job", "repair", "prune", "flip"))


def work(url: str, seed: int, history: History, sleeps: Sleeps) -> None:
    """Let the clients work on a run at once."""
    stop, clients = threading.Event(), []
    acts = [("job", job), ("job", job), ("job", job), ("repair", repair), ("prune", prune)]
    acts.append(("flip", lambda url, rng: flip(url, rng, history, sleeps)))
    for number, (name, act) in enumerate(acts):
        rng = random.Random(f"{seed} {number}")
        given = (history, name, lambda act=act, rng=rng: act(url, rng), stop)  # type: ignore[misc]
        clients.append(threading.Thread(target=client, args=given, name=name))
    sleeps.on.set()
    for thread in clients:
        thread.start()
    began = time.monotonic()
    while (passed_s := time.monotonic() - began) < SECONDS or (fewest(history) < EACH and passed_s < AT_MOST_S):
        time.sleep(0.1)
    stop.set()
    for thread in clients:
        thread.join(60)
    sleeps.on.clear()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
def test_no_acknowledged_commit_is_lost_changed_or_twice(seed: int, url: str, history: History) -> None:
    with sleeping(seed) as sleeps:
        run(url)
        work(url, seed, history, sleeps)
    assert history.unexpected == []
    assert fewest(history) >= EACH, history.done
    assert {"before create", "after create", "before read", "after list"} <= set(sleeps.places), sleeps.places
    check_commits(url, history)
    check_paths(history)
    complete(url)


@pytest.mark.parametrize("stage", ["verdicts/", "paths/", "corpus/"])
def test_a_job_that_wakes_after_its_samples_were_voided_mixes_nothing(stage: str, url: str, history: History) -> None:
    """It sleeps before a commit; the completions that it read are damaged, void, and sampled again; it goes on."""
    with recording() as whats:
        run(f"{url}-free")
    places = [number for number, what in enumerate(whats) if what.startswith(f"create {stage}")]
    number = places[len(places) // 2]
    completions = next(what for what in whats[number::-1] if what.startswith("read completions/"))
    history.acknowledged.clear()
    zombie(url, number + 1, completions.removeprefix("read "), history)
    check_commits(url, history)
    check_paths(history)
    complete(url)


def zombie(url: str, number: int, completions: str, history: History) -> None:
    """A job that sleeps before its operation `number` while a repair voids `completions` and others sample them."""
    with faults.injected(f"{number}:before:pause") as injection:
        thread = threading.Thread(target=client, args=(history, "zombie", lambda: run(url), Once()))
        thread.start()
        assert injection.paused.wait(60)
    store = open_store(url)
    damage(url, completions, random.Random(number), history)
    main(["verify", "--repair", "--yes", url])
    for verdicts in JOBS:
        for shard in missing_shards(store, verdicts.sampling.shards()):
            sampler(store, verdicts.sampling)(shard)
    injection.resume()
    thread.join(60)
    assert history.unexpected == []


class Once(threading.Event):
    """Stops a client after its first piece of work."""

    def is_set(self) -> bool:
        first, self._first = getattr(self, "_first", True), False
        return not first


def complete(url: str) -> None:
    """Repair the run and complete it: every sample is there once, and every verdict is of the committed sample."""
    for _ in range(3):  # what is made again can have other rows than a zombie has read
        main(["verify", "--repair", "--yes", url])
        run(url)
    assert main(["verify", url]) == 0
    assert (outcome(url).lost, outcome(url).duplicated, outcome(url).phantom) == (0, 0, 0)
    check_verdicts(url)


def check_commits(url: str, history: History) -> None:
    """Every acknowledged create is in the store as it was written, once."""
    store = open_store(url)
    void = names.void_generations(store.list())
    for key, contents in history.acknowledged.items():
        if names.split(key)[:2] in void:
            continue  # a zombie may commit it again after a prune has deleted it
        assert len(contents) == 1 or key.startswith(".probe/"), f"{key} was acknowledged {len(contents)} times"
        if store.exists(key):
            assert store.read(key) == contents[0] or key in history.damaged, f"{key} was changed"
        else:
            assert key.startswith(".probe/"), f"{key} is lost"


def check_paths(history: History) -> None:
    """Paths were selected from samples by the verdicts of these samples, in every commit, also of those void now."""
    tables = [
        (key, *parquet.decode(data))
        for key, contents in history.acknowledged.items()
        if key.endswith(".parquet")
        for data in contents
    ]
    graded = {
        (names.split(key)[0], identity(table), about["completions"][:16])
        for key, table, about in tables
        if key.startswith("verdicts/")
    }
    for key, _, about in tables:
        sources = made_from(about) if key.startswith("paths/") else {}
        samples = {content for stem, content in sources.items() if stem.startswith("completions/")}
        for stem, content in sources.items():
            if stem.startswith("verdicts/"):
                assert any((stem, content, sample) in graded for sample in samples), f"{key}: {json.dumps(sources)}"


def check_verdicts(url: str) -> None:
    store = open_store(url)
    for verdicts in JOBS:
        for shard in verdicts.shards():
            completions = replace(shard, stage="completions", fingerprint=verdicts.sampling.fingerprint)
            content = content_hash(read_table(store, committed_keys(store, [completions])[completions.stem])[0])
            assert read_table(store, committed_keys(store, [shard])[shard.stem])[1]["completions"] == content

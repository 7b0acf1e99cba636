"""Histories: jobs, repairs and prunes work on one run while bits flip: no acknowledged commit is lost or changed.

Real threads are the clients. Each create of theirs is recorded with its answer. At the end every create that was
acknowledged is in the store byte for byte, unless this test damaged it or a repair voided it and a prune deleted it; no
key was acknowledged twice; and one more job, after one more repair, completes the run.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.sampling import sampler as sampler_module
from rft_ray.store import StoreError, names, open_store, read_table, run_lock
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.parquet import content_hash
from rft_ray.store.run_lock import RunLocked
from rft_ray.store.shards import committed_key
from tests.chaos.small_run import JOBS, outcome, run
from tests.chaos.test_repair import Moody

SECONDS, AT_MOST_S, EACH = 10.0, 120.0, 3
"""The clients work for so long, and on until each has ended so often, within a bound."""
STAGES, ASLEEP = ("completions/", "verdicts/"), 0.1
"""Part of the commits of these stages that come late."""


@dataclass
class History:
    """What the clients did. Example: History() with `acknowledged` {"corpus/5f….parquet": b"…"}"""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def record(self, key: str, data: bytes) -> None:
        with self.guard:
            if key in self.acknowledged:
                self.twice.append(key)
            self.acknowledged[key] = data


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> History:
    """The history of all creates in this process.

    Each engine draws other samples, so the samples of two jobs differ. Some writers sleep before their commit, so that
    they are zombies when they wake: others have committed, or graded, the shard meanwhile.
    """
    kept, create, rng, opened = History(), LocalStore.create, random.Random(7), itertools.count()
    monkeypatch.setattr(sampler_module, "open_engine", lambda *_, seed, **__: Moody(seed, next(opened)))

    def recorded(self: LocalStore, key: str, data: bytes) -> bool:
        if key.startswith(STAGES) and rng.random() < ASLEEP:
            time.sleep(rng.uniform(0.2, 1.0))
        committed = create(self, key, data)
        if committed:
            kept.record(key, data)
        return committed

    monkeypatch.setattr(LocalStore, "create", recorded)
    return kept


def job(url: str, rng: random.Random) -> None:
    with run_lock.run_lock(open_store(url), "job"):
        time.sleep(rng.uniform(0, 0.05))
        run(url)


def repair(url: str, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, 0.3))  # the jobs find the lock free now and then
    code = main(["verify", "--repair", "--yes", url])
    assert code in (0, 1, 2), code


def prune(url: str, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, 0.3))
    assert main(["prune", "--yes", url]) in (0, 2)


def flip(url: str, rng: random.Random, history: History) -> None:
    """Flip a bit of a file that counts."""
    files = sorted(
        key for key in open_store(url).list() if key.endswith(".parquet") and not key.startswith("problems/")
    )
    if files:
        path = Path(url, key := rng.choice(files))
        history.damaged.add(key)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    time.sleep(rng.uniform(0.3, 0.8))


def client(history: History, name: str, act: Callable[[], None], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            act()
            history.done[name] += 1
        except RunLocked:
            history.done[f"{name}, locked"] += 1
            time.sleep(0.02)
        except (StoreError, FileNotFoundError) as error:  # it met a damaged or deleted file
            history.done[f"{name}, {type(error).__name__}"] += 1
        except BaseException as error:
            history.unexpected.append(f"{name}: {type(error).__name__}: {error}")


def fewest(history: History) -> int:
    """How often the client that ended least often did its work."""
    return min(history.done[name] for name in ("job", "repair", "prune", "flip"))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_no_acknowledged_commit_is_lost_changed_or_twice(seed: int, tmp_path: Path, history: History) -> None:
    url = str(tmp_path / "run")
    run(url)
    stop, clients = threading.Event(), []
    for number, (name, act) in enumerate([("job", job), ("job", job), ("repair", repair), ("prune", prune)]):
        rng = random.Random(f"{seed} {number}")
        given = (history, name, lambda act=act, rng=rng: act(url, rng), stop)  # type: ignore[misc]
        clients.append(threading.Thread(target=client, args=given))
    rng = random.Random(f"{seed} flips")
    clients.append(threading.Thread(target=client, args=(history, "flip", lambda: flip(url, rng, history), stop)))
    for thread in clients:
        thread.start()
    began = time.monotonic()
    while (passed_s := time.monotonic() - began) < SECONDS or (fewest(history) < EACH and passed_s < AT_MOST_S):
        time.sleep(0.1)
    stop.set()
    for thread in clients:
        thread.join(60)
    assert history.unexpected == []
    assert history.twice == []
    assert fewest(history) >= EACH, history.done
    store = open_store(url)
    void = names.void_generations(store.list())
    for key, data in history.acknowledged.items():
        if store.exists(key):
            assert store.read(key) == data or key in history.damaged, f"{key} was changed"
        else:
            assert names.split(key)[:2] in void or key.startswith(".probe/"), f"{key} is lost"
    for _ in range(3):  # a repair voids; the job makes again
        if main(["verify", "--repair", "--yes", url]) == 0:
            break
        run(url)
    run(url)
    assert main(["verify", url]) == 0
    assert (outcome(url).lost, outcome(url).duplicated, outcome(url).phantom) == (0, 0, 0)
    for verdicts in JOBS:  # each verdict is of the committed sample, not of a loser's
        for shard in verdicts.shards():
            completions = replace(shard, stage="completions", fingerprint=verdicts.sampling.fingerprint)
            content = content_hash(read_table(store, committed_key(store, completions) or "")[0])
            assert read_table(store, committed_key(store, shard) or "")[1]["completions"] == content

"""A concurrent reader sees only whole shards, and never fewer, in any interleaving of writers, deaths and zombies."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from rft_ray.store import Store, StoreError, commit_table, open_store, read_table
from rft_ray.store.backends import faults
from rft_ray.store.names import committed_files
from rft_ray.store.shards import Shard, key_to_write

SHARDS = [Shard("completions", "p", "f", block, block, block + 1, 0) for block in range(3)]
writers = st.integers(0, 3)
shards = st.integers(0, len(SHARDS) - 1)
endings = st.sampled_from(["", "1:before:die", "1:after:error", "2:before:die", "2:after:die", "2:after:error"])


class Writers(RuleBasedStateMachine):
    """The model: the content of the first whole commit of each shard."""

    zombies = Bundle("zombies")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rft-property-")
        self.committed: dict[str, int] = {}
        self.attempts = 0

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    def write(self, store: Store, key: str | None, attempt: int) -> None:
        if key is not None:
            receipt = commit_table(store, key, pa.table({"attempt": [attempt] * 50}), {})
            if receipt.committed_here:
                assert self.committed.setdefault(key, attempt) == attempt

    @rule(shard=shards, plan=endings)
    def work(self, shard: int, plan: str) -> None:
        """A writer that may fail around any of its operations. Only the reader checks its results."""
        self.attempts += 1
        with faults.injected(plan):
            store = open_store(self.folder)
            try:
                key = key_to_write(store, SHARDS[shard])
                self.write(store, key, self.attempts)
            except (StoreError, faults.Died):
                self.learn(SHARDS[shard], self.attempts)

    def learn(self, shard: Shard, attempt: int) -> None:
        """After a writer's death, look up in the store whether it had committed."""
        plain = open_store(self.folder)
        key = shard.key(0)
        if key not in self.committed and (Path(self.folder) / key).exists():
            assert read_table(plain, key)[0].column("attempt")[0].as_py() == attempt
            self.committed[key] = attempt

    @rule(target=zombies, shard=shards)
    def pause(self, shard: int) -> tuple[str | None, int]:
        """Pause a writer that has checked whether its shard is missing."""
        self.attempts += 1
        return key_to_write(open_store(self.folder), SHARDS[shard]), self.attempts

    @rule(zombie=zombies)
    def resume(self, zombie: tuple[str | None, int]) -> None:
        """Resume a paused writer, possibly twice, like a retried task."""
        self.write(open_store(self.folder), *zombie)

    @rule(shard=shards, count=st.integers(2, 4))
    def race(self, shard: int, count: int) -> None:
        """Several writers at once."""
        store, barrier, won = open_store(self.folder), threading.Barrier(count), []
        first, self.attempts = self.attempts + 1, self.attempts + count

        def write(attempt: int) -> None:
            key = key_to_write(store, SHARDS[shard])
            barrier.wait(20)
            if key and commit_table(store, key, pa.table({"attempt": [attempt] * 50}), {}).committed_here:
                won.append((key, attempt))

        threads = [threading.Thread(target=write, args=(first + i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == (0 if SHARDS[shard].key(0) in self.committed else 1)
        self.committed.update(won)

    @invariant()
    def the_reader_sees_whole_shards_and_ever_more(self) -> None:
        store = open_store(self.folder)
        seen = {}
        for key in committed_files(store.list("completions/")).values():
            column = read_table(store, key)[0].column("attempt").to_pylist()
            assert len(column) == 50
            assert len(set(column)) == 1
            seen[key] = column[0]
        assert seen == self.committed


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_concurrent_reader_sees_whole_shards_and_never_fewer_than_before(tmp_path: Path) -> None:
    """The same with real threads: writers compete for every shard while one reader lists and reads."""
    url, stop, seen = str(tmp_path), threading.Event(), [set[str]()]
    failures: list[str] = []

    def read() -> None:
        store = open_store(url)
        while not stop.is_set():
            now = set(store.list("completions/"))
            if not seen[-1] <= now:
                failures.append(f"gone: {seen[-1] - now}")
            for key in now - seen[-1]:
                if len(set(read_table(store, key)[0].column("attempt").to_pylist())) != 1:
                    failures.append(key)
            seen.append(now)

    def write(writer: int) -> None:
        store = open_store(url)
        for block in range(40):
            shard = Shard("completions", "p", "f", block, block, block + 1, 0)
            if key := key_to_write(store, shard):
                commit_table(store, key, pa.table({"attempt": [writer] * 2000}), {})

    reader = threading.Thread(target=read)
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    reader.join(60)
    assert not failures
    assert len({len(keys) for keys in seen}) > 2, "the reader never saw the run in between"
    assert len(list(open_store(url).list("completions/"))) == 40

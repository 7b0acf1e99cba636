"""Tables are kept through an outage of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rft_ray.store import Store, open_store, outages, tables
from rft_ray.store.base import StoreUnreachable


class Outage:
    """A local store whose creates fail as an unreachable one's for a number of times."""

    def __init__(self, store: Store, failures: int) -> None:
        self._store, self.failures, self.url = store, failures, store.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> bool:
        self.failures -= 1
        if self.failures >= 0:
            raise StoreUnreachable("S3 is out of reach")
        return self._store.create(key, data)


@pytest.mark.parametrize(("failures", "committed"), [(3, True), (10_000, False)])
def test_a_sampled_table_is_kept_through_an_outage_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, committed: bool
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_S", 1.0)
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.01)
    store: Any = Outage(open_store(str(tmp_path)), failures)
    table = pa.table({"problem_id": ["a"]})
    if committed:
        assert tables.commit_through_outages(store, "a.g0.parquet", table, {}).committed_here
    else:
        with pytest.raises(StoreUnreachable):
            tables.commit_through_outages(store, "a.g0.parquet", table, {})
    assert store.exists("a.g0.parquet") == committed

"""Verdicts count for the completions that they were made from, and for no others of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.corpus.graded import read_graded, read_verdicts, verified_blocks
from rft_ray.corpus.selector import Selector
from rft_ray.grading.spec import VerifierSpec
from rft_ray.store import StoreError, open_store, read_table
from rft_ray.store.parquet import encode
from rft_ray.store.shards import committed_keys
from tests.chaos.small_run import JOBS, PATHS, run


def test_verdicts_on_other_completions_than_the_committed_ones_are_refused(tmp_path: Path) -> None:
    """As when a second writer's samples were graded, and the first one's are committed."""
    run(str(tmp_path))
    store, job = open_store(str(tmp_path)), JOBS[0]
    sampled, graded = next(zip(job.sampling.shards(), job.shards(), strict=True))
    assert len(read_graded(store, job, graded)) > 0
    key = committed_keys(store, [sampled])[sampled.stem]
    assert key
    table, metadata = read_table(store, key)
    column = table.column_names.index("text")
    others = table.set_column(column, "text", [[f"{text} again" for text in table["text"].to_pylist()]])
    Path(store.url, key).write_bytes(encode(others, {k: v for k, v in metadata.items() if not k.startswith("store.")}))
    with pytest.raises(StoreError, match="its verdicts were made for other completions"):
        read_graded(store, job, graded)
    with pytest.raises(StoreError, match="its verdicts were made for other completions"):
        list(read_verdicts(store, job))
    for path in Path(store.url, "paths").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(StoreError, match="its verdicts were made for other completions"):
        Selector(store, [PATHS])(PATHS.shards()[0])


def test_verdicts_that_a_run_has_not_are_named(tmp_path: Path) -> None:
    """As where `rft-ray pairs --unread reject` asks for others than those that the run was graded to."""
    with pytest.raises(StoreError, match=r"has no strict or paper \(unread=reject\) verdicts on training problems"):
        verified_blocks(open_store(str(tmp_path)), None, [], VerifierSpec(unread="reject"))

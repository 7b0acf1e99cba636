"""A run's directory on local disk or S3: create-only commits of immutable files, and the tables in them.

python -m rft_ray.store ls|du|verify|prune URL
"""

from rft_ray.store.base import CorruptShard, NotFound, Store, StoreError
from rft_ray.store.opening import open_store
from rft_ray.store.runs import NotARun, mark_run, open_run
from rft_ray.store.tables import Receipt, commit_table, present, read_table, writable

__all__ = [
    "CorruptShard", "NotARun", "NotFound", "Receipt", "Store", "StoreError", "commit_table", "mark_run", "open_run",
    "open_store", "present", "read_table", "writable",
]  # fmt: skip

"""A run's directory on local disk or S3: create-only commits of immutable files, and the tables in them.

python -m rft_ray.store ls|du|verify|prune URL
"""

from rft_ray.store.base import CorruptShard, NotFound, Store, StoreError
from rft_ray.store.opening import open_store
from rft_ray.store.tables import Receipt, commit_table, present, read_table, writable

__all__ = [
    "CorruptShard", "NotFound", "Receipt", "Store", "StoreError", "commit_table", "open_store", "present",
    "read_table", "writable",
]  # fmt: skip

"""URL -> store: the one place that chooses a back end. Every job opens its store here, and hands it to its workers."""

from __future__ import annotations

import re

from rft_ray.store.backends import faults
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import Store, StoreError

_ONE_SLASH = re.compile(r"[a-z][a-z0-9]+:/(?!/)")
"""A URL that a program has taken for a path, whose double slashes are one: a folder `s3:` would be made here."""


def open_store(url: str) -> Store:
    """The store at a local path or `s3://bucket/prefix`. Touches neither disk nor network.

    S3's endpoint, region and credentials come from the usual AWS variables and files of the process that uses the
    store: Ray workers need them as well as the driver. With RFT_STORE_FAULTS set, operations fail as planned there: see
    `backends/faults.py`. Raises StoreError for a URL of another kind.
    """
    return faults.wrap(plain_store(url))


def plain_store(url: str) -> Store:
    """As `open_store`, without the faults that RFT_STORE_FAULTS plans."""
    if not url:
        raise StoreError("the store's address is empty: give a local path or s3://bucket/prefix")
    if _ONE_SLASH.match(url):
        raise StoreError(f"{url}: write two slashes, as in s3://bucket/prefix; a local path as /folder or ./folder")
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "s3":
        from rft_ray.store.backends.s3 import S3Store

        return S3Store(url)
    if separator and scheme != "file":
        raise StoreError(f"cannot open a store of kind {scheme}://: give a local path or s3://bucket/prefix")
    return LocalStore(url.removeprefix("file://"))

"""What a committed file was made from: for every file read, its stem and the identity of its content.

Recorded in the metadata of what was made (`made_from`), so that a whole run can be checked link by link: see
`repair.py`. An identity is that of the rows, so a file that was made anew with the same rows is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from rft_ray.parquet import content_hash

MADE_FROM = "made_from"


def identity(table: pa.Table) -> str:
    """16 hex digits that tell a table's rows from others."""
    return content_hash(table)[:16]


def noted(read: Mapping[str, str]) -> dict[str, str]:
    """Metadata that records what was read: stem -> identity."""
    return {MADE_FROM: json.dumps({stem: content[:16] for stem, content in sorted(read.items())})}


def made_from(metadata: Mapping[str, str]) -> dict[str, str]:
    """What `noted` recorded; empty where nothing is."""
    return dict(json.loads(metadata.get(MADE_FROM, "{}")))

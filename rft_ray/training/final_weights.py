"""The commit of a finished model by several ranks: each hashes and uploads a part of its files.

In: the folder that rank 0 has exported. Out: a committed model. The ranks on rank 0's node see the folder and share the
work; the others wait. The manifest is written last, by rank 0.

Limits: the ranks of other nodes do not upload, since only rank 0 has the whole weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft_ray.store.models import committed
from rft_ray.training.agreement import from_rank_0, together
from rft_ray.training.trainer import Group

UNSTORED = "the model could not be stored"


def commit(group: Group, fingerprint: str, folder: Path, metadata: dict[str, Any]) -> None:
    """Commit the model in rank 0's `folder`, with rank 0's metadata, unless another commit was first.

    All ranks call this. Raises ModelError where the model is not whole, and SavingError where a rank fails.
    """

    def what_to_do() -> tuple[str, dict[str, int]] | None:
        names = committed.names_to_commit(group.store, fingerprint, folder)
        return None if names is None else (str(folder), {name: (folder / name).stat().st_size for name in names})

    work = from_rank_0(group, what_to_do)
    if work is None:
        return
    source, sizes = Path(work[0]), work[1]
    parts = divided(sizes, group.workers_of_node) if group.node_rank == 0 else []
    own = parts[group.local_rank] if parts else []
    hashed = together(group, UNSTORED, lambda: committed.entries(source, own))
    files = {name: entry for part in hashed for name, entry in part.items()}
    manifest = committed.manifest_of(fingerprint, {name: files[name] for name in sizes}, metadata)
    together(group, UNSTORED, lambda: committed.upload_files(group.store, manifest, source, own))
    if group.rank == 0:
        committed.commit_manifest(group.store, manifest)


def divided(sizes: Mapping[str, int], workers: int) -> list[list[str]]:
    """Names for each of `workers` workers, of about equal bytes: the largest file first, to who has least."""
    parts: list[list[str]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        parts[least].append(name)
        loads[least] += sizes[name]
    return parts

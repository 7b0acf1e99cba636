"""Generations of one file: what a tombstone does to a store's listing. Pure names.

A committed file is never altered. One that is void (corrupt, or made from what is) gets a create-only record beside it,
`<stem>.g<generation>.tombstone`; what is made in its place is of the next generation. A shard's key says its generation
(`…/41ab.s00003.g1.parquet`); the key of a file of the whole run says so from the first remake on
(`corpus/5f0c.parquet`, then `corpus/5f0c.g1.parquet`). A tombstone voids every file of its stem and generation.
"""

from __future__ import annotations

from collections.abc import Iterable

TOMBSTONE = "tombstone"


def split(key: str) -> tuple[str, int, str]:
    """(stem, generation, ending): `a/b.g1.parquet` -> (`a/b`, 1, `parquet`), `a/b.json` -> (`a/b`, 0, `json`)."""
    folder, slash, name = key.rpartition("/")
    stem, _, rest = name.rpartition(".g")
    number, _, ending = rest.partition(".")
    if stem and number.isdigit() and ending:
        return folder + slash + stem, int(number), ending
    stem, _, ending = name.rpartition(".")
    return folder + slash + (stem or ending), 0, ending if stem else ""


def is_numbered(key: str) -> bool:
    """Whether the key says its generation: a shard's, or a remake's."""
    stem, generation, ending = split(key)
    return key == f"{stem}.g{generation}.{ending}"


def tombstone(key: str) -> str:
    """Key of the record that voids the file under `key`."""
    stem, generation, _ = split(key)
    return f"{stem}.g{generation}.{TOMBSTONE}"


def living(keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """(stem, ending) -> key of the file that counts: the first generation that no tombstone voids."""
    parts = [(split(key), key) for key in keys]
    void = {(stem, generation) for (stem, generation, ending), _ in parts if ending == TOMBSTONE}
    alive: dict[tuple[str, str], tuple[int, str]] = {}
    for (stem, generation, ending), key in parts:
        if ending != TOMBSTONE and (stem, generation) not in void:
            alive[stem, ending] = min(alive.get((stem, ending), (generation, key)), (generation, key))
    return {name: key for name, (_, key) in alive.items()}


def to_write(key: str, keys: Iterable[str]) -> str:
    """Where the file that the unnumbered `key` names is to be made: past the newest tombstone among `keys`."""
    stem, _, ending = split(key)
    void = [g for s, g, e in map(split, keys) if s == stem and e == TOMBSTONE]
    return f"{stem}.g{max(void) + 1}.{ending}" if void else key

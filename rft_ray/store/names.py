"""Names in a store: fingerprints of recipes, and generations of one file. Pure.

A fingerprint names what a file should hold: the recipe (model files, data, prompt, settings, seed, upstream names,
stage version), never bytes that floating point decides. So every name is known before anything runs, results of changed
settings have other names, and a run that starts again finds what it has made.

A committed file is never altered. A file that must not count, because it is corrupt or made from a file that does not
count, is void: a create-only record next to it says so, `<stem>.g<generation>.tombstone`, and its replacement has the
next generation. A shard's key always holds the generation (`…/41ab.s00003.g1.parquet`); the key of a file of the whole
run holds it from generation 1 on (`corpus/5f0c.parquet`, then `corpus/5f0c.g1.parquet`). A tombstone voids every file
of its stem and generation.

A tombstone is taken back by another create-only record, `<stem>.g<generation>.restored`. Later records of both kinds
are numbered (`….tombstone.1`, `….restored.1`), and a generation is void while it has more tombstones than restorations.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

TOMBSTONE, RESTORED = "tombstone", "restored"

VERSIONS = {
    "problems": 1,
    "model": 1,
    "training": 1,
    "completions": 1,
    "verdicts": 2,
    "judgements": 1,
    "paths": 1,
    "corpus": 1,
    "evaluation": 1,
    "strict_rules": 5,
    "choice_rules": 3,
    "exact_rules": 2,
    "math_rules": 2,
    "python_rules": 2,
    "regex_rules": 2,
    "shots": 2,
}
"""Version of each stage, raised by hand when its meaning changes: results of the old one keep their names.

`strict_rules` is no stage: it is the version of what strict mode reads as answers and equations, and enters the names
of the files that these rules decide (`plan/jobs.py`). Paper mode's names never hold it. `choice_rules`, `exact_rules`,
`math_rules`, `python_rules` and `regex_rules` are the same for what the verifier of this name accepts: each enters the
names of this verifier's verdicts alone.

`shots` is none either: it is the version of which worked examples a problem is shown that is among them
(`data/prompts.py`), and enters the names of all samples of a model that is shown examples.
"""
FIRST_STRICT_RULES = FIRST_VERIFIER_RULES = 1
"""The versions whose files have no version of the rules in their names."""
FIRST_SHOTS = 1
"""The version that shows a problem among the worked examples its own solution. It is in no name."""


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
    """Whether the key holds its generation: that of a shard does, and that of a replacement."""
    stem, generation, ending = split(key)
    return key == f"{stem}.g{generation}.{ending}"


def record_kind(key: str) -> str:
    """TOMBSTONE or RESTORED for a record that voids or restores files; empty for any other file."""
    kind = split(key)[2].partition(".")[0]
    return kind if kind in (TOMBSTONE, RESTORED) else ""


def tombstone(key: str, keys: Iterable[str] = ()) -> str:
    """Key of the next record that voids the file under `key`. `keys`: the keys of its stem, if it has records."""
    return _record(key, TOMBSTONE, keys)


def restoration(key: str, keys: Iterable[str]) -> str:
    """Key of the next record that takes back a tombstone of the file under `key`. `keys`: the keys of its stem."""
    return _record(key, RESTORED, keys)


def _record(key: str, kind: str, keys: Iterable[str]) -> str:
    stem, generation, _ = split(key)
    number = sum(split(other)[:2] == (stem, generation) and record_kind(other) == kind for other in keys)
    return f"{stem}.g{generation}.{kind}" + (f".{number}" if number else "")


def void_generations(keys: Iterable[str]) -> set[tuple[str, int]]:
    """(stem, generation) of the files that are void: those with more tombstones than restorations."""
    standing: Counter[tuple[str, int]] = Counter()
    for key in keys:
        if kind := record_kind(key):
            standing[split(key)[:2]] += 1 if kind == TOMBSTONE else -1
    return {name for name, count in standing.items() if count > 0}


def committed_files(keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """(stem, ending) -> key of the file that counts: the first generation that is not void."""
    keys = list(keys)
    void = void_generations(keys)
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for key in keys:
        stem, generation, ending = split(key)
        if (stem, generation) not in void and not record_kind(key):
            first[stem, ending] = min(first.get((stem, ending), (generation, key)), (generation, key))
    return {name: key for name, (_, key) in first.items()}


def next_generation(stem: str, keys: Iterable[str]) -> int:
    """Generation of a file that is to be written: one past the newest void generation of its stem among `keys`."""
    return max((generation for name, generation in void_generations(keys) if name == stem), default=-1) + 1


def key_past_tombstones(key: str, keys: Iterable[str]) -> str:
    """Key under which the file is written that `key` names without a generation: see `next_generation`."""
    stem, _, ending = split(key)
    generation = next_generation(stem, keys)
    return f"{stem}.g{generation}.{ending}" if generation else key


def fingerprint_of(stage: str, **recipe: Any) -> str:
    """16 hex digits that name a recipe: SHA-256 of its canonical JSON with the stage's version."""
    body = json.dumps([stage, VERSIONS[stage], recipe], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(body.encode()).hexdigest()[:16]

"""Distinct reasoning paths of one problem: correct texts -> representatives. Pure Python, no Ray.

Two paths are the same when their equation lists are equal. The representative of a list is chosen as in the
reference implementation of arXiv 2308.01825, in one pass in sampling order: the first path is kept;
a later one replaces it when the sum of its edit distances to all other kept paths (those whose text
differs from the kept one) is strictly larger than the kept one's.

Identical texts, equations and distances are computed once: near-linear in the number of samples at a
fixed number of distinct paths. Memory is that of one problem's distinct texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rft_ray.grading.equations import Equations, equations_of
from rft_ray.paths.normal_forms import NORMAL_FORMS, NormalForm, normalise
from rft_ray.paths.representatives import KeptPaths


@dataclass(frozen=True, slots=True)
class Representative:
    """One distinct path of a problem.

    Example: Representative(17, ("48/2=24", "48+24=72"), 4)
    """

    index: int
    """Position of its text among the texts given."""
    equations: tuple[str, ...]
    """Its equation list, in the normal form asked for."""
    shared_by: int
    """How many of the texts have this equation list, itself included."""


def equation_list(text: str, mode: str = "strict", normal_form: str = "as_written") -> tuple[str, ...]:
    """Equations of a text in order. Joined by `|`, the paper mode's list is the reference's key."""
    return normalise(equations_of(text, mode).listed, normal_form)


def select_distinct(texts: Sequence[str], mode: str = "strict", normal_form: str = "as_written") -> list[int]:
    """Indices of the representatives, in the order of the reference's output list.

    `texts` are the paths of one problem whose answer is right, in sampling order. A text with an
    equation that does not hold (or is over a bound) is skipped, as in the reference.
    """
    return [path.index for path in select(texts, mode, normal_form)]


def share_counts(texts: Sequence[str], mode: str = "strict", normal_form: str = "as_written") -> list[int]:
    """How many texts share each representative's equation list, in the order of `select_distinct`."""
    keys = (_key(equations_of(text, mode), normal_form) for text in texts)
    return list(Counter(key for key in keys if key is not None).values())


def distinct_counts(texts: Sequence[str], mode: str = "strict") -> dict[NormalForm, int]:
    """Number of distinct paths under every normal form."""
    read = [equations_of(text, mode) for text in dict.fromkeys(texts)]
    return {form: len({_key(listed, form) for listed in read} - {None}) for form in NORMAL_FORMS}


def _key(equations: Equations, normal_form: str) -> str | None:
    """The key that equal paths share (the reference's string in paper mode); None for a rejected path."""
    return "|".join(normalise(equations.listed, normal_form)) if equations.hold else None


def select(texts: Sequence[str], mode: str = "strict", normal_form: str = "as_written") -> list[Representative]:
    """The distinct paths of one problem, as `select_distinct`, with equations and counts."""
    chosen = select_by_key(texts, lambda text: _key(equations_of(text, mode), normal_form))
    return [Representative(index, equation_list(texts[index], mode, normal_form), count) for index, count in chosen]


def select_by_key(texts: Sequence[str], key_of: Callable[[str], str | None]) -> list[tuple[int, int]]:
    """(index, texts that share its key) of one text of each key, by the rule of `select`. Skips a text without key."""
    kept = KeptPaths()
    slots: dict[str, int] = {}
    slot_of_text: dict[str, int | None] = {}
    shared: list[int] = []
    for index, text in enumerate(texts):
        if text in slot_of_text:
            slot = slot_of_text[text]
        else:
            key = key_of(text)
            slot = None if key is None else slots.setdefault(key, len(slots))
            slot_of_text[text] = slot
        if slot is None:
            continue
        if slot == len(shared):
            kept.append(index, text)
            shared.append(0)
        else:
            kept.challenge(slot, index, text)
        shared[slot] += 1
    return list(zip(kept.indices, shared, strict=True))

"""The reasoning of a completion, between `<think>` and `</think>`: text -> the text that is graded. Pure, linear.

Reasoning is a draft, with false starts and several answers: neither answers nor equations are read from it. A text may
begin inside it, where the opening tag is the end of the prompt, and then has a closing tag only. A text whose reasoning
is not closed, as it is cut at the token limit, has nothing to grade.

A model's own chat template may end in the opening tag whatever the model learns: one that is fine-tuned on gold
solutions answers without closing it. So after such a template a text that ends by itself and closes nothing is an
answer, and one that is cut before it closes anything is a draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The tags of reasoning, and whether texts begin inside it.

    Example: Reasoning(("think",), True).removed("3 and 2?</think>3+2=5") is "3+2=5"
    """

    tags: tuple[str, ...]
    begins_inside: bool = False
    cut_inside: bool = False
    """Whether a text that is cut before a closing tag is a draft: the chat template ends in the opening tag."""

    @classmethod
    def after(cls, prompt: str, tags: Sequence[str], cut_inside: bool = False) -> Reasoning:
        """The reasoning of texts that follow this prompt, or this template of prompts."""
        end = prompt.rstrip()
        return cls(tuple(tags), any(end.endswith(f"<{tag}>") for tag in tags), cut_inside)

    def removed(self, text: str, *, cut: bool = False) -> str:
        """The text without its reasoning. `cut`: whether it was cut at the token limit."""
        inside = self.begins_inside or (self.cut_inside and cut)
        if not inside and not self._occurs(text):
            return text
        return "".join(text[start:stop] for start, stop in _outside(_pattern(self.tags), text, inside=inside))

    def blanked(self, text: str) -> str:
        """The text with a line break in place of each character of its reasoning and of its tags: positions stay.

        A text without a closing tag is taken to begin outside of reasoning, unless all texts begin inside it.
        """
        if not self.begins_inside and not self._occurs(text):
            return text
        return _blanked(text, _outside(_pattern(self.tags), text, inside=self.begins_inside))

    def _occurs(self, text: str) -> bool:
        return any(f"{tag}>" in text for tag in self.tags)


_DRAFT_WORDS = ("hink", "HINK", "hought", "HOUGHT", "cratchpad")
_DRAFT_TAG = re.compile(
    r"<(/?)(?i:think(?:ing)?|thought|scratchpad)>|\[(/?)THINK\]|◁(/?)think▷|<\|(?:begin|(end))_of_thought\|>"
)
"""The tags of drafts that strict mode leaves out of any text, whatever a configuration names."""
_LONGEST_TAG = 24
"""Characters of the longest of them, and more."""


def opens_draft(prompt: str) -> bool:
    """Whether the prompt ends in the opening tag of a draft."""
    end = prompt.rstrip()
    tags = _DRAFT_TAG.finditer(end, max(0, len(end) - _LONGEST_TAG))
    return any(tag.end() == len(end) and not any(tag.groups()) for tag in tags)


def closes_draft(text: str) -> bool:
    """Whether the text has the closing tag of a draft."""
    return any(any(tag.groups()) for tag in _DRAFT_TAG.finditer(text))


def without_drafts(text: str) -> str:
    """The text with a line break in place of each character of a draft and of its tags, so that positions stay."""
    if not any(word in text for word in _DRAFT_WORDS):
        return text
    return _blanked(text, _outside(_DRAFT_TAG, text))


def _outside(tags: re.Pattern[str], text: str, *, inside: bool = False) -> list[tuple[int, int]]:
    """Start and end of each part of the text outside of reasoning. `tags`: a closing tag has a group that is not empty.

    `inside`: whether the text begins inside reasoning.
    """
    kept: list[tuple[int, int]] = []
    start = 0
    for tag in tags.finditer(text):
        closes = any(tag.groups())
        if closes:  # outside of reasoning: the opening tag was in the prompt
            kept = kept if inside else []
        elif not inside:
            kept.append((start, tag.start()))
        inside, start = not closes, tag.end()
    return kept if inside else [*kept, (start, len(text))]


def _blanked(text: str, kept: Iterable[tuple[int, int]]) -> str:
    """The text with a line break in place of each character that is in none of the parts `kept`, which are in order."""
    shown, end = list[str](), 0
    for start, stop in kept:
        shown += ["\n" * (start - end), text[start:stop]]
        end = stop
    return "".join([*shown, "\n" * (len(text) - end)])


@lru_cache(maxsize=16)
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"<(/?)(?:{'|'.join(map(re.escape, tags))})>")

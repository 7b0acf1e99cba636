"""The reasoning of a completion, between `<think>` and `</think>`: text -> the text that is graded. Pure, linear.

Reasoning is a draft, with false starts and several answers: neither answers nor equations are read from it. A text may
begin inside it, where the opening tag is the end of the prompt, and then has a closing tag only. A text whose reasoning
is not closed, as it is cut at the token limit, has nothing to grade.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The tags of reasoning, and whether texts begin inside it.

    Example: Reasoning(("think",), True).removed("3 and 2?</think>3+2=5") is "3+2=5"
    """

    tags: tuple[str, ...]
    begins_inside: bool = False

    @classmethod
    def after(cls, prompt: str, tags: Sequence[str]) -> Reasoning:
        """The reasoning of texts that follow this prompt, or this template of prompts."""
        end = prompt.rstrip()
        return cls(tuple(tags), any(end.endswith(f"<{tag}>") for tag in tags))

    def removed(self, text: str) -> str:
        """The text without its reasoning."""
        if not self.begins_inside and not any(f"{tag}>" in text for tag in self.tags):
            return text
        kept: list[str] = []
        inside, start = self.begins_inside, 0
        for tag in _pattern(self.tags).finditer(text):
            if tag[1]:  # of a closing tag outside of reasoning, the opening one was in the prompt
                kept = kept if inside else []
            elif not inside:
                kept.append(text[start : tag.start()])
            inside, start = not tag[1], tag.end()
        return "".join(kept) if inside else "".join([*kept, text[start:]])


_DRAFT_WORDS = ("hink", "HINK", "hought", "HOUGHT", "cratchpad")
_DRAFT_TAG = re.compile(
    r"<(/?)(?i:think(?:ing)?|thought|scratchpad)>|\[(/?)THINK\]|◁(/?)think▷|<\|(?:begin|(end))_of_thought\|>"
)
"""The tags of drafts that strict mode leaves out of any text, whatever a configuration names."""


def without_drafts(text: str) -> str:
    """The text with a line break in place of each character of a draft and of its tags, so that positions stay."""
    if not any(word in text for word in _DRAFT_WORDS):
        return text
    shown: list[str] = []
    inside, start, hidden = False, 0, 0
    for tag in _DRAFT_TAG.finditer(text):
        closes = any(tag.groups())
        if closes and not inside:  # the opening one was in the prompt
            shown, hidden = [], tag.end()
        else:
            shown.append("\n" * (tag.start() - start) if inside else text[start : tag.start()])
            shown.append("\n" * (tag.end() - tag.start()))
        inside, start = not closes, tag.end()
    return "".join(["\n" * hidden, *shown, "\n" * (len(text) - start) if inside else text[start:]])


@lru_cache(maxsize=16)
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"<(/?)(?:{'|'.join(map(re.escape, tags))})>")

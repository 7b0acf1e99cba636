"""Numbers and names formatted for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rft_ray.records import Status

SETTINGS = {
    "icl": "In context",
    "base": "Base",
    "sft": "SFT",
    "sft_same_steps": "SFT, as many steps",
    "rft_self": "RFT, own paths",
    "rft": "RFT",
}
"""Evaluation settings and their names, in the order of the page."""
SETTING_COLOURS = {
    "In context": "var(--sand)",
    "Base": "var(--rose)",
    "SFT": "var(--quiet)",
    "SFT, as many steps": "var(--plum)",
    "RFT, own paths": "var(--warm)",
    "RFT": "var(--accent)",
}
STATUSES = {
    Status.CORRECT: "accepted",
    Status.WRONG_ANSWER: "wrong answer",
    Status.BAD_EQUATION: "false equation",
    Status.NO_ANSWER: "no answer",
    Status.TRUNCATED: "cut at the token limit",
    Status.UNDECIDED: "undecided",
}
STATUS_COLOURS = {
    "accepted": "var(--accent)",
    "wrong answer": "var(--quiet)",
    "false equation": "var(--warm)",
    "no answer": "var(--sand)",
    "cut at the token limit": "var(--rose)",
    "undecided": "var(--plum)",
}


class Estimated(Protocol):
    """A figure with its 95 % interval: a `Metric`, a `Difference` or the `Estimate` of a study."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def percent(share: float) -> str:
    """Example: `35.0 %`, with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def whole_percent(share: float) -> str:
    """Example: `35 %`."""
    return f"{100 * share:.0f}\u00a0%"


def interval(metric: Estimated) -> str:
    """Example: `[29.8, 40.6]`, in percent."""
    return f"[{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def points(difference: Estimated) -> str:
    """Example: `+7.7 points [+2.6, +12.7]`."""
    value, low, high = (100 * share for share in (difference.value, difference.low, difference.high))
    return signed(f"{value:+.1f} points [{low:+.1f},\u00a0{high:+.1f}]")


def signed(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """Example: `10 min 10 s`."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def several(count: int, thing: str, things: str = "") -> str:
    """Example: `1 problem`, `1,234 problems`."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def listed(names: Sequence[str]) -> str:
    """Example: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def setting_name(setting: str) -> str:
    return SETTINGS.get(setting, setting.replace("_", " "))


def setting_order(settings: Sequence[str]) -> list[str]:
    """Known settings in the order of SETTINGS, then the others."""
    known = [name for name in SETTINGS if name in settings]
    return [*known, *(name for name in settings if name not in SETTINGS)]


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour of the page for each model."""
    return {name: f"var(--s{at % 8 + 1})" for at, name in enumerate(names)}

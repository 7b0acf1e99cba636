"""Rows of problems for the tests, and the type of the fixtures that write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Write = Callable[..., str]
"""Writes rows into a file and returns its path."""


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row in GSM8K's form, with some columns changed, or left out where the value is `...`."""
    given = {"question": f"What is {number} and 1?", "answer": f"{number}+1 = {number + 1}\n#### {number + 1}"}
    return {key: value for key, value in {**given, **changes}.items() if value is not ...}

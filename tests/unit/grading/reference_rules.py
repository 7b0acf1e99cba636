"""Plain transcription of the reference's rules (arXiv 2308.01825), for tests only: slow, and it calls `eval`.

Written from the description of the method, one function per rule, with nothing shared with `rft_ray`.
Where the description is ambiguous, the rules are read as follows:

- The NUL cut belongs to the answer only; equations are searched in the whole text.
- Only the first `####` match counts: if its digits are no float, there is no answer.
- An equation passes when `abs(float(left) - float(right)) < 1e-3`; anything that raises, fails it.
- The equation list is one string. A list "is the same" when the strings are.
- The kept path at the same place is compared by *text*: the sums run over the kept paths whose text
  differs from the text kept now, for the new text as for the kept one.
- A replacement takes the place of the path that it replaces: the order is that of first appearance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

INVALID = "[invalid]"


def answer_of(text: str) -> str:
    text = text.split("\x00")[0]
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    if not match:
        return INVALID
    number = match.group(1).replace(",", "")
    try:
        float(number)
    except ValueError:
        return INVALID
    return number


def answer_is_right(text: str, gold: str, evaluating: bool = False) -> bool:
    answer = answer_of(text)
    if answer == INVALID:
        return False
    difference = abs(float(answer) - float(gold))
    return difference < 1e-4 if evaluating else float(answer) == float(gold)


def equations_in(text: str) -> list[str]:
    return re.findall(r"<<([^>]*)>>", text)


def python_says(expression: str) -> object:
    return eval(expression, {"__builtins__": {}})


def equation_holds(equation: str) -> bool:
    if "=" not in equation:
        return False
    left, right = equation.split("=")[:2]
    try:
        return abs(float(python_says(left)) - float(right)) < 1e-3  # type: ignore[arg-type]
    except Exception:
        return False


def equations_hold(text: str) -> bool:
    return all(equation_holds(equation) for equation in equations_in(text))


def list_of(text: str) -> str:
    return "|".join(equations_in(text)).replace(" ", "")


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance by the textbook table."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def select(
    texts: Sequence[str],
    distance: Callable[[str, str], int] = edit_distance,
    key_of: Callable[[str], object] = list_of,
    holds: Callable[[str], bool] = equations_hold,
) -> list[int]:
    """Indices of the kept texts, one per equation list, after one pass over texts in sampling order."""
    kept: list[int] = []
    lists: list[object] = []
    for index, text in enumerate(texts):
        if not holds(text):
            continue
        key = key_of(text)
        if key not in lists:
            lists.append(key)
            kept.append(index)
            continue
        place = lists.index(key)
        now = texts[kept[place]]
        others = [texts[k] for k in kept if texts[k] != now]
        if sum(distance(text, o) for o in others) > sum(distance(now, o) for o in others):
            kept[place] = index
    return kept

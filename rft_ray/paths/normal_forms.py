"""Normal forms of equations: when two reasoning paths count as the same.

`as_written` is the paper's: equations in order, operands in order. `sorted_operands` sorts the terms
of every sum and the factors of every product, so `3*4=12` and `4*3=12` are the same. `multiset` sorts
the steps of a path as well, so that the order of independent steps does not matter. Each is coarser
than the one before, so that the number of distinct paths never grows.

Limits: a side that `arithmetic.parse` cannot read stays as written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from rft_ray.grading.arithmetic import MAX_DEPTH, NotArithmeticError, OverBoundError, parse

NormalForm = Literal["as_written", "sorted_operands", "multiset"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("as_written", "sorted_operands", "multiset")

_PERCENT = re.compile(r"(\d|\.)%(?![\d(.])", re.ASCII)
_SYMBOLS: dict[type[ast.operator], str] = {
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.BitOr: "|",
    ast.BitAnd: "&",
    ast.BitXor: "^",
}


def normalise(equations: tuple[str, ...], normal_form: str = "as_written") -> tuple[str, ...]:
    """An equation list in a normal form. Raises ValueError for an unknown one."""
    if normal_form == "as_written":
        return equations
    if normal_form not in NORMAL_FORMS:
        raise ValueError(f"normal form {normal_form!r}: must be one of {', '.join(NORMAL_FORMS)}")
    operands_sorted = tuple(map(sort_operands, equations))
    return operands_sorted if normal_form == "sorted_operands" else tuple(sorted(operands_sorted))


def sort_operands(equation: str) -> str:
    """`4+3-1=6` -> `3+4-1=6`, `5*2/4` -> `2*5/4`: sums and products in one order, field by field."""
    return _sort_cached(equation) if len(equation) <= 200 else _sort(equation)


def _sort(equation: str) -> str:
    return "=".join(map(_sort_field, equation.split("=")))


_sort_cached = lru_cache(maxsize=16_384)(_sort)


def _sort_field(written: str) -> str:
    """One side of an equation. A percentage is carried through the parser as an imaginary literal."""
    if "j" in written.lower():
        return written
    source = _PERCENT.sub(r"\1j", written).strip(" \t")
    try:
        return _Printer(source).show(parse(source), 0).replace("j", "%")
    except (OverBoundError, NotArithmeticError):
        return written


class _Printer:
    """Prints a tree with the operands of + and * in sorted order; numbers as in the source."""

    def __init__(self, source: str) -> None:
        self.source = source

    def show(self, node: ast.expr, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise OverBoundError(f"expression nested deeper than {MAX_DEPTH}")
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Add | ast.Sub):
                added, taken = self._operands(node, ast.Add, ast.Sub, self.show, depth)
                return "+".join(added) + "".join(f"-{term}" for term in taken)
            if isinstance(node.op, ast.Mult | ast.Div):
                factors, divisors = self._operands(node, ast.Mult, ast.Div, self._atom, depth)
                return "*".join(factors) + "".join(f"/{part}" for part in divisors)
            symbol = _SYMBOLS.get(type(node.op))
            if symbol is None:
                raise NotArithmeticError("unknown operator")
            return f"{self._atom(node.left, depth)}{symbol}{self._atom(node.right, depth)}"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return f"-{self._atom(node.operand, depth)}"
        if isinstance(node, ast.Constant):
            return self.source[node.col_offset : node.end_col_offset]
        raise NotArithmeticError("not a plain expression")

    def _atom(self, node: ast.expr, depth: int) -> str:
        shown = self.show(node, depth + 1)
        return shown if isinstance(node, ast.Constant) else f"({shown})"

    def _operands(
        self,
        node: ast.BinOp,
        direct: type[ast.operator],
        inverse: type[ast.operator],
        show: Callable[[ast.expr, int], str],
        depth: int,
    ) -> tuple[list[str], list[str]]:
        """The terms of a sum, added and subtracted, or the factors and divisors of a product; each list sorted."""
        shown: tuple[list[str], list[str]] = ([], [])
        stack: list[tuple[ast.expr, bool, int]] = [(node, False, depth)]
        while stack:
            part, inverted, level = stack.pop()
            if isinstance(part, ast.BinOp) and isinstance(part.op, direct | inverse):
                stack.append((part.left, inverted, level))
                stack.append((part.right, inverted ^ isinstance(part.op, inverse), level + 1))
            else:
                shown[inverted].append(show(part, level + 1))
        return sorted(shown[False]), sorted(shown[True])

"""Arithmetic of untrusted text: evaluated within bounds, never executed.

An expression is parsed by Python's own parser (`ast.parse`, which builds a tree and runs nothing)
after a check of its length and alphabet, and the tree is walked by the few operators below. So the
grammar, the literals and the precedences are Python's by construction; names, keywords, calls, strings,
containers and attributes are refused, and so is any value past the bounds.

    python_value("1_000 // 3")  -> 333             what `eval` would give, for paper mode
    exact_value("0.1 + 0.2")    -> Fraction(3, 10)  exact rationals, for strict mode

Limits: `MAX_EXPRESSION_CHARS`, `MAX_BITS`, `MAX_DEPTH`. Past them `OverBoundError` names the bound.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_EXPRESSION_CHARS = 1_000
"""Longest expression that is parsed: in practice one is shorter than 100 characters."""
MAX_BITS = 10_000
"""Largest integer, numerator or denominator at any step; a float ends at 1,024 bits."""
MAX_DEPTH = 150
"""Deepest nesting of operators (a chain `1+1+1+...` counts as one level)."""

_ALPHABET = re.compile(r"[0-9a-fA-FoOxXjJ_.+\-*/%()<&|^~\\ \t\f\r\n]*", re.ASCII)
_COMMENT = re.compile(r"#[^\r\n]*")
_DECIMAL = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


class OverBoundError(Exception):
    """The expression exceeds the bound that the message names, so that its value is not known."""


class NotArithmeticError(ValueError):
    """The text is not an arithmetic expression, or has no numeric value."""


def parse(expression: str) -> ast.expr:
    """Syntax tree of an expression, as `eval` would read it (leading blanks and comments allowed).

    Raises OverBoundError past MAX_EXPRESSION_CHARS, NotArithmeticError when it is not arithmetic.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise OverBoundError(f"expression of {len(expression)} characters, bound {MAX_EXPRESSION_CHARS}")
    source = expression.lstrip(" \t")
    if "#" in source:
        source = _without_comments(source)
    if not _ALPHABET.fullmatch(source):
        raise NotArithmeticError("not arithmetic")
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotArithmeticError(f"not arithmetic ({type(error).__name__})") from None


def _without_comments(source: str) -> str:
    """The source without its comments. Raises NotArithmeticError for a comment that Python could not read."""
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        raise NotArithmeticError("not arithmetic (lone surrogate)") from None
    if "\0" in source:
        raise NotArithmeticError("not arithmetic (NUL)")
    return _COMMENT.sub("", source)


def python_value(expression: str) -> Any:
    """What Python's `eval` would return for an arithmetic expression: int, float, bool or complex.

    Raises OverBoundError past a bound, NotArithmeticError for anything but arithmetic, and ArithmeticError,
    TypeError or ValueError when Python's operators do (division by zero, overflow, ...).
    """
    return _walk(parse(expression), _python_leaf, _PYTHON_BINARY, 0)


def exact_value(expression: str) -> Fraction:
    """Exact rational value of an expression of decimal numbers and + - * / // % ** ( ).

    Raises OverBoundError past a bound, NotArithmeticError for any other expression, and
    ZeroDivisionError. A power with a fractional exponent is taken in floating point.
    """
    source = expression.strip(" \t")

    def leaf(node: ast.Constant) -> Fraction:
        text = source[node.col_offset : node.end_col_offset]
        if not _DECIMAL.fullmatch(text):
            raise NotArithmeticError("not a decimal number")
        return Fraction(int(text)) if text.isdecimal() else Fraction(text)

    value: Fraction = _walk(parse(source), leaf, _EXACT_BINARY, 0)
    return value


def _walk(
    node: ast.expr,
    leaf: Callable[[ast.Constant], Any],
    binary: dict[type[ast.operator], Callable[[Any, Any], Any]],
    depth: int,
) -> Any:
    """Value of a tree. Chains like `1+1+1` are folded in a loop, so `depth` counts nesting only."""
    if depth > MAX_DEPTH:
        raise OverBoundError(f"expression nested deeper than {MAX_DEPTH}")
    pending: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        pending.append(node)
        node = node.left
    value = _operand(node, leaf, binary, depth)
    for step in reversed(pending):
        combine = binary.get(type(step.op))
        if combine is None:
            raise NotArithmeticError(f"operator {type(step.op).__name__} is not arithmetic")
        value = combine(value, _walk(step.right, leaf, binary, depth + 1))
    return value


def _operand(
    node: ast.expr,
    leaf: Callable[[ast.Constant], Any],
    binary: dict[type[ast.operator], Callable[[Any, Any], Any]],
    depth: int,
) -> Any:
    """Value of a tree whose root is not a binary operator."""
    if isinstance(node, ast.Constant):
        return leaf(node)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_walk(node.operand, leaf, binary, depth + 1))
    if isinstance(node, ast.Compare) and binary is _PYTHON_BINARY:
        return _less_than(node, depth)
    raise NotArithmeticError(f"{type(node).__name__} is not arithmetic")


def _less_than(node: ast.Compare, depth: int) -> bool:
    """`a < b < c`: the one comparison that can stand left of `=` inside `<<...>>`."""
    left = _walk(node.left, _python_leaf, _PYTHON_BINARY, depth + 1)
    for comparator in node.comparators:
        right = _walk(comparator, _python_leaf, _PYTHON_BINARY, depth + 1)
        if not left < right:
            return False
        left = right
    return True


def _python_leaf(node: ast.Constant) -> Any:
    return node.value


def _bits(value: Any) -> int:
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return value.bit_length() if isinstance(value, int) else 0


def _over_bits(bits: int) -> OverBoundError:
    return OverBoundError(f"a number of about {bits if bits < 10**12 else '10^12 or more'} bits, bound {MAX_BITS}")


def _times(left: Any, right: Any) -> Any:
    bits = _bits(left) + _bits(right)
    if bits > MAX_BITS:
        raise _over_bits(bits)
    return left * right


def _python_power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        bits = left.bit_length() * right
        if bits > MAX_BITS and left not in (-1, 0, 1):
            raise _over_bits(bits)
    return left**right


def _shift(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left and left.bit_length() + right > MAX_BITS:
        raise _over_bits(left.bit_length() + right)
    return left << right


def _bounded(combine: Callable[[Fraction, Fraction], Any]) -> Callable[[Fraction, Fraction], Fraction]:
    """An exact operator that refuses operands whose result could pass MAX_BITS."""

    def apply(left: Fraction, right: Fraction) -> Fraction:
        bits = _bits(left) + _bits(right)
        if bits > MAX_BITS:
            raise _over_bits(bits)
        return Fraction(combine(left, right))

    return apply


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        try:
            return Fraction(float(base) ** float(exponent))
        except (OverflowError, TypeError, ValueError):
            raise NotArithmeticError("a power without a real value") from None
    bits = _bits(base) * abs(exponent.numerator)
    if bits > MAX_BITS and base not in (-1, 0, 1):
        raise _over_bits(bits)
    return Fraction(base**exponent.numerator)


_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_PYTHON_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _python_power,
    ast.LShift: _shift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
_EXACT_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _bounded(operator.add),
    ast.Sub: _bounded(operator.sub),
    ast.Mult: _bounded(operator.mul),
    ast.Div: _bounded(operator.truediv),
    ast.FloorDiv: _bounded(operator.floordiv),
    ast.Mod: _bounded(operator.mod),
    ast.Pow: _exact_power,
}

"""YAML text -> its tree, or one line that says what is wrong, where and what to do.

As `yaml.safe_load`, but a key that comes twice in one mapping is refused: YAML libraries keep the last one silently.
A character that JSON writes as a pair of escapes (`\\ud83d\\ude00`) is one character.
Raises YamlError, whose message starts with `line:column`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

INDENTATION = "the indentation does not fit the lines above: start all keys of one section in the same column"
REMEDIES = {
    "found character '\\t' that cannot start any token": "a tab: indent with spaces",
    "mapping values are not allowed here": "a second ': ' in one line, or a wrong indentation: put a text with ': ' in "
    "quotes, and start all keys of one section in the same column",
    "could not find expected ':'": "a key without a value: write key: value",
    "expected <block end>": INDENTATION,
    "unindent does not match": INDENTATION,
    "expected ',' or ']'": "a list in [ ] lacks a comma or its ']': add it",
    "expected ',' or '}'": "a section in { } lacks a comma or its '}': add it",
    "found unexpected end of stream": "a quote is not closed: add it",
    "found undefined alias": "an alias (*name) without its anchor (&name): define it above",
    "expected the node content": "a bracket is not closed, or a value is missing: correct the line",
}
"""Start of a message of the YAML library -> what is wrong and what to do."""


class YamlError(ValueError):
    """A text that is no YAML, or repeats a key. Example: YamlError("3:1: 'run' is given twice, …")"""


class _Loader(yaml.SafeLoader):
    """The safe loader, with a place in each error of a value: the library's for the date 2026-02-30 is a ValueError."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str) and _SURROGATE.search(value):
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except ValueError:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is no {KINDS.get(kind, kind)}", node.start_mark
            ) from None
        return value


_SURROGATE = re.compile("[\ud800-\udfff]")
KINDS = {"timestamp": "date: put a text in quotes", "int": "number", "float": "number", "str": "text"}
"""What a value of this tag is to be, for a message."""


def read(text: str) -> Any:
    """The tree of a YAML text. Raises YamlError."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_repeated_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YamlError(_explained(error, text)) from None


def _refuse_repeated_keys(root: yaml.Node) -> None:
    """Raises YamlError for the first key that comes twice in its mapping; keys merged by `<<` may be overridden."""
    for node in _mappings(root, set()):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if (first := lines.setdefault(key.value, line)) != line or _repeated_in_line(node, key):
                where = f"in line {first} and in line {line}" if first != line else f"twice in line {line}"
                raise YamlError(f"{line}:{column}: the key {key.value!r} is given {where}: keep one of the two")


def _repeated_in_line(node: yaml.MappingNode, key: yaml.ScalarNode) -> bool:
    same = [other for other, _ in node.value if isinstance(other, yaml.ScalarNode) and other.value == key.value]
    return same[0] is not key


def _mappings(node: yaml.Node, visited: set[int]) -> Iterator[yaml.MappingNode]:
    """Every mapping of a tree once: two aliases share one node."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value, visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value, visited)


def _explained(error: yaml.YAMLError, text: str) -> str:
    """A library's error as one line that starts with `line:column`."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        problem = str(error.problem)
        remedy = next((remedy for start, remedy in REMEDIES.items() if problem.startswith(start)), "")
        return f"{mark.line + 1}:{mark.column + 1}: {remedy or f'{problem}: correct the line'}"
    position = getattr(error, "position", 0)
    before = text[:position]
    line, column = before.count("\n") + 1, position - before.rfind("\n")
    return f"{line}:{column}: a character that YAML does not allow ({getattr(error, 'reason', error)}): remove it"

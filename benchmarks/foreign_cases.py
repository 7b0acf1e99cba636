"""Reads the numeric test cases of other graders as labelled rows: a folder of their source -> `LabelledRow`s.

    math_verify   huggingface/Math-Verify: `(gold, pred, expected)` of the parametrized tests in tests/test_*.py
    lm_eval       EleutherAI/lm-evaluation-harness: the worked examples of lm_eval/tasks/gsm8k/*.yaml, each once

The sources are parsed, never imported. A case is numeric when its gold is one number or fraction. A `pred` that is
a bare number or expression states no final answer by the forms of GSM8K; it is read after `#### `.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.labelled_rows import LabelledRow
from rft_ray.data.row_files import DataError

_EDGES = re.compile(r"\A\$+|\$+\Z")
_BOXED = re.compile(r"\\boxed\{(.{0,200})\}")
_NUMERIC = re.compile(
    r"[-+]?\$?(?:\d[\d., ]{0,40}|\.\d{1,40}|\d{1,20}/\d{1,20}|\\[dt]?frac\{\d{1,20}\}\{\d{1,20}\})\\?%?"
)
_STATES = re.compile(r"####|\\boxed|answer", re.IGNORECASE)
_SAID = re.compile(r"The answer is \$?(-?[\d,]{0,20}\d(?:\.\d{1,20})?)")


class _Loader(yaml.SafeLoader):
    """YAML whose own tags (`!function`) are read as None."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def math_verify(folder: str) -> Iterator[LabelledRow]:
    """The numeric cases of the library's tests. Raises DataError where there are none."""
    cases = 0
    for path in _files(folder, "test_*.py"):
        for place, gold, written, expected in _triples(path):
            if _NUMERIC.fullmatch(_bare(gold)):
                cases += 1
                text = written if _STATES.search(written) else f"#### {written}"
                yield LabelledRow(place, text, gold, bool(expected))
    if not cases:
        raise DataError(f"{folder}: no numeric cases in test_*.py: name the folder of a checkout of Math-Verify")


def _bare(gold: str) -> str:
    """A gold answer without `$` and `\\boxed{}` around it."""
    plain = _EDGES.sub("", gold.strip())
    boxed = _BOXED.fullmatch(plain)
    return boxed[1] if boxed else plain


def _triples(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(place, gold, pred, expected) of all tuples of two texts and a 0 or 1 in a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Tuple) or len(node.elts) != 3:
            continue
        values = [element.value for element in node.elts if isinstance(element, ast.Constant)]
        match values:
            case [str(gold), str(written), int(expected)] if expected in (0, 1):
                yield f"{path.name}:{node.lineno}", gold, written, expected


def lm_eval(folder: str) -> Iterator[LabelledRow]:
    """The worked examples, as right: gold follows "The answer is". Raises DataError where there are none."""
    seen: set[str] = set()
    for path in _files(folder, "gsm8k*.yaml"):
        for sample in _samples(yaml.load(path.read_text("utf-8"), _Loader)):
            target = str(sample.get("target", ""))
            said = _SAID.search(target)
            if said and target not in seen:
                seen.add(target)
                yield LabelledRow(f"{path.name} example {len(seen)}", target, said[1], True)
    if not seen:
        raise DataError(f"{folder}: no examples in gsm8k*.yaml: name the folder of a checkout of lm-evaluation-harness")


def _samples(task: Any) -> list[dict[str, Any]]:
    config = task.get("fewshot_config") if isinstance(task, dict) else None
    samples = config.get("samples") if isinstance(config, dict) else None
    return [sample for sample in samples if isinstance(sample, dict)] if isinstance(samples, list) else []


def _files(folder: str, pattern: str) -> list[Path]:
    """The files of a folder and those below it, by name. Raises DataError where the folder does not exist."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: there is no such folder")
    return sorted(Path(folder).rglob(pattern))

"""The config's schema -> docs/configuration.md: every key with type, default, unit, meaning and identity.

    python -m rft_ray.config.reference > docs/configuration.md

`make config-reference` and `make docs` run it; a test fails where the page is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rft_ray.config.engine_arguments import DECIDING, NEUTRAL, SET_ELSEWHERE
from rft_ray.config.identity import IDENTITY
from rft_ray.config.loading import known_fields, section_of
from rft_ray.config.models import ALPACA

INTRODUCTION = """\
# Configuration

Every key of a config. Generated from `rft_ray/config/schema.py` by `make config-reference`: change it there.

A key is set in the YAML file (`sampling: {temperature: 0.5}`) or on the command line, which counts more
(`--sampling.temperature=0.5`; `--models.0.seed=1` for a member of a list). On the command line a text is taken as it
is, without its quotes where it is all in quotes; other values are YAML. Bounds are in brackets. A model's own `prompt`
replaces the section `prompt` as a whole.

*Identity*: the first files whose names a key enters. Change it, and these files and all that is made from them are made
anew, next to the old ones. A key with `-` enters no name: it says how to run and can change between two starts of one
run, or (columns, `duplicates`, `decontaminate`) it acts through the problems that are read. `icl`, `sft` and `rft`
completions, verdicts and evaluations are those of these models on the test problems. The keys of `grading.judge` enter
the names of its answers, and names of paths where `corpus.judge` is `accept`."""
UNITS = {
    "limit": "problems",
    "per_block": "problems",
    "epochs": "epochs",
    "batch_size": "examples",
    "micro_batch_size": "examples",
    "max_tokens": "tokens",
    "max_new_tokens": "tokens",
    "max_model_len": "tokens",
    "samples_per_problem": "samples",
    "samples_per_block": "samples",
    "k": "samples",
    "checkpoint_minutes": "min",
    "checkpoint_every_steps": "steps",
    "wait_minutes": "min",
    "parallel_jobs": "models",
    "threads_per_worker": "threads",
    "threads_per_actor": "threads",
    "workers": "processes",
    "actors": "processes",
    "min_actors": "engines",
    "max_actors": "engines",
    "tensor_parallel_size": "GPUs",
    "pipeline_parallel_size": "groups",
    "gpus_per_engine": "GPUs",
    "max_num_seqs": "sequences",
    "max_num_batched_tokens": "tokens",
    "top_k": "tokens",
    "shards_in_flight": "shards",
    "max_quarantined": "shards",
    "kv_cache_gib": "GiB",
    "stall_seconds": "s",
    "lost_node_minutes": "min",
    "drain_seconds": "s",
    "timeout_seconds": "s",
    "retry_seconds": "s",
    "max_concurrency": "requests",
    "token_budget": "tokens",
    "timeout_s": "s",
    "memory_gib": "GiB",
    "usd_per_gpu_hour": "USD",
    "max_paths_per_problem": "paths",
    "icl_shots": "examples",
    "shots": "examples",
    "pretraining_losses": "nats/token",
}
"""Name of a field -> its unit; other fields have none."""
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


EXTRA = """
## vLLM's engine arguments

`engine.extra` takes the arguments of vLLM 0.29's `EngineArgs`. Those of the first list leave the distribution of the
samples as it is, up to floating-point rounding, and enter no name. Those of the second one change samples, or may:
they enter the names of all completions, as `engine.quantization` and `engine.kv_cache_dtype` do, and an engine with
one of them takes no second model over but is started again. Those of the table are refused."""


def page() -> str:
    """The whole page, as it is stored."""
    return "\n".join([INTRODUCTION, *_lines(), *_extra()]) + "\n"


def _extra() -> Iterator[str]:
    """The section about the arguments of `engine.extra`."""
    yield EXTRA
    for title, names in (("Enter no name", NEUTRAL), ("Enter the names of completions", DECIDING)):
        yield from ("", f"{title}: {', '.join(f'`{name}`' for name in sorted(names))}.")
    yield from ("", "| refused | instead |", "|-|-|")
    for name, instead in sorted(SET_ELSEWHERE.items()):
        yield f"| `{name}` | {instead.replace('*', '0')} |"


def _lines() -> Iterator[str]:
    for key, field in known_fields():
        if "." not in key:
            yield from _heading(key, field)
        if key not in IDENTITY:  # a section
            continue
        cells = (
            f"`{key.replace('*', '0')}`",
            _type(field),
            _default(key, field),
            UNITS.get(key.rpartition(".")[2], ""),
            _cell(field.description or ""),
            ", ".join(IDENTITY[key]) or "-",
        )
        yield f"| {' | '.join(cells)} |"


def _heading(key: str, field: FieldInfo) -> Iterator[str]:
    yield from ("", f"## {key}", "")
    if section := section_of(field):
        yield from (_cell(section.__doc__ or ""), "")
    yield from ("| key | type | default | unit | what it does | identity |", "|-|-|-|-|-|-|")


def _type(field: FieldInfo) -> str:
    bounds = [
        text.format(_number(value))
        for item in field.metadata
        for name, text in BOUNDS.items()
        if (value := getattr(item, name, None)) is not None
    ]
    return _name(field.annotation) + (f" ({', '.join(bounds)})" if bounds else "")


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else "2^31" if value == 2**31 else str(value)


def _name(kind: Any) -> str:
    """A type in words. Example: `integer or null`"""
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "any value"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Annotated:
        return _name(get_args(kind)[0])
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if get_origin(kind) is tuple:
        return f"list of {_name(parts[0])}"
    if get_origin(kind) is dict:
        return f"{_name(parts[0])}: {_name(parts[1])}"
    return " or ".join(map(_name, parts))


def _default(key: str, field: FieldInfo) -> str:
    if key.startswith("models.*.prompt."):
        return "as in `prompt`"
    if key.endswith(".source") and key.startswith("problems."):
        return f"`hub:openai/gsm8k:{key.split('.')[1]}`"
    if field.default is PydanticUndefined:
        return "must be given"
    if field.default == ALPACA:
        return "Alpaca's"
    if field.default == "":
        return "none"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    plain = {None: "null", True: "true", False: "false"}
    return f"`{plain[value] if value is None or isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    """A docstring as one line of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")

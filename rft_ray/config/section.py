"""What all sections of the config share: the base class, and the types of names and places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

SECRET = "the URL holds a user or a password"
NOT_A_NAME = "must be the name of an environment variable, not a key"
SECRETS = (SECRET, NOT_A_NAME)
"""Messages about values that may be secrets: such a value is not shown."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
"""The name of an environment variable."""
LONGEST_SECONDS, LONGEST_MINUTES = 10**8, 10**6
"""Bounds of times, about three and two years: the system's timers take no much longer ones."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Section(BaseModel):
    """One section of the config. The docstrings of its fields are their descriptions in docs/configuration.md."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, serialize_by_alias=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true, which is also YAML's `yes` and `on`, for the number 1."""
        if isinstance(value, bool):
            kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("must be a number, not true or false")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation consists of; of a Literal, the types of its values."""
    parts = get_args(annotation)
    for part in parts:
        yield from _kinds(part) if isinstance(part, type) or get_args(part) else [type(part)]
    if not parts:
        yield annotation


def _without_credentials(url: str) -> str:
    if not url:
        raise ValueError("is empty: a variable of the shell may be unset")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{SECRET}: credentials come from the environment")
    return url


Place = Annotated[str, AfterValidator(_without_credentials)]
"""A path or URL, not empty and without credentials: a config is saved with the run and shown in reports."""


def _plain(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("use at most 64 letters, digits, '.', '_' and '-', starting with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""A name that is part of paths in the store."""


def _in_words(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_in_words)]
"""`auto`, `on` or `off`; YAML reads the last two without quotes as true and false."""

"""docs/configuration.md is what the schema gives, and explains every key."""

from __future__ import annotations

from pathlib import Path

from rft_ray.config.identity import IDENTITY
from rft_ray.config.loading import known_fields
from rft_ray.config.reference import UNITS, page

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_what_the_schema_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make config-reference`"


def test_every_key_has_a_row_and_a_description() -> None:
    shown = page()
    fields = dict(known_fields())
    for key in IDENTITY:
        assert f"| `{key.replace('*', '0')}` |" in shown
        assert fields[key].description, key


def test_every_unit_belongs_to_a_field() -> None:
    assert set(UNITS) <= {key.rpartition(".")[2] for key in IDENTITY}

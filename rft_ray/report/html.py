"""The parts of a page, rendered by Jinja from `templates/`: tables, figures, sections, and the file that holds them.

In: plain text, and `Markup` that a template has made. Out: `Markup`. A model's texts are hostile: the templates escape
every value that is not `Markup`, and `visible` replaces characters that act on a screen without being seen (controls,
marks that change the direction of writing). The page's policy (CSP) forbids every request and every script except the
page's own, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rft_ray.report.charts import Chart
from rft_ray.report.examples import Excerpt

_SURROGATES = re.compile("[\ud800-\udfff\ufffe\uffff\x80-\x9f]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


def visible(text: str) -> str:
    """The text with a visible sign in place of every character that shows nothing. Does not escape.

    Example: `visible("a\\x00b\\u202e") == "a␀b⟦U+202E⟧"`
    """
    shown = _SURROGATES.sub("\ufffd", text)
    shown = _CONTROLS.sub(lambda match: "\u2421" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), shown)
    return _UNSEEN.sub(lambda match: f"\u27e6U+{ord(match[0]):04X}\u27e7", shown)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("rft_ray.report"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def render(template: str, **values: object) -> Markup:
    """A template of `templates/` with these values. Escapes every value that is not `Markup`."""
    return Markup(_environment().get_template(template).render(**values))


def page(template: str, **values: object) -> Markup:
    """A whole file: a template that extends `page.html`. `sections`: (id, name in the navigation, `Markup`)."""
    style, script = (files("rft_ray.report").joinpath(name).read_text("utf-8") for name in ("style.css", "script.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(template, style=style, script=script, script_hash=script_hash, **values)


def quoted(excerpt: Excerpt, marked: str = "") -> Markup:
    """A text as it was written, with the last occurrence of `marked` marked, and a note where the text was cut."""
    text = excerpt.text or " "
    at = text.rfind(marked) if marked else -1
    before, after = (text, "") if at < 0 else (text[:at], text[at + len(marked) :])
    return render("excerpt.html", before=before, marked="" if at < 0 else marked, after=after, cut=excerpt.cut)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table whose first column names the rows."""
    cells = [(row[0], [_cell(value) for value in row[1:]]) for row in rows]
    return render("table.html", caption=caption, head=head, rows=cells)


def _cell(value: object) -> tuple[str, bool]:
    """The cell's text, and whether it is a number, which the page does not wrap."""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text, text[:1].isdigit() or text[:1] in "+−-–["


def figure(name: str, caption: str, description: str, chart: Chart, figures: Markup) -> Markup:
    """A chart with its caption, a description for screen readers, and a table of the same figures below."""
    return render("figure.html", name=name, caption=caption, description=description, chart=chart, table=figures)


def section(name: str, title: str, *parts: Markup) -> Markup:
    """A section with its heading. Empty parts are left out."""
    return render("section.html", name=name, title=title, parts=[part for part in parts if part])


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph of plain text."""
    return render("paragraph.html", text=text, kind=kind)


def folded(title: str, body: Markup) -> Markup:
    """A body that opens under its title."""
    return render("folded.html", title=title, body=body)

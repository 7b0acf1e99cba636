"""The parts of a page, rendered by Jinja from `templates/`: tables, figures, sections, and the file that holds them.

In: plain text, and `Markup` that a template has made. Out: `Markup`. A model's texts are hostile: the templates escape
every value that is not `Markup`, and `visible` replaces characters that act on a screen without being seen (controls,
marks that change the direction of writing). The page's policy (CSP) forbids every request and every script except the
page's own, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rft_ray.grading.explain import pieces
from rft_ray.grading.unicode_forms import visible
from rft_ray.report.charts import Chart
from rft_ray.report.examples import Excerpt, Marks

RULE_CHARS = 100
"""Characters of a rule that the mark of an equation shows."""


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


def marked(excerpt: Excerpt, marks: Marks) -> Markup:
    """A text as it was written, with its equations and answers marked, and a note where the text was cut."""
    parts = []
    for piece in pieces(excerpt.text or " ", marks.readings, marks.claims):
        kinds: list[str] = []
        rules: list[str] = []
        if piece.reading is not None:
            reading = marks.readings[piece.reading]
            kinds.append(reading.outcome)
            rules.append(f"{reading.outcome.replace('_', ' ')}: {reading.rule[:RULE_CHARS]}")
        if piece.claim is not None:
            claim = marks.claims[piece.claim]
            kinds.append("set-aside" if claim.note else "answer")
            rules.append(f"answer {claim.rule}{': ' * bool(claim.note)}{claim.note[:RULE_CHARS]}")
        parts.append({"text": piece.text, "kinds": " ".join(kinds), "rule": "; ".join(rules)})
    return render("marked.html", parts=parts, cut=excerpt.cut)


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

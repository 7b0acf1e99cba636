"""The parts of a page: escaped text, tables, figures, and the document that holds them all in one file.

Whatever comes from a model is hostile: `escape` makes it text, in every place of a page, and makes visible what would
act on a reader's screen unseen (control characters, marks that turn the direction of writing). The document's policy
(CSP) lets nothing be fetched and lets only the page's own script run, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from importlib.resources import files

from rft_ray.report.charts import Chart
from rft_ray.report.examples import Excerpt

_SURROGATES = re.compile("[\ud800-\udfff\ufffe\uffff\x80-\x9f]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


def escape(text: object) -> str:
    """Text for any place of a page, attributes in quotes included. Never empty of what was there."""
    shown = _SURROGATES.sub("\ufffd", str(text))
    shown = _CONTROLS.sub(lambda match: "\u2421" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), shown)
    shown = _UNSEEN.sub(lambda match: f"\u27e6U+{ord(match[0]):04X}\u27e7", shown)
    return html.escape(shown, quote=True)


def quoted(text: Excerpt, marked: str = "") -> str:
    """A text as it was written, with the last occurrence of `marked` marked, and a note where it was cut."""
    at = text.text.rfind(marked) if marked else -1
    if at < 0:
        shown = escape(text.text)
    else:
        before, after = text.text[:at], text.text[at + len(marked) :]
        shown = f"{escape(before)}<mark>{escape(marked)}</mark>{escape(after)}"
    note = f'<p class="note">… {text.cut:,} more characters, cut here</p>' if text.cut else ""
    return f'<pre dir="auto">{shown or " "}</pre>{note}'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose first column names the rows. Cells are escaped; numbers stand on the right."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(_cell(cell) for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: object) -> str:
    text = f"{cell:,}" if isinstance(cell, int) else str(cell)
    number = text[:1].isdigit() or text[:1] in "+−-–["
    return f"<td{' class=n' if number else ''}>{escape(text)}</td>"


def figure(name: str, caption: str, told: str, chart: Chart, figures: str) -> str:
    """A chart with its caption, what it tells in words, and its figures as a table below."""
    return (
        f'<figure id="{name}"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="plot" role="img" aria-label="{escape(told)}">'
        f'<div class="wide">{chart.wide}</div><div class="narrow">{chart.narrow}</div></div>'
        f'<details class="figures"><summary>The same as a table</summary>{figures}</details></figure>'
    )


def section(name: str, title: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{body}</section>'


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The whole file. `sections`: (id, name in the page's navigation, HTML)."""
    style, script = (files("rft_ray.report").joinpath(name).read_text("utf-8") for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<li><a href="#{name}">{escape(label)}</a></li>' for name, label, _ in sections)
    body = "\n".join(text for _, _, text in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
{header}
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main">
{body}
</main>
<footer>{footer}</footer>
<div id="tip" role="status" hidden></div>
<script>{script}</script>
</body>
</html>
"""

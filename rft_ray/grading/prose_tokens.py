"""Cuts text into the tokens of arithmetic: text -> numbers, operators, words, stops.

Unicode and LaTeX operators are rewritten first (`×`, `\\times`, `\\frac{}{}`, `≈`), Markdown's bold marks are
dropped. Every pattern takes time linear in the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Token(NamedTuple):
    """One token and its position in the rewritten text.

    Example: Token("number", "1,800", 12, 17)
    """

    kind: str
    text: str
    start: int
    end: int


_TRANSLATE = str.maketrans(
    {
        "×": "*", "∗": "*", "⋅": "*", "·": "*", "✕": "*", "✖": "*", "÷": "/", "∕": "/", "⁄": "/",
        "−": "-", "–": "-", "‐": "-", "‑": "-", "－": "-", "＋": "+", "＝": "=", "≈": "=", "≃": "=", "≅": "=",
        "％": "%", "＄": "$", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "²": "^2", "³": "^3",
        "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ",
    }
)  # fmt: skip
_LATEX = [
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"), "="),
    (re.compile(r"\\(?:left|right|displaystyle|quad)(?![a-zA-Z])|\\[,;:! ]"), " "),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\\(?=[$%])"), ""),
    (re.compile(r"\^\{(\d{1,4})\}"), r"^\1"),
]
_BOLD_STARS = re.compile(r"(?<![\d) ])\*\*|\*\*(?![\d( ])|(?<= )\*\*(?=\S)|(?<=\S)\*\*(?= )")
_TOKEN = re.compile(
    r"(?P<skip>[ \t\r]+)"
    r"|(?P<other>\d+(?::\d+)+|\d{1,2}/\d{1,2}/(?:19|20)\d\d|[-=~]{1,2}>|<[-=]{1,2})"
    r"|(?P<mixed>\d+[ ]\d{1,2}/\d{1,3}(?![\d./]))"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)"
    r"|(?P<power>\*\*|\^)|(?P<op>//|[-+*/])|(?P<equals>=+)"
    r"|(?P<percent>%)|(?P<currency>[$€£¥₹])|(?P<open>\()|(?P<close>\))"
    r"|(?P<stop>\n+|[.;:!?,](?=\s|$)|[\[\]{}\"'“”‘’`|•…—])"
    r"|(?P<strange>.)",
    re.ASCII | re.DOTALL,
)


def tokenize(text: str) -> list[Token]:
    """Tokens of a text, LaTeX and Unicode operators rewritten, white space dropped."""
    text = text.translate(_TRANSLATE)
    if "\\" in text:
        for _ in range(2):
            for pattern, replacement in _LATEX:
                text = pattern.sub(replacement, text)
    if "**" in text:
        text = _BOLD_STARS.sub(" ", text)
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "strange"
        if kind != "skip":
            tokens.append(Token(kind, match.group(), match.start(), match.end()))
    return tokens

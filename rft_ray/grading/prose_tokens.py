"""Cuts text into the tokens of arithmetic: text -> numbers, operators, words, stops.

Annotations, LaTeX and Markdown marks are overwritten first, each by a text of the same length, so that the positions
of tokens are those of the text. Every pattern takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Token(NamedTuple):
    """One token and its position in the text.

    Example: Token("number", "1,800", 12, 17)
    """

    kind: str
    text: str
    start: int
    end: int


FEW_ANNOTATIONS = 50
"""Up to this number of `<<`, a regular expression finds them: it is faster, and its worst case is bounded."""
ANNOTATION = re.compile(r"<<([^>]*)>>")

_DIGITS = {
    ord(first) + value: str(value)
    for first in ("\u0660", "\u06f0", "\u0966", "\u09e6", "\u0e50", "\uff10")
    for value in range(10)
}
_TRANSLATE = _DIGITS | str.maketrans(
    {
        "×": "*", "∗": "*", "⋅": "*", "·": "*", "✕": "*", "✖": "*", "∕": "/", "⁄": "/", "／": "/", "＊": "*",
        "−": "-", "–": "-", "‐": "-", "‑": "-", "－": "-", "＋": "+", "＝": "=", "％": "%", "٪": "%", "＄": "$",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "（": "(", "）": ")", "[": "(", "]": ")",
        "`": " ", "&": " ", "٫": ".", "٬": ",", "．": ".",
    }
)  # fmt: skip
_STYLES = "text|mathrm|mathbf|textbf|textit|mathit|mbox|boxed|emph|underline|textsf|mathsf|textrm|operatorname"
_LATEX_NUMBER = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\{,\}|,\\{1,2}!|\{\\,\}|[ ]?\\,|\\!)\d{3}(?!\d))+")
_DOUBLED = re.compile(
    rf"\\\\(?=(?:[dtc]?frac|times|div|cdot|left|right|approx|begin|end|{_STYLES})(?![a-z])"
    r"|[()\]$%*{]|[,;!](?=[ \d\\])|\[(?!\d{1,3}(?:pt|ex|em)))"
)
"""A backslash that a JSON text doubles."""
_HARD_BLANK = re.compile(r"(?<=[0-9])[\u202f\u00a0](?=[0-9]{3}(?![0-9]))")
"""A blank that keeps a number on one line sets off thousands."""
_COMMA_MONEY = re.compile(r"(?<![\d.,])(-?\d{1,3}(?:[., ]\d{3}){1,5}|-?\d+),(\d\d)(?=\s?(?:€|[Ee]uros?\b))")
_LATEX: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\\\\|\\n(?!e\b|eq|u\b|abla|ot\b|i\b|mid)"), lambda match: "\n" + " " * (len(match[0]) - 1)),
    (
        re.compile(rf"\\(?:{_STYLES})\s{{0,3}}\{{([^{{}}]*)\}}"),
        lambda match: " " * (match.start(1) - match.start()) + match[1] + " ",
    ),
    (
        re.compile(r"(?<=\d)\\[dt]?frac\s{0,3}\{(\d{1,2})\}\s{0,3}\{(\d{1,3})\}"),
        lambda match: f" {match[1]}/{match[2]}".ljust(len(match[0])),
    ),
    (
        re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"),
        lambda match: f"(({match[1]})/({match[2]}))".ljust(len(match[0])),
    ),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)"), lambda match: f"({match[1]}/{match[2]})".ljust(len(match[0]))),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])"), lambda match: " *".ljust(len(match[0]))),
    (re.compile(r"\\div(?![a-zA-Z])"), lambda match: " ÷".ljust(len(match[0]))),
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"), lambda match: " ≈".ljust(len(match[0]))),
    (re.compile(r"\\(?:neq?|[lg](?:eq?|t))(?![a-zA-Z])"), lambda match: " ≠".ljust(len(match[0]))),
    (
        re.compile(r"\\(?:implies|(?:long)?(?:R|r)ightarrow|therefore|to)(?![a-zA-Z])"),
        lambda match: "; ".ljust(len(match[0])),
    ),
    (re.compile(r"\\[)\]](?=\s{1,3}\d)"), lambda match: "; "),
    (
        re.compile(
            r"\\(?:left|right|displaystyle|q?quad|[bB]igg?[lr]?)(?![a-zA-Z])|\\[,;:! ]|\\[()\[\]]"
            r"|\\(?:begin|end)\s?\{[a-z]{1,12}\*?\}"
        ),
        lambda match: " " * len(match[0]),
    ),
    (re.compile(r"\\\*"), lambda match: " *"),
    (re.compile(r"-\\\$(?=\d)"), lambda match: " -$"),
    (re.compile(r"\\([$%])"), lambda match: " $" if match[1] == "$" else "% "),
    (re.compile(r"\^\{(\d{1,4})\}"), lambda match: f"^{match[1]}  "),
    (re.compile(r"\^\s?(?:\{\\circ\}|\\circ)"), lambda match: "°".ljust(len(match[0]))),
]
_DOTTED_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,5}(?![.,]?\d)")
"""Numbers of several points, which set off thousands."""
_DOTTED_DECIMAL = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3}){1,5}),(\d{1,2})(?![\d,])")
_COMMA_DECIMAL = re.compile(r"(?<![\d.,])(\d{1,3}),(?=\d{1,2}(?![\d,]))")
"""A decimal comma, in a text that writes `1.043,40` too."""
_MARKS = re.compile(r"[\\`\[\]&_<{]|[,.][0-9]{2}(?: ?[Ee]uro|[0-9][.,][0-9])")
_BOLD_STARS = re.compile(r"(?<![\d) ])\*\*|\*\*(?![\d( ])|(?<= )\*\*(?=\S)|(?<=\S)\*\*(?= )")
_BOLD_ITALIC = re.compile(r"(?<![\d)*])\*{3}(?=[^\s*])([^*\n]{1,60})(?<=[^\s*])\*{3}(?!\*)")
_ITALIC = re.compile(r"(?<![\w)*%] )(?<![\w)*%])([*_])(?=[^\s*_])([^*_\n]{1,60})(?<=[^\s*_])\1(?![\w*_(])")
_BOLD_LINES = re.compile(r"(?<![\w_])__(?=[^\s_])([^_\n]{1,60})(?<=[^\s_])__(?![\w_])")
_ITALIC_LINE = re.compile(r"(?<![\w_])_(?=[^\s_])([^_\n]{1,60}=[^_\n]{1,40})(?<=[^\s_])_(?![\w_])")
_ITALIC_EQUATION = re.compile(
    r"(?<![\w)*%])(?<![\d)%] )\*(?=[\d$(])((?:[^*=\n]| \* ){1,60}=[^*\n]{1,40})(?<=[^\s*])\*(?![\w*(])"
)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]{0,9}\s?/?>")
_TOKEN = re.compile(
    r"(?:[ \t\r\f\v]|(?<=[0-9%])-(?=[a-z]{2}))*+"  # followed by a token, as the text does not end in a blank
    r"(?:(?P<other>[0-9]+(?::[0-9]+)+|[0-9]{1,2}/[0-9]{1,2}/(?:19|20)[0-9][0-9]|[-=~]{1,2}>|<[-=]{1,2}|={3,})"
    r"|(?P<mixed>(?:[0-9]+[ ]?)?[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|[0-9]+[ ]{1,9}[0-9]{1,2}/[0-9]{1,3}(?![0-9./]))"
    r"|(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
    r"|[0-9]{1,3}(?:[ ][0-9]{3})+(?![0-9])|[0-9]+,(?:[0-9]{1,2}|[0-9]{4,9})(?![0-9,.])|[0-9]+)(?:\.[0-9]+)?(?:\.{3}|…)?"
    r"|\.[0-9]+(?:\.{3}|…)?)"
    r"|(?P<super>[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})"
    r"|(?P<word>(?<=[0-9][ ])€(?![ ]?[0-9])|[^\W\d_\u3040-\u9fff⁰¹²³⁴⁵⁶⁷⁸⁹]+(?:['’-][^\W\d_\u3040-\u9fff⁰¹²³⁴⁵⁶⁷⁸⁹]+)*"
    r"|[°¢]|乘以|除以|等于|加上|减去|[加减乘是]"
    r"|[\u3040-\u9fff]+?(?=乘以|除以|等于|[加减乘是]|[^\u3040-\u9fff]|$))"
    r"|(?P<power>\*\*|\^)|(?P<relation>≠|!=|[<>≤≥]=?)|(?P<op>//|[-+*/÷])|(?P<equals>=+|[≈≃≅≡])"
    r"|(?P<percent>%)|(?P<currency>[$€£¥₹₩])|(?P<open>\()|(?P<close>\))"
    r"|(?P<stop>\n+|[.;:!?,](?=[^0-9]|$)|(?<=[^\W\d_]):|[{}\"'“”‘’|•…—→⇒⟶➔➜。，；：！？、؟،؛])"
    r"|(?P<strange>.))",
    re.DOTALL,
)
_KINDS = ("", *_TOKEN.groupindex)
_BLANKS = " \t\r\f\v"


def annotation_spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the inside of each `<<...>>`, as the expression `<<([^>]*)>>` finds them, in linear time.

    (The expression itself takes quadratic time on a run of `<` without `>>`.)
    """
    if text.count("<<") <= FEW_ANNOTATIONS:
        yield from (match.span(1) for match in ANNOTATION.finditer(text))
        return
    start = text.find("<<")
    while start >= 0:
        end = text.find(">", start + 2)
        if end < 0:
            break
        closed = text.startswith(">>", end)
        if closed:
            yield start + 2, end
        start = text.find("<<", end + 2 if closed else end + 1)


def without_annotations(text: str) -> str:
    """The text with each `<<...>>` overwritten by blanks."""
    if "<<" not in text:
        return text
    kept: list[str] = []
    position = 0
    for start, end in annotation_spans(text):
        kept += [text[position : start - 2], " " * (end - start + 4)]
        position = end + 2
    return "".join([*kept, text[position:]])


def plain(text: str) -> str:
    """The text with LaTeX and Markdown marks overwritten; of the same length."""
    if text.isascii() and text.count("*") < 2 and not _MARKS.search(text):
        return text
    if "\u202f" in text or "\u00a0" in text:
        text = _HARD_BLANK.sub(",", text)
    text = text.translate(_TRANSLATE)
    if "\\\\" in text:
        text = _DOUBLED.sub(r" \\", text.replace("-\\\\$", "  -$"))
    if "€" in text or "uro" in text:
        text = _COMMA_MONEY.sub(_comma_money, text)
    text = _DOTTED_GROUPS.sub(lambda match: match[0].replace(".", ","), text)
    if _DOTTED_DECIMAL.search(text):
        text = _COMMA_DECIMAL.sub(r"\1.", _DOTTED_DECIMAL.sub(_dotted_decimal, text))
    if "\\" in text or "{,}" in text:
        text = _LATEX_NUMBER.sub(_latex_number, text)
        for _ in range(2):
            for pattern, replacement in _LATEX:
                text = pattern.sub(replacement, text)
    if "^{" in text:
        text = _LATEX[-2][0].sub(_LATEX[-2][1], text)
    if "***" in text:
        text = _BOLD_ITALIC.sub(r"   \1   ", text)
    if "**" in text:
        text = _BOLD_STARS.sub("  ", text)
    if "__" in text:
        text = _BOLD_LINES.sub(r"  \1  ", text)
    if "_" in text:
        text = _ITALIC_LINE.sub(r" \1 ", text)
    if "*" in text or "_" in text:
        text = _ITALIC_EQUATION.sub(r" \1 ", text)
        text = _ITALIC.sub(r" \2 ", text)
    if "<" in text:
        text = _TAG.sub(lambda match: ("\n" if match[0][1:3] == "br" else " ") + " " * (len(match[0]) - 1), text)
    return text


def _latex_number(match: re.Match[str]) -> str:
    digits = re.sub(r"[^0-9]+", ",", match[0])
    return digits.ljust(len(match[0]))


def _comma_money(match: re.Match[str]) -> str:
    """`1.043,40` before a euro sign: the comma is the decimal mark, whatever the language."""
    whole = match[1].replace(".", "").replace(",", "").replace(" ", "")
    return f"{whole}.{match[2]}".rjust(len(match[0]))


def _dotted_decimal(match: re.Match[str]) -> str:
    """`1.043,40` as `1043.40`, with a blank before it."""
    return f"{match[1].replace('.', '')}.{match[2]}".rjust(len(match[0]))


def tokenize(text: str) -> list[Token]:
    """Tokens of a text, white space dropped. The end of a line inside an equation is dropped too.

    That is the one before `=`, the one after `=`, and the one after an operator that follows a number.
    """
    tokens: list[Token] = []
    new = tuple.__new__  # half the time of Token(...), of which a text makes hundreds
    for match in _TOKEN.finditer(plain(text).rstrip(_BLANKS)):
        index = match.lastindex or 0
        kind, written = _KINDS[index], match[index]
        if kind == "other" and written[-1] == ">":
            kind = "stop"
        token = new(Token, (kind, written, *match.span(index)))
        if tokens:
            if kind == "equals":
                while tokens and tokens[-1].kind == "stop" and tokens[-1].text[0] == "\n":
                    tokens.pop()
            elif kind == "stop" and token.text[0] == "\n" and _goes_on(tokens):
                continue
        tokens.append(token)
    return tokens


def _goes_on(tokens: list[Token]) -> bool:
    """Whether the line that ends here goes on in the next one."""
    if tokens[-1].kind == "equals":
        return True
    return tokens[-1].kind == "op" and len(tokens) > 1 and tokens[-2].kind in ("number", "mixed", "close", "percent")

"""Surface forms in Chinese, Spanish, French and German, each with its number style: (draw, right) -> `Line`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tests.unit.grading.solution_draws import Draw, Line, shown_value
from tests.unit.grading.solution_markup_forms import latex_aligned, latex_display
from tests.unit.grading.solution_numbers import spell


@dataclass(frozen=True, slots=True)
class Words:
    """What one language writes around its equations."""

    leads: tuple[str, ...]
    """Never empty where a dot sets off thousands: the words tell how to read it."""
    units: tuple[str, ...]
    end: str
    operators: tuple[tuple[str, str], ...]
    equals: tuple[str, ...]


WORDS = {
    "zh": Words(
        leads=("所以", "一共有 ", "小明有 ", "因此 ", ""),
        units=(" 个", "个", " 元", "元", " 本", "只", " 公里"),
        end="。",
        operators=(("加", "+"), ("减", "-"), ("乘以", "*"), ("除以", "/")),
        equals=("等于", "是"),
    ),
    "es": Words(
        leads=("Entonces ", "En total hay ", "María tiene ", "Así que "),
        units=(" manzanas", " libros", " euros", " €", " niños"),
        end=".",
        operators=((" más ", "+"), (" menos ", "-"), (" por ", "*"), (" dividido por ", "/")),
        equals=(" es ", " es igual a ", " son "),
    ),
    "fr": Words(
        leads=("Donc ", "En tout, il y a ", "Élise a ", "Ainsi ", ""),
        units=(" pommes", " livres", " euros", " €", " élèves"),
        end=".",
        operators=((" plus ", "+"), (" moins ", "-"), (" fois ", "*"), (" divisé par ", "/")),
        equals=(" font ", " est égal à ", " égale "),
    ),
    "de": Words(
        leads=("Also ", "Insgesamt sind es ", "Jürgen hat ", "Das sind "),
        units=(" Äpfel", " Bücher", " Euro", " €", " Schüler"),
        end=".",
        operators=((" plus ", "+"), (" minus ", "-"), (" mal ", "*"), (" geteilt durch ", "/")),
        equals=(" ist ", " ergibt ", " ist gleich "),
    ),
}


def _words(draw: Draw) -> Words:
    return WORDS[draw.language]


def local_bare(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    equals = draw.pick("=", "=", "＝") if draw.language == "zh" else "="
    notation = draw.notation()
    text = f" {equals} ".join(spell(field, notation) for field in equation.fields)
    if draw.language == "zh" and draw.rng.random() < 0.2:
        text = text.translate(str.maketrans("0123456789+", "０１２３４５６７８９＋"))
    return Line(f"{draw.pick(*words.leads)}{text}{words.end}", shown_value(equation))


def local_units(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    equation = draw.equation(right)
    text = draw.spell(equation, after=draw.pick(*words.units))
    return Line(f"{draw.pick(*words.leads)}{text}{words.end}", shown_value(equation))


def local_result_unit(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    equation = draw.equation(right)
    unit = draw.pick(*words.units)
    unit = draw.pick(unit, f"（{unit.strip()}）") if draw.language == "zh" else unit
    return Line(f"{draw.pick(*words.leads)}{draw.spell(equation)}{unit}{words.end}", shown_value(equation))


def local_money(draw: Draw, right: bool) -> Line:
    """Amounts with two decimals, behind the decimal mark of the language."""
    words = _words(draw)
    equation = draw.equation(right, decimals=2)
    after = (
        draw.pick(" 元", "元")
        if draw.language == "zh"
        else draw.pick(" €", " euros" if draw.language != "de" else " Euro")
    )
    return Line(f"{draw.pick(*words.leads)}{draw.spell(equation, after=after)}{words.end}", shown_value(equation))


def local_thousands(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    equation = draw.equation(right, size=90_000)
    return Line(f"{draw.pick(*words.leads)}{draw.spell(equation)}{words.end}", shown_value(equation))


def local_words(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    name, sign = draw.rng.choice(words.operators)
    a, b = draw.whole(2, 24), draw.whole(2, 24)
    left, true = {"+": (a, a + b), "-": (a + b, a), "*": (a, a * b), "/": (a * b, a)}[sign]
    said = draw.said(true, right)
    text = f"{left}{name}{b}{draw.pick(*words.equals)}{draw.show(said)}"
    return Line(f"{text}{words.end}", said)


def local_percent(draw: Draw, right: bool) -> Line:
    words = _words(draw)
    percent, base = draw.rng.choice([10, 20, 25, 50, 75]), 20 * draw.whole(2, 40)
    said = draw.said(Fraction(percent * base, 100), right)
    gap = draw.pick("", " ") if draw.language in ("fr", "de") else ""
    text = f"{base} × {percent}{gap}% = {draw.show(said)}"
    return Line(f"{draw.pick(*words.leads)}{text}{words.end}", said)


FORMS = (
    local_bare,
    local_units,
    local_result_unit,
    local_money,
    local_thousands,
    local_words,
    local_percent,
    latex_display,
    latex_aligned,
)

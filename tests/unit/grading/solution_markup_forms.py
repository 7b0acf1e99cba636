"""Surface forms in LaTeX, Markdown, tables and words: (draw, right) -> `Line`. See `solution_forms.py`."""

from __future__ import annotations

from fractions import Fraction

from tests.unit.grading.solution_draws import Draw, Line, shown_value
from tests.unit.grading.solution_numbers import Equation, Notation, spell

LATEX = {"times": "\\times", "divide": "\\div", "minus": "-"}


def _latex(draw: Draw, **changes: str) -> Notation:
    return draw.notation(**{**LATEX, "times": draw.pick("\\times", "\\cdot", "*"), "thousands": "", **changes})


def _equals(equation: Equation, notation: Notation, sign: str = " = ") -> str:
    return sign.join(spell(field, notation) for field in equation.fields)


def latex_inline(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    maths = _equals(equation, _latex(draw))
    around = draw.pick("\\({}\\)", "${}$", "\\( {} \\)")
    return Line(f"{draw.pick('So ', 'Then ', 'We have ')}{around.format(maths)}.", shown_value(equation))


def latex_display(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    maths = _equals(equation, _latex(draw))
    return Line(
        draw.pick("\\[ {} \\]", "$$ {} $$", "\\[\n{}\n\\]", "$$\n{}\n$$").format(maths), shown_value(equation), True
    )


def latex_aligned(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=True)
    first, *rest = (spell(field, _latex(draw)) for field in equation.fields)
    lead = draw.pick("", "\\text{Total} &= ")
    step = "\n&= " if lead else " &= "
    lines = (lead + first + step.replace("\n", " \\\\\n") + " \\\\\n&= ".join(rest)).strip()
    name = draw.pick("aligned", "align*")
    body = f"\\begin{{{name}}}\n{lines}\n\\end{{{name}}}"
    return Line(f"\\[\n{body}\n\\]" if name == "aligned" else body, shown_value(equation), True)


def latex_fraction(draw: Draw, right: bool) -> Line:
    divisor, quotient = draw.whole(2, 24), draw.whole(2, 90)
    said = draw.said(quotient, right)
    command = draw.pick("\\frac", "\\dfrac", "\\tfrac")
    return Line(f"So ${command}{{{divisor * quotient}}}{{{divisor}}} = {draw.show(said)}$ each.", said)


def latex_short_fraction(draw: Draw, right: bool) -> Line:
    below = draw.whole(2, 9)
    part = draw.whole(2, 90)
    said = draw.said(part, right)
    command = draw.pick("\\frac1", "\\dfrac1", "\\frac{1}")
    return Line(
        f"So ${command}{below if command[-1] == '1' else f'{{{below}}}'} \\times {part * below} = {draw.show(said)}$.",
        said,
    )


def latex_text_units(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    thing = draw.thing()
    after = draw.pick(f" \\text{{ {thing}}}", f"\\text{{ {thing}}}", f"\\ \\text{{{thing}}}", f"\\,\\mathrm{{{thing}}}")
    maths = _equals(equation, _latex(draw, after=after))
    return Line(draw.pick("\\[ {} \\]", "\\( {} \\)").format(maths), shown_value(equation), True)


def latex_money(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, decimals=draw.rng.choice([0, 2]))
    maths = _equals(equation, _latex(draw, before="\\$"))
    return Line(draw.pick("\\[ {} \\]", "\\( {} \\)", "${}$").format(maths), shown_value(equation), True)


def latex_thousands(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, size=90_000)
    maths = _equals(equation, _latex(draw, thousands=draw.pick("{,}", ",\\!", ",", "\\,")))
    return Line(draw.pick("\\[ {} \\]", "\\( {} \\)", "${}$").format(maths), shown_value(equation), True)


def latex_parentheses(draw: Draw, right: bool) -> Line:
    a, b, c = draw.whole(2, 30), draw.whole(2, 30), draw.whole(2, 9)
    said = draw.said((a + b) * c, right)
    return Line(f"\\( {c} \\times \\left({a} + {b}\\right) = {draw.show(said)} \\)", said)


def latex_power(draw: Draw, right: bool) -> Line:
    base, exponent = draw.whole(2, 12), draw.whole(2, 3)
    said = draw.said(base**exponent, right)
    raised = draw.pick(f"{base}^{exponent}", f"{base}^{{{exponent}}}")
    return Line(f"Now ${raised} = {draw.show(said)}$.", said)


def latex_label(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    label = draw.pick("\\text{Total cost}", "\\text{Pens}", "\\text{Total}", "\\textbf{Total}")
    return Line(f"\\[ {label} = {_equals(equation, _latex(draw))} \\]", shown_value(equation), True)


def numbers_in_dollars(draw: Draw, right: bool) -> Line:
    """`$5$ + $3$ = $8$`: each number in its own maths marks."""
    equation = draw.equation(right)
    return Line(f"So we get {draw.spell(equation, around='${}$')}.", shown_value(equation), True)


def marked_result(draw: Draw, right: bool) -> Line:
    fields = draw.equation(right, decimals=draw.rng.choice([0, 0, 2]))
    left = draw.spell(Equation(fields.fields[:-1]), times="×")
    result = draw.show(abs(fields.result.value), fields.result.decimals)
    sign = "-" if fields.result.value < 0 else ""
    mark = draw.pick("**{}**", "*{}*", "`{}`", "__{}__", "***{}***", "_{}_")
    before = draw.pick("", "$")
    return Line(f"So {left} = {mark.format(sign + before + result)}.", shown_value(fields))


def bold_equation(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    mark = draw.pick("**{}**", "*{}*", "`{}`")
    return Line(f"{draw.pick('So ', 'Total: ')}{mark.format(draw.spell(equation, times='×'))}.", shown_value(equation))


def list_item(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    mark = draw.pick("- ", "* ", "+ ", "• ", f"{draw.whole(1, 9)}. ", f"{draw.whole(1, 9)}) ", f"({draw.whole(1, 9)}) ")
    label = draw.pick("", "Pens: ", "**Pens:** ", "Cost of pens = ", "**Total** = ", "The pens cost ")
    return Line(f"{mark}{label}{draw.spell(equation)}", shown_value(equation), True)


def step_heading(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    step = draw.whole(1, 9)
    heading = draw.pick(f"**Step {step}:** ", f"### Step {step}\n", f"Step {step}. ", f"**{step}. Find the sum**\n")
    return Line(f"{heading}{draw.spell(equation)}", shown_value(equation), True)


def table(draw: Draw, right: bool) -> Line:
    rows = [draw.equation(True), draw.equation(right)]
    head = "| Item | Calculation |\n|---|---|\n"
    body = "\n".join(f"| {draw.thing()} | {draw.spell(row, times='×')} |" for row in rows)
    return Line(head + body, shown_value(rows[-1]), True)


def words_as_operators(draw: Draw, right: bool) -> Line:
    a, b = draw.whole(2, 24), draw.whole(2, 24)
    word, left, true = draw.rng.choice(
        [
            ("plus", a, a + b),
            ("minus", a + b, a),
            ("times", a, a * b),
            ("multiplied by", a, a * b),
            ("divided by", a * b, a),
        ]
    )
    said = draw.said(true, right)
    equals = draw.pick("is", "equals", "is equal to", "makes", "gives")
    lead = draw.pick("", "So ", "Now ", "We know that ")
    return Line(f"{lead}{left} {word} {b} {equals} {draw.show(said)}.", said)


def signs_and_words(draw: Draw, right: bool) -> Line:
    """`5 + 3 equals 8`, `5 times 3 = 15`."""
    a, b = draw.whole(2, 24), draw.whole(2, 24)
    sign, true = draw.rng.choice([("+", a + b), ("×", a * b), ("*", a * b)])
    said = draw.said(true, right)
    words, thing = "plus" if sign == "+" else "times", draw.thing()
    text = draw.pick(
        f"{a} {sign} {b} {draw.pick('equals', 'is', 'gives', 'is equal to')} {draw.show(said)}",
        f"{a} {words} {b} = {draw.show(said)}",
        f"{a} {words} {b} {thing} = {a} {sign} {b} = {draw.show(said)}",
    )
    return Line(f"{draw.pick('That is ', 'So ', '')}{text} {thing}.", said)


def twice_and_half(draw: Draw, right: bool) -> Line:
    part = draw.whole(2, 90)
    left, true = draw.rng.choice(
        [
            (f"Half of {2 * part}", part),
            (f"Twice {part}", 2 * part),
            (f"A third of {3 * part}", part),
            (f"The sum of {part} and {part + 3}", 2 * part + 3),
            (f"The product of {part} and 4", 4 * part),
        ]
    )
    said = draw.said(true, right)
    return Line(f"{left} {draw.pick('is', 'equals', '=')} {draw.show(said)}.", Fraction(said))


FORMS = (
    latex_inline,
    latex_display,
    latex_aligned,
    latex_fraction,
    latex_short_fraction,
    latex_text_units,
    latex_money,
    latex_thousands,
    latex_parentheses,
    latex_power,
    latex_label,
    numbers_in_dollars,
    marked_result,
    bold_equation,
    list_item,
    step_heading,
    table,
    words_as_operators,
    signs_and_words,
    twice_and_half,
)

"""Surface forms of plain equations in English: (draw, right) -> `Line`, whose equations hold exactly when `right`.

Each form is one that a careful reader reads in one way only. `FORMS` names them.
"""

from __future__ import annotations

from fractions import Fraction

from tests.unit.grading.solution_draws import Draw, Line, shown_value
from tests.unit.grading.solution_numbers import Equation, Number, Operation, evaluate, falsified, result_of, spell


def bare(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    lead = draw.pick("", "So ", "Then ", "First, ", "We get ", "That makes ", "Next: ", "This is ")
    return Line(f"{lead}{draw.spell(equation)}.", shown_value(equation))


def compact(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    return Line(f"{draw.pick('', 'Total: ', 'So ')}{draw.spell(equation, gap='')}.", shown_value(equation))


def with_units(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    lead = draw.pick("", f"{draw.name()} has ", "In all there are ", "Together they have ", "That is ")
    return Line(f"{lead}{draw.spell(equation, after=' ' + draw.thing())}.", shown_value(equation))


def unit_of_result(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    tail = draw.pick("", " in all", " left", " altogether", " for the whole class", ", so that is enough")
    return Line(f"{draw.name()} has {draw.spell(equation)} {draw.thing()}{tail}.", shown_value(equation))


def dollars(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, decimals=draw.rng.choice([0, 2]), chain=draw.rng.random() < 0.3)
    lead = draw.pick("", "She pays ", "The total is ", "He earns ", "It costs ")
    return Line(f"{lead}{draw.spell(equation, before='$')}.", shown_value(equation))


def other_currency(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, decimals=draw.rng.choice([0, 2]))
    before, after = draw.rng.choice([("£", ""), ("€", ""), ("", " dollars"), ("", " euros"), ("", " cents"), ("₹", "")])
    return Line(f"She pays {draw.spell(equation, before=before, after=after)}.", shown_value(equation))


def thousands(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, size=90_000)
    mark = draw.pick(",", " ", "\u202f", "\u00a0")
    return Line(f"{draw.spell(equation, thousands=mark, before=draw.pick('', '$'))}.", shown_value(equation))


def reversed_sides(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    left, result = equation.fields
    text = draw.spell(Equation((result, left)))
    return Line(f"{draw.pick('So ', 'Then ', '')}{text}.", shown_value(equation))


def in_parentheses(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    return Line(f"{draw.name()} has all of them ({draw.spell(equation)}).", shown_value(equation))


def colon_label(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    label = draw.pick(
        "Total", "Total cost", f"Week {draw.whole(1, 9)}", f"Day {draw.whole(1, 9)} total", f"Step {draw.whole(1, 9)}"
    )
    return Line(f"{label}: {draw.spell(equation, before=draw.pick('', '$'))}", shown_value(equation), block=True)


def named_left(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.3)
    name = draw.pick(
        "Total", "Total cost", "Number of pens", "Her profit", "Money left", "Sum", "Cost", "x", "T", "Area"
    )
    return Line(f"{name} = {draw.spell(equation, before=draw.pick('', '$'))}", shown_value(equation), block=True)


def number_in_label(draw: Draw, right: bool) -> Line:
    count, price = draw.whole(2, 60), draw.whole(2, 90)
    product = Operation("*", Number(Fraction(count)), Number(Fraction(price), 0, True))
    equation = Equation((product, result_of(product)))
    equation = equation if right else falsified(draw.rng, equation)
    thing = draw.thing()
    label = draw.pick(
        f"Cost of {count} {thing}",
        f"Price for {count} {thing}",
        f"{count} {thing} at ${price} each",
        f"{count} {thing}",
    )
    return Line(f"{label} = {draw.spell(equation, before='$')}", shown_value(equation), block=True)


def age_label(draw: Draw, right: bool) -> Line:
    age, years = draw.whole(10, 60), draw.whole(2, 9)
    said = draw.said(age + years, right)
    text = f"{draw.name()}'s age in {years} years = {age} + {years} = {draw.show(said)}"
    return Line(text, said, block=True)


def share_label(draw: Draw, right: bool) -> Line:
    share, word = draw.rng.choice([(2, "Half"), (3, "A third"), (4, "A quarter"), (5, "A fifth")])
    part = draw.whole(2, 90)
    said = draw.said(part, right)
    text = f"{word} of {part * share} {draw.thing()} = {part * share} / {share} = {draw.show(said)}"
    return Line(text, said, block=True)


def fraction_label(draw: Draw, right: bool) -> Line:
    share, part = draw.whole(3, 9), draw.whole(2, 900)
    said = draw.said(part, right)
    text = f"1/{share} of the tank's capacity = {part * share} / {share} = {draw.show(said)} gallons"
    return Line(text, said, block=True)


def named_sum(draw: Draw, right: bool) -> Line:
    first, second, third = draw.whole(2, 90), draw.whole(2, 90), draw.whole(2, 90)
    said = draw.said(first + second + third, right)
    a, b, c = draw.rng.sample(["Ann", "Bea", "Cal", "Dora", "Ed"], 3)
    thing = draw.thing()
    sums = f"{first} + {second} + {third} = {draw.show(said)}"
    text = draw.pick(
        f"{a} has {first} {thing} + {b} has {second} {thing} + {c} has {third} {thing} = {sums} {thing}.",
        f"The sum is {a}'s age ({first}) + {b}'s age ({second}) + {c}'s age ({third}) = {sums}.",
        f"{a} ({first}) + {b} ({second}) + {c} ({third}) = {draw.show(said)}.",
        f"Total = {a}'s {thing} + {b}'s {thing} + {c}'s {thing} = {sums}.",
    )
    return Line(text, said)


def over_lines(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right, chain=draw.rng.random() < 0.5)
    notation = draw.notation()
    fields = [spell(field, notation) for field in equation.fields]
    lead, indent = draw.rng.choice([("Total = ", "      "), ("", ""), ("x = ", "  "), ("Total cost = ", "           ")])
    return Line(lead + f"\n{indent}= ".join(fields), shown_value(equation), block=True)


def run_on(draw: Draw, right: bool) -> Line:
    """Three equations in one sentence, each going on from the one before."""
    a, b, c, d = draw.whole(2, 90), draw.whole(2, 90), draw.whole(2, 9), draw.whole(2, 9)
    values = [a + b, (a + b) * c, (a + b) * c + d]
    said: list[Fraction] = [Fraction(value) for value in values]
    if not right:
        place = draw.rng.randrange(3)
        said[place] = draw.off(values[place])
    first, second, third = (draw.show(value) for value in said)
    text = draw.pick(
        f"{a} + {b} = {first}, {values[0]} * {c} = {second} and {values[1]} + {d} = {third}.",
        f"{a} + {b} = {first}; {values[0]} × {c} = {second}; {values[1]} + {d} = {third}.",
        f"{a} + {b} = {first}, then {values[0]} x {c} = {second}, so {values[1]} + {d} = {third}.",
    )
    return Line(text, said[2])


def brackets(draw: Draw, right: bool) -> Line:
    a, b, c = draw.whole(2, 30), draw.whole(2, 30), draw.whole(2, 9)
    said = draw.said((a + b) * c, right)
    inner = f"{a} + {b}"
    left = draw.pick(f"{c}({inner})", f"({inner}) × {c}", f"[{inner}] * {c}", f"({inner})({c})", f"{c} * ({inner})")
    return Line(f"So {left} = {draw.show(said)}.", said)


def powers(draw: Draw, right: bool) -> Line:
    base, exponent = draw.whole(2, 12), draw.whole(2, 3)
    said = draw.said(base**exponent, right)
    raised = draw.pick(f"{base}^{exponent}", f"{base}{'²' if exponent == 2 else '³'}", f"{base}**{exponent}")
    return Line(f"Now {raised} = {draw.show(said)}.", said)


def escaped_times(draw: Draw, right: bool) -> Line:
    equation = draw.equation(right)
    return Line(f"{draw.spell(equation, times=chr(92) + '*')}.", shown_value(equation))


def other_minus(draw: Draw, right: bool) -> Line:
    a, b = draw.whole(2, 90), draw.whole(2, 90)
    said = draw.said(a, right)
    return Line(f"So {a + b} {draw.pick('−', '–')} {b} = {draw.show(said)} {draw.thing()}.", said)


def annotation(draw: Draw, right: bool) -> Line:
    """GSM8K's form, with the mistake inside of `<<...>>`, outside, or in both."""
    equation = draw.equation(True, decimals=draw.rng.choice([0, 0, 2]))
    wrong = equation if right else falsified(draw.rng, equation)
    where = draw.rng.randrange(3) if not right else 0
    inside, outside = (wrong if where != 1 else equation), (wrong if where != 2 else equation)
    before = draw.pick("", "$")
    left = draw.spell(Equation((*outside.fields[:-1],)), before=before)
    result = draw.show(abs(outside.result.value), outside.result.decimals)
    inner = draw.spell(inside, gap="", times="*", divide="/")
    return Line(f"{draw.name()} has {left} = {before}<<{inner}>>{result}.", shown_value(equation))


def annotation_beside_prose(draw: Draw, right: bool) -> Line:
    note = annotation(draw, True)
    prose = unit_of_result(draw, right)
    return Line(f"{note.text} {prose.text}", prose.value)


def taken_back(draw: Draw, right: bool) -> Line:
    """A wrong equation that the text itself takes back; the mended one holds, or not."""
    a, b = draw.whole(2, 90), draw.whole(2, 90)
    said = draw.said(a + b, right)
    first = draw.off(a + b)
    while first == said:
        first = draw.off(a + b)
    words = draw.pick(
        "Wait, that is wrong:", "No, that's a mistake.", "Wait, let me correct that:", "That is incorrect;"
    )
    return Line(f"{a} + {b} = {draw.show(first)}. {words} {a} + {b} = {draw.show(said)}.", said)


def implied_chain_in_words(draw: Draw, right: bool) -> Line:
    expression = Operation("*", Number(Fraction(draw.whole(2, 24))), Number(Fraction(draw.whole(2, 90))))
    said = draw.said(evaluate(expression), right)
    thing = draw.thing()
    text = f"With {draw.spell(Equation((expression,)))} = {draw.show(said)} {thing} on the shelf, she is done."
    return Line(text, said)


FORMS = (
    bare,
    compact,
    with_units,
    unit_of_result,
    dollars,
    other_currency,
    thousands,
    reversed_sides,
    in_parentheses,
    colon_label,
    named_left,
    number_in_label,
    age_label,
    share_label,
    fraction_label,
    named_sum,
    over_lines,
    run_on,
    brackets,
    powers,
    escaped_times,
    other_minus,
    annotation,
    annotation_beside_prose,
    taken_back,
    implied_chain_in_words,
)

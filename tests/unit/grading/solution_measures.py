"""Surface forms with units that convert, rates, percentages, fractions, rounding, clock times and algebra.

(draw, right) -> `Line`, whose arithmetic holds exactly when `right`. See `solution_forms.py`.
"""

from __future__ import annotations

from fractions import Fraction

from tests.unit.grading.solution_draws import Draw, Line

CONVERSIONS = (
    (60, "minutes", "hours"),
    (60, "seconds", "minutes"),
    (24, "hours", "days"),
    (7, "days", "weeks"),
    (12, "months", "years"),
    (12, "inches", "feet"),
    (3, "feet", "yards"),
    (100, "cm", "m"),
    (10, "mm", "cm"),
    (1000, "m", "km"),
    (1000, "g", "kg"),
    (1000, "ml", "liters"),
    (16, "ounces", "pounds"),
)
"""How many of the first unit make one of the second."""


def conversion(draw: Draw, right: bool) -> Line:
    """`180 minutes = 3 hours`, with a digit or a unit wrong otherwise."""
    size, small, large = draw.rng.choice(CONVERSIONS)
    count = draw.whole(2, 20)
    many, few = count * size, count
    big = draw.rng.random() < 0.5
    said = draw.said(few if big else many, right)
    if big:
        return Line(f"That is {many} {small} = {draw.show(said)} {large}.", said)
    return Line(f"That is {few} {large} = {draw.show(said)} {small}.", said)


def conversion_of_product(draw: Draw, right: bool) -> Line:
    """`4 * 30 minutes = 2 hours`; otherwise a digit is wrong, or the result keeps the small unit."""
    size, small, large = draw.rng.choice(CONVERSIONS)
    count, share = draw.whole(2, 12), draw.rng.choice([n for n in range(2, size + 1) if size % n == 0])
    result = count
    said, unit = Fraction(result), large
    if not right and draw.rng.random() < 0.4:
        unit = small
    else:
        said = draw.said(result, right)
    sign = draw.pick("*", "×", "x")
    return Line(f"She needs {count * share} {sign} {size // share} {small} = {draw.show(said)} {unit}.", said)


def conversion_over_product(draw: Draw, right: bool) -> Line:
    """`3 hours * 60 minutes/hour = 180 minutes`."""
    size, small, large = draw.rng.choice(CONVERSIONS)
    count = draw.whole(2, 12)
    said = draw.said(count * size, right)
    one = {"feet": "foot", "pounds": "pound"}.get(large, large.rstrip("s"))
    rate = draw.pick(f"{size} {small}/{one}", f"{size} {small} per {one}", f"{size}")
    return Line(f"So {count} {large} * {rate} = {draw.show(said)} {small}.", said)


def cents_and_dollars(draw: Draw, right: bool) -> Line:
    coin, count = draw.rng.choice([5, 10, 25, 50]), draw.whole(2, 40)
    cents = Fraction(coin * count)
    said = draw.off(cents / 100, 2) if not right else cents / 100
    money = f"${draw.show(said, 0 if said.denominator == 1 else 2)}"
    sign = draw.pick("*", "×", "x")
    text = draw.pick(
        f"He has {count} {sign} {coin} cents = {money}.",
        f"He has {count} {sign} {coin} = {cents} cents = {money}.",
        f"He has {cents} cents = {money}.",
        f"He has {count} {sign} $0.{coin:02d} = {money}.",
    )
    return Line(text, said)


def dozens(draw: Draw, right: bool) -> Line:
    count = draw.whole(2, 30)
    said = draw.said(12 * count, right)
    return Line(
        draw.pick("So {0} * 12 = {1} eggs.", "So {0} dozen * 12 = {1} eggs.").format(count, draw.show(said)), said
    )


def rate(draw: Draw, right: bool) -> Line:
    each, count = draw.whole(2, 90), draw.whole(2, 24)
    product = draw.show(draw.said(each * count, right))
    quotient = draw.show(draw.said(count, right))
    text, value = draw.rng.choice(
        [
            (f"He drives {each} miles/hour * {count} hours = {product} miles.", product),
            (f"He drives {each} miles per hour * {count} hours = {product} miles.", product),
            (f"She pays ${each} per pen * {count} pens = ${product}.", product),
            (f"She pays ${each}/pen x {count} pens = ${product}.", product),
            (f"She pays {count} pens * ${each}/pen = ${product}.", product),
            (f"She pays {count} pens at ${each} each: {count} * ${each} = ${product}.", product),
            (f"It takes {each * count} miles / {each} mph = {quotient} hours.", quotient),
            (f"It takes {each * count} miles / {each} miles per hour = {quotient} hours.", quotient),
            (f"It takes {each * count} miles ÷ {each} miles/hour = {quotient} hours.", quotient),
            (f"They fill ${each * count} / ${each} per box = {quotient} boxes.", quotient),
            (f"He earns ${each} an hour * {count} hours = ${product}.", product),
            (f"He needs {each} grams/cat x {count} cats = {each} x {count} = {product} grams.", product),
        ]
    )
    return Line(text, draw.read(value))


def mixed_measures(draw: Draw, right: bool) -> Line:
    days, price = draw.whole(2, 60), draw.whole(2, 60)
    said = draw.show(draw.said(days * price, right))
    text = draw.pick(
        f"{days} days x ${price} = ${said}.",
        f"{days} hours * ${price} = ${said}.",
        f"{days} weeks × {price} miles = {said} miles.",
        f"{days} boxes × {price} pens = {said} pens.",
        f"{days} boxes × {price} pens per box = {said} pens.",
    )
    return Line(text, draw.read(said))


def areas(draw: Draw, right: bool) -> Line:
    wide, long, deep = draw.whole(2, 30), draw.whole(2, 30), draw.whole(2, 9)
    unit = draw.pick("m", "cm", "ft", "in")
    if draw.rng.random() < 0.6:
        said = draw.show(draw.said(wide * long, right))
        square = draw.pick(f"{unit}²", f"{unit}^2", f"square {unit}", f"sq {unit}")
        return Line(f"The area is {wide} {unit} × {long} {unit} = {said} {square}.", draw.read(said))
    said = draw.show(draw.said(wide * long * deep, right))
    cube = draw.pick(f"{unit}³", f"{unit}^3", f"cubic {unit}")
    return Line(f"The volume is {wide} {unit} × {long} {unit} × {deep} {unit} = {said} {cube}.", draw.read(said))


def percentage(draw: Draw, right: bool) -> Line:
    """Forms with one reading only: the share of a number, its rest, its increase."""
    percent = draw.rng.choice([5, 10, 15, 20, 25, 30, 40, 60, 75, 80])
    base = 20 * draw.whole(2, 40)
    part = Fraction(base * percent, 100)
    times = draw.pick("*", "×", "x")
    left, true = draw.rng.choice(
        [
            (f"{percent}% of {base}", part),
            (f"{percent}% of ${base}", part),
            (f"{base} {times} {percent}%", part),
            (f"{percent}% {times} {base}", part),
            (f"${base} {times} {percent}%", part),
            (f"{base} {times} {percent}/100", part),
            (f"{base} {times} ({percent}/100)", part),
            (f"{base} {times} (1 - {percent}%)", base - part),
            (f"{base} {times} (100% - {percent}%)", base - part),
            (f"{base} {times} (1 + {percent}%)", base + part),
            (f"${base} - {percent}% of ${base}", base - part),
            (f"${base} + ${base} {times} {percent}%", base + part),
            (f"{base} - ({base} {times} {percent}%)", base - part),
            (f"{base} {times} 0.{percent:02d}", part),
            (f"{percent} percent of {base}", part),
        ]
    )
    said = draw.said(true, right)
    money = "$" if left.startswith("$") or "of $" in left else ""
    return Line(f"{draw.pick('So ', 'That is ', '')}{left} = {money}{draw.show(said)}.", said)


def percent_result(draw: Draw, right: bool) -> Line:
    percent, base = draw.whole(2, 99), 100 * draw.whole(1, 9)
    part = percent * base // 100
    said = draw.show(draw.said(percent, right))
    text = draw.pick(
        f"{part} / {base} = {said}%",
        f"{part}/{base} = {said}% of them",
        f"({part} / {base}) * 100 = {said}%",
        f"{part} / {base} × 100% = {said}%",
        f"{part} / {base} * 100 = {said} percent",
        f"(${part} / ${base}) × 100 = {said}%",
        f"({base} - {base - part}) / {base} = {said}%",
        f"{part} ÷ {base} = {draw.show(Fraction(percent, 100), 2)} = {said}%",
    )
    return Line(f"So {text}.", draw.read(said))


def fraction_of(draw: Draw, right: bool) -> Line:
    below = draw.whole(2, 9)
    above = draw.whole(1, below - 1)
    part = draw.whole(2, 90)
    said = draw.said(above * part, right)
    left = draw.pick(
        f"{above}/{below} of {below * part}",
        f"{above}/{below} * {below * part}",
        f"({above}/{below}) × {below * part}",
        f"{below * part} × {above}/{below}",
        f"{below * part} * ({above}/{below})",
    )
    return Line(f"{draw.pick('So ', 'Then ', 'He eats ')}{left} = {draw.show(said)} {draw.thing()}.", said)


def fraction_sum(draw: Draw, right: bool) -> Line:
    a, b = Fraction(draw.whole(1, 5), draw.whole(6, 9)), Fraction(draw.whole(1, 5), draw.whole(6, 9))
    total = a + b
    if not right:
        total += Fraction(draw.whole(1, 3), total.denominator)
    shown = f"{total.numerator}/{total.denominator}" if total.denominator > 1 else str(total)
    return Line(f"So {a} + {b} = {shown}.", total if total.denominator == 1 else None)


def half_signs(draw: Draw, right: bool) -> Line:
    sign, share = draw.rng.choice([("½", Fraction(1, 2)), ("¼", Fraction(1, 4)), ("¾", Fraction(3, 4))])
    base = 4 * draw.whole(2, 50)
    said = draw.said(share * base, right)
    times = draw.pick("×", "*", "of")
    return Line(f"So {sign} {times} {base} = {draw.show(said)}.", said)


def mixed_number(draw: Draw, right: bool) -> Line:
    whole, count = draw.whole(1, 9), 2 * draw.whole(1, 20)
    said = draw.said((whole + Fraction(1, 2)) * count, right)
    text = draw.pick(
        f"{whole} 1/2 * {count}", f"{count} × {whole} 1/2", f"{whole}½ × {count}", f"{whole} 1/2 hours * {count}"
    )
    return Line(f"So {text} = {draw.show(said)}.", said)


def division_by_fraction(draw: Draw, right: bool) -> Line:
    below, count = draw.whole(2, 9), draw.whole(2, 40)
    value = draw.said(count * below, right)
    while not right and value * below == count:  # read from left to right, as `12 ÷ 3/2` may be, it holds
        value = draw.off(count * below)
    said = draw.show(value)
    text = draw.pick(
        f"{count} ÷ 1/{below} = {said}",
        f"{count} / (1/{below}) = {said}",
        f"{count} pounds ÷ 1/{below} pound per toy = {said} toys",
        f"{count} cups ÷ 1/{below} cup per cake = {said} cakes",
    )
    return Line(f"So {text}.", draw.read(said))


def rounded(draw: Draw, right: bool) -> Line:
    """A quotient to two or three decimals, rounded or truncated; a wrong digit is off by more than "about" allows."""
    divisor = draw.rng.choice([3, 6, 7, 9, 11, 12, 13])
    top = divisor * draw.whole(1, 20) + draw.whole(1, divisor - 1)
    decimals = draw.whole(2, 3)
    true = Fraction(top, divisor)
    shown = Fraction(round(true * 10**decimals), 10**decimals)
    tail = draw.pick("", "", " (rounded)", " each", f", rounded to {decimals} decimals")
    if "rounded" not in tail and draw.rng.random() < 0.3:
        shown = Fraction(true * 10**decimals // 1, 10**decimals)
    while not right and abs(shown - true) <= true / 4:
        shown = draw.off(shown, decimals)
    sign = draw.pick("=", "=", "≈", "≈", "is about", "is approximately")
    return Line(f"So {top} {draw.pick('/', '÷')} {divisor} {sign} {draw.show(shown, decimals)}{tail}.", shown)


def rounded_whole(draw: Draw, right: bool) -> Line:
    divisor = draw.rng.choice([3, 7, 9, 11, 13])
    top = divisor * draw.whole(10, 90) + draw.whole(1, divisor - 1)
    true = Fraction(top, divisor)
    shown = Fraction(round(true))
    while not right and abs(shown - true) <= true / 4:
        shown = draw.off(shown)
    text = draw.pick(
        f"{top} / {divisor} ≈ {shown}",
        f"{top} / {divisor} is about {shown}",
        f"{top} / {divisor} = {shown}, rounded to the nearest whole number",
        f"{top} / {divisor} ≈ {shown} (rounded)",
    )
    return Line(f"So {text}.", shown)


def remainder(draw: Draw, right: bool) -> Line:
    divisor, quotient = draw.whole(3, 12), draw.whole(3, 40)
    left = draw.whole(1, divisor - 1)
    said = quotient if right else int(draw.off(quotient))
    while not right and abs(said - quotient) < 2:
        said = int(draw.off(quotient))
    text = draw.pick(
        f"{divisor * quotient + left} ÷ {divisor} = {said} remainder {left}",
        f"{divisor * quotient + left} / {divisor} = {said} R {left}",
        f"{divisor * quotient + left} / {divisor} = {said} with {left} left over",
        f"{divisor * quotient + left} / {divisor} = {said}, with a remainder of {left}",
    )
    return Line(f"So {text}.", Fraction(quotient))


def rounded_factor(draw: Draw, right: bool) -> Line:
    """A rounded quotient, then its product with the divisor, which is the number divided."""
    divisor, top = draw.rng.choice([3, 6, 7, 9, 11]), draw.whole(10, 200)
    while top % divisor == 0:
        top = draw.whole(10, 200)
    shown = Fraction(round(Fraction(top, divisor) * 100), 100)
    said = Fraction(top)
    while not right and abs(said / top - 1) < Fraction(1, 20):
        said = draw.off(top)
    number = draw.show(shown, 2)
    text = draw.pick(
        f"{top}/{divisor} = {number} minutes. {number} * {divisor} = {draw.show(said)} minutes.",
        f"{top} / {divisor} = {number}, and {number} × {divisor} = {draw.show(said)}.",
    )
    return Line(text, said)


def float_noise(draw: Draw, right: bool) -> Line:
    """A result with a calculator's noise at the 15th digit."""
    whole = draw.whole(2, 90)
    said = draw.said(whole * 3, right)
    noise = draw.pick(f"{said}.00000000000001", f"{said - 1}.999999999999986", f"{said}.000000000000014")
    inner = f"{whole * 9}/21*7"
    return Line(f"It is {inner} = <<{inner}={noise}>>{said}.", said)


def scale_words(draw: Draw, right: bool) -> Line:
    a, b = Fraction(draw.whole(11, 99), 10), Fraction(draw.whole(11, 99), 10)
    word = draw.pick("million", "billion", "thousand")
    said = draw.show(a + b if right else draw.off(a + b, 1), 1)
    text = draw.pick(
        f"${draw.show(a, 1)} {word} + ${draw.show(b, 1)} {word} = ${said} {word}",
        f"{draw.show(a, 1)} {word} + {draw.show(b, 1)} {word} = {said} {word}",
    )
    return Line(f"So {text}.")


def clock(draw: Draw, right: bool) -> Line:
    """Times of day in equations: a difference that is a span, a time moved by minutes."""
    hour, span = draw.whole(1, 6), draw.whole(2, 5)
    minute = draw.rng.choice([0, 5, 10, 15])
    moved = draw.rng.choice([10, 15, 20, 25, 30])
    hours = draw.show(draw.said(span, right))
    later = minute + moved if right else minute + moved + draw.rng.choice([5, 10, 1])
    text = draw.pick(
        f"{hour + span}:00 pm - {hour}:00 pm = {hours} hours",
        f"{hour + span} pm - {hour} pm = {hours} hours",
        f"{hour}:{minute:02d} + {moved} minutes = {hour}:{later:02d}",
    )
    return Line(f"So {text}.")


def clock_span(draw: Draw, right: bool) -> Line:
    """`10 am - 5 pm = 7 hours`: a span over noon."""
    start, end = draw.whole(6, 11), draw.whole(1, 5)
    span = 12 - start + end
    said = draw.said(span, right)
    while not right and said == 24 - span:  # from the second time to the first, past midnight: it has that reading
        said = draw.off(span)
    hours = draw.show(said)
    return Line(f"He works {start} am - {end} pm = {hours} hours.", draw.read(hours))


def algebra(draw: Draw, right: bool) -> Line:
    """Steps that solve `ax + b = c`; the arithmetic of one step is wrong otherwise."""
    a, x, b = draw.whole(2, 9), draw.whole(2, 60), draw.whole(2, 60)
    c = a * x + b
    rest, root = Fraction(a * x), Fraction(x)
    if not right:
        which = draw.rng.random() < 0.5
        rest, root = (draw.off(rest), root) if which else (rest, draw.off(root))
    name = draw.pick("x", "n", "y", "A")
    given, less = f"{a}{name} + {b} = {c}", f"{a}{name} = {c} - {b} = {draw.show(rest)}"
    solved = draw.show(root)
    text = draw.pick(
        f"{given}, so {less} and {name} = {a * x} / {a} = {solved}.",
        f"{given}\n{less}\n{name} = {a * x}/{a} = {solved}",
        f"\\({given}\\), so \\({less}\\) and \\({name} = \\frac{{{a * x}}}{{{a}}} = {solved}\\).",
    )
    return Line(text, root, block=True)


FORMS = (
    conversion,
    conversion_of_product,
    conversion_over_product,
    cents_and_dollars,
    dozens,
    rate,
    mixed_measures,
    areas,
    percentage,
    percent_result,
    fraction_of,
    fraction_sum,
    half_signs,
    mixed_number,
    division_by_fraction,
    rounded,
    rounded_whole,
    remainder,
    rounded_factor,
    float_noise,
    scale_words,
    clock,
    clock_span,
    algebra,
)

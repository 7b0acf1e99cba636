"""Forms of the final answer: (draw, value, right) -> `Claim`, which states `value` when `right`, else another value.

`value` is the last quantity of the solution. Forms for fractions, percentages, scales and times state a value of
their own. No claim but the last one stands outside of `<think>`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.unit.grading.solution_draws import Draw


@dataclass(frozen=True, slots=True)
class Claim:
    """The text of the final answer, the gold answer, and what stands around the whole solution."""

    text: str
    gold: str
    around: str = ""
    """`think`: a draft in `<think>` before the solution; `reason`: the solution itself is in it; `json`, `xml`."""
    refusable: bool = False
    """Whether refusing (`undecided`) is fair, as the text goes on into another question."""


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0")


def _shown(draw: Draw, value: Fraction) -> str:
    """With two decimals sometimes, where that changes nothing."""
    if value.denominator == 1:
        return draw.show(value, draw.rng.choice([0, 0, 0, 2]))
    return draw.show(value)


def _claim(draw: Draw, value: Fraction, right: bool, text: str, around: str = "") -> Claim:
    """Fills `{}` of the text with the value, or with another value, or asks for another gold."""
    gold = value
    said = value
    if not right:
        gold, said = (draw.off(value), value) if draw.rng.random() < 0.5 else (value, draw.off(value))
    return Claim(text.replace("{}", _shown(draw, said)), _plain(gold), around)


def hashes(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick(
        "#### {}", "#### {}", "#### ${}", "#### {} pens", "####{}", "#### {}.", "#### **{}**", "#### {}, in total"
    )
    return _claim(draw, value, right, text)


def hashes_sentence(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick(
        "#### The total cost is ${}.", "#### Answer: {}", "#### {} pens are left.", "#### She has {} pens."
    )
    return _claim(draw, value, right, text)


def boxed(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick(
        "\\boxed{{}}",
        "$\\boxed{{}}$",
        "\\[ \\boxed{{}} \\]",
        "The answer is $\\boxed{{}}$.",
        "So the final answer is \\(\\boxed{{}}\\).",
        "**Final Answer**\n\\boxed{{}}",
        "\\boxed{\\${}}",
        "\\boxed{{} \\text{ pens}}",
        "\\boxed{{}\\text{ dollars}}",
        "\\boxed{x = {}}",
        "\\[\n\\boxed{{}}\n\\]",
        "\\boxed{\\text{{}}}",
    )
    return _claim(draw, value, right, text)


def boxed_thousands(draw: Draw, value: Fraction, right: bool) -> Claim:
    value = Fraction(draw.whole(1_000, 99_999))
    gold, said = _gold_and_said(draw, value, right)
    mark = draw.pick("{,}", ",\\!", ",", "\\,")
    return Claim(f"\\boxed{{{f'{said.numerator:,}'.replace(',', mark)}}}", _plain(gold))


def _gold_and_said(draw: Draw, value: Fraction, right: bool) -> tuple[Fraction, Fraction]:
    if right:
        return value, value
    return (draw.off(value), value) if draw.rng.random() < 0.5 else (value, draw.off(value))


def answer_is(draw: Draw, value: Fraction, right: bool) -> Claim:
    verb = draw.pick(
        "is", "would be", "should be", "must be", "is thus", "is therefore", "is:", "is simply", "comes to", "="
    )
    mark = draw.pick("{}", "${}", "**{}**", "{} pens", "${}$", "\\({}\\)", "**${}**", "`{}`")
    lead = draw.pick(
        "The answer", "So the answer", "Therefore, the final answer", "The final answer", "Thus, the correct answer"
    )
    return _claim(draw, value, right, f"{lead} {verb} {mark}{draw.pick('.', '.', '')}")


def answer_label(draw: Draw, value: Fraction, right: bool) -> Claim:
    label = draw.pick(
        "Answer:", "**Answer:**", "Final answer:", "**Final Answer:**", "**Final answer**:", "ANSWER:", "✅ Answer:"
    )
    gap = draw.pick(" ", " ", "\n", "\n\n")
    mark = draw.pick("{}", "${}", "**{}**", "{} pens", "${}$", "**{} pens**", "\\[ {} \\]", "{}.")
    return _claim(draw, value, right, label + gap + mark)


def answer_heading(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick(
        "## Answer\n{}", "### Final Answer\n\n**{}**", "The answer is:\n\\[ {} \\]", "The answer is:\n\n{} pens"
    )
    return _claim(draw, value, right, text)


def answer_sentence(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick(
        "**Answer:** Sally has {} books.",
        "Answer: She earns ${} in all.",
        "So the answer to this question is Jo makes ${} in a full week.",
        "**Final Answer:**\nTom needs {} boxes.",
        "The answer is that they have {} pens left.",
    )
    return _claim(draw, value, right, text)


def bold_sentence(draw: Draw, value: Fraction, right: bool) -> Claim:
    return _claim(
        draw, value, right, draw.pick("**Jan makes ${} every day.**", "**She has {} pens left.**", "Jan makes **${}**.")
    )


def tags(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick("<answer>{}</answer>", "<answer> {} </answer>", "<answer>\n{}\n</answer>", "<answer>${}</answer>")
    return _claim(draw, value, right, text, draw.pick("", "reason"))


def json_object(draw: Draw, value: Fraction, right: bool) -> Claim:
    gold, said = _gold_and_said(draw, value, right)
    shown = draw.pick(_shown(draw, said), f"${_shown(draw, said)}", f"{_shown(draw, said)} pens")
    number = json.dumps(shown) if draw.rng.random() < 0.6 or said.denominator > 1 else str(said)
    return Claim(number, _plain(gold), "json")


def after_think(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick("The answer is {}.", "#### {}", "\\boxed{{}}", "**Answer:** {}")
    return _claim(draw, value, right, text, draw.pick("think", "reason"))


def special_token(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick("#### {}<|im_end|>", "The answer is {}.</s>", "#### {}<|eot_id|>", "#### {}\n<|endoftext|>")
    return _claim(draw, value, right, text)


def run_on_question(draw: Draw, value: Fraction, right: bool) -> Claim:
    """The text goes on into another question, whose answer is another number than the claim and the gold."""
    claim = _claim(draw, value, right, draw.pick("#### {}", "The answer is {}."))
    other = draw.whole(100, 999)
    while str(other) == claim.gold or str(other) in claim.text:
        other = draw.whole(100, 999)
    tail = f"\n\nQuestion: Tom has {other} pens. How many pens has he?\nAnswer: He has {other} pens.\n#### {other}"
    return Claim(claim.text + tail, claim.gold, refusable=True)


def said_twice(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick("The answer is {}.\n#### {}", "**Answer:** {}\n\n\\boxed{{}}", "So the answer is ${}.\n\n#### {}")
    return _claim(draw, value, right, text)


def superseded(draw: Draw, value: Fraction, right: bool) -> Claim:
    first = draw.off(value)
    text = f"The answer is {draw.show(first)}. Wait, that is wrong. The answer is {{}}."
    claim = _claim(draw, value, right, text)
    return claim if right or claim.gold != _plain(first) else superseded(draw, value, right)


def fraction(draw: Draw, value: Fraction, right: bool) -> Claim:
    below = draw.whole(2, 12)
    value = Fraction(draw.whole(1, below - 1), below)
    said = value if right else value + Fraction(1, value.denominator)
    above, below = said.numerator, said.denominator
    short = f"\\frac{above}{below}" if above < 10 and below < 10 else f"\\frac{{{above}}}{{{below}}}"
    text = draw.pick(
        f"The answer is {above}/{below}.",
        f"#### {above}/{below}",
        f"\\boxed{{\\frac{{{above}}}{{{below}}}}}",
        f"\\boxed{{\\dfrac{{{above}}}{{{below}}}}}",
        f"\\boxed{{{short}}}",
        f"The answer is {above}/{below} of a cup.",
        f"**Answer:** ${short}$",
    )
    gold = f"{value.numerator}/{value.denominator}"
    return Claim(text, draw.pick(gold, gold if value.denominator not in (2, 4, 5, 8, 10) else _plain(value)))


def mixed_number(draw: Draw, value: Fraction, right: bool) -> Claim:
    whole = draw.whole(1, 9)
    said = whole if right else int(draw.off(whole))
    text = draw.pick(
        f"#### {said} 1/2", f"The answer is {said} 1/2 cups.", f"\\boxed{{{said}\\frac{{1}}{{2}}}}", f"Answer: {said}½"
    )
    return Claim(text, f"{whole}.5")


def percent(draw: Draw, value: Fraction, right: bool) -> Claim:
    gold, said = (number.numerator for number in _gold_and_said(draw, Fraction(draw.whole(2, 99)), right))
    text = draw.pick(
        f"#### {said}%",
        f"The answer is {said} percent.",
        f"The answer is {said}%.",
        f"\\boxed{{{said}\\%}}",
        f"**Answer:** {said}%",
    )
    return Claim(text, draw.pick(f"{gold}%", f"{gold}"))


def percent_and_share(draw: Draw, value: Fraction, right: bool) -> Claim:
    """One value said as a share and as a percentage."""
    gold, said = (number.numerator for number in _gold_and_said(draw, Fraction(draw.whole(2, 99)), right))
    share = _plain(Fraction(said, 100))
    text = draw.pick(
        f"#### {share} ({said}%)", f"The answer is {share} ({said}%).", f"The answer is {share}, or {said}%."
    )
    return Claim(text, draw.pick(f"{gold}%", _plain(Fraction(gold, 100))))


def scaled(draw: Draw, value: Fraction, right: bool) -> Claim:
    gold, said = _gold_and_said(draw, Fraction(draw.whole(11, 99), 10), right)
    text = draw.pick(
        "The answer is ${} million.", "#### {} million", "**Answer:** ${} million", "The answer is {} million people."
    )
    return Claim(text.replace("{}", draw.show(said, 1)), str(gold * 1_000_000))


def clock(draw: Draw, value: Fraction, right: bool) -> Claim:
    gold, said = (number.numerator for number in _gold_and_said(draw, Fraction(draw.whole(2, 9)), right))
    return Claim(draw.pick(f"#### {said}:00 pm", f"#### {said} pm", f"The answer is {said}:00 PM."), str(gold))


def angle(draw: Draw, value: Fraction, right: bool) -> Claim:
    text = draw.pick("\\boxed{{}^\\circ}", "\\boxed{{}^{\\circ}}", "#### {}°", "The answer is {} degrees.")
    return _claim(draw, value, right, text)


def choice(draw: Draw, value: Fraction, right: bool) -> Claim:
    letter = draw.pick("A", "B", "C", "D")
    return _claim(
        draw, value, right, draw.pick(f"\\boxed{{\\textbf{{({letter})}}\\ {{}}}}", f"The answer is ({letter}) {{}}.")
    )


def more_than_a_number(draw: Draw, value: Fraction, right: bool) -> Claim:
    """The gold's digits stand there, but what follows makes it another value; right, it is the number alone."""
    value = Fraction(draw.whole(2, 30))
    if right:
        return Claim(f"\\boxed{{{value}}}", _plain(value))
    text = draw.pick(
        f"\\boxed{{{value}\\sqrt{{2}}}}",
        f"\\boxed{{{value}\\pi}}",
        f"#### {value}n",
        f"#### ({value}, {value + 3})",
        f"The answer is {value}, {value + 1}.",
        f"#### ${value}K",
        f"The answer is {value} million dollars.",
        f"The answer is {value} and a half.",
        f"#### {value} or {value + 1}",
        f"\\boxed{{{value}x + 1}}",
    )
    return Claim(text, _plain(value), refusable=True)


def other_digits(draw: Draw, value: Fraction, right: bool) -> Claim:
    """The digits of another script: full-width, or Arabic."""
    gold, said = _gold_and_said(draw, Fraction(draw.whole(2, 999)), right)
    digits = draw.pick("０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩")
    shown = str(said).translate(str.maketrans("0123456789", digits))
    return Claim(draw.pick("#### {}", "The answer is {}.").replace("{}", shown), _plain(gold))


LOCAL = {
    "zh": ("答案是：{}元", "答案：{}", "所以答案是{}个。", "答案是 {}。", "最终答案：{}", "因此，答案为{}。"),
    "es": (
        "La respuesta es {}.",
        "Respuesta: {}",
        "Por lo tanto, la respuesta es {} manzanas.",
        "**Respuesta final:** {}",
    ),
    "fr": ("La réponse est {}.", "Réponse : {}", "Donc la réponse est {} pommes.", "**Réponse finale :** {}"),
    "de": ("Die Antwort ist {}.", "Antwort: {}", "Also lautet die Antwort {} Äpfel.", "**Endgültige Antwort:** {}"),
}


def local(draw: Draw, value: Fraction, right: bool) -> Claim:
    return _claim(_undotted(draw), value, right, draw.pick(*LOCAL[draw.language]))


def local_mark(draw: Draw, value: Fraction, right: bool) -> Claim:
    """A mark without words. Refusing a decimal comma there is fair."""
    unit = " 元" if draw.language == "zh" else " €"
    text = draw.pick("#### {}", "\\boxed{{}}", "#### {}" + unit)
    claim = _claim(_undotted(draw), value, right, text)
    return replace(claim, refusable=draw.decimal == "," and "," in claim.text)


def _undotted(draw: Draw) -> Draw:
    """Without a dot that sets off thousands: alone, `1.234` is a decimal to readers of other countries."""
    return replace(draw, thousands="") if draw.thousands == "." else draw


FORMS = (
    hashes,
    hashes_sentence,
    boxed,
    boxed_thousands,
    answer_is,
    answer_label,
    answer_heading,
    answer_sentence,
    bold_sentence,
    tags,
    json_object,
    after_think,
    special_token,
    run_on_question,
    said_twice,
    superseded,
    fraction,
    mixed_number,
    percent,
    percent_and_share,
    scaled,
    clock,
    angle,
    other_digits,
    choice,
    more_than_a_number,
)
LOCAL_FORMS = (local, local, local_mark)

"""Generator of whole solutions whose verdict is known by construction: rng -> `Solution`.

A solution is lines (one equation or more, or none) and a claim of the final answer. Right: every equation holds and
the claim is the gold's. `bad_equation`: one line's arithmetic is false, the claim is right. `wrong_answer`: the claim
is another number than the gold's. Truth comes from `solution_numbers.py`, not from the grader. A line or claim that
a careful reader could read in two ways is not generated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from rft_ray.records import Status
from tests.unit.grading import (
    solution_answers,
    solution_forms,
    solution_languages,
    solution_markup_forms,
    solution_measures,
)
from tests.unit.grading.solution_answers import Claim
from tests.unit.grading.solution_draws import Draw, Line

ENGLISH = (*solution_forms.FORMS, *solution_markup_forms.FORMS, *solution_measures.FORMS)
STYLES = {
    "en": ((".", ""), (".", ",")),
    "zh": ((".", ""), (".", ",")),
    "es": ((",", ""), (",", ".")),
    "fr": ((",", ""), (",", " "), (",", "\u202f"), (",", "\u00a0")),
    "de": ((",", ""), (",", ".")),
}
"""Decimal mark and mark of thousands that each language writes."""
KINDS = (Status.CORRECT, Status.BAD_EQUATION, Status.WRONG_ANSWER)

NEUTRAL = {
    "en": (
        "Let's think about each box.",
        "Let x be the number of pens.",
        "He buys {} pens and {} books for ${} each.",
        "The ratio of cats to dogs is {}:{}.",
        "It is about {} and a half hours away.",
        "On day {}, she walks {} miles.",
        "There are 12 months in a year.",
        "She starts at 9:30 am on 5/6/2024.",
        "She sells the remainder at the market.",
        "We need {}% of the total.",
        "Chapters {}-{} take a week.",
        "Each pack has {} pens.",
        "This means that 1/2 of them are red.",
        "First, we add what both of them have.",
        "The first number is {} and the second number is {}.",
    ),
    "zh": ("首先，我们把两部分加起来。", "小明买了 {} 本书。", "每盒有{}支笔。"),
    "es": ("Primero sumamos las dos partes.", "María compra {} libros.", "Cada caja tiene {} lápices."),
    "fr": ("D'abord, on additionne les deux parts.", "Élise achète {} livres.", "Chaque boîte a {} stylos."),
    "de": ("Zuerst addieren wir beide Teile.", "Jürgen kauft {} Bücher.", "Jede Kiste hat {} Stifte."),
}
"""Sentences without arithmetic."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a solution, the form it was made by, and whether its arithmetic holds."""

    line: Line
    form: str
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Solution:
    """Example: see `text`, `gold` and `expected`; `blamed` names the form that was made wrong."""

    parts: tuple[Part, ...]
    claim: Claim
    claim_form: str
    claim_right: bool
    language: str = "en"
    gap: str = "\n"
    draft: str = ""

    @property
    def gold(self) -> str:
        return self.claim.gold

    @property
    def expected(self) -> Status:
        if not self.claim_right:
            return Status.WRONG_ANSWER
        return Status.CORRECT if all(part.holds for part in self.parts) else Status.BAD_EQUATION

    @property
    def allowed(self) -> frozenset[Status]:
        """Verdicts that are right: the expected one, and a refusal where that is fair."""
        return frozenset({self.expected, Status.UNDECIDED} if self.claim.refusable else {self.expected})

    @property
    def blamed(self) -> str:
        if not self.claim_right:
            return self.claim_form
        return next((part.form for part in self.parts if not part.holds), "")

    @property
    def body(self) -> str:
        text = ""
        for before, part in zip((None, *self.parts), self.parts, strict=False):
            own_line = part.line.block or (before is not None and before.line.block)
            text += (("\n" if own_line else self.gap) if before is not None else "") + part.line.text
        return text

    @property
    def text(self) -> str:
        body, claim = self.body, self.claim.text
        match self.claim.around:
            case "json":
                return f'{{"reasoning": {json.dumps(body, ensure_ascii=False)}, "answer": {claim}}}'
            case "think":
                return f"<think>{self.draft}</think>\n{body}\n{claim}"
            case "reason":
                return f"<think>{self.draft}</think>\n{claim}"
            case _:
                return f"{body}\n{claim}" if body else claim


def random_solution(rng: random.Random) -> Solution:
    """One solution: a third right, a third with a false equation, a third with a wrong answer."""
    kind = rng.choice(KINDS)
    language = rng.choice(["en", "en", "en", "en", "en", "zh", "es", "fr", "de"])
    draw = Draw(rng, *rng.choice(STYLES[language]), language)
    count = rng.choice([1, 1, 2, 2, 3, 4])
    wrong = rng.randrange(count) if kind is Status.BAD_EQUATION else -1
    forms = ENGLISH if language == "en" else solution_languages.FORMS
    parts = []
    for index in range(count):
        if rng.random() < 0.3:
            parts.append(Part(Line(_neutral(draw)), "neutral"))
        form = rng.choice(forms)
        parts.append(Part(form(draw, index != wrong), _name(form), index != wrong))
    claim_form, claim = _claim(
        draw, parts, kind is not Status.WRONG_ANSWER, equations_count=kind is Status.BAD_EQUATION
    )
    return Solution(
        tuple(parts),
        claim,
        claim_form,
        kind is not Status.WRONG_ANSWER,
        language,
        rng.choice(["\n", " ", "\n\n"]),
        _draft(draw),
    )


def _name(form: Callable[..., object]) -> str:
    return f"{form.__module__.rpartition('.')[2].removeprefix('solution_')}.{form.__name__}"


def _neutral(draw: Draw) -> str:
    text = draw.pick(*NEUTRAL[draw.language])
    while "{}" in text:
        text = text.replace("{}", str(draw.whole(2, 60)), 1)
    return text


def _claim(draw: Draw, parts: list[Part], right: bool, *, equations_count: bool) -> tuple[str, Claim]:
    value = parts[-1].line.value
    if value is None or value <= 0 or value * 100 != value * 100 // 1:
        value = Fraction(draw.whole(2, 999))
    forms = solution_answers.FORMS if draw.language == "en" else solution_answers.LOCAL_FORMS
    while True:
        form = draw.rng.choice(forms)
        claim = form(draw, value, right)
        if not (equations_count and claim.around == "reason"):  # its equations are in the draft, which is not graded
            return _name(form), claim


def _draft(draw: Draw) -> str:
    """A draft, with a false equation and another answer: nothing of it is graded."""
    a, b = draw.whole(2, 60), draw.whole(2, 60)
    return f"Maybe {a} + {b} = {draw.off(a + b)}? So the answer is {draw.whole(2, 99)}. No, let me see."


def shrunk(solution: Solution, fails: Callable[[Solution], bool]) -> Solution:
    """The solution with the fewest lines, and the plainest claim, that still fails. Its verdict stays known."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(solution):
            if candidate.blamed == solution.blamed and candidate.expected is solution.expected and fails(candidate):
                solution, smaller = candidate, True
                break
    return solution


def _smaller(solution: Solution) -> list[Solution]:
    fewer = [
        replace(solution, parts=solution.parts[:index] + solution.parts[index + 1 :])
        for index in range(len(solution.parts))
    ]
    if solution.claim_right and solution.claim_form != "plain":
        fewer.append(replace(solution, claim=Claim(f"#### {solution.gold}", solution.gold), claim_form="plain"))
    if solution.gap != "\n":
        fewer.append(replace(solution, gap="\n"))
    return fewer


def involved(solution: Solution) -> str:
    """Name of what a shrunk counterexample is about: the claim's form, where a plain one would do, or the lines'."""
    if solution.claim_form != "plain":
        others = [part.form for part in solution.parts if part.holds]
        return " & ".join([*others, solution.claim_form])
    return solution.blamed or " & ".join(part.form for part in solution.parts) or "plain"

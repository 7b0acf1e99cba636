"""Generates word problems from clauses: a core (who has how much), changes to it, and a question.

One- and two-step problems use the same clauses as longer ones, so a base model that has seen only
short problems has seen every clause, but not how to join many. Each clause has several ways to
compute its amount; a story's plans are the combinations of them. Similar to GSM-Symbolic
(arXiv 2410.05229) and iGSM (arXiv 2407.20311); every text here is original.
Pure Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

from rft_ray.data.tiny.plans import Plan, Step, evaluate

NAMES = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Leo", "Zoe", "Max", "Amy", "Jack", "Lily")
OBJECTS = ("pens", "books", "apples", "cards", "coins", "shells", "eggs", "stamps", "toys", "cakes", "beads", "nuts")
CONTAINERS = ("box", "bag", "tray", "jar")


@dataclass(frozen=True, slots=True)
class Story:
    """A question, its given numbers, and the plans that answer it (the shortest first)."""

    question: str
    given: Mapping[str, int]
    plans: tuple[Plan, ...]


@dataclass(slots=True)
class Draft:
    """An unfinished story: the words that it may use, and its numbers and clauses so far."""

    rng: random.Random
    names: list[str]
    obj: str
    boxes: list[str]
    given: dict[str, int] = field(default_factory=dict)
    clauses: list[str] = field(default_factory=list)

    def number(self, low: int, high: int) -> str:
        """Draw a given number from [low, high]. Returns its name in plans."""
        name = f"n{len(self.given)}"
        self.given[name] = self.rng.randint(low, high)
        return name

    def tell(self, *variants: str) -> None:
        """Add one of the variants of a clause. `{n0}` is replaced by that number, `{obj}` by the objects."""
        self.clauses.append(self.rng.choice(variants).format(obj=self.obj, **self.given))


@dataclass(frozen=True, slots=True)
class Amount:
    """The amount that the clauses so far describe: its owner, its name in plans, and the plans that compute it.

    An empty plan means that the amount is the given number `name`.
    """

    owner: str
    name: str
    plans: tuple[Plan, ...]

    @property
    def plural(self) -> bool:
        return self.owner == "They"

    @property
    def has(self) -> str:
        return "have" if self.plural else "has"


def tell_story(rng: random.Random, steps: int) -> Story | None:
    """A story whose shortest plan has `steps` steps, or None when the drawn numbers do not fit."""
    names, boxes = rng.sample(NAMES, 3), rng.sample(CONTAINERS, 2)
    draft = Draft(rng, names, rng.choice(OBJECTS), boxes)
    core = rng.choice([build for build, size in CORES if size <= steps and (size or steps)])
    amount = core(draft)
    left = steps - len(amount.plans[0])
    closing = left > 0 and rng.random() < 0.3
    changed = _change(draft, amount, left - closing)
    if evaluate(changed.plans[0], draft.given) is None:
        return None
    ended = _close(draft, changed) if closing else _ask(draft, changed)
    plans = tuple(plan for plan in ended.plans if evaluate(plan, draft.given) is not None)
    if not plans or plans[0] != ended.plans[0]:
        return None
    return Story(" ".join(draft.clauses), dict(draft.given), plans)


def _plural(box: str) -> str:
    return box + ("es" if box.endswith("x") else "s")


def _step(name: str, formula: str, *says: str) -> Step:
    """A step from the text `left op right`, with spaces."""
    left, op, right = formula.split()
    return Step(name, left, op, right, says)


def _has(owner: str, obj: str) -> tuple[str, ...]:
    verb = "have" if owner == "They" else "has"
    return (f"{owner} {verb} {{eq}} {obj}.",)


# --- cores: how the amount is made ------------------------------------------------------------


def _plain(d: Draft) -> Amount:
    x = d.number(5, 40)
    d.tell(f"{d.names[0]} has {{{x}}} {{obj}}.")
    return Amount(d.names[0], x, ((),))


def _grouped(d: Draft) -> Amount:
    who, box = d.names[0], d.boxes[0]
    n, m = d.number(2, 9), d.number(2, 9)
    d.tell(
        f"{who} has {{{n}}} {_plural(box)} of {{{m}}} {{obj}}.",
        f"{who} has {{{n}}} {_plural(box)}. Each {box} holds {{{m}}} {{obj}}.",
    )
    return Amount(who, "core", ((_step("core", f"{n} * {m}", *_has(who, d.obj)),),))


def _relation(d: Draft, who: str, other: str, base: str, name: str) -> tuple[Step, str | None]:
    """Add a clause that compares `who` with `other`. Returns the step, and the name of its factor or None."""
    kind = d.rng.choice(("more", "fewer", "times", "half"))
    says = _has(who, d.obj)
    if kind == "times":
        k = d.number(2, 4)
        times = "twice" if d.given[k] == 2 else f"{{{k}}} times"
        d.tell(f"{who} has {times} as many {{obj}} as {other}.")
        return _step(name, f"{base} * {k}", *says), k
    if kind == "half":
        half = d.number(2, 2)
        d.tell(f"{who} has half as many {{obj}} as {other}.")
        return _step(name, f"{base} / {half}", *says), None
    diff = d.number(2, 12)
    d.tell(f"{who} has {{{diff}}} {kind} {{obj}} than {other}.")
    return _step(name, f"{base} {'+' if kind == 'more' else '-'} {diff}", *says), None


def _compared(d: Draft) -> Amount:
    who, other = d.names[:2]
    x = d.number(4, 30)
    d.tell(f"{other} has {{{x}}} {{obj}}.")
    step, _ = _relation(d, who, other, x, "core")
    return Amount(who, "core", ((step,),))


def _compared_twice(d: Draft) -> Amount:
    who, middle, other = d.names
    x = d.number(4, 30)
    d.tell(f"{other} has {{{x}}} {{obj}}.")
    first, _ = _relation(d, middle, other, x, "middle")
    second, _ = _relation(d, who, middle, "middle", "core")
    return Amount(who, "core", ((first, second),))


def _pooled(d: Draft) -> Amount:
    """Two people pool their objects: `x + k*x`, or `(k+1)*x`."""
    who, other = d.names[:2]
    x = d.number(4, 20)
    d.tell(f"{other} has {{{x}}} {{obj}}.")
    step, factor = _relation(d, who, other, x, "part")
    d.tell("They put all their {obj} together.")
    total = _has("They", d.obj)
    plans: list[Plan] = [(step, _step("core", f"{x} + part", *total))]
    if factor:
        one = d.number(1, 1)
        parts = _step("parts", f"{factor} + {one}", "That is {eq} equal parts.")
        plans.append((parts, _step("core", f"{x} * parts", *total)))
    return Amount("They", "core", tuple(plans))


def _same_size(d: Draft) -> Amount:
    """a red and b blue boxes of m objects each: `(a+b)*m`, or `a*m + b*m`."""
    who, box = d.names[0], d.boxes[0]
    a, b, m = d.number(2, 6), d.number(2, 6), d.number(2, 9)
    d.tell(f"{who} has {{{a}}} red {_plural(box)} and {{{b}}} blue {_plural(box)}.")
    d.tell(f"Each {box} holds {{{m}}} {{obj}}.")
    whole = _has(who, d.obj)
    together = (
        _step("boxes", f"{a} + {b}", f"{who} has {{eq}} {_plural(box)}."),
        _step("core", f"boxes * {m}", *whole),
    )
    apart = (
        _step("red", f"{a} * {m}", f"The red {_plural(box)} hold {{eq}} {d.obj}."),
        _step("blue", f"{b} * {m}", f"The blue {_plural(box)} hold {{eq}} {d.obj}."),
        _step("core", "red + blue", *whole),
    )
    return Amount(who, "core", (together, apart))


def _two_sizes(d: Draft) -> Amount:
    who, (box, bag) = d.names[0], d.boxes
    n, m, k, j = d.number(2, 9), d.number(2, 9), d.number(2, 9), d.number(2, 9)
    d.tell(f"{who} has {{{n}}} {_plural(box)} of {{{m}}} {{obj}} and {{{k}}} {_plural(bag)} of {{{j}}} {{obj}}.")
    first = _step("first", f"{n} * {m}", f"The {_plural(box)} hold {{eq}} {d.obj}.")
    second = _step("second", f"{k} * {j}", f"The {_plural(bag)} hold {{eq}} {d.obj}.")
    return Amount(who, "core", ((first, second, _step("core", "first + second", *_has(who, d.obj))),))


def _rate(d: Draft) -> Amount:
    """p objects per hour, h hours per day, t days: three ways to group the product `p*h*t`."""
    who = d.names[0]
    p, h, t = d.number(2, 5), d.number(2, 4), d.number(2, 4)
    d.tell(f"{who} finds {{{p}}} {{obj}} an hour for {{{h}}} hours a day.")
    d.tell(f"{who} does this for {{{t}}} days.")
    whole = _has(who, d.obj)
    day = _step("day", f"{p} * {h}", f"{who} finds {{eq}} {d.obj} a day.")
    hours = _step("hours", f"{h} * {t}", f"{who} works {{eq}} hours.")
    hour = _step("hour", f"{p} * {t}", f"One hour a day gives {{eq}} {d.obj}.")
    pairs = ((day, t), (hours, p), (hour, h))
    return Amount(who, "core", tuple((s, _step("core", f"{s.name} * {last}", *whole)) for s, last in pairs))


def _daily(d: Draft) -> Amount:
    """Two people find p and q objects per day, for t days: `(p+q)*t`, or `p*t + q*t`."""
    who, other = d.names[:2]
    p, q, t = d.number(2, 6), d.number(2, 6), d.number(2, 6)
    d.tell(f"Every day {who} finds {{{p}}} {{obj}} and {other} finds {{{q}}} {{obj}}.")
    d.tell(f"They do this for {{{t}}} days.")
    whole = _has("They", d.obj)
    together = (
        _step("day", f"{p} + {q}", f"They find {{eq}} {d.obj} a day."),
        _step("core", f"day * {t}", *whole),
    )
    apart = (
        _step("mine", f"{p} * {t}", f"{who} finds {{eq}} {d.obj}."),
        _step("yours", f"{q} * {t}", f"{other} finds {{eq}} {d.obj}."),
        _step("core", "mine + yours", *whole),
    )
    return Amount("They", "core", (together, apart))


CORES: tuple[tuple[Callable[[Draft], Amount], int], ...] = (
    (_plain, 0),
    (_grouped, 1),
    (_compared, 1),
    (_compared_twice, 2),
    (_pooled, 2),
    (_same_size, 2),
    (_rate, 2),
    (_daily, 2),
    (_two_sizes, 3),
)
"""Each core with the number of steps of its shortest plan."""


# --- changes: gains and losses after the core --------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Term:
    """One gain or loss: a given number, or a product of two."""

    name: str
    gain: bool
    plan: Plan


def _change(d: Draft, amount: Amount, steps: int) -> Amount:
    """Add gains and losses, at most two, with `steps` steps in total."""
    sizes = {0: ((),), 1: ((1,),), 2: ((1, 1), (2,)), 3: ((1, 2), (2, 1)), 4: ((2, 2),)}[steps]
    terms = [_term(d, amount, size, f"t{i}") for i, size in enumerate(d.rng.choice(sizes))]
    if not terms:
        return amount
    tails = _tails(d, amount, terms)
    return Amount(amount.owner, "changed", _joined(amount.plans, tails))


def _term(d: Draft, amount: Amount, size: int, name: str) -> _Term:
    owner, s, box = amount.owner, "" if amount.plural else "s", _plural(d.boxes[1])
    gain = d.rng.random() < 0.5
    if size == 1:
        n = d.number(2, 12)
        verb = d.rng.choice(("buy", "find") if gain else ("sell", "lose"))
        d.tell(f"{owner} {verb}{s} {{{n}}} {'more ' if gain else ''}{{obj}}.")
        return _Term(n, gain, ())
    n, m = d.number(2, 5), d.number(2, 9)
    if gain:
        d.tell(f"{owner} buy{s} {{{n}}} more {box} of {{{m}}} {{obj}}.")
        says = (f"The new {box} hold {{eq}} {d.obj}.",)
    else:
        d.tell(f"{owner} give{s} {{{m}}} {{obj}} to each of {{{n}}} friends.")
        says = (f"The friends get {{eq}} {d.obj}.",)
    return _Term(name, gain, (_step(name, f"{n} * {m}", *says),))


def _tails(d: Draft, amount: Amount, terms: list[_Term]) -> tuple[Plan, ...]:
    """The ways to apply the terms to the amount: in either order, or as one net change."""
    says = _now(amount, d.obj)
    before = tuple(step for term in terms for step in term.plan)

    def sign(term: _Term) -> str:
        return "+" if term.gain else "-"

    if len(terms) == 1:
        return ((*before, _step("changed", f"{amount.name} {sign(terms[0])} {terms[0].name}", *says)),)
    tails = [
        (
            *before,
            _step("mid", f"{amount.name} {sign(first)} {first.name}", *says),
            _step("changed", f"mid {sign(second)} {second.name}", *says),
        )
        for first, second in (terms, terms[::-1])
    ]
    return (*tails, *((*before, *tail) for tail in _net_tails(d, amount, terms)))


def _net_tails(d: Draft, amount: Amount, terms: list[_Term]) -> Iterable[Plan]:
    """Both terms as one net change. For a gain and a loss, only the order with a positive difference is valid."""
    first, second = terms
    says = _now(amount, d.obj)
    if first.gain == second.gain:
        word = "come" if first.gain else "go"
        net = _step("net", f"{first.name} + {second.name}", f"In all {{eq}} {d.obj} {word}.")
        yield net, _step("changed", f"{amount.name} {'+' if first.gain else '-'} net", *says)
        return
    up, down = (first, second) if first.gain else (second, first)
    more = _step("net", f"{up.name} - {down.name}", f"{{eq}} more {d.obj} come than go.")
    less = _step("net", f"{down.name} - {up.name}", f"{{eq}} more {d.obj} go than come.")
    yield more, _step("changed", f"{amount.name} + net", *says)
    yield less, _step("changed", f"{amount.name} - net", *says)


def _now(amount: Amount, obj: str) -> tuple[str, ...]:
    owner = amount.owner
    return (f"Now {'they' if amount.plural else owner} {amount.has} {{eq}} {obj}.",)


def _joined(heads: Iterable[Plan], tails: Iterable[Plan]) -> tuple[Plan, ...]:
    return tuple((*head, *tail) for head, tail in product(heads, tails))


# --- endings --------------------------------------------------------------------------------


def _ask(d: Draft, amount: Amount) -> Amount:
    do, owner = ("do", "they") if amount.plural else ("does", amount.owner)
    now = " now" if amount.name == "changed" else ""
    d.tell(f"How many {{obj}} {do} {owner} have{now}?")
    return amount


def _close(d: Draft, amount: Amount) -> Amount:
    """Add a last step and its question: piles, containers or a sale."""
    values = evaluate(amount.plans[0], d.given) or d.given
    value, s, owner = values[amount.name], "" if amount.plural else "s", amount.owner
    do, who = ("do", "they") if amount.plural else ("does", owner)
    divisors = [n for n in range(2, 10) if value % n == 0 and value > n]
    if divisors and d.rng.random() < 0.7:
        n = d.number(*[d.rng.choice(divisors)] * 2)
        box = d.boxes[1]
        kind = d.rng.choice(("share", "pack"))
        if kind == "share":
            d.tell(f"{owner} put{s} the {{obj}} into {{{n}}} equal piles. How many {{obj}} are in each pile?")
            step = _step("end", f"{amount.name} / {n}", f"Each pile has {{eq}} {d.obj}.")
        else:
            d.tell(f"{owner} put{s} {{{n}}} {{obj}} into each {box}. How many {_plural(box)} {do} {who} need?")
            step = _step("end", f"{amount.name} / {n}", f"That is {{eq}} {_plural(box)}.")
    else:
        price = d.number(2, 5)
        d.tell(f"{owner} sell{s} all {{obj}} for {{{price}}} dollars each. How many dollars {do} {who} get?")
        step = _step("end", f"{amount.name} * {price}", "That is {eq} dollars.")
    return Amount(owner, "end", _joined(amount.plans, [(step,)]))

"""Generated solutions: the generator's own truth, and that strict grading agrees with it."""

from __future__ import annotations

import random
from collections import Counter

from rft_ray.grading import grade
from rft_ray.grading.arithmetic import exact_value
from rft_ray.records import Status
from tests.unit.grading.solution_draws import Draw
from tests.unit.grading.solution_numbers import (
    Notation,
    clearly_false,
    evaluate,
    falsified,
    holds,
    random_expression,
    result_of,
    spell,
)
from tests.unit.grading.solution_texts import KINDS, Solution, random_solution, shrunk

SOLUTIONS = 3_000
FLOORS = {Status.CORRECT: 0.97, Status.WRONG_ANSWER: 0.97, Status.BAD_EQUATION: 0.85}
"""Least shares graded as made, a little below what is measured; `make fuzz-solutions` asks for 99.9 % each way."""


def test_strict_grading_agrees_with_generated_solutions_no_less_often_than_measured() -> None:
    rng = random.Random(16)
    seen: Counter[Status] = Counter()
    failed: Counter[Status] = Counter()
    examples = []
    for _ in range(SOLUTIONS):
        solution = random_solution(rng)
        seen[solution.expected] += 1
        verdict = grade(solution.text, solution.gold)
        if verdict.status not in solution.allowed:
            failed[solution.expected] += 1
            examples.append((solution.text, solution.gold, solution.expected.value, verdict))
    assert min(seen[kind] for kind in KINDS) > SOLUTIONS // 4
    assert all(1 - failed[kind] / seen[kind] >= FLOORS[kind] for kind in KINDS), examples[:20]


def test_one_seed_gives_the_same_solutions() -> None:
    first, second = random.Random(3), random.Random(3)
    assert [random_solution(first).text for _ in range(50)] == [random_solution(second).text for _ in range(50)]


def test_a_spelled_expression_has_the_value_that_it_is_evaluated_to() -> None:
    rng = random.Random(4)
    for _ in range(500):
        expression = random_expression(rng, decimals=rng.choice([0, 2]))
        assert exact_value(spell(expression, Notation())) == evaluate(expression)


def test_a_falsified_equation_is_off_by_more_than_rounding() -> None:
    rng = random.Random(5)
    draw = Draw(rng)
    for _ in range(1_000):
        equation = draw.equation(True, decimals=rng.choice([0, 2]), chain=rng.random() < 0.5)
        wrong = falsified(rng, equation)
        assert holds(equation)
        assert clearly_false(wrong)
        assert len(wrong.fields) == len(equation.fields)


def test_a_result_shows_every_digit_of_its_value() -> None:
    rng = random.Random(6)
    for _ in range(500):
        number = result_of(random_expression(rng, decimals=2))
        assert (number.value * 10**number.decimals).denominator == 1


def test_another_digit_makes_another_number_of_the_same_length() -> None:
    draw = Draw(random.Random(7))
    for value in (1, 5, 10, 99, 100, 4_096):
        for _ in range(50):
            other = draw.off(value)
            assert other != value
            assert len(draw.show(other)) == len(str(value))


def test_shrinking_leaves_only_the_lines_that_a_failure_needs() -> None:
    rng = random.Random(8)
    found = 0
    while found < 20:
        solution = random_solution(rng)
        if solution.expected is not Status.BAD_EQUATION or len(solution.parts) < 3:
            continue
        found += 1
        smallest = shrunk(solution, _has_a_false_line)
        assert len(smallest.parts) == 1
        assert smallest.expected is Status.BAD_EQUATION
        assert smallest.text == f"{smallest.parts[0].line.text}\n#### {solution.gold}"


def _has_a_false_line(solution: Solution) -> bool:
    return any(not part.holds for part in solution.parts)


def test_a_shrunk_solution_keeps_the_verdict_of_the_one_it_came_from() -> None:
    rng = random.Random(9)
    for _ in range(100):
        solution = random_solution(rng)
        smallest = shrunk(solution, lambda candidate: True)
        assert smallest.expected is solution.expected
        assert smallest.blamed == solution.blamed

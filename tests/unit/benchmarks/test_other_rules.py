"""Each other grader's rule, on texts where their definitions part."""

from __future__ import annotations

import pytest

from benchmarks import other_rules
from benchmarks.other_rules import RULES, MathVerify


def accepted(text: str, gold: str) -> set[str]:
    return {name for name, rule in RULES.items() if rule(text, gold)}


HASHES = {"paper", "lm-eval strict-match", "verl strict"}
LAST_NUMBER = {"lm-eval flexible-extract", "verl flexible"}


@pytest.mark.parametrize(
    ("text", "gold", "graders"),
    [
        ("So 5 pens.\n#### 5", "5", HASHES | LAST_NUMBER),
        ("So the answer is 5", "5", LAST_NUMBER),
        ("#### 1,250", "1250", HASHES | {"lm-eval flexible-extract"}),  # verl's flexible keeps commas
        ("#### 5.", "5", {"paper", "lm-eval strict-match", "lm-eval flexible-extract"}),  # verl keeps a last period
        ("#### $5", "5", {"lm-eval flexible-extract", "verl flexible"}),
        ("#### 5 pens, 2 of them red", "5", HASHES),
        ("#### 4\n#### 5", "5", {"verl strict"} | LAST_NUMBER),  # verl takes the last, the others the first
        ("#### 5.0", "5", {"paper"}),  # the others compare texts
        ("No number at all", "5", set()),
        ("", "5", set()),
    ],
)
def test_which_rules_accept(text: str, gold: str, graders: set[str]) -> None:
    assert accepted(text, gold) == graders


def test_verl_reads_the_last_300_characters() -> None:
    text = "#### 5" + " and so on" * 30
    assert not other_rules.verl_strict(text, "5")
    assert other_rules.lm_eval_strict(text, "5")


def test_math_verify_reads_latex_that_no_rule_on_digits_reads() -> None:
    library = MathVerify()
    try:
        assert library(r"Half of it: $\boxed{\frac{5}{2}}$", "2.5")
        assert not library(r"Half of it: $\boxed{\frac{5}{3}}$", "2.5")
    finally:
        library.close()
    assert accepted(r"Half of it: $\boxed{\frac{5}{2}}$", "2.5") == set()

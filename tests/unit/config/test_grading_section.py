"""Mistakes in the sections `grading` and `corpus`, each named in one line."""

from __future__ import annotations

import pytest

from rft_ray.config import ConfigError, load


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--grading.verifier=choices", "'choices' is no verifier: did you mean choice, or module:function"),
        ("--grading.verifier=xyzzy", "'xyzzy' is no verifier: use gsm8k, math, choice, exact, regex, python"),
        ("--grading.verifier=regex", "verifier: regex needs a pattern"),
        ("--grading.pattern=(.*)", "a pattern needs verifier: regex"),
        ("--grading={verifier: regex, pattern: '(a'}", "pattern: missing \\), unterminated subpattern"),
        ("--grading={verifier: regex, pattern: 'a'}", "put the answer into a group"),
        ("--grading={mode: paper, unread: reject}", "unread: reject needs mode: strict and verifier: gsm8k"),
        ("--grading={verifier: exact, unread: reject}", "unread: reject needs mode: strict and verifier: gsm8k"),
        ("--corpus.distinct_by=words", "distinct_by: use equations, normalised_text, answer_and_length"),
        ("--corpus.reasoning_tags=['<think>']", "write the name of a tag without < and >"),
    ],
)
def test_a_mistake_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, ["--models=[{name: a, source: x}]", setting])


def test_a_function_of_the_users_is_a_verifier() -> None:
    config = load(None, ["--models=[{name: a, source: x}]", "--grading.verifier=my.rules:grade"])
    assert config.grading.verifier == "my.rules:grade"

"""Path selection equals the transcription of the reference's rule; normal forms; counts."""

from __future__ import annotations

import random

import pytest
from rapidfuzz.distance import Levenshtein

from rft_ray.grading.equations import equations_of
from rft_ray.paths import NORMAL_FORMS, distinct_counts, equation_list, select, select_distinct, share_counts
from rft_ray.paths.normal_forms import normalise, sort_operands
from tests.unit.grading import reference_rules as reference
from tests.unit.grading.completion_texts import samples_of_one_problem


def test_paper_selection_is_the_references_one_pass() -> None:
    rng = random.Random(1)
    for _ in range(3_000):
        texts = samples_of_one_problem(rng, rng.randint(0, 40))
        assert select_distinct(texts, "paper") == reference.select(texts, Levenshtein.distance), texts


def test_the_compiled_distance_is_the_textbook_one() -> None:
    rng = random.Random(2)
    for _ in range(300):
        left, right = samples_of_one_problem(rng, 2)
        assert Levenshtein.distance(left, right) == reference.edit_distance(left, right)


def test_selection_under_other_modes_and_forms_follows_the_same_rule() -> None:
    rng = random.Random(3)
    for _ in range(600):
        texts = samples_of_one_problem(rng, 25)
        mode, form = rng.choice(["paper", "strict"]), rng.choice(NORMAL_FORMS)
        expected = reference.select(
            texts,
            Levenshtein.distance,
            lambda text, mode=mode, form=form: equation_list(text, mode, form),  # type: ignore[misc]
            lambda text, mode=mode: equations_of(text, mode).hold,  # type: ignore[misc]
        )
        if mode == "strict":
            assert select_distinct(texts, mode, form) == expected


def test_the_order_of_samples_decides_the_representative() -> None:
    texts = ["<<1+1=2>>", "other <<2+2=4>>", "far away words <<1+1=2>>", "f <<1+1=2>>"]
    assert select_distinct(texts, "paper") == [2, 1]
    assert select_distinct(texts[2:] + texts[:2], "paper") != [2, 1]


def test_paths_with_a_wrong_equation_are_skipped() -> None:
    assert select_distinct(["<<1+1=3>>", "<<1+1=2>>"], "paper") == [1]


def test_shared_by_counts_every_sample_with_the_same_equation_list() -> None:
    texts = ["a <<1+1=2>>", "b <<1+1=2>>", "<<1+1=3>>", "c <<2+2=4>>", "a <<1+1=2>>"]
    assert share_counts(texts, "paper") == [3, 1]
    assert [path.shared_by for path in select(texts, "paper")] == [3, 1]


def test_paper_lists_are_as_written_without_blanks() -> None:
    assert equation_list("<<3 + 2 = 5>> <<2.0*1=2=7>>", "paper") == ("3+2=5", "2.0*1=2=7")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He sells 48/2 = 24 clips, so 20% of 50 = 10.", ("48/2=24", "20%*50=10")),
        ("3 x 4 = 12 and $5 × 4 = $20", ("3*4=12", "5*4=20")),
        ("\\frac{10}{2} = 5 and 6 \\times 2 = 12", ("((10)/(2))=5", "6*2=12")),
        ("5 apples + 3 apples = 8 apples", ("5+3=8",)),
        ("(5 apples + 3 apples) x 2 = 16", ("(5+3)*2=16",)),
        ("Total = 5*3 = 15 dollars", ("5*3=15",)),
        ("2+3 = 5, then 80,000*1.5 = 120,000.00", ("2+3=5", "80000*1.5=120000")),
        ("2 * 3 + 4 = 6 + 4 = 10", ("2*3+4=6+4=10",)),
        ("1 1/2 * 2 = 3; 2^3 = 8; **2 x 3 = 6**", ("(1+1/2)*2=3", "2**3=8", "2*3=6")),
        ("- 5 x 3 = 15\n* 2 + 2 = 4", ("5*3=15", "2+2=4")),
        ("x + 5 = 12, 2x = 10, 2x+20 = 180, 6s - 4 = 116", ()),
        ("10:30 - 9:00 = 1.5, at 5 = five", ()),
        ("3 feet + 6 inches = 42 inches; 100 + 20% = 120", ("3+6=42", "100+20%=120")),
        ("no arithmetic here", ()),
    ],
)
def test_strict_lists_read_the_arithmetic_of_the_text(text: str, expected: tuple[str, ...]) -> None:
    assert equation_list(text) == expected


def test_strict_lists_of_prose_and_of_annotations_are_equal() -> None:
    assert equation_list("48 / 2 = 24") == equation_list("<<48/2=24>>") == equation_list("<<48/2 = 24.0>>")


@pytest.mark.parametrize(
    ("text", "fault"),
    [("5 apples * 3 = 16", True), ("10/3 = 3.33", False), ("10/3 = 3.3", False), ("10/3 = 3.4", True),
     ("7/2 = 4", True), ("7/2 = 3", True), ("<<7/2=4>>", True), ("7/2 ≈ 4", False), ("7/2 = 3 with 1 left", False),
     ("7/2 = 3 and 1/2", False), ("Rounded up, <<7/2=4>>", False), ("About 7/2 = 5", True), ("10/3 = 3.33 = 3", False),
     ("4 = 7/2", True), ("1/3 = 0", True), ("nearly 1/3 = 0", True),
     ("2/3 = 66.67%", False), ("3 + 2 = 5 * 4 = 20", True),
     ("5 = 10/2", False)],
)  # fmt: skip
def test_rounding_is_accepted_in_the_usual_spellings(text: str, fault: bool) -> None:
    assert bool(equations_of(text).fault) is fault


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("4*3=12", "3*4=12"), ("4+3-1=6", "3+4-1=6"), ("5*2/4=2.5", "2*5/4=2.5"), ("2*(4+3)=14", "(3+4)*2=14"),
        ("10-(2+1)=7", "10-1-2=7"), ("20%*50=10", "20%*50=10"), ("50*20%=10", "20%*50=10"), ("7-3=4", "7-3=4"),
        ("2**3=8", "2**3=8"), ("7//2=3", "7//2=3"), ("-2+5=3", "-2+5=3"), ("what=5", "what=5"),
        ("((10)/(2))=5", "10/2=5"),
    ],
)  # fmt: skip
def test_operands_are_sorted_under_plus_and_times(equation: str, expected: str) -> None:
    assert sort_operands(equation) == expected


def test_each_normal_form_is_coarser_than_the_one_before() -> None:
    texts = ["<<1+2=3>><<3*2=6>>", "<<2+1=3>><<3*2=6>>", "<<3*2=6>><<1+2=3>>", "<<3*2=6>>"]
    assert distinct_counts(texts, "paper") == {"as_written": 4, "sorted_operands": 3, "multiset": 2}
    rng = random.Random(4)
    for _ in range(200):
        counts = list(distinct_counts(samples_of_one_problem(rng, 20), "paper").values())
        assert counts == sorted(counts, reverse=True)


def test_an_unknown_normal_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        normalise(("1+1=2",), "alphabetical")

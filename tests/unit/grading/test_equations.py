"""Strict equations: what is read, what is blamed, and what is left undecided."""

from __future__ import annotations

import random

import pytest

from rft_ray.grading.equations import equations_of, readings
from tests.unit.grading.completion_texts import completion, random_hostile

HOLD = [
    "Price of 12 mugs = 12 × $4 = $48",
    "Her age in 5 years = 30 + 5 = 35",
    "Tia has 2 cats + Uma has 7 cats + Vic has 1 cat = 2 + 7 + 1 = 10 cats",
    "The total is Tia's (12) + Uma's (13) = 12 + 13 = 25",
    "He needs 40 grams/dog x 2 dogs = 40 x 2 = 80 grams",
    "That is 3 times 12 minutes = 3 * 12 = 36 minutes",
    "4.5 pounds ÷ 1/2 pound per bag = 9 bags",
    "8 * 25 cents = $2",
    "3 feet + 6 inches = 42 inches",
    "(4 ft × 2 ft) = 8 ft²",
    "60 miles/hour * 30 minutes = 30 miles",
    "($200 - $150) / $200 = 25% (off)",
    "80 * (100 - 25)% = 60",
    "100 + 20% = 120",
    "30/90 * 100% = 33.33",
    "8/24 = 0.33, and 0.33 * 24 = 8",
    "2/3 of 9 = 6",
    "0.1 + 0.2 = 0.30000000000000004",
    "The fee is $250 000 x 2/100 = $5000",
    "1{,}200 + 1{,}300 = 2{,}500",
    "6 * 7 = 41. Wait, that is wrong: 6 * 7 = 42.",
    "$400/week * 3 = <<400/week*3=1200>>1200",
    "She used 1/5 of the barrel's volume = 500 / 5 = 100 liters",
    "2³ + 1 = 9",
    "7/2 = about 3",
    "9 / 2 = 4, with 1 left over",
    "9 / 2 = 4 bags, and the remainder is 1.",
    "9 / 2 = 4 bags, so the remaining 1 is eaten.",
    "(40 - 9) / 6 = 5 with 1 apple remaining",
    "$6.00 / $4.50/set = 1 set with $1.50 leftover",
    "13 + 16 + 11 + 48 = 89. It seems there was still a mistake in our calculation.",
    "37 / 5 = 7 full boxes",
    "She can fill 7 full boxes, since 37 / 5 = 7.",
    "The number of whole boxes is 37 / 5 = 7.",
    "Complete weeks: 37 / 7 = 5",
    "37 / 5 = <<37/5=7>>7 full boxes",
    "6 * 7 = 41 (incorrect), 6 * 7 = 42.",
    "6 * 7 = 41. It should be 42.",
    "6 * 7 = 41, which should have been 42.",
    "6 * 7 = 41, should be 42.",
    "6 * 7 = 41. I made a mistake.",
    "6 * 7 = 41. My mistake: it is 42.",
    "6 * 7 = 41. That was a mistake.",
    "6 * 7 = 41. Wait, 6 * 7 = 42.",
    "5 + 3\n= 8",
    "90 GB / 3 GB/minute = 30 minutes",
    "The shop is open 9 pm - 4 pm = 5 hours",
    "The shift is 10 pm - 6 am = 8 hours = 480 minutes",
    "6:50 + 25 minutes = 7:15",
    "11:50 am + 1 hour and 20 minutes = 1:10 pm",
    "12:40 + 1:25 = 2:05",
    "4:45 - 2:15 = 2.5 hours",
    "31 / 6 = 5 R 1",
    "$\\frac{31}{6} = 5$ remainder 1",
    "31 ÷ 6 = 5 bags, with a remainder of 1",
    "The sum of 7, 9 and 11 is 27.",
    "So the difference between 15 and 6 equals 9.",
    "The average of 10 and 25 is 17.5.",
    "The product of 9 and 7 = 9 * 7 = 63",
    "3 * 1.412.500 = 4.237.500",
    "1.200,75 + 0,50 = 1.201,25",
    "1.340 € / 20 = 67 €",
    "8 / 1 / 3 = 8 * 3 = 24",
]
FAIL = [
    ("The price is $60 x (1 - 25%) = $50.", "60*(1-25%)=50"),
    ("$40 - 10% of $40 = $35", "40-10%*40=35"),
    ("3 + 4 = <<3+4=7>>7. Then 7 - 2 = 4.", "7-2=4"),
    ("They count 2 + 2 = <<1+4=5>>5", "2+2=5"),
    ("Think about it. 29 / 3 = 9 boxes.", "29/3=9"),
    ("She keeps the remainder. 29 / 2 = 15 eggs.", "29/2=15"),
    ("Total = 4 + 3\n    = 8", "4+3=8"),
    ("\\begin{align} a &= 4 + 3 \\\\ &= 8 \\end{align}", "4+3=8"),
    ("4 * 3 = *13*", "4*3=13"),
    ("4 * 3 = `13`", "4*3=13"),
    ("$4$ + $3$ = $8$", "4+3=8"),
    ("\\dfrac12 + 1 = 2", "(1/2)+1=2"),
    ("4 个 + 3 个 = 8 个", "4+3=8"),
    ("We write 900 cents = 12 cents.", "900=12"),
    ("4 + 3 equals 8 pears.", "4+3=8"),
    ("20 days x $3 = $70", "20*3=70"),
    ("5.2 * 4 = 21", "5.2*4=21"),
    ("100 + 20% = 130", "100+20%=130"),
    ("8 * 25 cents = $3", "8*25=3"),
    ("10 * 8 = $80 + 5 * 4 = $100", "10*8=80+5*4"),
    ("Twice 14 is 30.", "2*14=30"),
    ("Thus 411 = 51 * 8", "411=51*8"),
    ("130/520 = 26% of the pupils", "130/520=26%"),
    ("7 + 4 = 12（元）", "7+4=12"),
    ("8 ÷ 120 本 = 960 本", "8/120=960"),
    ("6 + 2 = 8 and 8 + 5 = 14.", "8+5=14"),
    ("31 moins 12 font 18.", "31-12=18"),
    ("\\(3 * \\$2.50 - \\$9 = -\\$2\\)", "3*2.5-9=-2"),
    ("(9 + 11) x 112 = 2 250", "(9+11)*112=2250"),
    ("Tia (5) + Uma (8) = 14", "(5)+(8)=14"),
    ("6 × 120 = ***702***", "6*120=702"),
    ("They are open 9 pm - 4 pm = 6 hours.", "9pm-4pm=6hours"),
    ("The shift is 10 pm - 6 am = 7 hours.", "10pm-6am=7hours"),
    ("6:50 + 25 minutes = 7:25", "6:50+25minutes=7:25"),
    ("1:40 pm - 20 minutes is 1:30 pm.", "1:40pm-20minutes=1:30pm"),
    ("31 / 6 = 7 R 1", "31/6=7+1/6"),
    ("31 / 6 = 5 remainder 3", "31/6=5+3/6"),
    ("The sum of 7 and 9 is 17.", "7+9=17"),
    ("So the product of 6 and 12 = 70.", "6*12=70"),
    ("The difference between 15 and 6 is 8.", "15-6=8"),
    ("3 * 1.412.500 = 4.237.600", "3*1412500=4237600"),
    ("1.200,75 + 0,50 = 1.202,25", "1200.75+0.5=1202.25"),
    ("1.340 € / 20 = 76 €", "1.34/20=76"),
    ("20 · 41 082 = 820 820", "20*41082=820820"),
    ("(4) 15 × 12 = 160", "15*12=160"),
    ("90 + 34 = 124, 124 * 3 = 370 and 372 + 1 = 373.", "124*3=370"),
    ("\\\\( \\\\$90 \\\\div 5 = -\\\\$18 \\\\)", "90/5=-18"),
    ("That makes 6 × 2 = 12 in \\( 3 \\times 4 = 12 \\) So (9 + 1) × 5 = 60", "(9+1)*5=60"),
    ("Twice 21 is 44. The answer should be 44.", "2*21=44"),
    ("3 + 4 = 8 red apples. There should be 9 after she adds 1: 8 + 1 = 9.", "3+4=8"),
    ("3 + 4 = 8 red apples. They should be red.", "3+4=8"),
    ("3 + 4 = 8 apples, which should be enough.", "3+4=8"),
    ("3 + 4 = 8 apples, one of them by mistake.", "3+4=8"),
    ("3 + 4 = 8 letters. Ann made a mistake in 2 of them.", "3+4=8"),
    ("3 + 4 = 8. There must be a mistake in the problem as given.", "3+4=8"),
    ("3 + 4 = 8 questions, 2 of them with incorrect answers.", "3+4=8"),
    ("6 * 7 = 41 cups. The waiter brings more: 6 * 7 = 42.", "6*7=41"),
    ("The remaining 37 apples are shared by 2 children, so each gets 37/2 = 19 apples.", "37/2=19"),
    ("The remaining 37 apples are shared by 2 children, so each gets 37/2 = 18 apples.", "37/2=18"),
    ("37/2 = 18 apples for each of the remaining 2 children.", "37/2=18"),
    ("37/2 = 19 apples, with 1 left over.", "37/2=19"),
    ("9 / 2 = 4, with 3 left over", "9/2=4"),
    ("The full price is 37/2 = 19 dollars.", "37/2=19"),
    ("37/2 = 19 dollars at full price.", "37/2=19"),
    ("To complete the wall she needs 37/2 = 19 days.", "37/2=19"),
    ("For the whole class that is 37/2 = 19 pens each.", "37/2=19"),
    ("1/8 + 1/4 = 1. Then 50 / 7 = 7, rounded to a whole number.", "1/8+1/4=1"),
]
NOT_BLAMED = [
    "So 50 - 8 = 2(B - 4), hence B = 25.",
    "We get 3Ivy + 1 = 85.",
    "2s + 3 = 21",
    "9 am - 4 pm = 7 hours",
    "In box 7 200 + 300 = 500",
    "Part (1) + Part (2) = 9",
    "2 hours - 30 minutes = 1 hour and 30 minutes",
    "3 pages / 10 minutes = 18 pages / x minutes",
    "3/5 of his money is 30 dollars",
    "Option 2 cost - Option 1 cost = 90 - 50 = 40",
    "If 3 + 4 = 8, then nothing is sure.",
    "Is 3 + 4 = 8?",
    "Is 9 pm - 4 pm = 6 hours?",
    "Practice is 9 pm - 4 pm = 25 hours a week.",
    "Twice the sum of 3 and 5 is 16.",
    "The difference of 5 and 9 is 3.",
    "There are 12, 600 / 50 = 252 rows.",
    "It took 0800-0115 = 0645 hours.",
    "It is .4 + . 35 + .2 = .95 in all.",
    "He earns $70+($70*(20/100) = $84.",
    "She reads 8 pages on day 1 * 3 = 24 pages on day 2.",
    "They add 4 + 2 pins to the 9 + 8 pins on it = 23.",
    "So 36 = 100% + 20% = 120% of the old price.",
]


@pytest.mark.parametrize("text", HOLD)
def test_an_equation_that_one_reading_makes_hold_is_no_fault(text: str) -> None:
    equations = equations_of(text)
    assert equations.fault == ""
    assert equations.listed


@pytest.mark.parametrize(("text", "wrong"), FAIL)
def test_an_equation_that_no_reading_makes_hold_is_the_fault(text: str, wrong: str) -> None:
    assert equations_of(text).fault == f"{wrong}: does not hold"


@pytest.mark.parametrize("text", NOT_BLAMED)
def test_what_is_no_arithmetic_or_doubtful_is_not_blamed(text: str) -> None:
    assert equations_of(text).fault == ""


def test_a_half_read_equation_is_named_as_unread() -> None:
    assert equations_of("10 - 4 (2 of 3) = 9").unread
    assert equations_of("3 + 4 = 7").unread == ""
    assert equations_of("2x + 4 = 9").unread == ""


def test_the_list_of_an_annotated_text_holds_its_annotations_only() -> None:
    assert equations_of("2 + 3 = <<2+3=5>>5 and 5 * 2 = 10").listed == ("2+3=5",)


def test_readings_agree_with_the_equations() -> None:
    rng = random.Random(5)
    texts = [completion(rng) for _ in range(300)] + [random_hostile(rng) for _ in range(300)] + HOLD
    for text in texts:
        equations, read = equations_of(text), readings(text)
        assert bool(equations.fault) == any(one.outcome == "fails" for one in read), repr(text)
        assert bool(equations.over) == any(one.outcome == "over" for one in read), repr(text)
        assert bool(equations.unread) <= any(one.outcome == "unread" for one in read), repr(text)
        assert all(0 <= one.start <= one.end <= len(text) for one in read), repr(text)


def test_a_reading_shows_the_characters_that_it_read() -> None:
    text = "He sells $\\frac{48}{2} = 24$ clips."
    (read,) = readings(text)
    assert (text[read.start : read.end].rstrip("$"), read.shown) == ("\\frac{48}{2} = 24", "((48)/(2))=24")


@pytest.mark.parametrize(
    "text",
    [
        "The number of hens is 2/5 of the total. So 20 * 2/5 = 8.",
        "We multiply the seats by 1/4: 72 seats * 1/4 = 18 seats.",
        "She slept only 2/3 of what he slept = less, so 9 * 2/3 = 6.",
    ],
)
def test_a_share_outside_an_equation_is_no_unread_arithmetic(text: str) -> None:
    assert equations_of(text).unread == ""

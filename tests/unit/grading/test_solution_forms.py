"""Shrunk counterexamples of the fuzz over generated solutions: each was graded wrongly once (`solution_texts.py`)."""

from __future__ import annotations

import pytest

from rft_ray.grading import grade
from rft_ray.records import Status

RIGHT_ANSWERS = (
    ("<think>Maybe 40 + 2 = 62? So the answer is 44. No, let me see.</think>\n#### 255", "255"),
    ("\\boxed{5^\\circ}", "5"),
    ("## Answer\n37", "37"),
    ("The answer is thus `875`.", "875"),
    ("So the answer would be 58.", "58"),
    ("The answer comes to 2", "2"),
    ("So the answer must be 102.", "102"),
    ("ANSWER:\n33", "33"),
    ("✅ Answer:\n15", "15"),
    ("Answer:\n\n21.", "21"),
    ("Answer: She earns $77 in all.", "77"),
    ("**Answer:** Sally has 2 books.", "2"),
    ("**She has 99 pens left.**", "99"),
    ("\\boxed{1\\,870}", "1870"),
    ("The answer is (B) 72.", "72"),
    ("#### 7:00 pm", "7"),
    ("\\boxed{\\frac37}", "3/7"),
    ("#### She has 21 pens.", "21"),
    ('{"reasoning": "", "answer": 3}', "3"),
    ("答案：96", "96"),
    ("答案是 260。", "260"),
    ("La respuesta es 74,50.", "74.5"),
    ("Die Antwort ist 1870 Euro.", "1870"),
    ("La réponse est 12 euros.", "12"),
    ("#### ２２", "22"),
    ("#### ٤٧", "47"),
    ("#### 5.0 million", "5000000"),
    ("The answer is 3. Wait, that is wrong. The answer is 8.", "8"),
    ("<answer>\n9\n</answer>", "9"),
)
WRONG_ANSWERS = (
    ("<think>Maybe 40 + 13 = 58? So the answer is 3. No, let me see.</think>\n\n#### 27", "77"),
    ("\\boxed{3^\\circ}", "5"),
    ("## Answer\n2", "4"),
    ("The answer comes to 2", "9"),
    ("Answer: She earns $57 in all.", "54"),
    ("**She has 1 pens left.**", "9"),
    ("\\boxed{9\\,951}", "9961"),
    ("The answer is (B) 68.", "60"),
    ("#### 9:00 pm", "3"),
    ("#### She has 33 pens.", "36"),
    ('{"reasoning": "", "answer": 34}', "84"),
    ("答案是：508元", "548"),
    ("Die Antwort ist 74,50 Euro.", "64.5"),
    ("#### ٤٧", "46"),
    ("The answer is 30. Wait, that is wrong. The answer is 15.", "35"),
    ("<answer>48</answer>", "68"),
)
RIGHT_EQUATIONS = (
    "Tom's age in 5 years = 31 + 5 = 36",
    "1/8 of the tank's capacity = 72 / 8 = 9 gallons",
    "The sum is Bea's age (62) + Ed's age (8) + Cal's age (26) = 62 + 8 + 26 = 96.",
    "Dora has 65 boxes + Ed has 71 boxes + Bea has 61 boxes = 65 + 71 + 61 = 197 boxes.",
    "34 boxes = 34 × $52 = $1768",
    "A fifth of 45 pens = 45 / 5 = 9",
    "54 + 3 = 77. That is incorrect; 54 + 3 = 57.",
    "Donc 2\u00a0900 / 20 = 145.",
    "En tout, il y a 3 933 / 23 = 171 pommes.",
    "Das sind 16 * 123 Euro + 8 * 69 Euro = 2.520 Euro.",
    "\\( 1,\\!746,\\!888 \\div 24 = 72,\\!787 \\)",
    "\\( 57{,}238 * 18 = 1{,}030{,}284 \\)",
    "21 plus 16 pens = 21 + 16 = 37 pens.",
    "So 3 times 2 tickets = 3 × 2 = 6 tickets.",
    "The area is 5 in × 12 in = 60 in².",
    "He has 8 x 25 cents = $2.",
    "He works 7 am - 3 pm = 8 hours.",
    "So 8 ÷ 1/6 = 48.",
    "It is 27/21*7 = <<27/21*7=9.000000000000014>>9.",
    "He needs 47 grams/cat x 9 cats = 47 x 9 = 423 grams.",
    "32 / 6 = 5.33, and 5.33 × 6 = 32.",
)
FALSE_EQUATIONS = (
    "Omar has 2 * 45 = <<2*45=90>>98.",
    "Omar has $45 ÷ 3 = $<<45/3=15>>15. Omar has 6 + 151 = 906 books in all.",
    "So [15 + 3] * 2 = 96.",
    "4 \\* 11 = 22.",
    "x = 380 ÷ 3\n  = 100",
    "$573 363 - 7 = $81 909.",
    "$6\u202f251 * 15 = $93\u202f725.",
    "7 x 24 = 128。",
    "一共有 595.91 元 ÷ 7 = 75.13 元。",
    "360 × 25% = 50。",
    "因此 5 × 28元 = 143元。",
    "64除以8是7。",
    "23 más 4 es 29.",
    "6 mal 7 ergibt 43.",
    "So *4 × 7 = 22*.",
    "\\begin{align*}\n81 + 9 &= 729\n\\end{align*}",
    "Now $4^{2} = 15$.",
    "So $\\dfrac18 \\times 24 = 4$.",
    "$4 \\times 85\\,238 = 348\\,952$",
    "So 408 / 8 = *56*.",
    "So 10 × 74 = `540`.",
    "So we get $4$ × $46$ = $276$.",
    "9 + 5 equals 19 cookies.",
    "5 times 16 = 70 chairs.",
    "Half of 14 = 1.",
    "21 plus 23 is 42.",
    "5x + 24 = 34\n5x = 34 - 24 = 17\nx = 10/5 = 2",
    "The area is 25 m × 11 m = 175 m^2.",
    "He has 700 cents = $6.",
    "That is 700 cm = 6 m.",
    "She needs 40 * 100 m = 4 m.",
    "So 6 cm * 10 = 61 mm.",
    "So 5 dozen * 12 = 20 eggs.",
    "24 hours * $33 = $692.",
    "So 603 / 900 = 87%.",
    "20 percent of 100 = 10.",
    "100 - (100 × 30%) = 73.",
    "It takes 6 miles / 3 mph = 1 hours.",
    "She pays $57/pen x 17 pens = $965.",
    "So 13 ÷ 3 is about 4.83.",
    "So 97 / 3 is about 80.",
    "So 1.5 million + 7.1 million = 6.6 million.",
)


@pytest.mark.parametrize(("text", "gold"), RIGHT_ANSWERS)
def test_a_right_answer_is_read(text: str, gold: str) -> None:
    assert grade(text, gold).status is Status.CORRECT


@pytest.mark.parametrize(("text", "gold"), WRONG_ANSWERS)
def test_a_wrong_answer_is_read(text: str, gold: str) -> None:
    assert grade(text, gold).status is Status.WRONG_ANSWER


@pytest.mark.parametrize("text", RIGHT_EQUATIONS)
def test_a_right_equation_holds(text: str) -> None:
    assert grade(f"{text}\n#### 5", "5").status is Status.CORRECT


@pytest.mark.parametrize("text", FALSE_EQUATIONS)
def test_a_false_equation_is_blamed(text: str) -> None:
    assert grade(f"{text}\n#### 5", "5").status is Status.BAD_EQUATION

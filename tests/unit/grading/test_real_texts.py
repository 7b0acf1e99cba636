"""Forms of real models' texts, of the kinds that strict mode reads since its rules 4: what holds, fails, or is unread.

The texts are made up; their forms are those of chat models' answers to GSM8K and of GSM8K's own solutions.
"""

from __future__ import annotations

import pytest

from rft_ray.grading import grade
from rft_ray.grading.equations import equations_of
from rft_ray.records import Status

HOLDS = [
    "6s - 4 = 116, so s = 20.",
    "Let L be the length: 2L + 8 = 22, L = 7",
    "x - 10 = 70 - 10 = 60",
    "Ann's age = Bea's age - 4 = 10 - 4 = 6 years",
    "60 - 8 = 2(a - 4)",
    "(30 + 15 + x) + (60 + 45) = 500",
    "3 pages / 2 minutes = x pages / 18 minutes",
    "(4 oz * 33) + (1 oz * x) >= (5 oz * 40)",
    "20 * 1.20 (20% increase) = $24",
    "Jane is 30 - 3 = 27 (3 years younger)",
    "Quarters: 32 quarters * $0.25 per quarter = $8.00",
    "16 guests * 3 halves/guest = 48 halves",
    "1 check per quarter * 4 quarters = 4 checks",
    "the price increases by $4 * 18 = $72",
    "Multiply both sides by 3/2: x = 18 * 3/2 = 27",
    "So 1 potato → 36 ÷ 6 = 6 hash browns",
    "5 fewer than Ann => 10 - 5 = 5 fish",
    "3 hours - 30 minutes = 2 hours and 30 minutes",
    "1 hour and 45 minutes is 60 + 45 = 105 minutes",
    "1200 inches / 12 inches/foot = 100 feet and 720 inches / 12 inches/foot = 60 feet",
    "90 minutes = 1.5 hours and 150 minutes = 2.5 hours",
    "\\( 5 \\times (2 + 12) = 70 \\) 83/3 = 27.67",
    "150 / 10 = 15 times $5",
    "40 rolls - 16 that got eaten = 24 rolls",
    "10 cages * 5 pieces of straw per hamster = 50 pieces",
    "He lost half of 18 pencils, which is 18/2 = 9",
    "5 pomelos (1/4 of 20 is 5)",
    "Total:3+4+5=12",
    "They pay is$45 + $42 = $87",
    "15 percent of 60 is 9",
]
FAILS = [
    "20 * 1.20 (20% increase) = $26",
    "Quarters: 32 quarters * $0.25 per quarter = $9.00",
    "Mon 5 miles + Tue 7 miles + Wed 8 miles = 21 miles",
    "So 1 potato → 36 ÷ 6 = 7 hash browns",
    "5 pomelos (1/4 of 20 is 6)",
    "Total:3+4+5=13",
    "\\( 3 \\times (9 + 30) = 116 \\) 780 × 25% = 195",
    "_7 × 8 = 54_",
    "5 яблок + 3 яблока = 9 яблок",
    "2 yards = 2 feet",
    "60 minutes = 60 seconds",
    "9 x 1 feet = 9 yards",
    "So 7/100 = 4% of them.",
    "85 + 46 = 1,048 and 1048 + 9 = 1,058",
    '"(5) 7 * 77 - 171 = 268"',
    "\\\\( 33\\\\,604 \\\\times 9 = 302\\\\,416 \\\\)",
]
UNREAD = [
    "30 - 3 = 26 (3 years younger)",
    "4 halves / 2 halves per egg = 3",
    "4 hours 42 minutes per week × 4 weeks = 18 hours 48 minutes per month",
    "40 rolls - 16 that got eaten = 23 rolls",
    "the price increases by $4 * 18 = $73",
    "3 halves + 1 = 5",
]
ANSWERS = [
    ("답은 18입니다.", "18"), ("따라서 답은 18개입니다.", "18"), ("Odpowiedź: 18", "18"), ("Odpowiedź to 18.", "18"),
    ("Cevap 18'dir.", "18"), ("Đáp án là 18.", "18"), ("Câu trả lời: 18", "18"), ("Svaret är 18.", "18"),
    ("Vastaus on 18.", "18"), ("Jawabannya adalah 18.", "18"), ("उत्तर 18 है।", "18"), ("Відповідь: 18", "18"),
    ("התשובה היא 18", "18"), ("A válasz 18.", "18"), ("Odpověď je 18.", "18"), ("Răspunsul este 18.", "18"),
    ("Η απάντηση είναι 18.", "18"), ("جواب: ۱۸", "18"), ("பதில்: 18", "18"), ("Die Lösung ist 18.", "18"),
    ("Por lo tanto, tiene 18 libros.", "18"), ("因此，小明有18本书。", "18"), ("Ответ 1: 5\nОтвет 2: 7", None),
    ("The answer is 18 boys, so 20 girls.", "?"), ("#### 18 boys, leaving 20 girls", "?"),
    ("The answer is 18, so she has 18 pens.", "18"), ("대답은 18번 나왔다.", None),
    ('{"reasoning": "52 books at $6 each = 52 × $6 = $312", "answer": 312}', "312"),
]  # fmt: skip


@pytest.mark.parametrize("text", HOLDS)
def test_what_holds_is_read_whole(text: str) -> None:
    read = equations_of(text)
    assert (read.fault, read.over, read.unread) == ("", "", "")


@pytest.mark.parametrize("text", FAILS)
def test_what_fails_is_blamed(text: str) -> None:
    assert equations_of(text).fault


@pytest.mark.parametrize("text", UNREAD)
def test_what_fails_in_a_doubtful_reading_is_unread(text: str) -> None:
    read = equations_of(text)
    assert read.unread
    assert not read.fault


@pytest.mark.parametrize(("text", "answer"), ANSWERS)
def test_the_answer_in_other_words(text: str, answer: str | None) -> None:
    verdict = grade(text, "312" if answer == "312" else "18")
    expected = {None: Status.NO_ANSWER, "?": Status.UNDECIDED}.get(answer, Status.CORRECT)
    assert verdict.status is expected

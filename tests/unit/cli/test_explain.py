"""`rft-ray grade --explain`: where texts and gold answers come from, and what is printed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rft_ray.cli.grading import main

TEXT = "Ann buys 4 * 6 = 24 eggs.\nShe has 24 + 5 = 30 eggs.\n#### 30"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file of three rows: with a gold answer, with a list of completions, and without either."""
    given = [
        {"text": TEXT, "gold": "30"},
        {"question": "How many eggs?", "completion": ["24 + 6 = 30\n#### 30", "#### 31"], "finish_reason": "stop"},
        {"question": "What else?", "note": "nothing"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(file)


def test_a_text_is_printed_with_its_marks_rules_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "solution.txt"
    file.write_text(TEXT)
    assert main(["--explain", str(file), "--gold", "30"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "Ann buys [1|4 * 6 = 24] eggs."
    assert lines[1] == "She has [2|24 + 5 = 30] eggs."
    assert "#### 30" in lines[2]
    assert "{a|" in lines[2]
    assert [line.split()[:3] for line in lines if line.startswith("  ")][:2] == [
        ["1", "holds", "4*6=24"],
        ["2", "fails", "24+5=30"],
    ]
    assert "strict: bad_equation (24+5=30: does not hold)" in lines
    assert "gold: 30" in lines


def test_a_text_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"#### 30\xff")))
    assert main(["--explain", "-", "--gold", "30", "--mode", "paper"]) == 0
    assert "paper: correct" in capsys.readouterr().out


def test_a_row_has_its_own_gold(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", rows, "--row", "1"]) == 0
    assert "strict: bad_equation" in capsys.readouterr().out


def test_the_gold_of_a_row_can_be_a_long_solution(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", rows, "--row", "1", "--gold", "She counts them all. " * 300 + "\n#### 30"]) == 0
    assert "strict: bad_equation" in capsys.readouterr().out


def test_every_completion_of_a_row_is_explained(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", rows, "--row", "2", "--gold", "30"]) == 0
    shown = capsys.readouterr().out
    assert "strict: correct" in shown
    assert "strict: wrong_answer" in shown


def test_a_row_is_graded_against_a_source_by_its_question(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"question": "How many eggs?", "answer": "31"}) + "\n")
    assert main(["--explain", rows, "--row", "2", "--gold", str(gold)]) == 0
    assert capsys.readouterr().out.count("gold: 31") == 2
    assert main(["--explain", rows, "--row", "3", "--gold", str(gold), "--completion-column", "note"]) == 2
    assert "its question is not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row", "9", "--gold", "1"], "it has no row 9"),
        (["--row", "2"], "no column 'gold'"),
        (["--row", "3", "--gold", "1"], "no column completion or"),
    ],
)
def test_what_cannot_be_explained_is_named(
    rows: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--explain", rows, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--row", "1", "--gold", "1"], ["--json", "--gold", "1"], ["--explain"], ["--explain", "--row", "0"], []],
)
def test_options_that_do_not_fit_together_are_refused(rows: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([rows, *arguments])
    assert ended.value.code == 2


def test_no_character_of_a_text_acts_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "solution.txt"
    file.write_text("\x1b[2J \u202e 1 + 1 = 2\x07\n#### 2\x1b]0;title\x07")
    assert main(["--explain", str(file), "--gold", "\x1b[2J2"]) == 0
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\u202e")
    assert "␛[2J" in shown


def test_json_has_the_places_of_the_text(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", rows, "--row", "1", "--json"]) == 0
    [explained] = json.loads(capsys.readouterr().out)
    assert explained["verdict"]["status"] == "bad_equation"
    assert [(read["text"], read["outcome"]) for read in explained["equations"]] == [
        ("4 * 6 = 24", "holds"),
        ("24 + 5 = 30", "fails"),
    ]
    [answer] = explained["answers"]
    assert answer["answer"] == "30"
    assert TEXT[answer["start"] : answer["end"]] == answer["text"]

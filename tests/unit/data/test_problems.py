"""Problem sources, the rows that they refuse, and the order and subsets of a data set."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray import config
from rft_ray.data.gold_rows import ANSWER_COLUMNS, QUESTION_COLUMNS, SOLUTION_COLUMNS
from rft_ray.data.leaks import Overlap
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.problems import (
    Dropped,
    check_solutions,
    commit_problems,
    describe,
    in_order,
    prepare,
    prepare_sets,
    read_problems,
    subset_count,
)
from rft_ray.data.row_files import DataError
from rft_ray.grading import grade
from rft_ray.records import Problem, Status, problem_id
from rft_ray.store import CorruptShard, NotFound, Store, open_store

Write = Callable[..., str]


def row(number: int, **changes: Any) -> dict[str, Any]:
    given = {"question": f"What is {number} and 1?", "answer": f"{number}+1 = {number + 1}\n#### {number + 1}"}
    return {key: value for key, value in {**given, **changes}.items() if value is not ...}


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Write rows, or raw lines, into a .jsonl file and return its path."""

    def write(*rows: dict[str, Any] | bytes, name: str = "data.jsonl") -> str:
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in rows]
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
        return str(tmp_path / name)

    return write


@pytest.fixture
def parquet(tmp_path: Path) -> Write:
    def write(*rows: dict[str, Any], name: str = "data.parquet") -> str:
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


# --- Reading --------------------------------------------------------------------------------------


def test_a_row_becomes_a_problem_with_its_gold_answer(jsonl: Write) -> None:
    question, answer = " Tom has 3 pens. \n", "3+2 = <<3+2=5>>5\n#### 1,005 \n"
    assert load_problems(jsonl({"question": question, "answer": answer})) == [
        Problem(problem_id(question), "Tom has 3 pens.", "3+2 = <<3+2=5>>5\n#### 1,005", "1005")
    ]


def test_the_last_of_several_final_answers_is_gold(jsonl: Write) -> None:
    assert load_problems(jsonl(row(1, answer="First\n#### 4\nthen\n#### 7")))[0].answer == "7"


def test_extra_columns_are_ignored(jsonl: Write) -> None:
    assert load_problems(jsonl(row(1, source="web", level=3))) == load_problems(jsonl(row(1)))


@pytest.mark.parametrize("line", [b"", b"  ", b"\r"])
def test_blank_lines_are_skipped(jsonl: Write, line: bytes) -> None:
    assert len(load_problems(jsonl(row(1), line, row(2), line))) == 2


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(jsonl: Write, tmp_path: Path) -> None:
    plain = load_problems(jsonl(row(1), row(2)))
    data = (tmp_path / "data.jsonl").read_bytes()
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))
    assert load_problems(str(tmp_path / "windows.jsonl")) == plain


def test_a_line_separator_inside_a_question_does_not_split_the_row(jsonl: Write) -> None:
    line = json.dumps(row(1, question="One\u2028two?"), ensure_ascii=False).encode()
    assert load_problems(jsonl(line))[0].question == "One\u2028two?"


def test_parquet_and_jsonl_of_the_same_rows_are_the_same_problems(jsonl: Write, parquet: Write) -> None:
    rows = [row(number) for number in range(20)]
    assert load_problems(jsonl(*rows)) == load_problems(parquet(*rows))


# --- Refusing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON ("),
        (b'{"question": "a\xff"}', "not UTF-8 at byte 16 of the line"),
        (b'"text"', "a JSON str, not an object"),
        (row(9, question=...), "no 'question' or 'problem' or 'prompt' or 'query' or 'input'; its columns: answer"),
        (row(9, answer=...), "no 'answer' or 'final_answer' or"),
        (row(9, question=None), "no 'question'"),
        (row(9, question=5), "'question' must be text, not int"),
        (row(9, question=" \n"), "'question' is empty"),
        (row(9, question="\ud800"), "'question' has half a surrogate pair"),
        (row(9, answer="So it is 18\n####18"), "'answer' must end in '#### <number>'"),
        (row(9, answer="So it is 18\n#### 18\nThat is all."), "'answer' must end in '#### <number>'"),
        (row(9, answer="So it is blue\n#### blue"), "'answer' must end in '#### <number>' (it ends in '#### blue')"),
        (row(9, answer="Either\n#### 18 or 19"), "'answer' must end in '#### <number>'"),
        (row(9, answer="None\n#### "), "'answer' must end in '#### <number>'"),
        (row(9, answer="blue"), "'answer' holds no number that the grader can read ('blue')"),
        (row(9, answer="18 or 19"), "'answer' holds no number that the grader can read ('18 or 19')"),
        (row(9, answer="2, 3"), "'answer' holds no number"),
        (row(9, answer=r"3\sqrt{2}"), "'answer' holds no number"),
        (row(9, answer="2x"), "'answer' holds no number"),
        (row(9, answer=True), "'answer' holds no number that the grader can read (True)"),
        (row(9, answer=[18]), "'answer' must be text, not list"),
        (row(9, answer=" "), "'answer' is empty"),
        (row(9, answer=float("nan")), "no 'answer'; its columns: question, answer"),
        (row(9, answer=7, solution="So.\n#### 8"), "'answer' is '7', but 'solution' ends in '#### 8'"),
        (
            row(9, answer=None, solution="So it is blue."),
            "no answer, and the grader reads none at the end of 'solution'",
        ),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(jsonl: Write, bad: dict[str, Any] | bytes, said: str) -> None:
    path = jsonl(row(1), bad, row(2))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert str(refusal.value).startswith(f"{path}:2: {said}")


def test_a_repeated_question_is_refused_with_both_lines(jsonl: Write) -> None:
    path = jsonl(row(1), row(2), row(1, question=" What is 1 and 1? "))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert (
        str(refusal.value)
        == f"{path}:3: the same question as {path}:1: remove one of the two, or set problems.duplicates=drop"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": None}, "row 2: no 'answer'"),
        ({"answer": "blue"}, "row 2: 'answer' holds no number"),
        ({"question": "What is 1 and 1?"}, "row 2: the same question as"),
    ],
)
def test_a_bad_parquet_row_is_refused_with_its_number(parquet: Write, changes: dict[str, Any], said: str) -> None:
    path = parquet(row(1), row(2, **changes))
    with pytest.raises(DataError) as refusal:
        load_problems(path)
    assert str(refusal.value).startswith(f"{path}: {said}")


def test_a_parquet_file_without_a_needed_column_is_refused_with_those_it_has(parquet: Write) -> None:
    with pytest.raises(DataError, match=r"data\.parquet: no 'answer' or .*; its columns: question, text"):
        load_problems(parquet({"question": "Why?", "text": "So.\n#### 1"}))


def test_a_parquet_column_of_numbers_is_a_column_of_answers(parquet: Write) -> None:
    assert load_problems(parquet({"question": "Why?", "answer": 1}))[0].answer == "1"


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_row(tmp_path: Path) -> None:
    good, bad = pa.array([b"Why?", b"\xff"]).view(pa.string()), pa.array(["So.\n#### 1"] * 2)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"question": good, "answer": bad}), path)
    with pytest.raises(DataError, match="row 2: 'question' is not UTF-8"):
        load_problems(str(path))


@pytest.mark.parametrize("content", [b"", b"PAR1 is not enough", b"\0" * 100])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as Parquet"):
        load_problems(str(path))


@pytest.mark.parametrize("lines", [(), (b"", b" ")])
def test_an_empty_file_is_refused(jsonl: Write, lines: tuple[bytes, ...]) -> None:
    with pytest.raises(DataError, match="holds no problems"):
        load_problems(jsonl(*lines))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gsm8k:dev", "GSM8K has no split 'dev': write gsm8k:train or gsm8k:test"),
        ("hub:openai/gsm8k", "write hub:<dataset>:<split>, as in hub:openai/gsm8k:train"),
        ("tiny:train", "write tiny:<split>:<count>"),
        ("tiny:train:0", "write tiny:<split>:<count>"),
        ("tiny:dev:10", "split 'dev': it must be one of train, test, pretrain"),
        ("tiny:train:10:1:4-2", "steps 4..2"),
        ("data.docx", "not a source of problems: write gsm8k:<split>"),
        ("s3://bucket/a b.jsonl", "bad store key 'a b.jsonl'"),
    ],
)
def test_a_malformed_source_is_refused_with_the_valid_forms(source: str, said: str) -> None:
    with pytest.raises(DataError) as refusal:
        load_problems(source)
    assert str(refusal.value).startswith(f"{source}: {said}")


def test_a_missing_file_is_refused_with_the_nearest_name(jsonl: Write) -> None:
    path = jsonl(row(1), name="train.jsonl")
    with pytest.raises(DataError, match=r"there is no such file; nearest file there: train\.jsonl"):
        load_problems(path.replace("train", "trian"))


def test_a_gsm8k_folder_without_the_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_GSM8K_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"RFT_GSM8K_DIR is .*, which has no test\.jsonl: correct or unset it"):
        load_problems("gsm8k:test")


# --- The embedded generator -----------------------------------------------------------------------


def test_a_tiny_source_gives_the_requested_number_of_problems() -> None:
    assert len({problem.problem_id for problem in load_problems("tiny:train:200")}) == 200


def test_seed_and_steps_of_a_tiny_source_change_its_problems() -> None:
    sources = ["tiny:train:50", "tiny:train:50:1", "tiny:train:50:0:1-2", "tiny:train:50:1-2"]
    plain, seeded, steps, steps_alone = (load_problems(source) for source in sources)
    assert plain != seeded
    assert plain != steps
    assert steps == steps_alone


# --- GSM8K ----------------------------------------------------------------------------------------


@pytest.fixture
def gsm8k() -> None:
    if not os.environ.get("RFT_GSM8K_DIR"):
        if os.environ.get("CI") == "true":
            pytest.fail("RFT_GSM8K_DIR is not set, and CI must test with GSM8K")
        pytest.skip("RFT_GSM8K_DIR is not set: give a folder with GSM8K's train.jsonl and test.jsonl")


@pytest.mark.usefixtures("gsm8k")
@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_all_of_gsm8k_is_read(split: str, count: int) -> None:
    assert len(load_problems(f"gsm8k:{split}")) == count


@pytest.mark.usefixtures("gsm8k")
def test_every_gold_answer_of_gsm8k_is_a_whole_number() -> None:
    answers = [problem.answer for problem in load_problems("gsm8k:train") + load_problems("gsm8k:test")]
    assert [answer for answer in answers if not answer.lstrip("-").isdigit()] == []


@pytest.mark.usefixtures("gsm8k")
def test_train_and_test_of_gsm8k_share_no_question() -> None:
    leaks = Overlap(load_problems("gsm8k:test"), 0.8).leaks(load_problems("gsm8k:train"))
    assert [leak for leak in leaks if leak.exact] == []


# --- Order and subsets ----------------------------------------------------------------------------


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    problems = load_problems("tiny:train:100")
    shuffled = random.Random(1).sample(problems, len(problems))
    assert in_order(shuffled, seed=3) == in_order(problems, seed=3)


def test_another_seed_gives_another_order() -> None:
    problems = load_problems("tiny:train:100")
    assert in_order(problems, seed=1) != in_order(problems, seed=2)


@pytest.mark.parametrize(
    ("limit", "fraction", "count"),
    [
        (None, None, 103),
        (1, None, 10),
        (10, None, 10),
        (11, None, 20),
        (101, None, 103),
        (1000, None, 103),
        (None, 0.01, 10),
        (None, 0.5, 60),
        (None, 1.0, 103),
    ],
)
def test_a_subset_is_whole_blocks_and_at_most_everything(limit: int | None, fraction: float | None, count: int) -> None:
    assert subset_count(103, limit=limit, fraction=fraction, per_block=10) == count


def test_a_fraction_is_read_as_an_exact_decimal() -> None:
    assert subset_count(70, limit=None, fraction=0.1, per_block=7) == 7


# --- Prepared sets --------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_neither_limit_nor_format_nor_row_order(jsonl: Write, parquet: Write) -> None:
    rows = [row(number) for number in range(30)]
    sections = [
        config.ProblemSet(source=jsonl(*rows)),
        config.ProblemSet(source=jsonl(*rows), limit=5),
        config.ProblemSet(source=parquet(*reversed(rows)), fraction=0.5),
    ]
    assert len({prepare(section, 0, 10).fingerprint for section in sections}) == 1


def test_the_fingerprint_depends_on_content_order_and_blocks(jsonl: Write) -> None:
    rows = [row(number) for number in range(30)]
    changed = [*rows[:-1], row(29, answer="29 and 1 make 30\n#### 30")]
    plain = config.ProblemSet(source=jsonl(*rows))
    other = config.ProblemSet(source=jsonl(*changed, name="changed.jsonl"))
    sets = [prepare(plain, 0, 10), prepare(plain, 1, 10), prepare(plain, 0, 15), prepare(other, 0, 10)]
    assert len({problem_set.fingerprint for problem_set in sets}) == 4


def test_the_fingerprint_of_given_problems_never_changes(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl(row(1), row(2), row(3)))
    assert prepare(section, 0, 2).fingerprint == "b2ced2ea7de27216"


def test_a_larger_limit_keeps_the_problems_of_a_smaller_one() -> None:
    small, large = (prepare(config.ProblemSet(source="tiny:train:100", limit=limit), 0, 10) for limit in (20, 60))
    assert large.problems[: small.count] == small.problems[: small.count]


def test_a_question_in_both_sets_is_found_in_any_case_and_spacing() -> None:
    def problem(question: str) -> Problem:
        return Problem(problem_id(question), question, "So.\n#### 1", "1")

    train, test = [problem("Tom has  3 pens?")], [problem("tom HAS 3\npens?"), problem("Another?")]
    assert [leak.test for leak in Overlap(test, 0.8).leaks(train) if leak.exact] == test[:1]


def test_committed_problems_are_read_back_in_order(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30", limit=10), 0, 10)
    assert commit_problems(store, problem_set) == f"problems/{problem_set.fingerprint}.parquet"
    assert read_problems(store, problem_set.fingerprint) == problem_set.problems


def test_already_committed_problems_are_not_changed(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    before = store.read(commit_problems(store, problem_set))
    assert store.read(commit_problems(store, problem_set)) == before


def test_problems_that_were_never_committed_are_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        read_problems(store, "0" * 16)


def test_a_damaged_problems_file_is_named(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    path = store.local_path(commit_problems(store, problem_set))
    assert path is not None
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptShard, match=problem_set.fingerprint):
        read_problems(store, problem_set.fingerprint)


def test_problems_under_another_sets_name_are_refused(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    store.create(f"problems/{'0' * 16}.parquet", store.read(commit_problems(store, problem_set)))
    with pytest.raises(DataError, match=f"holds the problem set {problem_set.fingerprint}"):
        read_problems(store, "0" * 16)


# --- Columns and answers without a solution ---------------------------------------------------------


def test_the_problems_and_the_name_of_a_set_in_gsm8k_form_never_change(jsonl: Write) -> None:
    """The hash is that of the version that read GSM8K's form only: a saved run finds its files by it."""
    rows = [
        {"question": "Tom has 3 pens and buys 2. How many?", "answer": "3+2 = <<3+2=5>>5\n#### 5"},
        {"question": " Ann earns 1,200 twice. \n", "answer": "1200*2 = <<1200*2=2400>>2400\n#### 2,400 \n"},
        {"question": "Half of 5?", "answer": "5/2 = 2.5\n#### 4\nno\n#### 2.5", "solution": "other", "response": 5},
    ]
    problems = prepare(config.ProblemSet(source=jsonl(*rows)), 0, 50)
    assert problems.fingerprint == "d6fd60285a8f3632"
    assert [problem.answer for problem in problems.problems] == ["2400", "2.5", "5"]


@pytest.mark.usefixtures("gsm8k")
def test_the_name_of_gsm8k_never_changes() -> None:
    assert prepare(config.ProblemSet(source="gsm8k:test"), 0, 50).fingerprint == "3d5f6070c702ad3d"


SOLVED = "3+2 = 5\n#### 5"


@pytest.mark.parametrize("question", QUESTION_COLUMNS)
@pytest.mark.parametrize(
    "gold",
    [
        *({column: SOLVED} for column in (*ANSWER_COLUMNS, *SOLUTION_COLUMNS)),
        *({column: "3+2 = 5", "answer": answer} for column in SOLUTION_COLUMNS for answer in ("5", 5, 5.0)),
        {"answer": "#### 5", "solution": SOLVED},
    ],
)
def test_usual_columns_are_found_by_name(jsonl: Write, question: str, gold: dict[str, Any]) -> None:
    (problem,) = load_problems(jsonl({question: "Why?", **gold}))
    assert (problem.question, problem.answer) == ("Why?", "5")
    assert problem.solution == ("" if gold == {"answer": "#### 5", "solution": SOLVED} else SOLVED)


def test_columns_are_named_in_the_config(jsonl: Write) -> None:
    path = jsonl({"q": "Why?", "a": 5, "s": "3+2 = 5", "question": "no", "answer": "6", "solution": "no"})
    section = config.ProblemSet(source=path, question="q", answer="a", solution="s")
    assert prepare(section, 0, 10).problems == (Problem(problem_id("Why?"), "Why?", SOLVED, "5"),)


def test_a_named_column_is_not_found_again_by_name(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl({"question": "Why?", "answer": r"3+2 is \boxed{5}."}), solution="answer")
    assert prepare(section, 0, 10).problems[0].solution == "3+2 is \\boxed{5}.\n#### 5"


def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(jsonl: Write, parquet: Write) -> None:
    for path in (jsonl(row(1)), parquet(row(1))):
        with pytest.raises(DataError, match="no 'q'; its columns: question, answer"):
            prepare(config.ProblemSet(source=path, question="q"), 0, 10)


@pytest.mark.parametrize("content", ["3+2 = 5\n#### 5", [{"type": "text", "text": "3+2 = 5\n#### 5"}]])
def test_a_chat_is_a_problem(jsonl: Write, parquet: Write, content: Any) -> None:
    said = [("system", "Think."), ("user", "Why?"), ("assistant", "?"), ("user", "So?"), ("assistant", content)]
    chat = {"messages": [{"role": role, "content": text} for role, text in said]}
    assert load_problems(jsonl(chat)) == [Problem(problem_id("Why?"), "Why?", SOLVED, "5")]
    if isinstance(content, str):
        assert load_problems(parquet(chat)) == load_problems(jsonl(chat))
    prompt = {"prompt": chat["messages"][:2], "target": 5}
    assert load_problems(jsonl(prompt)) == [Problem(problem_id("Why?"), "Why?", "", "5")]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("18", "18"), (18, "18"), (18.0, "18"), (0.5, "0.5"), ("1,800", "1800"), ("$1,800.00", "1800"),
        ("18 pens", "18"), ("50%", "50%"), ("-3", "-3"), (r"\frac{1}{2}", "0.5"), (r"\boxed{7}", "7"),
        ("#### 2,400", "2400"), (1e21, "1" + "0" * 21),
    ],
)  # fmt: skip
def test_a_row_with_a_bare_answer_has_no_solution(jsonl: Write, answer: object, read: str) -> None:
    (problem,) = load_problems(jsonl({"question": "Why?", "answer": answer, "solution": None}))
    assert (problem.solution, problem.answer) == ("", read)
    assert grade(f"So.\n#### {read}", problem.answer).status is Status.CORRECT
    if "%" not in read:
        assert grade(f"So.\n#### {read}", problem.answer, "paper").status is Status.CORRECT


def test_a_set_may_mix_rows_with_and_without_a_solution(jsonl: Write) -> None:
    problems = prepare(config.ProblemSet(source=jsonl(row(1), row(2, answer=3), row(3, answer="4"))), 0, 10)
    assert (problems.count, problems.solved) == (3, 1)
    check_solutions(problems, 3)


def test_the_answers_of_a_set_without_solutions_are_part_of_its_name(jsonl: Write) -> None:
    names = {prepare(config.ProblemSet(source=jsonl(row(1, answer=answer))), 0, 10).fingerprint for answer in (1, 2)}
    assert len(names) == 2


def test_a_training_set_without_any_solution_is_refused(jsonl: Write) -> None:
    problems = prepare(config.ProblemSet(source=jsonl(row(1, answer=3), row(2, answer=4))), 0, 10)
    with pytest.raises(DataError, match=r"none of 2 training problems has a worked solution.*: give a column of sol"):
        check_solutions(problems, 2)


# --- Repeated questions, and test questions in the training set ---------------------------------------

LONG = "Every day Jack finds 3 stamps and Lily finds 4 stamps in the old box under the stairs of the house."


def sections(train: str, test: str, **settings: Any) -> config.Problems:
    return config.Problems.model_validate({"train": {"source": train}, "test": {"source": test}, **settings})


def test_repeated_rows_are_dropped_on_request_and_counted(jsonl: Write) -> None:
    bare, other = row(1, answer=2), row(3, answer="So.\n#### 9")
    train, test = jsonl(bare, row(1), row(1), row(2), row(3), other, row(3)), jsonl(row(8), name="test.jsonl")
    with pytest.raises(DataError, match=r"jsonl:2: the same question as .*:1: remove one of the two, or set"):
        prepare_sets(sections(train, test))
    problems = prepare_sets(sections(train, test, duplicates="drop"))[0]
    assert {problem.question for problem in problems.problems} == {row(1)["question"], row(2)["question"]}
    assert problems.solved == 2  # of equal rows, one with a solution stays
    assert problems.dropped == Dropped(repeated=2, conflicting=3)
    assert describe(problems, problems, 0.8)[0] == (
        "problems.train: dropped 2 that repeat another row, 3 of questions with conflicting answers"
    )


def test_a_question_with_another_answer_is_refused_with_both_answers(jsonl: Write) -> None:
    with pytest.raises(DataError, match=r"jsonl:2: the same question as .*:1 with another answer \(9, there 2\)"):
        load_problems(jsonl(row(1), row(1, answer="9")))


def test_a_set_of_nothing_but_conflicts_is_refused(jsonl: Write) -> None:
    path = jsonl(row(1), row(1, answer="9"))
    with pytest.raises(DataError, match="holds no problems: all of its questions have conflicting answers"):
        prepare_sets(sections(path, path, duplicates="drop"))


def test_test_questions_in_the_training_set_are_counted_and_dropped_on_request(jsonl: Write) -> None:
    near = LONG.replace("Every day", "Each day").replace("house", "farm") + " How many do they find?"
    train = jsonl(row(1), row(1, question=near), row(2, question=" WHAT is 8  and 1?"), row(3))
    test = jsonl(row(8), row(9, question=LONG), row(10), name="test.jsonl")
    reported = prepare_sets(sections(train, test))
    assert reported[0].count == 4
    (line,) = describe(*reported, 0.7)
    assert line.startswith("warning: test questions in the training set: 1 exactly, and 1 more with at least 70% of")
    assert "and 0 more" in describe(*reported, 0.95)[0]
    cleaned = prepare_sets(sections(train, test, decontaminate="drop", overlap_threshold=0.7))
    assert sorted(problem.question for problem in cleaned[0].problems) == [row(1)["question"], row(3)["question"]]
    assert cleaned[0].dropped == Dropped(in_test=2)
    assert describe(*cleaned, 0.7) == ["problems.train: dropped 2 that contain a test question"]
    assert cleaned[1] == reported[1]


def test_the_share_is_of_the_test_questions_8_grams() -> None:
    def problem(question: str) -> Problem:
        return Problem(problem_id(question), question, "", "1")

    words = [f"w{number}" for number in range(20)]
    test, longer, half = " ".join(words[:12]), " ".join(words), " ".join(words[2:])
    leaks = Overlap([problem(test)], 0.1).leaks([problem(longer), problem(half)])
    assert [round(leak.share, 2) for leak in leaks] == [1.0, 0.6]
    assert Overlap([problem(longer)], 0.5).leaks([problem(test)]) == []  # 5 of its 13
    assert Overlap([problem("Too short for any.")], 0.1).leaks([problem("Too short for any. Or?")]) == []


def test_a_training_set_of_test_questions_alone_is_refused(jsonl: Write) -> None:
    path = jsonl(row(1))
    with pytest.raises(DataError, match="every problem contains a test question"):
        prepare_sets(sections(path, path, decontaminate="drop"))

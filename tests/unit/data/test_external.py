"""Reading completions of any sampler: columns, models, refusals, and the shards that they are committed as."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray.cli.grading import main as grade_file
from rft_ray.corpus.external import MAX_SAMPLE_BLOCKS, commit_completions, sampling_job
from rft_ray.data.external import (
    COMPLETION_COLUMNS,
    GOLD_COLUMNS,
    Foreign,
    Gold,
    completion_rows,
    gold_answers,
    read_files,
    read_gold,
)
from rft_ray.data.gold_rows import QUESTION_COLUMNS
from rft_ray.data.problems import ProblemSet
from rft_ray.data.row_files import DataError
from rft_ray.data.tiny.generator import generate
from rft_ray.records import Completion, Problem, from_table
from rft_ray.store import open_store, read_table

PROBLEMS = tuple(generate(120, split="train", seed=3, steps=(1, 2)))
GOLD = Gold(ProblemSet(PROBLEMS, len(PROBLEMS), "4" * 16), solved=True)
FIRST = PROBLEMS[0]


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(problem: Problem = FIRST, **columns: object) -> dict:
    return {"question": problem.question, "completion": problem.solution, **columns}


def read(path: Path, rows: list[dict], **options: str) -> Foreign:
    return read_files([jsonl(path / "sampler.jsonl", rows)], PROBLEMS, **options)


def test_samples_of_a_problem_are_numbered_as_they_come_per_model(tmp_path: Path) -> None:
    other = PROBLEMS[1]
    completions = read(tmp_path, [asked(), asked(other), asked(), asked(model="b"), asked()])
    assert {
        name: [(row.problem_id, row.sample_index) for row in rows] for name, rows in completions.by_model.items()
    } == {
        "sampler": [(FIRST.problem_id, 0), (other.problem_id, 0), (FIRST.problem_id, 1), (FIRST.problem_id, 2)],
        "b": [(FIRST.problem_id, 0)],
    }


def test_prompt_and_response_are_read_when_question_and_completion_are_missing(tmp_path: Path) -> None:
    rows = [{"prompt": FIRST.question, "response": "#### 1"}]
    assert [row.text for row in read(tmp_path, rows).by_model["sampler"]] == ["#### 1"]


def test_a_column_of_another_name_is_read_on_request(tmp_path: Path) -> None:
    completions = read(tmp_path, [asked(generated="mine")], completion_column="generated")
    assert [row.text for row in completions.by_model["sampler"]] == ["mine"]


def test_parquet_and_jsonl_of_the_same_rows_are_the_same_samples(tmp_path: Path) -> None:
    rows = [asked(problem, finish_reason="stop") for problem in PROBLEMS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    files = [jsonl(tmp_path / "x.jsonl", rows), str(tmp_path / "x.parquet")]
    jobs = [sampling_job("x", read_files([file], PROBLEMS).by_model["x"], GOLD, "{query}") for file in files]
    assert jobs[0] == jobs[1]


def test_a_changed_text_changes_the_samplers_fingerprint(tmp_path: Path) -> None:
    jobs = [
        sampling_job("x", read(tmp_path, [asked(completion=text)]).by_model["sampler"], GOLD, "{query}")
        for text in "ab"
    ]
    assert jobs[0].fingerprint != jobs[1].fingerprint


def test_each_text_of_a_list_is_a_sample(tmp_path: Path) -> None:
    completions = read(
        tmp_path, [asked(completion=["a", "b"], finish_reason=["stop", "length"]), asked(completion="c")]
    )
    assert [(row.sample_index, row.text, row.finish_reason) for row in completions.by_model["sampler"]] == [
        (0, "a", "stop"),
        (1, "b", "length"),
        (2, "c", "stop"),
    ]


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_every_name_of_the_token_limit_marks_a_truncated_text(tmp_path: Path, reason: str) -> None:
    assert read(tmp_path, [asked(finish_reason=reason)]).by_model["sampler"][0].finish_reason == "length"


def test_a_finish_reason_of_skipped_does_not_exclude_a_row_from_grading(tmp_path: Path) -> None:
    assert read(tmp_path, [asked(finish_reason="skipped")]).by_model["sampler"][0].finish_reason == "stop"


def test_a_question_that_differs_in_white_space_only_is_found(tmp_path: Path) -> None:
    assert read(tmp_path, [asked(question=FIRST.question.replace(" ", " \n") + "\n")]).by_model["sampler"]


def test_completions_of_unknown_questions_are_counted(tmp_path: Path) -> None:
    completions = read(tmp_path, [asked(), asked(question="Who?"), asked(question="Who?", completion=["a", "b"])])
    assert (completions.unknown, completions.unknown_questions) == ({"sampler": 3}, ["Who?", "Who?"])
    assert len(completions.by_model["sampler"]) == 1


def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    [row] = read(tmp_path, [asked(completion="a\ud800b")]).by_model["sampler"]
    assert row.text == "a?b"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON list"),
        (json.dumps({"question": FIRST.question}), "'completion' must be text"),
        (json.dumps(asked(completion=None)), "'completion' must be text"),
        (json.dumps(asked(completion=["a", 3])), "'completion' must be text"),
        (json.dumps(asked(completion=["a"], finish_reason=["stop", "stop"])), "2 in 'finish_reason'"),
        (json.dumps(asked(question=7)), "'question' must be text"),
        (json.dumps(asked(model="a+b")), r"without '\+'"),
        (b"\xff".decode("latin-1"), "not UTF-8 at byte 1 of the line"),
    ],
)
def test_a_malformed_row_is_refused_with_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes((json.dumps(asked()) + "\n\n" + line + "\n").encode("latin-1"))
    with pytest.raises(DataError, match=why) as error:
        read_files([str(path)], PROBLEMS)
    assert str(error.value).startswith(f"{path}:3: ")


def test_a_missing_column_is_refused_with_the_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":1: no column 'completion' or .*'answer'; it has: question, generated: .*"):
        read(tmp_path, [{"question": FIRST.question, "generated": "x"}])


def test_a_null_completion_is_refused_although_the_row_has_a_gold_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read(tmp_path, [asked(), {"question": FIRST.question, "completion": None, "response": FIRST.solution}])


def test_two_files_of_one_name_without_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = [jsonl(tmp_path / folder / "out.jsonl", [asked()]) for folder in "ab"]
    with pytest.raises(DataError, match="give both a column 'model'"):
        read_files(files, PROBLEMS)


def test_files_of_one_model_are_pooled(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"part-{part}.jsonl", [asked(model="m")]) for part in range(2)]
    assert [row.sample_index for row in read_files(files, PROBLEMS).by_model["m"]] == [0, 1]


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet", "c.csv"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        read_files([str(tmp_path / name)], PROBLEMS)


def test_a_file_that_comes_twice_is_refused(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "first.jsonl", [asked(model="m")])
    pq.write_table(pa.Table.from_pylist([asked(model="m")]), tmp_path / "first.parquet")
    (tmp_path / "again.jsonl").symlink_to(first)
    twice = [[first, first], [first, str(tmp_path / "again.jsonl")], [first, str(tmp_path / "f*.jsonl")]]
    for files in (*twice, [str(tmp_path / "first.*")], [str(tmp_path)]):
        with pytest.raises(DataError, match="each of its samples would count twice: give one of the two"):
            read_files(files, PROBLEMS)
    with pytest.raises(DataError, match="would count twice"):  # as `rft-ray grade` reads it
        list(completion_rows(str(tmp_path)))
    other = jsonl(tmp_path / "second.jsonl", [asked(model="m")])
    assert len(read_files([first, other], PROBLEMS).by_model["m"]) == 2


def ragged() -> list[Completion]:
    return [
        Completion(problem.problem_id, index, f"{at}.{index}", "stop", 0, 0)
        for at, problem in enumerate(PROBLEMS)
        for index in range(0 if at % 7 == 0 else 47 if at == 3 else at % 5)
    ]


def test_uneven_numbers_of_completions_are_committed_exactly_once(tmp_path: Path) -> None:
    store, rows = open_store(str(tmp_path)), ragged()
    job = sampling_job("m", rows, GOLD, "{query}")
    list(commit_completions(job, reversed(rows), GOLD, store))
    tables = [from_table(read_table(store, shard.key())[0], Completion) for shard in job.shards()]
    assert sorted((row for table in tables for row in table), key=lambda row: row.text) == sorted(
        rows, key=lambda row: row.text
    )


def test_each_committed_row_lies_in_the_shard_of_its_problem_and_sample(tmp_path: Path) -> None:
    store, rows = open_store(str(tmp_path)), ragged()
    job = sampling_job("m", rows, GOLD, "{query}")
    list(commit_completions(job, rows, GOLD, store))
    for shard in job.shards():
        ids = {problem.problem_id for problem in PROBLEMS[shard.problem_start : shard.problem_stop]}
        for row in from_table(read_table(store, shard.key())[0], Completion):
            assert row.problem_id in ids
            assert row.sample_index // job.settings.samples_per_block == shard.sample_block


def test_committing_again_commits_nothing(tmp_path: Path) -> None:
    store, rows = open_store(str(tmp_path)), ragged()
    job = sampling_job("m", rows, GOLD, "{query}")
    assert list(commit_completions(job, rows, GOLD, store)) == list(job.shards())
    assert list(commit_completions(job, rows, GOLD, store)) == []


def test_one_problem_with_very_many_samples_makes_a_bounded_number_of_shards() -> None:
    rows = [Completion(FIRST.problem_id, index, "", "stop", 0, 0) for index in range(5_000)]
    assert len(list(sampling_job("m", rows, GOLD, "{query}").shards())) <= MAX_SAMPLE_BLOCKS * 3


def test_gold_with_solutions_gives_the_same_problem_set_as_a_pipeline_run(tmp_path: Path) -> None:
    rows = [{"question": problem.question, "answer": problem.solution} for problem in PROBLEMS]
    gold = read_gold(jsonl(tmp_path / "gold.jsonl", rows))
    assert gold.solved
    assert {problem.problem_id for problem in gold.problems.problems} == {problem.problem_id for problem in PROBLEMS}


@pytest.mark.parametrize("answer", ["1,800", 1800, "$1,800.00", "#### 1800"])
def test_a_bare_gold_answer_is_read(tmp_path: Path, answer: object) -> None:
    rows = [{"question": "How much?", "answer": answer}, {"question": "How many?", "answer": "7"}]
    gold = read_gold(jsonl(tmp_path / "gold.jsonl", rows))
    assert not gold.solved
    assert sorted(problem.question for problem in gold.problems.problems) == ["How many?", "How much?"]


@pytest.mark.parametrize("row", [{"answer": "many"}, {"answer": None}, {}, {"answer": True}])
def test_a_gold_answer_without_a_number_is_refused_with_its_line(tmp_path: Path, row: dict) -> None:
    with pytest.raises(DataError, match=r"gold\.jsonl:2: "):
        read_gold(jsonl(tmp_path / "gold.jsonl", [{"question": "a", "answer": "1"}, {"question": "b", **row}]))


def test_a_bare_gold_question_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="comes twice"):
        read_gold(jsonl(tmp_path / "gold.jsonl", [{"question": "a", "answer": "1"}] * 2))


# --- One reader for both commands -----------------------------------------------------------------


def test_columns_of_earlier_versions_are_still_read() -> None:
    assert {"question", "problem", "prompt", "query"} <= set(QUESTION_COLUMNS)
    assert {"completion", "response", "text", "output", "generation", "answer"} <= set(COMPLETION_COLUMNS)
    assert {"answer", "solution", "response", "gold"} <= set(GOLD_COLUMNS)


def accepted_by_both(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands read one correct completion of FIRST: `jobs/verify.py` by these two calls, the other one whole."""
    samples, gold = files
    read = read_files([samples], read_gold(gold).problems.problems)
    assert (len(read.by_model["samples"]), read.unknown.total()) == (1, 0)
    assert grade_file([samples, "--gold", gold, "--mode", "strict"]) == 0
    assert "correct              1  100.00%" in capsys.readouterr().out


@pytest.mark.parametrize("question", QUESTION_COLUMNS)
@pytest.mark.parametrize("completion", COMPLETION_COLUMNS)
def test_both_commands_read_every_column_of_completions(
    tmp_path: Path, question: str, completion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = jsonl(tmp_path / "gold.jsonl", [{"question": FIRST.question, "answer": FIRST.solution}])
    samples = jsonl(tmp_path / "samples.jsonl", [{question: FIRST.question, completion: FIRST.solution}])
    accepted_by_both((samples, gold), capsys)


@pytest.mark.parametrize("question", QUESTION_COLUMNS)
@pytest.mark.parametrize("column", GOLD_COLUMNS)
@pytest.mark.parametrize("answer", [FIRST.solution, FIRST.answer, int(FIRST.answer)])
def test_both_commands_read_every_column_of_gold(
    tmp_path: Path, question: str, column: str, answer: object, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = jsonl(tmp_path / "gold.jsonl", [{question: FIRST.question, column: answer}])
    accepted_by_both((jsonl(tmp_path / "samples.jsonl", [asked()]), gold), capsys)


def test_gold_solutions_under_another_column_are_the_same_problem_set(tmp_path: Path) -> None:
    columns = [("question", "answer"), ("problem", "solution")]
    golds = [
        read_gold(jsonl(tmp_path / f"{answer}.jsonl", [{question: p.question, answer: p.solution} for p in PROBLEMS]))
        for question, answer in columns
    ]
    assert golds[0] == golds[1]


@pytest.mark.parametrize("columns", [("problem", "prompt"), ("prompt", "problem")])
def test_of_two_question_columns_the_one_with_a_gold_question_is_used(
    tmp_path: Path, columns: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gold = jsonl(tmp_path / "gold.jsonl", [{"question": FIRST.question, "answer": FIRST.solution}])
    row = {columns[0]: FIRST.question, columns[1]: "train-17", "completion": FIRST.solution}
    accepted_by_both((jsonl(tmp_path / "samples.jsonl", [row]), gold), capsys)


def test_the_grading_command_reads_a_column_by_name_too(tmp_path: Path) -> None:
    gold = jsonl(tmp_path / "gold.jsonl", [{"question": FIRST.question, "answer": FIRST.solution}])
    samples = jsonl(tmp_path / "samples.jsonl", [{"asked": FIRST.question, "mine": FIRST.solution}])
    assert grade_file([samples, "--gold", gold]) == 2
    assert grade_file([samples, "--gold", gold, "--question-column", "asked", "--completion-column", "mine"]) == 0


def test_gold_answers_may_repeat_a_question_and_need_no_number(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "1"}, {"question": "a", "answer": "2"}, {"question": "b", "answer": "many"}]
    assert gold_answers(jsonl(tmp_path / "gold.jsonl", rows)) == {"a": "2", "b": "many"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"problem": 7, "solution": "#### 1"}, "'problem' must be text"),
        ({"problem": "b", "solution": None}, "solution"),
    ],
)
def test_a_malformed_row_of_gold_is_refused_with_line_and_column(tmp_path: Path, row: dict, why: str) -> None:
    gold = jsonl(tmp_path / "gold.jsonl", [{"problem": "a", "solution": "#### 1"}, row])
    for read_it in (read_gold, gold_answers):
        with pytest.raises(DataError, match=rf"gold\.jsonl:2: .*{why}"):
            read_it(gold)


def test_a_parquet_text_that_is_not_utf8_is_refused_only_where_it_is_read(tmp_path: Path) -> None:
    table = {"question": [FIRST.question] * 2, "completion": ["#### 1"] * 2}
    bad = pa.array([b"x", b"\xff"]).view(pa.string())
    for column in ("note", "completion"):
        pq.write_table(pa.table({**table, column: bad}), tmp_path / f"{column}.parquet")
    assert len(read_files([str(tmp_path / "note.parquet")], PROBLEMS).by_model["note"]) == 2
    with pytest.raises(DataError, match="row 2: 'completion' is not UTF-8"):
        read_files([str(tmp_path / "completion.parquet")], PROBLEMS)

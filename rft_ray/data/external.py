"""Completions of any sampler and gold answers of any file -> completions by model, and the problems they answer.

The only module that knows the column names of external files; `rft-ray verify` and `rft-ray grade` both use it.
A file is one that `row_files.py` reads, local or `s3://`. The columns are chosen from the lists below by the file's
first row; the caller may name others.

A row of completions has a question (QUESTION_COLUMNS), a text or a list of texts (COMPLETION_COLUMNS) and, where known,
`finish_reason` and `model` (otherwise the file's stem is the model). A row of gold has a question and the final answer
or the whole solution (GOLD_COLUMNS).

A row that cannot be read is refused with file, line and column; a row whose question is not in the gold is counted.
Limits: the completions of all files are held in memory; a lone surrogate, which has no UTF-8 form, is replaced.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.data import problems
from rft_ray.data.gold_rows import QUESTION_COLUMNS, Columns, GoldRow, gold_rows, problem_of
from rft_ray.data.problem_sources import deduplicated, load_problems
from rft_ray.data.problems import ProblemSet
from rft_ray.data.row_files import ROW_FILES, DataError, files_of, names_rows, rows, text_of
from rft_ray.grading import extract_answer
from rft_ray.records import Completion, Problem, problem_id
from rft_ray.store.names import fingerprint_of

COMPLETION_COLUMNS = ("completion", "response", "text", "output", "generation", "answer")
GOLD_COLUMNS = ("answer", "solution", "response", "gold", "final_answer", "target", "rationale", "reasoning")
TOKEN_LIMIT = frozenset({"length", "max_tokens", "truncated"})
"""Finish reasons, in lower case, by which samplers mark a text that the token limit cut off."""
PER_BLOCK = 50
SHOWN = 5
COLUMNS_HELP = f"""\
columns of a file of completions:
  question       {", ".join(QUESTION_COLUMNS)}; of several, the first that holds a gold question
  completion     the first of {", ".join(COMPLETION_COLUMNS)}; a text or a list of texts
  finish_reason  optional; {", ".join(sorted(TOKEN_LIMIT))}: the token limit cut the text off
  model          optional; without it, verify takes the file's name for the model

columns of a gold file:
  question       the first of {", ".join(QUESTION_COLUMNS)}
  answer         the first of {", ".join(GOLD_COLUMNS)}; a final answer, or a solution that ends in '#### <answer>'
"""
"""The columns as `rft-ray verify --help` and `rft-ray grade --help` list them."""


@dataclass(frozen=True, slots=True)
class Gold:
    """The problems that completions are graded against.

    Example: Gold(ProblemSet(<7473 problems>, 7473, "9c41…"), solved=True)
    """

    problems: ProblemSet
    solved: bool
    """Whether every problem has a gold solution rather than a bare answer, so that the gold can be training data."""


@dataclass
class Foreign:
    """What the files hold.

    Example: Foreign({"mistral": [<Completion>, …]}, Counter({"mistral": 3}), ["Who is …?"])
    """

    by_model: dict[str, list[Completion]] = field(default_factory=dict)
    """Completions of gold problems, per model in the order of the files."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Number of completions, per model, whose question is not in the gold."""
    unknown_questions: list[str] = field(default_factory=list)
    """The first few of those questions."""


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """One row of a file of completions.

    Example: CompletionRow("c.jsonl:3", ("Tom has 3 pens …?",), (("3+2 = 5\\n#### 5", "stop"),), "mistral")
    """

    where: str
    """File and line: the start of every message about the row."""
    questions: tuple[str, ...]
    """The texts in the file's question columns, at least one."""
    texts: tuple[tuple[str, str], ...]
    """(completion, `stop` or `length`) of each sample."""
    model: object
    """The value of the column `model`; None when the row has none."""


class GoldQuestions:
    """Finds the gold question of a row of completions; differences in white space are ignored."""

    def __init__(self, questions: Iterable[str]) -> None:
        exact = {question: question for question in questions}
        self._by_text = {_single_spaced(question): question for question in exact} | exact

    def match(self, row: CompletionRow) -> str | None:
        """The gold question that a row answers, or None."""
        for question in row.questions:
            for text in (question.strip(), _single_spaced(question)):
                if text in self._by_text:
                    return self._by_text[text]
        return None


def _single_spaced(question: str) -> str:
    return " ".join(question.split())


# --- Gold -----------------------------------------------------------------------------------------


def read_gold(source: str, commits: Mapping[str, str] | None = None) -> Gold:
    """Gold problems of any source of `load_problems`, or of a file under any of GOLD_COLUMNS, with bare answers too.

    Raises DataError where a row cannot be read, has no number for an answer or repeats a question; StoreError for S3
    out of reach. All but a file of bare answers is ordered and named as in a pipeline run with blocks of PER_BLOCK.
    `commits`: those that the run has recorded, as in `problems.prepare`.
    """
    if not names_rows(source):
        prepared = problems.prepare(config.ProblemSet(source=source), 0, PER_BLOCK, commits=commits)
        return Gold(prepared, solved=True)
    rows_of_gold = list(_gold_rows(source))
    graded = [_gold_problem(row) for row in rows_of_gold]
    if any(bare for _, bare in graded):
        return Gold(_bare_set(source, [problem for problem, _ in graded]), solved=False)
    solved = deduplicated(source, ((row.where, problem_of(row)) for row in rows_of_gold)).problems
    return Gold(problems.ordered(solved, 0, PER_BLOCK), solved=True)


def gold_answers(source: str) -> dict[str, str]:
    """Question -> final answer or whole solution, of the same sources as `read_gold`, to grade against one by one.

    Of a question that comes twice, the last answer counts; whether the grader can read an answer is not checked.
    Raises DataError where a row has no question or no answer, StoreError for S3 out of reach.
    """
    if not names_rows(source):
        return {problem.question.strip(): problem.solution or problem.answer for problem in load_problems(source)}
    return {row.question: str(_written(row)) for row in _gold_rows(source)}


def _gold_rows(source: str) -> Iterator[GoldRow]:
    """The rows of a file of gold; whichever of GOLD_COLUMNS a row has holds its answer or its solution."""
    columns = Columns(QUESTION_COLUMNS, GOLD_COLUMNS, ())
    return gold_rows(rows(source, choose=columns.choose), columns)


def _written(row: GoldRow) -> Any:
    """The gold answer or solution as the file has it; a chat has it in its last message."""
    return row.answer if row.answer is not None else row.solution


def _gold_problem(row: GoldRow) -> tuple[Problem, bool]:
    """One row of gold as a problem, and whether it has an answer only."""
    question, answer = row.question, _written(row)
    if isinstance(answer, int | float | Decimal) and not isinstance(answer, bool):
        answer = str(answer)
    column = repr(row.answer_column)
    if not isinstance(answer, str):
        raise DataError(f"{row.where}: {column} must be the final answer or a solution that ends in '#### <answer>'")
    bare = "####" not in answer
    solution = f"#### {answer.strip()}" if bare else answer
    if extract_answer(solution) is None:
        raise DataError(f"{row.where}: the grader reads no number in {column}, {solution[-40:]!r}: correct it")
    final = solution.rpartition("####")[2].replace(",", "").strip()
    return Problem(problem_id(question), question, solution, final), bare


def _bare_set(source: str, gold: Sequence[Problem]) -> ProblemSet:
    counts = Counter(problem.problem_id for problem in gold)
    repeated = next((problem.question for problem in gold if counts[problem.problem_id] > 1), None)
    if repeated is not None:
        raise DataError(f"{source}: the question {repeated[:60]!r} comes twice: remove one of the two")
    ordered = tuple(problems.in_order(gold, 0))
    content = [[problem.problem_id, problem.solution] for problem in ordered]
    return ProblemSet(ordered, len(ordered), fingerprint_of("problems", per_block=PER_BLOCK, bare=content))


# --- Completions ----------------------------------------------------------------------------------


def read_files(
    files: Sequence[str],
    gold: Iterable[Problem],
    *,
    question_column: str | None = None,
    completion_column: str | None = None,
) -> Foreign:
    """The completions of all files; those of one model are pooled, in the order given.

    Raises DataError where a row cannot be read or a file comes twice, StoreError for S3 out of reach.
    """
    _check_once(files)
    ids = {problem.question.strip(): problem.problem_id for problem in gold}
    questions = GoldQuestions(ids)
    read, taken, stems = Foreign(), Counter[tuple[str, str]](), dict[str, str]()
    for file in files:
        for row in _completion_rows(file, question_column=question_column, completion_column=completion_column):
            model = _model(row, file, stems)
            question = questions.match(row)
            if question is None:
                read.unknown.update([model] * len(row.texts))
                read.unknown_questions += row.questions[:1] if len(read.unknown_questions) < SHOWN else ()
                continue
            problem = ids[question]
            for text, reason in row.texts:
                index = taken[model, problem]
                taken[model, problem] += 1
                read.by_model.setdefault(model, []).append(Completion(problem, index, text, reason, 0, 0))
    return read


def _check_once(sources: Sequence[str]) -> None:
    """Raises DataError where a file is among the sources twice, or in two formats: its samples would count twice."""
    names: dict[str, str] = {}
    for file in chain.from_iterable(map(files_of, sources)):
        real = file if file.startswith("s3://") else os.path.realpath(os.path.expanduser(file))
        name = real.removesuffix(max(filter(real.endswith, ROW_FILES), key=len, default=""))
        if earlier := names.get(name):
            raise DataError(
                f"{file}: the same file as {earlier}, or its rows in another format, so that each of its samples would "
                "count twice: give one of the two"
            )
        names[name] = file


def completion_rows(
    file: str, *, question_column: str | None = None, completion_column: str | None = None
) -> Iterator[CompletionRow]:
    """The rows of one file of completions, or of a folder or glob of such files.

    Raises DataError where one cannot be read, or comes in two formats; StoreError for S3 out of reach.
    """
    _check_once([file])
    return _completion_rows(file, question_column=question_column, completion_column=completion_column)


def _completion_rows(
    file: str, *, question_column: str | None, completion_column: str | None
) -> Iterator[CompletionRow]:
    asked: list[str] = []
    completion = ""
    for where, row in rows(file):
        if not completion:
            remedy = "rename one, or name it with --question-column"
            first = _first_column(where, row, [question_column] if question_column else QUESTION_COLUMNS, remedy)
            asked = [first] if question_column else [name for name in QUESTION_COLUMNS if name in row]
            remedy = "rename one, or name it with --completion-column"
            completion = _first_column(
                where, row, [completion_column] if completion_column else COMPLETION_COLUMNS, remedy
            )
        questions = [text for name in asked if isinstance(text := row.get(name), str)]
        yield CompletionRow(
            where,
            tuple(questions) or (text_of(where, row, asked[0]),),
            tuple(_texts(where, row, completion)),
            row.get("model"),
        )


def _first_column(where: str, row: Mapping[str, Any], columns: Sequence[str], remedy: str) -> str:
    """The first of some columns that a row has. Raises DataError when it has none of them."""
    for column in columns:
        if column in row:
            return column
    wanted = " or ".join(map(repr, columns))
    raise DataError(f"{where}: no column {wanted}; it has: {', '.join(map(str, row)) or 'none'}: {remedy}")


def _model(row: CompletionRow, file: str, stems: dict[str, str]) -> str:
    name = row.model
    if name is None:
        name = Path(file).stem
        if stems.setdefault(name, file) != file:
            raise DataError(f"{file}: named like {stems[name]}: give both a column 'model', or rename one of them")
    if not isinstance(name, str) or not name.strip() or "+" in name:
        raise DataError(f"{row.where}: 'model' must be a name without '+', not {name!r}")
    return name


def _texts(where: str, row: Mapping[str, Any], column: str) -> Iterator[tuple[str, str]]:
    """(text, `stop` or `length`) of each of a row's completions: one text, or a list of them. Raises DataError."""
    value, reasons = row.get(column), row.get("finish_reason")
    texts = value if isinstance(value, list) else [value]
    if not isinstance(reasons, list):
        reasons = [reasons] * len(texts)
    if len(reasons) != len(texts):
        raise DataError(f"{where}: {len(texts)} texts in {column!r}, but {len(reasons)} in 'finish_reason'")
    for text, reason in zip(texts, reasons, strict=True):
        if not isinstance(text, str):
            raise DataError(f"{where}: {column!r} must be text or a list of texts, not {type(text).__name__}")
        cut = isinstance(reason, str) and reason.lower() in TOKEN_LIMIT
        yield text.encode("utf-8", "replace").decode(), "length" if cut else "stop"

"""Anyone's completions -> completion shards of a run: JSONL or Parquet files of any sampler, without having run ours.

In: files with one completion a row, and gold problems. A row has a question (`question` or `prompt`), a text or a
list of texts (`completion` or `response`), and where known `model` (else the file's stem) and `finish_reason`. Out:
per model a SamplingJob and its committed shards, over which the stages run as over our own samples. The sampler is
identified by the rows as they were read: the same rows in another file or format are the same samples.

A row that cannot be read is refused with file and line; one whose question is no gold problem's is counted.
Limits: the completions of all files are held in memory; a lone surrogate is replaced, for it has no UTF-8 form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.data import problems
from rft_ray.data.problems import ProblemSet
from rft_ray.data.row_files import JSONL, DataError, rows, text_of
from rft_ray.grading import extract_answer
from rft_ray.records import Completion, Problem, problem_id
from rft_ray.store.names import fingerprint_of

QUESTION_COLUMNS = ("question", "prompt")
COMPLETION_COLUMNS = ("completion", "response")
TOKEN_LIMIT = frozenset({"length", "max_tokens", "truncated"})
"""What samplers call a text that the token limit cut off, in lower case."""
PER_BLOCK = 50
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Gold:
    """The problems that completions are graded against.

    Example: Gold(ProblemSet(<7473 problems>, 7473, "9c41…"), solved=True)
    """

    problems: ProblemSet
    solved: bool
    """Whether every problem has a gold solution, rather than a bare answer: then gold can be training data."""


@dataclass
class Foreign:
    """What the files hold.

    Example: Foreign({"mistral": [<Completion>, …]}, Counter({"mistral": 3}), ["Who is …?"])
    """

    by_model: dict[str, list[Completion]] = field(default_factory=dict)
    """Completions of gold problems, per model in the order of the files."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Completions, per model, whose question is no gold problem's."""
    unknown_questions: list[str] = field(default_factory=list)
    """The first few of those questions."""


# --- Gold -----------------------------------------------------------------------------------------


def read_gold(source: str) -> Gold:
    """Gold problems of any source of `load_problems`, or of a local file with questions and bare answers.

    Raises DataError. All but a file of bare answers is ordered and named as in a pipeline run with blocks of PER_BLOCK.
    """
    if source.endswith((*JSONL, ".parquet")) and not source.startswith("s3://"):
        found = [_gold_row(where, row) for where, row in rows(source)]
        if any(bare for _, bare in found):
            return Gold(_bare_set(source, [problem for problem, _ in found]), solved=False)
    return Gold(problems.prepare(config.ProblemSet(source=source), 0, PER_BLOCK), solved=True)


def _gold_row(where: str, row: Mapping[str, Any]) -> tuple[Problem, bool]:
    """One gold row as a problem, and whether it has an answer only."""
    question, answer = text_of(where, row, "question").strip(), row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str):
        raise DataError(f"{where}: 'answer' must be the final answer or a solution that ends in '#### <answer>'")
    bare = "####" not in answer
    solution = f"#### {answer.strip()}" if bare else answer
    if extract_answer(solution) is None:
        raise DataError(f"{where}: the grader reads no number in the gold answer {solution[-40:]!r}: correct it")
    final = solution.rpartition("####")[2].replace(",", "").strip()
    return Problem(problem_id(question), question, solution, final), bare


def _bare_set(source: str, found: Sequence[Problem]) -> ProblemSet:
    repeated = [one for one, count in Counter(problem.problem_id for problem in found).items() if count > 1]
    if repeated:
        question = next(problem.question for problem in found if problem.problem_id == repeated[0])
        raise DataError(f"{source}: the question {question[:60]!r} is there twice: remove one of the two")
    ordered = tuple(problems.in_order(found, 0))
    name = fingerprint_of("problems", per_block=PER_BLOCK, bare=[[one.problem_id, one.solution] for one in ordered])
    return ProblemSet(ordered, len(ordered), name)


# --- Completions ----------------------------------------------------------------------------------


def read_files(
    files: Sequence[str],
    gold: Iterable[Problem],
    *,
    question_column: str | None = None,
    completion_column: str | None = None,
) -> Foreign:
    """The completions of all files, rows of one model pooled in the order given. Raises DataError."""
    by_question = _by_question(gold)
    found, taken, stems = Foreign(), Counter[tuple[str, str]](), dict[str, str]()
    for file in files:
        columns: tuple[str, str] | None = None
        for where, row in rows(file):
            columns = columns or (
                _column(where, row, question_column, QUESTION_COLUMNS, "--question-column"),
                _column(where, row, completion_column, COMPLETION_COLUMNS, "--completion-column"),
            )
            model = _model(where, row, file, stems)
            question = text_of(where, row, columns[0])
            problem = by_question.get(question.strip()) or by_question.get(_spaced(question))
            for text, reason in samples_of(where, row, columns[1]):
                if problem is None:
                    found.unknown[model] += 1
                    continue
                index = taken[model, problem]
                taken[model, problem] += 1
                found.by_model.setdefault(model, []).append(Completion(problem, index, text, reason, 0, 0))
            if problem is None and len(found.unknown_questions) < SHOWN:
                found.unknown_questions.append(question)
    return found


def _by_question(gold: Iterable[Problem]) -> dict[str, str]:
    """Question -> problem id; also by the question with its white space made single."""
    exact = {problem.question.strip(): problem.problem_id for problem in gold}
    return {_spaced(question): one for question, one in exact.items()} | exact


def _spaced(question: str) -> str:
    return " ".join(question.split())


def _column(where: str, row: Mapping[str, Any], asked: str | None, known: Sequence[str], option: str) -> str:
    """Which column of a file holds something: the one asked for, else the first known one. The first row decides."""
    for name in [asked] if asked else known:
        if name in row:
            return name
    wanted = " or ".join(map(repr, [asked] if asked else known))
    raise DataError(f"{where}: no column {wanted}; it has: {', '.join(map(str, row)) or 'none'}: name it with {option}")


def _model(where: str, row: Mapping[str, Any], file: str, stems: dict[str, str]) -> str:
    name = row.get("model")
    if name is None:
        name = Path(file).stem
        if stems.setdefault(name, file) != file:
            raise DataError(f"{file}: named like {stems[name]}: give both a column 'model', or rename one of them")
    if not isinstance(name, str) or not name.strip() or "+" in name:
        raise DataError(f"{where}: 'model' must be a name without '+', found {name!r}")
    return name


def samples_of(where: str, row: Mapping[str, Any], column: str) -> Iterator[tuple[str, str]]:
    """(text, `stop` or `length`) of each of a row's completions: one text, or a list of them. Raises DataError."""
    value, reasons = row.get(column), row.get("finish_reason")
    texts = value if isinstance(value, list) else [value]
    if not isinstance(reasons, list):
        reasons = [reasons] * len(texts)
    if len(reasons) != len(texts):
        raise DataError(f"{where}: {len(texts)} completions, but {len(reasons)} finish reasons")
    for text, reason in zip(texts, reasons, strict=True):
        if not isinstance(text, str):
            raise DataError(f"{where}: {column!r} must be text or a list of texts, found {type(text).__name__}")
        cut = isinstance(reason, str) and reason.lower() in TOKEN_LIMIT
        yield text.encode("utf-8", "replace").decode(), "length" if cut else "stop"

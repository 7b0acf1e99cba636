"""Rows of problems, as other people write them -> question, gold answer and gold solution. The one reader of such rows.

In: a row, and the names of its columns (given, or found among the usual ones). Out: a `GoldRow`, as written; a
`Problem`, with an answer that the grader reads. A row has a question, and a final answer, a worked solution or both;
without a solution it is answer-only, and its `Problem.solution` is empty. In GSM8K's form the answer is a solution that
ends in `#### <number>`. In a chat (`messages`) the first message of the user is the question, and the last one of the
assistant the solution.

Every row that cannot be read is refused with file, line and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rft_ray.data.choice_options import option_columns, with_options
from rft_ray.data.row_files import DataError, Row
from rft_ray.grading import extract_answer
from rft_ray.grading.answer_values import canonical
from rft_ray.grading.answers import Answer, ConflictError, gold_answer, read_number
from rft_ray.grading.verifiers import GoldReader
from rft_ray.records import Problem, problem_id

QUESTION_COLUMNS = ("question", "problem", "prompt", "query", "input")
ANSWER_COLUMNS = ("answer", "final_answer", "target", "gold")
SOLUTION_COLUMNS = ("solution", "rationale", "response", "reasoning")
MESSAGES = "messages"
MARK = "#### "
_NAME_IT = "rename the one that holds it, or name it in the config (docs/your-data.md)"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that may hold each part of a problem; of several, the first that has a value in a row.

    Example: Columns(question=("problem",)): the question is in `problem`, and the others are found by name.
    """

    question: tuple[str, ...] = QUESTION_COLUMNS
    answer: tuple[str, ...] = ANSWER_COLUMNS
    solution: tuple[str, ...] = SOLUTION_COLUMNS
    options: bool = False
    """Whether options in columns of their own are part of the question: see `choice_options.py`."""

    @classmethod
    def named(cls, question: str | None, answer: str | None, solution: str | None, *, options: bool = False) -> Columns:
        """The columns with these names; None: found by name, among the columns that are not named."""
        given = {name for name in (question, answer, solution) if name}

        def usual(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if name not in given)

        return cls(
            (question,) if question else usual(QUESTION_COLUMNS),
            (answer,) if answer else usual(ANSWER_COLUMNS),
            (solution,) if solution else usual(SOLUTION_COLUMNS),
            options,
        )

    def choose(self, file: str, names: Sequence[str]) -> Sequence[str]:
        """The columns of a table that hold problems. Raises DataError where one is missing."""
        chat = MESSAGES in names
        self._check(file, names, self.question, chat)
        self._check(file, names, (*self.answer, *self.solution), chat)
        parts = (*self.question, *self.answer, *self.solution)
        options = option_columns([name for name in names if name not in parts]) if self.options else []
        return [name for name in names if name in (*parts, MESSAGES, *options)]

    @staticmethod
    def _check(file: str, names: Sequence[str], wanted: Sequence[str], chat: bool) -> None:
        if not chat and not any(name in names for name in wanted):
            raise DataError(_no_column(file, wanted, names))


USUAL = Columns()
"""All columns found by name."""


@dataclass(frozen=True, slots=True)
class GoldRow:
    """One row of problems as it is written.

    Example: GoldRow("data.csv:3", "Tom has 3 pens …?", "5", None, "answer", "")
    """

    where: str
    """File and line: the start of every message about the row."""
    question: str
    answer: Any
    """The value of the answer's column: text, a number, or None where there is none."""
    solution: Any
    """The value of the solution's column, as `answer`."""
    answer_column: str
    """The column of the answer, for messages; that of the solution where there is no answer."""
    solution_column: str


def gold_row(where: str, row: Mapping[str, Any], columns: Columns) -> GoldRow:
    """One row as written. Raises DataError when it has no question, or neither answer nor solution."""
    question_column, question = _value(row, columns.question)
    answer_column, answer = _value(row, columns.answer)
    solution_column, solution = _value(row, columns.solution)
    if question is None and not _missing(row.get(MESSAGES)):
        question_column, question = MESSAGES, row[MESSAGES]
    if question is None:
        raise DataError(_no_value(where, question_column, columns.question, row))
    if isinstance(question, list):
        question, said = _chat(where, question_column, question)
        if solution is None and said is not None:
            solution_column, solution = question_column, said
    if answer is None and solution is None:
        names = (*columns.answer, *columns.solution)
        raise DataError(_no_value(where, answer_column or solution_column, names, row))
    text = _text(where, question_column, question)
    if columns.options:
        used = (*columns.question, *columns.answer, *columns.solution)
        text = with_options(where, text, {name: value for name, value in row.items() if name not in used})
    return GoldRow(
        where,
        text,
        answer,
        solution,
        answer_column if answer is not None else solution_column,
        solution_column,
    )


def gold_rows(rows: Iterable[Row], columns: Columns) -> Iterator[GoldRow]:
    """The rows as written. Raises DataError as `gold_row` does."""
    return (gold_row(where, row, columns) for where, row in rows)


def _value(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, Any]:
    """(column, value) of the first of these columns that has a value; else the first that the row has, and None."""
    present = [column for column in columns if column in row]
    for column in present:
        if not _missing(value := row[column]):
            return column, value
    return (present[0] if present else ""), None


def _missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN or white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _chat(where: str, column: str, messages: list[Any]) -> tuple[str, str | None]:
    """(first message of the user, last message of the assistant or None). Raises DataError."""
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    for message in messages:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise DataError(f"{where}: {column!r} must hold messages with 'role' and 'content': correct the row")
        content = message["content"]
        if isinstance(content, list):  # parts, of which only text can be used
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        said.setdefault(str(message["role"]), []).append(content)
    if not said["user"]:
        raise DataError(f"{where}: no message of the user in {column!r}: add the question or remove the row")
    return said["user"][0], said["assistant"][-1] if said["assistant"] else None


def _no_value(where: str, column: str, wanted: Sequence[str], row: Mapping[str, Any]) -> str:
    if column and isinstance(row[column], str):
        return f"{where}: {column!r} is empty: fill it in or remove the row"
    if column:
        return f"{where}: no {column!r}; its columns: {', '.join(map(str, row))}: fill it in or remove the row"
    return _no_column(where, wanted, list(row))


def _no_column(where: str, wanted: Sequence[str], names: Sequence[str]) -> str:
    among = " or ".join(map(repr, wanted))
    return f"{where}: no {among}; its columns: {', '.join(map(str, names)) or 'none'}: {_NAME_IT}"


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, not {type(value).__name__}: put it in quotes")
    if not value.strip():
        raise DataError(f"{where}: {column!r} is empty: fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {column!r} has half a surrogate pair: write the whole character") from None
    return value.strip()


# --- Problems -------------------------------------------------------------------------------------


Note = Callable[[str], None]
"""Called with a line about a gold answer of which a problem cannot hold all: its place, the answer, and what counts."""


def problem_of(row: GoldRow, golds: GoldReader | None = None, note: Note | None = None) -> Problem:
    """The problem of a row. Raises DataError when the grader cannot read its answer.

    `golds`: the verifier that reads gold answers; None: gsm8k. For gsm8k, a solution is left as it is where it ends in
    `#### <number>`; else that line is added, also below headings `#### …`. An answer in GSM8K's form is the solution,
    whatever other columns hold. `note`: see `Note`; called for gsm8k alone.
    """
    if golds is not None:
        return _problem_with(golds, row)
    numeric = row.answer is None or isinstance(row.answer, int | float | Decimal)
    answer = row.answer if numeric else _text(row.where, row.answer_column, row.answer)
    if isinstance(answer, str) and "####" in answer:
        return _marked(row, row.answer_column, answer)
    if row.solution is None:
        return Problem(problem_id(row.question), row.question, "", _bare_answer(row, answer, note))
    solution = _text(row.where, row.solution_column, row.solution)
    marked = _marked(row, row.solution_column, solution) if _ends_marked(solution) else None
    if answer is not None:
        final = _bare_answer(row, answer, note)
    else:
        final = marked.answer if marked else _stated(row, solution, note)
    said = marked.answer if marked else _said_in_headings(solution)
    if said is not None and read_answer(said) != read_answer(final):
        end = f"ends in '{MARK}{said[:40]}'" if marked else f"states {said[:40]!r}"
        raise DataError(
            f"{row.where}: {row.answer_column!r} is {str(answer)[:40]!r}, but {row.solution_column!r} {end}: correct "
            "one of them"
        )
    return marked or Problem(problem_id(row.question), row.question, f"{solution}\n{MARK}{final}", final)


def _ends_marked(solution: str) -> bool:
    """Whether a solution ends in a line `#### …`, or what is there is meant as one: other `####` are headings."""
    last_line = solution.rpartition("\n")[2]
    return marked_answer(solution) is not None or ("####" in last_line and _said_in_headings(solution) is None)


def _said_in_headings(solution: str) -> str | None:
    """The final answer that a solution with `####` in it states; None for other solutions."""
    answer = extract_answer(solution) if "####" in solution else None
    return None if answer is None else written(answer)


def _problem_with(golds: GoldReader, row: GoldRow) -> Problem:
    """The problem of a row whose gold another verifier than gsm8k reads. The solution stays as it is written."""
    solution = "" if row.solution is None else _text(row.where, row.solution_column, row.solution)
    if row.answer is None:
        gold = golds.stated(solution)
        if gold is None:
            raise DataError(
                f"{row.where}: no answer, and grading.verifier={golds.name} reads none in {row.solution_column!r} "
                f"({solution[-40:]!r}): give a column of answers, or end it in one ({golds.expects})"
            )
        return Problem(problem_id(row.question), row.question, solution, gold)
    written = _written_gold(row)
    if MARK in written and golds.name != "python":
        solution, written = solution or written, written.rpartition(MARK)[2]
    gold = golds.read(written)
    if gold is None:
        raise DataError(
            f"{row.where}: {row.answer_column!r} holds no answer that grading.verifier={golds.name} can read "
            f"({written[:60]!r}): it must be {golds.expects}: correct or remove the row, or choose another "
            "grading.verifier (docs/verifiers.md)"
        )
    return Problem(problem_id(row.question), row.question, solution, gold)


def _written_gold(row: GoldRow) -> str:
    """The value of the answer's column as text; of a list of texts (unit tests), a line for each."""
    value = row.answer
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    number = number_text(value)
    return number if number is not None else _text(row.where, row.answer_column, value)


def same_gold(left: str, right: str, golds: GoldReader | None = None) -> bool:
    """Whether two gold answers of a question agree; `golds` as in `problem_of`."""
    return read_answer(left) == read_answer(right) if golds is None else left == right


def _marked(row: GoldRow, column: str, solution: str) -> Problem:
    """A problem in GSM8K's form; answer-only where nothing precedes the answer."""
    reasoning, mark, final = solution.rpartition(MARK)
    answer = marked_answer(solution)
    if answer is None:
        raise DataError(
            f"{row.where}: {column!r} must end in '#### <number>' (it ends in {(mark + final.strip())[-40:]!r}): "
            "correct it"
        )
    return Problem(problem_id(row.question), row.question, solution if reasoning.strip() else "", answer)


def marked_answer(solution: str) -> str | None:
    """The answer of a solution that ends in `#### <number>`, as gsm8k's problems hold it; None for other solutions."""
    _, mark, final = solution.rpartition(MARK)
    final = final.strip()
    gold = gold_answer(f"{MARK}{final}") if mark and "\n" not in final else None
    if gold is None:
        return None
    plain = final.replace(",", "")
    return plain if _reads_as(plain, gold) else written(gold)


def _reads_as(plain: str, gold: Answer) -> bool:
    """Whether an answer without its commas says the same: `1,005`, and not `12,5`."""
    try:
        return read_number(plain) == gold
    except ConflictError:
        return False


def _stated(row: GoldRow, solution: str, note: Note | None) -> str:
    """The final answer that a solution without `####` states (`\\boxed{5}`, "The answer is 5")."""
    answer = extract_answer(solution)
    if answer is None:
        raise DataError(
            f"{row.where}: no answer, and the grader reads none at the end of {row.solution_column!r} "
            f"({solution[-40:]!r}): give a column of answers, or end it in '#### <number>'"
        )
    _tell(note, row, row.solution_column, solution[-40:], answer)
    return written(answer)


def _bare_answer(row: GoldRow, value: Any, note: Note | None) -> str:
    """A final answer as the grader reads it. Raises DataError when it reads none."""
    text = number_text(value) if not isinstance(value, str) else value
    answer = read_answer(text) if text is not None else None
    if answer is None:
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
        raise DataError(
            f"{row.where}: {row.answer_column!r} holds no number that the grader can read ({shown}): "
            "correct or remove the row; a worked solution ends in '#### <number>', or is in a column of its own; "
            "letters, formulas or words need another grading.verifier (docs/verifiers.md)"
        )
    _tell(note, row, row.answer_column, str(value), answer)
    return written(answer)


def _tell(note: Note | None, row: GoldRow, column: str, said: str, answer: Answer) -> None:
    """Call `note` where the answer says more than the number that a problem holds."""
    if answer.timed:
        counts = "grading.mode=strict reads all of it, and grading.mode=paper the hour alone"
    elif answer.also is not None:
        counts = f"the same in its other unit, {canonical(answer.also)}, is wrong"
    elif answer.hour is not None:
        counts = "am or pm does not count"
    else:
        return
    if note:
        note(f"{row.where}: {column!r} is {said.strip()[:40]!r}, graded as {written(answer)!r}: {counts}")


def number_text(value: Any) -> str | None:
    """A number as text, without exponent and without `.0` after a whole number; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return format(number.normalize(), "f") if number.is_finite() else None


_KNOWN_COMMANDS = re.compile(
    r"\\(?:[dt]?frac|text|mathrm|mathbf|textbf|mbox|boxed|left|right|displaystyle|quad)(?![A-Za-z])"
    r"|\\[\[\]()!,;:$% ]"
)
_NOT_ONE_NUMBER = re.compile(r"\\|[\^_]|\d[abcijknpqrtxyz](?![A-Za-z])|[,;]\s.*\d", re.DOTALL)


def read_answer(text: str) -> Answer | None:
    """The number that a bare answer is; None for formulas, letters, lists and text, in which a number may occur too."""
    if _NOT_ONE_NUMBER.search(_KNOWN_COMMANDS.sub(" ", text)):
        return None
    return gold_answer(text)


def written(answer: Answer) -> str:
    """An answer as text that both modes of the grader read: `1800` for `$1,800.00`."""
    return f"{answer.text}%" if answer.percent else answer.text

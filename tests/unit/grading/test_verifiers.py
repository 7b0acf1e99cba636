"""Verifiers by name: what each accepts, and that nothing a completion or a user's function does harms the others."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from rft_ray.config import BaseModelSpec, Config, Grading
from rft_ray.config.errors import ConfigError
from rft_ray.grading import verifiers
from rft_ray.grading.child import MARK, ChildError, end_marked
from rft_ray.grading.spec import VerifierSpec, source_sha256, spec_of
from rft_ray.grading.verifiers import GoldReader, Verifier, open_verifier
from rft_ray.records import Problem, Status, Verdict

RULES = "tests.unit.grading.hostile_rules"
SECONDS = 3.0


def spec(name: str, pattern: str = "", seconds: float = SECONDS) -> VerifierSpec:
    source = source_sha256(name, "grading.verifier") if ":" in name else ""
    return VerifierSpec(name, pattern, source, seconds, 2.0)


TEST = f"RFT_TEST_OF={os.getpid()}"
"""In the environment of the children of these tests."""


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Iterator[Verifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*TEST.split("="))
        verifier = open_verifier(request.param)
        yield verifier
        verifier.close()
    assert running() == []


def running() -> list[int]:
    """Processes that a child of these tests started and that still run."""
    marked = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            content = Path("/proc", pid, "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}=".encode() in content and TEST.encode() in content:
            marked.append(int(pid))
    return marked


def spec_with(grading: Grading) -> VerifierSpec:
    return spec_of(Config(models=(BaseModelSpec(name="a", source="x"),), grading=grading))


def grade(verifier: Verifier, text: str, answer: str = "5", *, truncated: bool = False) -> Verdict:
    return verifier.grade(Problem("p", "How many?", "", answer), text, truncated=truncated)


# --- rules in this process ------------------------------------------------------------------------


def test_choice_compares_letters() -> None:
    verifier = open_verifier(spec("choice"))
    assert grade(verifier, "The answer is (C).", "C") == Verdict(Status.CORRECT, "C", "")
    assert grade(verifier, "The answer is (B).", "C").status is Status.WRONG_ANSWER
    assert grade(verifier, "I do not know.", "C").status is Status.NO_ANSWER
    assert grade(verifier, "I do not", "C", truncated=True).status is Status.TRUNCATED
    assert grade(verifier, "The answer is C", "C", truncated=True).status is Status.TRUNCATED
    assert grade(verifier, "The answer is (C). And", "C", truncated=True).status is Status.CORRECT


def test_exact_compares_words() -> None:
    verifier = open_verifier(spec("exact"))
    assert grade(verifier, "Thinking.\nThe answer is: **new york**.", "New York") == Verdict(
        Status.CORRECT, "new york", ""
    )
    assert grade(verifier, "#### York", "New York").status is Status.WRONG_ANSWER
    assert grade(verifier, "#### 5", ".5").status is Status.WRONG_ANSWER
    assert grade(verifier, "#### New York", "New York", truncated=True).status is Status.TRUNCATED


@pytest.mark.parametrize("gold", ["No answer is possible", "my answer: unknown", "#4", "{", "<b>"])
def test_a_gold_answer_in_words_is_right_as_its_canary_and_in_a_box(gold: str) -> None:
    verifier, problem = open_verifier(spec("exact")), Problem("p", "?", "", gold)
    (canary,) = verifier.known_right([problem])
    assert verifier.grade(*canary, truncated=False).status is Status.CORRECT
    assert gold == "{" or grade(verifier, f"\\boxed{{{gold}}}", gold).status is Status.CORRECT
    assert grade(verifier, "The answer is possible.", gold).status is Status.WRONG_ANSWER


@pytest.mark.parametrize("name", ["choice", "exact"])
def test_a_text_over_the_bound_is_undecided(name: str) -> None:
    assert grade(open_verifier(spec(name)), "x" * 2_000_000, "C").status is Status.UNDECIDED


def test_gsm8k_is_the_grader_as_it_was() -> None:
    collecting, evaluating = (open_verifier(VerifierSpec(), "strict", collecting=flag) for flag in (True, False))
    text = "2+2 = <<2+2=5>>5\n#### 5"
    assert grade(collecting, text).status is Status.BAD_EQUATION
    assert grade(evaluating, text).status is Status.CORRECT


# --- in a child process ---------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [spec("regex", r"result=(\d+)")], indirect=True)
def test_regex_reads_the_first_group_of_the_last_match(opened: Verifier) -> None:
    assert grade(opened, "result=4, no: result=5.") == Verdict(Status.CORRECT, "5", "")
    assert grade(opened, "result=4").status is Status.WRONG_ANSWER
    assert grade(opened, "5").status is Status.NO_ANSWER
    assert grade(opened, "result=5", truncated=True).status is Status.TRUNCATED


class Stopped:
    """Polls as a process does that was stopped meanwhile: when it goes on, the time is over and nothing has come."""

    poll_of_the_system = select.poll

    def __init__(self) -> None:
        self._poll = self.poll_of_the_system()
        self.register = self._poll.register

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        if waits := type(self).waits:
            time.sleep(waits.pop())
            return []
        return self._poll.poll(milliseconds)

    waits: ClassVar[list[float]] = []


@pytest.mark.parametrize("opened", [spec("regex", r"result=(\d+)", 0.5)], indirect=True)
def test_the_time_in_which_the_machine_was_paused_does_not_count(
    opened: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grade(opened, "result=5").status is Status.CORRECT
    monkeypatch.setattr(select, "poll", Stopped)
    monkeypatch.setattr(Stopped, "waits", [0.7])
    assert grade(opened, "result=5").status is Status.CORRECT
    assert not Stopped.waits


@pytest.mark.parametrize("opened", [spec("regex", r"^(a+)+$", 1.0)], indirect=True)
def test_a_pattern_that_never_ends_is_undecided(opened: Verifier) -> None:
    verdict = grade(opened, "a" * 60 + "b")
    assert verdict == Verdict(Status.UNDECIDED, None, "verifier timed out after 1 s")
    assert grade(opened, "aaa", "aaa").status is Status.CORRECT


@pytest.mark.parametrize("opened", [spec("math")], indirect=True)
def test_math_compares_values_and_formulas(opened: Verifier) -> None:
    half = "\\frac{1}{2}"
    for text in ("It is $\\boxed{0.5}$.", "\\boxed{\\frac12}", "The answer is $\\frac{2}{4}$."):
        assert grade(opened, text, half).status is Status.CORRECT, text
    assert grade(opened, "So $\\boxed{(1+x)^2}$", "x^2+2x+1").status is Status.CORRECT
    assert grade(opened, "So $\\boxed{2}$", half).status is Status.WRONG_ANSWER
    assert grade(opened, "No idea", half).status is Status.NO_ANSWER
    assert grade(opened, "It is $\\frac{1}{2}", half, truncated=True).status is Status.TRUNCATED
    endless = grade(opened, "$\\boxed{9999999999^{9999999999}}$", half)
    assert endless == Verdict(Status.UNDECIDED, None, f"verifier timed out after {SECONDS:g} s")
    assert grade(opened, "$\\boxed{0.5}$", half).status is Status.CORRECT


FAILURES = {
    "hang": f"verifier timed out after {SECONDS:g} s",
    "spin": f"verifier timed out after {SECONDS:g} s",
    "daemon": "verifier left processes running",
    "daemon and exit": "verifier ended its process with exit code 3",
    "bomb": "",
    "memory": "verifier out of memory",
    "exit": "verifier ended its process with exit code 0",
    "raise": "verifier raised RuntimeError: ? no idea",
    "sys.exit": "verifier raised SystemExit: bye",
    "pipes": "verifier its answer is no message of the worker",
    "close": "verifier ended its process with exit code 1",
    "nonsense": "verifier raised TypeError: the verifier returned {'status': 'correct'}",
    "false verdict": "verifier raised TypeError: the verifier returned Verdict(",
}
"""What a user's function does -> how the detail of its verdict begins."""


@pytest.mark.parametrize("opened", [spec(f"{RULES}:misbehaving")], indirect=True)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_function_that_fails_is_undecided_and_harms_nothing_else(opened: Verifier, failure: str) -> None:
    assert grade(opened, "5").status is Status.CORRECT
    verdict = grade(opened, failure)
    assert verdict.status is Status.UNDECIDED
    assert verdict.answer is None
    assert verdict.detail.startswith(FAILURES[failure])
    assert verdict.detail
    verdict.detail.encode()
    assert len(running()) <= 1  # the child itself, where it goes on
    assert [grade(opened, text).status for text in ("5", "4")] == [Status.CORRECT, Status.WRONG_ANSWER]


@pytest.mark.parametrize("opened", [spec(f"{RULES}:misbehaving")], indirect=True)
def test_printing_and_a_fork_that_ends_do_no_harm(opened: Verifier) -> None:
    assert grade(opened, "print").status is Status.WRONG_ANSWER
    assert grade(opened, "5").status is Status.CORRECT


@pytest.mark.parametrize("opened", [spec(f"{RULES}:misbehaving")], indirect=True)
def test_a_forked_process_that_comes_back_answers_nothing(opened: Verifier) -> None:
    assert grade(opened, "fork").status in (Status.UNDECIDED, Status.WRONG_ANSWER)
    assert [grade(opened, text).status for text in ("5", "4", "5")] == [
        Status.CORRECT,
        Status.WRONG_ANSWER,
        Status.CORRECT,
    ]


@pytest.mark.parametrize("opened", [spec(f"{RULES}:detailed")], indirect=True)
def test_a_verdict_of_the_users_is_kept(opened: Verifier) -> None:
    assert grade(opened, "4") == Verdict(Status.WRONG_ANSWER, "4", "4 is not 5")


@pytest.mark.parametrize("opened", [spec(f"{RULES}:without_answer")], indirect=True)
def test_no_answer_in_a_cut_text_is_truncated(opened: Verifier) -> None:
    assert grade(opened, "4").status is Status.NO_ANSWER
    assert grade(opened, "4", truncated=True).status is Status.TRUNCATED


@pytest.mark.parametrize("opened", [spec(f"{RULES}:honest")], indirect=True)
def test_canaries_come_from_the_users_module(opened: Verifier) -> None:
    assert [(problem.problem_id, text) for problem, text in opened.known_right([])] == [("a", "2"), ("b", "4")]


@pytest.mark.parametrize(
    ("name", "message"),
    [(f"{RULES}:missing", "has no function 'missing'"), ("tests.unit.grading.broken_rules:grade", "ZeroDivisionError")],
)
def test_a_function_that_cannot_be_loaded_stops_the_run(name: str, message: str) -> None:
    verifier = open_verifier(spec(name))
    with pytest.raises(ChildError, match=message):
        grade(verifier, "5")


def test_another_module_than_the_planned_one_stops_the_run() -> None:
    planned = VerifierSpec(f"{RULES}:honest", "", "0" * 64, SECONDS, 2.0)
    with pytest.raises(ChildError, match="not the planned one"):
        grade(open_verifier(planned), "5")


def test_a_module_that_changes_between_two_children_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "rules_that_change.py"
    module.write_text("import os\n\ndef grade(problem, text):\n    return os._exit(1) if text == 'end' else True\n")
    name = "rules_that_change:grade"
    verifier = open_verifier(VerifierSpec(name, "", source_sha256(name, "grading.verifier"), SECONDS, 2.0))
    assert grade(verifier, "5").status is Status.CORRECT
    module.write_text("def grade(problem, text):\n    return False\n")
    assert grade(verifier, "end").status is Status.UNDECIDED
    with pytest.raises(ChildError, match="not the planned one"):
        grade(verifier, "5")


@pytest.mark.parametrize("opened", [spec("regex", "is (.*)")], indirect=True)
def test_a_process_with_many_open_files_grades(opened: Verifier) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2_000), limits[1]))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        assert grade(opened, "it is 5").status is Status.CORRECT
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_module_that_is_missing_is_an_error_of_the_config() -> None:
    with pytest.raises(ConfigError, match="no module 'no_such_rules'"):
        spec_with(Grading(verifier="no_such_rules:grade"))


def test_the_spec_holds_what_decides_verdicts() -> None:
    assert VerifierSpec().identity() == {}
    assert spec_with(Grading(actors=3)) == VerifierSpec()
    assert spec_with(Grading(verifier="choice", timeout_s=3)).identity() == {"name": "choice"}
    own = spec_with(Grading(verifier=f"{RULES}:honest")).identity()
    assert sorted(own) == ["memory_gib", "name", "source_sha256", "timeout_s"]


# --- gold answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written", "gold"),
    [
        ("choice", "(C)", "C"),
        ("choice", "12", None),
        ("exact", " New York ", "New York"),
        ("exact", "two\nlines", None),
        ("exact", "...", None),
        ("math", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("math", "x^2+1", "x^2+1"),
        ("math", "", None),
        ("exact", "\\boxed{New York}", "New York"),
        ("exact", "The answer is New York", "New York"),
        ("python", "assert f(1) == 2", "assert f(1) == 2"),
        ("python", "f(1)", None),
        ("python", "assert f(1", None),
        ("python", "def check(f):\n    assert f(1) == 2", None),
        (
            "python",
            "def check(f):\n    assert f(1) == 2\n\ncheck(g)",
            "def check(f):\n    assert f(1) == 2\n\ncheck(g)",
        ),
        ("python", "class Test:\n    def test(self):\n        assert f(1) == 2", None),
        ("python", "for n in (1, 2):\n    assert f(n)", "for n in (1, 2):\n    assert f(n)"),
    ],
)
def test_a_gold_answer_is_one_that_the_verifier_reads(name: str, written: str, gold: str | None) -> None:
    with GoldReader(spec(name)) as golds:
        assert golds.read(written) == gold


def test_a_gold_answer_is_read_from_a_solution() -> None:
    with GoldReader(spec("choice")) as golds:
        assert golds.stated("So the answer is (D).") == "D"
        assert golds.stated("So it is.") is None
    with GoldReader(spec("math")) as golds:
        assert golds.stated("Hence $\\boxed{\\frac{3}{4}}$.") == "\\frac{3}{4}"


@pytest.mark.parametrize("name", sorted({*verifiers.ANSWERS, "math", "python"}))
def test_canaries_are_correct(name: str) -> None:
    verifier = open_verifier(spec(name))
    answer = {"python": "assert twice(4) == 8"}.get(name, "C")
    problems = [Problem("p", "?", "def twice(n):\n    return 2 * n\n" if name == "python" else "", answer)]
    try:
        canaries = verifier.known_right(problems)
        assert canaries
        assert {verifier.grade(problem, text, truncated=False).status for problem, text in canaries} == {Status.CORRECT}
    finally:
        verifier.close()


def test_any_gold_answer_that_math_reads_is_a_canary_that_is_correct() -> None:
    verifier, answers = (
        open_verifier(spec("math")),
        ["\\[3\\]", "\\(3\\)", "$3$", "\\boxed{3}", "\\$3", "(1,2)", "90^\\circ"],
    )
    try:
        with GoldReader(spec("math")) as golds:
            problems = [Problem(answer, "?", "", answer) for answer in answers if golds.read(answer) == answer]
        assert [problem.answer for problem in problems] == answers
        for problem in problems:
            [(_, text)] = verifier.known_right([problem])
            assert verifier.grade(problem, text, truncated=False).status is Status.CORRECT, problem.answer
    finally:
        verifier.close()


def test_a_process_that_the_first_list_of_proc_misses_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**os.environ, MARK: "missed"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env) as process:
        lists = iter([[name for name in os.listdir("/proc") if name != str(process.pid)]])
        real = os.listdir
        monkeypatch.setattr(os, "listdir", lambda folder: next(lists, None) or real(folder))
        end_marked("missed")
        monkeypatch.undo()
        try:
            assert process.wait(5) == -signal.SIGKILL
        finally:
            process.kill()

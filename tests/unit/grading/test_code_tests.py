"""Code of completions against unit tests: what is right, and what a sandbox stops."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rft_ray.data.problem_sources import placed_problems
from rft_ray.grading.code_tests import read_code
from rft_ray.grading.spec import VerifierSpec
from rft_ray.grading.verifiers import GoldReader, Verifier, open_verifier
from rft_ray.records import Problem, Status, Verdict

SPEC = VerifierSpec("python", "", "", 2.0, 2.0)
RIGHT = "def f(n): return 2 * n"


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    opened = open_verifier(SPEC)
    yield opened
    opened.close()


def run(verifier: Verifier, code: str) -> Verdict:
    problem = Problem("p", "Double it.", "", "assert f(2) == 4\nassert f(0) == 0")
    return verifier.grade(problem, f"Here it is:\n```python\n{code}\n```\nDone.", truncated=False)


@pytest.mark.parametrize("code", [RIGHT, f"open('own', 'w').write('x')\n{RIGHT}", f"import math, json, re\n{RIGHT}"])
def test_code_that_passes_its_tests_is_correct(verifier: Verifier, code: str) -> None:
    assert run(verifier, code) == Verdict(Status.CORRECT, None, "")


@pytest.mark.parametrize(
    "code",
    [
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\ndef f(n): return 2 * Point(n).x",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
        "def f(n): return 2 * Point(n).x",
        "class Point:\n    x: int\ndef f(n): return 2 * n if Point.__annotations__ == {'x': int} else None",
        "import pickle\nclass Box: pass\ndef f(n): return 2 * n if pickle.loads(pickle.dumps(Box())) else None",
        "import asyncio\nasync def double(n): return 2 * n\ndef f(n): return asyncio.run(double(n))",
    ],
    ids=["dataclass", "dataclass with postponed annotations", "annotations", "pickle", "asyncio"],
)
def test_code_runs_as_a_module_of_its_own(verifier: Verifier, code: str) -> None:
    assert run(verifier, code) == Verdict(Status.CORRECT, None, "")


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("def f(n): return n", "assert f(2) == 4: AssertionError"),
        ("def f(n): return f(n)", "assert f(2) == 4: RecursionError"),
        ("def f(n) return 2", "the code: SyntaxError"),
        ("import sys\nsys.exit(0)", "the code: SystemExit"),
        ("input()", "the code: EOFError"),
    ],
)
def test_code_that_fails_its_tests_is_wrong(verifier: Verifier, code: str, detail: str) -> None:
    verdict = run(verifier, code)
    assert verdict.status is Status.WRONG_ANSWER
    assert verdict.detail.startswith(detail)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("while True: pass", "the code timed out after 2 s"),
        ("import time\ntime.sleep(60)", "the code timed out after 2 s"),
        ("x = bytearray(1 << 40)", "the code is out of memory"),
        ("import os\nos._exit(0)", "the code ended its process (exit code 0) before its tests were done"),
        ("import ctypes\nctypes.string_at(0)", "the code ended its process (SIGSEGV) before its tests were done"),
        ("import os\nfor n in range(3, 99):\n  try: os.write(n, b'{}')\n  except OSError: pass\nos._exit(0)", ""),
    ],
)
def test_code_that_does_not_come_to_an_end_is_undecided(verifier: Verifier, code: str, detail: str) -> None:
    verdict = run(verifier, code)
    assert verdict.status is Status.UNDECIDED
    assert detail in verdict.detail
    assert run(verifier, RIGHT).status is Status.CORRECT


WALK = """import os, sys
frame = sys._getframe()
while frame := frame.f_back:
    values = frame.f_locals
    for text in [value for value in values.values() if isinstance(value, bytes)]:
        for pipe in [value for value in values.values() if isinstance(value, int)]:
            try: os.write(pipe, text + b"passed")
            except OSError: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        "import ast\nclass Empty: body = []\nast.parse = lambda *given: Empty",
        "import builtins\nbuiltins.exec = lambda *given: None",
        "import builtins\nbuiltins.compile = lambda *given, **named: 'None'",
        "import json\njson._default_encoder.encode = lambda value: '{}'",
        "import builtins\nbuiltins.str = builtins.type = None",
        "import builtins\nbuiltins.AssertionError = None\ndef f(n): return 3",
        "import sys\nsys.settrace(lambda *event: None)\n" + RIGHT,
        "import gc\ngc.get_objects()\n" + RIGHT,
        "import sys\nsys._current_frames()\n" + RIGHT,
        "import threading, sys\nthreading.Thread(target=sys.exit).start()",
        WALK,
        WALK + "os._exit(0)",
    ],
)
def test_code_that_tampers_with_its_tests_is_not_correct(verifier: Verifier, code: str) -> None:
    assert run(verifier, code).status in (Status.WRONG_ANSWER, Status.UNDECIDED)
    assert run(verifier, RIGHT).status is Status.CORRECT


BY_C = "import ctypes\nc = ctypes.CDLL(None)\n"
"""Calls by C pass by every check that Python makes."""


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.socket(socket.AF_UNIX)",
        "import socket\nsocket.socketpair()[0].bind('{outside}')",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.fork()",
        "import os\nos.setsid()",
        "import os\nos.kill(os.getppid(), 9)",
        "import os, pathlib\npathlib.Path('{outside}').write_text('x')",
        "import os\nos.remove('{kept}')",
        "import os\nos.rename('{kept}', 'mine')",
        "import os\nos.chmod('{kept}', 0)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "import fcntl, os\nfcntl.fcntl(os.pipe()[0], 10, 9)",
        "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import os\nos.sched_setaffinity(os.getppid(), {0})",
        BY_C + "n = c.shmget(0, 4096, 0o1600)\nc.shmctl(n, 0, 0)\nassert n >= 0",
        BY_C + "assert c.truncate(b'{kept}', 0) >= 0",
        BY_C + "assert c.fork() >= 0",
        BY_C + "assert c.socket(2, 1, 0) >= 0",
        BY_C + "assert c.open(b'{outside}', 65, 0o644) >= 0",
        BY_C + "assert c.unlink(b'{kept}') >= 0",
        BY_C + "assert c.kill(c.getppid(), 9) >= 0",
        "open('/proc/self/environ').read()",
        "import os\nos.open(f'/proc/{os.getppid()}/environ', 0)",
        BY_C + "assert c.open(b'/proc/self/environ', 0) >= 0",
        BY_C + "assert c.open(b'{kept}', 0) >= 0",
    ],
)
def test_the_sandbox_denies(verifier: Verifier, code: str, tmp_path: Path) -> None:
    outside, kept = tmp_path / "outside", tmp_path / "kept"
    kept.write_text("x")
    verdict = run(verifier, code.replace("{outside}", str(outside)).replace("{kept}", str(kept)) + f"\n{RIGHT}")
    assert verdict.status is Status.WRONG_ANSWER, verdict
    assert not outside.exists()
    assert kept.read_text() == "x"
    assert kept.stat().st_mode & 0o400
    assert run(verifier, RIGHT).status is Status.CORRECT


def test_no_process_or_folder_is_left(verifier: Verifier) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    run(verifier, "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n" + RIGHT)
    run(verifier, "while True: pass")
    run(verifier, "import os\nfor _ in range(1010):\n  os.mkdir('d')\n  os.chdir('d')")
    time.sleep(0.1)
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("rft-code-")]


def test_sets_of_texts_have_the_same_order_in_every_process() -> None:
    details = set()
    for _ in range(2):
        verifier = open_verifier(SPEC)
        details.add(run(verifier, "def f(n): raise ValueError(hash('a'))").detail)
        verifier.close()
    assert len(details) == 1


@pytest.mark.parametrize("test", ["check(f)", "[run(f) for run in [check]]"])
def test_tests_below_a_check_for_the_main_program_run(verifier: Verifier, test: str) -> None:
    tests = f"def check(candidate):\n    assert candidate(2) == 4\nif __name__ == '__main__':\n    {test}"
    with GoldReader(SPEC) as golds:
        assert golds.read(tests) == tests
    problem = Problem("p", "?", "", tests)
    main = "if __name__ == '__main__':\n    input()"
    assert verifier.grade(problem, f"```python\n{RIGHT}\n{main}\n```", truncated=False).status is Status.CORRECT
    wrong = verifier.grade(problem, "```python\ndef f(n): return n\n```", truncated=False)
    assert wrong.status is Status.WRONG_ANSWER


@pytest.mark.parametrize("depth", [5_000, 50_000])
def test_tests_that_are_nested_too_deeply_are_refused(depth: int) -> None:
    tests = f"assert f(2) == {'-' * depth}4"
    with GoldReader(SPEC) as golds:
        assert golds.read(tests) is None
    assert read_code(f"```python\n{RIGHT}\n```", tests) == f"{RIGHT}\n"


@pytest.mark.parametrize("own", ["def check(candidate):\n    assert candidate(2) == 4\ncheck(f)", "candidate = f"])
def test_what_the_tests_define_is_not_the_code_that_they_test(own: str) -> None:
    tests = "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)"
    assert read_code(f"```python\n{RIGHT}\n```\nFor example:\n```python\n{own}\n```", tests) == f"{RIGHT}\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\ndef f(): pass\n```", "def f(): pass\n"),
        ("```\ndef f(): pass\n```\nUse it:\n```python\nf()\n```", "def f(): pass\n"),
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("```python\ndef f(): pass\n```\n```python\ndef test():\n  assert f()\n```", "def f(): pass\n"),
        ("```python\nf = abs\n```\n```python\ndef main():\n  f = 2\n```", "f = abs\n"),
        ("```python\ndef f(): pass\n```\nBetter:\n```python\ndef f(): 1\n```", "def f(): 1\n"),
        ("```python\ndef g(): pass\n```\n```python\ndef h(): pass\n```", "def h(): pass\n"),
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("```python\ndef f():", None),
        ("```bash\nls\n```", None),
        ("I would def initely try.", None),
        ("", None),
    ],
)
def test_the_code_of_a_text(text: str, code: str | None) -> None:
    assert read_code(text, "n = 2\nassert f(n) == 4") == code


@pytest.mark.parametrize("text", ["```" + " " * 90_000, "```" + "a" * 90_000, " " * 90_000 + "```"])
def test_the_code_of_a_hostile_text_is_read_within_a_second(text: str) -> None:
    start = time.monotonic()
    read_code(text, "assert f(2) == 4")
    assert time.monotonic() - start < 1


def test_a_text_without_code_has_no_answer(verifier: Verifier) -> None:
    problem = Problem("p", "?", "", "assert f(2) == 4")
    assert verifier.grade(problem, "No.", truncated=False).status is Status.NO_ANSWER
    assert verifier.grade(problem, "```python\ndef f", truncated=True).status is Status.TRUNCATED


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("test", 4)])
def test_the_solutions_of_the_shipped_problems_pass_their_tests(verifier: Verifier, split: str, count: int) -> None:
    with GoldReader(SPEC) as golds:
        problems = [problem for _, problem in placed_problems(f"code:{split}", golds=golds)]
    assert len(problems) == count
    for problem in problems:
        assert verifier.grade(problem, problem.solution, truncated=False).status is Status.CORRECT, problem.question

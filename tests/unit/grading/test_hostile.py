"""Hostile text: bounded time, no exception, nothing executed. Every text that the fuzz test found is kept here."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from rft_ray.grading import MAX_TEXT_CHARS, MODES, answers, equations, grade, grader
from rft_ray.paths import NORMAL_FORMS, equation_list, normal_forms, select_distinct
from rft_ray.records import Status
from tests.unit.grading.completion_texts import hostile_texts, random_hostile

pytestmark = pytest.mark.filterwarnings("ignore")

HOSTILE = dict(hostile_texts())
MODULES = (answers, equations, grader, normal_forms)
CACHES = [value for module in MODULES for value in vars(module).values() if hasattr(value, "cache_clear")]


def seconds(act: Callable[[], object]) -> float:
    """CPU time of the fastest of three runs with empty caches; other load on the machine only adds time.

    Whatever other tests have left in memory is kept from the garbage collector meanwhile: it would be walked
    again and again as a text makes objects, and is no part of its cost.
    """
    taken = []
    gc.freeze()
    try:
        for _ in range(3):
            for cache in CACHES:
                cache.cache_clear()
            started = time.thread_time()
            act()
            taken.append(time.thread_time() - started)
    finally:
        gc.unfreeze()
    return min(taken)


def is_quick(act: Callable[[], object]) -> bool:
    """Whether it takes less than a second, or, on a slow machine, less time than 20 million steps of a loop.

    The loop is measured right after it, up to three times: the speed of a busy machine changes.
    """
    for _ in range(3):
        taken = seconds(act)
        if taken < 1 or taken < 20 * seconds(lambda: sum(number for number in range(1_000_000))):
            return True
    return False


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", MODES)
def test_a_hostile_text_is_graded_within_a_second(name: str, mode: str) -> None:
    verdict = grade(HOSTILE[name], "18", mode)
    assert is_quick(lambda: grade(HOSTILE[name], "18", mode))
    assert verdict.status in Status
    assert not verdict.detail.startswith("grader failed"), verdict.detail


def test_a_text_over_a_bound_is_undecided_and_the_bound_is_named() -> None:
    for name in ("power tower", "huge shift", "huge number", "unary signs", "long sum"):
        verdict = grade(HOSTILE[name], "18", "paper")
        assert verdict.status is Status.UNDECIDED, name
        assert "bound" in verdict.detail or "deeper" in verdict.detail, name
    assert "bound" in grade("1" * (MAX_TEXT_CHARS + 1), "18").detail


def test_a_text_over_the_bound_is_not_a_path() -> None:
    long = "<<1+1=2>>\n" * (MAX_TEXT_CHARS // 10 + 1)
    for mode in MODES:
        assert equation_list(long, mode) == ()
        assert select_distinct([long, "<<1+1=2>>", long], mode) == [1]


@pytest.mark.parametrize("mode", MODES)
def test_a_million_hostile_characters_take_less_than_a_second(mode: str) -> None:
    for name, text in hostile_texts(1_000_000):
        assert is_quick(lambda text=text: (grade(text, "18", mode), select_distinct([text, text + "a"], mode))), name


def test_time_grows_far_slower_than_the_square_of_a_hostile_text() -> None:
    for (name, short), (_, long) in zip(hostile_texts(6_000), hostile_texts(48_000), strict=True):
        short_s, long_s = (seconds(lambda text=text: grade(text, "18")) for text in (short, long))
        assert long_s < 40 * max(short_s, 0.005), name


def test_random_text_never_raises() -> None:
    rng = random.Random(5)
    for _ in range(3_000):
        text = random_hostile(rng)
        for mode in MODES:
            assert not grade(text, "18", mode).detail.startswith("grader failed"), repr(text)
            for form in NORMAL_FORMS:
                equation_list(text, mode, form)
        select_distinct([text, text + "a", text], "strict")


def test_grading_needs_no_heavy_import() -> None:
    program = "import sys, rft_ray.grading, rft_ray.paths; print(sorted({'ray', 'torch', 'vllm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("repeated", "bound"), [("That is 1+1=3, then. ", "equations"), ("_1", "numbers and expressions")]
)
def test_a_text_of_more_equations_than_the_bound_is_undecided(repeated: str, bound: str) -> None:
    text = repeated * (MAX_TEXT_CHARS // len(repeated) - 10) + "=1\n#### 18"
    verdict = grade(text, "18", "strict")
    assert verdict.status is Status.UNDECIDED
    assert bound in verdict.detail
    assert is_quick(lambda: grade(text, "18", "strict"))

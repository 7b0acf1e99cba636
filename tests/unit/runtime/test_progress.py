"""The times of stages: summed over the runs of a plan, in the order of the first one."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from rft_ray.runtime.progress import StageTime, Stopwatch, StoredStageTime


def test_a_resumed_stage_adds_its_seconds_and_what_it_did() -> None:
    before = StageTime("sample", 2.5, {"shards": 3, "gold": 4})
    after = before.resumed(0.25, {"shards": 2, "gold": 5})
    assert after == StageTime("sample", 2.75, {"shards": 5, "gold": 5})
    assert before.counts == {"shards": 3, "gold": 4}


def test_a_stopwatch_continues_from_the_stages_of_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Stopwatch((StageTime("sft", 10.0, {"trained": 2}), StageTime("sample", 5.0)))
    with watch.stage("rft"):
        pass
    with watch.stage("sft") as counts:
        counts["trained"] = 1
    assert [stage.name for stage in watch.stages] == ["sft", "sample", "rft"]
    assert watch.stages[0].counts == {"trained": 3}
    assert watch.stages[0].seconds >= 10.0
    assert "(trained 1)" in capsys.readouterr().out  # of this run alone


def test_a_stage_that_fails_is_timed() -> None:
    watch = Stopwatch()
    with pytest.raises(OSError, match="disk"), watch.stage("corpus"):
        raise OSError("disk")
    assert [stage.name for stage in watch.stages] == ["corpus"]


@pytest.mark.parametrize(
    ("ending", "line"),
    [(OSError("disk"), "sft: failed after 0.0 s"), (KeyboardInterrupt(), "sft: stopped after 0.0 s")],
)
def test_a_stage_that_ends_early_is_not_shown_as_done(
    ending: BaseException, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(ending)), Stopwatch().stage("sft"):
        raise ending
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_stages_counts_are_shown_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    with Stopwatch().stage("corpus") as counts:
        counts |= {"gold": 1500, "paths": 0, "by_model": {}}
    with Stopwatch().stage("corpus") as counts:
        counts |= {"gold": 0, "paths": 2042, "by_model": {"a": 2000, "b": 42}}
    lines = [line for line in capsys.readouterr().out.splitlines() if "s (" in line]
    assert lines == [
        "corpus: 0.0 s (gold 1,500, paths 0)",
        "corpus: 0.0 s (gold 0, paths 2,042, 2,000 of a, 42 of b)",
    ]


def test_in_json_the_counts_are_next_to_the_seconds() -> None:
    stored: TypeAdapter[StageTime] = TypeAdapter(StoredStageTime)
    data = {"name": "sft", "seconds": 71.2, "trained": 3}
    stage = stored.validate_python(data)
    assert stage == StageTime("sft", 71.2, {"trained": 3})
    assert json.loads(stored.dump_json(stage)) == stage.as_data() == data

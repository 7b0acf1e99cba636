"""The corpus as JSONL has the prompt of its table, also where the run's prompt is in no name and has changed."""

from __future__ import annotations

import json
from pathlib import Path

from rft_ray.corpus.builder import build_corpus, limit_paths
from rft_ray.data.prompts import stored
from rft_ray.plan.run_plan import Plan
from rft_ray.records import JudgedPath
from rft_ray.store import open_store, repair
from tests.unit.corpus.test_verifiers_through_the_stages import carried_out, plan_with

OWN = "--models=[{name: a, source: x, prompt: {kind: template, template: 'Own: {query}'}}]"


def planned(template: str) -> Plan:
    prompt = f"--prompt={{kind: template, template: '{template}'}}"
    return plan_with("tiny:train:10", "{verifier: gsm8k}", OWN, prompt)


def test_paths_that_only_the_judge_calls_right_take_no_place_of_a_correct_one() -> None:
    paths = [
        JudgedPath("p", "?", text, (), model, index, 1, gold=False, rejected_as=rejected)
        for index, (model, text, rejected) in enumerate(
            [("a", "1", ""), ("b", "2", ""), ("b", "3", ""), ("c", "4", "bad_equation"), ("d", "5", "no_answer")]
        )
    ]
    for most, kept in ((1, "1"), (3, "123"), (4, "1234"), (5, "12345")):
        assert "".join(path.text for path in limit_paths(paths, most)) == kept


def test_a_jsonl_that_was_not_written_gets_the_prompt_of_its_table(tmp_path: Path) -> None:
    first, later = planned("First: {query}"), planned("Later: {query}")
    assert first.corpus == later.corpus
    carried_out(first, tmp_path)
    store = open_store(str(tmp_path))
    path = store.local_path(first.corpus.jsonl_key)
    assert path is not None
    intact = path.read_bytes()
    path.unlink()  # as of a job that was killed after the table
    build_corpus(later.corpus, store, later.train, stored(later.config.prompt))
    assert store.read(later.corpus.jsonl_key) == intact
    assert all(json.loads(line)["prompt"].startswith("First: ") for line in intact.splitlines())
    assert repair.find(repair.examine(store)) == []

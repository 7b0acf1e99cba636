"""The prompts of preference pairs: those that the models were sampled with, as texts or as messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rft_ray.corpus import preference_pairs
from rft_ray.data import prompts
from rft_ray.plan.run_plan import Plan
from rft_ray.records import Problem
from rft_ray.store import open_store
from tests.unit.corpus.test_verifiers_through_the_stages import carried_out, plan_with

CHAT = "{kind: chat, system: Be brief.}"


def pairs(folder: Path, *models: str) -> tuple[Plan, list[tuple[dict[str, Any], Problem]]]:
    """The plan, and each pair with its problem."""
    plan = plan_with("tiny:train:10", "{verifier: gsm8k}", f"--models=[{', '.join(models)}]")
    carried_out(plan, folder)
    problems = {problem.problem_id: problem for problem in plan.train.problems}
    rows = list(preference_pairs.export(open_store(str(folder)), samplers={}))
    assert rows
    return plan, [(json.loads(json.dumps(row)), problems[row["problem_id"]]) for row in rows]


def test_a_pair_of_a_chat_is_made_of_messages(tmp_path: Path) -> None:
    _, rows = pairs(tmp_path, f"{{name: a, source: x, prompt: {CHAT}}}")
    for row, problem in rows:
        assert row["prompt"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": problem.question},
        ]
        for side in ("chosen", "rejected"):
            [answer] = row[side]
            assert answer["role"] == "assistant"
            assert answer["content"].strip()


@pytest.mark.parametrize("form", ["null", CHAT])
def test_a_pair_has_the_worked_examples_of_its_prompt(tmp_path: Path, form: str) -> None:
    plan, rows = pairs(tmp_path, f"{{name: a, source: x, shots: 2, prompt: {form}}}")
    settings = plan.collected[0].sampling.settings
    solved = [problem for problem in plan.train.problems if problem.solution]
    for row, problem in rows:
        shots = [shot for shot in solved if shot != problem][:2]
        prompt = prompts.build(settings.prompt, problem.question, shots)
        assert row["prompt"] == (prompt if isinstance(prompt, str) else prompt.as_data())
        assert shots[1].solution in str(prompt)
    assert {solved[0], solved[1]} & {problem for _, problem in rows}


def test_rows_of_chats_and_of_templates_in_one_file_are_noted(tmp_path: Path) -> None:
    models = f"{{name: a, source: x, prompt: {CHAT}}}, {{name: b, source: y}}"
    plan = plan_with("tiny:train:10", "{verifier: gsm8k}", f"--models=[{models}]")
    carried_out(plan, tmp_path)
    store, notes = open_store(str(tmp_path)), list[str]()
    of_a, of_b = ([shard.key() for shard in job.shards()] for job in plan.collected)
    store.remove([*of_a[:2], *of_b[2:]])  # their samples have the same texts, and no pair of texts is there twice
    rows = list(preference_pairs.export(store, samplers={}, note=notes.append))
    assert {type(row["prompt"]) for row in rows} == {list, str}
    assert notes[-1] == preference_pairs.MIXED

"""Problems without a worked solution through the stages, with scripted samples."""

from __future__ import annotations

import json
from pathlib import Path

from rft_ray.config import load
from rft_ray.data.problems import prepare_sets
from rft_ray.plan.run_plan import make_plan
from rft_ray.store import open_store, read_table
from tests.unit.config.test_identity import contents


def test_a_problem_without_a_solution_has_paths_and_no_gold_row(tmp_path: Path) -> None:
    answers = [n + 1 if n % 2 else f"{n}+1 = {n + 1}\n#### {n + 1}" for n in range(20)]
    rows = [{"question": f"What is {n} and 1?", "answer": answer} for n, answer in enumerate(answers)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{source: {tmp_path}/data.jsonl}}"
    config = load(
        None,
        [
            f"--problems={{train: {source}, test: {source}, per_block: 10}}",
            "--models=[{name: a, source: x}]",
            "--sampling={samples_per_problem: 8, samples_per_block: 8, engine: scripted}",
            "--evaluation={icl_shots: 2, samples_per_problem: 0}",
        ],
    )
    plan = make_plan(config, *prepare_sets(config.problems), {"a": "0" * 16})
    contents(plan, tmp_path / "run")
    store = open_store(str(tmp_path / "run"))
    gold, corpus = (read_table(store, job.key)[0].to_pylist() for job in (plan.gold, plan.corpus))
    solved = {problem.problem_id for problem in plan.train.problems if problem.solution}
    assert len(solved) == 10
    assert {row["problem_id"] for row in gold} == {row["problem_id"] for row in corpus if row["gold"]} == solved
    assert {row["problem_id"] for row in corpus if not row["gold"]} > solved
    assert all(row["text"] for row in corpus)

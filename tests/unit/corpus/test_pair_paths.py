"""The chosen texts of `rft-ray pairs` are the paths of the run's corpus, whatever its settings are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rft_ray.cli import pairs
from rft_ray.corpus.preference_pairs import corpus_paths
from rft_ray.corpus.verify_summary import JOB
from rft_ray.evaluation.summary import corpora_of, write_summary
from rft_ray.plan.run_plan import Plan
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, open_store
from tests.unit.corpus.test_verifiers_through_the_stages import THOUGHT, carried_out, grade, jsonl, plan_with

MANY = ["--max-per-problem", "1000"]


def data(folder: Path) -> str:
    """Problems whose gold, and so what is sampled for them, has reasoning."""
    rows = [
        {"question": f"What is {n} and 1?", "solution": f"{THOUGHT}{n}+1 = {n + 1}\n#### {n + 1}"} for n in range(6)
    ]
    return jsonl(folder, rows)


def run(folder: Path, *settings: str, mode: str = "strict") -> tuple[Plan, Store, list[dict[str, Any]]]:
    """A run that has its corpus, with the rows of the corpus that are not gold."""
    plan = plan_with(data(folder), f"{{verifier: gsm8k, mode: {mode}}}", *settings)
    _, rows = carried_out(plan, folder / "run")
    store = open_store(str(folder / "run"))
    write_summary(store, plan, Stopwatch(), finished=False)
    return plan, store, [row for row in rows if not row["gold"]]


def exported(store: Store, *options: str) -> list[dict[str, Any]]:
    out = Path(store.url).parent / "pairs.jsonl"
    assert pairs.main([store.url, "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def by_problem(rows: list[dict[str, Any]], *columns: str) -> dict[str, list[tuple[Any, ...]]]:
    """problem_id -> these columns of its rows, each once, in order."""
    found: dict[str, dict[tuple[Any, ...], None]] = {}
    for row in rows:
        found.setdefault(row["problem_id"], {})[tuple(row[name] for name in columns)] = None
    return {problem: list(values) for problem, values in found.items()}


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["--corpus={max_paths_per_problem: 2}"],
        ["--corpus={normal_form: multiset}"],
        ["--corpus={distinct_by: answer_and_length}"],
        ["--corpus={dedup: random}"],
        ["--corpus={reasoning: drop, distinct_by: normalised_text}"],
    ],
    ids=" ".join,
)
def test_chosen_are_the_paths_of_the_corpus_in_its_order(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store, corpus = run(tmp_path, *settings)
    rows = exported(store, *MANY)
    assert capsys.readouterr().err == ""
    chosen, texts = by_problem(rows, "chosen"), by_problem(corpus, "text")
    assert chosen == {problem: texts[problem] for problem in chosen}
    assert len(chosen) > 2
    places = by_problem(rows, "chosen_model", "chosen_sample_index")
    of_corpus = by_problem(corpus, "model", "sample_index")
    assert all(set(places[problem]) <= set(of_corpus[problem]) for problem in places)
    drops = any("drop" in setting for setting in settings)
    for side in ("chosen", "rejected"):
        assert any("<think>" in row[side] for row in rows) != drops


def test_a_run_without_a_corpus_says_so_and_gives_its_correct_completions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, store, corpus = run(tmp_path)
    store.remove([plan.corpus.key, plan.corpus.jsonl_key])
    rows = exported(store, *MANY)
    assert capsys.readouterr().err.startswith("note: there is no corpus of these verdicts, so chosen are all correct ")
    assert len({(row["problem_id"], row["chosen"]) for row in rows}) > len(
        {(row["problem_id"], row["text"]) for row in corpus if row["problem_id"] in {row["problem_id"] for row in rows}}
    )
    Path(store.url, "summary.json").unlink()
    assert exported(store, *MANY) == rows


def test_the_verdicts_are_those_that_the_corpus_was_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store, _ = run(tmp_path, mode="paper")
    rows = exported(store)
    grade(plan_with(data(tmp_path), "{verifier: gsm8k, mode: strict}"), store)
    assert exported(store) == rows
    assert capsys.readouterr().err == ""
    exported(store, "--mode", "strict")
    assert "there is no corpus of these verdicts" in capsys.readouterr().err


def test_the_paths_are_read_from_the_lines_where_there_is_no_table(tmp_path: Path) -> None:
    """As `rft-ray verify` writes none for gold without solutions."""
    plan, store, corpus = run(tmp_path)
    paths = corpus_paths(store, plan.corpus.jsonl_key)
    assert paths == by_problem(corpus, "model", "sample_index")
    store.remove([plan.corpus.key])
    assert corpus_paths(store, plan.corpus.jsonl_key) == paths


def test_the_corpora_of_a_verified_run_are_those_of_its_summary(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert corpora_of(store, {}) == {}
    tree = {"job": JOB, "samplers": {"big": "9" * 16}, "corpus": {"paper": {"gold": 0, "file": "corpus/5f0c.jsonl"}}}
    store.replace("summary.json", json.dumps(tree).encode())
    assert corpora_of(store, {}) == {"paper": "corpus/5f0c.jsonl"}
    store.replace("summary.json", json.dumps(tree | {"samplers": {}}).encode())
    assert corpora_of(store, {}) == {}

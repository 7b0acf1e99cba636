"""A run with a user's verifier is read where the verifier's module is absent, or another one by now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rft_ray.cli.pairs import config_of, rules_of
from rft_ray.config import ConfigError
from rft_ray.corpus.graded import verified_blocks
from rft_ray.evaluation.summary import write_summary
from rft_ray.grading.spec import source_sha256, spec_of
from rft_ray.plan.run_plan import Plan
from rft_ray.report.write import write_report
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, open_store
from rft_ray.store.plans import save_plan
from tests.unit.corpus.test_verifiers_through_the_stages import WORDS, carried_out, grade, jsonl, plan_with

MODULE = """\
def grade(problem, completion):
    return completion.rstrip().endswith(problem.answer)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Store, Path, str]:
    """A run that the module `own_rules` has graded, its store, the module's file, and the file's hash then."""
    module = tmp_path / "own_rules.py"
    module.write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    plan = plan_with(jsonl(tmp_path, WORDS), "{verifier: 'own_rules:grade'}")
    assert carried_out(plan, tmp_path / "run")[0]["correct"] > 0
    store = open_store(str(tmp_path / "run"))
    store.replace("config.yaml", plan.config.to_yaml().encode())
    write_summary(store, plan, Stopwatch(), finished=False)
    return plan, store, module, source_sha256("own_rules:grade", "grading.verifier")


def test_the_report_is_the_same_without_the_module_and_names_its_hash(run: tuple[Plan, Store, Path, str]) -> None:
    plan, store, module, sha256 = run
    write_report(store)
    before = store.read("report.html")
    assert sha256 in before.decode()
    for changed in (lambda: module.write_text(MODULE + "# later\n"), module.unlink):
        changed()
        write_report(store)
        assert store.read("report.html") == before
    with pytest.raises(ConfigError, match="there is no module 'own_rules' on Python's path"):
        spec_of(plan.config)  # what grades needs it


def test_pairs_are_read_without_the_module(run: tuple[Plan, Store, Path, str]) -> None:
    plan, store, module, sha256 = run
    module.unlink()
    rules = rules_of(store, config_of(store), None)
    assert rules.source_sha256 == sha256
    assert verified_blocks(store, None, [job.sampling.fingerprint for job in plan.collected], rules)[1]


def test_a_run_is_read_by_the_module_of_its_summary(run: tuple[Plan, Store, Path, str], tmp_path: Path) -> None:
    """A job with another module that was stopped midway has graded too, and left the summary as it was."""
    plan, store, module, sha256 = run
    save_plan(store, plan, job="run", config="", data={})
    module.write_text(MODULE + "# later\n")
    later = plan_with(jsonl(tmp_path, WORDS), "{verifier: 'own_rules:grade'}")
    save_plan(store, later, job="run", config="", data={})
    grade(later, store)
    assert rules_of(store, config_of(store), None).source_sha256 == sha256
    write_report(store)
    assert sha256 in store.read("report.html").decode()
    write_summary(store, later, Stopwatch(), finished=False)
    assert rules_of(store, config_of(store), None).source_sha256 != sha256

"""The version of the strict rules: it is in the names of the files that these rules decide, and in no others."""

from __future__ import annotations

import pytest

from rft_ray.grading.spec import VerifierSpec
from rft_ray.plan.jobs import CorpusJob, verdicts_fingerprint
from rft_ray.plan.run_plan import Plan
from rft_ray.store import names
from tests.unit.plan.test_run_plan import planned

OTHERS = ("math", "choice", "exact", "python")


def names_of(plan: Plan) -> dict[str, list[str]]:
    """Kind of file -> the names of this kind."""
    return {
        "problems": [plan.train.fingerprint, plan.test.fingerprint],
        "completions": [job.sampling.fingerprint for job in plan.collected],
        "gold corpus": [plan.gold.key],
        "texts of gold": [plan.gold.fingerprint],
        "verdicts": [job.fingerprint for job in plan.collected],
        "evaluation verdicts": [job.fingerprint for job in plan.evaluation_verdicts("icl", "base", "sft", "rft")],
        "evaluations": [job.key for job in plan.evaluations],
        "paths": [job.fingerprint for job in plan.path_jobs],
        "corpora": [job.key for job in plan.corpora],
        "texts of corpora": [job.fingerprint for job in plan.corpora],
        "sft": [job.fingerprint for job in plan.sft],
        "rft": [job.fingerprint for job in plan.rft],
        "run": [plan.fingerprint],
    }


def renamed(monkeypatch: pytest.MonkeyPatch, *settings: str) -> set[str]:
    """The kinds of files whose names a further version of the strict rules changes."""
    before = names_of(planned(*settings))
    monkeypatch.setitem(names.VERSIONS, "strict_rules", names.VERSIONS["strict_rules"] + 1)
    after = names_of(planned(*settings))
    return {kind for kind, fingerprints in before.items() if fingerprints != after[kind]}


@pytest.mark.parametrize("verifier", ["gsm8k", *OTHERS])
@pytest.mark.parametrize("shared", ["null", "equations", "normalised_text"])
def test_no_name_of_paper_mode_changes(monkeypatch: pytest.MonkeyPatch, verifier: str, shared: str) -> None:
    settings = ("--grading.mode=paper", f"--grading.verifier={verifier}", f"--corpus.distinct_by={shared}")
    assert renamed(monkeypatch, *settings) == set()


def test_strict_grading_changes_what_is_made_from_verdicts_and_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    unchanged = {"problems", "completions", "texts of gold", "sft"}
    assert renamed(monkeypatch) == set(names_of(planned())) - unchanged


@pytest.mark.parametrize("verifier", OTHERS)
def test_of_other_verifiers_only_files_with_equations_change_and_no_model(
    monkeypatch: pytest.MonkeyPatch, verifier: str
) -> None:
    changed = renamed(monkeypatch, f"--grading.verifier={verifier}")
    assert changed == {"gold corpus", "paths", "corpora"}


def test_of_other_verifiers_the_corpus_changes_where_equations_decide_which_paths_are_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = renamed(monkeypatch, "--grading.verifier=exact", "--corpus.distinct_by=equations")
    assert {"paths", "texts of corpora", "rft"} <= changed
    assert not {"verdicts", "sft"} & changed


def test_the_names_of_paper_mode_are_those_of_earlier_versions() -> None:
    plan = planned("--grading.mode=paper")
    assert plan.gold.key == "corpus/23b10d491daedd08.parquet"
    assert [job.fingerprint for job in plan.collected] == ["7b5b62ac0a7b4863", "9b0088aeccc99aaa"]
    assert plan.paths.fingerprint == "a13dd0d21f018694"
    assert plan.corpus.fingerprint == "c469bb2762cbf8e3"
    assert [job.fingerprint for job in plan.rft] == ["d9d1b825baee6326", "a6d0e0bdaaf7d600"]
    assert plan.evaluations[0].key == "evaluation/5f30462675c85846.parquet"
    assert plan.fingerprint == "25f4c5edc7bc21d2"


def test_the_models_of_other_verifiers_have_the_names_of_earlier_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.VERSIONS, "exact_rules", names.FIRST_VERIFIER_RULES)
    plan = planned("--grading.verifier=exact")
    assert [job.fingerprint for job in plan.collected] == ["6a3ffccd78400c8f", "63e20161affa5d13"]
    assert plan.corpus.fingerprint == "836741bd673d176d"
    assert [job.fingerprint for job in plan.rft] == ["e0c1b4b46c89708b", "5609b92b076806fc"]
    assert plan.fingerprint == "db3394faa5656f32"


def test_the_first_strict_rules_have_the_names_of_files_without_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.VERSIONS, "strict_rules", names.FIRST_STRICT_RULES)
    plan = planned()
    assert [job.fingerprint for job in plan.collected] == ["379f06e178bf0066", "c5cd86cf822c4d27"]
    assert plan.gold.key == "corpus/b2e9fe5369bb5ca4.parquet"
    assert plan.paths.fingerprint == "f13f3ede80f17517"
    assert plan.corpus.fingerprint == "67aa21a5324cf821"
    assert plan.fingerprint == "662229c7d92f960b"


def test_new_strict_verdicts_have_other_names_than_those_of_the_first_rules() -> None:
    first = verdicts_fingerprint("c" * 16, "strict", "collect", version=names.FIRST_STRICT_RULES)
    assert verdicts_fingerprint("c" * 16, "strict", "collect") != first
    assert names.VERSIONS["strict_rules"] > names.FIRST_STRICT_RULES


FIRST_RULES = {
    "choice": ["0f6fe50dbf484733", "04095d1f2500a3cd"],
    "exact": ["6a3ffccd78400c8f", "63e20161affa5d13"],
    "math": ["f2b7d258df3a17a7", "514ee586d49a6c47"],
    "python": ["01c9f26335f5739e", "6d255ff5ac9ca21d"],
    "regex": ["d48f050f71de1afe", "511d5308717cf52c"],
}
"""Verifier -> the names of the verdicts that its first rules made."""


@pytest.mark.parametrize("verifier", FIRST_RULES)
def test_new_verdicts_of_a_verifier_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch, verifier: str) -> None:
    def named(name: str) -> dict[str, list[str]]:
        pattern = ["--grading.pattern='= *(.+)'"] if name == "regex" else []
        return names_of(planned(f"--grading.verifier={name}", *pattern))

    others = ["gsm8k", *(name for name in FIRST_RULES if name != verifier)]
    before, *rest = map(named, (verifier, *others))
    monkeypatch.setitem(names.VERSIONS, f"{verifier}_rules", names.FIRST_VERIFIER_RULES)
    after = named(verifier)
    assert after["verdicts"] == FIRST_RULES[verifier]
    unchanged = {"problems", "completions", "gold corpus", "texts of gold", "sft"}
    assert {kind for kind in before if before[kind] != after[kind]} == set(before) - unchanged
    assert [*map(named, others)] == rest


def test_verdicts_that_reject_what_is_unread_have_names_of_their_own_and_evaluations_do_not() -> None:
    accepting, rejecting = names_of(planned()), names_of(planned("--grading.unread=reject"))
    assert accepting["verdicts"] != rejecting["verdicts"]
    assert verdicts_fingerprint("c" * 16, "strict", "collect", VerifierSpec(unread="reject")) not in {
        verdicts_fingerprint("c" * 16, mode, "collect") for mode in ("strict", "paper")
    }
    sft = [planned(*s).evaluations_of("sft") for s in ((), ("--grading.unread=reject",))]
    assert [job.key for job in sft[0]] == [job.key for job in sft[1]]


def test_a_corpus_of_gold_alone_is_read_by_its_own_mode() -> None:
    paper, strict = (CorpusJob("p" * 16, 10, gold_mode=mode) for mode in ("paper", "strict"))
    assert paper.key == f"corpus/{paper.fingerprint}.parquet"
    assert strict.fingerprint == paper.fingerprint
    assert strict.key != paper.key

"""A run that earlier strict rules graded: its verdicts are read, reported and sound, before and after a new grading."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.corpus import preference_pairs
from rft_ray.corpus.graded import read_verdicts, rule_versions, verified_blocks
from rft_ray.corpus.mode_comparison import account
from rft_ray.corpus.verifier import Verifier
from rft_ray.data.problems import prepare
from rft_ray.evaluation.summary import samplers_of
from rft_ray.grading import grader
from rft_ray.grading.equations import Equations
from rft_ray.grading.spec import VerifierSpec
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.records import GradedCompletion, Status, to_table, verdicts_in
from rft_ray.report.facts import gather
from rft_ray.report.sections import verdicts as verdict_section
from rft_ray.store import Store, StoreError, names, read_table, repair
from tests.report_run import config, make_run


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], Store]:
    """A strict run of the first rules, and the keys of its verdicts on training problems."""
    with monkeypatch.context() as earlier:
        earlier.setitem(names.VERSIONS, "strict_rules", names.FIRST_STRICT_RULES)
        plan, store = make_run(tmp_path)
        return shards_of(plan), store


def current(folder: Path, mode: str = "strict") -> Plan:
    """The plan of the same config now."""
    settings = config(folder)
    settings = settings.model_copy(update={"grading": settings.grading.model_copy(update={"mode": mode})})
    train, test = (prepare(part, 0, 20) for part in (settings.problems.train, settings.problems.test))
    return make_plan(settings, train, test, {name: name * 16 for name in ("a", "b")})


def graded_anew(plan: Plan, store: Store, most: int | None = None) -> None:
    """Grade the shards, or the first `most` of them, as where grading is stopped."""
    work = Verifier(store, plan.collected)
    for shard in [shard for job in plan.collected for shard in job.shards()][:most]:
        work(shard)
    work.close()


def keys_of(store: Store) -> set[str]:
    return {
        source.verdicts_key
        for block in verified_blocks(store, "strict", samplers_of(store).values())[1]
        for source in block
    }


def shards_of(plan: Plan) -> set[str]:
    return {shard.key() for job in plan.collected for shard in job.shards()}


def test_its_verdicts_are_read_until_it_is_graded_anew(old: tuple[set[str], Store], tmp_path: Path) -> None:
    keys, store = old
    assert keys_of(store) == keys
    graded_anew(current(tmp_path), store)
    assert keys_of(store) == shards_of(current(tmp_path))
    assert keys <= set(store.list("verdicts/"))


def test_a_new_grading_that_has_stopped_midway_does_not_hide_the_complete_one(
    old: tuple[set[str], Store], tmp_path: Path
) -> None:
    keys, store = old
    samplers = samplers_of(store)
    figures, pairs = gather(store), list(preference_pairs.export(store, samplers=samplers))
    graded_anew(current(tmp_path), store, 1)
    assert keys_of(store) == keys
    after, notes = gather(store), list[str]()
    assert (after.samples, after.problems_seen) == (figures.samples, figures.problems_seen)
    assert list(preference_pairs.export(store, samplers=samplers, note=notes.append)) == pairs
    assert notes == [preference_pairs.NO_CORPUS]
    assert not after.partly_verified


def test_a_strict_grading_of_a_paper_run_that_has_stopped_midway_gives_the_pairs_of_the_paper_mode(
    tmp_path: Path,
) -> None:
    plan, store = make_run(tmp_path)
    graded_anew(current(tmp_path, "paper"), store)
    assert verified_blocks(store, None, samplers_of(store).values()).mode == "strict"
    for shard in list(plan.collected[0].shards())[:1]:
        store.remove([shard.key()])
    verified = verified_blocks(store, None, samplers_of(store).values())
    assert verified.mode == "paper"
    assert verified.note.startswith("mode paper is in use, as 12 of 12 shards")
    assert "11 in mode strict" in verified.note
    assert not verified_blocks(store, "paper", samplers_of(store).values()).note


def test_report_and_pairs_say_that_only_a_part_of_the_samples_is_graded(tmp_path: Path) -> None:
    plan, store = make_run(tmp_path)
    shards = [shard for job in plan.collected for shard in job.shards()]
    store.remove([shards[0].key()])
    notes: list[str] = []
    assert list(preference_pairs.export(store, samplers=samplers_of(store), note=notes.append))
    assert notes == [gather(store).partly_verified, preference_pairs.NO_CORPUS]
    assert notes[0].startswith(f"{len(shards) - 1} of {len(shards)} shards of completions are graded")
    assert notes[0] in str(verdict_section(gather(store)))


def test_it_is_reported_and_gives_pairs(old: tuple[set[str], Store]) -> None:
    _, store = old
    assert sum(sum(samples.right_of_k.values()) for samples in gather(store).samples.values()) > 0
    assert next(preference_pairs.export(store, samplers=samplers_of(store)))["chosen_verdict"] == "correct"


def test_its_files_are_sound_and_nothing_of_it_is_void_after_it_is_graded_anew(
    old: tuple[set[str], Store], tmp_path: Path
) -> None:
    _, store = old
    assert repair.find(repair.examine(store)) == []
    graded_anew(current(tmp_path), store)
    assert repair.find(repair.examine(store)) == []


def test_paper_verdicts_have_one_version(tmp_path: Path) -> None:
    assert list(rule_versions("paper")) == [names.FIRST_STRICT_RULES]
    assert list(rule_versions("strict"))[-1] == names.FIRST_STRICT_RULES
    assert rule_versions("strict")[0] == names.VERSIONS["strict_rules"]


@pytest.mark.parametrize("verifier", ["choice", "exact", "math", "python"])
def test_verdicts_of_a_verifier_have_the_versions_of_its_rules(verifier: str) -> None:
    versions = rule_versions("strict", VerifierSpec(verifier))
    assert (versions[0], versions[-1]) == (names.VERSIONS[f"{verifier}_rules"], names.FIRST_VERIFIER_RULES)


def test_verdicts_that_reject_what_is_unread_are_not_taken_for_others(old: tuple[set[str], Store]) -> None:
    _, store = old
    with pytest.raises(StoreError, match=r"no strict \(unread=reject\) verdicts"):
        verified_blocks(store, "strict", samplers_of(store).values(), VerifierSpec(unread="reject"))


def test_partly_read_verdicts_are_counted_in_the_metadata_of_their_shard(
    old: tuple[set[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = old
    plan = current(tmp_path)
    monkeypatch.setattr(grader, "equations_of", lambda text, mode: Equations((), unread="3 and a bit = 4"))
    monkeypatch.setattr(grader, "_judge_cached", grader._judge)
    graded_anew(plan, store)
    for shard in plan.collected[0].shards():
        table, metadata = read_table(store, shard.key())
        partly = [row for row in verdicts_in(table) if row.is_partly_read]
        assert {row.reason for row in partly} == {"equations partly_read: 3 and a bit = 4"}
        assert metadata["partly_read"] == str(len(partly)) != "0"
        assert {row.status for row in partly} == {Status.CORRECT}


def test_partly_read_verdicts_are_counted_with_their_column_and_without(
    old: tuple[set[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = old
    plan = current(tmp_path)
    job = plan.collected[0]
    monkeypatch.setattr(grader, "equations_of", lambda text, mode: Equations((), unread="3 and a bit = 4"))
    monkeypatch.setattr(grader, "_judge_cached", grader._judge)
    graded_anew(plan, store)
    counted = account({"strict": job}, store)
    assert counted.partly_read["strict"] == counted.status["strict"][Status.CORRECT] > 0
    assert [row.reason for row in read_verdicts(store, job)] == [
        row.reason for shard in job.shards() for row in verdicts_in(read_table(store, shard.key())[0])
    ]


def test_rows_without_the_column_say_in_their_detail_that_they_are_partly_read() -> None:
    rows = [GradedCompletion("p", 0, Status.CORRECT, "4", detail) for detail in ("equations partly_read: 3 = 4", "")]
    read = verdicts_in(to_table(rows, GradedCompletion))
    assert read == rows
    assert [row.is_partly_read for row in read] == [True, False]
    assert read[0].reason == "equations partly_read: 3 = 4"


def test_only_strict_verdicts_say_how_their_equations_were_read(old: tuple[set[str], Store], tmp_path: Path) -> None:
    _, store = old
    for mode, added in (("strict", ["equations"]), ("paper", [])):
        plan = current(tmp_path, mode)
        graded_anew(plan, store)
        columns = {tuple(read_table(store, key)[0].column_names) for key in shards_of(plan)}
        assert columns == {("problem_id", "sample_index", "status", "answer", "detail", *added)}

"""The report: its figures equal the store's, and no text of a model becomes markup or script."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.evaluation.metrics import Difference
from rft_ray.evaluation.summary_records import BadPlace, Charged, Judged
from rft_ray.grading.unicode_forms import visible
from rft_ray.records import Problem, Status
from rft_ray.report.diversity import Diversity, grid
from rft_ray.report.example_section import deciding
from rft_ray.report.examples import (
    BUDGET,
    KEPT,
    MARKS,
    PROBLEMS,
    REJECTED,
    TEXT_CHARS,
    Excerpt,
    Gallery,
    Marker,
    Shown,
    excerpt,
)
from rft_ray.report.facts import RunFacts, gather
from rft_ray.report.formatting import percent
from rft_ray.report.html import RULE_CHARS, marked, quoted
from rft_ray.report.page import headline, run_page
from rft_ray.report.write import write_report
from rft_ray.sampling.engine_load import EngineLoad
from rft_ray.store import Store, StoreError, open_store
from tests.report_run import TRAIN, K, make_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</pre></details></main><h1 onclick=alert(3)>pwned</h1>",
    '"><img src=x onerror=alert(4)>',
    "<!-- -->]]><svg onload=alert(5)>",
    "&lt;script&gt;alert(6)&lt;/script&gt; \ud83d lone",
    "NUL \x00 bell \x07 escape \x1b[31m delete \x7f c1 \x9b",
    "right to left \u202e override \u2066 isolate \u200b unseen \ufeff \U000e0041 tag",
    "<" * 5000,
    "<<1+1=2>>" * 2_000,
    "z\u0335\u0336" * 3000,
)
MEGABYTE = "one line of a megabyte " + "x" * 1_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("report"))[1]


@pytest.fixture(scope="module")
def facts(run: Store) -> RunFacts:
    return gather(run)


@pytest.fixture(scope="module")
def page(run: Store) -> str:
    """The report of `run`."""
    write_report(run)
    return run.read("report.html").decode()


class Page(HTMLParser):
    """Tags, attributes and the policy of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.values: list[tuple[str, str]] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [(name, value or "") for name, value in attrs]
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""


# --- Figures --------------------------------------------------------------------------------------


def test_every_sample_of_the_summary_is_in_the_histograms(facts: RunFacts) -> None:
    for model, account in facts.summary.ledger.items():
        samples = facts.samples[model]
        by_status = {status: sum(by.values()) for status, by in samples.lengths.items()}
        assert by_status.pop(Status.CORRECT) == account.accepted > 0
        assert {str(s): n for s, n in by_status.items()} == {s: n for s, n in account.rejected.items() if n}
        assert sum(samples.right_of_k.values()) == TRAIN
        assert sum(right * n for right, n in samples.right_of_k.items()) == account.accepted


def test_the_curve_ends_at_the_paths_of_the_corpus(facts: RunFacts) -> None:
    assert facts.paths is not None
    assert facts.summary.corpus is not None
    assert facts.paths.curves[""][-1] == (K, pytest.approx(facts.summary.corpus.paths / TRAIN))
    for model, counts in facts.summary.complementarity.by_model.items():
        assert facts.paths.curves[model][-1][1] == pytest.approx(counts.distinct / TRAIN)


def test_the_curve_is_the_mean_over_all_choices_of_samples() -> None:
    draws: Sequence[str | None] = ["p", "p", None, "q", "p", "r"]  # None: a rejected sample
    curve = Diversity(grid(6))
    curve.add(6, [{"m": draws.count(path)} for path in "pqr"])
    for k, expected in curve.curve:
        chosen = list(itertools.combinations(draws, k))
        assert expected == pytest.approx(sum(len(set(drawn) - {None}) for drawn in chosen) / len(chosen))


@pytest.mark.parametrize("k", [4, 8, 32])
def test_the_estimate_predicts_the_distinct_paths_at_twice_the_k(k: int) -> None:
    rng = random.Random(k)
    weights = [1 / (rank + 1) for rank in range(60)]
    known, new = Diversity(grid(k)), 0
    for _ in range(500):
        right = rng.random()
        first, second = (
            [path for path in rng.choices(range(60), weights, k=k) if rng.random() < right] for _ in range(2)
        )
        known.add(k, [{"m": first.count(path)} for path in set(first)])
        new += len(set(second) - set(first))
    expected = known.doubling
    assert expected.gain == pytest.approx(new / 500, rel=0.15)
    assert expected.low < expected.gain < expected.high


def test_samples_beyond_the_runs_k_are_left_out(tmp_path: Path) -> None:
    plan, store = make_run(tmp_path)
    summary = store.read("summary.json").decode()
    sampled = len(plan.collected) * TRAIN * K
    assert f'"planned": {TRAIN * K}' in summary
    store.replace("summary.json", summary.replace(f'"planned": {TRAIN * K}', f'"planned": {TRAIN * 4}').encode())
    facts = gather(store)
    assert (
        sum(sum(by.values()) for samples in facts.samples.values() for by in samples.lengths.values()) == sampled // 2
    )


def test_the_report_is_the_same_for_the_same_data(run: Store, page: str) -> None:
    write_report(run)
    assert run.read("report.html").decode() == page


def test_the_headline_claims_no_more_than_the_intervals(facts: RunFacts) -> None:
    def shown(low: float, value: float) -> tuple[str, str]:
        paired = {"rft_minus_sft": Difference(value, low, value + 0.1, 40)}
        return headline(replace(facts.summary, paired={"a": paired}), facts.config)

    assert "raised" in shown(0.01, 0.05)[0]
    assert "clear of zero." in shown(0.01, 0.05)[1]
    assert "no effect" in shown(-0.01, 0.05)[1]
    assert "lowered" in shown(-0.2, -0.15)[0]
    assert "did not change" in shown(-0.1, 0.0)[0]


def test_a_model_without_paths_shares_none_of_them(facts: RunFacts) -> None:
    both = facts.summary.complementarity
    overlap = {"a": {"a": 5, "b": 0}, "b": {"a": 0, "b": 0}}
    shown = run_page(replace(facts, summary=replace(facts.summary, complementarity=replace(both, overlap=overlap))))
    assert "Of the 0 paths of b, a also sampled 0" in shown
    assert shown.count(">\u2013<") > run_page(facts).count(">\u2013<")


def test_the_report_of_an_unfinished_run_names_what_is_missing(facts: RunFacts) -> None:
    ledger = {name: replace(account, missing=7) for name, account in facts.summary.ledger.items()}
    summary = replace(facts.summary, finished=False, evaluation={}, paired={}, corpus=None, ledger=ledger)
    page = run_page(replace(facts, summary=summary))
    assert "14 planned samples missing and later stages have not run yet" in page
    assert 'id="accuracy-chart"' not in page


def test_the_report_says_how_many_samples_have_unread_equations(facts: RunFacts, page: str) -> None:
    assert "cannot all be read" not in page
    ledger = {name: replace(account, partly_read=1_203) for name, account in facts.summary.ledger.items()}
    shown = run_page(replace(facts, summary=replace(facts.summary, ledger=ledger)))
    assert "cannot all be read: a 1,203, b 1,203." in shown


def test_the_pipeline_ends_with_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = make_run(tmp_path)
    summary = store.local_path("summary.json")
    assert summary
    summary.unlink()  # otherwise the run would be complete; every shard and model exists, so nothing is made
    pipeline.run(plan, store)
    assert f"report: {store.url}/report.html" in capsys.readouterr().out
    assert b"<h1>" in store.read("report.html")


def test_a_report_that_cannot_be_written_is_a_warning_and_the_run_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, store = make_run(tmp_path)
    for name in ("summary.json", "report.html"):
        path = store.local_path(name)
        assert path
        path.unlink(missing_ok=True)
    path.mkdir()  # a folder under the report's name
    assert pipeline.run(plan, store).finished
    shown = capsys.readouterr().out
    assert "warning: the report could not be written (" in shown
    assert f"rft-ray report {store.url}" in shown


def test_a_run_without_a_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no summary\.json"):
        write_report(open_store(str(tmp_path)))


# --- Hostile texts --------------------------------------------------------------------------------


def hostile_writer(problem: Problem, model: str, index: int) -> str:
    turn = sum(problem.problem_id.encode()) + index
    text = MEGABYTE if turn % 100 == 0 else HOSTILE[turn % len(HOSTILE)]
    right = f"\n#### {problem.answer}" if index % 2 else "\n#### 1234567"
    return text + right


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = make_run(tmp_path_factory.mktemp("hostile"), hostile_writer)[1]
    write_report(store)
    return store.read("report.html").decode()


def test_no_text_of_a_model_becomes_markup(hostile: str, page: str) -> None:
    attacked, harmless = Page(hostile), Page(page)
    assert attacked.tags.count("script") == harmless.tags.count("script") == 1
    assert attacked.tags.count("h1") == 1
    assert set(attacked.tags) <= set(harmless.tags)
    assert not {name for name in attacked.attributes if name.startswith("on")}
    assert "pwned" in hostile  # it is shown as text


def test_no_invisible_character_reaches_the_page(hostile: str) -> None:
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", hostile)
    for shown in ("␀", "␛[31m", "⟦U+202E⟧", "⟦U+200B⟧"):
        assert shown in hostile


def test_long_texts_are_cut_and_the_report_stays_small(hostile: str) -> None:
    assert "more characters, cut here" in hostile
    longest = TEXT_CHARS * len("&quot;") + 2 * MARKS * (RULE_CHARS + len('<mark class="holds answer" title=""></mark>'))
    assert max(map(len, re.findall(r"<pre dir=\"auto\">(.*?)</pre>", hostile, re.S))) <= longest
    assert len(hostile.encode()) < 4_000_000


def test_the_policy_lets_nothing_be_fetched_and_no_other_script_run(hostile: str) -> None:
    page = Page(hostile)
    assert "default-src 'none'" in page.policy
    [scripts] = re.findall(r"script-src ([^;]+);", page.policy)
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", scripts)
    assert page.tags.count("script") == 1
    fetched = [
        value for name, value in page.values if name in {"src", "href", "action", "data", "srcset", "xlink:href"}
    ]
    assert all(value.startswith("#") for value in fetched)
    assert not re.findall(r"@import|url\((?!#)", hostile)


def test_a_surrogate_that_reaches_the_page_is_replaced() -> None:
    assert visible("a\ud800b").encode() == "a\ufffdb".encode()


def test_the_text_that_decided_a_verdict_is_marked() -> None:
    text = "2+2 = <<2+2=4>>4\n<<4+4=9>>9\n#### 9"
    false = Shown("a", 0, Status.BAD_EQUATION, Excerpt("4+4=9: does not hold", 0), Excerpt(text, 0), 0)
    wrong = Shown("a", 0, Status.WRONG_ANSWER, Excerpt("answer 9, gold 8", 0), Excerpt(text, 0), 0)
    assert deciding(false) == "<<4+4=9>>"
    assert deciding(wrong) == "#### 9"
    assert "<mark>&lt;&lt;4+4=9&gt;&gt;</mark>9" in quoted(false.text, deciding(false))


def test_each_equation_and_answer_of_an_example_is_marked_with_its_rule() -> None:
    text = "2+2 = <<2+2=4>>4\n<<4+4=9>>9\n#### 9"
    shown = marked(excerpt(text), Marker("paper", ("think",))(text))
    assert (
        '<mark class="holds" title="holds: within 0.001 of the number after =">&lt;&lt;2+2=4&gt;&gt;</mark>4' in shown
    )
    assert '<mark class="fails" title="fails: 4+4=9: does not hold">&lt;&lt;4+4=9&gt;&gt;</mark>9' in shown
    assert '<mark class="answer" title="answer the first #### with digits">#### 9</mark>' in shown


def test_marks_are_read_from_the_whole_text_and_not_from_the_part_shown() -> None:
    text = "x" * 20 + " <<2+2=4>> #### 4"
    cut = marked(excerpt(text, 27), Marker("paper", ("think",))(text))
    assert 'class="holds"' in cut
    assert "&lt;&lt;2+2=4</mark>" in marked(excerpt(text, 28), Marker("paper", ("think",))(text))


def test_marks_of_a_text_with_reasoning_are_those_of_what_follows_it() -> None:
    text = "<think>1+1 = <<1+1=3>>3\n#### 3</think>1+1 = <<1+1=2>>2\n#### 2"
    marks = Marker("paper", ("think",))(text)
    assert [text[read.start : read.end] for read in marks.readings] == ["<<1+1=2>>"]
    assert [text[claim.start : claim.end] for claim in marks.claims] == ["#### 2"]


def test_answers_are_marked_as_they_are_read_beside_a_gold_with_a_decimal_comma() -> None:
    problem = Problem("1" * 16, "How heavy is it?", "", "2,5")
    gallery = Gallery([problem], 1, None, Marker("strict", ("think",)))
    gallery.add(problem, [])
    marks = gallery.examples[0].gold_marks
    assert marks
    assert [claim.answer and claim.answer.text for claim in marks.claims] == ["2.5"]


def test_the_examples_of_a_run_are_marked(page: str) -> None:
    assert re.search(r'<mark class="holds" title="holds: [^"]+">[^<]*&lt;&lt;', page)
    assert re.search(r'<mark class="fails" title="fails: [^"]+">[^<]*&lt;&lt;', page)


def test_examples_are_bounded(facts: RunFacts) -> None:
    assert 0 < len(facts.examples) <= PROBLEMS
    assert all(len(example.kept) <= KEPT and len(example.rejected) <= REJECTED for example in facts.examples)
    assert sum(example.size for example in facts.examples) < BUDGET
    reasons = {shown.status for example in facts.examples for shown in example.rejected}
    assert {Status.BAD_EQUATION, Status.WRONG_ANSWER, Status.NO_ANSWER} <= reasons


def test_the_load_of_the_engines_is_shown_where_it_is_known(facts: RunFacts, page: str) -> None:
    assert "Load of the engines" not in page
    load = EngineLoad(256, 1_744, 0.83, 12)
    ledger = {model: replace(account, load=load) for model, account in facts.summary.ledger.items()}
    shown = str(run_page(replace(facts, summary=replace(facts.summary, ledger=ledger))))
    table = re.search(r"Load of the engines.*?</table>", shown, re.DOTALL)
    assert table
    cells = re.findall(r"<td[^>]*>\s*([^<]*?)\s*</td>", table[0])
    assert cells[-4:] == ["256", "1,744", percent(0.83), "12"]


def test_the_use_of_the_gpus_is_in_the_summary_and_the_report(tmp_path: Path, page: str) -> None:
    assert "Use of the GPUs" not in page
    _, store = make_run(tmp_path, usd_per_gpu_hour=2.5)
    sft, sample = gather(store).summary.gpu_use
    assert (sft.stage, sft.gpus, sft.gpu_hours, sft.idle, sft.usd) == ("sft", 8, 4.0, 0.0, 10.0)
    assert (sample.stage, sample.gpus) == ("sample", 2)
    assert sft.mfu is not None
    assert sample.mfu is not None
    write_report(store)
    table = re.search(r"Use of the GPUs.*?</table>", store.read("report.html").decode(), re.DOTALL)
    assert table
    cells = re.findall(r"<td[^>]*>\s*([^<]*?)\s*</td>", table[0])
    assert cells[:5] == ["8", "4.00", percent(0.0), percent(sft.mfu), "10.00"]
    hours, money = sft.gpu_hours + sample.gpu_hours, (sft.usd or 0.0) + (sample.usd or 0.0)
    assert [cell for cell in cells[-5:] if cell] == [f"{hours:,.2f}", f"{money:,.2f}"]


def test_the_places_that_could_not_load_a_model_are_named(facts: RunFacts, page: str) -> None:
    assert "Sampled elsewhere" not in page
    bad = [BadPlace(f"10.0.0.7 GPU {gpu}", ("a (sft)", "b (sft)"), "no <kernel> image") for gpu in range(6)]
    shown = str(run_page(replace(facts, summary=replace(facts.summary, bad_places=tuple(bad)))))
    line = re.search(r"Sampled elsewhere: (.*)\.", shown)
    assert line
    named = [f"10.0.0.7 GPU {gpu} could not load a (sft), b (sft): no &lt;kernel&gt; image" for gpu in range(4)]
    assert line[1] == "; ".join([*named, "and 2 more places"])


def test_the_judges_opinions_are_shown_by_model_and_verdict(facts: RunFacts, page: str) -> None:
    assert "Second opinion" not in page
    judged = {"no_answer": Judged(40, 31, 6, 3)}
    ledger = {
        model: replace(account, judged=judged, judge_charged=Charged(7_001, 8_002, None))
        for model, account in facts.summary.ledger.items()
    }
    with_judge = replace(facts, summary=replace(facts.summary, ledger=ledger))
    shown = str(run_page(with_judge))
    opinions = re.search(r"Second opinion of the judge.*?</table>", shown, re.DOTALL)
    assert opinions
    cells = re.findall(r"<td[^>]*>\s*([^<]*?)\s*</td>", opinions[0])
    assert cells[1:5] == ["40", "31", "6", "3"]
    assert "7,001" in shown
    assert "no example of the corpus depends on them" in shown
    accepting = replace(with_judge, config={**facts.config, "corpus": {"judge": "accept"}})
    assert "candidates for paths too" in str(run_page(accepting))

"""The study's page shows what `study.json` holds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.cli import report, study
from rft_ray.report.study_page import band, headline, study_page
from rft_ray.report.write import write_study_report
from rft_ray.store import NotFound, mark_run, open_store
from rft_ray.study.result import Estimate, Fit, write_study
from tests.study_result import STUDY


@pytest.fixture(scope="module")
def page() -> str:
    return study_page(STUDY)


def test_the_headline_counts_the_findings() -> None:
    assert "3 findings" in headline(STUDY)
    assert "<b>1 holds</b>, 1 does not and 1 is unclear" in headline(STUDY)
    assert "No finding" in headline(replace(STUDY, findings=()))


def test_the_band_of_a_line_has_the_studys_intervals() -> None:
    """At x = 0 the interval of the line's mean is that of its intercept (here: t = 12.706, residuals 1, -2, 1)."""
    spread, t, deviation = 2.0, 12.706, 6**0.5  # x = 1, 2, 3; sum of squares 6 over one degree of freedom
    half_slope = t * deviation / spread**0.5
    half_intercept = t * deviation * (1 / 3 + 2.0**2 / spread) ** 0.5
    slope, intercept = (
        Estimate(value, value - half, value + half) for value, half in ((3.0, half_slope), (1.0, half_intercept))
    )
    points = ((1.0, 5.0, ""), (2.0, 5.0, ""), (3.0, 11.0, ""))
    rows = list(band("a", Fit(1, "f", "a", "x", "y", False, slope, intercept, 0.5, points)))
    assert [rows[0]["x"], rows[-1]["x"]] == [1.0, 3.0]
    assert rows[0]["y"] == pytest.approx(4.0)
    for row in (rows[0], rows[len(rows) // 2]):
        half = t * deviation * (1 / 3 + (float(row["x"]) - 2.0) ** 2 / spread) ** 0.5
        assert float(row["high"]) - float(row["y"]) == pytest.approx(half)
        assert float(row["y"]) - float(row["low"]) == pytest.approx(half)


def test_every_part_of_the_study_is_on_the_page(page: str) -> None:
    for text in (
        "does not hold",
        "unclear",
        "The rule that decides each finding",
        "What a point costs",
        "Not answered: one model",
    ):
        assert text in page
    for chart in ("sft-loss", "sft-data", "q1-rft", "q3-distinct", "q4-union", "q4-without", "paper-loss", "paper-k"):
        assert f'id="{chart}-chart"' in page
    assert "2 planned points missing" in page


def test_a_common_slope_is_in_the_text_and_not_drawn(page: str) -> None:
    [figure] = re.findall(r'<figure id="sft-data-chart">.*?</figure>', page, re.S)
    assert '<th scope="row">common slope</th>' in figure
    wide = figure[figure.index('class="wide"') : figure.index('class="narrow"')]
    assert wide.count('aria-roledescription="point"') == 3 * len(STUDY.models)


def test_cells_are_escaped(page: str) -> None:
    assert "<b></" not in page
    assert "&lt;b&gt;" in page
    assert "x &amp; more" in page
    assert "&lt;mine&gt;.yaml" in page


def test_a_damaged_study_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"{tmp_path}/rft")
    mark_run(store)
    store.replace("study.json", b'{"run": 3}')
    (tmp_path / "own.yaml").write_text("models: [{name: a, source: 'tiny:tiny-xs'}]")
    markdown = [f"{tmp_path}/own.yaml", f"--run.store={tmp_path}", "--markdown", f"{tmp_path}/study.md"]
    for command, arguments in ((report.main, [store.url]), (study.main, markdown)):
        assert command(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "study.json is damaged, or of another version" in line


def test_the_page_is_written_next_to_study_json(tmp_path: Path, page: str) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(NotFound):
        write_study_report(store)
    write_study(store, STUDY)
    assert Path(write_study_report(store)).read_text() == page

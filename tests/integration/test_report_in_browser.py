"""The report in a real browser: plots are drawn, examples filter, nothing is fetched, and it fits a phone.

Needs Chromium; without one it is skipped, except in continuous integration (`CI=true`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rft_ray.report.write import write_report, write_study_report
from rft_ray.store import open_store
from rft_ray.study.result import write_study
from tests.report_run import make_run
from tests.study_result import STUDY
from tests.unit.report.test_report import hostile_writer

PLOTS = ("accuracy", "gain", "verdict", "path", "overlap", "difficulty", "length", "loss", "time")


@dataclass
class Opened:
    """A report in a browser page, with the errors and requests since it was opened."""

    page: Any
    wrong: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    return Path(write_report(make_run(folder)[1]))


def opened(browser: Any, report: Path, width: int = 1100, scheme: str = "light") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opening = Opened(context.new_page())
    opening.page.on("console", lambda message: opening.wrong.append(message.text))
    opening.page.on("pageerror", lambda error: opening.wrong.append(str(error)))
    opening.page.on("dialog", lambda dialog: (opening.wrong.append(dialog.message), dialog.dismiss()))
    opening.page.on("request", lambda request: opening.fetched.append(request.url))
    opening.page.goto(report.as_uri())
    return opening


@pytest.mark.parametrize("width", [1100, 360])
def test_every_plot_is_drawn_and_the_page_is_as_wide_as_the_screen(browser: Any, report: Path, width: int) -> None:
    opening = opened(browser, report, width)
    for name in PLOTS:
        plot = opening.page.locator(f"#{name}-chart .plot")
        marks = plot.locator("svg:visible .role-mark [aria-label]")
        assert marks.count() > 0, name
        box = plot.locator("svg:visible").bounding_box()
        assert box["height"] > 50, name
        assert box["width"] <= width, name
        assert len(plot.get_attribute("aria-label")) > 20, name
        assert opening.page.locator(f"#{name}-chart table caption").count() == 1, name
    assert opening.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opening.page.locator("figure").count() == len(PLOTS)
    assert opening.wrong == []
    assert opening.fetched == [report.as_uri()]


def test_examples_filter(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    visible = page.locator("details.problem:visible")
    assert visible.count() == 20  # one page of them
    page.get_by_role("button", name="Show 20 more").click()
    assert visible.count() == 40
    page.get_by_role("combobox", name="Solved").select_option("always")
    always = visible.count()
    assert 0 < always < 20
    page.get_by_role("combobox", name="Solved").select_option("sometimes")
    assert visible.count() == 20
    page.get_by_role("combobox", name="Rejected for").select_option("bad_equation")
    assert set(visible.evaluate_all("all => all.map((sample) => sample.dataset.reasons.includes('bad_equation'))")) == {
        True
    }
    question = visible.first.locator(".question").inner_text()
    page.get_by_role("searchbox").fill(question.upper())
    assert visible.count() == 1
    assert page.locator("#shown").inner_text() == "1 of 1 matching examples shown"
    page.get_by_role("searchbox").fill("no such words")
    assert visible.count() == 0


def test_an_example_opens_by_keyboard_and_shows_why_a_sample_was_rejected(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    page.get_by_role("combobox", name="Rejected for").select_option("bad_equation")
    example = page.locator("details.problem:visible").first
    example.locator("summary").focus()
    page.keyboard.press("Enter")
    assert example.locator(".rejected:visible mark", has_text="<<2+2=5>>").count() > 0
    assert "2+2=5: does not hold" in example.locator(".rejected").first.inner_text()


def test_pointing_at_a_mark_shows_its_value(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    mark = page.locator("#accuracy-chart svg:visible .role-mark [aria-label]").first
    mark.hover()
    assert page.locator("#tip").inner_text() == mark.get_attribute("aria-label")


def test_dark_mode_changes_page_and_plots(browser: Any, report: Path) -> None:
    def colours(scheme: str) -> list[str]:
        page = opened(browser, report, scheme=scheme).page
        mark = "#time-chart svg:not(.narrow) .role-mark path[aria-label]"
        return [
            page.evaluate("getComputedStyle(document.body).backgroundColor"),
            page.evaluate(f"getComputedStyle(document.querySelector({mark!r})).fill"),
        ]

    light, dark = colours("light"), colours("dark")
    assert light[0] == "rgb(255, 255, 255)"
    assert all(before != after for before, after in zip(light, dark, strict=True))


def test_a_page_in_dark_mode_is_printed_on_white(browser: Any, report: Path) -> None:
    page = opened(browser, report, scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


def test_the_studys_page_is_drawn_on_a_phone(browser: Any, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_study(store, STUDY)
    opening = opened(browser, Path(write_study_report(store)), 360)
    figures = opening.page.locator("figure")
    assert figures.count() > 8
    for figure in figures.all():
        assert figure.locator("svg:visible .role-mark [aria-label]").count() > 0
    assert opening.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert opening.wrong == []


def test_hostile_texts_run_nothing_and_fetch_nothing(browser: Any, tmp_path: Path) -> None:
    report = Path(write_report(make_run(tmp_path, hostile_writer, ("a",))[1]))
    opening = opened(browser, report, 360)
    opening.page.evaluate(
        "[...document.querySelectorAll('details')].slice(0, 30).forEach((details) => { details.open = true; })"
    )
    assert opening.page.locator("h1").count() == 1
    assert opening.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert opening.wrong == []
    assert opening.fetched == [report.as_uri()]

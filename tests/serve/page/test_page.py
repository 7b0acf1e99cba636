"""The page in a headless browser with scripted engines: solve, watch, compare; no model output is executed.

Needs Chromium; without one it is skipped, except in continuous integration (`CI=true`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from serve.access.api_keys import Keys, load_keys
from serve.api.schemas import Event, SolveRequest
from serve.scripted import ScriptedServer, arithmetic
from tests.serve.scripted_service import KEY, Running, serving

QUESTION = "Tom has 3 pens and 5 pencils and 8 books. How many things?"
TWICE = "He has 2*4 = <<2*4=8>>8 pens, 13+4 = <<3+4=7>>7.5 and 10 = <<9+1=10>>100.\n#### 8"
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script> 2*4 = <<2*4=8>>8 <b>#### 8'

pytestmark = pytest.mark.timeout(120)


def script(question: str, index: int) -> tuple[str, str]:
    if question == "disputed":
        return f"#### {90 - index}", "stop"
    fixed = {"hostile": HOSTILE, "twice": TWICE}.get(question)
    return (fixed, "stop") if fixed else arithmetic(question, index)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    engines: dict[str, ScriptedServer] = {
        name: Concurrent(name, script, token_s=0.01) for name in ("tiny-sft", "tiny-rft", "tiny-base")
    }
    yield from serving(engines, Keys())


class Page:
    """An open page, its console messages and its requests."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.tab = self.context.new_page()
        self.console: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.console.append(message.text))
        self.tab.on("pageerror", lambda error: self.console.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(url)

    def ask(self, question: str, k: int = 12, other: str | None = None) -> None:
        self.tab.fill("#question", question)
        self.tab.locator("#k").fill(str(k))
        if other:
            self.tab.select_option("#other", other)
        self.tab.click("#go")

    def finished(self, runs: int = 1) -> None:
        for number in range(runs):
            self.tab.locator(".run.final").nth(number).wait_for()


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Page]:
    opened = Page(browser, running.url)
    opened.tab.locator("#model option").first.wait_for(state="attached")
    yield opened
    assert opened.console == []
    assert all(url.startswith(running.url) for url in opened.requests)
    opened.context.close()


def test_asking_shows_paths_votes_and_the_answer_as_the_service_gives_them(page: Page, running: Running) -> None:
    page.ask(QUESTION)
    page.tab.locator(".path.writing").first.wait_for()
    page.finished()
    with running.client as client:
        solved = client.post("/solve", json={"question": QUESTION, "k": 12}).json()
    assert page.tab.locator(".answer").inner_text() == solved["answer"]
    bars = page.tab.locator(".votes li")
    assert bars.evaluate_all("bars => bars.map(bar => bar.textContent)") == [
        f"{vote['answer']}{vote['count']}" for vote in solved["votes"]
    ]
    assert page.tab.locator(".path.winner").count() == solved["distinct_paths"]
    silent = solved["undecided"] + solved["no_answer"] + solved["truncated"]
    assert page.tab.locator(".path.no-vote").count() == silent
    assert page.tab.locator(".writing").count() == 0
    marks = page.tab.locator(".winner .equation")
    assert marks.count() >= 2
    assert page.tab.locator(".confidence").inner_text().startswith(f"{int(100 * solved['confidence'] + 0.5)} % ")


def test_of_many_answers_eight_have_a_bar_and_the_others_are_counted_once(page: Page) -> None:
    page.tab.locator("#early").uncheck()
    page.ask("disputed")
    page.finished()
    assert page.tab.locator(".votes .label").all_inner_texts() == [str(79 + place) for place in range(8)]
    assert page.tab.locator(".not-voting").inner_text() == "4 for other answers"


def test_wrong_equations_are_marked_on_screen_and_for_screen_readers(page: Page) -> None:
    page.tab.locator("#early").uncheck()
    page.ask(QUESTION, k=40)
    page.finished()
    wrong = page.tab.locator(".equation.wrong").first.text_content()
    assert "✗" in wrong
    assert "(wrong)" in wrong
    assert "the answer is" in page.tab.locator("[aria-live=polite]").text_content()
    assert page.tab.locator(".times", has_text="×").count() > 0


def test_two_models_answer_side_by_side(page: Page) -> None:
    page.ask(QUESTION, other="tiny-rft")
    page.finished(2)
    boxes = [page.tab.locator(".run").nth(number).bounding_box() for number in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert page.tab.locator(".run h2").all_inner_texts() == ["tiny-sft", "tiny-rft"]


class Concurrent(ScriptedServer):
    """An engine that records how many engines of the page's models work at the same time."""

    working, most = 0, 0

    async def solve(self, asked: SolveRequest) -> AsyncGenerator[Event, None]:
        Concurrent.working += 1
        Concurrent.most = max(Concurrent.most, Concurrent.working)
        try:
            async with aclosing(super().solve(asked)) as events:
                async for event in events:
                    yield event
        finally:
            Concurrent.working -= 1


def test_three_models_on_shared_cpus_are_compared_one_after_another(page: Page) -> None:
    Concurrent.most = 0
    page.ask(QUESTION, other="*")
    page.finished(3)
    assert Concurrent.most == 1
    assert page.tab.locator(".run h2").all_inner_texts() == ["tiny-sft", "tiny-rft", "tiny-base"]
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= page.tab.evaluate("innerWidth")


def test_a_models_output_stays_text(page: Page) -> None:
    title = page.tab.title()
    page.ask("hostile")
    page.finished()
    assert page.tab.locator(".path img, .path script, .path b").count() == 0
    assert "<img src=x" in page.tab.locator(".path").first.inner_text()
    assert page.tab.title() == title


def test_only_text_that_repeats_a_mark_exactly_is_left_out(page: Page) -> None:
    page.ask("twice")
    page.finished()
    text = page.tab.locator(".path .text").first.text_content().replace("\u00a0✓ (right)", "✓").replace("\u00a0", " ")
    # what is written around <<3+4=7>> is an equation of its own, and wrong
    assert text == "He has 2*4=8✓ pens, 13+4=7.5 ✗ (wrong) and 10 = 9+1=10✓100.\n8"


def test_the_page_works_by_keyboard_and_escape_cancels_the_samples(page: Page, running: Running) -> None:
    engine = running.engines["tiny-sft"]
    engine.token_s = 0.3
    try:
        page.tab.fill("#question", QUESTION)
        page.tab.keyboard.press("Control+Enter")
        page.tab.locator(".path.writing").first.wait_for()
        assert engine.running > 0
        page.tab.keyboard.press("Escape")
        page.tab.get_by_text("Stopped by you").wait_for()
        for _ in range(100):
            if engine.running == 0:
                break
            page.tab.wait_for_timeout(20)
        assert engine.running == 0
    finally:
        engine.token_s = 0.01


def test_the_shown_commands_send_the_values_of_the_form(page: Page) -> None:
    page.ask("What's 3 + 4?", k=5)
    page.finished()
    assert '"k":5' in page.tab.locator("#code").inner_text()
    assert "What'\\''s 3 + 4?" in page.tab.locator("#code").inner_text()
    page.tab.locator("#tab-curl").press("ArrowRight")
    assert "n=5" in page.tab.locator("#code").inner_text()
    assert "from openai import OpenAI" in page.tab.locator("#code").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(browser: Any, running: Running, scheme: str) -> None:
    phone = Page(browser, running.url, viewport={"width": 360, "height": 700}, color_scheme=scheme, has_touch=True)
    phone.ask(QUESTION + " " + "x" * 300, other="tiny-rft")
    phone.finished(2)
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 360
    ground = phone.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").partition(",")[0])
    assert (red < 60) == (scheme == "dark")
    small = phone.tab.locator("button:visible, select:visible").evaluate_all(
        "all => all.filter(control => control.getBoundingClientRect().height < 30).length"
    )
    assert small == 0
    assert phone.console == []
    phone.context.close()


def test_every_control_has_a_name(page: Page) -> None:
    page.ask(QUESTION)
    page.finished()
    unnamed = page.tab.locator("button, select, textarea, input, progress").evaluate_all(
        "all => all.filter(e => !e.textContent.trim() && !e.labels?.length && !e.ariaLabel).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_the_api_page_works_without_any_other_host(page: Page, running: Running) -> None:
    page.tab.goto(f"{running.url}/docs")
    assert page.tab.locator("h2", has_text="POST /solve").is_visible()
    assert page.tab.locator("script").count() == 0
    assert (
        page.tab.evaluate("getComputedStyle(document.querySelector('th')).textAlign") == "left"
    )  # its style is loaded


def test_a_question_of_spaces_is_answered_with_a_message(page: Page) -> None:
    page.ask("   ")
    page.tab.locator("#problem", has_text="Write a word problem").wait_for()
    assert page.tab.locator(".run").count() == 0
    page.ask(QUESTION)
    page.finished()
    assert page.tab.locator("#problem").is_hidden()


def test_a_wrong_keys_error_stays_on_screen(browser: Any) -> None:
    engines = {"tiny-rft": ScriptedServer("tiny-rft")}
    for running in serving(engines, load_keys(None, {"RFT_API_KEYS": KEY})):
        opened = Page(browser, running.url)
        opened.tab.locator("#key").wait_for()
        opened.tab.fill("#key", "a-wrong-key-of-the-tests")
        error = opened.tab.locator("#problem", has_text="a valid API key is needed")
        for _ in range(2):
            opened.tab.click("#go")
            error.wait_for()
            opened.tab.wait_for_timeout(300)
            assert error.is_visible()
        opened.tab.fill("#key", KEY)
        opened.tab.keyboard.press("Tab")
        error.wait_for(state="hidden")
        opened.ask(QUESTION)
        opened.finished()
        opened.context.close()


def test_the_key_is_asked_for_and_kept_in_the_tab_only(browser: Any) -> None:
    engines = {"tiny-rft": ScriptedServer("tiny-rft")}
    for running in serving(engines, load_keys(None, {"RFT_API_KEYS": KEY})):
        opened = Page(browser, running.url)
        opened.tab.locator("#key").wait_for()
        opened.tab.fill("#key", KEY)
        opened.tab.keyboard.press("Tab")
        opened.tab.locator("#model option").first.wait_for(state="attached")
        opened.ask(QUESTION)
        opened.finished()
        assert KEY not in opened.tab.content()
        assert "RFT_API_KEY" in opened.tab.locator("#code").inner_text()
        assert opened.tab.evaluate("localStorage.length + document.cookie.length") == 0
        assert KEY not in " ".join(opened.requests)
        opened.context.close()

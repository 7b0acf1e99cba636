"""Pictures of reports for README and docs, taken by headless Chromium.

    python docs/picture.py runs/demo/report.html docs/report.png
    python docs/picture.py runs/study/study.html docs/study.png sft-loss-chart rft-paths-chart

Input: a report. Output: a PNG of the page from its headline to the chart of gains, or of the figures named.
Needs Chromium and the `dev` extra.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 880, 1790
ONLY = """figures => {
    const shown = figures.map(id => document.getElementById(id));
    const parent = shown[0].parentElement;
    parent.replaceChildren(...shown);
    const main = document.querySelector('main');
    main.replaceChildren(parent);
    main.style.padding = '0 24px 16px';
    document.querySelectorAll('body > :not(main), details').forEach(element => element.remove());
}"""


def first_screen(page: Page, picture: str) -> None:
    box = page.locator("#gain-chart .plot").bounding_box()
    if box is None:
        sys.exit("the report has no chart of gains: finish the run first, or name the figures to show")
    height = box["y"] + box["height"] + 8
    page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})


def main(report: str, picture: str, *figures: str) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", device_scale_factor=1.5, bypass_csp=True
        )
        page.goto(Path(report).resolve().as_uri())
        if figures:
            page.evaluate(ONLY, list(figures))
            page.locator("main").screenshot(path=picture)
        else:
            first_screen(page, picture)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

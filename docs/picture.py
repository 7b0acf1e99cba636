"""The picture at the top of README: the first screen of a run's report, taken by headless Chromium.

    python docs/picture.py runs/demo/report.html docs/report.png

Input: a report. Output: a PNG from its headline to its chart of gains. Needs Chromium and the `dev` extra.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 880, 1600


def main(report: str, picture: str) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", device_scale_factor=1.5
        )
        page.goto(Path(report).resolve().as_uri())
        box = page.locator("#gain-chart .plot").bounding_box()
        if box is None:
            sys.exit(f"{report} has no chart of gains: the run is not finished")
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 8})
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

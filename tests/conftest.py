"""Settings that Ray reads once, at its import; seconds and counts of each tier of tests; and the browser."""

import os
import secrets
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray replaces 127.0.0.1 by the machine's external address
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job, and all that tests start, ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def tier_of(nodeid: str) -> str:
    """`tests/unit/store/test_names.py::test_x` -> `unit`."""
    return Path(nodeid.partition("::")[0]).parts[1]


class TierDurations:
    """Adds up the time of each tier, set-up and tear-down included, and prints it before pytest's summary line."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._tests: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tier = tier_of(report.nodeid)
        self._seconds[tier] += report.duration  # type: ignore[assignment]
        self._tests.setdefault(tier, set()).add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("durations of the tiers")
        for tier, tests in self._tests.items():
            terminalreporter.write_line(f"{tier:<12} {len(tests):>5} tests {self._seconds[tier]:>8.1f} s")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(TierDurations(), "tier-durations")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; a test that needs it is skipped without one, and fails in continuous integration."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        message = f"none of these browsers is installed: {', '.join(BROWSERS)}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield launched
        launched.close()

"""A real browser for the tests of this folder: Debian's Chromium, driven by Playwright. `make browser` runs them.

Where Chromium or Playwright is missing, they are skipped and say what to install. Pictures of what a reader sees are written to
runs/browser/.
"""

import shutil
from pathlib import Path

import pytest

from tests.browser.watched import Watched

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "runs" / "browser"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 60_000  # ms that one action may take, on a computer with other work


@pytest.fixture(scope="session")
def chromium():
    """The browser of all tests."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, none of {', '.join(NAMES)} is on the path: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make setup")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def watched(chromium, request):
    """An empty tab; what goes wrong in it is collected, what it shows is written to runs/browser/."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(WAIT)
    yield Watched(page, PICTURES, request.module.__name__.rpartition(".")[2].removeprefix("test_"))
    page.close()


@pytest.fixture(autouse=True)
def _nothing_went_wrong(watched):
    """No error in the console, no exception and no answer with an error, in any test."""
    yield
    faults, watched.faults = watched.faults, []
    assert faults == []

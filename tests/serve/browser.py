"""A real Chromium with a page that tells what must not happen: errors on its console, and requests that leave the service.

Chromium is Debian's package, which ``.ci/run`` installs; Playwright only drives it and downloads none of its own.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

SCREENSHOTS: Final = Path(__file__).parents[2] / "build" / "screenshots"
ANSWER_MS: Final = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where none is installed."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("There is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # CI is root in a container
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody at the page.

    Attributes:
        errors: what the console and uncaught exceptions said.
        foreign: addresses outside the service that were asked.
    """

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(ANSWER_MS)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: None if request.url.startswith(self.url) else self.foreign.append(request.url))

    def arrive(self, fragment: str = "") -> None:
        """Open the page and wait until the map is there."""
        self.page.goto(self.url + fragment)
        self.wait("document.getElementById('map-note').textContent !== ''")

    def wait(self, expression: str) -> None:
        """Until a JavaScript expression is true. Playwright's own wait evaluates text inside the page, which the page's policy forbids."""
        deadline = time.monotonic() + ANSWER_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"Not true in {ANSWER_MS} ms: {expression}"
            time.sleep(0.03)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> str:
        """The accessible name, or text, of what has the focus."""
        return self.page.evaluate("(e => e.getAttribute('aria-label') ?? e.title ?? e.textContent)(document.activeElement)")

    def history(self) -> list[str]:
        return self.page.locator("#history .title").all_text_contents()

    def pick(self, typed: str, title: str) -> None:
        """Find an item and click it in the list."""
        self.page.fill("#search", typed)
        self.page.locator("#found li", has_text=title).first.click()
        self.wait_for_answers()

    def wait_for_answers(self) -> None:
        """Until every shown decoder has answered."""
        self.wait("[...document.querySelectorAll('.column')].every(c => !c.hasAttribute('aria-busy') && c.querySelector('tr[data-item]'))")

    def listed(self, decoder: str) -> list[str]:
        """Ids that a decoder's column shows, in its order."""
        rows = self.page.locator(f".column[data-decoder={decoder}] tr[data-item]")
        return rows.evaluate_all("rows => rows.map(row => row.dataset.item)")

    def violations(self) -> list[str]:
        """What axe-core has against the page."""
        found = Axe().run(self.page).response
        assert len(found["passes"]) > 20
        return [f"{fault['id']}: {node['target']} {node['failureSummary']}" for fault in found["violations"] for node in fault["nodes"]]

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@contextmanager
def visitor(browser: Browser, url: str, **options: Any) -> Iterator[Visitor]:
    """Somebody with a browser of their own; options as Playwright's new_context takes them."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
    yield Visitor(context.new_page(), url)
    context.close()

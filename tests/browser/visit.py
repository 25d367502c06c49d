"""One person with a browser: what is on the screen, what the page complains of, whom it talks to."""

import re
from importlib.resources import files
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from tests.headend.pages.paper_browser import Page as Html
from tests.headend.pages.village import Site

__all__ = ["DESK", "PHONE", "Visits", "nameless", "violations"]

PHONE, DESK = (390, 844), (1280, 900)
# A refused form is an answer of ours; Chromium tells every such answer as an error of the page.
_ANSWERS = re.compile(r"Failed to load resource: the server responded with a status of (403|422|429|503)")
_NAMELESS = re.compile(r"^\s*- (?:button|textbox|searchbox|link|checkbox|combobox|img)(?! \")", re.MULTILINE)
_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Visits:
    def __init__(self, browser: Browser, site: Site) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.site = site
        self.complaints: list[str] = []
        self.foreign: list[str] = []

    def open(self, size: tuple[int, int] = DESK, *, lang: str = "en", script: bool = True, dark: bool = False) -> Page:
        """A person's own browser, without cookies."""
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=script,
            color_scheme="dark" if dark else "light",
            locale="en-GB" if lang == "en" else "zh-CN",
            base_url=self.site.url,
        )
        self._contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", self._complained)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)
        return page

    def sign_in(self, page: Page, token: str, place: str = "") -> None:
        page.goto("/sign-in")
        page.fill("#token", token)
        page.press("#token", "Enter")
        page.wait_for_url(re.compile(r"/(my|counter)$"))
        if place:
            page.goto(place)

    def enter(self, page: Page, token: str, place: str) -> None:
        """The same without typing. place: where to go then."""
        http = page.context.request
        form = Html(http.get("/sign-in").text()).fields
        http.post("/sign-in", form={**form, "token": token}, max_redirects=0)
        page.goto(place)

    def end(self) -> None:
        for context in self._contexts:
            context.close()
        assert self.complaints == []
        assert self.foreign == []

    def _complained(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _ANSWERS.match(message.text):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).scheme != "data" and not request.url.startswith(f"{self.site.url}/"):
            self.foreign.append(request.url)


def nameless(page: Page) -> list[str]:
    """Controls that a screen reader cannot call by any name."""
    return _NAMELESS.findall(page.locator("body").aria_snapshot())


def violations(page: Page) -> list[str]:
    """What axe-core finds, contrast included."""
    page.evaluate(_AXE)
    found = page.evaluate("rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", _RULES)
    return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]

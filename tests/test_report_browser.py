"""The HTML pages in a real browser: silent, without a network, by keyboard, in both themes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest

from initium._report.html import render_html
from initium._report.story import Panel, render_story

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    starts: tuple[fakes.Start, ...] = ("zeros", "exploding", "vanishing", "healthy")
    texts = {
        "vanishing": render_html(fakes.mlp(20, "vanishing")),
        "thousand": render_html(fakes.mlp(500, "exploding")),
        "hostile": render_html(fakes.hostile()),
        "empty": render_html(fakes.empty()),
        "story": render_story([Panel(s, f"About {s}.", fakes.mlp(10, s), "g") for s in starts]),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8", "backslashreplace")
    return {name: folder / f"{name}.html" for name in texts}


class Tab:
    """A page with what it complained of and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.page.evaluate("document.activeElement.id"))


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    tabs: list[Tab] = []

    def open_tab(path: Path, **context: Any) -> Tab:
        tabs.append(Tab(browser, path, **context))
        return tabs[-1]

    yield open_tab
    for item in tabs:
        item.context.close()


@pytest.mark.parametrize("name", ["vanishing", "thousand", "hostile", "empty", "story"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_silent_alone_and_fit(
    tab: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    opened = tab(pages[name], viewport={"width": width, "height": 800})
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator("h1").is_visible()


def test_theme_follows_the_system_and_the_button(tab: Any, pages: dict[str, Path]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab(pages["vanishing"], color_scheme="light").page
    dark = tab(pages["vanishing"], color_scheme="dark").page
    at_first = light.evaluate(ground)
    assert at_first != dark.evaluate(ground)
    button = light.get_by_role("button", name="Switch to the dark theme")
    button.press("Enter")
    assert light.evaluate(ground) == dark.evaluate(ground)
    light.reload()
    assert light.evaluate(ground) == dark.evaluate(ground)
    light.get_by_role("button", name="Switch to the light theme").click()
    assert light.evaluate(ground) == at_first


def test_skip_link_comes_first(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["vanishing"])
    opened.page.keyboard.press("Tab")
    link = opened.page.get_by_role("link", name="Skip to the verdict")
    assert link.evaluate("link => link === document.activeElement")
    opened.page.keyboard.press("Enter")
    assert opened.focused() == "main"


def test_findings_lead_to_their_rows_and_back_by_keyboard(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["vanishing"])
    page = opened.page
    page.locator("#finding-0").get_by_role("link", name="layers.38").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#layer-38")).to_be_focused()
    playwright.expect(page.locator("#layer-38")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#finding-0")).to_be_focused()
    assert opened.complaints == []


def test_filter_narrows_and_a_link_undoes_it(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["thousand"]).page
    tools = page.locator("[data-tools=layers]")
    rows = page.locator("#layers tbody tr:visible")
    tools.get_by_role("searchbox").fill("layers.99 relu")
    assert tools.locator("output").text_content() == "6 of 1,000 layers"
    assert rows.count() == 6
    tools.get_by_role("searchbox").fill("")
    tools.get_by_role("checkbox").check()
    assert tools.locator("output").text_content() == "2 of 1,000 layers"
    tools.get_by_role("searchbox").fill("nothing is called this")
    assert rows.count() == 0
    page.locator("#finding-0").get_by_role("link", name="layers.998").click()
    playwright.expect(page.locator("#layer-998")).to_be_focused()
    assert rows.count() == 1000


def test_columns_sort_by_number_with_unknown_last(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["hostile"]).page
    head = page.locator("#layers th", has_text="E[x²]")
    cells = page.locator("#layers tbody tr td:nth-child(5)")
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert cells.all_text_contents() == ["0", "0", "1", "1", "inf", "inf", "nan", "nan"]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert cells.all_text_contents() == ["inf", "inf", "1", "1", "0", "0", "nan", "nan"]


def test_chart_reads_out_its_layers_by_keyboard_and_pointer(
    tab: Any, pages: dict[str, Path]
) -> None:
    page = tab(pages["vanishing"]).page
    chart = page.get_by_role("slider", name="Layer, from input to output")
    readout = page.locator("[data-readout]")
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "layers.0" in readout.text_content()
    page.keyboard.press("End")
    assert "layers.39" in readout.text_content()
    assert "layers.39" in chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    assert "layers.38" in readout.text_content()
    page.locator(".area").first.hover(position={"x": 3, "y": 50})
    assert "layers.0" in readout.text_content()
    chart.focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#layer-0")).to_be_focused()


def test_story_panels_lead_to_their_findings(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["story"])
    page = opened.page
    page.get_by_role("link", name="See what was found: 1 error, 1 note of zeros").press("Enter")
    playwright.expect(page.locator("#p0-result")).to_be_focused()
    page.locator("#p0-result").get_by_role("link", name="layers.2.weight").press("Enter")
    playwright.expect(page.locator("#p0-parameter-1")).to_be_focused()
    assert page.locator("#p0-parameter-1").is_visible()
    assert opened.complaints == []


def test_verdict_is_there_without_scripts(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["vanishing"], java_script_enabled=False).page
    assert page.locator("h1").text_content() == "Not fit to train"
    assert page.locator("path.curve").count() == 3
    assert page.locator("#theme").is_hidden()

"""The HTML pages in a real browser: silent, without a network, by keyboard, in both themes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch

import initium
from initium._report.comparison import compare_reports
from initium._report.comparison_page import render_comparison
from initium._report.html import render_html
from initium._report.prediction import render_prediction
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
        "gpt": render_html(fakes.gpt(12, scaled=False)),
        "comparison": render_comparison(
            compare_reports(fakes.mlp(20, "vanishing"), fakes.mlp(20, "healthy"))
        ),
        "hostile-comparison": render_comparison(
            compare_reports(fakes.hostile(), replace(fakes.hostile(), findings=()))
        ),
        "story": render_story([Panel(s, f"About {s}.", fakes.mlp(10, s), "g") for s in starts]),
    }
    net = torch.nn.Sequential(*(layer() for _ in range(4) for layer in (_linear, torch.nn.Tanh)))
    inputs = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(net, "he", inputs)
    found = replace(initium.predict(net, plan, inputs, draws=3), problem="x" * 300)
    texts["prediction"] = render_prediction(found, initium.model_edges(net, plan, inputs))
    texts["beside"] = render_html(initium.check(net, inputs, prediction=found))
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8", "backslashreplace")
    return {name: folder / f"{name}.html" for name in texts}


def _linear() -> torch.nn.Module:
    return torch.nn.Linear(32, 32)


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


NAMES = (
    *("vanishing", "thousand", "hostile", "empty", "story"),
    *("gpt", "comparison", "hostile-comparison", "prediction", "beside"),
)


@pytest.mark.parametrize("name", NAMES)
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
    page.locator("#layer-38").get_by_role("link", name="IN201").focus()
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
    assert cells.all_text_contents() == ["0", "0", "1", "1", *["inf"] * 3, *["nan"] * 3]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert cells.all_text_contents() == [*["inf"] * 3, "1", "1", "0", "0", *["nan"] * 3]


def test_chart_reads_out_its_layers_by_keyboard_and_pointer(
    tab: Any, pages: dict[str, Path]
) -> None:
    page = tab(pages["vanishing"]).page
    chart = page.get_by_role("slider", name="Layer, from input to output")
    readout = page.locator("#curves [data-readout]")
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


# the drill-down


def test_a_parameter_opens_by_click_and_by_keyboard(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["vanishing"])
    page = opened.page
    row = page.locator("#parameter-3")
    button = row.get_by_role("button", name="layers.6.weight")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    panel = page.get_by_role("group", name="Details of layers.6.weight")
    picture = panel.get_by_role("img")
    assert "values from -0.4 to 0.4, beside the planned density" in picture.get_attribute(
        "aria-label"
    )
    assert panel.locator("path.law").count() == panel.locator("path.bars").count() == 1
    assert "normal(0.1)" in panel.text_content()
    assert "He et al. 2015" in panel.text_content()
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "false"
    assert panel.count() == 0
    assert opened.complaints == []


def test_enter_opens_the_row_that_a_finding_leads_to(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["vanishing"]).page
    page.locator("#finding-0").get_by_role("link", name="layers.0.weight").press("Enter")
    playwright.expect(page.locator("#parameter-0")).to_be_focused()
    page.keyboard.press("Enter")
    panel = page.get_by_role("group", name="Details of layers.0.weight")
    playwright.expect(panel).to_be_visible()


def test_open_rows_close_when_the_table_is_sorted_or_filtered(
    tab: Any, pages: dict[str, Path]
) -> None:
    page = tab(pages["vanishing"]).page
    page.locator("#parameter-3 .open").click()
    page.locator("#parameters thead button", has_text="Std").last.click()
    assert page.locator("tr.detail").count() == 0
    page.locator("#parameter-3 .open").click()
    tools = page.locator("[data-tools=parameters]")
    tools.get_by_role("searchbox").fill("layers.0")
    assert page.locator("tr.detail").count() == 0


def test_hostile_texts_stay_text_when_opened(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["hostile"])
    for at in range(10):
        opened.page.locator(f"#parameter-{at} .open").press("Enter")
    assert opened.page.locator("tr.detail").count() == 10
    assert "<script>alert(7)" in opened.page.locator("tr.detail").first.text_content()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.complaints == []


def test_a_table_is_one_stop_that_arrow_keys_walk(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["thousand"]).page
    focused = "document.activeElement.textContent"
    stops = "table => table.querySelectorAll('tbody [tabindex=\"0\"]').length"
    assert page.locator("#parameters").evaluate(stops) == 2  # the name, and its finding
    page.locator("#parameter-0 .open").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "layers.2.weight"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "layers.998.weight"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "IN202"
    tools = page.locator("[data-tools=parameters]")
    tools.get_by_role("searchbox").fill("layers.500.")
    stop = page.locator("#parameters tbody [tabindex='0']")
    assert stop.all_text_contents() == ["layers.500.weight"]


def test_a_layer_leads_to_its_matrix(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["gpt"]).page
    page.locator("#layer-3 .open").press("Enter")
    panel = page.get_by_role("group", name="Details of h.0.attn.c_attn")
    panel.get_by_role("link", name="h.0.attn.c_attn.weight").press("Enter")
    playwright.expect(page.locator("tr:focus th")).to_have_text("h.0.attn.c_attn.weight")


# the map


def test_a_finding_shows_its_places_on_the_map_and_in_the_curves(
    tab: Any, pages: dict[str, Path]
) -> None:
    page = tab(pages["gpt"]).page
    finding = page.locator("#finding-0")
    finding.get_by_role("link", name="Show on the map").press("Enter")
    lit = page.locator(".cell.lit")
    assert [cell.get_attribute("title") for cell in lit.all()] == [
        "h.0.attn.c_proj: warning",
        "h.0.mlp.c_proj: warning",
    ]
    playwright.expect(lit.first).to_be_focused()
    assert "h.0.attn.c_proj" in page.locator("#map [data-readout]").text_content()
    page.keyboard.press("Escape")
    assert lit.count() == 0
    finding.get_by_role("link", name="Show in the curves").press("Enter")
    assert page.locator("#curves").evaluate("box => box === document.activeElement")
    assert "h.0" in page.locator("#curves [data-readout]").text_content()


def test_the_map_is_walked_with_the_arrow_keys(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["gpt"]).page
    focused = "document.activeElement.title"
    assert page.locator("#map .cell[tabindex='0']").count() == 1
    page.locator("#map .cell").first.focus()
    assert page.evaluate(focused) == "wte"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "wpe"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused).startswith("h.")
    page.keyboard.press("End")
    assert page.evaluate(focused) == "lm_head"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#layer-0")).to_be_focused()


def test_the_map_takes_the_colours_of_signal_and_gradient(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["gpt"]).page
    colour = "cell => getComputedStyle(cell).backgroundColor"
    cell = page.locator(".cell[title='h.5.ln_1']")
    seen = [cell.evaluate(colour)]
    for name in ("signal", "gradient"):
        page.get_by_role("radio", name=name).check()
        seen.append(cell.evaluate(colour))
    assert len(set(seen)) == 3
    legend = page.locator(".legend:visible")
    assert "second moment of the gradient" in legend.text_content()
    page.get_by_role("radio", name="gradient").press("ArrowLeft")
    assert "second moment E[x²]" in legend.text_content()


def test_attention_and_streams_read_out_and_lead_to_their_rows(
    tab: Any, pages: dict[str, Path]
) -> None:
    page = tab(pages["gpt"]).page
    attention = page.get_by_role("slider", name="Attention, from input to output")
    attention.press("End")
    assert "h.11.attn, entropy 0.97" in attention.get_attribute("aria-valuetext")
    branches = page.get_by_role("slider", name="Branch, from input to output")
    branches.press("Home")
    branches.press("Enter")
    playwright.expect(page.locator("tr:focus th")).to_have_text("h.0.attn.c_proj.weight")


# comparison, paper


def test_a_comparison_is_walked_like_a_report(tab: Any, pages: dict[str, Path]) -> None:
    opened = tab(pages["comparison"])
    page = opened.page
    assert page.locator("h1").text_content() == "Mended"
    chart = page.get_by_role("slider")
    chart.press("End")
    chart.press("Enter")
    playwright.expect(page.locator("#layer-39")).to_be_focused()
    head = page.locator("#layers th", has_text="times").first
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert opened.complaints == []


def test_on_paper_the_tables_are_whole_and_the_tools_gone(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["gpt"]).page
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    assert not page.locator(".tools").first.is_visible()
    cut = "box => box.scrollHeight > box.clientHeight + 1"
    assert not any(box.evaluate(cut) for box in page.locator(".scroll:visible").all())


def test_everything_that_can_be_reached_has_a_name(tab: Any, pages: dict[str, Path]) -> None:
    page = tab(pages["gpt"]).page
    nameless = page.evaluate("""() => [...document.querySelectorAll(
        'a[href], button, input, summary, [tabindex="0"]')].filter((item) => {
          const said = item.textContent + (item.title || '')
            + (item.getAttribute('aria-label') || '')
            + (item.labels ? [...item.labels].map((label) => label.textContent).join('') : '');
          return !said.trim();
        }).map((item) => item.outerHTML)""")
    assert nameless == []


def test_the_curves_of_a_prediction_lead_to_its_rows_by_keyboard(
    tab: Any, pages: dict[str, Path]
) -> None:
    opened = tab(pages["prediction"], color_scheme="dark")
    opened.page.locator("#depth .charts").focus()
    opened.page.keyboard.press("ArrowRight")
    told = opened.page.locator("#depth").inner_text()
    assert "Point at the curve" not in told
    assert "Linear" in told
    opened.page.keyboard.press("Enter")
    assert opened.page.url.rpartition("#")[2].startswith("layer-")
    assert opened.complaints == []

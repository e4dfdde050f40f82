"""How a report reads: the words, the terminal at 80 columns, strict JSON, whole and safe HTML."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initium._files import write_text
from initium._report import words
from initium._report.charts import Scale, curve, dots, marks, scale
from initium._report.depth import Gap, fold, through
from initium._report.html import render_html, render_notebook
from initium._report.records import LayerRecord, LossRecord, Report
from initium._report.story import Panel, render_story
from initium._report.terminal import render_report
from initium.errors import InitiumError, OutputError

REPORTS: dict[str, Callable[[], Report]] = {
    "three layers": lambda: fakes.mlp(3),
    "zeros": lambda: fakes.mlp(20, "zeros"),
    "vanishing": lambda: fakes.mlp(50, "vanishing"),
    "thousand layers": lambda: fakes.mlp(500, "exploding"),
    "gpt": lambda: fakes.gpt(12, scaled=False),
    "hostile": fakes.hostile,
    "empty": fakes.empty,
}


@pytest.fixture(params=REPORTS, scope="module")
def report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]()


# words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-0.25, "-0.25"),
        (0.02, "0.02"),
        (1234.5, "1234"),
        (12345.0, "1.2e4"),
        (1e-30, "1.0e-30"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert words.number(value) == text


def test_verdict_names_each_kind_of_error_once_and_where_it_starts() -> None:
    assert words.verdict(fakes.mlp(5)) == "fit to train"
    assert (
        words.verdict(fakes.mlp(5, "vanishing"))
        == "not fit to train: vanishing signal at layers.0.weight"
    )
    error = replace(fakes.mlp(5, "zeros").findings[0], title="first loss too high", where=("loss",))
    report = replace(fakes.mlp(5), findings=(error, error, replace(error, title="b"), error))
    assert words.verdict(report) == "not fit to train: first loss too high; b"
    assert words.caution(report) == ""


def test_a_fit_model_with_a_warning_says_so_above() -> None:
    warning = replace(fakes.mlp(5, "zeros").findings[0], severity="warning", title="t<i>")
    report = replace(fakes.mlp(5), findings=(warning,))
    assert words.caution(report).startswith("t<i>")
    page = render_html(report)
    assert "Fit to train" in page
    assert "Worth a look: t&lt;i&gt;" in page
    assert "Worth a look" not in render_html(fakes.mlp(5))


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (LossRecord(source="random cotangent"), "started from a random gradient at the output"),
        (LossRecord(source="own", value=math.nan), "(own) is not a finite number: nan"),
        (
            LossRecord(source="own", value=2.31, expected=2.303, classes=10),
            "the loss of a guess, as it should be",
        ),
        (LossRecord(source="own", value=110.0, expected=10.8, classes=50257), "10.2 times that"),
        (LossRecord(source="own", value=3.0, expected=2.303, classes=10), "0.697 above it"),
        (LossRecord(source="own", value=0.1, expected=2.303, classes=10), "lower than a guess"),
        (LossRecord(source="model", value=1.5), "The first loss is 1.500 (the model's own)."),
    ],
)
def test_loss_sentence(record: LossRecord, wanted: str) -> None:
    assert wanted in words.loss_sentence(record)


def test_a_name_keeps_its_case_at_the_start_of_a_sentence() -> None:
    assert words.sentence("each layer halves it") == "Each layer halves it"
    assert words.sentence("fc.weight is zero") == "fc.weight is zero"
    assert words.sentence("mix multiplies", ("mix", "")) == "mix multiplies"


def test_a_page_keeps_the_case_of_a_name_of_one_word() -> None:
    finding = replace(fakes.mlp(3, "exploding").findings[0], where=("mix",), message="mix is ten")
    page = render_html(replace(fakes.mlp(3), findings=(finding,)))
    assert "<p>mix is ten</p>" in page


def test_a_finding_at_the_root_says_so() -> None:
    finding = replace(fakes.mlp(3, "exploding").findings[0], where=("", "b"))
    assert "where (model), b" in render_report(replace(fakes.mlp(3), findings=(finding,)))


@given(st.text())
def test_plain_text_cannot_steer_a_terminal(text: str) -> None:
    controls = {char for char in words.plain(text) if unicodedata.category(char) in ("Cc", "Cs")}
    assert controls <= {"\n"}


# scales and paths


def test_scale_holds_its_values_and_keeps_small_differences_small() -> None:
    assert scale([0.9, 1.1]).high - scale([0.9, 1.1]).low >= 4
    wide = scale([1e-40, 1e12, None, 0.0, math.inf, math.nan])
    assert wide.low <= -40
    assert wide.high >= 12
    assert scale([]) == scale([1.0])


@given(st.lists(st.floats(1e-300, 1e300), min_size=1))
def test_every_value_lies_on_its_scale_in_order(values: list[float]) -> None:
    on = scale(values)
    places = [place for value in sorted(values) if (place := on.at(value)) is not None]
    assert len(places) == len(values)
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    assert 1 <= len(on.ticks()) <= 5
    assert all(0 <= tick.at <= 1 for tick in on.ticks())


def test_zero_lies_at_the_bottom_and_what_is_not_finite_at_the_top() -> None:
    on = Scale(-2, 2)
    assert (on.at(0.0), on.at(1.0), on.at(math.inf), on.at(math.nan)) == (0.0, 0.5, 1.0, 1.0)
    assert on.at(None) is None


def test_a_curve_breaks_where_nothing_was_measured() -> None:
    on, values = Scale(-2, 2), [1.0, 100.0, None, math.nan, 1.0]
    assert curve(values, on, range(5)) == "M100 50L300 0M900 50"
    assert dots(values, on, [0, 2]) == "M100 50h0"
    assert marks(values, range(5)) == (3,)


# which layers


def test_the_curve_follows_blocks_where_there_are_any() -> None:
    path = through(fakes.gpt(12).layers)
    assert path.blocks
    assert [path.layers[i].name for i in path.spine] == [f"h.{i}" for i in range(12)]
    assert "h.0.attn" not in {layer.name for layer in path.layers}
    assert "" not in {layer.name for layer in path.layers}


def test_the_curve_follows_matrices_otherwise() -> None:
    path = through(fakes.mlp(5).layers)
    assert not path.blocks
    assert {path.layers[i].module_type for i in path.spine} == {"Linear"}


def _layers(*names: str) -> dict[str, LayerRecord]:
    return {
        name: LayerRecord(
            name=name,
            module_type="M",
            order=order,
            calls=1,
            shape=(1,),
            mean=0.0,
            second_moment=1.0,
        )
        for order, name in enumerate(names)
    }


def test_stages_of_few_blocks_count_as_one_series_of_blocks() -> None:
    names = [
        name
        for stage in (1, 2, 3, 4)
        for block in (0, 1)
        for name in (f"layer{stage}.{block}.conv", f"layer{stage}.{block}", f"layer{stage}")
    ]
    path = through(_layers("stem", *dict.fromkeys(names), "fc"))
    spine = [path.layers[i].name for i in path.spine]
    assert spine == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


def test_a_model_of_one_module_has_a_path() -> None:
    path = through(_layers(""))
    assert [layer.name for layer in path.layers] == [""]
    assert path.spine == (0,)


@pytest.mark.parametrize("depth", [3, 13, 50, 500])
def test_a_folded_table_accounts_for_every_layer_of_a_sample(depth: int) -> None:
    path = through(fakes.mlp(depth, "vanishing").layers)
    rows, said = fold(path, 24)
    shown = [row for row in rows if isinstance(row, LayerRecord)]
    assert len(shown) <= 24
    if len(path.layers) > 24 and "sample" in said:
        hidden = [row.layers for row in rows if isinstance(row, Gap)]
        assert sum(hidden) + len(shown) == len(path.layers)
        assert min(hidden) > 1  # a line that hides one row could show it
    assert bool(said) == (len(path.layers) > 24)


def test_a_folded_table_keeps_the_extremes() -> None:
    layers = fakes.mlp(200).layers
    spike = "layers.277"
    layers = {**layers, spike: replace(layers[spike], second_moment=1e9)}
    rows, _ = fold(through(layers), 24)
    assert spike in {row.name for row in rows if isinstance(row, LayerRecord)}


# terminal


def _cells(line: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in line)
    return len(line) + wide


def test_terminal_fits_80_columns_without_colour_codes(report: Report) -> None:
    text = render_report(report, width=80)
    assert "\x1b" not in text
    assert max(_cells(line) for line in text.splitlines()) <= 80
    assert str(report) == text


def test_terminal_says_the_verdict_first(report: Report) -> None:
    head = " ".join(render_report(report, width=80).split("\n")[:4])
    assert ("not fit to train" in head) is not report.ok
    assert "fit to train" in head


def test_terminal_shows_each_finding_whole() -> None:
    report = fakes.mlp(50, "vanishing")
    flat = " ".join(render_report(report, width=80).split())
    for finding in report.findings:
        assert f"{finding.severity} {finding.code} {finding.title}" in flat
        assert finding.message in flat
        assert finding.fix in flat
        assert finding.where[0] in flat
    assert words.loss_sentence(report.loss) in flat


def test_terminal_has_a_row_per_layer_with_its_numbers() -> None:
    lines = render_report(fakes.mlp(3), width=80).splitlines()
    assert any("E[x²]" in line and "E[g²]" in line for line in lines)
    row = next(line for line in lines if line.startswith("layers.2 "))
    assert row.split()[:3] == ["layers.2", "Linear", "1.08"]


def test_terminal_says_what_a_long_table_leaves_out() -> None:
    text = render_report(fakes.mlp(500, "exploding"), width=80)
    assert "of 1,000 rows, the extremes among them" in text
    hidden = [int(number) for number in re.findall(r"⋮ (\d+) more", text)]
    assert sum(hidden) + text.count("\nlayers.") == 1000
    assert len(text.splitlines()) < 80
    assert "one row for each of 12 blocks" in render_report(fakes.gpt(12), width=80)


def test_terminal_keeps_both_ends_of_a_long_name() -> None:
    name = "model.language_model.layers.31.self_attn.indexer.k_norm"
    shown = render_report(replace(fakes.empty(), layers=_layers(name)), width=80)
    row = next(line for line in shown.splitlines() if line.startswith("model."))
    assert row.split()[0].endswith("indexer.k_norm")
    assert "…" in row
    assert name in render_report(replace(fakes.empty(), layers=_layers(name)), width=120)


def test_terminal_has_colour_only_when_asked() -> None:
    assert "\x1b[" in render_report(fakes.mlp(3), width=80, color=True)


# JSON


def test_json_is_strict_and_says_what_the_report_says(report: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(report.to_json(), parse_constant=refuse)
    assert data["ok"] is report.ok
    assert data["model"] == report.model
    assert list(data["layers"]) == list(report.layers)
    assert list(data["parameters"]) == list(report.parameters)
    assert [item["code"] for item in data["findings"]] == [item.code for item in report.findings]
    assert json.loads(json.dumps(data)) == data


def test_json_of_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = fakes.hostile().to_json(path)
    data = json.loads(path.read_text("utf-8"))
    assert data == json.loads(text)
    assert data["loss"]["value"] is None
    assert data["layers"][fakes.HOSTILE[1]]["second_moment"] is None


# HTML


class Page(HTMLParser):
    """What a browser would see: tags in balance, ids, links, texts, scripts."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if identity := values.get("id"):
            self.ids.append(identity)
        if target := values.get("href"):
            self.targets.append(target)
        if "src" in values:
            self.sources.append(str(values["src"]))
        self.handlers += [name for name in values if name.startswith("on")]
        if tag == "script":
            self.scripts.append((values.get("type"), ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.text.append(data)


def test_html_is_whole_and_alone(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.sources == []
    assert page.handlers == []
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)
    assert all(target.startswith("#") or target == "data:," for target in page.targets)
    assert "url(" not in text
    assert "@import" not in text


def test_html_is_light() -> None:
    assert len(render_html(fakes.mlp(3))) < 60_000
    assert len(render_html(fakes.mlp(500, "exploding"))) < 1_500_000


def test_html_says_what_the_report_says(report: Report) -> None:
    page = Page(render_html(report))
    said = " ".join(" ".join(page.text).split())
    assert ("Not fit to train" in said) is not report.ok
    for finding in report.findings:
        assert " ".join(words.sentence(finding.message).split()) in said
        assert words.sentence(finding.fix) in said
    for name in [*report.layers, *report.parameters]:
        assert words.plain(name) in said
    assert words.plain(words.loss_sentence(report.loss)) in said


def test_html_links_a_finding_to_its_rows_and_back() -> None:
    page = Page(render_html(fakes.mlp(3, "vanishing")))
    assert "#parameter-0" in page.targets
    assert "#layer-4" in page.targets
    assert "#finding-0" in page.targets


def test_hostile_names_stay_text() -> None:
    text = render_html(fakes.hostile())
    page = Page(text)
    assert "img" not in page.tags
    assert page.tags.count("b") == 0
    assert page.tags.count("i") == 4 + 3  # the bar of its one number format, and the map's legend
    assert [kind for kind, _ in page.scripts].count(None) == 1
    held = [json.loads(data) for kind, data in page.scripts if kind == "application/json"]
    assert len(held) == len(page.scripts) - 1
    shown = [words.plain(name) for name in fakes.HOSTILE]
    assert [point[0] for point in held[0]["points"]] == shown
    assert "alert" not in next(script for kind, script in page.scripts if kind is None)
    assert fakes.HOSTILE[0] in " ".join(page.text)


def test_only_the_own_script_may_run() -> None:
    import base64
    import hashlib

    text = render_html(fakes.hostile())
    script = next(script for kind, script in Page(text).scripts if kind is None)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'").replace("&#43;", "+")
    assert "default-src 'none'" in policy[1]


def test_html_shows_non_finite_values_as_crosses_and_zeros_at_the_bottom() -> None:
    assert 'class="broken"' in render_html(fakes.hostile())
    assert 'class="broken"' not in render_html(fakes.mlp(3))
    assert '<span style="bottom:0">0</span>' in render_html(fakes.mlp(3, "zeros"))


def test_notebook_frame_keeps_its_style_to_itself() -> None:
    page = Page(render_notebook(fakes.hostile()))
    assert page.tags == ["iframe"]


def test_story_shows_every_panel_and_its_findings() -> None:
    starts: tuple[fakes.Start, ...] = ("zeros", "exploding", "vanishing", "healthy")
    panels = [
        Panel(start, f"What {start} does & why.", fakes.mlp(10, start), "A deep network")
        for start in starts
    ]
    panels.append(Panel("scaled", "Calm.", fakes.gpt(3)))
    page = Page(render_story(panels, title="A <title>"))
    said = " ".join(" ".join(page.text).split())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)
    assert "A <title>" in said
    assert "A deep network" in said
    assert "demo:gpt" in said
    for panel in panels:
        assert panel.title in said
        assert panel.explanation in said
        for finding in panel.report.findings:
            assert finding.message in said
    assert said.count("not fit to train") == 3


def test_story_draws_a_group_on_one_scale() -> None:
    text = render_story([Panel(s, "", fakes.mlp(10, s), "g") for s in ("healthy", "exploding")])
    ticks = re.findall(r'<div class="ticks".*?</div>', text, flags=re.DOTALL)
    assert len(ticks) == 4
    assert ticks[:2] == ticks[2:]


def test_story_without_panels_is_a_page() -> None:
    assert Page(render_story([])).open == []


# the picture of the README


def test_picture_is_a_light_drawing_of_every_start() -> None:
    path = Path(__file__).parents[1] / "docs" / "make_picture.py"
    script = runpy.run_path(str(path))
    starts: tuple[fakes.Start, ...] = ("zeros", "exploding", "vanishing", "healthy")
    text = script["picture"]({f"<{start}>": fakes.mlp(50, start) for start in starts})
    assert len(text.encode()) < 60_000
    said = [node.text for node in ElementTree.fromstring(text).iter() if node.text]
    assert {f"<{start}>" for start in starts} <= set(said)
    assert said.count("not fit to train") == 3
    assert said.count("fit to train") == 1


# files


def test_write_text_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    assert write_text(path, "one") == path
    path.chmod(0o640)
    write_text(str(path), "zwei ✓ \ud800")
    assert path.read_text("utf-8") == "zwei ✓ \\ud800"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [item.name for item in tmp_path.iterdir()] == ["report.txt"]


def test_write_text_follows_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_write_text_does_not_replace_a_device() -> None:
    write_text(os.devnull, "text")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/report.html", r"missing/report\.html: the directory .*missing' does not exist"),
        ("", "this is a directory. Fix: add the name of a file"),
        ("x" * 300, "cannot be written: File name too long"),
        ("nul\0", "cannot be written: .*null"),
    ],
)
def test_write_text_says_why_it_cannot(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        write_text(tmp_path / name, "text")
    assert isinstance(caught.value, InitiumError)
    assert isinstance(caught.value, OSError)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_write_text_cleans_up_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_write_text_into_a_protected_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_text(tmp_path / "report.txt", "text")


def test_to_html_writes_the_page(tmp_path: Path) -> None:
    path = fakes.mlp(3).to_html(tmp_path / "report.html")
    assert path.read_text("utf-8") == render_html(fakes.mlp(3))

"""Reports as files: read back, held to their schema, compared; the command that compares them."""

from __future__ import annotations

import json
import math
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from torch import nn

import initium
from initium import _cli
from initium._predict.records import Band
from initium._report.comparison import Side, compare_reports
from initium._report.comparison_page import render_comparison
from initium._report.html import render_html
from initium._report.reading import is_report
from initium._report.records import LossRecord, Report
from initium._report.schema import report_schema
from initium._report.words import number
from initium.errors import InputError

DOCS = Path(__file__).parents[1] / "docs"


def _checked() -> Report:
    """A real report with everything in it: attention, streams, a prediction, a deep look."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 5))
    batch, targets = torch.randn(6, 4, 8), torch.randint(0, 5, (6, 4))
    plan = initium.initialize(net, "he", inputs=batch)
    prediction = initium.predict(net, plan, batch, draws=3)

    def loss_fn(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), targets.flatten())

    return initium.check(net, batch, targets, loss_fn, plan=plan, prediction=prediction, deep=True)


@pytest.fixture(scope="module")
def checked() -> Report:
    return _checked()


FAKES: dict[str, Callable[[], Report]] = {
    "three layers": lambda: fakes.mlp(3),
    "exploding": lambda: fakes.mlp(30, "exploding"),
    "gpt": lambda: fakes.gpt(4, scaled=False),
    "empty": fakes.empty,
}


# reading back


@pytest.mark.parametrize("name", FAKES)
def test_a_report_comes_back_as_it_was(name: str) -> None:
    report = FAKES[name]()
    assert Report.from_json(report.to_json()) == report


def test_a_real_report_comes_back_as_it_was(checked: Report, tmp_path: Path) -> None:
    checked.to_json(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == checked
    assert checked.deep is not None
    assert checked.prediction is not None


def test_what_was_not_finite_comes_back_as_nan_or_none() -> None:
    back = Report.from_json(fakes.hostile().to_json())
    assert back.loss.value is None
    assert math.isnan(back.layers[fakes.HOSTILE[1]].second_moment)
    assert back.layers[fakes.HOSTILE[1]].grad_second_moment is None
    assert str(back)
    assert back.findings[0].where == fakes.hostile().findings[0].where


def test_lists_of_numbers_stand_on_one_line() -> None:
    text = fakes.mlp(3).to_json()
    assert '"shape": [64, 100]' in text
    assert max(text.count(f"\n{' ' * depth}") for depth in range(9, 20)) == 0


def _spoilt(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(fakes.mlp(3).to_json())
    change(data)
    return json.dumps(data)


def _put(data: dict[str, Any], path: str, value: object) -> None:
    *way, last = path.split("/")
    for step in way:
        data = data[step]
    data[last] = value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "report: is not JSON: "),
        ("[]", "report: is not a report. Fix: write one with report.to_json"),
        ('{"initium": "plan"}', "report: is not a report"),
        (
            _spoilt(lambda data: data.update(schema=1)),
            r"another version \(got 1\); choose from 2. Fix: make it again",
        ),
        (
            _spoilt(lambda data: data.update(colour=1)),
            r"report: has a field that no report has \(got 'colour'\)",
        ),
        (_spoilt(lambda data: data.pop("loss")), "report: lacks the field 'loss'"),
        (
            _spoilt(lambda data: _put(data, "layers/layers.0/order", 1.5)),
            r"report: layers: layers.0: order: is not an integer \(got 1.5\)",
        ),
        (
            _spoilt(lambda data: _put(data, "layers/layers.0/mean", "x")),
            r"layers.0: mean: is not a number \(got 'x'\)",
        ),
        (
            _spoilt(lambda data: _put(data, "parameters/layers.0.weight/trainable", 1)),
            r"trainable: is not true or false \(got 1\)",
        ),
        (
            _spoilt(lambda data: _put(data, "layers", [])),
            r"report: layers: is not an object \(got '\[\]'\)",
        ),
        (
            _spoilt(lambda data: _put(data, "findings", {})),
            r"report: findings: is not a list \(got '{}'\)",
        ),
        (
            _spoilt(lambda data: data["findings"][0].update(severity="bad")),
            r"severity: is none of the choices \(got 'bad'\); choose from error, warning, info",
        ),
        (
            '{"initium": "report", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "report: is nested too deeply for a report",
        ),
        (
            _spoilt(lambda data: _put(data, "layers/layers.0/mean", 10**400)),
            r"layers.0: mean: is not a number \(got 'an integer of 1329 bits'\)",
        ),
        (
            _spoilt(lambda data: _put(data, "layers/layers.0/name", "zzz")),
            r"report: layers: layers.0: has another name inside \(got 'zzz'\)",
        ),
        (
            _spoilt(lambda data: _put(data, "parameters/layers.0.weight/name", "zzz")),
            r"parameters: layers.0.weight: has another name inside \(got 'zzz'\)",
        ),
    ],
)
def test_what_is_no_report_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Report.from_json(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        Report.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        Report.load(tmp_path / "latin.json")


def test_a_report_is_told_from_a_plan(tmp_path: Path) -> None:
    fakes.mlp(3).to_json(tmp_path / "report.json")
    (tmp_path / "plan.json").write_text('{"initium": "plan"}')
    assert is_report(tmp_path / "report.json")
    assert not is_report(tmp_path / "plan.json")
    assert not is_report(tmp_path / "none.json")


# the schema


def test_the_published_schema_is_the_one_of_the_records() -> None:
    script = runpy.run_path(str(DOCS / "make_schema.py"))
    assert (DOCS / "report.schema.json").read_text() == script["text"](), (
        "run `python docs/make_schema.py`"
    )


def test_reports_keep_to_the_schema(checked: Report) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for report in (checked, *(make() for make in FAKES.values()), fakes.hostile()):
        validator.validate(json.loads(report.to_json()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("findings"),
        lambda data: data.update(extra=1),
        lambda data: data["findings"][0].update(severity="bad"),
        lambda data: _put(data, "layers/layers.0/order", None),
        lambda data: _put(data, "parameters/layers.0.weight/histogram/counts", "1"),
    ],
)
def test_the_schema_refuses_what_is_no_report(spoil: Callable[[dict[str, Any]], object]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(_spoilt(spoil)), report_schema())


# comparison


def test_a_report_does_not_differ_from_itself() -> None:
    for make in FAKES.values():
        found = compare_reports(make(), make())
        assert not found
        assert str(found).endswith("no difference")
        assert len(found.kept) == len(make().findings)


def test_a_repair_is_seen() -> None:
    found = compare_reports(fakes.mlp(20, "vanishing"), fakes.mlp(20))
    assert found
    assert [finding.code for finding in found.gone] == ["IN201", "IN405"]
    assert found.new == ()
    assert [old.code for old, _ in found.kept] == ["IN901"]
    assert all(change.changed for change in found.layers)
    assert found.layers[0].forward.factor == pytest.approx(2.0)
    assert found.parameters[0].forward.factor == pytest.approx(math.sqrt(2))


def test_findings_are_paired_by_code_and_place() -> None:
    report = fakes.mlp(3, "vanishing")
    (first, second, note) = report.findings
    moved = replace(first, where=("layers.4",), severity="warning")
    found = compare_reports(report, replace(report, findings=(note, moved, second)))
    assert found
    assert not found.gone
    assert not found.new
    assert "IN201  vanishing signal at layers.4 (was error)" in str(found)
    elsewhere = replace(first, where=("elsewhere",))
    found = compare_reports(report, replace(report, findings=(elsewhere, second, note)))
    assert [finding.where for finding in (*found.gone, *found.new)] == [
        first.where,
        ("elsewhere",),
    ]


def test_names_that_only_one_has_are_listed() -> None:
    found = compare_reports(fakes.mlp(3), fakes.mlp(4))
    assert found
    assert found.removed == ()
    assert found.added == ("layers.6", "layers.7", "layers.6.weight")
    assert "only after: layers.6, layers.7, layers.6.weight" in str(found)
    assert len(found.layers) == 6


@pytest.mark.parametrize(
    ("before", "after", "factor", "changed"),
    [
        (1.0, 1.04, 1.04, False),
        (1.0, 1.06, 1.06, True),
        (1.0, 0.0, 0.0, True),
        (0.0, 0.0, None, False),
        (0.0, 1.0, None, True),
        (None, 1.0, None, True),
        (None, None, None, False),
        (math.nan, math.nan, None, False),
        (1.0, math.inf, None, True),
        (math.inf, math.nan, None, False),
        (math.inf, None, None, False),
        (-1.0, -1.2, 1.2, True),
    ],
)
def test_sides(
    before: float | None, after: float | None, factor: float | None, changed: bool
) -> None:
    side = Side(before, after)
    assert side.factor == (None if factor is None else pytest.approx(factor))
    assert side.changed is changed


PAIRS: dict[str, tuple[Callable[[], Report], Callable[[], Report]]] = {
    "mended": (lambda: fakes.mlp(500, "exploding"), lambda: fakes.mlp(500)),
    "other model": (lambda: fakes.mlp(3), fakes.gpt),
    "hostile": (fakes.hostile, lambda: replace(fakes.hostile(), findings=())),
    "from nothing": (fakes.empty, lambda: fakes.mlp(3)),
    "to nothing": (lambda: fakes.mlp(3), fakes.empty),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_comparison_fits_80_columns_and_a_page(name: str) -> None:
    before, after = PAIRS[name]
    found = compare_reports(before(), after())
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 90
    assert "\x1b" not in text
    page = render_comparison(found)
    assert len(page) < 1_000_000
    assert "<script>alert" not in page
    assert json.loads(found.to_json())["initium"] == "comparison"


def test_both_verdicts_and_losses_are_on_the_page() -> None:
    page = render_comparison(compare_reports(fakes.mlp(9, "vanishing"), fakes.mlp(9)))
    for said in ("Mended", "Not fit to train: vanishing signal", "Fit to train", "2.410", "Gone"):
        assert said in page
    assert 'class="fix"' not in page  # of what is gone
    broken = render_comparison(compare_reports(fakes.mlp(9), fakes.mlp(9, "zeros")))
    assert '<h1 class="worse">Broken</h1>' in broken
    assert broken.count('class="fix"') == sum(
        bool(finding.fix) for finding in fakes.mlp(9, "zeros").findings
    )


def test_files_are_compared_like_reports(tmp_path: Path) -> None:
    before, after = fakes.mlp(3, "vanishing"), fakes.mlp(3)
    before.to_json(tmp_path / "a.json")
    found = initium.compare_reports(tmp_path / "a.json", after)
    assert found == compare_reports(before, after)
    path = found.to_html(tmp_path / "c.html")
    assert path.read_text() == render_comparison(found)
    assert found._repr_html_().startswith("<iframe")


def test_a_loss_that_came_or_went_is_a_difference() -> None:
    report = fakes.mlp(3)
    assert compare_reports(report, replace(report, loss=LossRecord(source="random cotangent")))


# the command


def test_diff_takes_two_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fakes.mlp(3, "vanishing").to_json("a.json")
    fakes.mlp(3).to_json("b.json")
    assert _cli.run(["diff", "a.json", "a.json"]) == 0
    assert capsys.readouterr().out.endswith("no difference\n")
    assert _cli.run(["diff", "a.json", "b.json", "--html", "c.html"]) == 1
    out = capsys.readouterr().out
    assert "vanishing signal at layers.0.weight -> fit to train" in " ".join(out.split())
    assert out.endswith("comparison: c.html\n")
    assert "Mended" in Path("c.html").read_text()
    assert _cli.run(["diff", "a.json", "b.json", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["gone"][0]["code"] == "IN201"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diff a.json plan.json", "plan.json: is not a report"),
        ("diff plan.json plan.json --html c.html", "--html shows two reports"),
        ("diff a.json a.json --html none/c.html", "none/c.html: the folder does not exist"),
        ("diff a.json plan.json --html ./a.json", "--html a.json: is the file of A too"),
    ],
)
def test_diff_says_what_does_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    fakes.mlp(3).to_json("a.json")
    Path("plan.json").write_text('{"initium": "plan"}')
    assert _cli.run(line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_prediction_stands_beside_what_was_measured(checked: Report) -> None:
    assert checked.prediction is not None
    prediction = replace(checked.prediction, loss=2.5, loss_band=Band(2.25, 2.75))
    checked = replace(checked, prediction=prediction)
    text, page = str(checked), render_html(checked)
    first = next(iter(prediction.layers.values()))
    (line,) = [one for one in text.splitlines() if one.startswith(f"{first.name} ")]
    held = checked.layers[first.name]
    for value in (
        held.second_moment, first.second_moment, held.grad_second_moment, first.grad_second_moment,
    ):  # fmt: skip
        assert number(value) in line.split()
        assert f">{number(value)}<" in page
    assert max(map(len, text.splitlines())) <= 80
    said = "predict From 3 lazy draws: first loss 2.500, in 95% of starts 2.250 to 2.750."
    assert said in " ".join(text.split())
    assert "<dt>predicted</dt><dd>2.500</dd>" in page
    assert page.count("Predicted</button>") == 2
    less = replace(prediction, layers={}, loss=None, loss_band=None, draws=0, problem="it fails")
    text = str(replace(checked, prediction=less))
    assert "predict From closed forms. Not all: it fails" in " ".join(text.split())
    assert "–" in text
    alone = replace(checked, prediction=None)
    assert not re.search("predict (?!ed)", str(alone))
    assert "Predicted</button>" not in render_html(alone)


def test_a_prediction_has_a_page_too(checked: Report, tmp_path: Path) -> None:
    prediction = checked.prediction
    assert prediction is not None
    page = prediction.to_html(tmp_path / "p.html").read_text()
    assert "Predicted start" in page
    assert prediction._repr_html_().startswith('<iframe title="initium prediction"')

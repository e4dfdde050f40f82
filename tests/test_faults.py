"""``benchmarks/faults.py`` runs, through its own table, on a few small models."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch

from initium._report.records import Finding

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CELLS = {
    "NaN in one weight": "IN101",
    "one matrix x 30": "IN204",
    "seeded again for every tensor": "IN704",
}


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("faults")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("network", ["demo:mlp-relu-8-64", "demo:mlp-tanh-8-64"])
def test_three_faults_are_detected_located_and_fixed(faults, network):
    wanted = [fault for fault in faults.FAULTS if fault.name in CELLS]
    cells = dict(faults.examine(network, wanted))
    assert len(cells) == len(CELLS)
    for place, cell in cells.items():
        codes = [code for code, severity, _ in cell["found"] if severity != "info"]
        assert codes == [CELLS[place.partition("/")[0]]]
        assert cell["detected"]
        assert cell["located"]
        assert cell["fixed"], cell


def test_a_fault_that_is_not_seen_counts_as_missed(faults):
    harmless = faults.Fault("harmless", ("IN101",), lambda s: [s.pick(s.matrices())])
    (cell,) = dict(faults.examine("demo:mlp-relu-8-64", [harmless])).values()
    assert (cell["detected"], cell["located"], cell["fixed"]) == (False, False, False)


@pytest.mark.parametrize("name", ["root of zero", "logarithm of negative numbers", "raw pixels"])
def test_what_the_advice_says_is_done_by_hand(faults, name):
    (fault,) = [one for one in faults.FAULTS if one.name == name]
    (cell,) = dict(faults.examine("demo:mlp-relu-8-64", [fault])).values()
    assert cell["detected"]
    assert cell["located"]
    assert cell["fixed"], cell


def test_advice_that_is_followed_in_vain_mends_nothing(faults):
    (fault,) = [one for one in faults.FAULTS if one.name == "root of zero"]
    idle = dataclasses.replace(fault, name="idle", mend=lambda s, where: None)
    deaf = dataclasses.replace(fault, name="deaf", advice=("something else",))
    cells = dict(faults.examine("demo:mlp-relu-8-64", [idle, deaf])).values()
    assert [(cell["located"], cell["fixed"]) for cell in cells] == [(True, False)] * 2
    assert [cell["why"].partition(" ")[0] for cell in cells] == ["still", "advised:"]


def test_code_is_mended_at_the_place_named_alone(faults):
    hand = importlib.import_module("_faults.byhand")
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4)))
    subject = faults.Subject("net", model, torch.ones(2, 4))
    hand.batch.hook(model[1], lambda x: 3.0 * x)
    spoilt = model(subject.inputs)
    assert hand.clean(subject, "2.weight") is None
    assert torch.equal(model(subject.inputs), spoilt)
    assert hand.clean(subject, "1.weight") is model[1]
    assert not torch.equal(model(subject.inputs), spoilt)


@pytest.mark.parametrize(
    ("name", "network", "applies"),
    [
        ("head of std 1", "demo:mlp-tanh-10-256", False),
        ("head of std 1", "net:norm-free residual 8 x 128", True),
        ("fans of a transposed convolution", "torch:decoder", True),
        ("fans of a transposed convolution", "net:transposed convolutions", False),
        ("branches without residual scaling, no norms", "net:norm-free residual 8 x 128", True),
        ("branches without residual scaling, no norms", "demo:mlp-tanh-10-256", False),
        ("torch's default in a deep chain", "demo:mlp-relu-10-256", True),
        ("torch's default in a deep chain", "net:norm-free residual 8 x 128", False),
    ],
)  # fmt: skip
def test_a_fault_is_put_in_where_it_does_harm(faults, name, network, applies):
    (fault,) = [one for one in faults.FAULTS if one.name == name]
    with torch.no_grad():
        places = [place for place in fault.inject(faults.subject(network, own=True)) if place]
    assert bool(places) == applies


def test_the_root_is_the_first_place_that_the_sound_network_had_not(faults):
    where = ("mask", "spare")
    finding = Finding(code="IN304", severity="warning", title="", where=where, message="")
    assert faults._root(finding, {}) == "mask"
    assert faults._root(finding, {("IN304", "info"): {"mask"}}) == "spare"
    assert faults._root(finding, {("IN305", "info"): {"mask"}}) == "mask"
    assert faults._root(finding, {("IN304", "info"): {"mask", "spare"}}) == ""


def test_networks_of_the_table_are_in_one_group_each(faults):
    groups = {name: faults.group(name) for name in faults.MODELS}
    assert len(groups) == len(faults.MODELS)
    assert set(groups.values()) == set(faults.GROUPS)
    assert sum(one == "fresh" for one in groups.values()) >= 24
    assert groups["hf:gpt2"] == "tuning"
    assert groups["demo:vit"] == "held out"


def test_parts_share_a_group_out(faults, monkeypatch):
    def names(*given):
        monkeypatch.setattr("sys.argv", ["faults.py", "--group", "fresh", *given])
        return faults._networks(faults._arguments())

    first, second = names("--part", "1/2"), names("--part", "2/2")
    assert sorted(first + second) == sorted(names())
    assert abs(len(first) - len(second)) <= 1


def test_outcomes_of_two_files_make_one_page(faults, tmp_path, monkeypatch, capsys):
    network = "demo:mlp-relu-10-256"
    cell = {"applies": True, "detected": True, "located": True, "fixed": False, "by": "check",
            "found": [], "places": ["0.weight"], "tree": ""}  # fmt: skip
    outs = [tmp_path / name for name in ("a.json", "b.json")]
    for out, fault, name in zip(outs, faults.FAULTS, (network, "hf:bloom"), strict=False):
        out.write_text(json.dumps({faults.key(fault, name): cell}))
    monkeypatch.setattr(faults, "PAGE", tmp_path / "faults.md")
    monkeypatch.setattr("sys.argv", ["faults.py", "--page", *(f"--out={out}" for out in outs)])
    faults.main()
    page = (tmp_path / "faults.md").read_text()
    assert "| fixed | 0 of 1 (0.0%) | - | - | 0 of 1 (0.0%) | 80% |" in page
    assert "- fresh, hf:bloom: not fixed. In 0.weight; said: nothing" in page
    assert f"- tuning, {network}: not fixed." in page
    assert "| detected | 1 of 1 (100.0%) | - | - |" in capsys.readouterr().out
    assert len(json.loads(outs[0].read_text())) == 2
    assert len(json.loads(outs[1].read_text())) == 1


def test_a_place_is_a_parameter_its_module_its_block_or_inside(faults):
    weight = ["h.3.attn.q.weight"]
    held = ("h.3.attn.q.weight", "h.3.attn.q", "h.3.attn", "h.3")
    assert [faults._is_place(where, weight) for where in held] == [True] * 4
    assert not faults._is_place("h", weight)
    assert not faults._is_place("h.30", weight)
    assert not faults._is_place("h.3.mlp", weight)
    assert faults._is_place("h.3.mlp", ["h.3"])
    assert not faults._is_place("h", ["h.3"])
    assert not faults._is_place("net", ["net.2.block.3"])
    assert not faults._is_place("net.2", ["net.2.block.3"])


def test_outcomes_become_a_page(faults):
    network = "demo:mlp-relu-10-256"
    cells = dict(faults.examine(network, [None, faults.FAULTS[0]]))
    assert cells[f"healthy/{network}"]["alarms"] == {"own": [("IN201", "warning")], "auto": []}
    page = faults.page(json.loads(json.dumps(cells)), faults.TREE)
    assert "| detected | - | - | - | 1 of 1 (100.0%) | 95% |" in page
    assert f"apply: 2 of version {faults.TREE}, the code as it is now." in page
    assert f"tuning, {network}, the library's own start: warning IN201" in page


def _cell(**given):
    rates = dict.fromkeys(("detected", "located", "fixed"), True)
    return (
        {"applies": True, "by": "check", "found": [], "places": ["0"], "tree": "a"} | rates | given
    )


def test_a_crash_counts_as_missed_and_a_place_left_out_is_counted(faults):
    first, second = faults.FAULTS[:2]
    done = {
        faults.key(first, "hf:bloom"): _cell(),
        faults.key(first, "hf:fnet"): {"crash": "TimeoutError: took more than 60 s", "tree": "b"},
        faults.key(second, "hf:bloom"): {"applies": False, "tree": "a"},
    }
    lines = faults.verdict(done)
    for what in faults.GOALS:
        assert any(f"| {what} | 1 of 2 (50.0%) | 0 of 1 (0.0%) |" in line for line in lines)
    page = faults.page(done, "c")
    assert "| check | 2 (2) | 0 (0) | 1 (1) | 1 (1) | 1 (1) | repair |" in page
    assert "| 0 (0) | 1 (1) | 0 (0) | 0 (0) | 0 (0) | repair |" in page
    assert "- fresh, hf:fnet: not run to the end. TimeoutError: took more than 60 s" in page
    assert f"2 of version a. 1 of version b: {faults.key(first, 'hf:fnet')}." in page


def test_a_network_that_cannot_be_built_counts_as_missed(faults, monkeypatch):
    def broken(name):
        raise ValueError("no such network")

    monkeypatch.setattr(faults, "subject", broken)
    cells = dict(faults.examine("hf:gpt2", [None, *faults.FAULTS[:2]]))
    assert all("no such network" in cell["crash"] for cell in cells.values())
    assert "| detected | - | - | - | 0 of 2 (0.0%) | 95% |" in faults.verdict(cells)


def test_rates_are_given_by_tool_and_without_cells_of_many_places(faults):
    check = next(fault for fault in faults.FAULTS if fault.tool == "check")
    audit = next(fault for fault in faults.FAULTS if fault.tool == "audit")
    done = {
        faults.key(check, "hf:bloom"): _cell(located=False),
        faults.key(audit, "hf:bloom"): _cell(places=list("abcdef"), by="audit"),
    }
    rates = dict(line.split(" | ")[:2] for line in faults.verdict(done) if " | " in line)
    assert rates["| located"] == "1 of 2 (50.0%)"
    assert rates["| located, by a check"] == "0 of 1 (0.0%)"
    assert rates["| located, by an audit of init code"] == "1 of 1 (100.0%)"
    assert rates["| fixed, by an audit of init code (words only)"] == "1 of 1 (100.0%)"
    assert rates["| located, fewer than six places spoilt"] == "0 of 1 (0.0%)"


def test_an_alarm_is_right_only_with_the_severity_registered(faults):
    def rates(severity):
        alarms = {"own": [["IN201", severity]] if severity else [], "auto": []}
        done = {faults.key(None, "torch:U-Net"): {"start": "auto", "alarms": alarms}}
        found = [line for line in faults.verdict(done) if "own start" in line]
        return [line.split(" | ")[1] for line in found], faults.page(done, "")

    unsaid = "severity:\n\n- fresh, torch:U-Net, the library's own start: warning IN201."
    for severity, errors, silent in (("warning", 0, False), ("error", 1, True), ("", 0, True)):
        counts, page = rates(severity)
        assert counts == [f"{errors} of 1 networks", "0 of 1 networks"]
        assert (unsaid in page) == silent


def test_what_was_judged_after_the_run_counts_as_false(faults):
    alarms = {"own": [["IN304", "warning"]], "auto": []}
    done = {faults.key(None, "hf:fnet"): {"start": "own", "alarms": alarms}}
    assert "does not use the pooler" in faults.page(done, "")
    assert any(
        line.startswith("| false warnings, the library's own start | 1 of 1 networks")
        for line in faults.verdict(done)
    )


def test_the_second_column_is_of_networks_that_no_other_check_has_seen(faults):
    names = importlib.import_module("_faults.page").names_of("fresh, in no other benchmark")
    assert "hf:granitemoe" in names
    assert not {"hf:bloom", "net:rnn", "hf:gpt2"} & set(names)
    assert {faults.group(name) for name in names} == {"fresh"}


def test_only_an_operator_missing_in_float16_leaves_the_fault_out(faults):
    batch = importlib.import_module("_faults.batch")

    class Broken(torch.nn.Linear):
        text = "\"mm\" not implemented for 'Half'"

        def forward(self, x):
            raise RuntimeError(self.text)

    def put():
        return batch.half_without_scaling(
            faults.Subject("net", Broken(4, 4), torch.ones(2, 4), torch.zeros(2, dtype=torch.long))
        )

    assert put() == []
    Broken.text = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        put()

"""The command line: what it prints, its exit codes, and that every failure is one clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from initium import _cli
from initium._cli import demo
from initium.recipes import RECIPES

SMALL = "demo:mlp-relu-4-32"
DEEP = "demo:mlp-relu-30-64"

MODEL_FILE = """
import sys
import torch
from torch import nn

def healthy():
    return nn.Linear(8, 8), torch.randn(16, 8)

def not_a_model():
    return 3

def broken():
    raise RuntimeError("no such\\nlayer")

class Mismatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)
    def forward(self, x):
        return self.a(x) @ x.new_ones(5, 5)

class Pair(nn.Module):
    def forward(self, left, right):
        return left @ right

def crashes():
    return Mismatch(), torch.randn(2, 8)

def exits():
    sys.exit(7)

def interrupted():
    raise KeyboardInterrupt

def batch():
    return torch.randn(4, 8)

def loud():
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(32, 32), nn.ReLU())])
    net.append(nn.Linear(32, 4))
    for name, parameter in net.named_parameters():
        parameter.data.zero_() if "bias" in name else nn.init.kaiming_normal_(parameter)
    net[4].weight.data.mul_(30)
    return net

def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 32, generator=generator), torch.arange(32.0) % 4

def squares(output, targets):
    return (output.mean(1) - targets).square().mean()

def resnet():
    from initium._load import load
    net = load("timm:test_resnet").model
    with torch.no_grad():
        net.layer1[0].conv1.weight.fill_(float("nan"))
    return net, torch.randn(8, 3, 32, 32)

def wrong_batch():
    return torch.randn(4, 9)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with some models in ``m.py``."""
    (tmp_path / "m.py").write_text(MODEL_FILE)
    (tmp_path / "bad.yaml").write_text("rules:\n  - {spec: gauss(1)}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(here: Path) -> Path:
    assert _cli.run(["plan", SMALL, "--recipe", "he", "--out", "he.yaml"]) == 0
    return here / "he.yaml"


CODES = [
    ("check", SMALL, "--recipe", "he", 0),
    ("check", "m.py:healthy", 0),
    ("check", "m.py:healthy", "--inputs", "m.py:batch", 0),
    ("check", "m.py:healthy", "--eval", 0),
    ("check", DEEP, "--recipe", "torch", 1),
    ("check", SMALL, "--recipe", "zeros", 1),
    ("inspect", SMALL, 0),
    ("plan", SMALL, 0),
    ("plan", SMALL, "--recipe", "normal(0.02)", "--diff", "he", 1),
    ("predict", SMALL, "--recipe", "he", "--draws", "3", 0),
    ("predict", SMALL, "--recipe", "he", "--draws", "3", "--loss", "m.py:squares", 0),
    ("predict", "m.py:healthy", "--inputs", "m.py:batch", "--draws", "0", "--eval", 0),
    ("coord", SMALL, "--recipe", "he", "--widths", "32,64", "--seeds", "1", "--steps", "1", 1),
    ("explain", "rules", 0),
    ("recipes", 0),
    ("explain", "he", 0),
]


@pytest.mark.parametrize("case", CODES, ids=lambda case: " ".join(case[:-1]))
def test_exit_codes_and_output(
    case: tuple[str | int, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *arguments, code = case
    assert _cli.run([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""
    assert "\x1b" not in out, "no colour codes where there is no terminal"


@pytest.mark.parametrize("case", CODES, ids=lambda case: " ".join(case[:-1]))
def test_json_everywhere(
    case: tuple[str | int, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *arguments, code = case
    assert _cli.run([*map(str, arguments), "--json"]) == code
    assert json.loads(capsys.readouterr().out)


FAILURES = [
    ("check nowhere.py:model", "there is no file nowhere.py"),
    ("check nonsense", "is not the name of a model"),
    ("check demo:perceptron", "choose from mlp-<activation>-<depth>"),
    ("check no.such.module:model", "there is no module 'no'"),
    ("check m.py:healty", "did you mean healthy"),
    ("check m.py:not_a_model", "did not return a module"),
    ("check m.py:broken", "RuntimeError"),
    ("check m.py:crashes", "m.py:crashes|shapes cannot be multiplied"),
    ("check m.py:exits", "called exit(7)"),
    ("check m.py:healthy --inputs m.py:wrong_batch", "9"),
    ("check m.py:healthy --inputs m.py:nothing", "has no 'nothing'"),
    (f"check {SMALL} --recipe hee", "did you mean he"),
    (f"predict {SMALL} --recipe hee", "did you mean he"),
    (f"predict {SMALL} --draws 2", "--draws"),
    ("predict m.py:broken", "RuntimeError"),
    (f"check {SMALL} --recipe normal(", "is not the text of a recipe"),
    (f"check {SMALL} --plan none.yaml", "none.yaml: cannot be read"),
    (f"check {SMALL} --plan m.py", "m.py"),
    (f"check {SMALL} --recipe he --plan he.yaml", "exclude each other"),
    (f"check {SMALL} --html nowhere/report.html", "nowhere/report.html: the folder does not exist"),
    ("check m.py:broken --fix nowhere/fix.yaml", "nowhere/fix.yaml: the folder does not exist"),
    ("check m.py:broken --fix fix.txt", "fix.txt: is not the name of a plan"),
    ("check m.py:broken --fix .", ": is a folder"),
    (
        "check m.py:broken --html s.yaml --fix ./s.yaml",
        "--fix s.yaml: is the file of --html too, which would be lost",
    ),
    (f"plan {SMALL} --diff p.yaml --out p.yaml", "--out p.yaml: is the file of --diff too"),
    (f"predict {SMALL} --loss m.py:nothing", "has no 'nothing'"),
    (f"coord {SMALL}", "give one of --widths and --depths"),
    (f"coord {SMALL} --widths 8,16 --depths 2,3", "give one of --widths and --depths"),
    (f"coord {SMALL} --widths 8,x", "--widths is not a list such as 64,128,256"),
    (f"coord {SMALL} --widths 8,16 --lr 0", "--lr has to be above 0"),
    (f"plan {SMALL} --out nowhere/plan.yaml", "nowhere/plan.yaml: the folder does not exist"),
    ("plan m.py:broken --out plan.txt", "plan.txt: is not the name of a plan"),
    (f"check {SMALL} --fail-on trouble", "--fail-on"),
    ("check", "Missing argument"),
    ("chek", "No such command 'chek'"),
    ("check --sed 3", "No such option"),
    ("explain hee", "he"),
    ("explain rulez", "did you mean rules"),
    ("check m.py:broken --recipe hee", "did you mean he"),
    ("plan m.py:broken --recipe bad.yaml", "bad.yaml, line 2"),
    ("plan m.py:broken --diff hee", "did you mean he"),
    ("write m.py:broken --out w --dtype int7", "dtype: is not a floating type"),
    ("write m.py:broken --out w --shard-size huge", "shard_size: is not a size"),
    ("write m.py:broken --out w --recipe hee", "did you mean he"),
    (f"inspect {SMALL} --tree --json", "--tree and --json exclude each other"),
    ("diff none.yaml m.py", "none.yaml: cannot be read"),
]


@pytest.mark.parametrize(("command", "told"), FAILURES, ids=[command for command, _ in FAILURES])
def test_every_failure_is_one_clear_line_and_code_2(
    command: str, told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in here.iterdir())
    assert _cli.run(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("initium: error: ")
    assert err.count("\n") == 1, err
    assert any(part in err for part in told.split("|")), err
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == before


def test_debug_shows_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["check", "m.py:broken", "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check demo:mlp-relu-4-32 --recipe he", "recipes"])
def test_a_reader_that_leaves_is_told_nothing(command: str) -> None:
    line = [sys.executable, "-m", "initium", *command.split()]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_an_interrupt_is_130(here: Path) -> None:
    assert _cli.run(["check", "m.py:interrupted"]) == 130


def test_the_signal_vanishes_under_the_default_and_the_fix_that_is_proposed_works(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["check", DEEP, "--recipe", "torch", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    worst = findings[0]
    assert worst["severity"] == "error"
    assert "vanish" in f"{worst['title']} {worst['message']}"
    assert worst["where"]
    fix = re.search(r"--recipe (\w+)|\"(\w+)\"|'(\w+)'", worst["fix"])
    assert fix is not None, worst["fix"]
    recipe = next(group for group in fix.groups() if group)
    assert _cli.run(["check", DEEP, "--recipe", recipe]) == 0


def test_fail_on_lowers_the_bar(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["check", SMALL, "--recipe", "he", "--json"]) == 0
    found = {item["severity"] for item in json.loads(capsys.readouterr().out)["findings"]}
    for severity, fatal in (("warning", {"warning"}), ("info", {"warning", "info"})):
        expected = int(bool(found & fatal))
        assert _cli.run(["check", SMALL, "--recipe", "he", "--fail-on", severity]) == expected


def test_html_is_written_beside_the_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["check", SMALL, "--recipe", "he", "--html", "report.html"]) == 0
    assert capsys.readouterr().out.endswith("report: report.html\n")
    assert (here / "report.html").read_text().lstrip().startswith("<!")


def test_a_fix_is_written_and_heals(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a loss and a batch of one's own; the exit code is that of the model as it is."""
    given = ["--inputs", "m.py:data", "--loss", "m.py:squares", "--seed", "3"]
    fails = ["--fail-on", "warning"]
    assert _cli.run(["check", "m.py:loud", *given, "--fix", "fix.yaml", *fails]) == 1
    out = capsys.readouterr().out
    assert "repair: 1 of 14 parameters changed, 13 kept" in out
    assert "4.weight" in out.partition("repair:")[2]
    assert " after: no findings, fit to train" in out
    again = f"initium check m.py:loud --plan fix.yaml {' '.join(given)}"
    assert out.endswith(f"plan: fix.yaml; try it: {again}\n")
    assert _cli.run([*again.split()[1:], *fails]) == 0
    assert "no findings" in capsys.readouterr().out


def test_a_fix_is_tried_by_the_check_that_found(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["check", "m.py:loud", "--deep", "--eval", "--fix", "fix.yaml"]) in (0, 1)
    again = "initium check m.py:loud --plan fix.yaml --eval --deep"
    assert capsys.readouterr().out.endswith(f"try it: {again}\n")


def test_the_program_itself_mends_a_model_and_refuses_another(here: Path) -> None:
    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "initium", "check", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)

    found = program("m.py:loud", "--fix", "fix.yaml", "--fail-on", "warning")
    assert (found.returncode, found.stderr) == (1, "")
    assert "repair: 1 of 14 parameters changed" in found.stdout
    mended = program("m.py:loud", "--plan", "fix.yaml", "--fail-on", "warning")
    assert (mended.returncode, mended.stderr) == (0, "")
    other = program("m.py:healthy", "--plan", "fix.yaml")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == (
        "initium: error: 0.weight: is in the plan and not in the model, which has weight. Fix: "
        "plan this model, or apply the plan to the model that it was made for\n"
    )


def test_a_fix_of_a_recipe_keeps_its_other_entries(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["check", DEEP, "--recipe", "torch", "--fix", "fix.json", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("plan: fix.json; try it: ")
    repair = json.loads(out)["repair"]
    assert json.loads(out)["ok"] is False
    assert repair["ok"] is True
    assert repair["kept"] + len(repair["changed"]) == repair["parameters"] == 60
    entries = json.loads((here / "fix.json").read_text())["entries"]
    changed = {one["parameter"] for one in repair["changed"]}
    assert changed == {name for name, entry in entries.items() if "uniform" not in entry["spec"]}
    assert _cli.run(["check", DEEP, "--plan", "fix.json"]) == 0


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
def test_a_fix_of_a_model_from_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["check", "m.py:resnet", "--fix", "fix.yaml"]) == 1
    assert "1 of 47 parameters changed" in capsys.readouterr().out
    assert _cli.run(["check", "m.py:resnet", "--plan", "fix.yaml", "--fail-on", "warning"]) == 0


def test_a_healthy_model_has_nothing_to_fix(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["check", SMALL, "--recipe", "he", "--fix", "fix.yaml"]) == 0
    assert "repair: nothing to do\nplan: fix.yaml" in capsys.readouterr().out
    assert _cli.run(["diff", "fix.yaml", "fix.yaml"]) == 0


def test_a_saved_plan_fills_the_model(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert _cli.run(["check", SMALL, "--plan", saved.name, "--json"]) == 0
    by_plan = json.loads(capsys.readouterr().out)
    assert _cli.run(["check", SMALL, "--recipe", "he", "--json"]) == 0
    by_recipe = json.loads(capsys.readouterr().out)
    assert by_plan["parameters"] == by_recipe["parameters"]
    assert by_plan["loss"] == by_recipe["loss"]


def test_a_plan_for_another_model_is_refused(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert _cli.run(["check", DEEP, "--plan", saved.name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_diff_of_plan_files(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["plan", SMALL, "--recipe", "xavier", "--out", "xavier.json"]) == 0
    assert json.loads(Path("xavier.json").read_text())["recipe"] == "xavier"
    capsys.readouterr()
    assert _cli.run(["diff", "he.yaml", "he.yaml"]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert _cli.run(["diff", "he.yaml", "xavier.json"]) == 1
    assert "recipe: he -> xavier" in capsys.readouterr().out


def test_a_diff_goes_from_the_other_to_the_plan_made_in_both_commands(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["plan", SMALL, "--recipe", "xavier", "--out", "xavier.yaml"]) == 0
    capsys.readouterr()
    assert _cli.run(["diff", "he.yaml", "xavier.yaml"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("recipe: he -> xavier\n")
    for other in ("he", "he.yaml"):
        assert _cli.run(["plan", SMALL, "--recipe", "xavier", "--diff", other]) == 1
        assert capsys.readouterr().out == told
    assert _cli.run(["plan", SMALL, "--recipe", "he", "--diff", "he.yaml"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_the_command_line_names_its_flag_and_not_the_argument(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["write", SMALL, "--recipe", "he", "--out", "w"]) == 0
    assert _cli.run(["write", SMALL, "--recipe", "xavier", "--out", "w"]) == 2
    err = capsys.readouterr().err
    assert "or add --overwrite to have these files removed" in err
    assert "overwrite=True" not in err
    assert _cli.run(["check", "m.py:Pair"]) == 2
    assert "Fix: add --inputs FILE.py:CALLABLE" in capsys.readouterr().err


def test_the_program_keeps_transformers_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["initium", "--version"])
    with pytest.raises(SystemExit) as ended:
        _cli.main()
    assert ended.value.code == 0
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "critical"


def test_the_seed_decides(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for seed in ("0", "0", "1"):
        _cli.run(["check", SMALL, "--recipe", "he", "--seed", seed, "--json"])
        losses.append(json.loads(capsys.readouterr().out)["loss"]["value"])
    assert losses[0] == losses[1] != losses[2]


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(["recipes"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [line.split(maxsplit=1)[0] for line in lines] == list(RECIPES)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_help_needs_no_torch_and_no_arguments() -> None:
    code = (
        "import sys; from initium import _cli; _cli.run(['check', '--help']);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n")
    assert "--fail-on" in done.stdout


def test_the_demo_tells_its_story_and_names_the_page_last(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {demo.MLP: "demo:mlp-relu-40", demo.GPT: "demo:gpt-4"}
    story = tuple(replace(start, model=small[start.model]) for start in demo.STORY)
    monkeypatch.setattr(demo, "STORY", story)
    assert _cli.run(["demo", "--out", "pages"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    page = Path("pages") / "initium-demo.html"
    assert lines[-1] == f"report: {page}"
    text = page.read_text()
    for word in ("All zeros", "Xavier", "Without residual scaling"):
        assert word in text
    assert max(map(len, lines)) <= 80
    recipes = tuple(start.recipe for start in demo.STORY)
    verdicts = [line for line in lines if line.startswith(recipes)]
    assert [("healthy" in line) for line in verdicts] == [False, False, False, True, True, True]
    assert [path.name for path in Path("pages").iterdir()] == [page.name]


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run([]) == 2
    out, err = capsys.readouterr()
    assert "Commands" in out
    assert err == ""


def test_what_a_model_prints_stays_out_of_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        print('hello')\n"
        "        return super().forward(x)\n"
        "def net():\n"
        "    print('building')\n"
        "    return Net(8, 4), torch.randn(16, 8)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert _cli.run(["check", "loud.py:net", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is True
    assert "hello" in err
    assert "building" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("torch.zeros(0, 8)", "inputs: the batch is empty"),
        ("torch.full((4, 8), float('nan'))", "inputs: 32 of 32 values of the batch are NaN"),
    ],
)
def test_a_batch_that_is_none_is_wrong_usage(
    line: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "m.py").write_text(
        f"import torch\ndef net():\n    return torch.nn.Linear(8, 4), {line}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert _cli.run(["check", "m.py:net"]) == 2
    assert told in capsys.readouterr().err


def test_control_characters_of_a_message_are_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text("def net():\n    raise ValueError('\\x1b[31mred')\n")
    monkeypatch.chdir(tmp_path)
    assert _cli.run(["check", "m.py:net"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\\x1b[31mred" in err

"""``initium write``: the checkpoint, the messages, and that transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import initium
from initium import _cli
from initium._fill.layout import INDEX
from initium._plan import Entry, Plan
from initium.spec import Normal

SMALL = "model.safetensors"
OTHER = Plan({"0.weight": Entry(Normal(0.1), (40, 40), "float32", "linear", "a test")})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_command_writes_by_recipe_and_by_plan(tmp_path, capsys):
    model, file = "demo:mlp-relu-4-32", str(tmp_path / "he.yaml")
    assert _cli.run(["plan", model, "--recipe", "he", "--seed", "7", "--out", file]) == 0
    recipe = ["write", model, "--recipe", "he", "--seed", "7", "--dtype", "bfloat16"]
    assert _cli.run([*recipe, "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.endswith("a: 1 file, 13.1 kB\n")
    planned = ["write", model, "--plan", file, "--dtype", "bfloat16", "--json"]
    assert _cli.run([*planned, "--out", str(tmp_path / "b")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == told["written"] == [SMALL]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert _cli.run([*recipe, "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.endswith("0 of them written now\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "1"], "--part is not I/N, such as 0/4"),
        (["--part", "3/2"], "part: is not (i, n)"),
        (["--recipe", "he", "--plan", "x.yaml"], "exclude each other"),
        (["--shard-size", "huge"], "shard_size: is not a size"),
        (["--dtype", "int8"], "dtype: is not a floating type"),
        (["--plan", "other.yaml"], "has shape (32, 64) in the model and (40, 40) in the plan"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    OTHER.save("other.yaml")
    assert _cli.run(["write", "demo:mlp-relu-4-32", "--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_loads_what_the_command_wrote(tmp_path, capsys, kind):
    from initium._load import load
    from initium._load.optional import import_optional

    transformers = import_optional("transformers")
    arguments = ["--tiny", "--dtype", "bfloat16", "--shard-size", "200kB"]
    assert _cli.run(["write", f"hf:{kind}", "--out", str(tmp_path), *arguments]) == 0
    assert (tmp_path / INDEX).exists()
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(told.values()), told
    assert model.dtype is torch.bfloat16
    loaded = load(f"hf:{kind}", tiny=True, meta=True)
    plan = initium.plan(loaded.model, "auto", inputs=loaded.inputs)
    state = model.state_dict()
    for name, each in plan.entries.items():
        if each.persistent:
            assert torch.equal(state[name], plan.tensor(name).bfloat16()), name
    before = contents(tmp_path)
    other = ["write", f"hf:{kind}", "--out", str(tmp_path), "--tiny", "--shard-size", "200kB"]
    assert _cli.run(other) == 2
    assert "config.json: is there already and differs" in capsys.readouterr().err
    assert contents(tmp_path) == before
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / name).read_text() == (tmp_path / "again" / name).read_text()

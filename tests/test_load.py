"""Loading models by name, making up inputs for them, and building them without weights."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import TIMM_FAST, TRANSFORMERS
from torch import nn

from initium._load import Loaded, example_inputs, load, weightless
from initium._load.optional import import_optional
from initium._load.random import seeded
from initium._load.tiny import LADDER, Rung, shrink
from initium._model.call import call, first_floating
from initium.errors import DependencyError, InputError, ModelError

MODULE = """
import torch
from torch import nn
from missing_helper import nothing
"""

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
    def forward(self, x):
        return self.layer(x)

class Outer:
    Inner = Net

def pair():
    return Net(), torch.ones(2, 6)

def triple():
    return Net(), torch.ones(2, 6), torch.tensor([0, 1])

def batch():
    return torch.zeros(5, 6)

def batch_and_targets():
    return torch.zeros(5, 6), torch.zeros(5, dtype=torch.long)

def wants(width):
    return Net()

def number():
    return 7

def nothing():
    return None

def broken():
    raise RuntimeError("the width\\nmust be even")

constant = 3
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    file = tmp_path / "my_models.py"
    file.write_text(MODELS)
    (tmp_path / "my_broken.py").write_text(MODULE)
    (tmp_path / "my_syntax.py").write_text("def f(:\n")
    return file


def random_states() -> tuple[object, ...]:
    legacy = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), legacy[1].tolist()


def runs(loaded: Loaded) -> None:
    with torch.no_grad():
        output = call(loaded.model.eval(), loaded.inputs)
    result = first_floating(output)
    assert result is not None
    assert torch.isfinite(result).any()


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_tiny_transformers_models_run_and_return_their_own_loss(kind: str) -> None:
    loaded = load(f"hf:{kind}", tiny=True)
    assert loaded.name == f"hf:{kind}"
    assert loaded.model.training
    assert sum(p.numel() for p in loaded.model.parameters()) < 100e6
    assert isinstance(loaded.inputs, Mapping)
    with torch.no_grad():
        output = loaded.model.eval()(**loaded.inputs)
    assert torch.isfinite(output.loss), loaded.note


@pytest.mark.parametrize("name", TIMM_FAST)
def test_timm_models_run_with_labels(name: str) -> None:
    loaded = load(f"timm:{name}")
    assert loaded.targets is not None
    with torch.no_grad():
        output = loaded.model.eval()(loaded.inputs)
    assert torch.isfinite(nn.functional.cross_entropy(output, loaded.targets))


@pytest.mark.parametrize("name", ["demo:mlp-tanh-3", "demo:resnet", "hf:gpt2", "timm:lcnet_035"])
def test_a_seed_fixes_the_weights_and_no_generator_moves(name: str) -> None:
    states = random_states()
    one, same, other = (load(name, tiny=True, seed=seed) for seed in (3, 3, 4))
    assert random_states() == states
    pairs = list(zip(one.model.parameters(), same.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = list(zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_seeded_restores_after_an_exception() -> None:
    before = torch.get_rng_state()
    with pytest.raises(TypeError), seeded(5):
        torch.rand(3).fill_("x")
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------ Python callables


@pytest.mark.parametrize(
    ("name", "rows", "targets"),
    [("Net", 8, False), ("Outer.Inner", 8, False), ("pair", 2, False), ("triple", 2, True)],
)
def test_callables_in_files_and_modules(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: int, targets: bool
) -> None:
    monkeypatch.chdir(models.parent)
    for source in (f"{models}:{name}", f"my_models.py:{name}", f"my_models:{name}"):
        loaded = load(source)
        assert isinstance(loaded.inputs, torch.Tensor)
        assert tuple(loaded.inputs.shape) == (rows, 6)
        assert (loaded.targets is not None) == targets
        assert loaded.name == source
        runs(loaded)
    assert str(models.parent) not in sys.path


def test_inputs_override_the_batch(models: Path) -> None:
    plain = load(f"{models}:Net", inputs=f"{models}:batch")
    assert plain.inputs.shape == (5, 6)
    assert plain.targets is None
    both = load("demo:mlp-relu-2", inputs=f"{models}:batch_and_targets")
    assert both.inputs.shape == (5, 6)
    assert both.targets.shape == (5,)
    assert "batch_and_targets" in both.note


FAILURES = [
    ("nonsense", "nonsense: is not the name of a model; choose from demo:<name>, hf:<model type>"),
    ("", "model: is not the name of a model"),
    ("demo:", "demo:: is not the name of a model"),
    ("demo:cnn", "there is no such demo model (got 'cnn'); choose from mlp-<activation>-<depth>"),
    ("hf:gptt2", "transformers has no such model type (got 'gptt2'); did you mean gpt2"),
    ("hf:no/config.json", "no/config.json: cannot be read (got 'No such file or directory')"),
    ("timm:resnet81", "timm has no such model (got 'resnet81'); did you mean resnet"),
    ("no_such_module:f", "no_such_module:f: there is no module 'no_such_module'. Fix: run from"),
    ("no_such_file.py:f", "no_such_file.py:f: there is no file no_such_file.py"),
    ("my_model.py:f", "there is no file my_model.py; did you mean my_models.py"),
    ("my_models.py:Nett", "my_models.py has no 'Nett'; did you mean Net"),
    ("my_models.py:qqqqqq", "has no 'qqqqqq'; choose from Net, Outer, batch"),
    ("my_models.py:wants", "raised TypeError when called without arguments: wants() missing 1"),
    ("my_models.py:broken", "raised RuntimeError when called without arguments: the width must be"),
    ("my_models.py:number", "did not return a module (got 'int'); choose from a torch.nn.Module"),
    ("my_models.py:constant", "is not callable (got 'int')"),
    ("my_broken.py:f", "importing my_broken.py raised ModuleNotFoundError: No module named"),
    (
        "my_broken:f",
        "importing my_broken needs the module 'missing_helper', which is not installed",
    ),
    ("my_syntax.py:f", "importing my_syntax.py raised SyntaxError"),
]


@pytest.mark.parametrize(("source", "message"), FAILURES)
def test_every_failure_is_one_clear_line(
    models: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(models.parent)
    with pytest.raises(ModelError) as caught:
        load(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("batch", "batch: does not name a callable; choose from file.py:callable"),
        ("my_models.py:nothing", "my_models.py:nothing: returned None; choose from the inputs"),
        ("my_models.py:bach", "my_models.py has no 'bach'; did you mean batch"),
        ("no_such_file.py:f", "there is no file no_such_file.py"),
        ("my_models.py:broken", "raised RuntimeError"),
    ],
)
def test_every_failure_of_inputs_is_one_clear_line(
    models: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(models.parent)
    with pytest.raises(InputError) as caught:
        load("demo:mlp-relu-2", inputs=source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object (got 'list')"),
        ("{}", "has no 'model_type'"),
        ('{"model_type": "lama"}', "transformers has no such model type (got 'lama')"),
        (
            '{"model_type": "llama", "architectures": ["LlamaForCausalLMs"]}',
            "transformers has no such architecture (got 'LlamaForCausalLMs'); did you mean Llama",
        ),
    ],
)
def test_damaged_configurations(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    for path in (file, tmp_path):
        with pytest.raises(ModelError) as caught:
            load(f"hf:{path}", tiny=True)
        assert message in str(caught.value)


# --------------------------------------------------------------------------------- transformers


LLAMA_70B = """{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192,
"intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
"num_key_value_heads": 8, "vocab_size": 128256, "eos_token_id": 128001, "dtype": "bfloat16"}"""


def test_a_configuration_file_decides_class_and_size(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(LLAMA_70B.replace("LlamaForCausalLM", "LlamaForSequenceClassification"))
    loaded = load(f"hf:{file}", tiny=True)
    assert type(loaded.model).__name__ == "LlamaForSequenceClassification"
    assert loaded.model.config.hidden_size == 512
    assert loaded.model.config.num_hidden_layers == 2
    assert loaded.inputs["labels"].shape == (1,)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_seventy_billion_parameters_build_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(LLAMA_70B)
    model = load(f"hf:{tmp_path}", meta=True).model
    assert 70e9 < sum(p.numel() for p in model.parameters()) < 71e9
    assert sum(p.numel() for p in model.parameters() if p.device.type != "meta") < 2e6
    assert model.model.norm.weight.device.type == "cpu"
    assert all(buffer.device.type == "cpu" for buffer in model.buffers())


def test_a_model_larger_than_memory_is_refused_before_it_is_built(tmp_path: Path) -> None:
    text = LLAMA_70B.replace('"vocab_size": 128256', '"vocab_size": 1282560000')
    text = text.replace('"num_hidden_layers": 80', '"num_hidden_layers": 2')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"parameters with their gradients need .* add --tiny"):
        load(f"hf:{tmp_path}")


def test_shrinking_keeps_the_relations_between_sizes() -> None:
    settings = {
        "hidden_size": 4096,
        "head_dim": 128,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 6,
        "layer_types": ["sliding", "sliding", "sliding", "full", "sliding", "sliding"],
        "vocab_size": 32000,
        "eos_token_id": [31999, 2],
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "out_dim": 4096},
        "image_token_id": 31999,
        "id2label": {0: "a", 1: "b"},
    }
    small = shrink(settings, Rung(16))
    assert small["hidden_size"] == small["num_attention_heads"] * small["head_dim"] == 256
    assert small["num_key_value_heads"] == 8
    assert small["vision_config"]["out_dim"] == small["hidden_size"]
    assert small["num_hidden_layers"] == 2
    assert small["layer_types"] == ["sliding", "full"]
    assert small["vocab_size"] == 1000
    assert small["eos_token_id"] == [999, 2]
    assert small["image_token_id"] == 999
    assert (small["num_experts"], small["num_experts_per_tok"]) == (8, 2)
    assert small["id2label"] == settings["id2label"]
    assert shrink(settings, LADDER[-1]) == settings


# ----------------------------------------------------------------------------------- any module


class TwoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + y


MODULES = {
    "linear": (nn.Linear(5, 3), [(8, 5)]),
    "deep": (nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(7, 2))), [(8, 7)]),
    "embedding": (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), [(8, 16)]),
    "conv1d": (nn.Conv1d(2, 3, 3), [(8, 2, 256)]),
    "conv2d": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), [(8, 3, 32, 32)]),
    "patches": (nn.Conv2d(3, 4, 16, 16), [(8, 3, 224, 224)]),
    "conv3d": (nn.Conv3d(1, 2, 3), [(8, 1, 16, 16, 16)]),
    "transposed": (nn.ConvTranspose2d(6, 3, 4, 2), [(8, 6, 32, 32)]),
    "lstm": (nn.LSTM(5, 6, batch_first=True), [(8, 16, 5)]),
    "gru": (nn.GRU(5, 6), [(16, 8, 5)]),
    "cell": (nn.LSTMCell(5, 6), [(8, 5)]),
    "bilinear": (nn.Bilinear(3, 4, 5), [(8, 3), (8, 4)]),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True, kdim=6), None),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), [(8, 16, 8)]),
    "transformer": (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), [(8, 16, 8)] * 2),
}


@pytest.mark.parametrize("name", MODULES)
def test_inputs_are_inferred_from_the_first_layer(name: str) -> None:
    model, shapes = MODULES[name]
    before = torch.get_rng_state()
    inputs = example_inputs(model)
    assert inputs is not None
    assert torch.equal(before, torch.get_rng_state())
    if shapes is not None:
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        assert [tuple(part.shape) for part in parts] == shapes
    call(model, inputs)


def test_no_inputs_are_invented_where_nothing_says_what_fits() -> None:
    assert example_inputs(TwoArguments()) is None
    assert example_inputs(nn.ReLU()) is None


def test_lightning_modules_bring_their_own() -> None:
    model = nn.Linear(2, 2)
    model.example_input_array = torch.ones(3, 2)
    assert example_inputs(model) is model.example_input_array


# ------------------------------------------------------------------------------ without weights


class Tied(nn.Module):
    def __init__(self, width: int = 1100) -> None:
        super().__init__()
        self.embedding = nn.Embedding(width, width)
        self.head = nn.Linear(width, width)
        self.head.weight = self.embedding.weight
        shared = nn.Parameter(torch.randn(width, width), requires_grad=False)
        self.first, self.second = shared, shared
        small = nn.Parameter(
            torch.eye(3)
        )  # allocated before it is registered, unlike the large one
        self.third, self.fourth = small, small
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("table", torch.arange(4.0).reshape(2, 2))


def test_weightless_models_keep_ties_vectors_and_buffers() -> None:
    register = nn.Module.register_parameter
    before = torch.get_rng_state()
    with weightless():
        model = Tied()
    assert nn.Module.register_parameter is register
    assert model.head.weight is model.embedding.weight
    assert model.first is model.second
    assert model.third is model.fourth
    assert model.third.device.type == "meta"
    assert not model.first.requires_grad
    assert model.first.device.type == model.head.weight.device.type == "meta"
    assert model.head.bias.device.type == "cpu"
    assert torch.equal(model.norm.weight, torch.ones(1100))
    assert model.table.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    # Only the bias of the head was drawn.
    spent = torch.Generator()
    spent.set_state(before)
    torch.empty(1100).uniform_(generator=spent)
    assert torch.equal(torch.get_rng_state(), spent.get_state())
    real = Tied(4)
    assert all(p.device.type == "cpu" for p in real.parameters())


def test_weightless_is_undone_after_an_exception() -> None:
    register = nn.Module.register_parameter
    with pytest.raises(TypeError), weightless():
        nn.Linear("three", 4)
    assert nn.Module.register_parameter is register
    assert torch.empty(2048, 2048).device.type == "cpu"


# --------------------------------------------------------------------------------- dependencies


def test_a_missing_package_is_named_with_its_fix() -> None:
    with pytest.raises(DependencyError) as caught:
        import_optional("surely_not_installed")
    assert str(caught.value) == (
        "surely_not_installed: is needed for this model and not installed. "
        "Fix: pip install surely_not_installed"
    )


def test_optional_packages_stay_unimported_until_they_are_used() -> None:
    code = (
        "import sys; from initium._load import load; load('demo:mlp-relu-2');"
        "assert not {'transformers', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

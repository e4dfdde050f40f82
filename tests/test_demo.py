"""The demo's models and its embedded data."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from initium import demo
from initium.demo import data, models
from initium.errors import InputError, ModelError


def test_the_digits_are_those_of_scikit_learn() -> None:
    images, labels = data.digits(1797)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    # Class counts of the UCI test set, and two pixels of its first image.
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(images.mean().item()) < 1e-4
    assert abs(images.std().item() - 1) < 1e-3
    values = images.unique()
    assert len(values) == 17
    levels = torch.searchsorted(values, images[0, 0])
    assert levels[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert levels[7].tolist() == [0, 0, 6, 13, 10, 0, 0, 0]


def test_digit_batches() -> None:
    images, labels = data.digits(5)
    flat, same = data.digits(5, flat=True)
    assert tuple(images.shape) == (5, 1, 8, 8)
    assert torch.equal(images.flatten(1), flat)
    assert torch.equal(labels, same)
    images.zero_()
    assert data.digits(5)[0].abs().sum() > 0


def test_the_text_is_the_start_of_the_book() -> None:
    text = data.text()
    assert len(text) == 73531
    assert text.startswith("CHAPTER I\n\n")
    assert "Alice was beginning to get very tired of sitting by her sister" in text
    assert "\r" not in text
    assert set(text) == set(data.ALPHABET)
    assert len(set(data.ALPHABET)) == len(data.ALPHABET) == 67


def test_text_batches_predict_the_next_character() -> None:
    ids, targets = data.text_batch(3, 40)
    assert tuple(ids.shape) == tuple(targets.shape) == (3, 40)
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    for row in ids:
        assert "".join(data.ALPHABET[i] for i in row) in data.text()
    assert len({tuple(row.tolist()) for row in ids}) == 3


@pytest.mark.parametrize("count", [0, -1, 1798])
def test_too_many_digits(count: int) -> None:
    with pytest.raises(InputError, match="count: there are 1 to 1797 digits"):
        data.digits(count)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1000, 100)])
def test_too_much_text(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="text_batch: the text has 73531 characters"):
        data.text_batch(*shape)


@pytest.mark.parametrize("name", ["digits.npz", "alice.txt.gz"])
def test_damaged_data_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: the embedded data file is damaged") as caught:
        data.verified(name, b"something else")
    assert hashlib.sha256(b"something else").hexdigest()[:12] in str(caught.value)


NAMES = {
    "mlp-relu-50": (128, 10),
    "mlp-leaky_relu-3-32": (128, 10),
    "mlp-tanh-1": (128, 10),
    "convnet": (128, 10),
    "resnet": (128, 10),
    "vit": (128, 10),
    "gpt": (16, 64, 67),
    "gpt-2": (16, 64, 67),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_demo_trains_on_its_batch(name: str) -> None:
    model, inputs, targets, loss_fn = demo.build(name)
    output = model(inputs)
    assert tuple(output.shape) == NAMES[name]
    assert loss_fn is None
    F.cross_entropy(output.flatten(0, -2), targets.flatten()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_names_set_depth_and_width() -> None:
    model = demo.build("demo:mlp-gelu-7-48")[0]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in layers] == [48] * 6 + [10]
    assert sum(isinstance(module, nn.GELU) for module in model.modules()) == 6
    gpt = demo.build("gpt-3")[0]
    assert isinstance(gpt, models.GPT)
    assert len(gpt.blocks) == 3
    assert gpt.head.weight is gpt.embedding.weight


def test_a_gpt_does_not_see_the_future() -> None:
    model, ids, _, _ = demo.build("gpt-2")
    changed = ids.clone()
    changed[:, 40:] = 0
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl-relu-3", "demo: there is no such demo model (got 'mpl-relu-3'); choose from mlp-"),
        ("mlp", "there is no such demo model (got 'mlp')"),
        ("vit-3", "there is no such demo model (got 'vit-3')"),
        ("gpt-2-3", "there is no such demo model (got 'gpt-2-3')"),
        ("mlp-rleu-3", "demo:mlp-rleu-3: has no activation 'rleu'; choose from relu, leaky_relu"),
        ("mlp-relu-0", "demo:mlp-relu-0: the depth must be a whole number from 1 to 1000"),
        ("mlp-relu-x", "the depth must be a whole number from 1 to 1000 (got 'x')"),
        ("mlp-relu-3-99999", "the width must be a whole number from 1 to 8192 (got '99999')"),
        ("gpt-0", "the number of layers must be a whole number"),
    ],
)
def test_unknown_demos(name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        demo.build(name)
    assert message in str(caught.value)

"""The callbacks, in the real trainers: they stop what is broken, and change nothing else."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initium._load.optional import import_optional
from initium.errors import InputError
from initium.integrations import (
    StartWarning,
    UnhealthyStart,
    Watch,
    lightning_callback,
    trainer_callback,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Spoil = Callable[[nn.Module], object]


def huge_head(model: nn.Module) -> None:
    weights = [p for p in model.parameters() if p.dim() > 1]
    weights[0].data.mul_(100)


def broken(model: nn.Module) -> None:
    next(model.parameters()).data.view(-1)[0] = math.nan


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


# ---------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def transformers() -> Any:
    _need("transformers", "accelerate")
    return import_optional("transformers")


def train_hf(
    transformers: Any, folder: Path, callback: Any = None, spoil: Spoil | None = None, **more: Any
) -> nn.Module:
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    if spoil is not None:
        spoil(model)
    ids = [torch.randint(0, 50, (16,)) for _ in range(32)]
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, **more}
    args = transformers.TrainingArguments(
        output_dir=str(folder), report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True, logging_strategy="no", **given,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model,
        args,
        train_dataset=[{"input_ids": one, "labels": one} for one in ids],
        callbacks=[callback] if callback is not None else [],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of Accelerate and of data loaders
            warnings.simplefilter("always", StartWarning)
            trainer.train()
    finally:
        assert not model._forward_pre_hooks
        assert not model._forward_hooks
    return model


def test_the_trainer_trains_to_the_same_bits(transformers: Any, tmp_path: Path) -> None:
    callback = trainer_callback(steps=3)
    alone, watched = train_hf(transformers, tmp_path), train_hf(transformers, tmp_path, callback)
    for one, other in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    watch = callback.watch
    assert watch.report.ok
    assert watch.report.loss.classes == 50
    assert [one.step for one in watch.history] == [1, 2, 3]
    assert watch.history[0].loss == pytest.approx(watch.report.loss.value, rel=0.05)  # dropout
    for one in watch.history:
        assert one.gradient_norm == pytest.approx(1.0, abs=0.2)  # the Trainer clips at 1
        assert 1e-4 < one.update_ratio < 1e-1


def test_the_trainer_stops_before_the_first_step(transformers: Any, tmp_path: Path) -> None:
    callback = trainer_callback()
    with pytest.raises(UnhealthyStart, match=r"step zero: error IN501, first loss too high.*Fix: "):
        train_hf(transformers, tmp_path, callback, huge_head)
    assert callback.watch.history == []
    assert not callback.watch.report.ok


def test_the_trainer_warns_and_goes_on(transformers: Any, tmp_path: Path) -> None:
    callback = trainer_callback("warn", steps=2)
    with pytest.warns(StartWarning, match="step zero: error IN501"):
        train_hf(transformers, tmp_path, callback, huge_head)
    assert len(callback.watch.history) == 2


def test_the_trainer_does_not_check_a_resumed_run(transformers: Any, tmp_path: Path) -> None:
    callback = trainer_callback()
    model = nn.Linear(2, 2)
    state = type("State", (), {"global_step": 5})()
    callback.on_train_begin(None, state, None, model=model)
    model(torch.ones(1, 2))
    assert callback.watch.report is None
    callback.on_train_end(None, state, None)
    assert not model._forward_hooks


# ---------------------------------------------------------------- lightning


@pytest.fixture(scope="module")
def lightning() -> Any:
    _need("lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = import_optional("lightning").pytorch
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return found


def train_lightning(
    lightning: Any, callback: Any = None, spoil: Spoil | None = None, rate: float = 0.01
) -> nn.Module:
    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(8, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 4)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            loss = F.cross_entropy(self(x), y)
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=rate)

    torch.manual_seed(1)
    module = Module()
    if spoil is not None:
        spoil(module)
    data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randint(0, 4, (64,)))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", StartWarning)
        trainer = lightning.Trainer(
            max_steps=6, callbacks=[callback] if callback is not None else [], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, loader)
    assert "forward" not in module.__dict__
    assert "log" not in module.__dict__
    return module


def test_lightning_trains_to_the_same_bits(lightning: Any) -> None:
    callback = lightning_callback(steps=3)
    alone, watched = train_lightning(lightning), train_lightning(lightning, callback)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    watch = callback.watch
    assert watch.report.ok
    assert "net.4" in watch.report.layers
    assert [one.step for one in watch.history] == [1, 2, 3]
    assert all(one.loss and one.gradient_norm and one.update_ratio for one in watch.history)


def test_lightning_stops_before_the_first_step(lightning: Any) -> None:
    callback = lightning_callback()
    with pytest.raises(UnhealthyStart, match="step zero: error IN101"):
        train_lightning(lightning, callback, broken)
    assert callback.watch.history == []


def test_lightning_sees_a_run_that_breaks_later(lightning: Any) -> None:
    callback = lightning_callback()
    with pytest.raises(UnhealthyStart, match=r"step [2-6]: error IN81[12]"):
        train_lightning(lightning, callback, rate=1e30)
    assert callback.watch.report.ok
    assert 1 <= len(callback.watch.history) < 6


# ---------------------------------------------------------------- the watch itself


def stepped(watch: Watch, model: nn.Module, rate: float, scale: float = 1.0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loss = scale * model(torch.ones(2, 8)).square().mean()
    loss.backward()
    watch.loss(float(loss.detach()))
    watch.before_step(model)
    optimizer.step()
    watch.after_step(model)
    optimizer.zero_grad()


def test_the_record_is_what_happened() -> None:
    model, watch = nn.Linear(8, 8), Watch(steps=1)
    before = model.weight.detach().clone()
    loss = model(torch.ones(2, 8)).square().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    stepped(watch, model, 0.01)
    (one,) = watch.history
    assert one.loss == pytest.approx(float(loss.detach()))
    assert one.gradient_norm == pytest.approx(math.hypot(*(float(g.norm()) for g in grads)))
    moved = float((model.weight.detach() - before).norm() / before.norm())
    assert one.update_ratio == pytest.approx(moved, rel=1e-4)
    assert not watch.watching


def test_each_warning_comes_once() -> None:
    model, watch = nn.Linear(8, 8), Watch(steps=9)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for scale in (1.0, 1e-6, 1e-6, 1e6, 1e6):
            stepped(watch, model, 1e-6, scale)
    texts = [str(one.message) for one in told]
    assert [text.split()[3] for text in texts] == ["IN813,", "IN812,"]
    assert "larger learning rate" in texts[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(value: float) -> None:
    with pytest.raises(UnhealthyStart, match=r"step 1: error IN811, the loss is (nan|inf)"):
        Watch().loss(value)
    with pytest.warns(StartWarning, match="error IN811"):
        Watch(action="warn").loss(value)


def test_a_model_that_cannot_be_checked_is_a_warning() -> None:
    with pytest.warns(StartWarning, match="could not be checked at step zero: inputs: "):
        Watch().first_batch(nn.Linear(8, 8), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"action": "explode"}, "action: is no action .* choose from abort, warn"),
        ({"fail_on": "fatal"}, "fail_on: is not a severity .* choose from error, warning, info"),
        ({"steps": -1}, "steps: must not be negative"),
    ],
)
def test_arguments_that_are_none(given: dict[str, Any], message: str) -> None:
    watch = object.__new__(Watch)
    for name, value in {"action": "abort", "fail_on": "error", "steps": 3, **given}.items():
        object.__setattr__(watch, name, value)
    with pytest.raises(InputError, match=message):
        watch.__post_init__()  # past the run-time check of types

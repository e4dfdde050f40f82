"""Findings name the root and not its consequences: a parameter, a module, or the loss itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from nets import Average
from torch import nn

import initium
from initium._check.batch import batch_facts
from initium._check.deep.steps import optimizer_of, step_of
from initium._check.parameters import duplicate_rows
from initium._report.records import Finding, Report
from initium.errors import InputError
from initium.integrations import StartWarning, UnhealthyStart, Watch


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(1))


def found(report: Report, code: str) -> Finding:
    assert code in [finding.code for finding in report.findings], str(report)
    return next(finding for finding in report.findings if finding.code == code)


def alarms(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity != "info"]


def relu_net(depth: int, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(32 if index == 0 else width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model[-1].weight, std=0.02)
    return model


# ---------------------------------------------------------------- the loss


class Returning(nn.Module):
    """Logits and a loss, in a tuple of some order."""

    def __init__(self, order: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.body, self.order = relu_net(2), order

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> object:
        logits = self.body(x)
        return self.order(logits, F.cross_entropy(logits, y))


@pytest.mark.parametrize(
    "order",
    [lambda z, loss: (z, loss), lambda z, loss: (loss, z), lambda z, loss: (loss,)],
    ids=["logits first", "loss first", "alone"],
)
def test_a_loss_inside_a_tuple_is_the_models_own(
    order: Callable[[torch.Tensor, torch.Tensor], object],
) -> None:
    report = initium.check(Returning(order), (X, Y))
    assert report.loss.source == "model"
    assert report.loss.value == pytest.approx(math.log(10), rel=0.1)


def test_an_auxiliary_loss_beside_logits_is_not_the_loss() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.body = nn.Linear(32, 4), relu_net(2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.body(x), self.router(x).square().mean()

    report = initium.check(Experts(), X)
    assert report.loss.source == "random cotangent"
    assert "IN304" not in alarms(report)
    assert initium.check(Experts(), X, Y).loss.source == "cross-entropy"


def test_a_softmax_before_cross_entropy_is_named() -> None:
    model = nn.Sequential(relu_net(2), nn.Softmax(-1))
    finding = found(initium.check(model, X, Y), "IN501")
    assert (finding.title, finding.where) == ("softmax applied twice", ("loss",))
    assert "softmax" in finding.fix
    finding = found(
        initium.check(relu_net(2), X, Y, lambda z, y: F.cross_entropy(2 * z.softmax(-1) / 2, y)),
        "IN501",
    )
    assert finding.title == "softmax applied twice"
    assert initium.check(relu_net(2), X, Y, F.cross_entropy).findings == ()


def test_a_summed_loss_is_named() -> None:
    report = initium.check(relu_net(2), X, Y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    assert alarms(report) == ["IN501"]
    assert "mean" in found(report, "IN501").fix


def test_an_oversized_first_layer_is_named_and_not_the_last_one() -> None:
    model = relu_net(2)
    with torch.no_grad():
        model[0].weight.mul_(100)
    finding = found(initium.check(model, X, Y), "IN501")
    assert finding.where[:2] == ("0", "0.weight")


@pytest.mark.parametrize(("samples", "leak"), [(16, False), (64, True)])
def test_a_leak_is_none_where_one_of_so_many_features_fits_by_chance(
    samples: int, leak: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (samples, 8000), generator=generator).float()
    targets = bits[:, 5].long()
    assert (batch_facts(bits, targets).leak is not None) == leak
    assert batch_facts(bits[:, :1] + torch.randn(samples, 1), targets).leak is None


# ---------------------------------------------------------------- places


class Mixing(nn.Module):
    """Attention in the block's own forward; without its shortcut if asked for."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + mixed if self.shortcut else mixed


@pytest.mark.parametrize("shortcut", [False, True])
def test_tokens_that_become_alike_where_the_block_itself_attends(shortcut: bool) -> None:
    model = nn.Sequential(nn.Embedding(50, 64), *(Mixing(64, shortcut) for _ in range(6)))
    report = initium.check(model, torch.randint(0, 50, (8, 16)))
    assert ("IN207" in alarms(report)) != shortcut


class Outside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(50, 64), nn.ModuleList(Average(64) for _ in range(4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_branches_that_average_tokens_are_no_collapse_of_the_stream() -> None:
    report = initium.check(Outside(), torch.randint(0, 50, (8, 16)))
    assert report.layers["layers.3"].token_cosine > 0.98
    assert "IN207" not in alarms(report)


def test_dead_units_name_the_bias_that_kills_them() -> None:
    model = relu_net(4)
    nn.init.constant_(model[4].bias, -30.0)
    finding = found(initium.check(model, X, Y), "IN401")
    assert finding.where[:2] == ("4.bias", "5")


class Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


def test_a_detached_output_names_the_module_behind_which_it_is_cut() -> None:
    model = relu_net(4)
    model.insert(4, Cut())
    finding = found(initium.check(model, X, Y), "IN304")
    assert finding.where[0] == "4"
    assert ".detach()" in finding.fix


def test_a_cut_is_found_where_the_head_shares_the_table() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(50, 32), nn.Sequential()
            for module in (nn.Linear(32, 32), Cut(), nn.Linear(32, 32)):
                self.body.append(module)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.body(self.embed(ids)) @ self.embed.weight.T

    ids = torch.randint(0, 50, (8, 6))
    finding = found(initium.check(Tied(), ids), "IN304")
    assert finding.where == ("body.1", "body.0.weight", "body.0.bias")


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x + 1


def test_a_constant_names_the_module_that_hands_it_on() -> None:
    model = relu_net(4)
    model.insert(4, Constant())
    finding = found(initium.check(model, X, Y), "IN203")
    assert finding.where[0] == "4"
    assert "first" in finding.fix


def test_zero_pairs_behind_a_zero_head_stay_zero() -> None:
    """The head opens at step 2, and the pair does not."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
            self.head = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.down(F.gelu(self.up(x))))

    model = Block()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    finding = found(initium.check(model, X, Y), "IN303")
    assert finding.severity == "error"
    assert set(finding.where[:2]) == {"up.weight", "down.weight"}
    nn.init.normal_(model.up.weight, std=0.1)
    assert alarms(initium.check(model, X, Y)) == []


class Louder(nn.Module):
    """The identity whose gradient is multiplied."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x + ((1 - self.factor) * x).detach()


@pytest.mark.parametrize(("factor", "code"), [(1e3, "IN302"), (1e-3, "IN301"), (1.5, None)])
def test_gradients_are_compared_with_those_of_their_kind(factor: float, code: str | None) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up = nn.LayerNorm(32), nn.Linear(32, 64)
            self.down, self.louder = nn.Linear(64, 32), Louder(factor)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.louder(x + 0.001 * self.down(F.gelu(self.up(self.norm(x)))))

    model = nn.Sequential(*(Residual() for _ in range(4)), nn.LayerNorm(32), nn.Linear(32, 10))
    found_codes = [c for c in alarms(initium.check(model, X, Y)) if c in ("IN301", "IN302")]
    assert found_codes == ([code] if code else [])


def test_layers_that_are_left_out_at_random_are_not_unused() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(layerdrop=0.999)
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                if not self.training or torch.rand([]) > self.config.layerdrop:
                    x = x + layer(x)
            return x

    model = Dropping()
    assert "IN304" not in alarms(initium.check(model, X))
    assert model.config.layerdrop == 0.999


def test_a_mask_token_without_a_mask_is_information() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_token = nn.Parameter(torch.randn(1, 1, 32))
            self.body = relu_net(2)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return self.body(x if mask is None else x.where(mask, self.mask_token[0]))

    mask = torch.ones(64, 1, dtype=torch.bool)
    model = Masked()
    view = initium.inspect(model, (X, mask))
    finding = found(initium.check(model, X, Y, view=view), "IN304")
    roles = view.parameters["mask_token"].role
    assert finding.severity == ("info" if roles == "token" else "warning")


# ---------------------------------------------------------------- first steps


def test_a_scaler_that_looks_for_its_scale_is_no_fault() -> None:
    model = nn.Linear(4, 4)
    model(torch.ones(2, 4)).sum().backward()
    assert model.weight.grad is not None
    model.weight.grad.fill_(math.inf)
    watch = Watch()
    with pytest.raises(UnhealthyStart, match="IN812"):
        watch.before_step(model)
    watch = Watch()
    for _ in range(3):
        watch.before_step(model, scaled=True)
        watch.after_step(model)
    model.weight.grad.fill_(1.0)
    watch.before_step(model, scaled=True)
    with torch.no_grad():
        model.weight.mul_(1.001)
    watch.after_step(model)
    model.weight.grad.fill_(1e5)
    with pytest.warns(StartWarning, match="IN812"):
        watch.before_step(model, scaled=True)


def test_an_optimizer_that_raises_is_named() -> None:
    model = nn.Linear(4, 4)

    def broken(model: nn.Module) -> torch.optim.Optimizer:
        raise KeyError("lr")

    with pytest.raises(InputError, match=r"optimizer.*KeyError"):
        optimizer_of(model, broken)
    model(torch.ones(2, 4)).sum().backward()
    with pytest.raises(InputError, match=r"optimizer.*closure"):
        step_of(torch.optim.LBFGS(model.parameters()))


def test_a_builder_that_seeds_itself_and_puts_the_generator_back() -> None:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Linear(16, 16)

    finding = found(initium.audit(build), "IN707")  # type: ignore[arg-type]
    assert finding.severity == "warning"
    assert "manual_seed" in finding.fix


def test_small_rows_of_a_fused_matrix_are_no_copies() -> None:
    weights, gradient = torch.randn(96, 32), torch.randn(96, 32)
    weights[:64] *= 1e-5
    assert duplicate_rows(weights, gradient, (0,)) == 0
    weights[3], gradient[3] = weights[5], gradient[5]
    weights[90:92], gradient[90] = 0.0, gradient[91]
    assert duplicate_rows(weights, gradient, (0,)) == 4

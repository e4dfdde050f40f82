"""Weights that are used again, in parts, in several ways, or not at all.

Cases read as in rules.py: recurrences written as a loop, products with parts besides queries, keys
and values, matrices in slices, blocks that are shared over depth. Then what a view says of branches
that were not seen and of modules that nothing calls.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from rules import TOKENS, WIDTH, assert_seen, joined, registry, split
from torch import Tensor, nn

import initium
from initium import inspect
from initium._plan.places import variables

CASES, case = registry()
STATE = 12


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_rule(name, renamed):
    assert_seen(*CASES[name], renamed=renamed)


# -- recurrences in a loop ------------------------------------------------------------------------


class Cell(nn.Module):
    """An input and a hidden matrix for so many gates, and a head on the last state."""

    gates = 1

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(WIDTH, self.gates * STATE)
        self.u = nn.Linear(STATE, self.gates * STATE)
        self.last = nn.Linear(STATE, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(2, STATE)
        for t in range(5):
            h, c = self.step(x[:, t], h, c)
        return self.last(h)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


RECURRENT = {
    "w.weight": "recurrent_input 16 12",
    "u.weight": "recurrent_hidden 12 12",
    "w.bias": "bias",
    "last.weight": "head 12 3",
}


@case(TOKENS, RECURRENT)
class Plain(Cell):
    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.w(x) + self.u(h)), c


@case(TOKENS, RECURRENT)
class Leaky(Cell):
    """The state is added to, as in a residual stream; but every step reads another token."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return h + 0.1 * torch.tanh(self.u(h) + self.w(x)), c


@case(TOKENS, RECURRENT)
class Normed(Cell):
    """A norm before the function, and the state dropped out."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(F.layer_norm(self.w(x) + self.u(F.dropout(h)), (STATE,))), c


@case(
    TOKENS,
    RECURRENT
    | {
        "w.weight": "recurrent_input 16 gate=12 gate=12 cell=12 gate=12",
        "u.weight": "recurrent_hidden 12 gate=12 gate=12 cell=12 gate=12",
    },
)
class LongShort(Cell):
    gates = 4

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (self.w(x) + self.u(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@case(
    TOKENS,
    RECURRENT
    | {
        "w.weight": "recurrent_input 16 gate=12 gate=12 cell=12",
        "u.weight": "recurrent_hidden 12 gate=12 gate=12 cell=12",
    },
)
class GatedUnit(Cell):
    gates = 3

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        (a, b, n), (d, e, f) = self.w(x).chunk(3, -1), self.u(h).chunk(3, -1)
        reset, update = torch.sigmoid(a + d), torch.sigmoid(b + e)
        return (1 - update) * torch.tanh(n + reset * f) + update * h, c


@case(
    TOKENS,
    {
        "w.0": "recurrent_input 16 12",
        "w.1": "recurrent_input 16 12",
        "w.2": "recurrent_input 16 12",
        "u.0": "recurrent_hidden 12 12",
        "u.1": "recurrent_hidden 12 12",
        "u.2": "recurrent_hidden 12 12",
        "last.weight": "head 12 3",
    },
)
class MatrixPerGate(nn.Module):
    """``x @ w``, all steps of the input at once, the reset before the hidden matrix, a lerp."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList(torch.ones(WIDTH, STATE) for _ in range(3))
        self.u = nn.ParameterList(torch.ones(STATE, STATE) for _ in range(3))
        self.last = nn.Linear(STATE, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, seen = x.new_zeros(2, STATE), []
        given = [(x @ w).unbind(1) for w in self.w]
        for r, z, n in zip(*given, strict=True):
            reset = torch.sigmoid(r + h @ self.u[0])
            update = torch.sigmoid(z + h @ self.u[1])
            h = torch.lerp(torch.tanh(n + (reset * h) @ self.u[2]), h, update)
            seen.append(h)
        return self.last(torch.stack(seen, 1))


@case(TOKENS, {"both.weight": "recurrent_input 28 gate=12 gate=12 cell=12 gate=12"})
class OneMatrixForBoth(Cell):
    """The input and the state side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(WIDTH + STATE, 4 * STATE)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.both(torch.cat([x, h], -1)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@case(
    torch.zeros(2, 5, dtype=torch.long),
    {
        "table.weight": "embedding 1 16",
        "w.0.weight": "recurrent_input 16 16",
        "u.0.weight": "recurrent_hidden 16 16",
        "w.1.weight": "recurrent_input 16 16",
        "u.1.weight": "recurrent_hidden 16 16",
        "last.weight": "head 16 9",
    },
)
class TwoLayers(nn.Module):
    """The second reads the first's states, and adds its own to them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, 9)
        self.u, self.w = (
            nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2)) for _ in range(2)
        )

    def forward(self, ids: Tensor) -> Tensor:
        first = second = torch.zeros(2, WIDTH, device=ids.device)
        seen = []
        for t in range(5):
            first = torch.tanh(self.w[0](self.table(ids[:, t])) + self.u[0](first))
            second = torch.tanh(self.w[1](first) + self.u[1](second))
            seen.append(self.last(first + second))
        return torch.stack(seen, 1)


@case(
    TOKENS,
    RECURRENT
    | {"first.weight": "linear 16 12", "up.weight": "mlp_up 12 24"}
    | {"down.weight": "mlp_down 24 12 writes"},
)
class StatesInAStream(Cell):
    """The first state is made by a matrix, and the states, side by side, are added to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, STATE)
        self.up, self.down = nn.Linear(STATE, 24), nn.Linear(24, STATE)

    def forward(self, x: Tensor) -> Tensor:
        h, seen = self.first(x.mean(1)), []
        for given in self.w(x).unbind(1):
            h = 0.9 * h + 0.1 * torch.tanh(given + self.u(h))
            seen.append(h)
        y = torch.stack(seen, 1)
        return self.last(y + self.down(F.gelu(self.up(y))))


@case(TOKENS, {"into.weight": "linear 16 12", "u.weight": "linear 12 12 writes"})
class DepthAndNoTime(nn.Module):
    """One matrix again and again: with nothing new in a step, its sums are residual."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.u = nn.Linear(WIDTH, STATE), nn.Linear(STATE, STATE)
        self.last = nn.Linear(STATE, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for part in torch.ones(4, device=x.device).unbind():
            x = x + torch.relu(self.u(F.layer_norm(x, (STATE,)))) * part
        return self.last(x)


# -- parts of a product ---------------------------------------------------------------------------


class Fused(nn.Module):
    def __init__(self, more: int, inner: int = 0) -> None:
        super().__init__()
        self.fused, self.out = nn.Linear(WIDTH, 48 + more), nn.Linear(WIDTH + inner, WIDTH)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(
            F.scaled_dot_product_attention(split(q, 4), split(k, 4), split(v, 4), is_causal=True)
        )


@case(TOKENS, {"fused.weight": "attn_qkv 16 q=16 k=16 v=16 gate=16",
               "out.weight": "attn_out 16 16 writes"})  # fmt: skip
class GateBeside(Fused):
    def __init__(self) -> None:
        super().__init__(16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, gate = self.fused(F.layer_norm(x, (WIDTH,))).chunk(4, -1)
        return x + self.out(self.mixed(q, k, v) * torch.sigmoid(gate))


@case(TOKENS, {"fused.weight": "attn_qkv 16 up=64 q=16 k=16 v=16",
               "out.weight": "attn_out 80 16 writes"})  # fmt: skip
class MlpBeside(Fused):
    """ViT-22B: one matrix into attention and MLP, one out of both."""

    def __init__(self) -> None:
        super().__init__(64, inner=64)

    def forward(self, x: Tensor) -> Tensor:
        up, q, k, v = self.fused(F.layer_norm(x, (WIDTH,))).split([64, 16, 16, 16], -1)
        return x + self.out(torch.cat([self.mixed(q, k, v), F.gelu(up)], -1))


@case(
    TOKENS,
    {
        "fused.weight": "attn_qkv 16 q=16 k=16 v=16 up=32 gate=32",
        "out.weight": "attn_out 16 16 writes",
        "down.weight": "mlp_down 32 16 writes",
    },
)
class GatedMlpBeside(Fused):
    """PaLM's parallel block: the MLP has a matrix of its own to write with."""

    def __init__(self) -> None:
        super().__init__(64)
        self.down = nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, inner = self.fused(F.layer_norm(x, (WIDTH,))).split([16, 16, 16, 64], -1)
        up, gate = inner.chunk(2, -1)
        return x + self.out(self.mixed(q, k, v)) + self.down(F.silu(gate) * up)


def test_the_gain_of_what_stands_beside_attention():
    gate, up = (
        next(block for block in inspect(make(), TOKENS).parameters["fused.weight"].blocks
             if block.label == label)
        for make, label in ((GateBeside, "gate"), (MlpBeside, "up"))
    )  # fmt: skip
    assert (gate.activation, gate.gain) == ("sigmoid", 1.0)
    assert up.activation == "gelu"
    assert up.gain == pytest.approx(2.3515, rel=1e-3)


# -- slices of a parameter ------------------------------------------------------------------------


class Flat(nn.Module):
    """Two matrices and their biases in one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Parameter(torch.ones(512 + 32 + 512 + 16))

    def forward(self, x: Tensor) -> Tensor:
        first, bias, second, end = self.all.split([512, 32, 512, 16])
        inner = F.gelu(F.linear(x, first.view(32, 16), bias))
        return x + F.linear(inner, second.view(16, 32), end)


def test_matrices_in_a_vector_have_fans_of_their_own():
    view = inspect(Flat(), TOKENS).parameters["all"]
    assert view.role == "linear"
    assert [(block.label, block.start, block.size, block.fans) for block in view.blocks] == [
        ("matrix", 0, 512, (16, 32)),
        ("bias", 512, 32, None),
        ("matrix", 544, 512, (32, 16)),
        ("bias", 1056, 16, None),
    ]
    assert [block.activation for block in view.blocks] == ["gelu", None, None, None]


def test_matrices_in_a_vector_are_planned_one_by_one():
    plan = initium.plan(Flat(), "lecun", inputs=TOKENS)
    drawn = torch.from_numpy(plan.tensor("all").numpy())
    assert drawn[:512].std().item() == pytest.approx(1 / 4, rel=0.15)
    assert drawn[544:1056].std().item() == pytest.approx(32**-0.5, rel=0.15)
    assert not drawn[512:544].any()


@case(TOKENS, {"pack": "linear 16 matrix=8 matrix=24", "last.weight": "head 32 3"})
class UnevenSlices(nn.Module):
    """Two matrices of different sizes, one below the other."""

    def __init__(self) -> None:
        super().__init__()
        self.pack, self.last = nn.Parameter(torch.ones(32, WIDTH)), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = (F.linear(x, self.pack[:8]), F.linear(x, self.pack[8:]))
        return self.last(torch.cat([torch.relu(parts[0]), torch.tanh(parts[1])], -1))


# -- shared over depth ----------------------------------------------------------------------------


class SharedBlock(nn.Module):
    """ALBERT: one block, used again; post-norm, so that every sum begins a stream."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.qkv, self.out = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.one, self.two = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.depth):
            q, k, v = (split(part, 4) for part in self.qkv(x).chunk(3, -1))
            x = self.one(x + self.out(joined(F.scaled_dot_product_attention(q, k, v))))
            x = self.two(x + self.down(F.gelu(self.up(x))))
        return self.last(x)


@pytest.mark.parametrize("depth", [1, 4])
def test_layers_count_the_uses_of_a_shared_block(depth):
    view = inspect(SharedBlock(depth), TOKENS)
    for name, first in (("out.weight", 0), ("down.weight", 1)):
        seen = view.parameters[name]
        assert seen.writes_residual
        assert seen.trunk_depths == (tuple(range(first, 2 * depth, 2)) if depth > 1 else ())
        assert variables(seen, view)["layers"] == depth


def test_a_recipe_scaled_by_depth_sees_shared_blocks():
    stds = [
        initium.plan(SharedBlock(depth), "nanogpt", inputs=TOKENS).entries["down.weight"].std
        for depth in (1, 4)
    ]
    assert stds[0] / stds[1] == pytest.approx(2.0)


# -- several jobs ---------------------------------------------------------------------------------


class TwoJobs(nn.Module):
    """The matrices of an attention are those of a feed-forward, too."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(self.read(x), 4) for _ in range(3))
        x = x + self.write(joined(F.scaled_dot_product_attention(q, k, v)))
        return self.last(x + self.write(F.relu(self.read(x))))


def test_a_weight_with_two_jobs_is_plain_and_both_are_named():
    seen = inspect(TwoJobs(), TOKENS).parameters
    read, write = seen["read.weight"], seen["write.weight"]
    assert (read.role, write.role) == ("linear", "linear")
    assert write.writes_residual
    assert "an attention and for the first matrix of a feed-forward" in str(read.evidence["role"])
    assert "output of an attention and for the last matrix" in str(write.evidence["role"])


def test_a_weight_that_is_also_used_transposed():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(WIDTH, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.relu(self.code(x)), self.code.weight.t())

    view = inspect(Tied(), TOKENS).parameters["code.weight"]
    assert (view.fan_in, view.fan_out) == (16, 6)
    assert view.evidence["uses"].detail.endswith("and for the transpose of itself")


# -- activations and gates ------------------------------------------------------------------------

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where zeros": lambda x: torch.where(x > 0, x, x.new_zeros(1, 1).expand(x.shape)),
    "fill": lambda x: x.masked_fill(x < 0, 0.0),
    "full": lambda x: torch.maximum(x, torch.full_like(x, 0.0)),
}


class Mlp(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.function(self.up(x)))


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_relu_written_out(name):
    view = inspect(Mlp(RECTIFIERS[name]), TOKENS).parameters["up.weight"]
    assert (view.role, view.activation, view.gain) == ("mlp_up", "relu", 2.0)


def test_a_floor_of_ones_is_no_relu():
    view = inspect(Mlp(lambda x: torch.maximum(x, torch.ones_like(x))), TOKENS)
    assert str(view.parameters["up.weight"].activation).startswith("custom")


@case(TOKENS, {"a": "mlp_up 16 32", "b": "mlp_up 16 32", "down": "mlp_down 32 16 writes"})
class BilinearGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(WIDTH, 32)) for _ in range(2))
        self.down = nn.Parameter(torch.ones(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (WIDTH,))
        return x + ((y @ self.a) * (y @ self.b)) @ self.down


@case(TOKENS, {"both.weight": "mlp_gate_up 16 up=32 up=32", "down.weight": "mlp_down 32 16 writes"})
class BilinearHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(WIDTH, 64), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(x).chunk(2, -1)
        return x + self.down(first * second)


@case(
    TOKENS,
    {f"gates.{i}.weight": "linear 16 16" for i in range(3)}
    | {f"parts.{i}.weight": "linear 16 16 writes" for i in range(3)},
)
class Highways(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.gates, self.parts = (
            nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for gate, part in zip(self.gates, self.parts, strict=True):
            opened = torch.sigmoid(gate(x))
            x = opened * torch.relu(part(x)) + (1 - opened) * x
        return self.last(x)


# -- what was not seen ----------------------------------------------------------------------------


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        y = torch.relu(self.b(y)) if y.mean() > 0 else torch.tanh(self.b(y))
        return self.c(y)


def test_what_follows_a_branch_of_the_outermost_module_rests_on_an_invented_value():
    view = inspect(Branches(), TOKENS)
    rungs = {name: seen.evidence["role"].rung for name, seen in view.parameters.items()}
    assert rungs == {
        f"{name}.{leaf}": "traced" if name == "a" else "invented"
        for name in "abc"
        for leaf in ("weight", "bias")
    }
    assert "Invented: a condition in the model" in view.notes


class Uncalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(WIDTH, 7)
        self.side = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 2))
        self.alone = nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_what_forward_never_calls_is_told_apart():
    view = inspect(Uncalled(), TOKENS)
    said = {name: str(seen.evidence["role"]) for name, seen in view.parameters.items()}
    assert "forward()" not in said["used.weight"]
    assert said["side.0.weight"].endswith("not reached by forward() (entered at side)")
    assert view.parameters["side.0.weight"].activation == "relu"
    assert said["alone.weight"] == "declared: weight of Linear; nothing used it"
    assert view.parameters["alone.weight"].uses == 0
    assert view.unreached == (
        "side.0.weight", "side.0.bias", "side.2.weight", "side.2.bias", "alone.weight",
    )  # fmt: skip
    assert view.notes == (
        "Not reached by forward(), 5: side.0.weight, side.0.bias, side.2.weight, side.2.bias, ...",
    )


def test_where_forward_fails_nothing_is_called_unused():
    class Failing(Uncalled):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    view = inspect(Failing(), TOKENS)
    assert view.problem
    assert view.unreached == ()
    assert "not reached by forward()" not in str(view.parameters["side.0.weight"].evidence["role"])

"""One rule per operator: what is known of its output from what is known of its inputs.

The output itself has been computed from samples when a rule is asked. A rule says whether its
second moments are those of infinite width; where they are not by themselves, because an average
over finitely many channels strays, it corrects them to their closed form. Whatever has no rule, and
whatever a rule declines, is ``monte carlo`` from there on: computed, not guessed.

What each rule takes for granted is in :data:`ASSUMPTIONS`. Without a closed form: softmax and
products of dependent signals (attention), maxima, sorting, routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from initium._predict.field.fields import (
    CLOSED,
    PLAIN,
    SAMPLED,
    Field,
    Function,
    apart,
    by_position,
    means,
    same,
    squares,
    weakest,
)
from initium._predict.field.losses import log_sum_exp
from initium._predict.field.sums import Term, channels_of, expectation, match, summed

__all__ = ["ASSUMPTIONS", "Call", "Rule", "overloads", "rule", "rule_of"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call and one tensor that it gave.

    ``fields`` and ``originals`` are by ``id`` of the operands: what was known of them, and what
    they held, if the operator has written to them. ``number`` counts the tensors that it gave.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: torch.Tensor
    fields: Mapping[int, Field]
    originals: Mapping[int, torch.Tensor]
    number: int = 0

    def field(self, tensor: torch.Tensor) -> Field | None:
        """What was known of an operand before the call."""
        return self.fields.get(id(tensor))

    def before(self, tensor: torch.Tensor) -> torch.Tensor:
        """What an operand held before the call."""
        return self.originals.get(id(tensor), tensor)

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [a for a in (*self.args, *self.kwargs.values()) if isinstance(a, torch.Tensor)]

    def signals(self) -> list[tuple[torch.Tensor, Field]]:
        """The operands with channels, or whose channels are unknown."""
        held = ((tensor, self.field(tensor)) for tensor in self.tensors)
        return [(t, f) for t, f in held if f is not None and f.channels != (False,) * t.dim()]

    def tier(self) -> str:
        return weakest(self.field(tensor) for tensor in self.tensors)


Rule = Callable[[Call], Field | None]
"""``None``: declined."""

RULES: dict[Any, Rule] = {}
ASSUMPTIONS: dict[str, str] = {}


def rule(operators: Sequence[Any], assumes: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators into the table; a later one takes the place of an earlier.

    Args:
        operators: overloads, such as ``torch.ops.aten.gelu.default``.
        assumes: what has to hold for its closed form.
    """

    def enter(made: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, made))
        ASSUMPTIONS[made.__name__] = assumes
        return made

    return enter


def rule_of(operator: Any) -> Rule | None:
    """The rule of an operator; elementwise ones have that of functions."""
    found = RULES.get(operator)
    return function if found is None and torch.Tag.pointwise in operator.tags else found


def overloads(*names: str) -> list[Any]:
    """All overloads of the operators of these names that this torch has."""
    packets = [getattr(aten, name) for name in names if hasattr(aten, name)]
    return [getattr(packet, overload) for packet in packets for overload in packet.overloads()]


FEW = 32
"""Values up to which a norm of them is told from one of infinitely many."""
NEARLY = 0.5
"""Up to this variance the law of logits that are not quite normal does not matter to a loss."""

# Elementwise ------------------------------------------------------------------------------------

SCALINGS = frozenset(overloads("mul", "mul_", "div", "div_", "neg", "neg_"))
ADDITIONS = frozenset(overloads("add", "add_"))
SUMS = ADDITIONS.union(overloads("sub", "sub_", "rsub"))
STEPS = SCALINGS | SUMS
PRODUCTS = frozenset(overloads("mul", "mul_"))
QUOTIENTS = frozenset(overloads("div", "div_"))
AVERAGES = frozenset(overloads("mean", "sum"))
TOTALS = frozenset(overloads("sum"))
LENGTHS = frozenset(overloads("linalg_vector_norm", "norm"))
SPREADS = frozenset(overloads("var", "std"))


@rule(
    overloads("hardswish", "hardswish_", "_prelu_kernel"),
    assumes="the operand is a normal field at each position, or a function of one. Operands that "
    "share no product are independent of one another.",
)
def function(call: Call) -> Field | None:
    """E[f(z)^2] of normal z; E[a^2] E[b^2] and E[(a + b)^2] of independent operands."""
    signals = call.signals()
    if not signals or any(field.channels is None for _, field in signals):
        return None
    channels = _channels(call.out, signals)
    pieces = frozenset().union(*(field.pieces for _, field in signals))
    plain = Field(channels, pieces, call.tier())
    rest = [t for t in call.tensors if all(t is not tensor for tensor, _ in signals)]
    if len(signals) == 1 and call.operator in STEPS and not _divides(call, signals):
        return _linear(call, signals[0], rest, plain)
    composed = _composition(call, signals)
    if composed is not None:
        return _of_function(call, plain, *composed)
    if len(signals) == 2 and all(tensor.numel() == 1 for tensor in rest):
        return _of_two(call, signals, plain)
    return None


def _linear(
    call: Call, signal: tuple[torch.Tensor, Field], rest: Sequence[torch.Tensor], plain: Field
) -> Field:
    """A signal times, or plus, what it does not depend on."""
    tensor, field = signal
    if call.operator in ADDITIONS and call.args[0] is tensor and _adds_nothing(rest):
        return field
    composed = _composition(call, [signal]) if field.function is not None else None
    if call.operator in SUMS:
        return _sum(call, plain, True) if composed is None else _of_function(call, plain, *composed)
    if composed is not None:
        base, made = composed
        return replace(plain, gaussian=True, base=base, function=made)
    if all(by_position(other, plain.channels) for other in rest):
        scaled = any(call.field(other) is not None for other in rest)
        sphere = scaled and channels_of(call.out, plain) <= FEW
        return replace(plain, gaussian=field.gaussian and field.function is None and not sphere)
    if any(other.dtype == torch.bool for other in rest) or len(rest) != 1:
        return replace(plain, tier=SAMPLED)
    power = squares(rest[0], plain)
    power = power if call.operator in PRODUCTS else power.reciprocal()
    even = match(call.out, plain, squares(call.before(tensor), plain) * power)
    return plain if even else replace(plain, tier=SAMPLED)


def _adds_nothing(rest: Sequence[torch.Tensor]) -> bool:
    """As what ties a product to its weight's gradient does."""
    return len(rest) == 1 and rest[0].dim() == 0 and not bool(rest[0].any())


def _sum(call: Call, plain: Field, independent: bool) -> Field:
    weights = _weights(call)
    if weights is None:
        return replace(plain, tier=SAMPLED)
    terms = []
    for given, weight in zip(call.args[:2], weights, strict=True):
        if isinstance(given, torch.Tensor):
            terms.append(Term(call.before(given), weight, call.field(given)))
        else:
            terms.append(Term(call.out.new_tensor(float(given), dtype=torch.float64), weight))
    return summed(call.out, plain, terms, independent)


def _divides(call: Call, signals: Sequence[tuple[torch.Tensor, Field]]) -> bool:
    return call.operator in QUOTIENTS and call.args[0] is not signals[0][0]


@dataclass(frozen=True, slots=True)
class Operand:
    """Stands for a function of the one normal field."""

    function: Function | None


def _composition(
    call: Call, signals: Sequence[tuple[torch.Tensor, Field]]
) -> tuple[torch.Tensor, Function] | None:
    """The output as a function of one normal field, which all its operands are functions of."""
    if not all(field.gaussian for _, field in signals):
        return None
    bases = [_base(call, tensor, field) for tensor, field in signals]
    if not all(same(bases[0], base) for base in bases[1:]) or bases[0].shape != call.out.shape:
        return None
    inner: dict[int, Function | None] = {id(t): field.function for t, field in signals}
    rest = {id(t): _number(t) for t in call.tensors if id(t) not in inner}
    if any(number is None for number in rest.values()):
        return None
    operator, writes = call.operator, call.operator._schema.is_mutable

    def stand_in(value: Any) -> Any:
        if id(value) in inner:
            return Operand(inner[id(value)])
        return rest.get(id(value), value) if isinstance(value, torch.Tensor) else value

    args = [stand_in(value) for value in call.args]
    kwargs = {name: stand_in(value) for name, value in call.kwargs.items()}

    def made(z: torch.Tensor) -> torch.Tensor:  # without the tensors themselves: they may go
        def given(value: Any) -> Any:
            if not isinstance(value, Operand):
                return value
            found = z if value.function is None else value.function(z)
            return found.clone() if writes else found

        named = {name: given(value) for name, value in kwargs.items()}
        found: torch.Tensor = operator(*map(given, args), **named)
        return found

    return bases[0], made


def _base(call: Call, tensor: torch.Tensor, field: Field) -> torch.Tensor:
    return call.before(tensor) if field.base is None else field.base


def _number(tensor: torch.Tensor) -> torch.Tensor | None:
    """The one value that all elements have."""
    if type(tensor) not in PLAIN or not tensor.numel() or tensor.is_meta:
        return None
    first = tensor.reshape(-1)[:1]
    if tensor.numel() > 1 and not bool((tensor == first).all()):
        return None
    return (
        first.detach().double().reshape((1,) * min(tensor.dim(), 2))
        if (first.is_floating_point())
        else first.detach()
    )


def _of_function(call: Call, plain: Field, base: torch.Tensor, made: Function) -> Field:
    field = replace(plain, gaussian=True, base=base, function=made)
    mean, second = expectation(base, field, made)
    return field if match(call.out, field, second, mean) else replace(field, tier=SAMPLED)


def _of_two(
    call: Call, signals: Sequence[tuple[torch.Tensor, Field]], plain: Field
) -> Field | None:
    """A product or a sum of two signals with bases of their own."""
    (left, one), (right, other) = ((call.before(tensor), field) for tensor, field in signals)
    independent = apart(one, other)
    if call.operator in SUMS:
        return _sum(call, plain, independent)
    if call.operator in PRODUCTS and independent:
        even = match(call.out, plain, squares(left, plain) * squares(right, plain))
        return plain if even else replace(plain, tier=SAMPLED)
    return None


def _weights(call: Call) -> tuple[float, float] | None:
    alpha = call.kwargs.get("alpha", 1)
    if not isinstance(alpha, int | float):
        return None
    name = call.operator._schema.name.rsplit("::")[-1].rstrip("_")
    return {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]


def _channels(out: torch.Tensor, signals: Sequence[tuple[torch.Tensor, Field]]) -> tuple[bool, ...]:
    held = [False] * out.dim()
    for _, field in signals:
        assert field.channels is not None
        shift = out.dim() - len(field.channels)
        for dim, is_channel in enumerate(field.channels):
            held[dim + shift] |= is_channel
    return tuple(held)


# Derivatives ------------------------------------------------------------------------------------


@rule(
    overloads(
        *("gelu_backward", "silu_backward", "threshold_backward", "tanh_backward"),
        *("sigmoid_backward", "hardtanh_backward", "hardswish_backward", "elu_backward"),
        *("leaky_relu_backward", "mish_backward", "softplus_backward", "hardsigmoid_backward"),
        *("hardshrink_backward", "softshrink_backward"),
    ),
    assumes="the gradient is independent of the signal: the transposes of the weights are taken "
    "for fresh draws (Schoenholz et al. 2017), as they are at infinite width unless the loss is "
    "one of each output by itself.",
)
def derivative(call: Call) -> Field | None:
    """E[g^2] E[f'(z)^2]: elementwise, and linear in the gradient."""
    gradient, signals = call.args[0], call.signals()
    if not signals or any(field.channels is None for _, field in signals):
        return None
    one = call.field(gradient)
    signal, other = signals[-1]
    if len(signals) != (1 if one is None else 2) or signal is gradient or not other.gaussian:
        return None
    if one is None:  # the cotangent that the backward pass starts from
        one = Field(other.channels)
    elif not apart(one, other):
        return None
    base = _base(call, signal, other)
    if base.shape != call.out.shape or gradient.shape != call.out.shape:
        return None

    def slope(z: torch.Tensor) -> torch.Tensor:
        inside = z if other.function is None else other.function(z)
        args = [torch.ones_like(z) if a is gradient else inside if a is signal else a
                for a in call.args]  # fmt: skip
        found: torch.Tensor = call.operator(*args, **call.kwargs)
        return found

    plain = Field(_channels(call.out, signals), one.pieces | other.pieces, call.tier())
    _, second = expectation(base, plain, slope)
    predicted = squares(gradient, plain) * second
    return plain if match(call.out, plain, predicted) else replace(plain, tier=SAMPLED)


# Linear in one signal ---------------------------------------------------------------------------


@rule(
    overloads(
        *("native_layer_norm", "_fused_rms_norm", "native_group_norm", "native_batch_norm"),
        *("_native_batch_norm_legit", "_batch_norm_with_update", "cudnn_batch_norm"),
        *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d"),
        *("replication_pad2d", "upsample_nearest1d", "upsample_nearest2d", "index_select"),
        *("masked_fill", "where", "index", "gather", "flip", "roll", "dropout"),
    ),
    assumes="statistics of a norm over channels are those of infinite width; over a batch, those "
    "of the batch that was given.",
)
def linear(call: Call) -> Field | None:
    """Linear in one signal, of which it keeps the channels: norms, padding, gathering."""
    signals = call.signals()
    if len(signals) != 1 or signals[0][1].channels is None:
        return None
    tensor, field = signals[0]
    assert field.channels is not None
    kept = call.out.dim() == tensor.dim() and all(
        call.out.shape[dim] == tensor.shape[dim] for dim, held in enumerate(field.channels) if held
    )
    if not kept:
        return _of_other_size(call, tensor, field)
    others = [t for t in call.tensors if t is not tensor]
    if any(t.dtype == torch.bool and not by_position(t, field.channels) for t in others):
        return Field(field.channels, field.pieces, SAMPLED)
    even = all(_number(other) is not None for other in others if other.is_floating_point())
    tier = call.tier() if even else SAMPLED
    normal = field.gaussian and field.function is None and even and _values(call) > FEW
    return Field(field.channels, field.pieces, tier, normal)


def _values(call: Call) -> float:
    """Of how many values a norm takes its statistics; of few it makes points on a sphere."""
    name = call.operator._schema.name
    if "layer_norm" in name or "rms_norm" in name:
        return math.prod(call.args[1])
    if "group_norm" in name:
        return call.args[0].numel() / (call.args[3] * call.args[6])
    return math.inf


def _of_other_size(call: Call, tensor: torch.Tensor, field: Field) -> Field | None:
    """The statistics that a norm gives beside its output; or a choice of channels."""
    assert field.channels is not None
    out = call.out
    if out.dim() > tensor.dim():
        return None
    sizes = [size for size, held in zip(out.shape, field.channels, strict=False) if held]
    if out.dim() < tensor.dim() or all(size == 1 for size in sizes):
        return _statistic(out, call.tier() if "norm" in call.operator._schema.name else SAMPLED)
    return Field(field.channels, field.pieces, call.tier())


@rule(
    overloads(
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
        *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "cumsum"),
    ),
    assumes="nothing: how alike the positions are is read off the samples.",
)
def mixing(call: Call) -> Field | None:
    """Weighted sums over positions."""
    found = linear(call)
    return None if found is None else replace(found, tier=SAMPLED)


@rule(
    overloads("native_layer_norm_backward", "_fused_rms_norm_backward",
              "native_group_norm_backward", "native_batch_norm_backward"),
    assumes="as for the derivative of a function; of a batch norm it holds no longer, as what it "
    "takes out of the gradient follows the weights before it.",
)  # fmt: skip
def norm_derivative(call: Call) -> Field | None:
    """Linear in the gradient; the statistics are those of the signal."""
    gradient = call.args[0]
    field = call.field(gradient)
    if field is None or field.channels is None or call.out.shape != gradient.shape:
        return None
    if "batch_norm" not in call.operator._schema.name:
        return Field(field.channels, field.pieces, call.tier())
    signals = [one for one in call.fields.values() if one is not field]
    return Field(field.channels, field.pieces.union(*(one.pieces for one in signals)), SAMPLED)


@rule(
    overloads(
        *("_log_softmax", "_log_softmax_backward_data", "nll_loss_backward", "nll_loss2d_backward"),
    ),
    assumes="the normaliser and the gradient of a cross-entropy are those of the logits at hand.",
)
def softmax(call: Call) -> Field | None:
    """Where the backward pass starts: what comes out is given, as a cotangent is."""
    signals = [(t, f) for t, f in call.signals() if t.shape == call.out.shape]
    if not signals:
        return Field((False,) * call.out.dim(), frozenset(), call.tier())
    logits, field = signals[-1]
    if "backward" in call.operator._schema.name:
        return Field(field.channels, frozenset(), call.tier())
    dim = call.args[1] % logits.dim()
    alike = field.channels == tuple(at == dim for at in range(logits.dim()))
    known = field.gaussian or (field.fresh and float(squares(logits, field).max()) < NEARLY)
    fresh = known and field.function is None and alike
    return Field(field.channels, field.pieces, call.tier(), base=logits if fresh else None)


@rule(
    overloads("nll_loss_forward", "nll_loss2d_forward"),
    assumes="the logits of a fresh head are independent normal numbers, and know no target.",
)
def cross_entropy(call: Call) -> Field | None:
    """E[log sum exp] of normal logits, in place of that of the few at hand."""
    found, target, weight, reduction, ignored = call.args[:5]
    field = call.field(found)
    if call.number > 0 or field is None:
        return Field((False,) * call.out.dim(), frozenset(), CLOSED)
    if field.base is None or field.channels is None or weight is not None:
        return Field((False,) * call.out.dim(), frozenset(), SAMPLED)
    mean, second = expectation(field.base, field)
    dim = field.channels.index(True)
    losses = log_sum_exp(second - mean.square(), field.base.shape[dim]).squeeze(dim)
    counted = target != ignored
    total = torch.where(counted, losses, 0.0)
    if reduction == 0:
        call.out.copy_(total)
    else:
        call.out.copy_(total.sum() / (counted.sum() if reduction == 1 else 1))
    return Field((False,) * call.out.dim(), frozenset(), field.tier)


@rule(
    overloads("mean", "sum", "var", "var_mean", "std", "linalg_vector_norm", "norm"),
    assumes="an average over channels of a function of one normal field is that of infinite width.",
)
def reduction(call: Call) -> Field | None:
    """Over positions: linear. Over channels: a number for each position."""
    signals = call.signals()
    if len(signals) != 1 or signals[0][1].channels is None:
        return None
    tensor, field = signals[0]
    assert field.channels is not None
    dims = _reduced(call, tensor.dim())
    over = [field.channels[dim] for dim in dims]
    averages = call.operator in AVERAGES
    if all(over) and sum(over) == sum(field.channels):
        known = _averaged(call, field, dims) if averages else _spread(call, tensor, field)
        return _statistic(call.out, call.tier() if known else SAMPLED)
    if any(over) or not averages:
        return None
    kept = call.out.dim() == tensor.dim()
    left = [h for dim, h in enumerate(field.channels) if kept or dim not in dims]
    gaussian = field.gaussian and field.function is None
    mixes = any(tensor.shape[dim] > 1 for dim in dims)
    return Field(tuple(left), field.pieces, SAMPLED if mixes else call.tier(), gaussian)


def _averaged(call: Call, field: Field, dims: Sequence[int]) -> bool:
    """A mean over channels becomes E[f(z)]; that of what is no function is but noise."""
    if not field.gaussian or field.function is None or field.base is None:
        return False
    mean, _ = expectation(field.base, field, field.function)
    if call.operator in TOTALS:
        mean = mean * torch.Size([field.base.shape[dim] for dim in dims]).numel()
    call.out.copy_(mean.reshape(call.out.shape))
    return True


def _spread(call: Call, tensor: torch.Tensor, field: Field) -> bool:
    """Whether a length or a variance over channels is that of infinite width."""
    if call.operator in LENGTHS:
        return all(order == 2 for order in call.args[1:2] if isinstance(order, int | float))
    one = call.operator in SPREADS and field.function is None
    return one and not bool(means(tensor, field).any())


def _reduced(call: Call, count: int) -> list[int]:
    given = call.kwargs.get("dim")
    if given is None:
        candidates = [a for a in call.args[1:] if isinstance(a, list | tuple)]
        given = candidates[0] if candidates else None
    if given is None or len(given) == 0:
        return list(range(count))
    return [dim % count for dim in given]


def _statistic(out: torch.Tensor, tier: str) -> Field:
    """A number for each position, without channels."""
    return Field((False,) * out.dim(), frozenset(), tier)


@rule(
    overloads("cat", "stack"),
    assumes="parts side by side along channels are not alike: no longer one normal field.",
)
def joined(call: Call) -> Field | None:
    """Several signals side by side."""
    parts = list(call.args[0])
    fields = [call.field(part) for part in parts]
    held = [field for field in fields if field is not None and field.channels is not None]
    if not held or len(held) < len([field for field in fields if field is not None]):
        return None
    channels = held[0].channels
    assert channels is not None
    if any(field.channels != channels for field in held):
        return None
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out.dim()
    gaussian = all(field.gaussian and field.function is None for field in held)
    if call.out.dim() > len(channels):
        channels = (*channels[:dim], False, *channels[dim:])
    pieces = frozenset().union(*(field.pieces for field in held))
    still = None
    if len(held) < len(parts) and call.out.dim() == parts[0].dim() and not channels[dim]:
        known = [torch.full((part.shape[dim],), call.field(part) is None) for part in parts]
        still = torch.cat(known).reshape([-1 if at == dim else 1 for at in range(call.out.dim())])
    normal = gaussian and not channels[dim]
    return Field(channels, pieces, weakest(fields), normal, still=still)

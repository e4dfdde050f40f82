"""What a model is, as data: the vocabulary that every other part of initium speaks.

Nothing here knows a framework. Shapes are tuples, dtypes are names such as ``"float32"``, and a
statement about a parameter comes with the :class:`Evidence` for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = [
    "MATRIX_ROLES",
    "ROLES",
    "Axes",
    "Block",
    "BufferView",
    "Evidence",
    "ModelView",
    "ParameterView",
    "Role",
    "Rung",
    "Severity",
]

Role = Literal[
    "embedding",
    "position",
    "token",
    "patch",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_out",
    "mlp_up",
    "mlp_gate",
    "mlp_gate_up",
    "mlp_down",
    "router",
    "conv",
    "conv_depthwise",
    "conv_transpose",
    "recurrent_input",
    "recurrent_hidden",
    "linear",
    "modulation",
    "head",
    "norm_scale",
    "norm_bias",
    "bias",
    "scale",
    "lora_a",
    "lora_b",
    "ssm_a",
    "ssm_d",
    "ssm_dt",
    "unknown",
]
ROLES: tuple[Role, ...] = get_args(Role)

MATRIX_ROLES: frozenset[str] = frozenset(
    {
        "patch",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_out",
        "mlp_up",
        "mlp_gate",
        "mlp_gate_up",
        "mlp_down",
        "router",
        "conv",
        "conv_depthwise",
        "conv_transpose",
        "recurrent_input",
        "recurrent_hidden",
        "linear",
        "modulation",
        "head",
        "lora_a",
        "lora_b",
    }
)
"""Roles of weights that are contracted with data, and so have a fan-in and a fan-out."""

Severity = Literal["error", "warning", "info"]

Rung = Literal["traced", "invented", "analogy", "declared", "named", "assumed"]
"""How a statement is known, strongest first: seen in the trace; seen in a trace that had to invent
values; by analogy with a traced twin; from the module's type; from its name; not known, assumed."""


SHOWN = 4
"""Parameters that a note names."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a statement is known: the rung of the ladder, and what was seen there."""

    rung: Rung
    detail: str

    def __str__(self) -> str:
        return f"{self.rung}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Axes:
    """Which dimensions of a weight are contracted (in), produced (out), stacked (batch), or taps
    of a receptive field. Together they name every dimension once."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    field: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """One logical matrix inside a fused or stacked parameter.

    It takes ``count`` runs of ``size`` indices along ``axis``, the first at ``start`` and each next
    one ``stride`` further on. With ``stacked`` every run is a matrix of its own (experts); without
    it the runs together are one matrix (heads that interleave q, k and v). ``gain`` is that of the
    activation that follows this block alone. ``fans`` are (in, out) where they do not follow from
    the axes: matrices that lie flat, one behind the other.
    """

    label: str
    axis: int
    start: int
    size: int
    count: int = 1
    stride: int = 0
    stacked: bool = False
    activation: str | None = None
    gain: float = 1.0
    fans: tuple[int, int] | None = None

    @property
    def total(self) -> int:
        """Number of indices that the block takes along its axis."""
        return self.size * self.count


@dataclass(frozen=True, slots=True)
class Join:
    """How a signal is made of others, as far as its second moment asks.

    Attributes:
        kind: ``sum`` (with factors), ``cat`` (with shares of the elements), ``mul``, ``phi`` (an
            activation), ``pool`` (with its window), or where it comes from: ``product`` of a
            matrix, ``part`` of one, ``norm``, ``input``, ``stream``.
        value: the number of the value in the trace, by which signals are told apart.
        parts: what it is made of.
        weights: the factors or shares of the parts, or the elements that a pooling joins.
        name: the matrix, the activation, or ``mean`` or ``max`` of a pooling.
        gain: 1 / E[phi(z)^2] of the activation for z ~ N(0, 1).
    """

    kind: Literal["sum", "cat", "mul", "phi", "pool", "product", "part", "norm", "input", "stream"]
    value: int
    parts: tuple[Join, ...] = ()
    weights: tuple[float, ...] = ()
    name: str = ""
    gain: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterView:
    """What one parameter is and does.

    Attributes:
        name: canonical fully qualified name (wrapper prefixes stripped).
        shape, dtype: as stored; the dtype is a name such as ``"float32"``.
        module, module_type: owner's name and class.
        torch_type: the class of ``torch.nn`` whose reset and whose parameter it is; empty if none.
        role: one of :data:`ROLES`.
        axes: dimensions of a matrix; ``None`` where it is not one.
        fan_in, fan_out: of one block of the logical matrix: inputs that one output adds up, and
            outputs that one input reaches (channels / groups x taps, strides left out).
        stride: product of the strides of a convolution (1 otherwise).
        groups: groups of a grouped convolution (1 otherwise).
        blocks: the logical matrices that a fused or stacked parameter holds; empty for a plain one.
        activation: the nonlinearity that follows, as text, such as ``"gelu"`` or
            ``"leaky_relu(0.2)"``; ``None`` where the next thing is linear.
        gain: 1 / E[phi(z)^2] of that activation for z ~ N(0, 1); 1 without one.
        backward_gain: 1 / E[phi'(z)^2].
        gated: the activated (or plain) output is multiplied by another branch.
        norm_before, norm_after: a normalisation directly before the input or after the output.
        norm_skipped: something reads its product without the normalisation that follows, as a
            pre-norm stream reads its stem.
        source: what it reads, behind an activation: ``norm``, ``stream``, ``product``, ``input``,
            or ``mixed`` where several are joined; empty where it was not seen. Of a table that also
            makes the output, what it reads as a head.
        source_activation, source_gain: the activation between a norm, stream or input and the
            matrix, and its 1 / E[phi(z)^2].
        pooling, window: ``mean`` or ``max`` where its source is pooled, and over how many elements.
        coverage: share of a convolution's taps that meet data and not padding, over all outputs.
        kept: share of what it reads that dropout leaves while the model trains.
        joined: how what it reads is joined from several signals, or scaled; ``None`` where it is
            one, or where that was not seen.
        rescaled, added: c and s of the residual sum c x + s f(x) that it writes to.
        carrier: for a sum t f(x) + (1 - t) x that it writes to, the matrix behind the gate t, and
            whether t is on f; ``None`` elsewhere.
        standardised: statistics of its values are taken out before it is used.
        head_dim: for a weight of attention, the width of one head.
        logit_scale: for queries and keys, what their product is multiplied by before the softmax;
            ``None`` where it is learned. So too for a matrix whose product is itself the scores.
        writes_residual: its product is added to a residual stream that it was computed from.
        stream, depth, branches: the stream's number; the branches written to that stream before
            this one; and how many write to it in all. ``None`` without a stream.
        trunk, trunk_depth: streams that carry one another on, across normalisations and changes of
            width, are one trunk; the branches written to it before this one.
        trunk_depths: those of every branch that it closes, where its weights are shared over depth.
        order: position of the first use in execution order; ``None`` if never used.
        uses: how many operators use it.
        loops: how many of its uses read its own product, as of a layer that is applied repeatedly.
        reads: matrices whose outputs this one reads, nearest upstream.
        partner: for a bias or scale, the weight it goes with.
        magnitude_of: for the g of a weight norm, the direction v that it is the length of.
        tied_to: canonical name of the owner, if this name is another name of its tensor.
        aliases: other names of this tensor.
        padding_row: row of an embedding that stays zero.
        constant: the value, where every element held the same one when inspected.
        neutral: for a ``norm_scale``, the value at which it changes nothing: 1, or 0 where the
            model adds one to it.
        trainable: ``requires_grad``.
        on_meta: whether it had no values when inspected.
        evidence: statement (``"role"``, ``"axes"``, ``"activation"``, ``"residual"`` ...) -> how
            it is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    module: str = ""
    module_type: str = ""
    torch_type: str = ""
    role: Role = "unknown"
    axes: Axes | None = None
    fan_in: int | None = None
    fan_out: int | None = None
    stride: int = 1
    groups: int = 1
    blocks: tuple[Block, ...] = ()
    activation: str | None = None
    gain: float = 1.0
    backward_gain: float = 1.0
    gated: bool = False
    norm_before: bool = False
    norm_after: bool = False
    norm_skipped: bool = False
    source: str = ""
    source_activation: str | None = None
    source_gain: float = 1.0
    pooling: str = ""
    window: int = 1
    coverage: float = 1.0
    kept: float = 1.0
    joined: Join | None = None
    rescaled: float = 1.0
    added: float = 1.0
    carrier: tuple[str, bool] | None = None
    standardised: bool = False
    writes_residual: bool = False
    head_dim: int | None = None
    logit_scale: float | None = None
    stream: int | None = None
    depth: int | None = None
    branches: int | None = None
    trunk: int | None = None
    trunk_depth: int | None = None
    trunk_depths: tuple[int, ...] = ()
    order: int | None = None
    uses: int = 0
    loops: int = 0
    reads: tuple[str, ...] = ()
    partner: str | None = None
    magnitude_of: str | None = None
    tied_to: str | None = None
    aliases: tuple[str, ...] = ()
    padding_row: int | None = None
    constant: float | None = None
    neutral: float | None = None
    trainable: bool = True
    on_meta: bool = False
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    @property
    def is_matrix(self) -> bool:
        """Whether it is contracted with data, and so has fans."""
        return self.role in MATRIX_ROLES

    @property
    def is_tied(self) -> bool:
        """Whether it may also make the logits: it has other names, or is a table used again.

        Unit rows would make logits of std sqrt(width), while small rows cost little where the
        second use is only another lookup, so the doubt is settled this way.
        """
        return bool(self.aliases) or (self.role == "embedding" and self.uses > 1)

    @property
    def numel(self) -> int:
        """Number of elements."""
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferView:
    """One buffer: its name, shape, owner, and what is known of its value.

    ``rule`` is the text of a spec where the owner's rule is known (running statistics), ``value``
    the text of a value spec where it is small and was seen; both ``None`` where neither is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    module: str = ""
    module_type: str = ""
    persistent: bool = True
    on_meta: bool = False
    rule: str | None = None
    value: str | None = None
    tied_to: str | None = None
    evidence: Evidence = Evidence("assumed", "nothing is known of it")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelView:
    """What a model is: every parameter and buffer, and on which rung of evidence.

    Views are compared by identity, so that what follows from one can be kept beside it.

    Attributes:
        model: class name of the model.
        parameters: canonical name -> view, in registration order; tied names included.
        buffers: canonical name -> view.
        traced: whether a forward pass was seen, of the whole model or of its parts.
        unseen: branches that were decided by an invented value, as sentences.
        problem: why the model's own forward pass was not seen, in one line; ``None`` if it was.
        unreached: parameters that the model's own forward pass, as it ran, did without.
    """

    model: str
    parameters: Mapping[str, ParameterView]
    buffers: Mapping[str, BufferView]
    traced: bool = False
    unseen: tuple[str, ...] = ()
    problem: str | None = None
    unreached: tuple[str, ...] = ()

    @property
    def owners(self) -> tuple[ParameterView, ...]:
        """The parameters, each tensor once, under its owner's name."""
        return tuple(view for view in self.parameters.values() if view.tied_to is None)

    def __str__(self) -> str:
        from initium._tables import view_table

        return view_table(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of how the view came about, as sentences."""
        parts = "Traced in parts" if self.traced else "No trace"
        problem = (f"{parts}: {self.problem}",) if self.problem else ()
        names = [*self.unreached[:SHOWN], *(["..."] if len(self.unreached) > SHOWN else [])]
        unused = f"Not reached by forward(), {len(self.unreached)}: {', '.join(names)}"
        return (
            *problem,
            *([unused] if names else []),
            *(f"Invented: {branch}" for branch in self.unseen),
        )

    def tree(self) -> str:
        """The model's modules as a tree, repeated blocks folded, one line per parameter."""
        from initium._tree import view_tree

        return view_tree(self)

    def to_json(self) -> str:
        """Everything that is known, as JSON text.

        The document is ``{"initium": "view", "version": 1, "model", "traced", "problem", "unseen",
        "unreached", "parameters": {name: ...}, "buffers": {name: ...}}``; each parameter holds the
        attributes of :class:`ParameterView`. A name that is tied holds its own name, module and
        role, shape and dtype, and ``tied_to``, under which the rest is.
        """
        from initium._plain import as_json, plain

        data = {"initium": "view", "version": 1, **dict(plain(self))}  # type: ignore[call-overload]
        for name, view in self.parameters.items():
            if view.tied_to is not None:
                data["parameters"][name] = plain(_tied(view))
        return as_json(data)


def _tied(view: ParameterView) -> dict[str, object]:
    """What is this name's own, and not that of the owner of its tensor."""
    return {
        "name": view.name,
        "shape": view.shape,
        "dtype": view.dtype,
        "module": view.name.rpartition(".")[0],
        "role": view.role,
        "tied_to": view.tied_to,
    }

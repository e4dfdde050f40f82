"""From the data flow to roles: what each parameter is, and the evidence for it.

Every rule looks at operators and how they are connected, never at names: a model whose names are
scrambled gives the same roles.
"""

from __future__ import annotations

import numpy as np

from initium._inspect.activation import following
from initium._inspect.attention import Attention, find_attention
from initium._inspect.blocks import blocks_of
from initium._inspect.facts import Facts, channel_axis
from initium._inspect.feedforward import feed_forward_roles, glu_halves
from initium._inspect.flow import Flow, Rows
from initium._inspect.graph import Value
from initium._inspect.operators import CONVOLUTION, SOFTMAX
from initium._inspect.residual import Streams, find_streams
from initium._inspect.uses import Use
from initium._inspect.vectors import vector_roles
from initium._types import Role

__all__ = ["derive"]

ROUTING = frozenset({"topk", "argmax", "sort", "one_hot", "multinomial", "argsort"})


def derive(flow: Flow) -> dict[str, Facts]:
    """Facts for every parameter that the trace reached."""
    streams = find_streams(flow)
    attentions = find_attention(flow, streams)
    facts: dict[str, Facts] = {}
    for name, uses in flow.uses.by_parameter.items():
        if uses:
            facts[name] = _first_look(flow, streams, name, uses)
    _attention_roles(flow, attentions, facts)
    feed_forward_roles(flow, facts)
    _other_matrix_roles(flow, streams, facts)
    vector_roles(flow, attentions, facts)
    return facts


def _matrix_use(uses: list[Use]) -> Use | None:
    products = [use for use in uses if use.kind in ("matrix", "recurrent")]
    lookups = [use for use in uses if use.kind == "lookup"]
    return next(iter(lookups or products), None)


def _first_look(flow: Flow, streams: Streams, name: str, uses: list[Use]) -> Facts:
    """Everything about a weight that does not depend on its neighbours' roles."""
    use = _matrix_use(uses)
    facts = Facts(use=use or uses[0], count=len(uses))
    if use is None or use.kind == "lookup":
        if use is not None:
            facts.role, facts.why["role"] = _lookup_role(flow, use)
            facts.also_head = any(_reuse_is_head(flow, other) for other in uses)
        return facts
    facts.following = following(flow, use.out)
    facts.norm_before = use.data is not None and flow.is_norm_output(use.data)
    writes = [streams.writer(item) for item in uses if item.kind == "matrix"]
    addition = next((item for item in writes if item is not None), None)
    if addition is not None and not _routes(flow, use):
        facts.writes = True
        facts.stream, facts.depth = addition.stream, addition.depth
        facts.branches = streams.totals[addition.stream]
        facts.why["residual"] = (
            f"its product is added to stream {addition.stream}, "
            f"branch {addition.depth + 1} of {facts.branches}"
        )
    else:
        read = streams.read(flow, use.data)
        if read is not None:
            facts.stream, facts.depth = read
            facts.branches = streams.totals[read[0]]
    facts.reads = _reads(flow, streams, use)
    if use.kind == "recurrent":
        roles: dict[str, Role] = {"input": "recurrent_input", "hidden": "recurrent_hidden"}
        facts.role = roles.get(use.slot, "linear")
        facts.why["role"] = f"{use.slot} matrix of {use.node.op}"
        if use.slot == "projection":
            return facts
        facts.blocks = blocks_of(flow, name, use, [])
    return facts


def _reads(flow: Flow, streams: Streams, use: Use) -> tuple[str, ...]:
    if use.data is None:
        return ()
    found = flow.nearest(use.data, stop=lambda value: value.id in streams.by_value)
    for step, _ in flow.back(use.data, norms=True):
        addition = streams.by_value.get(step.id)
        if addition is not None:
            return tuple(dict.fromkeys(writer.parameter for writer in addition.writers))
    return tuple(dict.fromkeys(item.parameter for item in found))


def _reuse_is_head(flow: Flow, use: Use) -> bool:
    """Whether a looked-up table is also the matrix that makes the output."""
    if use.kind != "matrix":
        return False
    outputs = {value.id for value in flow.graph.outputs}
    return _is_head(flow, Facts(following=following(flow, use.out)), use, outputs)


def _lookup_role(flow: Flow, use: Use) -> tuple[Role, str]:
    index = use.data
    constant = flow.graph.constants.get(index.id) if index is not None else None
    if index is not None and not index.data and constant is not None and constant.numel() > 1:
        if bool((constant == constant.reshape(-1)[0]).all()):
            return "embedding", "looked up with one constant index (a type, not a position)"
        return "position", "looked up with constant, running indices"
    if index is not None and not index.data:
        return "position", "looked up with indices that do not depend on the input"
    node = index.node if index is not None else None
    for _ in range(12):
        if node is None or not node.inputs:
            break
        if node.op in ("cumsum", "arange"):
            return "position", "looked up with counted indices"
        node = node.inputs[0].node
    return "embedding", "looked up with input ids"


# -- attention -----------------------------------------------------------------------------------


def _attention_roles(flow: Flow, attentions: list[Attention], facts: dict[str, Facts]) -> None:
    parts: dict[str, dict[str, tuple[Use, Value]]] = {}
    for attention in attentions:
        sources = (attention.queries, attention.keys, attention.values)
        for label, operand, weights in zip("qkv", attention.operands, sources, strict=True):
            for use in weights:
                if use.kind == "matrix":
                    parts.setdefault(use.parameter, {}).setdefault(label, (use, operand))
    for name, labels in parts.items():
        fact = facts.get(name)
        if fact is None or fact.writes:
            continue
        if len(labels) == 1:
            label = next(iter(labels))
            fact.role = {"q": "attn_q", "k": "attn_k", "v": "attn_v"}[label]  # type: ignore[assignment]
            fact.why["role"] = f"nearest weight behind the {_WORDS[label]} of an attention"
            continue
        fact.role = "attn_qkv"
        words = " and ".join(_WORDS[label] for label in labels)
        fact.why["role"] = f"one matrix behind the {words} of an attention"
        rows = [(label, _rows(flow, *found)) for label, found in labels.items()]
        fact.blocks = blocks_of(
            flow, name, fact.use, [(label, got) for label, got in rows if got is not None]
        )
    for attention in attentions:
        for use in attention.outputs:
            fact = facts.get(use.parameter)
            if fact is not None and fact.role == "unknown":
                fact.role = "attn_out"
                fact.why["role"] = "first weight that reads the output of an attention"


_WORDS = {"q": "queries", "k": "keys", "v": "values"}


def _rows(flow: Flow, use: Use, operand: Value) -> Rows | None:
    rows = flow.rows(use.out, channel_axis(use), operand)
    if use.rows is None:
        return rows
    start, size = use.rows
    return np.arange(start, start + size) if rows is None else rows + start


# -- other matrices -------------------------------------------------------------------------------


def _other_matrix_roles(flow: Flow, streams: Streams, facts: dict[str, Facts]) -> None:
    outputs = {value.id for value in flow.graph.outputs}
    lora = _lora(flow, facts)
    for name, fact in facts.items():
        use = fact.use
        if use is None or use.kind != "matrix" or fact.role != "unknown":
            continue
        if name in lora:
            fact.role = lora[name]
            fact.why["role"] = "one of a low-rank pair added beside a full product"
        elif use.node.op in CONVOLUTION:
            fact.role, fact.why["role"] = _convolution_role(flow, use)
            if fact.role in ("conv", "linear") and _is_head(flow, fact, use, outputs):
                fact.role, fact.why["role"] = "head", "nothing follows it but the output"
        elif _routes(flow, use):
            fact.role, fact.why["role"] = "router", "its product picks experts (top-k)"
        elif _is_head(flow, fact, use, outputs):
            fact.role, fact.why["role"] = "head", "nothing follows it but the output"
        elif _modulates(flow, use):
            fact.role = "modulation"
            fact.why["role"] = "its parts scale and shift a normalised signal"
        elif _patches(flow, use):
            fact.role, fact.why["role"] = "patch", "first matrix behind a cut-up image"
        else:
            fact.role, fact.why["role"] = "linear", f"a product ({use.node.op}) with a signal"
            fact.blocks = glu_halves(flow, name, use)


def _convolution_role(flow: Flow, use: Use) -> tuple[Role, str]:
    if use.transposed:
        return "conv_transpose", "transposed convolution"
    channels = use.data.shape[1] if use.data is not None and len(use.data.shape) > 1 else 0
    if use.groups > 1 and use.groups == channels:
        return "conv_depthwise", f"convolution with one group per channel ({use.groups})"
    taps = 1
    for size in use.kernel:
        taps *= size
    if taps > 1 and use.stride == taps and _from_input(flow, use):
        return "patch", "convolution of the input whose stride is its kernel"
    return "conv", f"convolution with {'x'.join(map(str, use.kernel))} taps"


def _from_input(flow: Flow, use: Use) -> bool:
    return use.data is not None and not flow.nearest(use.data)


def _patches(flow: Flow, use: Use) -> bool:
    """A linear layer straight on a floating-point input that was cut into patches."""
    if use.data is None or not _from_input(flow, use):
        return False
    moved = 0
    for step, _ in flow.back(use.data):
        if step.node is not None and step.node.op in ("permute", "transpose", "unfold", "im2col"):
            moved += 1
        if step.origin == "input":
            return moved > 0 and len(step.shape) >= 4 and step.dtype.is_floating_point
    return False


def _routes(flow: Flow, use: Use) -> bool:
    stack, seen = [use.out], set[int]()
    while stack and len(seen) < 64:
        value = stack.pop()
        if value.id in seen:
            continue
        seen.add(value.id)
        for node, _ in flow.consumers(value):
            if node.op in ROUTING:
                return True
            if node.op in SOFTMAX or (flow.elementwise(node) and len(flow.signals(node)) == 1):
                stack += node.outputs
    return False


def _is_head(flow: Flow, fact: Facts, use: Use, outputs: set[int]) -> bool:
    """Its product reaches the model's output, and no weight reads it on any way."""
    if fact.writes or fact.following.normed:
        return False
    squashes = (None, "sigmoid", "tanh", "hardtanh", "logsigmoid")
    if fact.following.name not in squashes:
        return False
    reaches = False
    stack, seen = [use.out], set[int]()
    while stack and len(seen) < 4096:
        value = stack.pop()
        if value.id in seen:
            continue
        seen.add(value.id)
        reaches = reaches or value.id in outputs
        for node in value.users:
            other = flow.uses.matrix(node)
            if other is not None or node.id in flow.norms:
                return False
            stack += node.outputs
    return reaches


def _modulates(flow: Flow, use: Use) -> bool:
    pieces = flow.pieces(use.out)
    if not any(piece.part for piece in pieces):
        return False
    scales = 0
    for piece in pieces:
        for node in piece.value.users:
            if node.op not in ("mul", "add", "addcmul", "multiply") or node.id in flow.norms:
                continue
            others = [item for item in flow.signals(node) if item is not piece.value]
            if any(item.numel > piece.value.numel or _normed(flow, item) for item in others):
                scales += 1
    return scales >= 2


def _normed(flow: Flow, value: Value) -> bool:
    return flow.is_norm_output(value)


def _lora(flow: Flow, facts: dict[str, Facts]) -> dict[str, Role]:
    """B(A x) added to W x of the same x, with A's rank far below its width."""
    found: dict[str, Role] = {}
    for node in flow.graph.nodes:
        if node.op != "add":
            continue
        signals = flow.signals(node)
        if len(signals) != 2:
            continue
        for full, low in (signals, signals[::-1]):
            base = _product_of(flow, full)
            up = _product_of(flow, low)
            if base is None or up is None or up.data is None or base.data is None:
                continue
            down = _product_of(flow, up.data)
            if down is None or down.data is None:
                continue
            same = {value.id for value, _ in flow.back(down.data)} & {
                value.id for value, _ in flow.back(base.data)
            }
            rank = down.out.shape[-1]
            if same and rank * 2 <= min(down.data.shape[-1], up.out.shape[-1]):
                found[down.parameter] = "lora_a"
                found[up.parameter] = "lora_b"
    return found


def _product_of(flow: Flow, value: Value) -> Use | None:
    for step, _ in flow.back(value):
        use = flow.uses.matrix(step.node)
        if use is not None:
            return use if use.kind == "matrix" else None
    return None

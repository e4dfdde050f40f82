"""From the data flow to roles: what each parameter is, and the evidence for it.

Every rule looks at operators and how they are connected, never at names: a model whose names are
scrambled gives the same roles.
"""

from __future__ import annotations

from initium._inspect.activation import Following, following
from initium._inspect.adapters import set_aside
from initium._inspect.attention import Attention, find_attention
from initium._inspect.attention_roles import attention_roles, score_scales
from initium._inspect.blocks import gates
from initium._inspect.experts import find_routers, stack_axes, stacked_parts
from initium._inspect.facts import Facts
from initium._inspect.feedforward import feed_forward_roles
from initium._inspect.flow import Flow
from initium._inspect.graph import Graph
from initium._inspect.joins import Joins
from initium._inspect.loops import loop_gates, place_loops
from initium._inspect.lower import lower
from initium._inspect.matrices import is_head, matrix_roles
from initium._inspect.mixtures import place_mixtures
from initium._inspect.operators import RECURRENT
from initium._inspect.recurrence import find_linear_attention
from initium._inspect.residual import Streams, find_streams
from initium._inspect.reuse import name_jobs
from initium._inspect.slices import lies_flat, slices
from initium._inspect.sources import balance_gates, source_of
from initium._inspect.statespace import state_space_roles
from initium._inspect.sums import carrier, carries, is_standardised, kept, scales
from initium._inspect.trunks import inside, trunks
from initium._inspect.uses import Use, find_uses
from initium._inspect.vectors import vector_roles
from initium._types import Role

__all__ = ["derive"]

STACKABLE: frozenset[str] = frozenset({"linear", "mlp_up", "mlp_gate", "mlp_down"})


def derive(graph: Graph) -> dict[str, Facts]:
    """Facts for every parameter that the trace reached. The graph is rewritten on the way."""
    graph = lower(graph)
    found = find_uses(graph)
    place_mixtures(found)
    flow = Flow(graph, found)
    adapters = set_aside(flow)
    stack_axes(flow)
    place_loops(flow)
    routers = find_routers(flow)
    streams = find_streams(flow)
    attentions = find_attention(flow, streams, routers)
    attentions += find_linear_attention(flow, streams, attentions)
    facts: dict[str, Facts] = {}
    joins = Joins(flow, streams)
    for name, uses in flow.uses.by_parameter.items():
        if uses:
            facts[name] = _first_look(flow, streams, joins, name, uses)
    for name, role in adapters.items():
        facts[name].role, facts[name].writes = role, False
        facts[name].why["role"] = "one of a low-rank pair added beside a full product"
    for name in routers:
        if facts[name].use is not None and facts[name].role == "unknown":
            facts[name].role, facts[name].writes = "router", False
            facts[name].why["role"] = "its product chooses or weighs experts"
    state_space_roles(flow, facts)
    attention_roles(flow, attentions, facts)
    score_scales(flow, routers, facts)
    feed_forward_roles(flow, streams, facts)
    matrix_roles(flow, streams, facts)
    for fact in facts.values():
        if carries(flow, fact):
            fact.why["carries"] = "weighs one signal against another (t and 1 - t)"
    balance_gates(flow, facts)
    vector_roles(flow, attentions, facts)
    name_jobs(flow, streams, attentions, facts)
    for name, fact in facts.items():
        if fact.role in STACKABLE and not fact.blocks:
            shape = graph.parameters[name].shape
            uses = flow.uses.by_parameter[name]
            fact.blocks = stacked_parts(shape, uses) or slices(flow, name, uses)
    before, branches = trunks(flow, streams), inside(flow, streams)
    for name, known in facts.items():
        stream, depth = (
            (known.stream, known.depth)
            if known.writes
            else branches.get(name, (known.stream, known.depth))
        )
        if stream in before and depth is not None:
            known.trunk, offset = before[stream]
            known.trunk_depth = offset + depth
            if known.writes:
                known.trunk_depths = _closed(flow, streams, before, name, known.trunk)
    _with_their_outputs(attentions, facts)
    return facts


def _closed(
    flow: Flow, streams: Streams, before: dict[int, tuple[int, int]], name: str, trunk: int
) -> tuple[int, ...]:
    """The places on a trunk where the uses of a parameter write, if there are several."""
    written = [streams.writer(use) for use in flow.uses.by_parameter[name]]
    found = {
        before[addition.stream][1] + addition.depth
        for addition in written
        if addition is not None and before.get(addition.stream, (None, 0))[0] == trunk
    }
    return tuple(sorted(found)) if len(found) > 1 else ()


def _with_their_outputs(attentions: list[Attention], facts: dict[str, Facts]) -> None:
    """Keys and values of cross-attention stand in the block that they are for, not behind the last
    one of the stream that they read."""
    for attention in attentions:
        outputs = [facts[use.parameter] for use in attention.outputs if use.parameter in facts]
        places = {(out.trunk, out.trunk_depth) for out in outputs if out.writes}
        if len(places) != 1:
            continue
        [place] = places
        for operand in attention.operands:
            for use in operand.weights:
                facts[use.parameter].trunk, facts[use.parameter].trunk_depth = place


def _matrix_use(uses: list[Use]) -> Use | None:
    products = [use for use in uses if use.kind in ("matrix", "recurrent")]
    lookups = [use for use in uses if use.kind == "lookup"]
    return next(iter(lookups or products), None)


def _first_look(flow: Flow, streams: Streams, joins: Joins, name: str, uses: list[Use]) -> Facts:
    """Everything about a weight that does not depend on its neighbours' roles."""
    use = _matrix_use(uses)
    facts = Facts(use=use or uses[0], count=len(uses))
    if use is None or use.kind == "lookup":
        if use is not None:
            facts.role, facts.why["role"] = _lookup_role(flow, use)
            head = next((other for other in uses if _reuse_is_head(flow, other)), None)
            if head is not None:
                facts.also_head, facts.source = True, source_of(flow, streams, head)
        return facts
    if lies_flat(uses):
        facts.role, facts.blocks = "linear", slices(flow, name, uses)
        facts.why["role"] = f"{len(facts.blocks)} parts of a vector, each used by itself"
        return facts
    facts.following = _following(flow, use)
    facts.norm_before = use.data is not None and flow.is_norm_output(use.data)
    writes = [streams.writer(item) for item in uses if item.kind == "matrix"]
    addition = next((item for item in writes if item is not None), None)
    if addition is not None:
        facts.writes, facts.carrier = True, carrier(flow, addition)
        facts.rescaled, facts.added = scales(flow, addition)
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
    others = [item for item in uses if item.kind == "matrix" and item is not use]
    facts.loops = sum(name in _reads(flow, streams, other) for other in others)
    facts.source = source_of(flow, streams, use)
    facts.kept, facts.standardised = kept(flow, use), is_standardised(use)
    if facts.source.kind in ("product", "mixed"):
        facts.joined = joins.of(use)
    if use.kind == "recurrent":
        roles: dict[str, Role] = {"input": "recurrent_input", "hidden": "recurrent_hidden"}
        facts.role = roles.get(use.slot, "linear")
        looped = use.node.op not in RECURRENT
        facts.why["role"] = (
            f"{use.slot} matrix of {'a recurrence in a loop' if looped else use.node.op}"
        )
        if use.slot != "projection":
            facts.blocks = (loop_gates if looped else gates)(flow, name, use)
    return facts


def _following(flow: Flow, use: Use) -> Following:
    """What follows a product: all of it, or every part of it alike."""
    whole = following(flow, use.out)
    if whole.name is not None or use.kind != "matrix":
        return whole
    parts = [following(flow, piece.value) for piece in flow.pieces(use.out) if piece.part]
    alike = len(parts) > 1 and len({part.name for part in parts}) == 1
    return parts[0] if alike and not any(part.gated for part in parts) else whole


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
    return is_head(flow, Facts(following=following(flow, use.out)), use, outputs)


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

"""``initium.inspect``: a model in, a :class:`~initium._types.ModelView` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from initium._inspect.buffers import buffer_view
from initium._inspect.declared import Declared, analogies, declared, enclosing, named
from initium._inspect.entries import reach
from initium._inspect.facts import Facts
from initium._inspect.graph import Graph, Node
from initium._inspect.pooling import coverage
from initium._inspect.roles import derive
from initium._model.call import must_be_module
from initium._model.inputs import example_inputs
from initium._model.names import Slot, named_modules, slots, unwrapped
from initium._model.sharding import bare_class, must_show_parameters, torch_type, whole
from initium._types import Axes, Block, BufferView, Evidence, ModelView, ParameterView, Role, Rung

__all__ = ["inspect"]

CONSTANT = 1 << 16
"""Elements up to which a parameter is looked at for one value everywhere."""


def inspect(model: nn.Module, inputs: object = None) -> ModelView:
    """See what every parameter of ``model`` does, from one forward pass without weights.

    The model runs once on the meta device: no weight is read, nothing is changed, and the size of
    the model hardly matters. From the operators that consume each parameter follow its role, its
    axes and fans, the blocks of a fused matrix, the activation that follows, and whether and where
    it writes to a residual stream. What the pass does not reach, or does not come to because it
    fails, is run on its own where its inputs can be guessed (:mod:`initium._inspect.entries`; at
    most 40 000 operators more), and the evidence says where the trace entered. The remaining
    parameters are described by analogy, by their module's type, or by their name, in this order.

    Args:
        model: any ``nn.Module``, real or on meta, wrapped or compiled.
        inputs: a mapping is passed as ``**``, a tuple as ``*``, anything else as the one argument.
            ``None``: inputs are inferred where possible; otherwise there is no trace, only types
            and names.

    Returns:
        The view. ``view.problem`` says in one line why the model's own forward pass was not seen,
        if it was not; ``view.traced`` whether any part was.

    Raises:
        ModelError: a lazy module whose parameters have no shape yet.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        >>> view = inspect(net, torch.zeros(2, 8))
        >>> view.parameters["0.weight"].activation, view.parameters["2.weight"].role
        ('relu', 'head')
    """
    must_be_module(model)
    model = unwrapped(model)
    must_show_parameters(model)
    held = slots(model)
    graph, facts, problem = _traced(model, inputs)
    modules = dict(named_modules(model))
    parameters: dict[str, ParameterView] = {}
    for name, slot in held.items():
        if not slot.is_buffer and name in facts and graph is not None:
            parameters[name] = _from_trace(slot, facts[name], graph, alone=problem is None)
    similar = analogies(modules, parameters)
    for name, slot in held.items():
        if not slot.is_buffer and (name not in parameters or parameters[name].role == "unknown"):
            parameters[name] = _from_hints(slot, modules, similar)
    unreached = () if problem or graph is None else _unreached(graph)
    for name in unreached:
        if name not in facts:
            parameters[name] = _uncalled(parameters[name])
    parameters = {name: _with_hints(parameters[name], held[name]) for name in parameters}
    return ModelView(
        model=bare_class(model).__name__,
        parameters=_in_order(
            held, parameters, {n for n, f in facts.items() if f.also_head}, modules
        ),
        buffers=_buffers(held),
        traced=graph is not None,
        unseen=tuple(graph.invented) if graph is not None else (),
        problem=problem,
        unreached=unreached,
    )


def _traced(
    model: nn.Module, inputs: object
) -> tuple[Graph | None, Mapping[str, Facts], str | None]:
    if inputs is None:
        inputs = example_inputs(model)
    graph, problem = reach(model, inputs)
    if not graph.nodes:
        return None, {}, problem
    try:
        return graph, derive(graph), problem
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        return None, {}, f"the trace could not be read: {type(error).__name__}: {text}"


def _buffers(held: Mapping[str, Slot]) -> dict[str, BufferView]:
    """All names of all buffers: of a module that several hold, the first one owns."""
    found = {}
    for name, slot in held.items():
        if slot.is_buffer:
            found[name] = owner = buffer_view(slot)
            found |= {alias: replace(owner, name=alias, tied_to=name) for alias in slot.aliases}
    return found


def _unreached(graph: Graph) -> tuple[str, ...]:
    """The parameters that no operator of the model's own forward pass reads."""
    return tuple(
        name
        for name, value in graph.parameters.items()
        if all(graph.entry(user) for user in value.users)
    )


def _in_order(
    held: Mapping[str, Slot],
    parameters: Mapping[str, ParameterView],
    also_head: set[str],
    modules: Mapping[str, nn.Module],
) -> dict[str, ParameterView]:
    """Registration order, and after each owner the other names of its tensor. Of a table that also
    makes the output, the names outside embeddings are those of the head."""
    ordered: dict[str, ParameterView] = {}
    for name, slot in held.items():
        if slot.is_buffer:
            continue
        ordered[name] = parameters[name]
        for alias in slot.aliases:
            looks_up = isinstance(modules.get(alias.rpartition(".")[0]), nn.Embedding)
            heads = name in also_head and not looks_up
            role = "head" if heads else parameters[name].role
            ordered[alias] = replace(
                parameters[name], name=alias, role=role, tied_to=name, aliases=()
            )
    return ordered


def _base(slot: Slot) -> ParameterView:
    tensor = slot.tensor
    padding = getattr(slot.owner, "padding_idx", None) if slot.leaf == "weight" else None
    return ParameterView(
        name=slot.name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        module=slot.module,
        module_type=bare_class(slot.owner).__name__,
        torch_type=torch_type(slot.owner, slot.leaf),
        aliases=tuple(slot.aliases),
        padding_row=padding if isinstance(padding, int) else None,
        constant=_constant(tensor),
        trainable=tensor.requires_grad,
        on_meta=tensor.device.type == "meta",
    )


def _constant(tensor: torch.Tensor) -> float | None:
    """The one value that a small real tensor holds everywhere."""
    held = whole(tensor)
    if held is None or held.device.type == "meta" or not 0 < held.numel() <= CONSTANT:
        return None
    if tensor.is_complex() or tensor.is_sparse:
        return None
    flat = held.detach().reshape(-1)
    return float(flat[0]) if bool((flat == flat[0]).all()) else None


def _from_trace(slot: Slot, facts: Facts, graph: Graph, *, alone: bool) -> ParameterView:
    """``alone``: the model's own forward pass ran, and without what was entered elsewhere."""
    view = _base(slot)
    use = facts.use
    rung = _rung(graph, use.node) if use is not None else "traced"
    after = facts.following
    matrix = use is not None and use.kind in ("matrix", "recurrent")
    axes = use.axes if use is not None and matrix else None
    groups, transposed = (use.groups, use.transposed) if use is not None else (1, False)
    fan_in, fan_out = (
        use.fans
        if use is not None and use.fans is not None
        else _fans(view.shape, facts.role, axes, facts.blocks, groups, transposed)
    )
    entry = graph.entry(use.node) if use is not None else ""
    at = f"{', not reached by forward()' if alone else ''} (entered at {entry})" if entry else ""
    evidence = {statement: Evidence(rung, text + at) for statement, text in facts.why.items()}
    if axes is not None and use is not None:
        evidence["axes"] = Evidence(rung, f"contracted by {use.node.op}")
    if after.name is not None:
        evidence.setdefault(
            "activation", Evidence(rung, f"{after.name}, by evaluating what follows")
        )
    return replace(
        view,
        role=facts.role,
        axes=axes,
        fan_in=fan_in,
        fan_out=fan_out,
        stride=use.stride if use else 1,
        groups=use.groups if use else 1,
        blocks=(*_stacked(view.shape, axes), *facts.blocks),
        activation=after.name,
        gain=after.gain,
        backward_gain=after.backward_gain,
        gated=after.gated,
        norm_before=facts.norm_before,
        norm_after=after.normed,
        norm_skipped=after.skipped,
        source=facts.source.kind,
        source_activation=facts.source.activation,
        source_gain=facts.source.gain,
        pooling=facts.source.pooling,
        window=facts.source.window,
        coverage=coverage(use) if use is not None else 1.0,
        kept=facts.kept,
        joined=facts.joined,
        rescaled=facts.rescaled,
        added=facts.added,
        carrier=facts.carrier,
        standardised=facts.standardised,
        logit_scale=facts.logit_scale,
        head_dim=facts.head_dim,
        writes_residual=facts.writes,
        stream=facts.stream,
        depth=facts.depth,
        branches=facts.branches,
        trunk=facts.trunk,
        trunk_depth=facts.trunk_depth,
        trunk_depths=facts.trunk_depths,
        order=use.node.id if use else None,
        uses=facts.count,
        loops=facts.loops,
        reads=facts.reads,
        partner=facts.partner,
        magnitude_of=facts.magnitude_of,
        neutral=facts.neutral,
        evidence=evidence,
    )


def _rung(graph: Graph, node: Node) -> Rung:
    """``invented`` where the module's own code met a value that had to be invented, or the
    outermost one has branched on one before."""
    if graph.turned(node):
        return "invented"
    module = node.module
    for note in graph.invented:
        place = note.rpartition(" in ")[2]
        if module and place != "the model" and (module == place or module.startswith(f"{place}.")):
            return "invented"
    return "traced"


def _fans(
    shape: tuple[int, ...],
    role: Role,
    axes: Axes | None,
    blocks: tuple[Block, ...],
    groups: int,
    transposed: bool,
) -> tuple[int | None, int | None]:
    """Fans of one logical matrix; a lookup adds up one row, whatever the vocabulary."""
    if role == "embedding":
        return 1, shape[-1]
    if axes is None:
        return None, None

    each = {block.axis: block.size for block in blocks if block.stacked}

    def size(dims: tuple[int, ...]) -> int:
        total = 1
        for dim in dims:
            total *= each.get(dim, shape[dim])
        return total

    field = size(axes.field)
    fan_in, fan_out = size(axes.inputs) * field, size(axes.outputs) * field
    if transposed:
        fan_in //= groups
    else:
        fan_out //= groups
    along = [block for block in blocks if not block.stacked and block.axis in axes.outputs]
    if along:
        fan_out = fan_out // shape[along[0].axis] * along[0].total
    return fan_in, fan_out


def _stacked(shape: tuple[int, ...], axes: Axes | None) -> tuple[Block, ...]:
    if axes is None:
        return ()
    return tuple(Block("expert", dim, 0, 1, shape[dim], 1, stacked=True) for dim in axes.batch)


def _from_hints(
    slot: Slot,
    modules: Mapping[str, nn.Module],
    similar: Mapping[tuple[str, str], ParameterView],
) -> ParameterView:
    view = _base(slot)
    for ancestor, rest in enclosing(slot.name):
        module = modules.get(ancestor)
        key = "" if module is None else bare_class(module).__qualname__
        twin = similar.get((key, rest))
        if twin is not None and twin.role != "unknown" and len(twin.shape) == len(view.shape):
            return _like(view, twin)
    found = declared(slot)
    guess = named(slot.name, view.shape)
    if found is None or (found.role in ("linear", "embedding") and guess is not None):
        found = guess or found
    if found is None:
        return replace(
            view, evidence={"role": Evidence("assumed", "not reached, and nothing declares it")}
        )
    return _with(view, found)


def _with(view: ParameterView, found: Declared) -> ParameterView:
    transposed = found.role == "conv_transpose"
    fan_in, fan_out = _fans(
        view.shape, found.role, found.axes, found.blocks, found.groups, transposed
    )
    return replace(
        view,
        role=found.role,
        axes=found.axes,
        fan_in=fan_in,
        fan_out=fan_out,
        groups=found.groups,
        stride=found.stride,
        blocks=(*_stacked(view.shape, found.axes), *found.blocks),
        partner=found.partner,
        magnitude_of=found.magnitude_of,
        neutral=1.0 if found.role == "norm_scale" else None,
        evidence={"role": found.evidence},
    )


def _like(view: ParameterView, twin: ParameterView) -> ParameterView:
    """The twin's statements on this parameter, fans from its own shape."""
    evidence = Evidence("analogy", f"in the place of {twin.name} in a module of the same class")
    fan_in, fan_out = twin.fan_in, twin.fan_out
    blocks = twin.blocks
    if view.shape != twin.shape:
        blocks = ()
        transposed = twin.role == "conv_transpose"
        fan_in, fan_out = _fans(view.shape, twin.role, twin.axes, (), twin.groups, transposed)
    return replace(
        view,
        role=twin.role,
        axes=twin.axes,
        fan_in=fan_in,
        fan_out=fan_out,
        stride=twin.stride,
        groups=twin.groups,
        blocks=blocks,
        activation=twin.activation,
        gain=twin.gain,
        backward_gain=twin.backward_gain,
        gated=twin.gated,
        norm_before=twin.norm_before,
        norm_after=twin.norm_after,
        norm_skipped=twin.norm_skipped,
        source=twin.source if twin.source == "norm" else "",
        source_activation=twin.source_activation if twin.source == "norm" else None,
        source_gain=twin.source_gain if twin.source == "norm" else 1.0,
        logit_scale=twin.logit_scale,
        head_dim=twin.head_dim,
        writes_residual=twin.writes_residual,
        branches=twin.branches,
        neutral=twin.neutral,
        evidence=dict.fromkeys(("role", *twin.evidence), evidence),
    )


def _uncalled(view: ParameterView) -> ParameterView:
    """The view of a parameter that nothing used, whatever was entered."""
    told = {
        key: replace(item, detail=f"{item.detail}; nothing used it")
        for key, item in view.evidence.items()
        if item.rung != "assumed"
    }
    return replace(view, evidence={**view.evidence, **told})


def _with_hints(view: ParameterView, slot: Slot) -> ParameterView:
    """Roles of state-space parameters, which operators alone do not tell from other scales."""
    if view.role not in ("scale", "bias", "unknown"):
        return view
    guess = named(slot.name, view.shape)
    if guess is not None and guess.role in ("ssm_a", "ssm_d", "ssm_dt"):
        return replace(view, role=guess.role, evidence={**view.evidence, "role": guess.evidence})
    return view

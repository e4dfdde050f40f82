"""Forward passes without weights, recorded operator by operator into one graph.

The model runs on the meta device under a dispatch mode *below autograd*: composite operators arrive
whole (one ``linear``, one ``scaled_dot_product_attention``), parameters keep their identity, and
nothing is computed but shapes. :mod:`initium._inspect.shadows` keeps real values where they follow
from constants and integer inputs. The model itself is left as found.

Several entry points may run in one trace. What an entry recorded before it failed is kept, except
for its loose ends: weights whose products had not met anything yet.

Not covered: models that call ``torch.autograd.grad`` inside their forward pass, and operators
without a meta implementation; the caller then falls back to declared types and names.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from initium._inspect.abstract import NEVER_DROPPED, data_dependent, invent_indices, run
from initium._inspect.graph import Graph, Node, Origin, Value
from initium._inspect.operators import FACTORY, RANDOM
from initium._inspect.shadows import LIMIT, Shadows
from initium._model.call import call, map_tensors, tensors
from initium._model.names import named_modules, slots
from initium._model.sharding import whole
from initium._model.state import preserved

__all__ = ["OutOfBudget", "Tracer", "tracing"]

KEPT = 4096
"""Elements up to which a constant's contents are kept in the graph."""


class OutOfBudget(Exception):
    """A run recorded more operators than it may."""


@contextlib.contextmanager
def tracing(model: nn.Module) -> Iterator[Tracer]:
    """Swap the model's tensors for meta ones; :meth:`Tracer.enter` then runs parts of it.

    Args:
        model: a real or meta module, unwrapped; it is as before when the context ends.
    """
    with preserved(model), _without_sharding(model), _abstract(model) as (parameters, buffers):
        names = {id(module): name for name, module in named_modules(model)}
        tracer = Tracer(names)
        for module in model.modules():
            module.register_forward_pre_hook(tracer.enter_module, with_kwargs=True, prepend=True)
            module.register_forward_hook(tracer.leave_module, always_call=True)
        for name, tensor in parameters.items():
            value = tracer.new_value(tensor, "parameter", name)
            value.roots = frozenset({name})
            tracer.graph.parameters[name] = value
        for name, (tensor, real) in buffers.items():
            tracer.new_value(tensor, "buffer", name)
            if real is not None:
                tracer.shadows.set(tensor, real)
        yield tracer


@contextlib.contextmanager
def _without_sharding(model: nn.Module) -> Iterator[None]:
    """Take off the hooks of FSDP and tensor parallelism: nothing is sharded while it is traced."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                owner = getattr(hook, "__module__", "")
                if "fsdp" in owner or owner.startswith("torch.distributed.tensor"):
                    del hooks[key]
    yield


@contextlib.contextmanager
def _abstract(
    model: nn.Module,
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor | None]]]]:
    """Swap every parameter and buffer for a meta tensor; put the originals back afterwards."""
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
    undo: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for name, slot in slots(model).items():
            abstract = torch.empty(slot.tensor.shape, dtype=slot.tensor.dtype, device="meta")
            if slot.is_buffer:
                real = whole(slot.tensor)
                if real is not None and (real.is_meta or real.numel() > LIMIT):
                    real = None
                buffers[name] = (abstract, None if real is None else real.detach().cpu().clone())
            else:
                differentiable = abstract.is_floating_point() or abstract.is_complex()
                abstract = nn.Parameter(abstract, requires_grad=differentiable)
                parameters[name] = abstract
            for module, leaf in slot.places:
                holder: dict[str, Any] = module._buffers if slot.is_buffer else module._parameters
                undo.append((holder, leaf, slot.tensor))
                holder[leaf] = abstract
        yield parameters, buffers
    finally:
        for holder, leaf, tensor in undo:
            holder[leaf] = tensor


class Tracer(TorchDispatchMode):
    """Records every operator as a node, and runs it on abstract tensors."""

    def __init__(self, module_names: dict[int, str]) -> None:
        super().__init__()
        self.graph = Graph()
        self.shadows = Shadows(self.place, lambda: self._made)
        self.graph.invented = self.shadows.invented
        self.graph.turns = self.shadows.turns
        self._module_names = module_names
        self._modules: list[str] = []
        self._values: dict[int, Value] = {}
        self._alive: list[torch.Tensor] = []
        self._writes: dict[int, list[Value]] = {}
        self._seen: dict[int, int] = {}
        self._made = 0
        self._limit = 0
        self.calls: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}

    def enter(
        self,
        entry: str,
        function: Callable[..., Any],
        inputs: object,
        limit: int,
        final: bool = False,
    ) -> Any:
        """Run ``function`` on ``inputs`` as the entry point ``entry``, and return its output.

        Args:
            entry: its name; empty for the model's own forward pass.
            limit: operators that it may record.
            final: its outputs are outputs of the model.

        Raises:
            Exception: whatever the function raises on abstract tensors; what it recorded before is
                kept but for its loose ends.
        """
        before = self._made
        self._limit = before + limit
        self.graph.entries.append((before, entry))
        batch = map_tensors(inputs, self.take_input)
        try:
            with self.running():
                output = call(function, batch)
        except Exception:
            self._modules.clear()
            self._drop_loose_ends(before)
            raise
        if final:
            self.graph.outputs += [self.value(tensor) for tensor in tensors(output)]
        return output

    def forget(self, since: int) -> None:
        """Forget every node from ``since`` on."""
        self.graph.remove({node.id for node in self.graph.nodes if node.id >= since})

    @property
    def made(self) -> int:
        """Operators recorded so far, forgotten ones included."""
        return self._made

    def _drop_loose_ends(self, since: int) -> None:
        """After a failure: forget what led nowhere, back to and with the nearest weights.

        A sum of two signals is no loose end: what was added has met its stream.
        """
        loose: set[int] = set()
        for node in reversed([node for node in self.graph.nodes if node.id >= since]):
            users = [user for out in node.outputs for user in out.users]
            summed = node.op == "add" and sum(value.data for value in node.inputs) > 1
            if summed or not all(user.id in loose for user in users):
                continue
            if not any(_weighs(user) for user in users):
                loose.add(node.id)
        self.graph.remove(loose)

    def enter_module(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Keep what each module was first called with: it suits others of its kind."""
        name = self._module_names[id(module)]
        self._modules.append(name)
        self.calls.setdefault(name, (module, args, kwargs))

    def leave_module(self, module: nn.Module, args: object, output: object) -> None:
        self._modules.pop()

    def place(self) -> str:
        return self._modules[-1] if self._modules else ""

    # -- values ------------------------------------------------------------------------------

    def new_value(
        self,
        tensor: torch.Tensor,
        origin: Origin,
        name: str = "",
        node: Node | None = None,
    ) -> Value:
        strided = tensor.layout is torch.strided and not tensor.is_quantized
        value = Value(
            id=len(self.graph.values),
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            strides=tuple(tensor.stride()) if strided else (),
            offset=int(tensor.storage_offset()) if strided else 0,
            storage=_storage(tensor) if strided else -1,
            origin=origin,
            name=name,
            node=node,
        )
        self.graph.values.append(value)
        self._values[id(tensor)] = value
        self._alive.append(tensor)
        self._seen[value.id] = len(self._writes.get(value.storage, ()))
        return value

    def value(self, tensor: torch.Tensor) -> Value:
        """The value that a tensor holds now: a stale alias of written memory gets a merge node."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self.new_value(tensor, "constant")
            if tensor.device.type != "meta" and tensor.numel() <= KEPT:
                self.graph.constants[value.id] = tensor.detach().clone()
            return value
        writes = self._writes.get(value.storage, [])
        missed = writes[self._seen[value.id] :]
        if value.origin == "parameter" or not missed:
            return value
        inputs = (value, *missed[-8:])
        return self._append(
            "merge", torch.ops.aten.alias.default, inputs, {}, inputs, (tensor,), ()
        ).out

    def take_input(self, tensor: torch.Tensor) -> torch.Tensor:
        abstract = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        value = self.new_value(abstract, "input")
        value.data = True
        exact = not (tensor.is_floating_point() or tensor.is_complex())
        if exact and tensor.numel() <= LIMIT:
            if tensor.device.type == "meta" and self.shadows.known(tensor):
                real = self.shadows.get(tensor)
            elif tensor.device.type == "meta":
                real = torch.arange(tensor.numel()).reshape(tensor.shape) % 7 + 1
                real = real.to(tensor.dtype)
            else:
                real = tensor.detach().cpu().clone()
            self.shadows.set(abstract, real)
        return abstract

    # -- recording ---------------------------------------------------------------------------

    def _append(
        self,
        op: str,
        overload: torch._ops.OpOverload,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        inputs: tuple[Value, ...],
        outputs: tuple[torch.Tensor, ...],
        unchanged: tuple[int, ...],
    ) -> Node:
        node = Node(self._made, op, overload, args, kwargs, inputs, (), self.place())
        self._made += 1
        self.graph.nodes.append(node)
        factory = op in FACTORY
        data = not factory and any(value.data for value in inputs)
        roots = frozenset[str]() if factory else frozenset().union(*(v.roots for v in inputs))
        made = []
        for tensor in outputs:
            if id(tensor) in unchanged:
                made.append(self._values[id(tensor)])
                continue
            value = self.new_value(tensor, "operator", node=node)
            value.data = data
            value.roots = frozenset() if data else roots
            if self.shadows.known(tensor):
                real = self.shadows.get(tensor)
                if real.numel() <= KEPT and not data:
                    self.graph.constants[value.id] = real
            made.append(value)
        node.outputs = tuple(made)
        for value in dict.fromkeys(inputs):
            value.users.append(node)
        return node

    def _record(
        self,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[torch.Tensor],
        result: object,
    ) -> None:
        name = func._schema.name.split("::")[-1]
        written = list(_written(func, args, kwargs))
        inputs = tuple(self.value(tensor) for tensor in operands)
        lookup = self._values.__getitem__
        outputs = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        made_by_write = {id(tensor) for tensor in written}
        outputs += [t for t in written if all(t is not made for made in outputs)]
        given = {id(tensor) for tensor in operands}
        node = self._append(
            name[:-1] if name.endswith("_") and not name.startswith("_") else name,
            func,
            tree_map_only(torch.Tensor, lambda tensor: lookup(id(tensor)), args),
            tree_map_only(torch.Tensor, lambda tensor: lookup(id(tensor)), kwargs),
            inputs,
            tuple(outputs),
            tuple(key for key in given if key not in made_by_write),
        )
        for tensor in written:
            value = self._values[id(tensor)]
            for root in (value_in for value_in in node.inputs if value_in.origin == "parameter"):
                if root.storage == value.storage:
                    self.graph.written.add(root.name)
            log = self._writes.setdefault(value.storage, [])
            log.append(value)
            self._seen[value.id] = len(log)

    # -- running -----------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._made >= self._limit:
            raise OutOfBudget(f"more than {self._limit} operators")
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        operands = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        name = func._schema.name.split("::")[-1]
        shadows = self.shadows
        if name in ("_local_scalar_dense", "item"):
            return shadows.asked(operands[0], "item()").item()
        if name == "is_nonzero":
            return bool(shadows.asked(operands[0], "a condition").item())
        if name in ("equal", "allclose"):
            if all(map(shadows.known, operands)):
                return func(*(shadows.get(tensor) for tensor in operands[:2]))
            shadows.invented.append(f"{name}() in {self.place() or 'the model'}")
            if not self.place():
                shadows.turns.append(self._made)
            return True
        real = self._compute(func, name, args, kwargs, operands)
        result = data_dependent(self.shadows, func, name, args, kwargs, operands, real)
        if result is None:
            result = run(func, name, args, kwargs, operands, real)
        made = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        if real is not None:
            values = [item for item in tree_leaves(real) if isinstance(item, torch.Tensor)]
            if len(values) == len(made):
                for tensor, value in zip(made, values, strict=True):
                    if tensor is not value:
                        shadows.set(tensor, value)
        else:
            for tensor in _written(func, args, kwargs):
                shadows.forget(tensor)
            invent_indices(shadows, name, args, kwargs, made)
        self._record(func, args, kwargs, operands, result)
        return result

    def _compute(
        self,
        func: torch._ops.OpOverload,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[torch.Tensor],
    ) -> object | None:
        """The real result, where all operands are known, it is small, and nothing is random."""
        if name == "uniform_" and self.shadows.known(args[0]) and args[0].numel() <= LIMIT:
            low = args[1] if len(args) > 1 else 0.0
            high = args[2] if len(args) > 2 else 1.0
            return self.shadows.get(args[0]).fill_(low + NEVER_DROPPED * (high - low))
        random = name.rstrip("_") in RANDOM
        small = all(tensor.numel() <= LIMIT for tensor in operands)
        if random or not small or not all(map(self.shadows.known, operands)):
            return None
        if not operands and _size_hint(args) > LIMIT:
            return None

        def real(tree: object) -> Any:
            tree = tree_map_only(torch.Tensor, self.shadows.get, tree)
            return tree_map_only(torch.device, lambda _: torch.device("cpu"), tree)

        try:
            return func(*real(args), **real(kwargs))
        except Exception:
            return None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything that must be in place while the model runs."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            stack.enter_context(_autocast_on_meta())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            stack.enter_context(_Escapes(self.shadows))
            stack.enter_context(self)
            yield


class _Escapes(TorchFunctionMode):
    """Python calls that leave the tensor world and never reach dispatch."""

    def __init__(self, shadows: Shadows) -> None:
        super().__init__()
        self.shadows = shadows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("tensor", "as_tensor", "asarray", "new_tensor"):
            return self._from_data(func, name, args, dict(kwargs or {}))
        if isinstance(first, torch.Tensor) and (
            first.device.type == "meta" or not self.shadows.known(first)
        ):
            if name in ("tolist", "numpy", "__array__"):
                value = self.shadows.asked(first, f"{name}()")
                return value.tolist() if name == "tolist" else value.numpy()
            if name in ("item", "__bool__", "__int__", "__float__", "__index__"):
                value = self.shadows.asked(first, "a condition" if "bool" in name else "item()")
                scalar = value.item()
                return {
                    "item": lambda: scalar,
                    "__bool__": lambda: bool(scalar),
                    "__int__": lambda: int(scalar),
                    "__float__": lambda: float(scalar),
                    "__index__": lambda: int(scalar),
                }[name]()
            if name == "__format__" and first.dim() == 0:
                return format(self.shadows.value(first, "a text").item(), *args[1:])
            if name == "__contains__" and not self.shadows.known(first):
                return True
            if name == "__getitem__":
                args = (first, tree_map_only(list, _indices, args[1], is_leaf=_is_list))
        return func(*args, **(kwargs or {}))

    def _from_data(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Numbers become a tensor on the CPU first, so that their values stay known."""
        device = kwargs.get("device")
        if name == "new_tensor":
            template, args = args[0], args[1:]
            device = device or template.device
            kwargs.setdefault("dtype", template.dtype)
            func = torch.tensor
        data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
        on_meta = device is not None and torch.device(device).type == "meta"
        if not on_meta or isinstance(data, torch.Tensor):
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


def _is_list(tree: object) -> bool:
    return isinstance(tree, list)


def _indices(numbers: list[Any]) -> object:
    """A list that indexes, as a real tensor: on the way to meta it would lose its numbers."""
    whole = all(type(item) is int for item in numbers)
    return torch.tensor(numbers) if numbers and whole else numbers


@contextlib.contextmanager
def _autocast_on_meta() -> Iterator[None]:
    """Let ``torch.autocast("meta")``, which raises, stand for the CPU's."""
    original = torch.amp.autocast_mode.autocast.__init__

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        original(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)

    torch.amp.autocast_mode.autocast.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.amp.autocast_mode.autocast.__init__ = original  # type: ignore[method-assign]


def _weighs(node: Node) -> bool:
    """Whether a node reads a weight of two or more dimensions."""
    return any(value.derived and len(value.shape) > 1 for value in node.inputs)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _written(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[torch.Tensor]:
    """The tensors that an operator changes in place."""
    if not func._schema.is_mutable:
        return
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            for item in given if isinstance(given, (list, tuple)) else [given]:
                if isinstance(item, torch.Tensor):
                    yield item


def _size_hint(args: tuple[Any, ...]) -> int:
    for item in args:
        if isinstance(item, (list, tuple)) and all(isinstance(size, int) for size in item):
            total = 1
            for size in item:
                total *= max(size, 1)
            return total
    numbers = [item for item in args if isinstance(item, (int, float))]
    return int(max(map(abs, numbers), default=0))

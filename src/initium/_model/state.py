"""Leaving a model exactly as it was found, also after an exception.

Put back: values of buffers (in place) and the buffers themselves; tensors, generators and plain
containers (dict, list, set, deque, nested) held in attributes; every entry of every module's
``__dict__``, and with it training modes, hooks, parameters and submodules; ``.grad``,
``requires_grad``, hooks and attributes of parameters; the random states of torch (CPU, CUDA, MPS),
Python and NumPy; grad mode, default dtype and default device.

Parameter values are not copied but fingerprinted, which costs one pass over the memory before and
one after. A parameter that a forward pass is known to write can be copied instead.

Not covered: state of attributes that are neither tensors nor plain containers, class attributes,
globals, files, and generators other than the default ones and ``torch.Generator`` attributes.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from initium._model.names import canonical
from initium.errors import ModelError, near

__all__ = ["fingerprint", "preserved"]

MAPPINGS = (dict, OrderedDict, defaultdict)
SEQUENCES = (list, set, deque)
CHUNK = 1 << 15
"""Elements hashed at a time: the temporary stays in a CPU's cache and on one thread."""
CHUNK_ON_DEVICE = 1 << 22

Undo = Callable[[], None]


@contextmanager
def preserved(model: nn.Module, *, clone: Iterable[str] = ()) -> Iterator[None]:
    """Run a block that uses ``model``, and leave the model as it was before.

    While the block runs, every ``.grad`` is ``None``; the old ones are put back afterwards,
    untouched.

    Args:
        model: any module, on any device, meta included.
        clone: canonical names of parameters that the block writes; their values are copied first
            and restored.

    Raises:
        ModelError: a parameter that is not in ``clone`` has other bits than before, or ``clone``
            names a parameter that does not exist. If the block itself raised, its exception goes
            on with a note instead.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved(norm):
        ...     _ = norm(torch.ones(4, 2))
        >>> norm.running_mean.tolist(), int(norm.num_batches_tracked)
        ([0.0, 0.0], 0)
    """
    restore_process = _process_state()
    snapshot = _Snapshot(model, frozenset(clone))
    try:
        yield
    except BaseException as error:
        changed = snapshot.restore()
        restore_process()
        if changed:
            error.add_note(f"the values of {', '.join(changed)} were changed and not restored")
        raise
    changed = snapshot.restore()
    restore_process()
    if changed:
        raise ModelError(
            "the forward or backward pass wrote to parameters, and their old values are lost",
            where=", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if changed[5:] else ""),
            fix="build the model anew; run on a copy of it, or keep the write out of forward",
        )


class _Snapshot:
    """Everything that :func:`preserved` puts back."""

    def __init__(self, model: nn.Module, clone: frozenset[str]) -> None:
        self.undo: list[Undo] = []
        self.seen: set[int] = set()
        self.prints: list[tuple[str, torch.Tensor, tuple[object, ...]]] = []
        named = {canonical(name, model): value for name, value in model.named_parameters()}
        for name in clone - named.keys():
            raise ModelError("no such parameter to clone", where=name, choices=near(name, named))
        for name, parameter in named.items():
            self.seen.add(id(parameter))
            self._tensor(parameter, copy=name in clone)
            self._container(parameter.__dict__)
            if name not in clone:
                self.prints.append((name, parameter, fingerprint(parameter)))
        for module in model.modules():
            self._container(module.__dict__)

    def restore(self) -> list[str]:
        """Put everything back; the names of parameters whose bits differ."""
        with torch.no_grad():
            for undo in reversed(self.undo):
                undo()
        return [name for name, value, before in self.prints if fingerprint(value) != before]

    def _value(self, value: object) -> None:
        if type(value) in MAPPINGS or type(value) in SEQUENCES or type(value) is tuple:
            self._container(value)
        elif id(value) in self.seen:
            return
        elif isinstance(value, torch.Tensor):
            self.seen.add(id(value))
            if value.grad_fn is None:
                self._tensor(value, copy=True)
        elif isinstance(value, torch.Generator):
            self.seen.add(id(value))
            state, generator = value.get_state(), value
            self.undo.append(lambda: _ignore(generator.set_state(state)))

    def _container(self, container: Any) -> None:
        if id(container) in self.seen:
            return
        self.seen.add(id(container))
        mapping = isinstance(container, dict)
        if type(container) is not tuple:
            self.undo.append(_restore_items(container, mapping))
        for value in list(container.values() if mapping else container):
            self._value(value)

    def _tensor(self, tensor: torch.Tensor, copy: bool) -> None:
        lazy = torch.nn.parameter.is_lazy(tensor)
        alias = None if lazy or tensor.is_inference() else tensor.data
        copy = copy and not lazy and not tensor.is_meta
        saved = _stored(tensor.detach()).clone() if copy else None
        requires_grad, grad = tensor.requires_grad, tensor.grad if tensor.is_leaf else None
        hooks = tensor._backward_hooks
        kept_hooks = dict(hooks) if hooks is not None else None
        if grad is not None:
            tensor.grad = None

        def undo() -> None:
            if alias is not None and not _same_storage(tensor, alias):
                tensor.data = alias
            if saved is not None:
                target = _stored(tensor)
                if not _equal_bits(target, saved):
                    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                        target.copy_(saved)
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.is_leaf and (grad is not None or tensor.grad is not None):
                tensor.grad = grad
            if hooks is None and tensor._backward_hooks is not None:
                tensor._backward_hooks = None
            elif hooks is not None and kept_hooks is not None and dict(hooks) != kept_hooks:
                hooks.clear()
                hooks.update(kept_hooks)

        self.undo.append(undo)


def fingerprint(tensor: torch.Tensor) -> tuple[object, ...]:
    """A hash of shape, dtype, device and bits: sum of odd random numbers times elements mod 2^64.

    One changed element always changes it, since odd numbers are invertible. Nothing is read of meta
    and lazy tensors.
    """
    if torch.nn.parameter.is_lazy(tensor):
        return ("lazy",)
    head = (tuple(tensor.shape), str(tensor.dtype), str(tensor.device))
    if tensor.is_meta:
        return head
    return (*head, *(_hash(_bits(part)) for part in _parts(_stored(tensor.detach()))))


def _hash(bits: torch.Tensor) -> int:
    if bits.numel() == 0:
        return 0
    chunk = CHUNK if bits.device.type == "cpu" else CHUNK_ON_DEVICE
    odd = _odd_numbers(chunk, str(bits.device))
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for index, part in enumerate(_wide(_flat(bits)).split(chunk)):
        total += (odd[: part.numel()] * part).sum() * (2 * index + 1)
    return int(total)


@lru_cache(maxsize=2)
def _odd_numbers(count: int, device: str) -> torch.Tensor:
    """Fixed odd 64-bit numbers: a Weyl sequence by the golden ratio (Knuth, TAOCP 3, 6.4)."""
    golden = 0x9E3779B97F4A7C15 - (1 << 64)
    numbers = torch.arange(1, count + 1, dtype=torch.int64, device="cpu") * golden * 2 + 1
    return numbers.to(device)


def _wide(bits: torch.Tensor) -> torch.Tensor:
    """The same memory as 64-bit numbers where it divides into them: fewer elements to hash."""
    width = 8 // bits.element_size()
    aligned = bits.storage_offset() % width == 0 and bits.stride(0) == 1
    return bits.view(torch.int64) if aligned and bits.numel() % width == 0 else bits


def _flat(bits: torch.Tensor) -> torch.Tensor:
    """All elements in one dimension, in memory order where that saves a copy."""
    if bits.is_contiguous():
        return bits.view(-1)
    order = sorted(range(bits.dim()), key=bits.stride, reverse=True)
    return bits.permute(order).reshape(-1)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        return tensor.int_repr()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.view(width)


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The strided tensors that a sparse or distributed tensor consists of."""
    if hasattr(tensor, "to_local"):
        return _parts(tensor.to_local())
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.to_dense() if tensor.layout is not torch.strided else tensor,)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """The elements that have memory of their own: expanded dimensions are cut to length one."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return tensor
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _equal_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    pairs = list(zip(_parts(left), _parts(right), strict=True))
    return all(a.shape == b.shape and torch.equal(_bits(a), _bits(b)) for a, b in pairs)


def _same_storage(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    if (tensor.shape, tensor.dtype, tensor.device) != (alias.shape, alias.dtype, alias.device):
        return False
    if tensor.layout is not torch.strided or tensor.is_meta:
        return True
    return tensor.data_ptr() == alias.data_ptr() and tensor.stride() == alias.stride()


def _restore_items(container: Any, mapping: bool) -> Undo:
    """Put a container's entries back, compared by identity, and in their order."""
    kept = list(container.items()) if mapping else list(container)

    def undo() -> None:
        now = list(container.items()) if mapping else list(container)
        if mapping:
            same = [(key, id(value)) for key, value in now] == [(k, id(v)) for k, v in kept]
        else:
            same = [id(value) for value in now] == [id(value) for value in kept]
        if not same:
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(kept)

    return undo


def _process_state() -> Undo:
    """Random states and torch's global defaults."""
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy is not None else None
    grad_mode, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    device = torch.get_default_device()

    def undo() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        if numpy is not None and legacy is not None:
            numpy.random.set_state(legacy)
        torch.set_grad_enabled(grad_mode)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)

    return undo


def _ignore(_: object) -> None:
    return None

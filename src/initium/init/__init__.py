"""``torch.nn.init``, drawn from the stream: the same functions, faster, reproducible on any device.

::

    from initium import init

    torch.manual_seed(0)
    init.kaiming_normal_(layer.weight)

Every function takes a key of 64 bits from ``generator``, or else from torch's default generator on
the CPU, and fills the tensor from the stream of that key (``docs/stream.md``): the numbers depend
on the state of the generator, the shape and the dtype alone. ``docs/init.md`` lists what differs
from torch. What is not random (``constant_``, ``eye_``, ``calculate_gain`` and the like) is torch's
own.

Not covered: DTensors, which are refused, and ``torch.compile``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.init import (
    _calculate_correct_fan,
    _calculate_fan_in_and_fan_out,
    calculate_gain,
    constant_,
    dirac_,
    eye_,
    ones_,
    zeros_,
)
from torch.overrides import handle_torch_function, has_torch_function_variadic

from initium.init import _elementwise, _matrix

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]


def uniform_(
    tensor: torch.Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with the uniform distribution on [a, b], in place.

    Args:
        tensor: of any shape, layout in memory, floating or complex type, and device.
        a, b: the ends; the parts of complex numbers are uniform each.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        RuntimeError: a above b, an end that the type does not hold, or a type that is not drawn.

    Example:
        >>> w = uniform_(torch.empty(3, 5), -1, 1)
        >>> bool((w.abs() <= 1).all())
        True

    Known divergence: torch draws from [a, b).
    """
    if has_torch_function_variadic(tensor):
        return handle_torch_function(
            uniform_, (tensor,), tensor=tensor, a=a, b=b, generator=generator
        )
    return _elementwise.uniform(tensor, a, b, generator)


def normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with N(mean, std^2), in place.

    Args:
        tensor: of any shape, layout in memory, floating or complex type, and device.
        mean, std: of every element; the parts of complex numbers have variance std^2 / 2 each.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        RuntimeError: a negative std, or a type that is not drawn.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> w = normal_(torch.empty(200, 50, dtype=torch.bfloat16), std=0.02)
        >>> round(w.float().std().item(), 3)
        0.02
    """
    if has_torch_function_variadic(tensor):
        return handle_torch_function(
            normal_, (tensor,), tensor=tensor, mean=mean, std=std, generator=generator
        )
    return _elementwise.normal(tensor, mean, std, generator)


def trunc_normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with N(mean, std^2) conditioned on [a, b], in place, without rejection.

    Args:
        tensor: of any shape, layout in memory, floating type, and device.
        mean, std: of the normal before it is cut; what is left of it has a smaller std.
        a, b: the ends, absolute and *not* in units of std: ``std=0.02`` with the default ends cuts
            at a hundred sigmas, which is no cut.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        RuntimeError: a above b, or a type that is not drawn.
        ZeroDivisionError: std is 0.
        SpecError: a mean or ends for which there are no values, such as NaN.

    Example:
        >>> w = trunc_normal_(torch.empty(3, 5), std=0.02, a=-0.04, b=0.04)
        >>> bool((w.abs() <= 0.04).all())
        True

    Known divergence: one end may be infinite however far away the other is.
    """
    return _elementwise.truncated(tensor, mean, std, a, b, generator)


def xavier_uniform_(
    tensor: torch.Tensor, gain: float = 1.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill with U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)), in place.

    Args:
        tensor: of shape (out, in, ...), with at least two axes.
        gain: a factor of the std, such as :func:`calculate_gain` returns.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        ValueError: fewer than two axes.
        RuntimeError: a negative gain, or a type that is not drawn.

    Example:
        >>> w = xavier_uniform_(torch.empty(3, 3))
        >>> bool((w.abs() <= 1).all())
        True

    Source: Glorot and Bengio, AISTATS 2010.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    std = gain * math.sqrt(2.0 / float(fan_in + fan_out))
    a = math.sqrt(3.0) * std
    return _elementwise.uniform(tensor, -a, a, generator)


def xavier_normal_(
    tensor: torch.Tensor, gain: float = 1.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill with N(0, std^2), std = gain sqrt(2 / (fan_in + fan_out)), in place.

    Arguments, errors and source as for :func:`xavier_uniform_`.

    Example:
        >>> tuple(xavier_normal_(torch.empty(3, 5)).shape)
        (3, 5)
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    std = gain * math.sqrt(2.0 / float(fan_in + fan_out))
    return _elementwise.normal(tensor, 0.0, std, generator)


def kaiming_uniform_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with U(-bound, bound), bound = gain sqrt(3 / fan), in place.

    Args:
        tensor: of shape (out, in, ...), with at least two axes.
        a: the negative slope, for ``leaky_relu``.
        mode: ``fan_in`` keeps the signal, ``fan_out`` the gradient.
        nonlinearity: what follows, by a name that :func:`calculate_gain` knows.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        ValueError: fewer than two axes, an unknown mode or nonlinearity.
        RuntimeError: a type that is not drawn.

    Example:
        >>> w = kaiming_uniform_(torch.empty(4, 6), nonlinearity="relu")
        >>> bool((w.abs() <= 1).all())
        True

    Source: He et al. 2015, arXiv:1502.01852.
    """
    if has_torch_function_variadic(tensor):
        return handle_torch_function(
            kaiming_uniform_,
            (tensor,),
            tensor=tensor,
            a=a,
            mode=mode,
            nonlinearity=nonlinearity,
            generator=generator,
        )
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    bound = math.sqrt(3.0) * std
    return _elementwise.uniform(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with N(0, std^2), std = gain / sqrt(fan), in place.

    Arguments, errors and source as for :func:`kaiming_uniform_`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> w = kaiming_normal_(torch.empty(300, 200), nonlinearity="relu")
        >>> round(w.std().item(), 2)
        0.1
    """
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    return _elementwise.normal(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _kaiming_std(tensor: torch.Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan = _calculate_correct_fan(tensor, mode)  # type: ignore[arg-type]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)  # type: ignore[arg-type]


def orthogonal_(
    tensor: torch.Tensor, gain: float = 1, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill with gain times a Haar-random (semi-)orthogonal matrix, in place.

    Args:
        tensor: of a real floating type and at least two axes; all but the first are one.
        gain: a factor of all elements.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        ValueError: fewer than two axes.
        NotImplementedError: a type that is not drawn, complex ones included.

    Example:
        >>> w = orthogonal_(torch.empty(3, 5))
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-5)
        True

    Source: Saxe et al. 2013, arXiv:1312.6120; Stewart, SIAM J. Numer. Anal. 17 (1980).

    Known divergences: half-precision types are rounded from float32, where torch's QR refuses them;
    the last bits depend on the machine's BLAS.
    """
    return _matrix.orthogonal(tensor, gain, generator)


def sparse_(
    tensor: torch.Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill with N(0, std^2), but for ceil(sparsity * rows) zeros in each column, in place.

    Args:
        tensor: of two axes.
        sparsity: the fraction of zeros in each column, in [0, 1].
        std: of the other elements.
        generator: gives the key; torch's default generator on the CPU if it is not given.

    Returns:
        the tensor.

    Raises:
        ValueError: another number of axes, or a sparsity outside [0, 1].
        RuntimeError: a negative std, or a type that is not drawn.

    Example:
        >>> w = sparse_(torch.empty(8, 3), sparsity=0.25)
        >>> (w == 0).sum(0).tolist()
        [2, 2, 2]

    Source: Martens, ICML 2010.

    Known divergence: torch draws the places of the zeros from its default generator, whatever
    ``generator`` is.
    """
    return _matrix.sparse(tensor, sparsity, std, generator)


def _deprecated(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The old name, without the underscore: it warns and calls the new one."""
    new = getattr(function, "__name__", "")
    old = new.removesuffix("_")

    def alias(*args: Any, **kwargs: Any) -> torch.Tensor:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated: the old name of :func:`{new}`."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)

"""Extreme singular values of the Jacobian of one sample's output, without ever making it.

Where one side is small its rows are computed and decomposed. Otherwise a few Golub-Kahan-Lanczos
steps with full reorthogonalisation give bounds that are sharp at the top and loose at the bottom.
J v comes from differentiating J^T u by u, and from forward mode where an operator has no second
derivative. Attention runs in torch's plain operators, which have one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from initium._check.deep.entry import Entry
from initium._check.deep.passes import Subject, measuring
from initium._check.deep.samples import coupled
from initium._model.call import first_floating
from initium._report.deep import Jacobian

__all__ = ["Linear", "extremes", "jacobian"]

EXACT = 32
"""Outputs or inputs up to which every row or column is computed."""
LANCZOS = 12
"""Steps otherwise: the largest value is then within about a percent where it stands out at all."""
PROBES = 4
"""Random directions behind the root mean square: 2 / PROBES is its relative variance at most."""

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map by its products: ``down`` is J v of [inputs], ``up`` is J^T u of [outputs]."""

    inputs: int
    outputs: int
    down: Product
    up: Product


def jacobian(subject: Subject, entry: Entry) -> Jacobian:
    """Of the first sample, in its batch where batch norm couples them; of all if none is apart.

    Raises:
        RuntimeError: the output does not depend on what enters in a way that autograd knows.
    """
    entered: list[torch.Tensor] = []
    if subject.samples > 1 and not coupled(subject.model):
        subject = subject.sample(0)

    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        entered.append(tensor.detach().requires_grad_(True))
        return entered[0].clone()

    with measuring(subject.model), sdpa_kernel([SDPBackend.MATH]):
        with entry.changed(subject.inputs, leaf) as inputs:
            output = _output(subject.call(inputs))
        if not entered or output is None or not output.requires_grad:
            raise RuntimeError("the output does not depend on what enters")
        if output.is_complex() or entered[0].is_complex():
            raise RuntimeError("complex numbers")
        linear = _linear(subject, entry, entered[0], output)
        largest, smallest, rms, exact = extremes(linear)
    return Jacobian(
        entry=entry.name,
        inputs=linear.inputs,
        outputs=linear.outputs,
        largest=largest,
        smallest=smallest,
        rms=rms,
        exact=exact,
    )


def _output(output: object) -> torch.Tensor | None:
    """The logits where the model names them; a scalar loss says less than they do."""
    named = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return named if isinstance(named, torch.Tensor) else first_floating(output)


def _linear(subject: Subject, entry: Entry, x: torch.Tensor, z: torch.Tensor) -> Linear:
    apart = z.dim() > 0 and x.shape[0] == z.shape[0] == subject.samples
    inside, outside = (x[0], z[0]) if apart else (x, z)

    def placed(flat: torch.Tensor, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        if not apart:
            return flat.reshape(part.shape).to(whole)
        full = torch.zeros_like(whole, requires_grad=False)
        full[0] = flat.reshape(part.shape).to(whole)
        return full

    def taken(whole: torch.Tensor) -> torch.Tensor:
        return (whole[0] if apart else whole).detach().reshape(-1).cpu().double()

    def up(u: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(z, x, placed(u, z, outside), retain_graph=True)
        return taken(found)

    def twice(v: torch.Tensor) -> torch.Tensor:
        dummy = torch.zeros_like(z, requires_grad=True)
        (pulled,) = torch.autograd.grad(z, x, dummy, create_graph=True)
        (found,) = torch.autograd.grad(pulled, dummy, placed(v, x, inside), retain_graph=True)
        return taken(found)

    def forward(v: torch.Tensor) -> torch.Tensor:
        with forward_ad.dual_level(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of torch.jit

            def dual(tensor: torch.Tensor) -> torch.Tensor:
                return forward_ad.make_dual(tensor.detach(), placed(v, x, inside))

            with torch.no_grad(), entry.changed(subject.inputs, dual) as inputs:
                output = _output(subject.call(inputs))
            assert output is not None
            tangent = forward_ad.unpack_dual(output).tangent
            return taken(torch.zeros_like(output) if tangent is None else tangent)

    def down(v: torch.Tensor) -> torch.Tensor:
        try:
            return twice(v)
        except RuntimeError:
            return forward(v)

    return Linear(inside.numel(), outside.numel(), down, up)


def extremes(linear: Linear) -> tuple[float, float, float, bool]:
    """Largest, smallest and root mean square singular value, and whether they are exact.

    Example:
        >>> matrix = torch.diag(torch.arange(1.0, 5.0)).double()
        >>> largest, smallest, rms, exact = extremes(
        ...     Linear(4, 4, lambda v: matrix @ v, lambda u: matrix.T @ u)
        ... )
        >>> round(largest, 6), round(smallest, 6), round(rms**2, 6), exact
        (4.0, 1.0, 7.5, True)
    """
    side = min(linear.inputs, linear.outputs)
    if linear.outputs <= EXACT:
        rows = [linear.up(unit) for unit in torch.eye(linear.outputs, dtype=torch.float64)]
    elif linear.inputs <= EXACT:
        rows = [linear.down(unit) for unit in torch.eye(linear.inputs, dtype=torch.float64)]
    else:
        rows = []
    if rows:
        values = torch.linalg.svdvals(torch.stack(rows))
        return float(values[0]), float(values[-1]), float(values.square().mean().sqrt()), True
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, linear.outputs, generator=generator, dtype=torch.float64)
    energy = sum(float(linear.up(probe).square().sum()) for probe in probes) / PROBES
    largest, smallest = _lanczos(linear, min(LANCZOS, side), generator)
    return largest, smallest, (energy / side) ** 0.5, False


def _lanczos(linear: Linear, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Extreme Ritz values of Golub-Kahan bidiagonalisation.

    Source: Golub & Kahan 1965; Golub & Van Loan, Matrix Computations, section 10.4.
    """
    u = torch.randn(linear.outputs, generator=generator, dtype=torch.float64)
    left: list[torch.Tensor] = [u / u.norm()]
    right: list[torch.Tensor] = []
    diagonal: list[float] = []
    below: list[float] = []
    for _ in range(steps):
        v = _orthogonal(linear.up(left[-1]), right)
        size = float(v.norm())
        if size <= 1e-12 * max([1e-300, *diagonal, *below]):
            break
        diagonal.append(size)
        right.append(v / size)
        u = _orthogonal(linear.down(right[-1]), left)
        size = float(u.norm())
        below.append(size)
        if size <= 1e-12 * max(diagonal):
            break
        left.append(u / size)
    if not diagonal:
        return 0.0, 0.0
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix = torch.cat([matrix, torch.zeros(1, len(diagonal), dtype=torch.float64)])
    for index, value in enumerate(below):
        matrix[index + 1, index] = value
    values = torch.linalg.svdvals(matrix)
    return float(values[0]), float(values[-1])


def _orthogonal(vector: torch.Tensor, basis: list[torch.Tensor]) -> torch.Tensor:
    for _ in range(2 if basis else 0):
        stacked = torch.stack(basis)
        vector = vector - stacked.T @ (stacked @ vector)
    return vector

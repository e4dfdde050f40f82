"""A batch for a module that comes without one: ``example_inputs(model)``.

Covered: Lightning's ``example_input_array``; transformers models, from their signature and
configuration; timm models, from their published input size; and plain torch modules whose first
weight-holding layer says what it takes. Token ids are random within the vocabulary and images are
unit normal, both from a fixed seed of their own. Not covered: plain modules whose forward takes
several different arguments, or whose first layer is not the first one used: pass inputs for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from initium._model.call import tensors
from initium.errors import InputError

__all__ = ["BATCH", "example_inputs", "must_be_usable"]

BATCH = 8
LENGTH = 16
SIDE = {1: 256, 2: 32, 3: 16}
"""Side of the input of a convolution, by its number of dimensions."""


def example_inputs(model: nn.Module, *, labels: bool = True) -> object | None:
    """A batch that ``model`` should accept, or ``None`` where nothing says what it takes.

    Args:
        model: any module; its parameters may be on the meta device.
        labels: for transformers models with a head, add labels so that they return their own loss.

    Returns:
        What :func:`initium.check` takes as ``inputs``: a tensor, a tuple or a mapping.

    Example:
        >>> tuple(example_inputs(nn.Sequential(nn.Linear(5, 3), nn.ReLU())).shape)
        (8, 5)
    """
    own = getattr(model, "example_input_array", None)
    if own is not None:
        return own
    if hasattr(getattr(model, "config", None), "model_type"):
        from initium._model.hf_inputs import transformers_inputs

        return transformers_inputs(model, labels=labels)
    published = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(published, dict) and "input_size" in published:
        return _normal(BATCH, *published["input_size"])
    return _from_first_layer(model)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _ids(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def must_be_usable(
    inputs: object, name: str = "the batch", so_far: str = "the model was not run"
) -> None:
    """Raise InputError unless the first tensor of a batch holds samples, and numbers."""
    for tensor in tensors(inputs):
        if tensor.numel() == 0:
            raise InputError(
                f"{name} is empty", where="inputs", value=tuple(tensor.shape), fix="pass samples"
            )
        floating = tensor.is_floating_point() and not tensor.is_meta
        if floating and (count := int(tensor.isnan().sum())):
            raise InputError(
                f"{count} of {tensor.numel()} values of {name} are NaN",
                where="inputs",
                fix=f"look at how the batch is made; {so_far}",
            )
        break


def _from_first_layer(model: nn.Module) -> object | None:
    """What the first layer that fixes its input's shape takes, if the model takes just that."""
    for module in model.modules():
        for kind, make in _MAKERS.items():
            if isinstance(module, kind):
                made = make(module)
                if module is not model and isinstance(made, tuple) and _required(model) == 1:
                    made = made[0]
                count = len(made) if isinstance(made, tuple) else 1
                return made if module is model or _required(model) == count else None
    return None


def _required(model: nn.Module) -> int:
    """How many arguments ``forward`` needs."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _linear(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.Linear)
    return _normal(BATCH, layer.in_features)


def _bilinear(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(layer, nn.Bilinear)
    return _normal(BATCH, layer.in1_features), _normal(BATCH, layer.in2_features)


def _embedding(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
    return _ids(layer.num_embeddings, BATCH, LENGTH)


def _convolution(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.modules.conv._ConvNd)
    dimensions = len(layer.kernel_size)
    reach = max(d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    side = max(SIDE[dimensions], 2 * reach)
    if dimensions == 2 and max(layer.stride) >= 4:
        side = max(224, side)
    side -= side % max(layer.stride)
    return _normal(BATCH, layer.in_channels, *[side] * dimensions)


def _norm(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.LayerNorm)
    return _normal(BATCH, LENGTH, *layer.normalized_shape)


def _recurrent(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.RNNBase)
    return _sequence(layer.input_size, layer.batch_first)


def _cell(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.RNNCellBase)
    return _normal(BATCH, layer.input_size)


def _attention(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert isinstance(layer, nn.MultiheadAttention)
    query = _sequence(layer.embed_dim, layer.batch_first)
    key = _sequence(layer.kdim or layer.embed_dim, layer.batch_first)
    value = _sequence(layer.vdim or layer.embed_dim, layer.batch_first)
    return query, key, value


def _encoder(layer: nn.Module) -> torch.Tensor:
    attention = next(m for m in layer.modules() if isinstance(m, nn.MultiheadAttention))
    return _sequence(attention.embed_dim, attention.batch_first)


def _decoder(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return _encoder(layer), _encoder(layer)


def _sequence(width: int, batch_first: bool) -> torch.Tensor:
    shape = (BATCH, LENGTH) if batch_first else (LENGTH, BATCH)
    return _normal(*shape, width)


_MAKERS: dict[type[nn.Module], Callable[[nn.Module], object]] = {
    nn.Transformer: _decoder,
    nn.TransformerDecoder: _decoder,
    nn.TransformerDecoderLayer: _decoder,
    nn.TransformerEncoder: _encoder,
    nn.TransformerEncoderLayer: _encoder,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.modules.conv._ConvNd: _convolution,
    nn.Bilinear: _bilinear,
    nn.Linear: _linear,
    nn.LayerNorm: _norm,
}

"""``hf:<model type>`` and ``hf:<path>``: transformers models from their configuration, no network.

transformers is imported only when it is asked for, and its hub is switched off while it works. The
class is the one that the configuration names, else the first head that transformers has for it.
``tiny`` walks a ladder of ever gentler scalings until the model builds and runs its own inputs.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from initium._load.optional import import_optional
from initium._load.resize import resize
from initium._load.tiny import LADDER, shrink
from initium._load.weightless import weightless
from initium._model.hf_inputs import transformers_inputs
from initium.errors import ModelError, near

__all__ = ["config_files", "load_hf"]

HEADS = (
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "CAUSAL_LM",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "TEXT_TO_WAVEFORM",
    "TIME_SERIES_PREDICTION",
)
"""transformers' families of heads, in the order in which they are tried."""

LARGEST_TINY = 300_000_000
"""A rung of the ladder with more parameters than this is not built."""


def load_hf(
    name: str, *, tiny: bool, meta: bool, width: int | None = None, depth: int | None = None
) -> tuple[nn.Module, Any, str]:
    """The model, keyword inputs with labels where it has a loss for them, and a note.

    ``width`` and ``depth`` are a hidden size and a number of layers other than its own.

    Raises:
        DependencyError: transformers is not installed.
        ModelError: no such type or file, a damaged file, a model that cannot be built or is larger
            than this machine's memory.
    """
    import_optional("transformers")
    with _offline():
        config = _config(name)
        cls = _model_class(config)
        sized = width is not None or depth is not None
        if tiny:
            model, batch, how = _climb(name, cls, config, meta or sized)
            config = model.config
        if sized:
            config = _resized(name, config, width, depth)
        if sized or not tiny:
            if not meta:
                _must_fit(name, cls, config)
            model, how = _build(name, cls, config), _how(width, depth)
            batch = transformers_inputs(model)
    if batch is None:
        return model, None, f"{cls.__name__}, {how}; give it a batch with --inputs"
    shapes = {key: list(value.shape) for key, value in batch.items() if hasattr(value, "shape")}
    passed = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
    return model, batch, f"{cls.__name__}, {how}; random {passed}"


def config_files(model: Any, dtype: str) -> dict[str, str]:
    """What transformers needs beside the weights: how to build the model, and how to generate.

    Args:
        model: a model of transformers.
        dtype: of the weights, such as ``"bfloat16"``.

    Returns:
        the text of ``config.json``, and of ``generation_config.json`` if the model can generate.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    files = {"config.json": config.to_json_string()}
    if model.can_generate():
        files["generation_config.json"] = model.generation_config.to_json_string()
    return files


@contextmanager
def _offline() -> Iterator[None]:
    """No network and no chatter from transformers."""
    import huggingface_hub.constants as hub
    from transformers.utils import logging

    offline, verbosity = hub.HF_HUB_OFFLINE, logging.get_verbosity()
    hub.HF_HUB_OFFLINE = True
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


def _config(name: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = Path(name)
    if path.suffix == ".json" or os.sep in name or path.is_dir():
        settings = _read(path)
        kind = settings.get("model_type")
        where = f"hf:{name}"
    else:
        settings, kind, where = {}, name, "hf"
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            "transformers has no such model type" if kind else "has no 'model_type'",
            where=where,
            value=kind,
            choices=near(str(kind), CONFIG_MAPPING.keys()),
            fix="give a model type, or a config.json whose model_type this transformers knows",
        )
    try:
        cls = CONFIG_MAPPING[kind]
        return cls.from_dict(settings) if settings else cls()
    except Exception as error:
        raise _failed(name, "could not make the configuration", error) from error


def _read(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            "cannot be read", where=f"hf:{file}", value=error.strerror, fix="give a config.json"
        ) from error
    except ValueError as error:
        raise ModelError(f"is not JSON: {error}", where=f"hf:{file}") from error
    if not isinstance(settings, dict):
        raise ModelError("is not a JSON object", where=f"hf:{file}", value=type(settings).__name__)
    return settings


def _model_class(config: Any) -> Any:
    import transformers
    from transformers.models.auto import modeling_auto

    named = (config.architectures or [None])[0]
    if named:
        found = getattr(transformers, named, None)
        if found is None:
            raise ModelError(
                "transformers has no such architecture",
                where=f"hf:{config.model_type}",
                value=named,
                choices=near(named, dir(transformers)),
                fix="remove 'architectures' to take transformers' own choice",
            )
        return found
    for head in (*(f"MODEL_FOR_{head}_MAPPING" for head in HEADS), "MODEL_MAPPING"):
        mapping = getattr(modeling_auto, head, {})
        if type(config) in mapping:
            found = mapping[type(config)]
            found = found[0] if isinstance(found, (list, tuple)) else found
            if found.config_class is type(config):
                return found
    return _only_class(config)


def _only_class(config: Any) -> Any:
    """The model of a configuration that transformers' mappings do not list, such as one tower."""
    from transformers import PreTrainedModel

    module = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        classes = vars(importlib.import_module(module)).values()
    except ImportError:
        classes = {}.values()
    for found in classes:
        is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
        if is_model and found.config_class is type(config) and "PreTrained" not in found.__name__:
            return found
    raise ModelError(
        "is a configuration without a model of its own", where=f"hf:{config.model_type}"
    )


def _resized(name: str, config: Any, width: int | None, depth: int | None) -> Any:
    settings = resize(config.to_dict(), config.attribute_map, width, depth)
    try:
        return type(config).from_dict(settings)
    except Exception as error:
        what = f"could not make the configuration at {_how(width, depth)}"
        raise _failed(name, what, error) from error


def _how(width: int | None, depth: int | None) -> str:
    """The size of a model, in words."""
    sizes = {"width": width, "depth": depth}
    said = [f"{what} {value}" for what, value in sizes.items() if value is not None]
    return ", ".join(said) or "full size"


def _build(name: str, cls: Any, config: Any) -> nn.Module:
    try:
        model = cls._from_config(copy.deepcopy(config), dtype=torch.float32)
    except Exception as error:
        raise _failed(name, f"{cls.__name__} could not be built", error) from error
    assert isinstance(model, nn.Module)
    return model.train()


def _climb(name: str, cls: Any, config: Any, meta: bool) -> tuple[nn.Module, Any, str]:
    """The first rung of the ladder whose model builds and runs, with its inputs.

    If some build and none runs, the first that was built, without inputs: its structure can still
    be inspected.
    """
    built: tuple[nn.Module, None, str] | None = None
    failure: ModelError | None = None
    for rung in LADDER:
        try:
            small = type(config).from_dict(shrink(config.to_dict(), rung))
            if _parameters(name, cls, small) > LARGEST_TINY:
                continue
            model = _build(name, cls, small)
        except Exception as error:
            failure = failure or _failed(name, f"no tiny {cls.__name__} can be built", error)
            continue
        try:
            batch = transformers_inputs(model)
            if not meta:
                _run(model, batch)
            return model, batch, f"tiny: {rung}"
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            built = built or (
                model,
                None,
                f"tiny: {rung}; it did not run on inferred inputs ({text})",
            )
    if built is not None:
        return built
    raise failure or ModelError(
        f"cannot be made smaller than {LARGEST_TINY:,} parameters", where=f"hf:{name}"
    )


def _run(model: nn.Module, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        model.eval()(**batch)
    model.train()


def _parameters(name: str, cls: Any, config: Any) -> int:
    with weightless():
        return sum(p.numel() for p in _build(name, cls, config).parameters())


def _must_fit(name: str, cls: Any, config: Any) -> None:
    """Refuse a model whose weights and gradients exceed the free memory, before it is built."""
    free = _free_memory()
    if free is None:
        return
    count = _parameters(name, cls, config)
    if 8 * count > free:
        raise ModelError(
            f"{count / 1e9:.1f}e9 parameters with their gradients need {8 * count / 1e9:.0f} GB, "
            f"and {free / 1e9:.0f} GB are free",
            where=f"hf:{name}",
            fix="add --tiny, or give a smaller config.json",
        )


def _free_memory() -> int | None:
    """Bytes that Linux can still hand out; ``None`` where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(free[0]) if free else None


def _failed(name: str, what: str, error: Exception) -> ModelError:
    text = str(error.what if isinstance(error, ModelError) else f"{type(error).__name__}: {error}")
    return ModelError(f"{what}: {text}", where=f"hf:{name}")

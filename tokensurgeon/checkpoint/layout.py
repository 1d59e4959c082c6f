"""Find the vocabulary-sized tensors of a checkpoint by the model class's own structure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.header import DTYPES, TensorInfo
from tokensurgeon.checkpoint.limits import few_modules, refuse_odd_sizes
from tokensurgeon.checkpoint.text import read_json
from tokensurgeon.errors import InputError

__all__ = [
    "VocabularyTensors",
    "error_reason",
    "find_vocabulary_tensors",
    "linear_weights",
    "parameter_shapes",
    "read_config",
    "refuse_misfits",
    "refuse_missing_body",
    "stored_name",
]


_PACKED = 16
"""Numbers that a quantised checkpoint may hold in one."""
_COMPUTED = 1 << 29
"""Numbers that a model may compute for itself, such as tables of positions and masks."""


@dataclass(frozen=True, slots=True)
class VocabularyTensors:
    """Names, as in the checkpoint, of what has one row per token.

    Attributes:
        embedding: The input embedding, (rows, dim).
        head: The LM head, (rows, dim); None where it is the input embedding itself.
        bias: The LM head's bias, (rows,), if it has one.
        head_name: What the head is, or would be, called, for untying; None without a head.
        rows: Number of rows.
        dim: Width.
        stale: Copies that the checkpoint stores besides, of a tied head or of the bias, and of what.
        others: Further tensors that are indexed by token id, such as Gemma-3n's per-layer embeddings or BART's
            ``final_logits_bias``.
        unclaimed: Tensors of the embedding's shape that the model class does not know, such as those of the
            multi-token-prediction layers of DeepSeek-V3.
        wanted: The shapes that the model class has for embedding and head, by ``config.json``.
    """

    embedding: str
    head: str | None
    bias: str | None
    head_name: str | None
    rows: int
    dim: int
    stale: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    wanted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        """Whether the head is the input embedding."""
        return self.head is None


def read_config(directory: Path) -> dict[str, Any]:
    """The parsed ``config.json``.

    Raises:
        InputError: If there is none, or what it says of the vocabulary cannot be.
    """
    path = directory / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{directory} has no config.json, so it is not a model directory") from error
    text = config.get("text_config")
    if not isinstance(text, dict | None):
        raise InputError(f"{path}: text_config is {text!r}, and must be an object")
    refuse_odd_sizes(path, config)
    return config


def find_vocabulary_tensors(directory: Path, tensors: Mapping[str, TensorInfo]) -> VocabularyTensors:
    """Build the model without weights, ask it for its embeddings, and find those in the checkpoint.

    Raises:
        InputError: For an architecture that transformers does not know as a language model, or
            whose embedding is not in the checkpoint or is quantised.
    """
    model, embedding, head = _empty_model(directory)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    prefix = model.base_model_prefix

    def all_stored(parameter: Any) -> list[str]:
        wanted = [] if parameter is None else names.get(id(parameter), [])
        return list(dict.fromkeys(found for name in wanted if (found := stored_name(name, prefix, tensors))))

    def stored(parameter: Any) -> str | None:
        return next(iter(all_stored(parameter)), None)

    tied = head is None or head.weight is embedding.weight
    where = stored(embedding.weight)
    if where is None:
        raise InputError(
            f"{directory}: the checkpoint has none of {names[id(embedding.weight)]} "
            "(the model's input embedding); it is incomplete or of another architecture"
        )
    head_names = [] if head is None else [n for n in names[id(head.weight)] if n != where]
    stale = {f: where for n in head_names if (f := stored_name(n, prefix, tensors)) and f != where} if tied else {}
    where_head = None if tied else stored(head.weight) or _only_one_alike(where, tensors)
    if not tied and where_head is None:
        raise InputError(f"{directory}: the model is untied, but the checkpoint has no {head_names[0]}")
    info = tensors[where]
    for name in (where, where_head):
        if name is not None and tensors[name].dtype not in DTYPES:
            raise InputError(
                f"{directory}: {name} is stored as {tensors[name].dtype}; tokensurgeon needs an embedding in "
                f"{', '.join(sorted(DTYPES))}. Use a checkpoint whose embeddings are not quantised"
            )
    if len(info.shape) != 2:
        raise InputError(f"{directory}: {where} has shape {list(info.shape)}; an embedding has (tokens, width)")
    biases = all_stored(getattr(head, "bias", None))
    stale |= dict.fromkeys(biases[1:], biases[0]) if biases else {}
    claimed = {f for n in model.state_dict() if (f := stored_name(n, prefix, tensors))} | {where, where_head, *stale}
    sizes = {embedding.weight.shape[0], info.shape[0], *_vocabulary_sizes(model.config.to_dict())}
    return VocabularyTensors(
        embedding=where,
        head=where_head,
        bias=biases[0] if biases else None,
        head_name=where_head or (head_names[0] if head_names else None),
        rows=info.shape[0],
        dim=info.shape[1],
        stale=stale,
        others=tuple(
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Embedding)
            and module.num_embeddings in sizes
            and module.weight is not embedding.weight
        )
        + tuple(n for n, buffer in model.named_buffers() if n in tensors and info.shape[0] in buffer.shape),
        wanted={where: tuple(embedding.weight.shape)}
        | ({where_head: tuple(head.weight.shape)} if where_head is not None else {}),
        unclaimed=tuple(n for n, other in tensors.items() if n not in claimed and other.shape == info.shape),
    )


def refuse_misfits(directory: Path, layout: VocabularyTensors, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse an embedding or a head that the model class could not load.

    Raises:
        InputError: With both shapes.
    """
    for name, wanted in layout.wanted.items():
        found = tensors[name].shape
        if found == wanted:
            continue
        has, asked = (" x ".join(map(str, shape)) for shape in (found, wanted))
        if found == wanted[::-1]:
            raise InputError(
                f"{directory}: {name} is {has}, looks transposed: a token has a row, so it must be {asked}"
            )
        raise InputError(
            f"{directory}: {name} is {has}, and config.json asks for {asked} (vocab_size x width). One of the two is "
            "of another model; mend config.json, or fetch both again"
        )


def refuse_missing_body(directory: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse a ``config.json`` that asks for a much larger model than the files hold: the rest would be made up.

    Raises:
        InputError: With both sizes.
    """
    model, _, _ = _empty_model(directory)
    asked = sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    stored = sum(math.prod(info.shape) for info in tensors.values())
    packed = _PACKED if read_config(directory).get("quantization_config") else 2  # two, as a tied head may be left out
    if asked > stored * packed + _COMPUTED:
        raise InputError(
            f"{directory}: config.json asks for {asked:,} numbers, and the files hold {stored:,}. One of the two is of "
            "another model; mend config.json, or fetch both again"
        )


def _vocabulary_sizes(config: Mapping[str, Any]) -> set[int]:
    """``vocab_size`` and its likes: Gemma-3n has a smaller one for its per-layer embeddings."""
    own = {value for name, value in config.items() if str(name).startswith("vocab_size") and isinstance(value, int)}
    return own.union(*(_vocabulary_sizes(part) for part in config.values() if isinstance(part, dict)))


def parameter_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """What the model class calls its parameters, and their shapes; checkpoints may use other names.

    Raises:
        InputError: As `find_vocabulary_tensors` does for the architecture.
    """
    model, _, _ = _empty_model(directory)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def linear_weights(directory: Path, tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """Names in the checkpoint of the weights of linear layers, all but the LM head's: what low-rank updates change.

    Raises:
        InputError: As `find_vocabulary_tensors` does for the architecture.
    """
    from transformers.pytorch_utils import Conv1D

    model, _, head = _empty_model(directory)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    found = (stored_name(f"{name}.weight", model.base_model_prefix, tensors) for name in linear)
    return frozenset(name for name in found if name)


def _empty_model(directory: Path) -> tuple[Any, Any, Any]:
    """The model without weights, its input embedding and its LM head."""
    return _built(directory, json.dumps(read_config(directory)))


@lru_cache(maxsize=4)
def _built(directory: Path, _config: str) -> tuple[Any, Any, Any]:
    """As `_empty_model`; building one takes a second, and the same is asked for twice."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
        with torch.device("meta"), few_modules(directory / "config.json"):
            model = kind.from_config(config, trust_remote_code=False)
        return model, model.get_input_embeddings(), model.get_output_embeddings()
    except InputError:
        raise
    except Exception as error:  # whatever a model class raises at values that it did not expect
        raise InputError(_why_not_built(directory, error)) from error


def _why_not_built(directory: Path, error: Exception) -> str:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name, reason = read_config(directory).get("model_type"), error_reason(error)
    known = isinstance(name, str) and name in CONFIG_MAPPING
    if not known:
        reason = "config.json has no model_type" if name is None else "it does not know this type"
    elif "Unrecognized configuration class" in str(error):
        reason = "it has no language model of this type"
    elif not isinstance(error, ImportError | NotImplementedError):
        return f"{directory / 'config.json'}: transformers cannot build a model of type {name!r} by it ({reason})"
    shown = "unknown" if name is None else repr(name)
    return (
        f"{directory / 'config.json'}: transformers cannot build a language model of type {shown} ({reason}). Only "
        "architectures that the installed transformers knows are supported"
    )


def error_reason(error: Exception) -> str:
    """One line of what another package has to say, without the types that it tried."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
    detail = lines[1] if lines[0].startswith(("Validation error", "Class validation error")) and lines[1:] else lines[0]
    detail, listed, _ = detail.partition(" doesn't match any type in")
    detail += " is of a wrong type" if listed else ""
    return detail.removeprefix("TypeError: ").removeprefix("ValueError: ").rstrip(".")


def _only_one_alike(embedding: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The one other tensor of the embedding's shape: files may name the head as older versions did."""
    shape = tensors[embedding].shape
    alike = [name for name, info in tensors.items() if info.shape == shape and name != embedding]
    return alike[0] if len(alike) == 1 else None


def stored_name(name: str, prefix: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """A parameter's name in the file: as it is, or with the base model's prefix added or removed."""
    for candidate in (name, name.removeprefix(prefix + "."), f"{prefix}.{name}"):
        if candidate in tensors:
            return candidate
    # Composite models store their text model under names of their own.
    tail = ".".join(name.split(".")[-2:])
    alike = [found for found in tensors if found.endswith("." + tail) or found == tail]
    return alike[0] if len(alike) == 1 else None

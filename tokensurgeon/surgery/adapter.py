"""Carry LoRA adapters, and PEFT's others, over to a transplanted model: the body is the same, so they still fit."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors, resolve
from tokensurgeon.checkpoint.header import read_header
from tokensurgeon.checkpoint.layout import parameter_shapes
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.names import is_tokenizer
from tokensurgeon.checkpoint.pickled import tensor_shapes
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import read_json, write_json, write_text
from tokensurgeon.errors import InputError
from tokensurgeon.report.markdown import code, short_card
from tokensurgeon.vocabulary.visible import visible

__all__ = ["CONFIG", "adapter_weights", "carry_adapter", "module_of", "read_adapter_config"]

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_FACTORS = {".lora_A.weight": 1, ".lora_B.weight": 0}
"""Which side of a linear layer's (out, in) weight a factor's own (rank, in) or (out, rank) must fit."""


def carry_adapter(adapter: str, model: str, out: Path | str, *, overwrite: bool = False) -> list[str]:
    """Write an adapter that goes with the transplanted model, if it does not touch embedding or head.

    Args:
        adapter: What PEFT saved for the base: a directory or a hub id.
        model: The transplanted model; its ``tokensurgeon.json`` says what its base was.
        out: Output directory.
        overwrite: Replace an output that exists.

    Returns:
        The modules that the adapter changes.

    Raises:
        InputError: If the adapter touches what was replaced, does not fit the body, or is damaged.

    Example:
        >>> import tokensurgeon
        >>> tokensurgeon.carry_adapter("adapter", "transplanted", "out")
        ['model.layers.0.self_attn.q_proj']
    """
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (adapter, model))
    source, body = resolve(adapter, weights="adapter"), resolve(model, weights="vocabulary")
    manifest = Manifest.of_transplant(body)
    if manifest is None:
        raise InputError(f"{model} has no tokensurgeon.json, so it is no transplanted model")
    config, weights = read_adapter_config(source, adapter), adapter_weights(source, adapter)
    shapes = _shapes(weights)
    files = Checkpoint.open(body)
    layout = find_vocabulary_tensors(body, files.tensors)
    _refuse_vocabulary(adapter, config, shapes, layout)
    _refuse_misfits(adapter, shapes, parameter_shapes(body))
    named, known = str(config.get("base_model_name_or_path") or ""), str(manifest.content["base"]["name"])
    if Path(named).name != Path(known).name:
        log.warning("the adapter names %s as its base, the model was made from %s", named or "nothing", known)
    with staged(target, overwrite) as work:
        place = str(body.resolve()) if Path(model).expanduser().is_dir() else model
        changed = config | {"base_model_name_or_path": place, "revision": None}
        write_json(work / CONFIG, changed)
        shutil.copyfile(weights, work / weights.name)
        if any(is_tokenizer(path) for path in source.iterdir()):  # people load it from there
            TokenizerFiles.open(body).write(work)
        write_text(work / "README.md", _card(adapter, place))
    return sorted({module_of(name) for name in shapes})


def read_adapter_config(source: Path, adapter: str) -> dict[str, Any]:
    """What ``adapter_config.json`` says.

    Raises:
        InputError: If there is none, or it is not PEFT's.
    """
    try:
        config = read_json(source / CONFIG)
    except FileNotFoundError as error:
        raise InputError(f"{adapter} has no {CONFIG}, so it is no adapter") from error
    if "peft_type" not in config:
        raise InputError(f"{source / CONFIG} has no peft_type, so it is not PEFT's")
    return config


def adapter_weights(source: Path, adapter: str) -> Path:
    """The file with an adapter's tensors.

    Raises:
        InputError: If there is none.
    """
    weights = next((source / name for name in _WEIGHTS if (source / name).is_file()), None)
    if weights is None:
        raise InputError(f"{adapter} has neither {' nor '.join(_WEIGHTS)}")
    return weights


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".bin":
        return tensor_shapes(path)
    return {name: info.shape for name, info in read_header(path)[0].items()}


def module_of(name: str) -> str:
    """Say what an adapter's tensor changes.

    ``base_model.model.model.layers.0.mlp.lora_A.weight`` belongs to ``model.layers.0.mlp``.
    """
    parts = name.removeprefix(_PREFIX).split(".")
    cut = next((i for i, part in enumerate(parts) if part.startswith(("lora_", "token_adapter"))), len(parts) - 1)
    return ".".join(parts[:cut])


def _refuse_vocabulary(
    adapter: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], layout: VocabularyTensors
) -> None:
    own = {name.rpartition(".")[0] for name in (layout.embedding, layout.head_name, layout.bias) if name}
    tails = {name.rpartition(".")[2] for name in own}
    touched = sorted({module_of(n) for n in shapes if module_of(n) in own or module_of(n).rpartition(".")[2] in tails})
    if config.get("trainable_token_indices"):
        touched.append("trainable_token_indices")
    if touched:
        raise InputError(
            f"{adapter} changes {', '.join(touched)}, and the transplanted model has other rows there. Merge the "
            "adapter into its base first, and transplant the result"
        )


def _refuse_misfits(adapter: str, shapes: dict[str, tuple[int, ...]], parameters: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        suffix = next((s for s in _FACTORS if name.endswith(s)), None)
        if suffix is None or len(shape) != 2:
            continue
        module = module_of(name).removesuffix(".base_layer")
        weight = f"{module}.weight"
        found = parameters.get(weight)
        if found is None and any(own.startswith(f"{module}.") for own in parameters):
            continue  # a factor of one of the module's own parameters, such as those of all experts
        if found is None:
            raise InputError(
                f"{adapter} changes {module_of(name)}, and the model has no {weight}. It is for another model"
            )
        side = _FACTORS[suffix]
        if shape[side] not in found:
            raise InputError(
                f"{adapter}: {name} has shape {list(shape)} and does not fit {weight}, {list(found)}. "
                "It is for another model"
            )


def _card(adapter: str, model: str) -> str:
    title = f"{Path(adapter).name}, for the transplanted {Path(model).name}"
    what = (
        f"The weights of {code(adapter)}, unchanged: they do not touch the embedding or the LM head, and the body that "
        "they change is the same."
    )
    return short_card(visible(title), visible(what), "peft", base_model=visible(model))

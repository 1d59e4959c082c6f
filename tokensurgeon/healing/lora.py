"""Put low-rank updates on a model's linear layers, and find the tensors that they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from tokensurgeon.checkpoint.header import DTYPES
from tokensurgeon.checkpoint.layout import stored_name
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError

__all__ = ["add_lora", "lora_layers", "updates_of"]


def lora_layers(model: Any, rank: int, opened: OpenModel) -> dict[str, str]:
    """Linear layers that updates are put on.

    Four kinds stay as they are. Layers that are no wider than their rank and that of earlier runs' together (routers
    of a few experts): their change could be any, so that nobody could tell afterwards that it is no more than training.
    Layers whose weights the files have otherwise than the model (under other names, several in one tensor). And those
    whose weights several layers share, or which fused kernels of Mamba layers take without calling the layer.

    Args:
        model: Stays as it is.
        rank: Of the updates.
        opened: Its files.

    Returns:
        Names of the layers, and of their weights in the files.

    Raises:
        InputError: If no layer is left, or one that was trained before no longer is wide enough.
    """
    files = opened.checkpoint
    earlier, trained = _before(opened)
    found: dict[str, str] = {}
    users = Counter(
        stored_name(f"{name}.weight", model.base_model_prefix, files.tensors)
        for name, module in model.named_modules()
        if hasattr(module, "weight")
    )
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D) or module is model.get_output_embeddings():
            continue
        shape, width = tuple(module.weight.shape), min(module.weight.shape)
        stored = stored_name(f"{name}.weight", model.base_model_prefix, files.tensors)
        info = files.tensors[stored] if stored else None
        if stored is None or info is None or info.dtype not in DTYPES or info.shape != shape or _fused(model, name):
            continue
        if users[stored] > 1:
            continue
        if width > earlier + rank:
            found[name] = stored
        elif stored in trained:
            raise InputError(
                f"--lora {rank}: {stored} is {width} wide, and earlier runs changed it by rank {earlier}. All together "
                "must be less than its width. Use a smaller rank, or 0"
            )
    if not found:
        raise InputError(
            f"--lora {rank}: no layer of the model is wider than that and in the files under its own name. Use a "
            "smaller rank, or --lora 0, which trains rows of tokens alone"
        )
    return found


def add_lora(model: Any, rank: int, layers: Mapping[str, str]) -> dict[str, str]:
    """Put updates, in float32, on layers.

    Args:
        model: Is changed.
        rank: Of the updates.
        layers: As `lora_layers` found them; none leaves the model as it is.

    Returns:
        Those that have updates now: names of the layers, and of their weights in the files.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if not layers:
        return {}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(layers)), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # peft leaves out some layers of models with experts
    return {name: stored for name, stored in layers.items() if hasattr(model.get_submodule(name), "get_delta_weight")}


def _fused(model: Any, name: str) -> bool:
    """Whether a Mamba layer takes a layer's weight without calling it, by a kernel or by hand."""
    parent, _, own = name.rpartition(".")
    return own in ("out_proj", "dt_proj") and hasattr(model.get_submodule(parent), "A_log")


def updates_of(model: Any, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """What the updates add to each weight, by its name in the files.

    Args:
        model: With updates.
        names: As `add_lora` gave them.
    """
    return {
        stored: model.get_submodule(module).get_delta_weight("default").detach().cpu()
        for module, stored in names.items()
    }


def _before(opened: OpenModel) -> tuple[int, frozenset[str]]:
    """Rank of all low-rank updates that a model had before, and the tensors that they changed."""
    manifest = Manifest.read(opened.directory)
    healed = None if manifest is None or "merge" in manifest.content else manifest.content.get("healed")
    if healed is None:
        return 0, frozenset()
    return sum(run.get("lora") or 0 for run in healed["runs"]), frozenset(healed["tensors"])

"""Put low-rank updates on a model's linear layers, and find the tensors that they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from tokensurgeon.checkpoint.header import DTYPES
from tokensurgeon.checkpoint.layout import stored_name
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError

__all__ = ["add_lora", "updates_of"]


def add_lora(model: Any, rank: int, opened: OpenModel) -> dict[str, str]:
    """Put updates, in float32, on all linear layers that are wider than their rank and that of earlier runs' together.

    Narrower ones (routers of a few experts) stay as they are: their change could be any, so that nobody could tell
    afterwards that it is no more than training.

    Args:
        model: Is changed.
        rank: Of the updates.
        opened: Its files.

    Returns:
        Names of the layers, and of their weights in the files.

    Raises:
        InputError: If no layer is wide enough, or one that was trained before no longer is; or if a weight is not in
            the files as the model has it.
    """
    from peft import LoraConfig, inject_adapter_in_model

    files = opened.checkpoint
    earlier, trained = _before(opened)
    wide: list[str] = []
    narrow: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D) or module is model.get_output_embeddings():
            continue
        width = min(module.weight.shape)
        if width > earlier + rank:
            wide.append(name)
            continue
        narrow.append(name)
        stored = stored_name(f"{name}.weight", model.base_model_prefix, files.tensors)
        if stored in trained:
            raise InputError(
                f"--lora {rank}: {stored} is {width} wide, and earlier runs changed it by rank {earlier}. All together "
                "must be less than its width. Heal with a smaller rank, or without --lora"
            )
    if not wide:
        raise InputError(f"--lora {rank}: no layer of the model is wider than that. Use a smaller rank")

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=narrow or None)
    inject_adapter_in_model(settings, model)
    found = {}
    for name, module in model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        stored = stored_name(f"{name}.weight", model.base_model_prefix, files.tensors)
        info = files.tensors[stored] if stored else None
        if stored is None or info is None or info.dtype not in DTYPES or info.shape != shapes[f"{name}.weight"]:
            raise InputError(f"--lora: the checkpoint has no {name}.weight that could be changed. Heal without --lora")
        found[name] = stored
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return found


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
    manifest = Manifest.of_transplant(opened.directory)
    healed = None if manifest is None else manifest.content.get("healed")
    if healed is None:
        return 0, frozenset()
    return sum(run.get("lora") or 0 for run in healed["runs"]), frozenset(healed["tensors"])

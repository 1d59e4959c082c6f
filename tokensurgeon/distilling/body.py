"""Train a model's body itself, and say what became of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tokensurgeon.checkpoint.layout import stored_name
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError

__all__ = ["changes_of", "train_body"]


def train_body(model: Any, opened: OpenModel) -> dict[str, str]:
    """Let all of a body be trained, in float32, but for what the files have otherwise than the model.

    Args:
        model: Is changed. Its embedding and LM head stay as they are.
        opened: Its files.

    Returns:
        Names of parameters, and of their tensors in the files.

    Raises:
        InputError: If the files have none of them under its own name.
    """
    files, found = opened.checkpoint, dict[str, str]()
    rows = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    for name, parameter in model.named_parameters():
        stored = stored_name(name, model.base_model_prefix, files.tensors)
        if id(parameter) in rows or stored is None or not parameter.is_floating_point():
            continue
        if files.tensors[stored].shape == tuple(parameter.shape) and stored not in found.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            found[name] = stored
    if not found:
        raise InputError(f"{opened.name}: its files hold the body under other names than its class. Use --lora")
    return found


def changes_of(model: Any, opened: OpenModel, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """What training added to each tensor, by its name in the files.

    Args:
        model: Trained.
        opened: Its files, as they were.
        names: As `train_body` gave them.
    """
    parameters, read = dict(model.named_parameters()), opened.checkpoint.read
    return {stored: parameters[name].detach().float().cpu() - read(stored).float() for name, stored in names.items()}

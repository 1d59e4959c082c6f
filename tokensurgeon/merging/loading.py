"""Models whose gradients are asked for, and what their checkpoints call the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tokensurgeon.checkpoint import Checkpoint, resolve
from tokensurgeon.checkpoint.layout import read_config, stored_name
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.model import LoadedModel, load_model, pick_device

__all__ = ["load_trainable", "stored_names", "token_rows"]


def load_trainable(reference: str, device: str) -> tuple[Path, LoadedModel]:
    """A model and where it lies. float16 becomes float32: gradients are too small for it.

    Raises:
        InputError: If there is no such model, or it is quantised.
    """
    directory = resolve(reference)
    if read_config(directory).get("quantization_config"):
        raise InputError(f"{reference} is quantised, and has no gradients; give the model that it was made from")
    loaded = load_model(directory, pick_device(device))
    if next(loaded.model.parameters()).dtype == torch.float16:
        loaded.model.float()
    return directory, loaded


def stored_names(tensors: Mapping[str, torch.Tensor], directory: Path, loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """The same tensors under the names that the checkpoint has for those parameters."""
    stored = Checkpoint.open(directory).tensors
    prefix = loaded.model.base_model_prefix
    return {stored_name(name, prefix, stored) or name: tensor for name, tensor in tensors.items()}


def token_rows(loaded: LoadedModel, pieces: list[str]) -> list[torch.Tensor]:
    """(1, length) int64 ids of each piece of text, behind what every text starts with."""
    start = [] if loaded.prefix is None else [loaded.prefix]
    return [torch.tensor([[*start, *loaded.encode(piece)]], device=loaded.model.device) for piece in pieces]

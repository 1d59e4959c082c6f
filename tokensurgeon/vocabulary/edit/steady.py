"""Make a tokenizer cut a text the same way each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["without_dropout"]


def without_dropout(spec: Mapping[str, Any]) -> dict[str, Any]:
    """``tokenizer.json`` without the share of merges that are left out by chance, which is meant for training.

    Args:
        spec: The parsed file.
    """
    model = spec["model"]
    return {**spec, "model": {**model, "dropout": None} if model.get("dropout") else model}

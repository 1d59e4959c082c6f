"""Directories with files of given names, for tests of what is written, replaced and refused."""

from __future__ import annotations

import json

MODEL = ("config.json", "model.safetensors")
SAYS = {
    "config.json": {"model_type": "llama"}, "adapter_config.json": {"peft_type": "LORA"},
    "tokensurgeon.json": {"format": 1},
}  # fmt: skip
"""What makes a directory a model, as little as can be."""


def fill(place, *names):
    """A directory with files of these names, and folders where they end so."""
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(json.dumps(SAYS.get(name, f"content of {name}")))
    return place

"""Directories with files of given names, for tests of what is written, replaced and refused."""

from __future__ import annotations

MODEL = ("config.json", "model.safetensors")


def fill(place, *names):
    """A directory with files of these names, and folders where they end so."""
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(f"content of {name}")
    return place

"""Keep what each stage's output was made of, so that a stage is run again only where that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tokensurgeon
from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.durable import put_in_place
from tokensurgeon.checkpoint.foreign import taken_files
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.checkpoint.text import read_json_if_there, write_json
from tokensurgeon.merging.models import content_digest

__all__ = ["RECORD", "Record", "Weights", "key_of_stage", "model_digest", "output_digest", "own_digest"]

RECORD = "pipeline.json"
Weights = Literal["all", "vocabulary"]
_DECIDES = ("tokensurgeon", "torch", "transformers", "tokenizers", "numpy", "mergekit", "accelerate", "peft")


class Record:
    """``pipeline.json``: by stage, the key of what it was made of, and the digest of what was made."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            InputError: If it is damaged.
        """
        self.path = path
        self._stages: dict[str, dict[str, Any]] = read_json_if_there(path).get("stages", {})

    def state(self, name: str, key: str, output: Path) -> str:
        """``made`` if the output is what this key makes; ``changed`` if it was made of other things; or ``open``.

        An output that a killed run had moved to its place and not yet noted is ``made`` too: outputs appear whole.
        """
        entry, found = self._stages.get(name), output_digest(output)
        if entry is None or found is None:
            return "open"
        if "output" in entry:
            return "made" if (entry["key"], entry["output"]) == (key, found) else "changed"
        if found == entry["before"]:
            return "changed"
        if entry["key"] != key:
            return "changed"
        self.ended(name, output)
        return "made"

    def begun(self, name: str, key: str, output: Path) -> None:
        """Note what a stage is being made of."""
        self._write(name, {"key": key, "before": output_digest(output)})

    def ended(self, name: str, output: Path) -> None:
        """Note what came out."""
        self._write(name, {"key": self._stages[name]["key"], "output": output_digest(output)})

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        self._stages[name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = self.path.with_suffix(".new")
        write_json(work, {"stages": self._stages})
        put_in_place(work, self.path)


def key_of_stage(command: str, options: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """A name for all that decides what a stage makes.

    Args:
        command: Such as ``heal``.
        options: As the file has them, with the values of inputs; outputs of stages by their names.
        contents: Digests of the models and files that they name.
    """
    parts = [command, options, dict(contents), own_digest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def model_digest(reference: str, weights: Weights) -> str:
    """SHA-256 of what is read of a model; of its vocabulary alone, the same whether the rest lies beside it or not.

    Raises:
        InputError: If there is no such model.
    """
    if weights == "all":
        return content_digest(resolve(reference))
    model = OpenModel.open(reference, weights)
    layout, sha = model.layout, hashlib.sha256()
    manifest = [path for path in taken_files(model.directory) if path.name == MANIFEST]
    for path in sorted([*manifest, *other_files(model.directory)]):
        sha.update(f"{path.name}\0{file_digest(path)}\n".encode())
    for name in filter(None, (layout.embedding, layout.head, layout.bias)):
        sha.update(f"{name}\0{model.checkpoint.digest(name)}\n".encode())
    return sha.hexdigest()


def output_digest(output: Path) -> str | None:
    """SHA-256 of a file, or of a directory's files and their names; None where there is nothing."""
    if output.is_file():
        return file_digest(output)
    files = sorted(path for path in output.rglob("*") if path.is_file()) if output.is_dir() else []
    if not files:
        return None
    listed = "".join(f"{path.relative_to(output).as_posix()}\0{file_digest(path)}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


@cache
def own_digest() -> str:
    """SHA-256 of our own code, and the versions of the libraries that compute."""
    sha = hashlib.sha256()
    root = Path(tokensurgeon.__file__).parent
    for path in sorted(root.rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    for name in _DECIDES:
        try:
            sha.update(f"{name} {version(name)}\n".encode())
        except PackageNotFoundError:
            sha.update(f"{name} -\n".encode())
    return sha.hexdigest()

"""From what the user names - a directory, a .gguf file, a hub id - to a local model directory with safetensors."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from tokensurgeon.checkpoint.pickled import PICKLED, as_safetensors
from tokensurgeon.checkpoint.shards import INDEX
from tokensurgeon.errors import InputError

__all__ = ["resolve"]

log = logging.getLogger(__name__)

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "LICENSE*", "NOTICE*"]
_VOCABULARY_LIKE = re.compile(r"embed|head|wte|output\.(weight|bias)$|^shared")


def resolve(reference: str, *, weights: str = "all") -> Path:
    """Give a local directory for a model.

    Args:
        reference: A model directory, a ``.gguf`` file, or a hub id such as ``org/name``, with
            ``org/name@revision`` for a branch, tag or commit. Hub access goes through
            huggingface_hub and follows its cache, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN.
        weights: ``all``, or ``none`` where tokenizer and config are enough, or ``vocabulary`` for
            only the shards that hold an embedding or an LM head.

    Returns:
        A directory that exists, with safetensors: pickled weights are converted into a cache.

    Raises:
        InputError: If there is no such model.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path if weights == "none" else as_safetensors(path)
    if path.is_file():
        if path.suffix == ".gguf":
            from tokensurgeon.checkpoint.gguf import convert

            return convert(path)
        raise InputError(f"{reference} is a file; give a model directory, a .gguf file or a hub id")
    repository = reference.partition("@")[0]
    looks_local = reference.startswith((".", "/", "~")) or repository.count("/") > 1 or path.suffix == ".gguf"
    if looks_local:
        raise InputError(f"{reference} does not exist; give a model directory, a .gguf file or a hub id")
    found = _download(reference, weights)
    return found if weights == "none" else as_safetensors(found)


def _download(reference: str, weights: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = reference.partition("@")

    def fetch(patterns: list[str]) -> Path:
        try:
            found = snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{reference} is neither a local path nor a model that the hub gives us ({reason}). "
                "Check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE"
            ) from error
        return Path(found)

    directory = fetch(_SMALL_FILES)
    if weights == "none":
        return directory
    index = directory / INDEX
    shards = ["model.safetensors"]
    if index.is_file():
        places = json.loads(index.read_text())["weight_map"]
        wanted = places if weights == "all" else [n for n in places if _VOCABULARY_LIKE.search(n)] or places
        shards = sorted({places[name] for name in wanted})
    log.info("fetching %s from %s", ", ".join(shards), repository)
    found = fetch([*_SMALL_FILES, *shards])
    return found if any(found.glob("*.safetensors")) else fetch([*_SMALL_FILES, PICKLED])

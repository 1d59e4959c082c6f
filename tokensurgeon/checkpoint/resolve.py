"""Turn what the user names (a directory, a .gguf file, a hub id) into a local directory with safetensors."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import cast

from tokensurgeon.checkpoint.foreign import guard
from tokensurgeon.checkpoint.header import expected_shards
from tokensurgeon.checkpoint.hub import NoRangesError, fetch_vocabulary
from tokensurgeon.checkpoint.pickled import PICKLED, as_safetensors
from tokensurgeon.errors import InputError

__all__ = ["resolve"]

log = logging.getLogger(__name__)

_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.py", "LICENSE*", "NOTICE*"]


def resolve(reference: str, *, weights: str = "all") -> Path:
    """Give a local directory for a model.

    Args:
        reference: A model directory, a ``.gguf`` file, or a hub id such as ``org/name``, with
            ``org/name@revision`` for a branch, tag or commit. Hub access goes through
            huggingface_hub and follows its cache, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN.
        weights: ``all``, or ``none`` where tokenizer and config are enough, or ``vocabulary`` for
            only the embedding and the LM head: fetched from a hub by byte ranges; or ``adapter`` for PEFT's files.

    Returns:
        A directory that exists, with safetensors: pickled weights are converted into a cache.

    Raises:
        InputError: If there is no such model, or it depends on a file that lies elsewhere or is none.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return _safe(path, weights)
    if path.is_file():
        if path.suffix == ".gguf":
            from tokensurgeon.checkpoint.gguf import convert

            return convert(path)
        raise InputError(f"{reference} is a file; give a model directory, a .gguf file or a hub id")
    repository = reference.partition("@")[0]
    looks_local = reference.startswith((".", "/", "~")) or repository.count("/") > 1 or path.suffix == ".gguf"
    if looks_local:
        raise InputError(f"{reference} does not exist; give a model directory, a .gguf file or a hub id")
    return _safe(_download(reference, weights), weights)


def _safe(directory: Path, weights: str) -> Path:
    guard(directory, weights)
    return directory if weights in ("none", "adapter") else as_safetensors(directory)


def _download(reference: str, weights: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = reference.partition("@")
    client = cast(type[Exception], HfHubHTTPError.__bases__[0])  # the HTTP client's own base class

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*_SMALL_FILES, *patterns]))

    try:
        directory = fetch(*(["adapter_model.*"] if weights == "adapter" else []))
        if weights in ("none", "adapter"):
            return directory
        shards = expected_shards(directory)
        if weights == "vocabulary":
            if all((directory / name).is_file() for name in shards):
                return directory
            if any(directory.glob(PICKLED)):
                return fetch(PICKLED)
            try:
                return fetch_vocabulary(repository, directory)
            except (NoRangesError, FileNotFoundError) as error:
                log.info("%s; fetching whole files", error)
        log.info("fetching %s from %s", ", ".join(shards), repository)
        found = fetch(*shards)
        return found if any(found.glob("*.safetensors")) else fetch(PICKLED)
    except (HFValidationError, LocalEntryNotFoundError, OSError, client) as error:
        if isinstance(error, OSError) and error.errno in _OURS:
            raise InputError(f"{reference} cannot be kept on this machine ({error})") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{reference} is neither a local path nor a model that the hub gives us ({reason}). "
            "Check the name, HF_TOKEN for gated models, and HF_HUB_OFFLINE; after a broken connection, run the same "
            "command again to go on where it was"
        ) from error

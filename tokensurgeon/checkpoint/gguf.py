"""A .gguf file as a model directory: dequantised once by transformers, kept in a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

from tokensurgeon.errors import InputError, MissingDependencyError

__all__ = ["cache_directory", "convert"]

log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """TOKENSURGEON_CACHE, or ``tokensurgeon`` in the user's cache directory."""
    chosen = os.environ.get("TOKENSURGEON_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() if chosen else Path(base).expanduser() / "tokensurgeon"


def convert(path: Path) -> Path:
    """Dequantise to float32 safetensors, or reuse an earlier conversion of the same bytes.

    Args:
        path: The ``.gguf`` file.

    Returns:
        A model directory in the cache, named after the file and its content.

    Raises:
        MissingDependencyError: Without the ``gguf`` package.
        InputError: If transformers cannot read the file.
    """
    if not all(importlib.util.find_spec(package) for package in ("gguf", "accelerate")):
        raise MissingDependencyError("gguf and accelerate", "gguf", f"reading {path.name}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    out = cache_directory() / "gguf" / f"{path.stem}-{digest[:12]}"
    if (out / "config.json").is_file():
        return out
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.warning("converting %s to safetensors (once; kept in %s)", path.name, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if hasattr(model.config, "quantization_config"):  # the tensors are no longer quantised
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        work.chmod(0o755)
        try:
            work.rename(out)
        except OSError:
            if not (out / "config.json").is_file():  # another process may have been faster
                raise
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path}: transformers cannot read this GGUF ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out

"""Turn a .gguf file into a model directory: dequantised once by transformers, kept in a cache."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from tokensurgeon.checkpoint.cache import cache_directory, is_kept, kept
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.layout import error_reason
from tokensurgeon.errors import InputError, MissingDependencyError

__all__ = ["convert"]

log = logging.getLogger(__name__)


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
    out = cache_directory() / "gguf" / f"{path.stem}-{file_digest(path)[:12]}"
    if is_kept(out):
        return out
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.warning("converting %s to safetensors (once; kept in %s)", path.name, out)
    with kept(out) as work:
        try:
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            if hasattr(model.config, "quantization_config"):  # the tensors are no longer quantised
                del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
        except Exception as error:  # whatever a reader raises at bytes that it did not expect
            reason = error_reason(error)
            raise InputError(f"{path}: transformers cannot read this GGUF ({reason}). Fetch it again") from error
    return out

"""Let transformers load an output without its data: names and shapes of tensors fit the model class."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.layout import error_reason, read_config
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.running import Check

__all__ = ["fitting_checks"]

_NAME = "fits its model class"
_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def fitting_checks(evidence: Evidence) -> Iterator[Check]:
    """On the meta device, nothing is missing, unexpected or of another shape that is not so in the base too."""
    if importlib.util.find_spec("accelerate") is None:
        yield Check(_NAME, True, "not checked: that needs accelerate. pip install accelerate", note=True)
        return
    try:
        before = _faults(evidence.base.directory)
    except Exception as error:  # whatever a model class raises; the base's own is not ours to judge
        yield Check(_NAME, True, f"not checked: the base does not load ({error_reason(error)})", note=True)
        return
    try:
        faults = _faults(evidence.out.directory) - before
    except Exception as error:
        yield Check(_NAME, False, f"it does not load ({error_reason(error)})")
        return
    shown = ", ".join(sorted(faults)[:3])
    yield Check(_NAME, not faults, shown or "transformers finds every tensor in its shape, and no other")


def _faults(directory: Path) -> set[str]:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging

    kind: Any = AutoModelForSeq2SeqLM if read_config(directory).get("is_encoder_decoder") else AutoModelForCausalLM
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        _, found = kind.from_pretrained(
            directory,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    finally:
        logging.set_verbosity(level)
    return {f"{what.removesuffix('_keys')}: {_named(entry)}" for what in _FAULTS for entry in found.get(what, ())}


def _named(entry: Any) -> str:
    return str(entry[0]) if isinstance(entry, tuple) else str(entry)

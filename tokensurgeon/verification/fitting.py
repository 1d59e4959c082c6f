"""Let transformers load an output without its data: names and shapes of tensors fit the model class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.layout import error_reason, read_config
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.running import Check

__all__ = ["fitting_checks"]

_NAME = "fits its model class"


def fitting_checks(evidence: Evidence) -> Iterator[Check]:
    """On the meta device, nothing is missing, unexpected or of another shape that is not so in the base too."""
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
    """Of names and shapes in the headers, beside those of the class; the base's own are the same either way."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging

    kind: Any = AutoModelForSeq2SeqLM if read_config(directory).get("is_encoder_decoder") else AutoModelForCausalLM
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=False)
    finally:
        logging.set_verbosity(level)
    wanted, prefix = model.state_dict(keep_vars=True), f"{model.base_model_prefix}."
    stored = {
        prefix + name if prefix + name in wanted and name not in wanted else name: info.shape
        for name, info in Checkpoint.open(directory).tensors.items()
    }
    there = {id(tensor) for name, tensor in wanted.items() if name in stored}  # a tied one has two names
    faults = {f"missing: {name}" for name, tensor in wanted.items() if name not in stored and id(tensor) not in there}
    faults |= {f"unexpected: {name}" for name in stored.keys() - wanted.keys()}
    both = stored.keys() & wanted.keys()
    return faults | {f"mismatched: {name}" for name in both if tuple(stored[name]) != tuple(wanted[name].shape)}

"""Load a model directory as its users do, by AutoModelForCausalLM and AutoTokenizer, or by files that are open."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles
from tokensurgeon.checkpoint.layout import error_reason, refuse_missing_body
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import context_of
from tokensurgeon.evaluation.start import prefix_by_files, prefix_of
from tokensurgeon.solver.memory import host_memory
from tokensurgeon.solver.scan import cpu_has, precision_for

__all__ = ["LoadedModel", "computes_in_bfloat16", "in_fast_numbers", "load_model", "pick_device"]

log = logging.getLogger(__name__)

_SHARE = 0.25
"""Of this machine's memory: what a model may take to be run in float32 where its files have it in bfloat16. Not of what
is free just now, so that models that are run beside or after each other are run alike."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and its tokenizer, ready to score text.

    Attributes:
        model: The causal language model, in evaluation mode.
        tokenizer: The transformers tokenizer; None where ``raw`` cuts text.
        prefix: What every text starts with, see `tokensurgeon.evaluation.start`; None for nothing.
    """

    model: Any
    tokenizer: Any
    prefix: int | None
    raw: Tokenizer | None = None

    @property
    def context(self) -> int | None:
        """Tokens that the model reads at most; None where its config says nothing."""
        return context_of(self.model)

    def reads(self, text: str, room: int = 0) -> bool:
        """Whether the model can read a text at once, behind what every text starts with and with so much room left."""
        context = self.context
        return context is None or len(self.encode(text)) + (self.prefix is not None) + room <= context

    def encode(self, text: str) -> list[int]:
        """Text to ids, without special tokens.

        Raises:
            InputError: If the tokenizer's settings let transformers stumble, or give ids that have no row.
        """
        ids = self._by_transformers(text) if self.raw is None else self.raw.encode(text, add_special_tokens=False).ids
        rows = math.inf if self.model is None else len(self.model.get_input_embeddings().weight)
        if (top := max(ids, default=-1)) >= rows:
            what = (self.raw.id_to_token if self.raw is not None else self.tokenizer.convert_ids_to_tokens)(top)
            raise InputError(
                f"{self.model.name_or_path}: text has token {what!r}, id {top}, and the embedding has {rows} rows. "
                "Mend tokenizer_config.json, or fetch it again"
            )
        return ids

    def _by_transformers(self, text: str) -> list[int]:
        try:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        except Exception as error:  # whatever is raised at settings that nobody expected
            where = self.tokenizer.name_or_path
            raise InputError(f"{where}: transformers cannot cut text ({error_reason(error)})") from error


def pick_device(name: str) -> torch.device:
    """A usable device by name; ``auto`` is CUDA where there is one, otherwise the CPU.

    Raises:
        InputError: If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}). Use --device cpu") from error
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for it; others are slower in it than in float32."""
    on_arm = device.type == "cpu" and cpu_has("bf16")
    return on_arm or precision_for(device, certain=True) is torch.bfloat16


def in_fast_numbers(model: Any, device: torch.device) -> Any:
    """The model in float32 if it is in half precision and a processor is to run it that is slow in that.

    Processors without instructions for bfloat16 take several times as long in it forward, and some hundred times
    backward. A model of bfloat16 that would take more than a quarter of the machine's memory in float32 stays as it is.
    One of float16 never does, on any processor; one that is quantised always.

    Args:
        model: transformers', on the host.
        device: Where it will be run.
    """
    stored = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    halves = stored & {torch.float16, torch.bfloat16}
    if device.type != "cpu" or not halves or stored - halves - {torch.float32} or getattr(model, "is_quantized", False):
        return model
    if torch.float16 in halves:
        return model.float()
    if computes_in_bfloat16(device):
        return model
    size, most = 4 * sum(parameter.numel() for parameter in model.parameters()), _SHARE * host_memory()
    if size <= most:
        return model.float()
    log.warning(
        "%s is run in bfloat16, which this processor has no instructions for, and takes several times as long: "
        "in float32 it would be %.1f GiB, and up to %.1f are taken here",
        *(model.name_or_path, size / 1024**3, most / 1024**3),
    )
    return model


def load_model(
    directory: Path, device: str | torch.device = "cpu", *, fast: bool = False, files: TokenizerFiles | None = None
) -> LoadedModel:
    """Load for evaluation.

    Args:
        directory: The model.
        device: Where to.
        fast: Whether weights in float32 may become bfloat16, where the device computes in it.
        files: Its tokenizer, where that is open already: transformers takes seconds for a large one.

    Raises:
        InputError: If transformers cannot load the directory, or text has tokens without a row.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors = Checkpoint.open(directory).tensors
    refuse_missing_body(directory, tensors)
    fast = fast and computes_in_bfloat16(torch.device(device)) and all(t.dtype == "F32" for t in tensors.values())
    dtype = torch.bfloat16 if fast else "auto"
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=False)
        tokenizer: Any = None if files else AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # whatever a model class raises at values that it did not expect
        shapes = "ignore_mismatched_sizes" in str(error)
        reason = "its weights have other shapes than config.json asks for" if shapes else error_reason(error)
        raise InputError(f"{directory}: transformers cannot load this model ({reason})") from error
    rows = len(model.get_input_embeddings().weight)
    tokens = files.tokenizer.get_vocab_size(with_added_tokens=False) if files else tokenizer.vocab_size
    if rows < tokens:
        raise InputError(
            f"{directory}: the embedding has {rows} rows, and the tokenizer {tokens} tokens besides added ones. "
            "Tokenizer and weights are of different models"
        )
    prefix = prefix_by_files(directory, files) if files else prefix_of(directory, tokenizer)
    model = in_fast_numbers(model, torch.device(device)).to(device).eval()
    return LoadedModel(model, tokenizer, prefix, files.plain() if files else None)

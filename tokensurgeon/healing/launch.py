"""Begin a training: on the devices that it was launched on, in what they compute in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch

from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.evaluation.loading import computes_in_bfloat16
from tokensurgeon.healing.options import TrainingOptions

__all__ = ["digest_of", "freeze", "launched"]


def launched(options: TrainingOptions, what: str) -> Any:
    """Accelerate's own object, for this process alone or among those that were launched.

    Args:
        options: See `TrainingOptions`.
        what: The command, for messages.

    Raises:
        InputError: If it was launched in shards.
        MissingDependencyError: If accelerate or peft are not there.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import is_initialized
        from accelerate.utils import DistributedType, set_seed

        if options.lora:
            import peft  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("accelerate and peft", "heal", what) from error
    accelerator = Accelerator(mixed_precision=None if is_initialized() else _precision())
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise InputError(f"{what} in shards ({accelerator.distributed_type}) is not supported; launch it without")
    set_seed(options.seed)
    return accelerator


def _precision() -> str | None:
    """What accelerate's environment says, or bfloat16 where the device computes in it."""
    if os.environ.get("ACCELERATE_MIXED_PRECISION"):
        return None
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("1", "true"):
        return "bf16" if torch.cuda.is_bf16_supported() else None
    return "bf16" if computes_in_bfloat16(torch.device("cpu")) else None


def digest_of(pieces: Sequence[str]) -> str:
    """Of text that is trained on."""
    sha = hashlib.sha256()
    for number, piece in enumerate(pieces):
        sha.update(b"\0" * bool(number) + piece.encode())
    return sha.hexdigest()


def freeze(model: Any, precision: str) -> None:
    """Let nothing be trained; stored in what is computed in."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16 if precision == "bf16" else torch.float32)

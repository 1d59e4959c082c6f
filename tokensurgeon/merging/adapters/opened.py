"""Open adapters that belong together, and write one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.header import read_header
from tokensurgeon.checkpoint.pickled import load_pickled
from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.checkpoint.text import write_json, write_text
from tokensurgeon.errors import InputError
from tokensurgeon.report.markdown import short_card
from tokensurgeon.surgery.adapter import CONFIG, adapter_weights, module_of, read_adapter_config
from tokensurgeon.vocabulary.visible import visible

__all__ = ["OpenAdapter", "modules_of", "open_adapters", "refuse_other_meaning", "write_adapter"]

log = logging.getLogger(__name__)

_BASE = "base_model_name_or_path"
_MEANING = (
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out",
    "lora_bias", "target_parameters", "layers_pattern",
)  # fmt: skip
"""Settings by which the same factors do something else."""


@dataclass(frozen=True, slots=True)
class OpenAdapter:
    """An adapter that PEFT saved.

    Attributes:
        name: What it is called: its directory's name, or all of the reference where names are not unique.
        config: ``adapter_config.json``.
        tensors: By name.
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def open_adapters(references: Sequence[str]) -> list[OpenAdapter]:
    """Read adapters whose tensors have the same names and shapes.

    Args:
        references: Directories or hub ids, two or more.

    Raises:
        InputError: If one is missing or damaged, is named twice, or is for another model or of another rank.
    """
    if len(references) < 2:
        raise InputError(f"give two adapters or more; here is {len(references)}")
    if twice := [name for number, name in enumerate(references) if name in references[:number]]:
        raise InputError(f"{twice[0]} is given twice")
    short = [Path(reference).name for reference in references]
    names = short if len(set(short)) == len(short) else references
    opened = [_open(reference, name) for reference, name in zip(references, names, strict=True)]
    first = opened[0]
    for other in opened[1:]:
        for name in sorted(first.tensors.keys() | other.tensors.keys()):
            one, two = (list(of.tensors[name].shape) if name in of.tensors else "absent" for of in (first, other))
            if one != two:
                raise InputError(
                    f"{first.name} and {other.name} do not go together: {name} is {one} in one and {two} in the other"
                )
        if (base := _base(first)) != (theirs := _base(other)):
            log.warning("%s names %s as its base, and %s names %s", first.name, base, other.name, theirs)
    return opened


def refuse_other_meaning(adapters: Sequence[OpenAdapter]) -> None:
    """Refuse adapters whose factors count differently.

    Raises:
        InputError: Naming the setting.
    """
    first = adapters[0]
    for other in adapters[1:]:
        for name in _MEANING:
            one, two = first.config.get(name), other.config.get(name)
            if one != two:
                raise InputError(
                    f"{first.name} has {name} {one!r} and {other.name} {two!r}, so that their factors count differently"
                )


def write_adapter(
    target: Path, overwrite: bool, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], what: str
) -> None:
    """Write an adapter as PEFT does, with a card that says what it is."""
    with staged(target, overwrite) as work:
        write_json(work / CONFIG, dict(config))
        save_file(dict(tensors), work / "adapter_model.safetensors", metadata={"format": "pt"})
        base = str(config.get(_BASE) or "")
        write_text(
            work / "README.md", short_card(visible(target.name), visible(what), "peft", base_model=visible(base))
        )


def modules_of(adapter: OpenAdapter) -> int:
    """How many modules an adapter changes."""
    return len({module_of(name) for name in adapter.tensors})


def _open(reference: str, name: str) -> OpenAdapter:
    source = resolve(reference, weights="adapter")
    config, weights = read_adapter_config(source, reference), adapter_weights(source, reference)
    if weights.suffix == ".bin":
        tensors = load_pickled(weights)
    else:
        read_header(weights)  # says what is wrong with a damaged file
        tensors = load_file(weights)
    for tensor, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{reference}: {tensor} has entries that are not finite; its training diverged")
    return OpenAdapter(name, config, tensors)


def _base(adapter: OpenAdapter) -> str:
    return Path(str(adapter.config.get(_BASE) or "no model")).name

"""Find what every text starts with that a model reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.checkpoint.text import read_json_if_there

__all__ = ["described_start", "prefix_by_files", "prefix_of", "said_start", "standing_for_start"]


def prefix_of(directory: Path, tokenizer: Any) -> int | None:
    """The id, by a model directory and its transformers tokenizer; None where there is none.

    It is what the manifest of a transplant names, or BOS, or what stands for it: CLS, the config's BOS, EOS.
    """
    said = said_start(directory, tokenizer.convert_ids_to_tokens)
    special = {f"{n}_token": getattr(tokenizer, f"{n}_token_id", None) for n in ("bos", "cls", "eos")}
    return _declared(directory, special) if said is None else said


def prefix_by_files(directory: Path, files: TokenizerFiles) -> int | None:
    """The same by the tokenizer's files."""
    said = said_start(directory, files.tokenizer.id_to_token)
    return _declared(directory, files.special_ids()) if said is None else said


def said_start(directory: Path, token: Callable[[int], str | None]) -> int | None:
    """The id that a manifest names, where the tokenizer has that token under it."""
    content = read_json_if_there(directory / MANIFEST)
    said = content.get("starts_with")
    if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said < (vocab_size(directory) or 0):
        return None
    return said if token(said) == content.get("start") else None


def standing_for_start(plan: RowPlan, base: int | None, own: int | None) -> int | None:
    """What a transplant's texts start with, where that is not its tokenizer's own: the id with the base's row.

    Qwen's texts start with ``<|endoftext|>``. SmolLM2's tokenizer calls ``<|im_start|>`` BOS, which opens a turn on
    Qwen's body; but it has an ``<|endoftext|>`` too.

    Args:
        plan: Of the output's rows.
        base: What the base's texts start with.
        own: What the output's would by its tokenizer.

    Returns:
        None where ``own`` is right, or no id is better.
    """
    live = np.isin(plan.provenance, (Provenance.COPIED, Provenance.ROLE, Provenance.OVERRIDE))
    standing = np.flatnonzero(live & (plan.source == base)).tolist() if base is not None else []
    return None if own in standing or not standing else int(standing[0])


def described_start(plan: RowPlan, base: OpenModel, out: Path, files: TokenizerFiles) -> dict[str, Any]:
    """What the manifest of an output says of that, as `said_start` reads it; nothing where its tokenizer is right.

    Args:
        plan: Of the output's rows.
        base: Whose body it has.
        out: The output, of which the config is read.
        files: Its tokenizer.
    """
    own = _declared(out, files.special_ids())
    better = standing_for_start(plan, prefix_by_files(base.directory, base.tokenizer), own)
    return {} if better is None else {"starts_with": better, "start": files.tokenizer.id_to_token(better)}


def _declared(directory: Path, special: Mapping[str, int | None]) -> int | None:
    config = read_config(directory)
    own = (config.get("text_config") or config).get("bos_token_id")  # said there, not an architecture's default
    starts = (special.get("bos_token"), special.get("cls_token"), own, special.get("eos_token"))
    return next((token_id for token_id in starts if token_id is not None), None)

"""Write the output's config.json and generation_config.json: the base's, with the donor's ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.text import read_json_if_there, write_json
from tokensurgeon.checkpoint.tokenizer import TokenizerFiles

__all__ = ["vocab_size", "write_settings"]

_STANDARD = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id")
_ANY_ID = re.compile(r"(_token_id|_token_index|_token_ids)$|^(suppress_tokens|begin_suppress_tokens|bad_words_ids)$")


def vocab_size(directory: Path) -> int | None:
    """``vocab_size`` of a model, also of a composite one or where the architecture's default holds."""
    config = read_config(directory)
    for part in _text_parts(config):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    from transformers import AutoConfig

    try:
        loaded = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    except (ValueError, KeyError, OSError):
        return None  # an unknown architecture is reported where its weights are needed
    found: int | None = getattr(loaded, "vocab_size", None)
    return found


def write_settings(
    base: Path,
    donor: Path,
    out: Path,
    tokenizer: TokenizerFiles,
    new_ids: Mapping[int, list[int]],
    n_rows: int,
    *,
    tied: bool,
    dtype: str | None,
) -> list[str]:
    """Write both files so that they agree with the new tokenizer.

    Args:
        base: The base's directory; everything that is not an id comes from there.
        donor: The donor's directory, for its stop tokens.
        out: Where to write.
        tokenizer: The donor's tokenizer.
        new_ids: Base id to the output ids that took its row.
        n_rows: ``vocab_size`` of the output.
        tied: Whether the output's head is its input embedding.
        dtype: New dtype, if it changes.

    Returns:
        Settings that named base tokens without a counterpart and were removed, for the report.
    """
    special = tokenizer.special_ids()
    dropped: list[str] = []
    config = read_config(base)
    _text_parts(config)[0]["vocab_size"] = n_rows
    for part in _text_parts(config):
        if "vocab_size" in part:
            part["vocab_size"] = n_rows
        if dtype is not None:
            part.update({name: dtype for name in ("dtype", "torch_dtype") if name in part})
        _remap(part, special, new_ids, dropped, "config.json")
    config["tie_word_embeddings"] = tied
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["tie_word_embeddings"] = tied
    write_json(out / "config.json", config)

    generation = read_json_if_there(base / "generation_config.json")
    stops = _as_list(generation.get("eos_token_id")) or _as_list(read_config(base).get("eos_token_id"))
    carried = [new for old in stops for new in new_ids.get(old, [])]
    donors = _as_list(read_json_if_there(donor / "generation_config.json").get("eos_token_id"))
    own = [special["eos_token"]] if "eos_token" in special else []
    _remap(generation, special, new_ids, dropped, "generation_config.json")
    eos = list(dict.fromkeys(i for i in [*own, *donors, *carried] if i < n_rows))
    if eos:
        generation["eos_token_id"] = eos[0] if len(eos) == 1 else eos
    if generation.get("pad_token_id") is None and eos:
        generation["pad_token_id"] = eos[0]
    write_json(out / "generation_config.json", generation)
    return dropped


def _remap(
    part: dict[str, Any],
    special: Mapping[str, int],
    new_ids: Mapping[int, list[int]],
    dropped: list[str],
    where: str,
) -> None:
    for name in _STANDARD:
        new = special.get(name.removesuffix("_id"))
        if new is not None and (name in part or name in _STANDARD[:3]):
            part[name] = new
        elif name in part or name in _STANDARD[:3]:
            part[name] = None  # left out, the architecture's default would name some other token
    for name in [n for n in part if _ANY_ID.search(n) and n not in _STANDARD and part[n] is not None]:
        old = _as_list(part[name])
        new_list = [new_ids[i][0] for i in old if isinstance(i, int) and new_ids.get(i)]
        if len(new_list) == len(old):
            part[name] = new_list if isinstance(part[name], list) else new_list[0]
        else:
            dropped.append(f"{where}: {name}={part[name]} named base tokens that the new vocabulary lacks")
            del part[name]


def _text_parts(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [p for p in (config.get("text_config"), config) if isinstance(p, dict)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]

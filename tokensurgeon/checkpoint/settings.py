"""Write the output's config.json and generation_config.json: the base's, with the donor's ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.ids import SPECIAL, CarriedIds, carry_ids
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.text import read_json_if_there, write_json
from tokensurgeon.checkpoint.tokenizer import TokenizerFiles

__all__ = ["CONFIG", "GENERATION", "vocab_size", "write_resized", "write_settings"]

CONFIG, GENERATION = "config.json", "generation_config.json"


def vocab_size(directory: Path) -> int | None:
    """``vocab_size`` of a model, also of a composite one or where the architecture's default holds."""
    config = read_config(directory)
    for part in _text_parts(config):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    from transformers import AutoConfig

    try:
        loaded = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    except Exception:
        return None  # an architecture or a value that is unknown is reported where the weights are needed
    found: int | None = getattr(loaded, "vocab_size", None)
    return found


def write_settings(
    base: Path,
    donor: Path | None,
    out: Path,
    tokenizer: TokenizerFiles,
    new_ids: Mapping[int, list[int]],
    n_rows: int,
    *,
    tied: bool,
    dtype: str | None,
    padding: Iterable[int] = (),
    beginning: int | None = None,
) -> list[str]:
    """Write both files so that they agree with the new tokenizer.

    Args:
        base: The base's directory; everything that is not an id comes from there.
        donor: The donor's directory, for its stop tokens; None where only the base has such.
        out: Where to write.
        tokenizer: The donor's tokenizer.
        new_ids: Base id to the output ids that took its row.
        n_rows: ``vocab_size`` of the output.
        tied: Whether the output's head is its input embedding.
        dtype: New dtype, if it changes.
        padding: Output ids whose rows take no probability, for want of a token or of a row for it.
        beginning: Output id that texts begin with, where the tokenizer declares no BOS.

    Returns:
        Settings that named base tokens without a counterpart and were removed, for the report.
    """
    known = set(tokenizer.tokenizer.get_vocab(with_added_tokens=True).values())
    usable = {i for i in known if i < n_rows} - set(padding)
    special = {name: i for name, i in tokenizer.special_ids().items() if i < n_rows}
    if beginning is not None:
        special.setdefault("bos_token", beginning)
    counterparts = {old: [i for i in new if i in usable] for old, new in new_ids.items()}
    ids = CarriedIds(
        new={old: new[0] for old, new in counterparts.items() if new},
        special=special,
        rows=(vocab_size(base), n_rows),
        tokens=max(known, default=-1) + 1,
    )
    config, dropped = carry_ids(read_config(base), ids, CONFIG)
    code = config.get("auto_map")
    if isinstance(code, dict) and code.pop("AutoTokenizer", None):
        dropped.append(f"{CONFIG}: auto_map of AutoTokenizer, code of the base's tokenizer")
    parts = _text_parts(config)
    parts[0]["vocab_size"] = n_rows
    for part in parts:
        if "vocab_size" in part:
            part["vocab_size"] = n_rows
        if dtype is not None:
            part.update({name: dtype for name in ("dtype", "torch_dtype") if name in part})
        _declare(part, special)
        part["tie_word_embeddings"] = tied
    write_json(out / CONFIG, config)

    generation, lost = carry_ids(read_json_if_there(base / GENERATION), ids, GENERATION)
    carried = [new for old in _stops(base) for new in counterparts.get(old, [])]
    own = [special["eos_token"]] if "eos_token" in special else []
    theirs = [] if donor is None else _stops(donor)
    stops = {*own, *theirs, *carried}
    twins = [i for new in counterparts.values() if stops & {*new} for i in new]  # rows that are as likely as a stop's
    eos = list(dict.fromkeys([*own, *(i for i in theirs if i in usable), *carried, *twins]))
    if odd := [i for i in theirs if i not in usable and i not in own]:
        lost.append(f"{GENERATION}: eos_token_id={odd} of the donor, which no token of the output has")
    _declare(generation, special)
    if eos:
        generation["eos_token_id"] = eos[0] if len(eos) == 1 else eos
    if generation.get("pad_token_id") is None and eos:
        generation["pad_token_id"] = eos[0]
    write_json(out / GENERATION, generation)
    return dropped + lost


def write_resized(base: Path, out: Path, before: int, after: int, tokens: int) -> list[str]:
    """Write both files as they are, but for the number of rows, and without ids that have none.

    Args:
        base: The model's directory.
        out: Where to write.
        before: Rows of the model.
        after: Rows of the output.
        tokens: One more than the highest id of the tokenizer.

    Returns:
        Settings that were removed.
    """
    same = {i: i for i in range(min(before, after))}
    ids = CarriedIds(same, None, (before, after), tokens)
    config, dropped = carry_ids(read_config(base), ids, CONFIG)
    parts = _text_parts(config)
    for part in parts:
        if "vocab_size" in part or part is parts[0]:
            part["vocab_size"] = after
    write_json(out / CONFIG, config)
    generation, lost = carry_ids(read_json_if_there(base / GENERATION), ids, GENERATION)
    if (base / GENERATION).is_file():
        write_json(out / GENERATION, generation)
    return dropped + lost


def _declare(part: dict[str, Any], special: Mapping[str, int]) -> None:
    """Set what the tokenizer declares; null where it does not, or the architecture's default would hold."""
    for name in SPECIAL:
        if (name in part or name in SPECIAL[:3]) and part.get(name) is None:
            part[name] = special.get(name.removesuffix("_id"))


def _stops(directory: Path) -> list[int]:
    """A model's own stop tokens."""
    for name in (GENERATION, CONFIG):
        found = read_json_if_there(directory / name).get("eos_token_id")
        ids = [i for i in (found if isinstance(found, list) else [found]) if isinstance(i, int)]
        if ids:
            return ids
    return []


def _text_parts(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [p for p in (config.get("text_config"), config) if isinstance(p, dict)]

"""Carry the token ids that settings hold, however deep and in whatever shape, over to another vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SPECIAL", "CarriedIds", "carry_ids", "named_ids"]

SPECIAL = (
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
)  # fmt: skip
"""The tokenizer's own special tokens; the first three are always set."""
_ID = re.compile(
    r"_token_(id|ids|index|indices|idx)$|(^|_)(bos|eos|pad|unk|sep|cls|mask|start|end|newline|patch)_id$"
    r"|^stop_token_ids$"
)
_OTHER_VOCABULARY = re.compile(r"^(codec|codebook|tts_codec|t2u|vocoder|unit|tag|subs)_")
"""Ids of units of sound and the like, not of tokens."""
_NAMED = ("lang_to_id", "task_to_id", "lang_code_to_id", "text_decoder_lang_to_code_id", "vocabulary_map")
_SIZE = re.compile(r"(^|_)vocab_size$|^n_vocab$|^vocab_size_")
_UNTOUCHED = ("quantization_config", "label2id", "id2label")

_New = Mapping[int, int]
_Item = Callable[[Any, _New], Any]


@dataclass(frozen=True, slots=True)
class CarriedIds:
    """Where ids and sizes go.

    Attributes:
        new: Old id to new id; an id that is not in here has no counterpart.
        special: The new tokenizer's special tokens by name (``bos_token``), which `SPECIAL` settings follow; None
            where these are carried over as all others are.
        rows: Rows of the old vocabulary (None where that is unknown) and of the new one.
        tokens: One more than the highest id of the new tokenizer.
    """

    new: _New
    special: Mapping[str, int] | None
    rows: tuple[int | None, int]
    tokens: int


def carry_ids(settings: Mapping[str, Any], ids: CarriedIds, where: str) -> tuple[dict[str, Any], list[str]]:
    """Settings with new ids, and what had to go.

    A part that has a vocabulary of its own (a ``vocab_size`` unlike the model's) stays as it is.

    Args:
        settings: As ``config.json`` or ``generation_config.json`` holds them.
        ids: Where ids go.
        where: The file's name, for what had to go.

    Returns:
        The new settings, and a sentence for each that named tokens without a counterpart.

    Example:
        >>> ids = CarriedIds({3: 30, 4: 40}, None, (10, 50), 50)
        >>> carry_ids({"forced_decoder_ids": [[1, 3]], "suppress_tokens": [4, 5]}, ids, "config.json")[0]
        {'forced_decoder_ids': [[1, 30]], 'suppress_tokens': [40]}
    """
    lost: list[str] = []
    return _part(settings, ids, f"{where}: ", lost), lost


def named_ids(settings: Mapping[str, Any], rows: int) -> dict[int, str]:
    """Ids that settings name, each with a setting that does; ``rows`` is the size of the vocabulary they are of."""
    found: dict[int, str] = {}

    class Seen(dict[int, int]):
        name = ""

        def __missing__(self, token_id: int) -> int:
            found.setdefault(token_id, self.name)
            return token_id

    def look(part: Mapping[str, Any], place: str) -> None:
        for name, value in part.items():
            seen.name = f"{place}{name}"
            if isinstance(value, dict) and name not in _ITEMS and name not in _NAMED:
                if not _has_own_vocabulary(name, value, rows, place):
                    look(value, f"{place}{name}.")
            else:
                _value(name, value, seen)

    seen = Seen()
    look(settings, "")
    return found


def _part(part: Mapping[str, Any], ids: CarriedIds, place: str, lost: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in part.items():
        if isinstance(value, dict) and name not in _ITEMS and name not in _NAMED:
            own = _has_own_vocabulary(name, value, ids.rows[0], place.rpartition(": ")[2])
            made[name] = value if own else _part(value, ids, f"{place}{name}.", lost)
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            made[name] = [_part(entry, ids, f"{place}{name}[{i}].", lost) for i, entry in enumerate(value)]
        elif name == "unpadded_vocab_size" and isinstance(value, int):
            made[name] = ids.tokens
        elif _SIZE.search(name) and value is not None and value == ids.rows[0]:
            made[name] = ids.rows[1]
        elif ids.special is not None and name in SPECIAL:
            made[name] = _special(name, value, ids)
        else:
            kept, gone = _value(name, value, ids.new)
            if gone and kept is None:
                lost.append(f"{place}{name}={_shown(value)} named base tokens that the new vocabulary lacks")
                continue
            if gone:
                lost.append(
                    f"{place}{name}: {len(gone)} of its {len(value)} entries (first: {_shown(gone[0])}) named base "
                    "tokens that the new vocabulary lacks"
                )
            made[name] = kept
    return made


def _has_own_vocabulary(name: str, part: Mapping[str, Any], rows: int | None, place: str) -> bool:
    if name in _UNTOUCHED:
        return True
    size = part.get("vocab_size")
    is_text = name == "text_config" and not place
    return isinstance(size, int) and rows is not None and size != rows and not is_text


def _special(name: str, value: Any, ids: CarriedIds) -> Any:
    """The tokenizer's own; of several stop tokens, those that have a counterpart stay beside it."""
    own = (ids.special or {}).get(name.removesuffix("_id"))
    if value is None or own is None:
        return None
    others = [ids.new[i] for i in value if i in ids.new] if isinstance(value, list) else []
    several = list(dict.fromkeys([own, *others]))
    return several if len(several) > 1 else own


def _value(name: str, value: Any, new: _New) -> tuple[Any, list[Any]]:
    """A setting's new value (None where nothing is left), and those of its entries that had to go."""
    if name in _NAMED and isinstance(value, dict):
        kept, gone = _each(list(value.items()), new, _placed)
        return (None if gone and not kept else dict(kept)), gone
    item = _ITEMS.get(name)
    if item is None and (not _ID.search(name) or _OTHER_VOCABULARY.match(name)):
        return value, []
    if name == "sequence_bias" and isinstance(value, dict):
        kept, gone = _each(list(value.items()), new, _spelled)
        return (None if gone and not kept else dict(kept)), gone
    if item is not None and isinstance(value, list):
        kept, gone = _each(value, new, item)
        return (None if gone and not kept else kept), gone
    try:
        return _whole(value, new), []
    except KeyError:
        return None, [value]


def _each(entries: list[Any], new: _New, item: _Item) -> tuple[list[Any], list[Any]]:
    """Entries that have a counterpart, and those that don't."""
    kept, gone = [], []
    for entry in entries:
        try:
            kept.append(item(entry, new))
        except (KeyError, TypeError, ValueError):  # no counterpart, or nothing that the setting can be
            gone.append(entry)
    return kept, gone


def _whole(value: Any, new: _New) -> Any:
    """An id, or a list of them at any depth, all of which must have a counterpart.

    Raises:
        KeyError: If one has none.
    """
    if isinstance(value, list):
        return [_whole(entry, new) for entry in value]
    is_id = isinstance(value, int) and not isinstance(value, bool) and value >= 0  # -1 and -100 stand for none
    return new[value] if is_id else value


def _biased(entry: Any, new: _New) -> Any:
    ids, bias = entry
    return [_whole(ids, new), bias]


def _placed(entry: Any, new: _New) -> Any:
    """A position, or a name, and its token."""
    place, token_id = entry
    return [place, _whole(token_id, new)]


def _spelled(entry: Any, new: _New) -> Any:
    """Ids that are written as a key, such as ``(12, 7)``."""
    key, bias = entry
    return [re.sub(r"\d+", lambda found: str(new[int(found[0])]), key), bias]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


_ITEMS: Mapping[str, _Item] = {
    "suppress_tokens": _whole,
    "begin_suppress_tokens": _whole,
    "suppressed_tokens": _whole,
    "stop_token_ids": _whole,
    "eos_token_id": _whole,
    "bad_words_ids": _whole,
    "force_words_ids": _whole,
    "sequence_bias": _biased,
    "forced_decoder_ids": _placed,
    "forced_tokens": _placed,
}
"""Settings of several entries, each of which stands for itself: those that have a counterpart stay."""

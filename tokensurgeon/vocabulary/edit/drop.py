"""Take tokens out of a tokenizer that still encodes every text, and some texts exactly as before.

Byte pair encoding makes a token by the same merges wherever the token comes out: merges within its characters do not
depend on what is around them, and a merge across its borders did not happen. So a token stays reachable if the merges
are kept that make it out of its own text, and a text whose tokens are all kept is encoded as before: at every step the
merge of lowest rank is still there, and no other was added. WordPiece takes the longest token that fits and Unigram the
likeliest cut; both stay the best among fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokensurgeon.vocabulary.edit.pieces import Word, continuation, is_byte, joined, merge_ranks, merged, vocab_of
from tokensurgeon.vocabulary.spelling import space_marks

__all__ = ["filled_ids", "needed_ids", "trimmed_spec"]


def needed_ids(spec: Mapping[str, Any], used: Iterable[int]) -> set[int]:
    """Ids that must be kept for the ``used`` ones to come out, and for every text to have an encoding.

    Args:
        spec: The parsed ``tokenizer.json``.
        used: Ids that texts are encoded with.

    Returns:
        The used ids, all special tokens and the one that pads, bytes or single characters, and what the used ones are
        merged from.

    Raises:
        InputError: If the tokenizer is of a kind that cannot be trimmed.
    """
    vocab = vocab_of(spec)
    pieces = {i: piece for piece, i in vocab.items()}
    kept = set(used) | {int(t["id"]) for t in spec.get("added_tokens", []) if t["special"]}
    prefix, fallback = continuation(spec), bool(spec["model"].get("byte_fallback"))
    marks = space_marks(spec)  # one may be put before a text; no bytes can stand for it
    for piece, i in vocab.items():
        single = len(piece.removeprefix(prefix)) == 1 and not fallback
        if single or piece in marks or (fallback and is_byte(piece)):
            kept.add(i)
    if spec.get("padding"):
        kept.add(int(spec["padding"]["pad_id"]))
    unknown = spec["model"].get("unk_token")
    if isinstance(unknown, str) and unknown in vocab:
        kept.add(vocab[unknown])
    if spec["model"].get("unk_id") is not None:
        kept.add(int(spec["model"]["unk_id"]))
    ranks = merge_ranks(spec)
    return kept.union(*(_made_of(pieces.get(i, ""), vocab, ranks, prefix) for i in kept))


def filled_ids(spec: Mapping[str, Any], kept: Iterable[int], size: int, n_rows: int) -> set[int]:
    """The ids ``kept`` and, up to a size, further ones: those of lowest id, with what they are merged from.

    Args:
        spec: The parsed ``tokenizer.json``.
        kept: As `needed_ids` gives them.
        size: Tokens to have at most.
        n_rows: Of the embedding; an id beyond them is not filled in.
    """
    vocab, ranks, prefix, found = vocab_of(spec), merge_ranks(spec), continuation(spec), set(kept)
    pieces = {i: piece for piece, i in vocab.items()}
    known = pieces.keys() | {int(t["id"]) for t in spec.get("added_tokens", [])}
    for i in sorted(i for i in known - found if i < n_rows):
        if len(found) >= size:
            break
        more = ({i} | _made_of(pieces.get(i, ""), vocab, ranks, prefix)) - found
        if len(found) + len(more) <= size:
            found |= more
    return found


def trimmed_spec(spec: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """``tokenizer.json`` with the ids ``kept`` only, renumbered in this order.

    Args:
        spec: The parsed file.
        kept: Closed under `needed_ids`.
    """
    new = {old: i for i, old in enumerate(kept)}
    model = dict(spec["model"])
    vocab = vocab_of(spec)
    pieces = {i: piece for piece, i in vocab.items()}
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][i] for i in kept if i in pieces]
        model["unk_id"] = new[model["unk_id"]] if model.get("unk_id") is not None else None
    else:
        model["vocab"] = {pieces[i]: new[i] for i in kept if i in pieces}
    if model["type"] == "BPE":
        ranks = merge_ranks(spec)
        prefix = continuation(spec)
        used = {pair for i in kept for pair in _derivation(pieces.get(i, ""), ranks, prefix)}
        model["merges"] = [list(pair) for pair in sorted(used, key=ranks.__getitem__)]
    result = dict(spec) | {"model": model}
    result["added_tokens"] = [t | {"id": new[t["id"]]} for t in spec.get("added_tokens", []) if t["id"] in new]
    for part in ("post_processor", "padding"):
        result[part] = _renumbered(spec.get(part), new)
    return result


def _made_of(piece: str, vocab: Mapping[str, int], ranks: Mapping[Word, int], prefix: str) -> set[int]:
    """Ids of all that a piece is merged from, its own included; none if it is not merged."""
    pairs = _derivation(piece, ranks, prefix)
    return {vocab[part] for pair in pairs for part in (*pair, joined(pair, prefix))}


def _derivation(piece: str, ranks: Mapping[Word, int], prefix: str) -> list[Word]:
    """The merges that make a piece out of its characters; none if they do not make it."""
    text = piece.removeprefix(prefix)
    first = prefix if text != piece else ""
    left, used = merged([(prefix if at else first) + character for at, character in enumerate(text)], ranks, prefix)
    return used if len(left) == 1 else []


def _renumbered(part: Any, new: Mapping[int, int]) -> Any:
    """Post-processors name tokens by id: lists ``ids``, pairs ``[token, id]``, and ``pad_id``."""
    if isinstance(part, list):
        return [_renumbered(item, new) for item in part]
    if not isinstance(part, dict):
        return part
    found: dict[str, Any] = {}
    for name, value in part.items():
        if name == "ids":
            found[name] = [new[i] for i in value]
        elif name in ("sep", "cls") and isinstance(value, list):
            found[name] = [value[0], new[value[1]]]
        elif name == "pad_id":
            found[name] = new.get(value, 0)
        else:
            found[name] = _renumbered(value, new)
    return found

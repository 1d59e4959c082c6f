"""Read a SentencePiece BPE file as SentencePiece itself does: the best score is joined first, whatever its id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from tokensurgeon.checkpoint.limits import refuse_charsmap
from tokensurgeon.errors import InputError

__all__ = ["begin_with", "every_merge", "is_readable", "refuse_long_pieces", "sentencepiece_tokenizer"]

_BPE, _CONTROL, _NAMED = 2, 3, 4
"""Kinds of models and of pieces, as in ``sentencepiece_model.proto``."""
_LONGEST_PIECE = 4096


def is_readable(path: Path) -> bool:
    """Whether a file is BPE with a piece for every byte, whose text is taken as it is.

    Raises:
        ImportError: Without sentencepiece or protobuf.
    """
    model = _read(path)
    trained, normal = model.trainer_spec, model.normalizer_spec
    as_it_is = not normal.precompiled_charsmap and not normal.remove_extra_whitespaces
    return bool(trained.model_type == _BPE and trained.byte_fallback and as_it_is)


def sentencepiece_tokenizer(path: Path, *, bos: bool = True) -> tuple[Tokenizer, dict[str, str]]:
    """The fast tokenizer and its special tokens by name.

    Args:
        path: The file.
        bos: Whether BOS is put before a text.

    Raises:
        InputError: If it is not a file as `is_readable` says.
        ImportError: Without sentencepiece or protobuf.
    """
    if not is_readable(path):
        raise InputError(
            f"{path}: only SentencePiece BPE with byte fallback that takes text as it is (no table of characters, no "
            "spaces removed) is read"
        )
    model = _read(path)
    trained = model.trainer_spec
    pieces = [piece.piece for piece in model.pieces]
    refuse_long_pieces(path, pieces)
    scores = {piece.piece: piece.score for piece in model.pieces}
    unknown = pieces[trained.unk_id]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = every_merge(sorted(scores, key=lambda piece: -scores[piece]), vocab)
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    begun = [normalizers.Prepend("▁")] if model.normalizer_spec.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*begun, normalizers.Replace(" ", "▁")])
    stripped = [decoders.Strip(" ", 1, 0)] if begun else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    tokenizer.decoder = decoders.Sequence(steps)
    named = {i: piece.type == _CONTROL for i, piece in enumerate(model.pieces) if piece.type in (_CONTROL, _NAMED)}
    for i, special in sorted({trained.unk_id: True, **named}.items()):
        token = AddedToken(pieces[i], normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    ids = {"unk_token": trained.unk_id, "bos_token": trained.bos_id, "eos_token": trained.eos_id}
    roles = {name: pieces[i] for name, i in ids.items() if i >= 0}
    if bos and (first := roles.get("bos_token")) is not None:
        begin_with(tokenizer, first)
    return tokenizer, roles


def _read(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto.FromString(path.read_bytes())
    refuse_charsmap(path, model.normalizer_spec.precompiled_charsmap)
    return model


def refuse_long_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Refuse pieces of which every split cannot be tried.

    Raises:
        InputError: With the first one's length.
    """
    longest = max(map(len, pieces), default=0)
    if longest > _LONGEST_PIECE:
        raise InputError(
            f"{path} has a piece of {longest:,} characters, and no honest one has more than {_LONGEST_PIECE:,}. Fetch "
            "it again"
        )


def every_merge(pieces: Iterable[str], rank: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every split of a piece into two others, in the order in which they are joined.

    Args:
        pieces: Those that are joined first come first.
        rank: Of all pieces; of several splits of one, that of the lowest comes first.

    Example:
        >>> every_merge(["ab", "abc"], {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4})
        [('a', 'b'), ('ab', 'c')]
    """
    found: list[tuple[str, str]] = []
    for piece in pieces:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in rank and piece[i:] in rank]
        found += sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return found


def begin_with(tokenizer: Tokenizer, bos: str) -> None:
    """Let a tokenizer put BOS before every text, and before both of a pair."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )

"""Read a SentencePiece BPE file as SentencePiece itself does: the best score is joined first, whatever its id."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from tokensurgeon.errors import InputError

__all__ = ["sentencepiece_tokenizer"]

_BPE, _CONTROL, _NAMED = 2, 3, 4
"""Kinds of models and of pieces, as in ``sentencepiece_model.proto``."""


def sentencepiece_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The fast tokenizer, with BOS before a text, and its special tokens by name.

    Raises:
        InputError: If it is not BPE with a piece for every byte.
        ImportError: Without sentencepiece or protobuf.
    """
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto.FromString(path.read_bytes())
    trained = model.trainer_spec
    if trained.model_type != _BPE or not trained.byte_fallback or model.normalizer_spec.precompiled_charsmap:
        raise InputError(f"{path}: only SentencePiece BPE with byte fallback and without a table of characters is read")
    pieces = [piece.piece for piece in model.pieces]
    scores = {piece.piece: piece.score for piece in model.pieces}
    unknown = pieces[trained.unk_id]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab, _merges(scores, vocab), unk_token=unknown, fuse_unk=True, byte_fallback=True))
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
    if (bos := roles.get("bos_token")) is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, vocab[bos])]
        )
    return tokenizer, roles


def _merges(scores: dict[str, float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of a piece into two others, those of the best piece first."""
    found = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        found += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return found

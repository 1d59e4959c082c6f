"""Real tiny tokenizers and models, built in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tokensurgeon.evaluation.texts import python_text

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEXT = python_text(60_000)


def byte_level(size: int, text: str = TEXT, specials: tuple[str, ...] = ("<|endoftext|>",)) -> Tokenizer:
    """GPT-2 style."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def _with_bytes(tokenizer: Tokenizer, specials: tuple[str, ...]) -> dict[str, Any]:
    """A trained SentencePiece-style tokenizer's spec, with the 256 byte pieces put before its own."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["byte_fallback"] = True
    spec["decoder"] = json.loads(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]).__getstate__()
    )
    spec["added_tokens"] = [
        {
            "id": i,
            "content": s,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, s in enumerate(specials)
    ]
    return spec


def sentencepiece_bpe(size: int, text: str = TEXT, specials: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> Tokenizer:
    """Llama-2 and Gemma style: ▁ for a space, bytes as <0xNN>, a prefix token at the beginning."""
    tokenizer = Tokenizer(models.BPE(unk_token=specials[0], fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator(text.replace(" ", " ▁").split(" "), trainer)
    spec = _with_bytes(tokenizer, specials)
    pieces = [*specials, *(f"<0x{b:02X}>" for b in range(256))]
    pieces += [p for p in sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get) if p not in pieces]
    spec["model"]["vocab"] = {p: i for i, p in enumerate(pieces)}
    # SentencePiece joins whatever makes a known token: merges name every split of it, in the order of the tokens.
    rank = {"".join(merge): number for number, merge in reversed(list(enumerate(spec["model"]["merges"])))}
    splits = [(piece[:i], piece[i:]) for piece in sorted(rank, key=rank.get) for i in range(1, len(piece))]
    spec["model"]["merges"] = [split for split in splits if all(part in spec["model"]["vocab"] for part in split)]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{specials[1]} $A", special_tokens=[(specials[1], 1)]
    )
    return tokenizer


def unigram(size: int, text: str = TEXT) -> Tokenizer:
    """T5 style Unigram with Metaspace, here with byte fallback."""
    specials = ("<unk>", "<s>", "</s>")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, show_progress=False, unk_token="<unk>", special_tokens=list(specials)
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    spec = _with_bytes(tokenizer, specials)
    vocab = spec["model"]["vocab"]
    lowest = min(score for _, score in vocab) - 5
    spec["model"]["vocab"] = vocab + [[f"<0x{b:02X}>", lowest] for b in range(256)]
    return Tokenizer.from_str(json.dumps(spec))


def wordpiece(size: int, text: str = TEXT) -> Tokenizer:
    """BERT style, uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """Wrap for transformers, with the special tokens declared."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def steady(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give the hidden states a large common mean, as trained models have, and larger random parts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
        embedding = model.get_input_embeddings().weight
        embedding += torch.randn(embedding.shape[1], generator=generator)
    return model


def save(directory: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, **kwargs: Any) -> Path:
    """Write a model directory."""
    for name in ("bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{name}_token_id")
        setattr(model.config, f"{name}_token_id", token_id)
        setattr(model.generation_config, f"{name}_token_id", token_id)
    model.save_pretrained(directory, **kwargs)
    tokenizer.save_pretrained(directory)
    return directory


def llama(rows: int, *, dim: int = 32, tied: bool = True, seed: int = 0) -> torch.nn.Module:
    """A two-layer Llama."""
    config = LlamaConfig(
        vocab_size=rows, hidden_size=dim, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=tied,
    )  # fmt: skip
    return steady(LlamaForCausalLM(config), seed)

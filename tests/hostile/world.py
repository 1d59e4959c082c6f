"""Honest files to spoil: tiny models with tokenizers of every kind, a transplant, an adapter, a recipe."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
from edits import Edit, raw
from tiny import CHATML, TEXT, byte_level, fast, llama, save, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Tokenizer

from tokensurgeon import TransplantOptions, transplant

__all__ = ["build", "tekken"]

_RECIPE = """merge_method: linear
models:
  - model: WORLD/base
    parameters: {weight: 0.5}
  - model: WORLD/donor
    parameters: {weight: 0.5}
dtype: float32
tokensurgeon: {k: 4}
"""


def build(root: Path) -> Path:
    """Make all in a directory: ``base``, ``donor``, ``unigram``, ``wordpiece``, ``model``, ``adapter`` and files."""
    own = fast(
        byte_level(400, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
        bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    own.chat_template = CHATML
    base = save(root / "base", llama(len(own), seed=1), own)
    pieces = sentencepiece_bpe(500, specials=("<unk>", "<bos>", "<eos>", "<pad>"))
    other = fast(pieces, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    donor = save(root / "donor", llama(len(other), tied=False, seed=2), other)
    _beside(donor, root / "unigram", unigram(400))
    _beside(donor, root / "wordpiece", wordpiece(500))
    for name in ("tekken", "spiece"):
        (root / name).mkdir()
    (root / "tekken/tekken.json").write_bytes(tekken()(b""))
    _sentencepiece(root / "spiece/tokenizer.model")
    transplant(str(base), str(donor), root / "model", TransplantOptions(k=4, forward=False))
    _adapter(base, root / "adapter")
    (root / "text.txt").write_text(TEXT[:30_000], "utf-8")
    (root / "recipe.yaml").write_text(_RECIPE, "utf-8")
    return root


def tekken(**config: object) -> Edit:
    """A file of Mistral's with a token for each byte, and changes of its ``config``."""
    vocab = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(256)]
    own = {"pattern": r"\p{L}+|\p{N}|\s+", "default_num_special_tokens": 20, "default_vocab_size": 276}
    return raw(json.dumps({"config": {**own, **config}, "vocab": vocab}))


def _beside(donor: Path, out: Path, tokenizer: Tokenizer) -> None:
    """The donor with another tokenizer's file alone."""
    out.mkdir()
    config = json.loads((donor / "config.json").read_text()) | {"vocab_size": tokenizer.get_vocab_size()}
    (out / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(out / "tokenizer.json"))


def _sentencepiece(path: Path) -> None:
    import sentencepiece

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines()), model_writer=file, vocab_size=500, model_type="bpe",
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        )  # fmt: skip


def _adapter(base: Path, out: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(out)

"""Know the files of a model directory by their names: tokenizer, settings, weights, and what else is usual there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

__all__ = ["MANIFEST", "TEMPLATES", "TOKENIZER_FILES", "decides", "is_tokenizer", "is_usual", "is_weights"]

MANIFEST = "tokensurgeon.json"
"""What we write about an output."""
TEMPLATES = "additional_chat_templates"
"""The one folder that belongs to a tokenizer."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    TEMPLATES,
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tekken.json",
)
_TOKENIZER = (
    "tokenizer*.json", "tokenizer*.model", "tokenizer*.py", "tokenizer*.txt", "tokenization_*.py", "tekken*.json",
    "encoder.json", "dict.txt", "*.tiktoken", "*.bpe", "*.model", "*.model.v*", "*.spm", "*.vocab", "normalizer.json",
    "bpe.codes", "emoji.json",
)  # fmt: skip
"""Further names of files that belong to a tokenizer; those of a base must not lie beside another one's."""
_WEIGHTS = tuple(
    f"*.{kind}"
    for kind in (
        "safetensors", "safetensors.index.json", "bin", "bin.index.json", "gguf", "pth", "pt", "ckpt", "h5",
        "msgpack", "onnx", "onnx_data", "ot", "tflite",
    )
)  # fmt: skip
_READ_BY_NAME = ("*config.json", "*.index.json", "chat_template*.json", MANIFEST, "*.jinja", "*vocab*", "*.tokenizer")
"""Besides a tokenizer's: what we or transformers open where it is there, so that the model depends on it."""
_LOADED = {
    "all": ("*.safetensors",), "vocabulary": ("*.safetensors",), "adapter": ("adapter_model.*",), "none": (),
}  # fmt: skip
"""Weights that are read, by what is asked for."""
_PICKLED = ("pytorch_model*.bin",)
_USUAL = (
    "*config.json", "params.json", "configuration.json", "modules.json", "trainer_state.json", "training_args.bin",
    "*_results.json", MANIFEST, "report.html", "README.md", "mergekit_config.y*ml", "LICENSE*", "LICENCE*",
    "NOTICE*", "USE_POLICY*", "configuration_*.py", "modeling_*.py", "tokenization_*.py", "processing_*.py",
    "image_processing_*.py", "generation_utils.py", ".gitattributes", ".DS_Store",
)  # fmt: skip
"""What transformers, PEFT, mergekit, hub clients and we ourselves write beside weights and tokenizers."""


def is_tokenizer(path: PurePath) -> bool:
    """Whether a file of a model directory belongs to its tokenizer; any ``tokenizer…`` does."""
    return path.match("tokenizer*") or _is_tokenizers(path)


def is_weights(path: PurePath) -> bool:
    """Whether a file holds weights, of whatever format, or lists their shards."""
    return _matches(path, _WEIGHTS)


def decides(path: PurePath, weights: str, beside: Iterable[PurePath]) -> bool:
    """Whether what a model is depends on a file: settings, tokenizer, templates, and the weights that are read.

    Args:
        path: The file.
        weights: Which are asked for, see `tokensurgeon.checkpoint.resolve.resolve`.
        beside: All files of the directory: pickled weights are read where there are no others.
    """
    if path.suffix == ".py":
        return False  # never run, and never needed
    if is_weights(path) and not path.match("*.json"):
        unpickles = weights in ("all", "vocabulary") and not any(other.match("*.safetensors") for other in beside)
        return _matches(path, _LOADED[weights] + (_PICKLED if unpickles else ()))
    return is_tokenizer(path) or _matches(path, _READ_BY_NAME)


def is_usual(path: PurePath, *, configured: bool = True) -> bool:
    """Whether a file is one that tools write into model directories.

    Args:
        path: The file.
        configured: Whether settings of a model lie beside it. Without, names that other programs use as well, such as
            ``data.h5`` and ``my.model``, say nothing.
    """
    foreign = is_weights(path) and not path.match("*.safetensors*")
    if not configured and path.name not in TOKENIZER_FILES and (foreign or path.match("*.model")):
        return False
    return _is_tokenizers(path) or is_weights(path) or _matches(path, _USUAL)


def _is_tokenizers(path: PurePath) -> bool:
    """Whether a file is called as those are that tokenizers are written to."""
    bare = path.match("tokenizer*") and not path.suffix
    return bare or path.name in TOKENIZER_FILES or _matches(path, _TOKENIZER)


def _matches(path: PurePath, patterns: Iterable[str]) -> bool:
    return any(path.match(pattern) for pattern in patterns)

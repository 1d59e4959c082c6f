"""Read the vocabulary of a GGUF file without loading the model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.gguf.vocabulary import GgufVocabulary

__all__ = ["read_gguf_vocabulary"]

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "mask": "mask"}


def read_gguf_vocabulary(path: Path) -> GgufVocabulary:
    """Read what llama.cpp would.

    Raises:
        MissingDependencyError: Without the ``gguf`` package.
        InputError: If it is no GGUF file, or has no vocabulary.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "gguf", f"reading {path.name}")
    import gguf

    try:
        fields = gguf.GGUFReader(path).fields
        found = {
            n.removeprefix("tokenizer.ggml."): f.contents() for n, f in fields.items() if n.startswith("tokenizer")
        }
        texts = tuple(found["tokens"])
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise InputError(f"{path} cannot be read as a GGUF file with a vocabulary ({error})") from error
    model = str(found.get("model"))
    special = {name: found[f"{key}_token_id"] for name, key in _SPECIAL.items() if f"{key}_token_id" in found}
    return GgufVocabulary(
        model=model,
        pre=found.get("pre", "default"),
        texts=texts,
        types=tuple(found.get("token_type", ())) or (1,) * len(texts),
        scores=tuple(found["scores"]) if "scores" in found else None,
        merges=tuple(found["merges"]) if "merges" in found else None,
        special=special,
        # Where the file does not say, llama.cpp has BOS for SentencePiece-like vocabularies alone.
        add_bos=bool(found.get("add_bos_token", model == "llama")),
        add_eos=bool(found.get("add_eos_token", False)),
        add_space_prefix=bool(found.get("add_space_prefix", model == "llama")),
    )

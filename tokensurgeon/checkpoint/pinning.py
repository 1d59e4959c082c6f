"""Make AutoTokenizer load the tokenizer that lies in the directory, where it would not.

transformers 5 does not heed ``tokenizer_class`` for some model types whose files on the hub are often wrong (qwen2
among them): it takes the type's own class, which keeps the vocabulary and replaces how text is cut. It does heed the
file where ``auto_map`` names a class, and with ``trust_remote_code`` it then asks for that class.
"""

from __future__ import annotations

from pathlib import Path

from tokensurgeon.checkpoint.text import read_json_if_there, write_json, write_text

__all__ = ["pin_tokenizer"]

_MODULE = "tokenization_transplanted"
_CODE = '''"""The tokenizer as tokenizer.json has it, whatever the model's type."""

from transformers import PreTrainedTokenizerFast


class TransplantedTokenizer(PreTrainedTokenizerFast):
    """Nothing is added."""
'''


def pin_tokenizer(directory: Path, model_type: str) -> bool:
    """Name a class of our own in ``tokenizer_config.json``, if a model of this type would get another.

    Args:
        directory: Holds the tokenizer's files.
        model_type: Of ``config.json``.

    Returns:
        Whether that was needed.
    """
    from transformers.models.auto import tokenization_auto

    doubted = getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())
    imposed = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(model_type)
    path = directory / "tokenizer_config.json"
    settings = read_json_if_there(path)
    own = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    if model_type not in doubted or not imposed or "auto_map" in settings:
        return False
    if imposed.removesuffix("Fast") in (own, "TokenizersBackend", "PreTrainedTokenizer"):
        return False
    settings["auto_map"] = {"AutoTokenizer": [None, f"{_MODULE}.TransplantedTokenizer"]}
    settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    write_json(path, settings)
    write_text(directory / f"{_MODULE}.py", _CODE)
    return True

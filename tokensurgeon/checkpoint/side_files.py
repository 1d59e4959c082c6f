"""Write what lies beside weights and settings: the base's other files, and the length that its body holds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.checkpoint.declared import without_unknown
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.foreign import strangers, taken_files
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.checkpoint.names import is_tokenizer, is_usual, is_weights
from tokensurgeon.checkpoint.pinning import PINNED
from tokensurgeon.checkpoint.text import read_json, read_json_if_there, write_json

__all__ = ["body_length", "copy_side_files", "describe_files", "fit_body"]

log = logging.getLogger(__name__)

_SETTINGS = "tokenizer_config.json"
_WRITTEN = ("config.json", "generation_config.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TEMPLATE = "chat_template"
_INPUTS = ["input_ids", "attention_mask"]
_LENGTHS = (
    "max_position_embeddings", "max_target_positions", "n_positions", "n_ctx", "max_sequence_length", "max_seq_length",
    "max_seq_len", "seq_length",
)  # fmt: skip
"""What configs call the number of tokens that a body holds."""


def copy_side_files(base: Path, out: Path) -> None:
    """Copy a base's files but for weights, settings and its tokenizer; what is there already stays.

    A chat template in a processor's settings belongs to the tokenizer, and is left out.
    """
    for path in other_files(base):
        if is_tokenizer(path) or path.name in _WRITTEN or (out / path.name).exists():
            continue
        if path.name in _PROCESSORS and _TEMPLATE in (settings := read_json(path)):
            write_json(out / path.name, {name: value for name, value in settings.items() if name != _TEMPLATE})
        else:
            shutil.copyfile(path, out / path.name)


def describe_files(base: OpenModel, donor: OpenModel, out: Path) -> dict[str, Any]:
    """What an output's files are, beside weights, settings and tokenizer: for its manifest and card.

    Args:
        base: Whose body it is.
        donor: Whose tokenizer it is.
        out: The output, written.

    Returns:
        ``left_aside`` names what was not taken over, ``code`` the Python files that were, and ``side_files`` the
        digests of those whose names are not usual for a model: ``--overwrite`` may replace them while they are as
        they were written.
    """
    beside = [(path, what) for path, what, _ in strangers(base.directory) if not is_weights(path)]
    left = [f"{path.name} of {base.name}, {what}" for path, what in beside]
    written = {path.name: path for path in taken_files(out)}
    theirs = [path.name for path in taken_files(donor.directory) if path.match("tokenization_*.py")]
    dropped = [name for name in theirs if name not in written]
    declared = donor.tokenizer.declared.get("auto_map")
    if declared is not None and declared != read_json_if_there(out / _SETTINGS).get("auto_map"):
        dropped.append(f"auto_map in {_SETTINGS}")
    left += (lost := [f"{name} of {donor.name}, code that its tokenizer works without" for name in dropped])
    code = [name for name in written if name.endswith(".py") and name != f"{PINNED}.py"]
    if lost:
        log.warning("left out: %s", "; ".join(lost))
    if code:
        log.warning("Python code of %s goes into the output, unread: %s", base.name, ", ".join(code))
    odd = {name: file_digest(path) for name, path in written.items() if not is_usual(path)}
    return {"left_aside": left, "code": code, "side_files": odd}


def fit_body(out: Path, body: Path, tokenizer: Tokenizer) -> None:
    """Let ``tokenizer_config.json`` say what a body takes: how many tokens, where that is known, and no token types.

    A class such as BertTokenizer gives token types, at which language models without them stumble. Control tokens that
    the tokenizer lacks would get ids that have no row.

    Args:
        out: Holds the tokenizer's files.
        body: Holds the body's ``config.json``.
        tokenizer: The output's.
    """
    length, before = body_length(body), read_json_if_there(out / _SETTINGS)
    settings = without_unknown(before, tokenizer)
    if length is not None:
        settings["model_max_length"] = length
    if "type_vocab_size" not in read_config(body):
        names = before.get("model_input_names", _INPUTS)
        settings["model_input_names"] = [name for name in names if name != "token_type_ids"]
    if settings != before:
        write_json(out / _SETTINGS, settings)


def body_length(directory: Path) -> int | None:
    """Tokens that a model reads at most, by its ``config.json`` or its architecture's default; None if none is said."""
    config = read_config(directory)
    for part in (config.get("text_config"), config):
        if isinstance(part, dict) and (found := _length(part)):
            return found
    from transformers import AutoConfig

    try:
        loaded = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    except Exception:
        return None  # an architecture or a value that is unknown is reported where the weights are needed
    return _length({name: getattr(loaded, name, None) for name in _LENGTHS})


def _length(config: Mapping[str, Any]) -> int | None:
    values = (config.get(name) for name in _LENGTHS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)

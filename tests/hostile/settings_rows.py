"""Hostile config.json, generation_config.json, tokenizer_config.json and chat templates."""

from __future__ import annotations

from attempts import Row
from edits import ODD, gone, put, raw, truncated

__all__ = ["ROWS"]

_CONFIG = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "eos_token_id",
    "tie_word_embeddings", "model_type", "architectures", "rope_parameters", "hidden_act", "head_dim", "dtype",
    "text_config", "quantization_config", "auto_map", "layer_types", "num_labels", "bad_words_ids",
)  # fmt: skip
_GENERATION = ("eos_token_id", "pad_token_id", "bad_words_ids", "forced_decoder_ids", "sequence_bias", "temperature")
_TOKENIZER = (
    "bos_token", "added_tokens_decoder", "model_max_length", "tokenizer_class", "extra_special_tokens", "auto_map",
    "chat_template", "add_bos_token", "model_input_names",
)  # fmt: skip
_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_MANY = 10**7

ROWS = [
    # Every key with every kind of odd value: an honest result, or a line that names the file.
    *(
        Row(f"{key} is {name}", f"base/{file}", put(key, value), command, f"{file}")
        for file, keys, command in (
            ("config.json", _CONFIG, "run"),
            ("generation_config.json", _GENERATION, "transplant"),
        )  # fmt: skip
        for key in keys
        for name, value in ODD.items()
    ),
    *(
        Row(f"{key} is {name}", "donor/tokenizer_config.json", put(key, value), "transplant", "donor")
        for key in _TOKENIZER
        for name, value in ODD.items()
    ),
    *(
        Row(f"{what}", f"base/{file}", raw(data), "transplant", file)
        for file in _FILES
        for what, data in (
            ("is empty", b""),
            ("is a list", b"[]"),
            ("is null", b"null"),
            ("is no JSON", b"{'a': 1}"),
            ("is UTF-16", '{"a": 1}'.encode("utf-16")),
            ("is not UTF-8", b'{"a": "\xff"}'),
            ("is nested 100,000 deep", b'{"a":' * 100_000),
            ("has a number of 5,000 digits", b'{"a": ' + b"9" * 5_000 + b"}"),
        )
    ),
    *(Row("is cut off", f"base/{file}", truncated(0.5), "align", file) for file in _FILES[:3:2]),
    *(
        Row(f"{key} is gone", "base/config.json", gone(key), "run", "config.json")
        for key in ("model_type", "vocab_size", "num_attention_heads", "hidden_size")
    ),
    # Sizes that no honest model has.
    *(
        Row(f"{key} is {_MANY:,}", "base/config.json", put(key, _MANY), "resize", f"{key} is 10000000")
        for key in ("num_hidden_layers", "num_attention_heads", "num_labels")
    ),
    Row(
        "2,000 layers of weights that are not there",
        "base/config.json",
        put("num_hidden_layers", 2_000),
        "run",
        "config.json",
    ),
    Row("a body of 2^50 numbers", "base/config.json", put("intermediate_size", 2**40), "run", "config.json"),
    Row("vocab_size is 10^12", "donor/config.json", put("vocab_size", 10**12), "align", "vocab_size is 1000000000000"),
    Row(
        "layers of a part",
        "base/config.json",
        put("vision_config", {"num_hidden_layers": _MANY}),
        "resize",
        "vision_config.num_hidden_layers is",
    ),
    Row("100 MB of settings", "base/config.json", lambda data: data + b" " * 100_000_000, "align", "config.json has"),
    Row("a template of 10 MB", "base/chat_template.jinja", raw("{{ 1 }}" * 1_500_000), "align", "chat_template.jinja"),
    Row(
        "a template of 10 MB in the settings",
        "donor/tokenizer_config.json",
        put("chat_template", "x" * 10_000_000),
        "align",
        "chat_template",
    ),
    Row(
        "templates without names",
        "donor/tokenizer_config.json",
        put("chat_template", [1, {}, {"name": "default"}]),
        "align",
        None,
    ),
    Row("a template of bytes", "base/chat_template.jinja", raw(b"\xff\xfe\x00"), "align", "chat_template.jinja"),
]

"""Hostile config.json, generation_config.json, tokenizer_config.json and chat templates."""

from __future__ import annotations

from attempts import Row
from edits import ODD, gone, padded, put, raw, some, truncated

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
_SPOILED = (
    ("is empty", b""), ("is a list", b"[]"), ("is null", b"null"), ("is no JSON", b"{'a': 1}"),
    ("is UTF-16", '{"a": 1}'.encode("utf-16")), ("is not UTF-8", b'{"a": "\xff"}'),
    ("is nested 100,000 deep", b'{"a":' * 100_000), ("has a number of 5,000 digits", b'{"a": ' + b"9" * 5_000 + b"}"),
)  # fmt: skip
_MANY = 10**7
_CONFIG_FILE, _TOKENIZER_FILE, _TEMPLATE = "base/config.json", "donor/tokenizer_config.json", "base/chat_template.jinja"

ROWS = [
    *(Row(f"{key} is {name}", _CONFIG_FILE, put(key, value), "transplant", "base", True)
      for key, name, value in some(_CONFIG, 4)),
    *(Row(f"{key} is {name}", "base/generation_config.json", put(key, value), "transplant", "base", True)
      for key, name, value in some(_GENERATION)),
    *(Row(f"{key} is {name}", _TOKENIZER_FILE, put(key, value), "transplant", "donor", True)
      for key, name, value in some(_TOKENIZER, 4)),
    *(Row(name, f"base/{file}", raw(data), command, file)
      for file, command in (("config.json", "check"), ("generation_config.json", "resize"),
                            ("tokenizer_config.json", "align"), ("special_tokens_map.json", "align"))
      for name, data in _SPOILED),
    Row("is cut off", _CONFIG_FILE, truncated(0.5), "resize", "config.json"),
    Row("is cut off", "base/generation_config.json", truncated(0.5), "trim", "generation_config.json"),
    Row("is cut off", _TOKENIZER_FILE, truncated(0.5), "align", "tokenizer_config.json"),
    *(Row(f"{key} is gone", _CONFIG_FILE, gone(key), "transplant", "config.json", True)
      for key in ("model_type", "vocab_size", "num_attention_heads", "hidden_size")),
    # What ends a target's texts.
    *(Row(f"eos_token_id is {name}", "donor/generation_config.json", put("eos_token_id", value), "draft",
          "generation_config.json", True) for name, value in ODD.items()),
    # Sizes that no honest model has.
    *(Row(f"{key} is {_MANY:,}", _CONFIG_FILE, put(key, _MANY), "resize", f"{key} is {_MANY}")
      for key in ("num_hidden_layers", "num_attention_heads", "num_labels")),
    Row("a body of 2^50 numbers", _CONFIG_FILE, put("intermediate_size", 2**44), "run", "config.json asks for"),
    Row("vocab_size is 10^12", "donor/config.json", put("vocab_size", 10**12), "align", "vocab_size is 1000000000000"),
    Row("layers of a part", _CONFIG_FILE, put("vision_config", {"num_layers": _MANY}), "resize",
        "vision_config.num_layers is"),
    Row("100 MB of settings", _CONFIG_FILE, padded(100_000_000), "resize", "config.json has"),
    Row("a template of 10 MB", _TEMPLATE, raw("{{ 1 }}" * 1_500_000), "align", "chat_template.jinja has"),
    Row("a template of 10 MB", _TOKENIZER_FILE, put("chat_template", "x" * 10_000_000), "align", "its chat_template"),
    Row("templates without names", _TOKENIZER_FILE, put("chat_template", [1, {}, {"name": "default"}]), "align", None),
    Row("a template of bytes", _TEMPLATE, raw(b"\xff\xfe\x00"), "align", "chat_template.jinja"),
]  # fmt: skip

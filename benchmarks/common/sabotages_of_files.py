"""Values of settings that change what a model does, and files that do not belong beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PLANTED", "SETTINGS"]

Edit = Callable[[dict[str, Any]], Any]

_CONFIG: dict[str, Any] = {
    "rms_norm_eps": 0.5, "layer_norm_eps": 0.5, "hidden_act": "relu", "dtype": "float16", "attention_dropout": 0.5,
    "auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}, "eos_token_id": 17, "bos_token_id": 17,
    "pad_token_id": 17, "architectures": ["GPT2LMHeadModel"], "max_position_embeddings": 64, "use_cache": False,
    "attention_bias": True, "mlp_bias": True, "initializer_range": 3.0, "vocab_size": 10, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4, "hidden_size": 16, "intermediate_size": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}, "rope_theta": 3.0, "rope_scaling": None,
    "partial_rotary_factor": 1.0, "resid_pdrop": 0.9, "tie_word_embeddings": None, "model_type": "mistral",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}, "sliding_window": 4,
    "pretraining_tp": 2, "transformers_version": "4.0.0", "custom_pipelines": {"x": {"impl": "x.py"}},
    "is_decoder": True, "output_hidden_states": True, "chunk_size_feed_forward": 1, "_attn_implementation": "eager",
}  # fmt: skip
_GENERATION: dict[str, Any] = {
    "eos_token_id": 17, "bos_token_id": 17, "pad_token_id": 17, "temperature": 100.0, "do_sample": True,
    "max_length": 3, "max_new_tokens": 1, "repetition_penalty": 9.0, "suppress_tokens": [1, 2, 3],
    "begin_suppress_tokens": [1], "bad_words_ids": [[9]], "forced_bos_token_id": 9, "forced_eos_token_id": 9,
    "num_beams": 9, "min_length": 50, "top_k": 1, "watermarking_config": {"bias": 9.0}, "stop_strings": ["the"],
    "custom_generate": "x", "trust_remote_code": True,
}  # fmt: skip
_TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "BertTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_x.T"]},
    "chat_template": "{{ 'ignore all' }}", "add_bos_token": True, "add_eos_token": True, "model_max_length": 9,
    "padding_side": "left", "truncation_side": "left", "eos_token": "a", "bos_token": "a", "pad_token": "a",
    "clean_up_tokenization_spaces": True, "extra_special_tokens": ["th"], "split_special_tokens": True,
    "model_input_names": ["input_ids"],
}  # fmt: skip


def _with(name: str, value: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        if name == "tie_word_embeddings":
            value_now = not content.get(name)
            content[name] = value_now
        else:
            content[name] = value

    return edit


def _more_stops(content: dict[str, Any]) -> None:
    stops = content.get("eos_token_id")
    content["eos_token_id"] = [*(stops if isinstance(stops, list) else [] if stops is None else [stops]), 21]


def _swap_ids(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.get)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]


def _less_merges(content: dict[str, Any]) -> None:
    content["model"]["merges"] = content["model"]["merges"][:-1]


def _flip_special(content: dict[str, Any]) -> None:
    content["added_tokens"][-1]["special"] = not content["added_tokens"][-1]["special"]


SETTINGS: list[tuple[str, str, Edit]] = [
    *(("config.json", name, _with(name, value)) for name, value in _CONFIG.items()),
    ("config.json", "no dtype", lambda content: [content.pop(n, None) for n in ("dtype", "torch_dtype")]),
    *(("generation_config.json", name, _with(name, value)) for name, value in _GENERATION.items()),
    ("generation_config.json", "one more stop token", _more_stops),
    ("generation_config.json", "emptied", dict.clear),
    *(("tokenizer_config.json", name, _with(name, value)) for name, value in _TOKENIZER.items()),
    ("tokenizer.json", "two ids swapped", _swap_ids),
    ("tokenizer.json", "a merge less", _less_merges),
    ("tokenizer.json", "special or not", _flip_special),
    ("tokenizer.json", "a normalizer", _with("normalizer", {"type": "Lowercase"})),
    ("tokenizer.json", "no pre-tokenizer", _with("pre_tokenizer", None)),
    ("tokenizer.json", "another decoder", _with("decoder", {"type": "Fuse"})),
    ("tokenizer.json", "truncation", _with("truncation", {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0})),
    ("tokenizer.json", "something around texts", _with("post_processor", {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"a": {"id": "a", "ids": [9], "tokens": ["a"]}}})),
]  # fmt: skip
"""File, what is changed, and how."""

_CODE = b"import os\n"
_PICKLE = b"\x80\x04K\x01."
PLANTED: dict[str, bytes] = {
    "modeling_x.py": _CODE,
    "configuration_x.py": _CODE,
    "tokenization_x.py": _CODE,
    "transformers.py": _CODE,
    "custom_generate/generate.py": _CODE,
    "library.so": b"\x7fELF",
    "model-extra.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "adapter_model.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "pytorch_model.bin": _PICKLE,
    "pytorch_model.bin.index.json": b"{}",
    "training_args.bin": _PICKLE,
    "state.pkl": _PICKLE,
    "model.gguf": b"GGUF",
    "tf_model.h5": b"\x89HDF",
    "model.onnx": b"\x08",
    "preprocessor_config.json": b'{"chat_template": "x"}',
    "processor_config.json": b"{}",
    "chat_template.jinja": b"{{ 'ignore all' }}",
    "chat_template.json": b'{"chat_template": "x"}',
    "additional_chat_templates/tool.jinja": b"{{ 'ignore all' }}",
    "added_tokens.json": b'{"<x>": 3}',
    "special_tokens_map.json": b'{"eos_token": "a"}',
    "tokenizer.model": b"\x0a\x02",
    "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
    "modules.json": b"[]",
}
"""By their place."""

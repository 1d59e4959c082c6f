"""Hostile safetensors, indexes, manifests, adapters and recipes."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from attempts import Row
from edits import Edit, gone, header, padded, put, raw, shard, some, truncated

__all__ = ["ROWS"]

_WEIGHTS = "base/model.safetensors"
_COUNT = (2**60).to_bytes(8, "little")
_INDEX = "base/model.safetensors.index.json"
_NAME = "model.embed_tokens.weight"


def _tensor(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_HEADERS = [
    ("a dtype that is none", {"a": _tensor("F31")}),
    ("a dtype of another size", {"a": _tensor("F64")}),
    ("a dtype that is a number", {"a": _tensor(5)}),
    ("a dtype that is a list", {"a": _tensor([])}),
    ("a shape that is a number", {"a": _tensor(shape=4)}),
    ("a shape that is text", {"a": _tensor(shape="22")}),
    ("a shape below zero", {"a": _tensor(shape=(-2, -2))}),
    ("a shape of fractions", {"a": _tensor(shape=(2.0, 2.0))}),
    ("a shape of 10^30", {"a": _tensor("F8_E4M3", (10**30, 0), (0, 0))}),
    ("a shape of a million sides", {"a": _tensor(shape=[1] * 10**6, offsets=(0, 4))}),
    ("offsets that are text", {"a": _tensor(offsets="ab")}),
    ("offsets that are fractions", {"a": _tensor(offsets=(0.0, 16.0))}),
    ("offsets below zero", {"a": _tensor(offsets=(-16, 0))}),
    ("offsets backwards", {"a": _tensor(offsets=(16, 0))}),
    ("offsets of 10^30", {"a": _tensor("U8", (10**30,), (0, 10**30))}),
    ("offsets that begin behind the start", {"a": _tensor(offsets=(16, 32))}),
    ("three offsets", {"a": _tensor(offsets=(0, 8, 16))}),
    ("tensors that overlap", {"a": _tensor(), "b": _tensor(offsets=(8, 24))}),
    ("tensors at one place", {"a": _tensor(), "b": _tensor()}),
    ("a hole between tensors", {"a": _tensor(), "b": _tensor(offsets=(32, 48))}),
    ("bytes that belong to nothing", {"a": _tensor()}),
    ("a tensor that is null", {"a": None}),
    ("a tensor that is a list", {"a": []}),
    ("metadata that is a list", {"__metadata__": [], "a": _tensor()}),
    ("metadata of numbers", {"__metadata__": {"a": 5}, "a": _tensor()}),
    ("no tensors", {}),
]


def _crowded(tensors: int) -> Edit:
    """A header of tensors that hold nothing."""
    entry = '"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    return lambda data: shard("{" + ",".join(map(entry.format, range(tensors))) + "}")(data)


def _bomb(data: bytes) -> bytes:
    """Rows that unpack to 300 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(10**7)) for _ in range(30)) + packer.flush()
    return put("rows/source", base64.b64encode(packed).decode())(data)


_SPOILED = [
    ("a header of 99 MB", header(padded(99_000_000)), None),
    ("a header of 2^63 bytes", raw(b"\xff" * 7 + b"\x7f" + b"{}"), "its header would have"),
    ("a million tensors", _crowded(10**6), "lists 1,000,000 tensors"),
    ("a header nested 100,000 deep", shard("[" * 100_000), "model.safetensors"),
    ("a name twice", header(lambda text: text[:-1].rstrip().rstrip(b"}") + b'},"' + _NAME.encode()
                            + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'), "model.safetensors"),
    ("a name that is not UTF-8", header(lambda text: text.replace(b"embed", b"emb\xffd", 1)), "model.safetensors"),
    ("a name with half a character", header(lambda text: text.replace(b"norm", rb"\ud800", 1)), "model.safetensors"),
    ("a header of NaN", shard('{"a": NaN}'), "model.safetensors"),
    ("is empty", raw(b""), "model.safetensors"),
    ("seven bytes", raw(b"1234567"), "model.safetensors"),
    ("is cut off in its header", truncated(0.01), "model.safetensors"),
    ("is cut off in its tensors", truncated(0.9), "model.safetensors"),
    ("has a byte more", lambda data: data + b"x", "model.safetensors"),
]  # fmt: skip
_MAPS: list[tuple[str, Any]] = [
    *((f"weight_map is {name}", {"weight_map": value}) for _, name, value in some([""])),
    ("a shard outside", {"weight_map": {"a": "../donor/model.safetensors"}}),
    ("a shard with a NUL", {"weight_map": {"a": "a\0b"}}),
    ("a shard with a name of 10,000 characters", {"weight_map": {"a": "x" * 10_000}}),
    ("a shard that is a number", {"weight_map": {"a": 5}}),
    ("a shard that is not there", {"weight_map": {"a": "b.safetensors"}}),
    ("a shard that is the directory", {"weight_map": {"a": "."}}),
]
_MANIFEST = (
    "format", "base", "base/name", "donor", "rows", "rows/source", "rows/provenance", "options", "counts", "method",
    "tokenizer_sha256",
)  # fmt: skip
_ADAPTER = ("peft_type", "base_model_name_or_path", "r", "target_modules", "trainable_token_indices")
_RECIPE = "merge_method: linear\nmodels:\n  - model: WORLD/base\n    parameters: {weight: 0.5}\n"

ROWS = [
    *(Row(name, _WEIGHTS, shard(content, 64), "resize", "model.safetensors") for name, content in _HEADERS),
    *(Row(name, _WEIGHTS, edit, "transplant", says) for name, edit, says in _SPOILED),
    *(Row(name, _INDEX, raw(json.dumps(content)), "resize", "index.json") for name, content in _MAPS),
    Row("a shard that is another file", _INDEX, raw('{"weight_map": {"a": "config.json"}}'), "resize",
        "config.json is not a safetensors file"),
    Row("is a list", _INDEX, raw("[]"), "resize", "index.json"),
    Row("is cut off", _INDEX, raw('{"weight_map": {'), "resize", "index.json"),
    *(Row(f"{key} is {name}", "model/tokensurgeon.json", put(key, value), command, "tokensurgeon.json", True)
      for command, keys in (("revert", _MANIFEST), ("verify", _MANIFEST[1:]), ("adapter", _MANIFEST[:4]))
      for key, name, value in some(keys, 5)),
    *(Row(f"{key} is gone", "model/tokensurgeon.json", gone(key), command, "tokensurgeon.json", True)
      for command in ("revert", "verify", "adapter") for key in _MANIFEST),
    *(Row(f"base/sha256 is {name}", "model/tokensurgeon.json", put("base/sha256", value), "revert", "base", True)
      for _, name, value in some([""])),
    Row("rows that unpack to 300 MB", "model/tokensurgeon.json", _bomb, "revert", "tokensurgeon.json"),
    *(Row(f"{key} is {name}", "adapter/adapter_config.json", put(key, value), "adapter", "adapter", True)
      for key, name, value in some(_ADAPTER)),
    Row("is a list", "adapter/adapter_config.json", raw("[]"), "adapter", "adapter_config.json"),
    *(Row(name, "adapter/adapter_model.safetensors", shard(content), "adapter", "adapter_model")
      for name, content in _HEADERS),
    *(Row(name, "recipe.yaml", raw(text), "merge", "recipe.yaml") for name, text in (
        ("is empty", ""), ("is a list", "[]"), ("is text", "hello"), ("is no YAML", "a: [b"),
        ("is not UTF-8", b"\xff\xfe\x00"), ("holds a Python object", "a: !!python/object/apply:os.system [ls]"),
        ("refers to itself", "a: &a [*a]"), ("a billion laughs", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12))),
        ("no models", "merge_method: linear"),
        ("models that are text", "merge_method: linear\nmodels: x"),
        ("models that are numbers", "merge_method: linear\nmodels: [1, 2]"), ("NaN", _RECIPE.replace("0.5", ".nan")),
        ("a block that is text", _RECIPE + "tokensurgeon: x"), ("k of text", _RECIPE + "tokensurgeon: {k: x}"),
        ("an unknown key", _RECIPE + "tokensurgeon: {zzz: 1}"),
        ("k of 10^30", _RECIPE + f"tokensurgeon: {{k: {10**30}}}"),
        ("10,000 deep", "[" * 10_000))),
    Row("a method that is none", "recipe.yaml", raw(_RECIPE.replace("linear", "zzz")), "merge", "unknown merge_method"),
    Row("weights of text", "recipe.yaml", raw(_RECIPE.replace("0.5", "x")), "merge", "a valid number"),
    Row("a model that is not there", "recipe.yaml", raw(_RECIPE.replace("base", "zzz")), "merge", "zzz does not exist"),
    *(Row(name, "model.gguf", raw(data), "align gguf", "model.gguf") for name, data in (
        ("is empty", b""), ("is text", b"hello" * 100), ("is nothing but its name", b"GGUF"),
        ("of another version", b"GGUF" + b"\xff" * 100), ("2^60 tensors", b"GGUF\3\0\0\0" + _COUNT * 2),
        ("2^60 keys", b"GGUF\3\0\0\0" + bytes(8) + _COUNT), ("a key of 2^60 bytes", b"GGUF\3\0\0\0" + bytes(8)
         + b"\1" + bytes(7) + _COUNT + b"abc"))),
    *(Row(name, "text.txt", raw(data), command, "text.txt") for command in ("trim", "extend") for name, data in (
        ("is empty", b""), ("is not UTF-8", b"\xff" * 30_000), ("is UTF-16", "hello ".encode("utf-16") * 5_000))),
]  # fmt: skip

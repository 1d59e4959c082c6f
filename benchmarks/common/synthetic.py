"""Checkpoints of a large model's shape, with a real tokenizer and random rows; the body's content does not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.header import INDEX, header_bytes

__all__ = ["build"]

_BLOCK = 1 << 26


def build(out: Path, tokenizer: Path, shape: dict[str, Any], *, sparse: bool, shard_gib: float) -> dict[str, int]:
    """Write an untied Llama in bfloat16, in shards.

    Args:
        out: A directory that does not exist.
        tokenizer: A model directory whose tokenizer it gets.
        shape: Llama's configuration: ``vocab_size``, ``hidden_size``, ``num_hidden_layers``, ...
        sparse: Leave the body a hole in its files, which takes no room on disk. Otherwise it is written.
        shard_gib: About how large a shard is to be.

    Returns:
        Bytes of the ``vocabulary`` (embedding and head) and of the ``body``.
    """
    out.mkdir(parents=True)
    files = TokenizerFiles.open(tokenizer)
    files.write(out)
    ids = {f"{name}_id": i for name, i in files.special_ids().items()}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", **ids, **shape}
    (out / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}, indent=1))
    tensors = _tensors(shape)
    size = {name: 2 * torch.Size(of).numel() for name, of in tensors.items()}
    shards: list[list[str]] = [[]]
    for name in tensors:
        if shards[-1] and sum(size[n] for n in shards[-1]) + size[name] > shard_gib * 2**30:
            shards.append([])
        shards[-1].append(name)
    generator = torch.Generator().manual_seed(0)
    noise = _bytes(0.02 * torch.randn(_BLOCK // 2, generator=generator))
    places = {}
    for number, names in enumerate(shards, 1):
        shard = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places.update(dict.fromkeys(names, shard))
        with (out / shard).open("wb") as file:
            file.write(header_bytes({n: ("BF16", tensors[n], size[n]) for n in names}, {"format": "pt"}))
            for name in names:
                if name.startswith(("model.embed", "lm_head")):
                    for _ in range(tensors[name][0]):
                        file.write(_bytes(0.02 * torch.randn(tensors[name][1], generator=generator)))
                elif sparse:
                    file.seek(size[name], 1)
                else:
                    for start in range(0, size[name], _BLOCK):
                        file.write(noise[: size[name] - start])
            file.truncate()
    (out / INDEX).write_text(json.dumps({"metadata": {"total_size": sum(size.values())}, "weight_map": places}))
    vocabulary = sum(size[name] for name in ("model.embed_tokens.weight", "lm_head.weight"))
    return {"vocabulary": vocabulary, "body": sum(size.values()) - vocabulary}


def _tensors(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    narrow = wide // shape["num_attention_heads"] * shape["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (narrow, wide), "self_attn.v_proj": (narrow, wide),
        "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner), "input_layernorm": (wide,), "post_attention_layernorm": (wide,),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], wide)}
    for i in range(shape["num_hidden_layers"]):
        found |= {f"model.layers.{i}.{name}.weight": of for name, of in layer.items()}
    return found | {"model.norm.weight": (wide,), "lm_head.weight": (shape["vocab_size"], wide)}


def _bytes(rows: torch.Tensor) -> bytes:
    return rows.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()

"""Translate settings and tensors to llama.cpp's names, and those that it stores otherwise to its form.

Which keys and tensors it wants is read in llama.cpp's ``conversion/llama.py``, ``gemma.py``, ``qwen.py`` and
``src/models``; the names come from the ``gguf`` package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.errors import InputError

__all__ = ["ARCHITECTURES", "Architecture", "find_architecture"]

Change = Callable[[str, torch.Tensor, Any], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How models of one type become GGUF.

    Attributes:
        name: llama.cpp's name, ``general.architecture``.
        change: A tensor's (Hugging Face name, content, config) to what is stored.
        refuse: A config to the reason why it cannot be written, or None.
    """

    name: str
    change: Change
    refuse: Callable[[Any], str | None]

    def settings(self, config: Any) -> dict[str, Any]:
        """Key to value of what llama.cpp must know, without the architecture's prefix."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        full, local = _ropes(config)
        found: dict[str, Any] = {
            "vocab_size": config.vocab_size,
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": heads,
            "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
            "rope.dimension_count": head_dim,
            "rope.freq_base": float(full["rope_theta"]),
        }
        if full.get("rope_type") == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(full["factor"])}
        if self.name == "gemma3":
            found["attention.sliding_window"] = config.sliding_window
            found["rope.freq_base_swa"] = float(local["rope_theta"])
            if config.final_logit_softcapping:
                found["final_logit_softcapping"] = float(config.final_logit_softcapping)
        return found

    def rope_factors(self, config: Any) -> torch.Tensor | None:
        """Llama-3's scaling of each frequency, (head_dim / 2,) float32; None without it."""
        rope, _ = _ropes(config)
        if rope.get("rope_type") != "llama3":
            return None
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        share = ((turns - low) / (high - low)).clamp(0, 1)
        factors: torch.Tensor = 1 / ((1 - share) / rope["factor"] + share)
        return factors.float()


def _ropes(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary embeddings of layers with full attention and of those with a window."""
    rope = config.rope_parameters
    return rope.get("full_attention", rope), rope.get("sliding_attention", rope)


def _refuse_unusual(config: Any, activation: str = "silu") -> str | None:
    own = getattr(config, "hidden_activation", None) or config.hidden_act
    if own.replace("swish", "silu") != activation:
        return f"its activation is {own!r}; llama.cpp computes {activation!r} for this architecture"
    kind = _ropes(config)[0].get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        return f"its rotary embedding is of type {kind!r}; default, linear and llama3 are written"
    if getattr(config, "mlp_bias", False):
        return "its feed-forward layers have a bias, which llama.cpp does not read"
    return None


def _refuse_window(config: Any) -> str | None:
    kinds = set(getattr(config, "layer_types", None) or [])
    window = None if kinds else getattr(config, "sliding_window", None)
    if kinds - {"full_attention"} or (window is not None and window < config.max_position_embeddings):
        return "it attends to a window only, which llama.cpp does not do for this architecture"
    return _refuse_unusual(config)


def _refuse_gemma(config: Any) -> str | None:
    pattern = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(config.num_hidden_layers)]
    if config.layer_types != pattern:
        return "its layers with full attention are not every sixth one, as llama.cpp takes for granted"
    if config.query_pre_attn_scalar != config.head_dim:
        return f"query_pre_attn_scalar={config.query_pre_attn_scalar} is not head_dim={config.head_dim}"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional"
    if config.attn_logit_softcapping:
        return f"attn_logit_softcapping={config.attn_logit_softcapping}, which llama.cpp does not do for Gemma 3"
    if config.attention_bias:
        return "its attention has biases, which llama.cpp does not read for Gemma 3"
    return _refuse_unusual(config, "gelu_pytorch_tanh")


def _same(_name: str, tensor: torch.Tensor, _config: Any) -> torch.Tensor:
    return tensor


def _interleaved(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp rotates neighbouring dimensions of ``llama`` models, transformers the two halves of a head."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _norm_plus_one(name: str, tensor: torch.Tensor, _config: Any) -> torch.Tensor:
    """Gemma multiplies by one plus the weight, llama.cpp by the weight."""
    return tensor.float() + 1 if name.endswith("norm.weight") else tensor


ARCHITECTURES = {
    "llama": Architecture("llama", _interleaved, _refuse_unusual),
    "mistral": Architecture("llama", _interleaved, _refuse_window),
    "qwen2": Architecture("qwen2", _same, _refuse_window),
    "qwen3": Architecture("qwen3", _same, _refuse_window),
    "gemma3_text": Architecture("gemma3", _norm_plus_one, _refuse_gemma),
}
"""By ``model_type``."""


def find_architecture(config: Any) -> Architecture:
    """The entry for a config.

    Raises:
        InputError: If there is none, or llama.cpp computes something else than the config says.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise InputError(
            f"models of type {config.model_type!r} are not written as GGUF; {', '.join(sorted(ARCHITECTURES))} are. "
            "llama.cpp's own convert_hf_to_gguf.py knows more of them"
        )
    reason = found.refuse(config)
    if reason:
        raise InputError(f"this model of type {config.model_type!r} is not written as GGUF: {reason}")
    return found

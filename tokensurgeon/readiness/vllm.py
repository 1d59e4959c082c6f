"""Check what vLLM demands: serving, and speculative decoding with MODEL as the draft of the target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig

from tokensurgeon.readiness.common import builds, ids_in_range, rows_as_configured, same_ids, same_size
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of vLLM's V1 engine, as in 0.32.0 (file names below ``vllm``)."""
    names = model.config.get("architectures") or []
    yield Rule(
        "config.json names an architecture", bool(names), ", ".join(names) or "none",
        "set architectures in config.json, such as [\"LlamaForCausalLM\"]",
        "model_executor/models/registry.py, inspect_model_cls",
    )  # fmt: skip
    yield builds(model, "model_executor/models/registry.py: its own models, and those that transformers can build")
    yield rows_as_configured(
        model, "model_executor/layers/vocab_parallel_embedding.py, weight_loader: asserts shape == org_vocab_size"
    )
    yield ids_in_range(model, "v1/engine/input_processor.py, _validate_model_input: out of vocabulary")
    if target is None:
        return
    yield same_size(
        model, target, "config/speculative.py, verify_equal_vocab_size_if_draft_model (unless use_heterogeneous_vocab)"
    )
    yield same_ids(model, target, "assumed where the sizes are equal (v1/spec_decode/draft_model.py)")
    yield _one_kind_of_attention(model, target)


def _one_kind_of_attention(model: Candidate, target: Candidate) -> Rule:
    """A warning: layers that differ in attention (Gemma-3: most see a window, some all) need one cache for all."""
    kinds = _attention(model) | _attention(target)
    return Rule(
        "all layers of both have one kind of attention", len(kinds) < 2, ", ".join(sorted(kinds)) or "unknown",
        "start vLLM with --disable-hybrid-kv-cache-manager",
        "v1/spec_decode/llm_base_proposer.py, validate_same_kv_cache_group: all drafting layers should belong to the "
        "same kv cache group", must=False,
    )  # fmt: skip


def _attention(model: Candidate) -> frozenset[str]:
    """Kinds of layers, as transformers names them; none where it cannot build the model."""
    if model.fault:
        return frozenset()
    config: Any = AutoConfig.from_pretrained(model.directory, trust_remote_code=False).get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return frozenset(kinds)
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return frozenset({"sliding_attention" if window else "full_attention"})

"""Check what vLLM demands: serving, and speculative decoding with MODEL as the draft of the target."""

from __future__ import annotations

from collections.abc import Iterator

from tokensurgeon.readiness.common import builds, ids_in_range, rows_as_configured, same_ids, same_size
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of vLLM's V1 engine (file names below ``vllm``)."""
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

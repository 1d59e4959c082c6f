"""Check what other tools demand of a model, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokensurgeon.errors import InputError
from tokensurgeon.readiness import llama_cpp, mergekit, transformers, trl, vllm
from tokensurgeon.readiness.merging import check_merge
from tokensurgeon.readiness.model import Candidate, Rule, open_candidate

__all__ = ["TOOLS", "Candidate", "Rule", "check", "check_merge", "open_candidate"]

TOOLS: dict[str, Callable[[Candidate, Candidate | None], Iterator[Rule]]] = {
    "llama.cpp": llama_cpp.rules,
    "vllm": vllm.rules,
    "transformers": transformers.rules,
    "mergekit": mergekit.rules,
    "trl": trl.rules,
}


def check(model: str, tool: str, target: str | None = None) -> list[Rule]:
    """Try every rule of a tool on a model.

    Args:
        model: Directory, ``.gguf`` file or hub id.
        tool: One of `TOOLS`.
        target: The model that it is to draft for, be merged with, or learn from; without it rules about two models
            are left out.

    Returns:
        All rules, failed ones included.

    Raises:
        InputError: If the tool is unknown, or one of the two is not a model.

    Example:
        >>> import tokensurgeon
        >>> rules = tokensurgeon.check("transplanted", "transformers", target="donor")
        >>> [rule.remedy for rule in rules if not rule.ok]
        []
    """
    if tool not in TOOLS:
        raise InputError(f"--for {tool!r}: known are {', '.join(TOOLS)}, and merge, which takes several models")
    weights = "all" if tool == "mergekit" else "vocabulary"
    candidate = open_candidate(model, weights)
    return list(TOOLS[tool](candidate, None if target is None else open_candidate(target, weights)))

"""State rules that several tools have, each with its own reason."""

from __future__ import annotations

from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["PAD", "builds", "ids_in_range", "rows_as_configured", "same_ids", "same_size"]

PAD = "tokensurgeon BASE DONOR --pad-to-multiple-of N, the same for both"


def builds(model: Candidate, source: str) -> Rule:
    """The architecture is known."""
    names = ", ".join(model.config.get("architectures") or []) or str(model.config.get("model_type"))
    detail = model.fault or names
    return Rule("architecture is known", not model.fault, detail, "update transformers", source)


def ids_in_range(model: Candidate, source: str) -> Rule:
    """Every id has a row."""
    top = max(model.ids.values(), default=-1)
    rows = model.rows or 0
    beyond = {i for i in model.ids.values() if i >= rows}
    detail = f"highest id {top}, {rows} rows" + (f": {len(beyond)} tokens have none" if beyond else "")
    special = {i for i, token in model.tokenizer.tokenizer.get_added_tokens_decoder().items() if token.special}
    remedy = "resize_token_embeddings to at least the highest id + 1"
    remedy += "" if beyond & special else ", or drop these tokens: tokensurgeon trim"
    return Rule("every token has a row", not beyond, detail, remedy, source)


def rows_as_configured(model: Candidate, source: str) -> Rule:
    """``config.vocab_size`` says how many rows there are, in embedding and head."""
    found = {} if model.fault else {n: model.shapes[n][0] for n in (model.layout.embedding, model.layout.head) if n}
    size = model.vocab_size
    wrong = [f"{name} has {rows}" for name, rows in found.items() if rows != size]
    remedy = "set vocab_size in config.json to the number of rows"
    detail = f"config.json says {size}" + ("; " + ", ".join(wrong) if wrong else "")
    return Rule("vocab_size is the number of rows", bool(found) and not wrong, detail, remedy, source)


def same_size(model: Candidate, target: Candidate, source: str, other: str = "") -> Rule:
    """Both have the same ``vocab_size``."""
    remedy = f"give MODEL the target's tokenizer, padded alike: tokensurgeon MODEL {target.name}{other}"
    detail = f"{model.vocab_size}, target {target.vocab_size}"
    return Rule("same vocab_size as the target", model.vocab_size == target.vocab_size, detail, remedy, source)


def same_ids(model: Candidate, target: Candidate, source: str) -> Rule:
    """Each token has the same id in both."""
    pairs = model.ids.items() ^ target.ids.items()
    tokens = sorted({token for token, _ in pairs})
    detail = f"{len(model.ids)} tokens" if not tokens else f"{len(tokens)} tokens differ, such as {tokens[0]!r}"
    remedy = f"give MODEL the target's tokenizer: tokensurgeon MODEL {target.name}"
    return Rule("same ids for the same tokens as the target", not tokens, detail, remedy, source)

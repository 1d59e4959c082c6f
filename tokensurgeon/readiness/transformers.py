"""Check what transformers demands: loading, generating, and assisted generation for the target."""

from __future__ import annotations

from collections.abc import Iterator

from tokensurgeon.readiness.common import builds, ids_in_range, rows_as_configured, same_ids, same_size
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]

_ASSISTED = "generation/utils.py, _validate_generation_mode"


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of transformers 5 (file names below ``src/transformers``)."""
    yield builds(model, "models/auto/auto_factory.py, from_pretrained")
    yield rows_as_configured(model, "modeling_utils.py, ignore_mismatched_sizes: other shapes are not loaded")
    yield ids_in_range(model, "torch.nn.functional.embedding: index out of range")
    yield _padding(model)
    yield _tokenizer(model)
    if target is None:
        return
    yield _stateless(target)
    yield _same_kind(model, target)
    yield same_size(model, target, f"{_ASSISTED}: otherwise texts are re-encoded, given both tokenizers")
    yield same_ids(model, target, "assumed where the sizes are equal (generation/candidate_generator.py)")


def _padding(model: Candidate) -> Rule:
    pad, size = model.text_config.get("pad_token_id"), model.vocab_size
    ok = pad is None or size is None or (isinstance(pad, int) and -size <= pad < size)
    remedy = "set pad_token_id in config.json to the tokenizer's pad_token_id, or to null"
    source = "torch.nn.Embedding: padding_idx must be within num_embeddings"
    return Rule("pad_token_id has a row", ok, f"pad_token_id {pad}, vocab_size {size}", remedy, source)


def _tokenizer(model: Candidate) -> Rule:
    from transformers import AutoTokenizer

    text = "The value of 3.14 is  naïve.\n\n\tdef f(x): return 'x' # 日本語 🙂"
    source = "models/auto/tokenization_auto.py: some model types get a class of their own, whatever the file says"
    remedy = "tokensurgeon verify says more; save the tokenizer with PreTrainedTokenizerFast.save_pretrained"
    name = "AutoTokenizer cuts as tokenizer.json does"
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.directory, trust_remote_code=False)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except (ValueError, KeyError, OSError, ImportError) as error:
        return Rule(name, False, str(error).strip().splitlines()[0], remedy, source)
    own = model.tokenizer.plain().encode(text, add_special_tokens=False).ids
    return Rule(name, ids == own, f"{type(tokenizer).__name__}, {len(ids)} tokens and {len(own)}", remedy, source)


def _stateless(target: Candidate) -> Rule:
    import transformers

    names = target.config.get("architectures") or []
    stateful = [name for name in names if getattr(getattr(transformers, name, None), "_is_stateful", False)]
    detail = f"{', '.join(names)}{' keeps a state' if stateful else ''}"
    return Rule(
        "the target can go back to an earlier token", not stateful, detail,
        "none: models with a recurrent state cannot be assisted", f"{_ASSISTED}: _is_stateful",
    )  # fmt: skip


def _same_kind(model: Candidate, target: Candidate) -> Rule:
    sizes = ("encoder_attention_heads", "encoder_ffn_dim", "encoder_layers")
    both = [bool(side.config.get("is_encoder_decoder")) for side in (target, model)]
    differing = [n for n in sizes if n in model.config and model.config[n] != target.config.get(n)]
    ok = not (both[0] and not both[1] and differing)
    detail = ", ".join("encoder-decoder" if kind else "decoder only" for kind in both) + " (target, model)"
    remedy = "use an encoder-decoder assistant with an encoder of the same shape"
    return Rule("an encoder-decoder target's encoder fits", ok, detail, remedy, _ASSISTED)

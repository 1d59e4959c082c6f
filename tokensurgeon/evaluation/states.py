"""Run text through a base: what its LM head sees, and the row that takes no probability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import Encode, context_of, inputs_of
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.logits import log_normaliser
from tokensurgeon.evaluation.texts import Text, python_text, split_bytes
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.transfer.damage import refuse_uniform
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.transfer.silence import estimated_suppressing_row, suppressing_row
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import mean_row

__all__ = ["collect_states", "quiet_row", "read_states"]

_READ = 16_384
"""Bytes of text that the base reads for its states."""
_NORMALISED = 1024
"""States of which the probabilities of tokens are asked: a quarter, by which calibration of SmolLM2 with Gemma-3's
tokenizer loses 0.0002 bits per byte (0.001 if the others did not say what all have in common)."""


def collect_states(model: Any, encode: Encode, prefix: int | None, pieces: Iterable[str]) -> HeadStates:
    """Run text through a model and keep the LM head's inputs. Pieces that exceed its context are halved.

    The head itself, which is most of a small model's work, is run on a sample of the positions, spread evenly.
    """
    context = context_of(model)
    inputs = [ids for piece in pieces for _, ids in inputs_of(encode, prefix, piece, context) if ids]
    step = max(1, sum(map(len, inputs)) // _NORMALISED)
    seen: list[torch.Tensor] = []

    def sampled(n: int) -> slice:
        return slice(min(step // 2, n - 1), None, step)

    def choose(_module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(given[0].detach()[0].float())
        return given[0][:, sampled(given[0].shape[1])], *given[1:]

    def keep(_module: Any, _given: Any, output: torch.Tensor) -> None:
        raw = output.detach()[0]
        seen.extend([raw, raw[:1].clone()])  # the first row is copied: a model may change it in place

    sample, others, normalisers = [], [], []
    head = model.get_output_embeddings()
    handles = [head.register_forward_pre_hook(choose), head.register_forward_hook(keep)]
    try:
        for ids in inputs:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            hidden, raw, first = seen
            seen.clear()
            chosen = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
            chosen[sampled(len(hidden))] = True
            own, rest = hidden[chosen], hidden[~chosen]
            if not torch.equal(logits[:1].float(), first.float()):  # scaled or capped behind the head by some models
                ratio = logits.float().std(dim=-1) / raw.float().std(dim=-1).clamp(min=1e-9)
                own, rest = own * ratio[:, None], rest * ratio.mean()
            sample.append(own.cpu())
            others.append(rest.cpu())
            normalisers.append(log_normaliser(logits).cpu())
    finally:
        for handle in handles:
            handle.remove()
    return HeadStates(torch.cat([*sample, *others]), torch.cat(normalisers))


def read_states(
    base: OpenModel, device: torch.device, progress: Progress | None, texts: Mapping[str, Text] | None = None
) -> tuple[LoadedModel, HeadStates]:
    """The base, and what its LM head sees on the ends of the texts, or on text that every Python carries."""
    if progress is not None:
        progress(Stage.STATES, 0, 1)
    loaded = load_model(base.directory, device, fast=True, files=base.tokenizer)
    share = _READ // max(1, len(texts or ()))
    ends = [text.end(share) for text in (texts or {}).values()] or [python_text(_READ)]
    pieces = [piece for text in ends for piece in split_bytes(text)] or split_bytes(python_text(_READ))
    states = collect_states(loaded.model, loaded.encode, loaded.prefix, pieces)
    if not bool(torch.isfinite(states.states).all()):
        raise InputError(f"{base.name} gives NaN or infinity on plain text. The checkpoint is damaged; use another")
    if not bool(states.states.any()):
        embedding = base.matrices().embedding
        refuse_uniform(base.name, embedding, np.arange(len(embedding)))  # the likelier reason
        raise InputError(
            f"{base.name}: its head sees nothing but zeros on plain text. config.json (norms, scales) or the "
            "checkpoint is damaged; use another"
        )
    return loaded, states


def quiet_row(base: OpenModel, matrices: VocabularyMatrices, n_rows: int, states: HeadStates | None) -> torch.Tensor:
    """(dim,) float32, the row that ``n_rows`` ids which take no probability get.

    Args:
        base: Its vocabulary.
        matrices: Its tensors.
        n_rows: How many rows will be this one.
        states: Its states on text; None where it is not run, and the row is estimated from the head.
    """
    refuse_uniform(base.name, matrices.embedding, np.arange(len(matrices.embedding)))
    head = matrices.embedding if matrices.head is None else matrices.head
    in_text = torch.tensor(sorted(base.vocabulary.text_ids(len(head)).values()), dtype=torch.int64)
    if states is not None:
        return suppressing_row(states, n_rows, mean_row(head, in_text))
    return estimated_suppressing_row(head, in_text)

"""Let a target write texts for its draft to learn from and to be measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from tokensurgeon.evaluation.acceptance import Written, read_beliefs
from tokensurgeon.evaluation.loading import LoadedModel

__all__ = ["encoded", "write_texts"]


def encoded(target: LoadedModel, prompts: Sequence[str]) -> list[list[int]]:
    """Prompts as the target reads them; those without a token are left out."""
    prefix = [] if target.prefix is None else [target.prefix]
    found = [prefix + target.encode(prompt) for prompt in prompts]
    return [ids for ids in found if ids]


def write_texts(
    target: LoadedModel,
    starts: Sequence[list[int]],
    new_tokens: int,
    batch: int,
    *,
    sample: bool,
    seed: int,
    enough: Callable[[], bool] | None = None,
) -> Iterator[Written]:
    """Go on from prompts, some at once, and read once more what was written, for what the target believed.

    Args:
        target: The model.
        starts: Ids of the prompts.
        new_tokens: Written after each, if the text does not end before.
        batch: How many at once.
        sample: Every second batch is sampled at temperature 1; otherwise all are greedy.
        seed: Of sampling.
        enough: Asked before every batch but the first; True ends it.
    """
    torch.manual_seed(seed)
    model = target.model
    ends = _ends(model.generation_config.eos_token_id)
    for number, first in enumerate(range(0, len(starts), batch)):
        if number and enough is not None and enough():
            return
        some = starts[first : first + batch]
        width = max(map(len, some))
        ids = torch.tensor([[0] * (width - len(start)) + start for start in some], device=model.device)
        mask = torch.tensor([[0] * (width - len(start)) + [1] * len(start) for start in some], device=model.device)
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample and number % 2 else {}
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=0, **({"do_sample": False} | how)
            )
        for start, row in zip(some, made[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token_id in enumerate(row) if token_id in ends), len(row))
            yield read_beliefs(target, start + row[:end], len(start))


def _ends(value: int | list[int] | None) -> frozenset[int]:
    return frozenset([] if value is None else value if isinstance(value, list) else [value])

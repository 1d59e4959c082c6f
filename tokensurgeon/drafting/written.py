"""Let a target write texts for its draft to learn from and to be measured on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.evaluation.acceptance import Written, read_beliefs
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.writing import ends_of

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
    *,
    sample: bool,
    seed: int,
    prompts_too: bool = False,
) -> list[Written]:
    """Go on from prompts, all at once, and read once more what was written, for what the target believed.

    Args:
        target: As `plainly` makes it.
        starts: Ids of the prompts.
        new_tokens: Written after each, if the text does not end before.
        sample: Whether tokens are drawn; otherwise the likeliest is taken.
        seed: Of drawing.
        prompts_too: Whether what it believed on the way through the prompt is wanted.
    """
    model = target.model
    ends = ends_of(target)
    width = max(map(len, starts))
    ids = [[0] * (width - len(start)) + start for start in starts]
    mask = [[0] * (width - len(start)) + [1] * len(start) for start in starts]
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        with torch.inference_mode():
            made = model.generate(
                torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=new_tokens,
                do_sample=sample,
            )
    finally:
        torch.random.set_rng_state(generator)
    found = []
    for start, row in zip(starts, made[:, width:].tolist(), strict=True):
        end = next((i + 1 for i, token_id in enumerate(row) if token_id in ends), len(row))
        found.append(read_beliefs(target, start + row[:end], 1 if prompts_too else len(start)))
    return found

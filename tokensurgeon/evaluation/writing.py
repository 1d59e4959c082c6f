"""Let a model write by its probabilities alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel

__all__ = ["Begun", "Drawn", "ends_of", "plainly"]

_BLOCK = 512
_TEXTS = 4
"""Of which logits are looked at together: they fit into a cache."""


def plainly(model: LoadedModel) -> LoadedModel:
    """The model, made to write by its probabilities alone, without penalties and what else its settings ask for.

    Raises:
        InputError: If what ends its texts is no id.
    """
    ends = model.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(i) is int and 0 <= i < 2**31 for i in listed):
        raise InputError(
            f"{model.model.name_or_path}/generation_config.json: eos_token_id is {ends!r:.60}, and must be an id or a "
            "list of ids. Mend it, or fetch the file again"
        )
    model.model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=0, temperature=1.0, top_k=0, top_p=1.0
    )
    return model


def ends_of(model: LoadedModel) -> frozenset[int]:
    """Ids that end its texts, as `plainly` checked them."""
    value: int | list[int] | None = model.model.generation_config.eos_token_id
    return frozenset([] if value is None else value if isinstance(value, list) else [value])


class Drawn:
    """Draw a next id by its probability and leave only that one, so that what decodes greedily samples.

    Called as a `transformers.LogitsProcessor` is. An id's block is drawn, then the id within: of a large vocabulary
    that takes a fraction of `torch.multinomial`'s time on CPUs, since random numbers are dear there.

    Example:
        >>> model.generate(start, do_sample=False, logits_processor=[Drawn([])])  # doctest: +SKIP
    """

    def __init__(self, never: Sequence[int]) -> None:
        """Keep the ids that are not drawn."""
        self.never = torch.tensor(never, dtype=torch.int64)

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(texts, rows) float32, in the place of what was given: minus infinity but for one id of each text.

        Args:
            _: What was written.
            scores: (texts, rows) float32, log-probabilities but for a constant each.
        """
        texts, rows = scores.shape
        self.never = self.never.to(scores.device)
        scores[:, self.never] = -torch.inf
        block = min(_BLOCK, rows)
        rest = -rows % block
        blocks = torch.nn.functional.pad(scores, (0, rest), value=-torch.inf) if rest else scores
        blocks = blocks.view(texts, -1, block)
        parts = torch.split(blocks, _TEXTS)
        chosen = _one_of(torch.cat([part.logsumexp(dim=2) for part in parts]))
        within = _one_of(blocks[torch.arange(texts, device=scores.device), chosen])
        return scores.fill_(-torch.inf).scatter_(1, (chosen * block + within)[:, None], 0.0)


class Begun:
    """Let each text begin with ids of its own, behind the one that all start with.

    Called as a `transformers.LogitsProcessor` is. No text is padded, so that it is right with any architecture.

    Example:
        >>> model.generate(start, logits_processor=[Begun([[5, 7], []])])  # doctest: +SKIP
    """

    def __init__(self, beginnings: Sequence[Sequence[int]]) -> None:
        """Take the ids that each begins with; a text without any is free from its start."""
        self.beginnings = beginnings
        self._longest = max(map(len, beginnings), default=0)

    def __call__(self, written: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(texts, rows) float32, in the place of what was given: one id where a text is still at its beginning.

        Args:
            written: (texts, ids so far) int64.
            scores: (texts, rows) float32.
        """
        position = written.shape[1] - 1
        if position >= self._longest:
            return scores
        for text, ids in enumerate(self.beginnings):
            if position < len(ids):
                scores[text] = -torch.inf
                scores[text, ids[position]] = 0.0
        return scores


def _one_of(logs: torch.Tensor) -> torch.Tensor:
    """(texts,) int64: an index of each row by its probability, as the largest with Gumbel's noise."""
    return (logs - torch.empty_like(logs).exponential_().log_()).argmax(dim=1)

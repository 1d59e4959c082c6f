"""Let a teacher read pieces of text, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tokensurgeon.checkpoint.layout import error_reason
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.distilling.cache import TopCache
from tokensurgeon.distilling.top import Top
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.start import prefix_of
from tokensurgeon.healing.batches import Pieces
from tokensurgeon.progress import Progress, Stage

__all__ = ["LocalTeacher", "Reads", "read_pieces", "without_weights"]

Reads = Callable[[Sequence[int]], Top]
"""From a piece's ids, prefix included, to what a teacher says behind each of them."""


class LocalTeacher:
    """A teacher that is loaded when it is first asked."""

    def __init__(self, opened: OpenModel, kept: int, device: torch.device) -> None:
        """Keep what is needed.

        Args:
            opened: Its files.
            kept: Tokens to keep at each position.
            device: Where it reads.
        """
        self.opened, self.kept, self.device = opened, kept, device
        self.loaded: LoadedModel | None = None

    def __call__(self, ids: Sequence[int]) -> Top:
        """Read a piece."""
        self.loaded = self.loaded or load_model(self.opened.directory, self.device, fast=True)
        with torch.inference_mode():
            read = torch.tensor([ids], device=self.device)
            return Top.of_logits(self.loaded.model(input_ids=read, use_cache=False).logits[0], ids, self.kept)


def read_pieces(
    pieces: Pieces, numbers: Sequence[int], reads: Reads, cache: TopCache, progress: Progress | None
) -> int:
    """Let a teacher read what the cache has not.

    Args:
        pieces: Of the text.
        numbers: Those that are wanted.
        reads: The teacher.
        cache: Where what it says is kept.
        progress: Called with (stage, pieces done, in all).

    Returns:
        How many pieces it read.
    """
    count = 0
    for done, number in enumerate(numbers, 1):
        ids = pieces[number].teacher
        if cache.load(ids) is None:
            cache.save(ids, reads(ids))
            count += 1
        if progress is not None:
            progress(Stage.TEACHER, done, len(numbers))
    return count


def without_weights(opened: OpenModel) -> LoadedModel:
    """A model as far as cutting text needs it: it takes no memory.

    Raises:
        InputError: If transformers cannot make its tokenizer, or a model of its config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = opened.directory
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a model class raises at values that it did not expect
        raise InputError(f"{where}: transformers cannot load this model ({error_reason(error)})") from error
    return LoadedModel(model, tokenizer, prefix_of(where, tokenizer))

"""Gather what a target writes: to measure a draft by, to choose its best state by, and to learn from."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tokensurgeon.drafting.options import MakeDraftOptions
from tokensurgeon.drafting.state import DraftState
from tokensurgeon.drafting.written import write_texts
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.progress import Progress, Stage

__all__ = ["CHOSEN_BY", "HELD_OUT", "LEARNT_FROM", "write_once", "write_to_learn_from"]

HELD_OUT, CHOSEN_BY, LEARNT_FROM = ("greedy", "sampled"), "chosen by", "learn"
_AT_ONCE = 4
"""Batches that the target writes at once: each of its passes reads all weights."""


def write_once(
    main: LoadedModel,
    starts: Sequence[list[int]],
    options: MakeDraftOptions,
    state: DraftState,
    purpose: str,
    progress: Progress | None,
) -> None:
    """Texts that the draft never learns from, one of each prompt: the likeliest tokens, or drawn ones."""
    texts, sample = state.of(purpose), purpose != HELD_OUT[0]
    while len(texts) < len(starts):
        some = starts[len(texts) : len(texts) + options.batch]
        texts += write_texts(main, some, options.new_tokens, sample=sample, seed=options.seed + len(texts))
        state.save()
        if progress is not None:
            progress(Stage.WRITE, len(texts), len(starts))


def write_to_learn_from(
    main: LoadedModel,
    starts: Sequence[list[int]],
    options: MakeDraftOptions,
    state: DraftState,
    progress: Progress | None,
) -> None:
    """Let the target write for half of the time, the likeliest tokens and drawn ones by turns.

    Prompts come again, with other draws, when all had their turn. What the target believes on the way through a prompt
    costs next to nothing once it reads it, and is kept too.
    """
    begun = time.perf_counter() - state.seconds
    write_once(main, starts[: options.batch], options, state, CHOSEN_BY, progress)
    written, starts, many = state.of(LEARNT_FROM), starts[options.batch :], _AT_ONCE * options.batch
    while state.training is None and ((share := state.seconds / (60 * options.minutes)) < 1 / 2 or not written):
        turn = len(written) // many
        some = [starts[(len(written) + i) % len(starts)] for i in range(many)]
        # the first turn takes drawn texts: prompts that come again would have the same likeliest ones
        sample = turn % 2 == 0 or len(written) >= len(starts)
        seed = options.seed + 1 + turn
        written += write_texts(main, some, options.new_tokens, sample=sample, seed=seed, prompts_too=True)
        state.seconds = time.perf_counter() - begun
        state.save()
        if progress is not None:
            progress(Stage.LEARN, int(100 * min(share, 1 / 2)), 100)

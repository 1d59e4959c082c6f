"""Say from texts that a target wrote how much of a draft it would accept, and what that makes of its speed.

Greedy speculative decoding writes the target's own text, whatever the draft says. So one pass of both models over such
a text shows every position at which the draft would have been accepted, and with it the passes of the target for every
length of draft: nothing has to be generated with the draft. Times are measured on a few tokens behind a context.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.isotonic import IsotonicRegression

from tokensurgeon.evaluation.loading import LoadedModel

__all__ = [
    "Agreement", "Prediction", "Written", "agree", "predict", "read_beliefs", "sampled_per_pass", "time_tokens",
    "tokens_per_pass",
]  # fmt: skip

KEPT = 64
"""Of the target's likeliest tokens at each position, how many are kept."""
_REPEATS = 5
_ROWS = 64
"""Of logits, made probabilities at once: they are large."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a target wrote, and what it believed on the way.

    Attributes:
        ids: Prompt and what follows.
        start: Where the latter begins.
        likely: (n, kept) int64, the target's likeliest tokens at each of the n positions from ``start``, best first.
        probability: (n, kept) float32, theirs.
    """

    ids: list[int]
    start: int
    likely: torch.Tensor
    probability: torch.Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a draft with what a target wrote.

    Attributes:
        matches: By text: at which positions the draft's likeliest token is the one that was written.
        overlap: Mean over positions of the probability that both share, at least: the acceptance where tokens are
            sampled (arXiv 2211.17192).
        dead: Mean probability of ids that are to take none.
    """

    matches: list[list[bool]]
    overlap: float
    dead: float = 0.0

    @property
    def greedy(self) -> float:
        """Share of positions at which a single drafted token is accepted."""
        n = sum(map(len, self.matches))
        return sum(map(sum, self.matches)) / max(1, n)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best length of a draft.

    Attributes:
        draft_tokens: Tokens drafted at a time; 0 where no draft pays.
        tokens_per_pass: Of the target.
        speed_up: Against no draft.
        by_length: Draft length to (tokens per pass, speed-up).
    """

    draft_tokens: int
    tokens_per_pass: float
    speed_up: float
    by_length: dict[int, tuple[float, float]]


def read_beliefs(target: LoadedModel, ids: list[int], start: int, kept: int = KEPT) -> Written:
    """Let a target read a text that it wrote.

    Args:
        target: The model.
        ids: Prompt and what follows.
        start: Where the latter begins, at least 1.
        kept: Tokens to keep at each position.
    """
    with torch.no_grad():  # a draft may learn from it
        logits = target.model(input_ids=torch.tensor([ids], device=target.model.device)).logits[0, start - 1 : -1]
        found = [some.float().softmax(dim=-1).topk(min(kept, logits.shape[-1]), dim=-1) for some in logits.split(_ROWS)]
    probability, likely = (torch.cat([one[i] for one in found]).cpu() for i in range(2))
    return Written(ids, start, likely, probability)


def agree(draft: LoadedModel, written: Iterable[Written], silenced: torch.Tensor | None = None) -> Agreement:
    """Let a draft with the target's ids read what it wrote.

    Args:
        draft: The model.
        written: Texts, as `read_beliefs` gives them.
        silenced: (n,) int64 ids that are to take no probability.
    """
    matches, shared, dead, n = [], 0.0, 0.0, 0
    for text in written:
        with torch.inference_mode():
            ids = torch.tensor([text.ids], device=draft.model.device)
            logits = draft.model(input_ids=ids).logits[0, text.start - 1 : -1].float().cpu()
        matches.append((logits.argmax(dim=-1) == torch.tensor(text.ids[text.start :])).tolist())
        mine = logits.softmax(dim=-1)
        shared += float(torch.minimum(mine.gather(1, text.likely), text.probability).sum())
        dead += 0.0 if silenced is None else float(mine[:, silenced].sum())
        n += len(logits)
    return Agreement(matches, shared / max(1, n), dead / max(1, n))


def tokens_per_pass(matches: Sequence[Sequence[bool]], draft_tokens: int) -> float:
    """Tokens that greedy speculative decoding writes with each pass of the target.

    Args:
        matches: By text: at which positions the draft is right.
        draft_tokens: Drafted at a time.

    >>> from tokensurgeon.evaluation.acceptance import tokens_per_pass
    >>> tokens_per_pass([[True, True, False, True]], 2)
    2.0
    """
    tokens = passes = 0
    for text in matches:
        place = 0
        while place < len(text):
            run = 0
            while run < draft_tokens and place + run < len(text) and text[place + run]:
                run += 1
            passes += 1
            place += run + 1  # the target adds one of its own
        tokens += len(text)
    return tokens / max(1, passes)


def sampled_per_pass(overlap: float, draft_tokens: int) -> float:
    """Tokens that speculative sampling writes with each pass of the target, each accepted with the same probability.

    Args:
        overlap: That probability.
        draft_tokens: Drafted at a time.

    >>> from tokensurgeon.evaluation.acceptance import sampled_per_pass
    >>> sampled_per_pass(0.5, 2)
    1.75
    """
    return sum(overlap**n for n in range(draft_tokens + 1))


def predict(gained: Callable[[int], float], target_s: Mapping[int, float], draft_s: float) -> Prediction:
    """The length of draft that makes the target fastest.

    Args:
        gained: From drafted tokens to tokens per pass of the target.
        target_s: Tokens read at once to seconds, 1 among them; a draft of n tokens needs n + 1. Of times that are
            shorter for more tokens the mean counts: they are noise.
        draft_s: Seconds for a token of the draft.
    """
    reads = sorted(target_s)
    steady = IsotonicRegression().fit_transform(reads, [target_s[read] for read in reads])
    times, by_length = dict(zip(reads, map(float, steady), strict=True)), {}
    for read in reads:
        if read > 1:
            tokens = gained(read - 1)
            by_length[read - 1] = tokens, tokens * times[1] / (times[read] + (read - 1) * draft_s)
    best = max(by_length, key=lambda length: by_length[length][1])
    tokens, speed_up = by_length[best]
    if speed_up <= 1:
        return Prediction(0, 1.0, 1.0, by_length)
    return Prediction(best, tokens, speed_up, by_length)


def time_tokens(loaded: LoadedModel, context: Sequence[int], counts: Iterable[int]) -> dict[int, float] | None:
    """Seconds that a model takes to read some tokens behind a context that it has read, the median of five.

    All counts are timed in turn, so that what else the machine does meanwhile falls on all of them.

    Args:
        loaded: The model.
        context: Ids, at least one.
        counts: How many tokens at once.

    Returns:
        By count; None for a model that keeps no ``past_key_values`` (Mamba).
    """
    model: Any = loaded.model
    ids = torch.tensor([list(context)], device=model.device)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with torch.inference_mode():
        read = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
        if read is None:
            return None
        for _ in range(_REPEATS + 1):
            for count, taken in seconds.items():
                more = ids[:, -1:].expand(1, count)
                cache = copy.deepcopy(read)  # some cannot be cropped
                _wait(model)
                begun = time.perf_counter()
                model(input_ids=more, past_key_values=cache, use_cache=True)
                _wait(model)
                taken.append(time.perf_counter() - begun)
    return {count: statistics.median(taken[1:]) for count, taken in seconds.items()}  # the first warms up


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)

"""Let a base write text of its own, which its student is trained on besides the text that is given.

Such text is what the base itself believes in, of all kinds that it knows: a student that is trained on it learns no
other text's knowledge, and sees many more ways to go on than one kind of text has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList

from tokensurgeon.checkpoint.durable import flush
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.texts import Text, TextPieces, split_bytes
from tokensurgeon.evaluation.writing import Drawn, ends_of, plainly
from tokensurgeon.healing.batches import nth_piece
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.order import Order
from tokensurgeon.progress import Progress, Stage

__all__ = ["OwnText", "mixed", "own_text", "with_own", "write_own"]

_TIMES_READ = 2
"""How often each is trained on, where the training goes by updates."""
_SHARE_OF_TIME = 0.4
"""In which it is written, of that in which it is trained on, where the training goes by time: a token takes some 0.6 of
the time of healing on it, so that it is read once or twice."""
_MOST_BYTES = 1 << 23
_AT_ONCE = 128
_CACHE_BYTES = 1 << 30
_TOKEN_BYTES = 4
"""Of text that a token stands for, about."""


@dataclass(frozen=True, slots=True)
class OwnText:
    """What a base wrote.

    Attributes:
        texts: Of one beginning each.
        seconds: That it took.
    """

    texts: list[str]
    seconds: float

    @property
    def n_bytes(self) -> int:
        """Of all texts."""
        return sum(len(text.encode()) for text in self.texts)


def own_text(
    accelerator: Any, base: LoadedModel, options: HealOptions, kept: Path, progress: Progress | None
) -> OwnText:
    """As much as a healing asks for; what was written before, where it is kept.

    Every process writes its part, and has all of them in the end.

    Args:
        accelerator: accelerate's.
        base: The model that writes.
        options: See `HealOptions`.
        kept: File for the run that goes on if this one is interrupted.
        progress: Called with (stage, bytes written, bytes in all).
    """
    from accelerate.utils import broadcast_object_list, gather_object

    if not options.own_share:
        return OwnText([], 0.0)
    begun, several = time.perf_counter(), accelerator.num_processes
    content = [json.loads(kept.read_text()) if accelerator.is_main_process and kept.is_file() else None]
    if several > 1:
        broadcast_object_list(content)
    if content[0] is not None:
        return OwnText(**content[0])
    read = None if options.steps is None else options.steps * options.batch * options.piece * options.own_share
    n_bytes = _MOST_BYTES if read is None else min(_MOST_BYTES, int(read * several / _TIMES_READ))
    seconds = float("inf") if read is not None else _SHARE_OF_TIME * options.own_share * 60 * options.minutes
    tell = None if progress is None else lambda done: progress(Stage.OWN, min(done * several, n_bytes), n_bytes)
    seed = options.seed + accelerator.process_index * _MOST_BYTES
    own = write_own(base, max(1, n_bytes // several), options.piece, seed, seconds, tell)
    found = OwnText(gather_object(own) if several > 1 else own, time.perf_counter() - begun)
    if accelerator.is_main_process:
        kept.parent.mkdir(parents=True, exist_ok=True)
        work = kept.with_suffix(".new")
        work.write_text(json.dumps(asdict(found)))
        flush(work)
        work.replace(kept)
    return found


def write_own(
    base: LoadedModel,
    n_bytes: int,
    piece: int,
    seed: int,
    seconds: float = float("inf"),
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Texts that a base writes by its probabilities, each from where every text starts.

    Args:
        base: The model.
        n_bytes: How much, about.
        piece: Bytes of a text, about, if it does not end before.
        seed: Of drawing.
        seconds: When they are over nothing more is written.
        progress: Called with the bytes written so far.
    """
    end = time.perf_counter() + seconds
    plainly(base)
    length = max(1, min(piece // _TOKEN_BYTES, (base.context or piece) - 1))
    at_once = max(1, min(_AT_ONCE, _CACHE_BYTES // (length * _cached_bytes(base.model))))
    texts: list[str] = []
    done, state = 0, torch.random.get_rng_state()
    try:
        while done < n_bytes and (left := end - time.perf_counter()) > 0:
            torch.manual_seed(seed + len(texts))
            texts += _round(base, min(at_once, -(-(n_bytes - done) // piece)), length, left)
            done = sum(len(text.encode()) for text in texts)
            if progress is not None:
                progress(done)
    finally:
        torch.random.set_rng_state(state)
    return texts


def _round(base: LoadedModel, n: int, length: int, seconds: float) -> list[str]:
    """Some texts at once."""
    model, ends = base.model, ends_of(base)
    start = torch.full((n, 1), _start(base), device=model.device)
    with torch.inference_mode():
        made = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=length,
            do_sample=False,
            logits_processor=LogitsProcessorList([Drawn()]),
            suppress_tokens=_no_text(base, ends),
            max_time=seconds if seconds < float("inf") else None,
        )
    rows = (row[: next((i for i, id_ in enumerate(row) if id_ in ends), len(row))] for row in made[:, 1:].tolist())
    texts = (base.tokenizer.decode(row, clean_up_tokenization_spaces=False).rstrip("\ufffd") for row in rows)
    return [text for text in texts if text.strip()]


def _start(base: LoadedModel) -> int:
    """What is in front of what is written: what all texts start with, or else a line's end."""
    return base.prefix if base.prefix is not None else next(reversed(base.encode("\n")), 0)


def _no_text(base: LoadedModel, ends: frozenset[int]) -> list[int] | None:
    """Ids that are no text and end none."""
    tokenizer, rows = base.tokenizer, len(base.model.get_input_embeddings().weight)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted((special | set(range(len(tokenizer), rows))) - ends) or None


def _cached_bytes(model: Any) -> int:
    """What a token takes in the cache, at most, as far as the config says."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = (getattr(config, "num_key_value_heads", None) or heads) * width
    layers = getattr(config, "num_hidden_layers", None) or 1
    size: int = model.get_input_embeddings().weight.element_size()
    return max(1, 2 * int(layers) * int(kept) * size)


def with_own(given: TextPieces, own: OwnText, size: int) -> TextPieces:
    """Pieces of the given text, and behind them those of the base's own, none of which has parts of two texts."""
    pieces = [piece for text in own.texts for piece in split_bytes(text, size)]
    lengths = np.array([len(piece.encode()) for piece in pieces], dtype=np.int64)
    ends = np.cumsum(lengths)
    places = np.stack([np.full(len(pieces), len(given.texts)), ends - lengths, lengths], axis=1)
    texts = [*given.texts, Text.of("".join(pieces), "own text")]
    return TextPieces(texts, np.concatenate([given.places, places]))


def mixed(given: Order, numbers: range, share: float, seed: int) -> Order:
    """An order in which, as evenly as can be, a share of the pieces is of the base's own text.

    Args:
        given: The order of the given text's pieces.
        numbers: Of the pieces of its own; none leaves the order as it is.
        share: Of the latter.
        seed: For their order.
    """
    if not numbers:
        return given

    def at(position: int) -> int:
        before = int(position * share)
        if int((position + 1) * share) == before:
            return given(position - before)
        return numbers[nth_piece(len(numbers), before, seed)]

    return at

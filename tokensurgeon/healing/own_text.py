"""Let a base write text of its own, which its student is trained on besides the text that is given.

Such text is what the base itself believes in, but for the first words of every other one, which lead it to kinds of
text that it seldom comes to: a student that is trained on it learns no other text's knowledge, and sees many more ways
to go on than one kind of text has.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList

from tokensurgeon.checkpoint.durable import put_in_place
from tokensurgeon.checkpoint.layout import error_reason
from tokensurgeon.checkpoint.text import read_text, write_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.texts import Text, TextPieces, split_bytes
from tokensurgeon.evaluation.writing import Begun, Drawn, ends_of, plainly
from tokensurgeon.healing.batches import nth_piece
from tokensurgeon.healing.beginnings import BEGINNINGS
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.order import Order
from tokensurgeon.progress import Progress, Stage

__all__ = ["OwnText", "forget_parts", "mixed", "own_text", "part_of", "with_own", "write_own"]

log = logging.getLogger(__name__)

_TIMES_READ = 2
"""How often each is trained on, where the training goes by updates."""
_SHARE_OF_TIME = 0.4
"""In which it is written, of that in which it is trained on, where the training goes by time: a token takes some 0.6 of
the time of healing on it, so that it is read once or twice."""
_MOST_BYTES = 1 << 23
_KEPT_EVERY = 30.0
"""Seconds of writing that an interruption may lose."""
_AT_FIRST, _AT_ONCE = 16, 128
_CACHE_BYTES = 1 << 30
_TOKEN_BYTES = 4
"""Of text that a token stands for, about."""


@dataclass(frozen=True, slots=True)
class OwnText:
    """What a base wrote.

    Attributes:
        texts: Of one beginning each.
        seconds: That it took.
        tried: Texts that were begun, those among them of which nothing came; 0 where it is whole and all processes'.
    """

    texts: list[str]
    seconds: float
    tried: int = 0

    @property
    def n_bytes(self) -> int:
        """Of all texts."""
        return sum(len(text.encode()) for text in self.texts)

    def keep(self, path: Path) -> None:
        """In a file, in one step, for the run that goes on if this one is interrupted."""
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f"{path.name}.new")  # not of another process
        write_text(work, json.dumps(asdict(self)))
        put_in_place(work, path)

    @classmethod
    def kept(cls, path: Path) -> OwnText | None:
        """What is in a file, if it is there."""
        return cls(**json.loads(read_text(path))) if path.is_file() else None


def part_of(kept: Path, accelerator: Any) -> Path:
    """Where a process keeps what it has written, until there is a whole in ``kept``."""
    return kept.with_suffix(f".{accelerator.process_index}of{accelerator.num_processes}")


def forget_parts(kept: Path, accelerator: Any) -> None:
    """Remove the parts, of which there is a whole; the main process also those of other numbers of processes."""
    accelerator.wait_for_everyone()
    others = kept.parent.glob(f"{kept.stem}.*of*") if accelerator.is_main_process else ()
    for part in {part_of(kept, accelerator), *others}:
        part.unlink(missing_ok=True)


def own_text(
    accelerator: Any, base: LoadedModel, options: HealOptions, kept: Path, progress: Progress | None
) -> OwnText:
    """As much as a healing asks for; what was written before, where it is kept.

    Every process writes its part, and has all of them in the end. Until then it keeps its part as `part_of` says.

    Args:
        accelerator: accelerate's.
        base: The model that writes.
        options: See `HealOptions`.
        kept: File that `OwnText.keep` made of a whole before, if it is there.
        progress: Called with (stage, percent done, 100).

    Raises:
        InputError: If it is asked for and the model cannot write. Where it was not asked for, nothing is written.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    if not options.own_share:
        return OwnText([], 0.0)
    begun, several = time.perf_counter(), accelerator.num_processes
    whole = [OwnText.kept(kept) if accelerator.is_main_process else None]
    if several > 1:
        broadcast_object_list(whole)
    if whole[0] is not None:
        return whole[0]
    read = None if options.steps is None else options.steps * options.batch * options.piece * options.own_share
    n_bytes = _MOST_BYTES if read is None else min(_MOST_BYTES, int(read * several / _TIMES_READ))
    seconds = float("inf") if read is not None else _SHARE_OF_TIME * options.own_share * 60 * options.minutes
    tell = None if progress is None else lambda share: progress(Stage.OWN, int(100 * share), 100)
    seed, failed = options.seed + accelerator.process_index * _MOST_BYTES, ""
    own, part = list[str](), part_of(kept, accelerator)
    before = OwnText.kept(part) or OwnText([], 0.0)
    try:
        own = write_own(base, max(1, n_bytes // several), options.piece, seed, seconds, tell, (before, part))
    except InputError as error:
        failed = str(error)
    faults = gather_object([failed]) if several > 1 else [failed]
    if fault := next(filter(None, faults), ""):  # on all processes alike
        if options.own_text is not None:
            raise InputError(fault)
        log.warning("%s; training on the given text alone", fault)
        return OwnText([], 0.0)
    spent = before.seconds + time.perf_counter() - begun
    found = OwnText(gather_object(own) if several > 1 else own, spent)
    if not found.texts:
        log.warning("%s wrote no text of its own; training on the given text alone", base.model.name_or_path)
    return found


def write_own(
    base: LoadedModel,
    n_bytes: int,
    piece: int,
    seed: int,
    seconds: float = float("inf"),
    progress: Callable[[float], None] | None = None,
    kept: tuple[OwnText, Path] | None = None,
) -> list[str]:
    """Texts that a base writes by its probabilities, half of them behind a beginning of some kind of text.

    Args:
        base: The model.
        n_bytes: How much, about.
        piece: Bytes of a text, about, if it does not end before.
        seed: Of drawing.
        seconds: When they are over nothing more is written.
        progress: Called with the share done.
        kept: What it wrote before it was interrupted, and the file in which all is kept now and then; None for neither.

    Raises:
        InputError: If it cannot write.
    """
    name = base.model.name_or_path
    if not base.model.can_generate():
        raise InputError(f"{name} cannot write text of its own (it has no generate). Use --own-text 0")
    try:
        return _written(plainly(base), n_bytes, piece, seed, seconds, progress, kept)
    except (InputError, OSError):  # the latter of keeping it
        raise
    except Exception as error:  # whatever an architecture raises that was not made to write
        reason = error_reason(error)
        raise InputError(f"{name} cannot write text of its own ({reason}). Use --own-text 0") from error


def _written(
    base: LoadedModel,
    n_bytes: int,
    piece: int,
    seed: int,
    seconds: float,
    progress: Callable[[float], None] | None,
    kept: tuple[OwnText, Path] | None,
) -> list[str]:
    """In rounds, the first of which says how many whole texts fit into the time."""
    length = max(1, min(piece // _TOKEN_BYTES, (base.context or piece) - 1))
    most = max(1, min(_AT_ONCE, _CACHE_BYTES // (length * _cached_bytes(base.model))))
    before, part = kept or (OwnText([], 0.0), None)
    texts, tried, done = [*before.texts], before.tried, before.n_bytes
    n, saved = min(_AT_FIRST, most), time.perf_counter()
    begun = saved - before.seconds
    ends, device = ends_of(base), base.model.device
    never = _no_text(base, ends)
    drawn, barred = Drawn(never), ends.union(never)
    beginnings = [ids for ids in map(base.encode, BEGINNINGS) if len(ids) <= length // 2 and barred.isdisjoint(ids)]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        while done < n_bytes and tried < _AT_ONCE + 8 * n_bytes // piece:  # most may be nothing but an end
            since = time.perf_counter()
            if (left := seconds - (since - begun)) <= 0:
                break
            torch.manual_seed(seed + tried)
            n = min(n, most, -(-4 * (n_bytes - done) // (3 * piece)))  # a third more: some end before
            begun_as = [_beginning(beginnings, seed, number) for number in range(tried, tried + n)]
            try:
                texts += _round(base, drawn, begun_as, length, left)
            except torch.OutOfMemoryError:  # others use the device too
                if n == 1:
                    raise
                n = most = n // 2
                continue
            done, tried = sum(len(text.encode()) for text in texts), tried + n
            now = time.perf_counter()
            if progress is not None:
                progress(min(1.0, max(done / n_bytes, (now - begun) / seconds)))
            if part is not None and now - saved >= _KEPT_EVERY:
                OwnText(texts, now - begun, tried).keep(part)
                saved = now
            fitting = (seconds - (now - begun)) / max(now - since, 1e-9)  # such rounds; a larger one costs less a text
            n = max(1, int(min(most, n * max(fitting, 0.0))))
    return texts


def _beginning(beginnings: list[list[int]], seed: int, number: int) -> list[int]:
    """What a text begins with: every other with nothing, the rest with one of those that lead to kinds of text."""
    if number % 2 == 0 or not beginnings:
        return []
    return beginnings[nth_piece(len(beginnings), number // 2, seed)]


def _round(base: LoadedModel, drawn: Drawn, begun_as: list[list[int]], length: int, seconds: float) -> list[str]:
    """Some texts at once."""
    model, ends = base.model, ends_of(base)
    start = torch.full((len(begun_as), 1), _start(base), device=model.device)
    with torch.inference_mode():
        made = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=length,
            do_sample=False,
            top_k=None,
            logits_processor=LogitsProcessorList([drawn, Begun(begun_as)]),
            max_time=seconds if seconds < float("inf") else None,
        )
    rows = [row[: next((i for i, id_ in enumerate(row) if id_ in ends), len(row))] for row in made[:, 1:].tolist()]
    rows = [row for row, ids in zip(rows, begun_as, strict=True) if len(row) > len(ids)]  # it went on
    texts = (base.tokenizer.decode(row, clean_up_tokenization_spaces=False).rstrip("\ufffd") for row in rows)
    return [text for text in texts if text.strip()]


def _start(base: LoadedModel) -> int:
    """What is in front of what is written: what all texts start with, or else a line's end."""
    return base.prefix if base.prefix is not None else next(reversed(base.encode("\n")), 0)


def _no_text(base: LoadedModel, ends: frozenset[int]) -> list[int]:
    """Ids with a row that are no text and end none."""
    tokenizer, rows = base.tokenizer, len(base.model.get_input_embeddings().weight)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(set(range(rows)) - (set(tokenizer.get_vocab().values()) - special) - ends)


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
    """Pieces of the given text, and behind them one of each of the base's own, which a little may be cut off."""
    pieces = [split_bytes(text, size)[0] for text in own.texts]
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

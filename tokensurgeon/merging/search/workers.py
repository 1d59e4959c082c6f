"""Merge and score by several recipes at the same time, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tokensurgeon.merging.prepare import prepare
from tokensurgeon.merging.search.items import Item
from tokensurgeon.merging.search.objective import Pieces
from tokensurgeon.merging.search.template import Template
from tokensurgeon.merging.search.trial import Trials, score_pieces

__all__ = ["Measure", "working"]

Measure = Callable[[Sequence[tuple[float, ...]]], Iterator[Pieces]]
"""Scores of the merges by some values, in their order."""

_own: list[tuple[Template, Trials, Mapping[str, Sequence[str | Item]], tempfile.TemporaryDirectory[str]]] = []
"""What a worker merges, reads, and writes its configuration to until it ends."""


@contextmanager
def working(
    n: int, template: Template, target: Path, seed: int, texts: Mapping[str, Sequence[str | Item]]
) -> Iterator[Measure]:
    """Start processes, and end them.

    Args:
        n: How many. Each opens the models for itself.
        template: The recipe; its models are aligned already, and lie in the cache.
        target: Where the output is to be.
        seed: For methods that draw.
        texts: What is read.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // n)
    start = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(n, start, initializer=_begin, initargs=(threads, template, target, seed, texts))
    before = set(multiprocessing.active_children())
    try:
        yield lambda asked: pool.map(_score, asked)
    except BaseException:  # Ctrl-C waits for no merge
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(
    threads: int, template: Template, target: Path, seed: int, texts: Mapping[str, Sequence[str | Item]]
) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    ready = prepare(template.by(template.start), target, True, [], None)
    place = tempfile.TemporaryDirectory(prefix="tokensurgeon-search-")
    _own.append((template, Trials(ready, Path(place.name), seed), texts, place))


def _end_with_parent() -> None:
    """A process that is killed takes no leave, and its workers would wait for it, each with a merge in memory."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _score(values: tuple[float, ...]) -> Pieces:
    ((template, trials, texts, _),) = _own
    return score_pieces(trials.model(template.by(values)), texts)

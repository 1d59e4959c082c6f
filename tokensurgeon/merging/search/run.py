"""Search for a recipe's numbers, and merge by those that were found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.evaluation.texts import CHUNK_BYTES, open_texts, split_bytes
from tokensurgeon.healing.resume import key_of
from tokensurgeon.merging.mergekit import require_mergekit
from tokensurgeon.merging.models import content_digest
from tokensurgeon.merging.prepare import Prepared, prepare, refuse_plan
from tokensurgeon.merging.recipe import Recipe, read_source
from tokensurgeon.merging.run import MergeReport, write_merge
from tokensurgeon.merging.search.evolve import Found, evolve
from tokensurgeon.merging.search.items import Item, read_items
from tokensurgeon.merging.search.journal import Journal
from tokensurgeon.merging.search.numbers import numbers_of
from tokensurgeon.merging.search.objective import (
    Objective,
    Pieces,
    bits_per_byte,
    cost_of,
    interval,
    refuse_objective,
)
from tokensurgeon.merging.search.template import Template
from tokensurgeon.merging.search.trial import Trials, score_model, score_pieces
from tokensurgeon.merging.search.workers import Measure, working
from tokensurgeon.progress import Progress

__all__ = ["SearchOptions", "SearchProgress", "search_recipe"]

SearchProgress = Callable[[int, int, float], None]
"""Called with (merges tried, to be tried at most, the least cost so far)."""
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    Attributes:
        text: Files to search by; Python's own documentation where there are neither these nor items.
        items: JSONL files of questions to search by, see `tokensurgeon.merging.search.items.read_items`.
        objective: What is to be made small, see `tokensurgeon.merging.search.objective.cost_of`.
        evaluations: Merges to try at most, that of the start among them.
        n_bytes: Read of each text; the first half is searched on, the second reported on.
        seed: For the search, and for methods that draw.
        workers: Processes that merge and score at the same time, each with memory of its own; they share the cores.

    Example:
        >>> import tokensurgeon
        >>> tokensurgeon.SearchOptions(text=("legal.txt", "code.txt"), objective="worst").evaluations
        100
    """

    text: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    objective: str = "regret"
    evaluations: int = 100
    n_bytes: int = 1 << 16
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        refuse_objective(self.objective)
        if self.n_bytes < 1:
            raise InputError(f"--bytes {self.n_bytes} must be at least 1")
        if self.evaluations < 1:
            raise InputError(f"--evaluations {self.evaluations} must be at least 1")
        if self.workers < 1:
            raise InputError(f"--workers {self.workers} must be at least 1")


@dataclass(frozen=True, slots=True)
class _Halves:
    """Pieces by text: those that the search sees, and those that it never does."""

    searched: Mapping[str, Sequence[str | Item]]
    held_out: Mapping[str, Sequence[str | Item]]


def search_recipe(
    recipe: Path | str,
    out: Path | str,
    options: SearchOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    searching: SearchProgress | None = None,
) -> MergeReport:
    """Find a recipe's numbers by text, merge by them, and write the recipe that was found beside the merge.

    The merge is what `tokensurgeon.merge` makes of the found recipe, ``OUT.yaml``. What was measured before an
    interruption is remembered.

    Args:
        recipe: A mergekit YAML in which ``{search: [low, high], start: x}`` stands for at least one number.
        out: Output directory.
        options: See `SearchOptions`.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total), before and after the search.
        searching: Called while it goes on.

    Raises:
        MissingDependencyError: Without mergekit, or without cmaes.
        InputError: If the recipe, one of its models or a text cannot be used; found before anything is merged.
        VerificationError: If the written model breaks an invariant; nothing is left behind but what was measured.

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.SearchOptions(text=("text.txt",), evaluations=3)
        >>> report = tokensurgeon.search_recipe("search.yaml", "out", options)
        >>> report.content["merge"]["search"]["evaluations"]
        3
    """
    require_mergekit()
    if find_spec("cmaes") is None:
        raise MissingDependencyError("cmaes", "merge", "tokensurgeon merge --search")
    options, started = options or SearchOptions(), time.perf_counter()
    target, path = Path(out).expanduser().absolute(), Path(recipe).expanduser()
    beside = target.with_name(f"{target.name}.yaml")
    source = read_source(path)[1]
    template = Template(source, numbers_of(source), path)
    if not template.numbers:
        raise InputError(
            f"recipe {path} has no number to search for. Write {{search: [0, 1], start: 0.5}} in the place of one"
        )
    check_target(
        beside, overwrite, [str(recipe), *options.text, *options.items], suffix=".yaml", option="the found recipe"
    )
    halves = _halves(options)
    start = template.by(template.start)
    ready = prepare(start, target, overwrite, [str(recipe), *options.text, *options.items], progress)
    for end in ("low", "high"):
        refuse_plan(template.by([getattr(one, end) for one in template.numbers]), ready.opened)
    journal = Journal(target, _key(template, ready, halves, options.seed))
    told, found = _searched(template, ready, halves, options, journal, target, searching)
    report = write_merge(
        replace(ready, read=found),
        target,
        seed=options.seed,
        overwrite=overwrite,
        progress=progress,
        started=started,
        told={"search": told},
    )
    with staged(beside, overwrite, suffix=".yaml", option="the found recipe") as work:
        write_text(work, found.text)
    journal.remove()
    return report


def _searched(
    template: Template,
    ready: Prepared,
    halves: _Halves,
    options: SearchOptions,
    journal: Journal,
    target: Path,
    searching: SearchProgress | None,
) -> tuple[dict[str, Any], Recipe]:
    """What was found, as plain data, and the recipe with it."""
    objective, tried = cast(Objective, options.objective), list[float]()
    both_halves = halves.searched, halves.held_out
    models = {
        model.name: journal.remembered(
            f"model {model.name}", partial(score_model, model.directory, ready.device, *both_halves)
        )
        for model in ready.opened.values()
    }
    single = [bits_per_byte(scores[0]) for scores in models.values()]

    def tell(done: int, best: Found) -> None:
        if searching is not None:
            searching(done, options.evaluations, best.cost)

    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="tokensurgeon-search-"))
        trials = Trials(ready, Path(place), options.seed)

        def scored(values: tuple[float, ...], texts: Mapping[str, Sequence[str | Item]]) -> Pieces:
            return score_pieces(trials.model(template.by(values)), texts)

        measure: Measure = lambda asked: (scored(values, halves.searched) for values in asked)  # noqa: E731
        if options.workers > 1:
            measure = stack.enter_context(working(options.workers, template, target, options.seed, halves.searched))

        def costs(asked: Sequence[tuple[float, ...]]) -> Iterator[float]:
            named = {f"searched {list(values)}": values for values in asked}
            fresh = measure([values for name, values in named.items() if not journal.knows(name)])
            for values in asked:
                scores = journal.remembered(f"searched {list(values)}", lambda: next(fresh))
                cost = cost_of(objective, bits_per_byte(scores), single)
                tried.append(cost if np.isfinite(cost) else float("inf"))
                yield tried[-1]

        best = evolve(template.numbers, costs, options.evaluations, seed=options.seed, tell=tell)
        both = {
            name: journal.remembered(f"held_out {list(values)}", partial(scored, values, halves.held_out))
            for name, values in (("start", template.start), ("found", best.values))
        }
    told = {
        "objective": objective,
        "evaluations": best.evaluations,
        "seed": options.seed,
        "texts": {
            name: sum(1 if isinstance(piece, Item) else len(piece.encode()) for piece in of)
            for name, of in halves.searched.items()
        },
        "numbers": [
            {"name": one.name, "low": one.low, "high": one.high, "start": one.start, "found": value}
            for one, value in zip(template.numbers, best.values, strict=True)
        ],
        "searched": {"start": tried[0], "found": best.cost},
        "tried": [cost if np.isfinite(cost) else None for cost in tried],
        "held_out": _held_out(objective, both, {ready.names[name]: of[1] for name, of in models.items()}),
    }
    return told, template.by(best.values)


def _held_out(objective: Objective, both: Mapping[str, Pieces], models: Mapping[str, Pieces]) -> dict[str, Any]:
    """Costs of start and found recipe, what was gained, and every model's bits per byte, on text not searched on."""

    def of(merged: Mapping[str, float], *single: Mapping[str, float]) -> float:
        return cost_of(objective, merged, single)

    def gained(start: Mapping[str, float], found: Mapping[str, float], *single: Mapping[str, float]) -> float:
        return of(start, *single) - of(found, *single)

    return {
        **{name: interval(of, scores, *models.values()) for name, scores in both.items()},
        "gain": interval(gained, both["start"], both["found"], *models.values()),
        "bits_per_byte": {name: bits_per_byte(scores) for name, scores in (*both.items(), *models.items())},
    }


def _halves(options: SearchOptions) -> _Halves:
    paths = [Path(name) for name in options.text]
    texts = open_texts(paths, options.n_bytes) if paths or not options.items else {}
    pieces: dict[str, Sequence[str | Item]] = {name: split_bytes("".join(text)) for name, text in texts.items()}
    for name, of in pieces.items():
        if len(of) < 2 * _FEWEST:
            raise InputError(
                f"text {name} has {len(of)} pieces of {CHUNK_BYTES:,} bytes, and each half needs {_FEWEST}. Give more "
                "text, or more --bytes"
            )
    for path in (Path(name).expanduser() for name in options.items):
        items = read_items(path)
        if len(items) < 2 * _FEWEST:
            raise InputError(f"{path} has {len(items)} items, and each half needs {_FEWEST}. Give more")
        pieces[path.name if path.name not in pieces else str(path)] = items
    middle = {name: len(of) // 2 for name, of in pieces.items()}
    return _Halves(
        {name: of[: middle[name]] for name, of in pieces.items()},
        {name: of[middle[name] :] for name, of in pieces.items()},
    )


def _key(template: Template, ready: Prepared, halves: _Halves, seed: int) -> str:
    """Of what a measurement depends on; not of how many are wanted."""
    models = {str(reference): content_digest(place) for reference, place in ready.places.items()}
    source, versions = repr(sorted(template.source.items())), [version(name) for name in ("tokensurgeon", "mergekit")]
    return key_of(source, models, repr(halves), seed, versions)

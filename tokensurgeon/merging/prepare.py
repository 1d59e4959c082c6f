"""Bring a recipe's models together before anything is merged: open, compare, plan, align, choose rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.room import output_bytes, refuse_full
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.texts import open_texts
from tokensurgeon.merging.align import Aligned, Owner, align_model, find_owner
from tokensurgeon.merging.mergekit import chat_template, check_plan, find_method, layer_setting
from tokensurgeon.merging.models import Model, glance, open_model, refuse_unlike
from tokensurgeon.merging.preflight import refuse_files, refuse_unplanned, refuse_values
from tokensurgeon.merging.recipe import Recipe, lists, models_of, slices_of
from tokensurgeon.merging.rows import choose_rows, never_emitted
from tokensurgeon.merging.tokens import RowSource, given_rows, row_sources
from tokensurgeon.merging.union import grown_owner, missing_tokens
from tokensurgeon.merging.write import Layer, Layers, Part
from tokensurgeon.progress import Progress
from tokensurgeon.readiness.merging import relation_rules

__all__ = ["Prepared", "prepare", "refuse_plan"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge, as far as it does not depend on the recipe's numbers.

    Attributes:
        read: The recipe.
        method: mergekit's merge method.
        opened: Every model as it was given, by reference.
        aligned: Every model in the common ids.
        owner: Whose tokenizer the merge has.
        first: The base of the recipe, or its first model.
        parts: What the embedding is made of, and the LM head.
        template: The chat template that the recipe asks for.
        device: Where to merge, as torch names it.
    """

    read: Recipe
    method: Any
    opened: Mapping[Any, Model]
    aligned: Mapping[Any, Aligned]
    owner: Owner
    first: Aligned
    parts: Sequence[Part]
    template: str | None
    device: str

    @property
    def given(self) -> dict[Any, Path]:
        """Where the models lie that were given."""
        return {reference: model.directory for reference, model in self.opened.items()}

    @property
    def places(self) -> dict[Any, Path]:
        """Where the aligned models lie."""
        return {reference: one.model.directory for reference, one in self.aligned.items()}

    @property
    def names(self) -> dict[str, str]:
        """What reports call each model, by its name in the recipe: the short name, where no other has the same."""
        short = {model.name: model.short for model in self.opened.values()}
        taken = list(short.values())
        return {name: of if taken.count(of) == 1 else name for name, of in short.items()}

    @property
    def whole(self) -> bool:
        """Whether all layers meet."""
        return slices_of(self.read.merge)[0].sources[0].layers is None

    @property
    def layers(self) -> Layers | None:
        """The output's, where they are not the first model's."""
        return _layers(self.read.merge, self.given, self.places)

    @property
    def left_out(self) -> dict[str, int]:
        """With a union, how many tokens of each model it lacks nevertheless."""
        return _left_out(self.read, self.opened, self.owner)


def prepare(read: Recipe, target: Path, overwrite: bool, inputs: Sequence[str], progress: Progress | None) -> Prepared:
    """Open a recipe's models, refuse what cannot be merged, and align them.

    Args:
        read: The recipe.
        target: Where the output is to be.
        overwrite: Whether a model that is there may be replaced.
        inputs: What else the output is made from, and must not replace.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If one of the models cannot be used; found before anything is transplanted.
    """
    method = find_method(read.merge.merge_method)
    references = models_of(read.merge)
    adapters = [reference.lora for reference in references if reference.lora is not None]
    others = [*(reference.model for reference in references), *adapters]
    check_target(target, overwrite, [*inputs, *map(str, others), *([read.tokenizer] if read.tokenizer else [])])
    template = chat_template(read.merge.chat_template)
    device = str(pick_device(read.options.device))
    if read.options.text:
        open_texts([Path(name) for name in read.options.text])
    glance(references)
    opened = {reference: open_model(reference) for reference in references}
    models, slices = list(opened.values()), slices_of(read.merge)
    refuse_unlike(models, whole=slices[0].sources[0].layers is None)
    _refuse_embeddings(read)
    planned = refuse_plan(read, opened)
    sources = row_sources(read.tokens, opened)
    owner = grown_owner(find_owner(read.tokenizer, models), read, models, progress)
    refuse_full(target, output_bytes(models[0], owner.rows))
    refuse_files(planned, models, owner, read.options)
    body = models[0].directory
    choose_class(owner.model.tokenizer, body, foreign=body not in (owner.model.directory, owner.grown_from))  # raises

    _warn(read, opened)
    aligned = {ref: align_model(model, owner, read.options, progress) for ref, model in opened.items()}
    if len({one.model.directory for one in aligned.values()}) < len(aligned):  # mergekit knows models by their place
        raise InputError(f"two of {', '.join(map(str, references))} have the same content. Name one of them once")
    first = aligned[references[0] if read.merge.base_model else slices[0].models[0]]
    parts = _parts(read, aligned, sources, owner)
    return Prepared(read, method, opened, aligned, owner, first, parts, template, device)


def _warn(read: Recipe, opened: Mapping[Any, Model]) -> None:
    """Say what of the models' weights speaks against the merge; what makes it impossible was refused before."""
    base = read.merge.base_model
    models = [] if base is None else [opened[base]]
    models += [model for reference, model in opened.items() if reference != base]
    if len(models) < 2 or slices_of(read.merge)[0].sources[0].layers is not None:
        return
    for rule in relation_rules(models, base is not None):
        if not rule.ok:
            log.warning("%s: %s. %s", rule.name, rule.detail, rule.remedy)


def refuse_plan(read: Recipe, opened: Mapping[Any, Model]) -> list[Any]:
    """Let mergekit plan the merge of the models as they are, and refuse what it would refuse or leave out.

    Args:
        read: The recipe.
        opened: Its models by reference.

    Returns:
        mergekit's tasks, one a tensor.
    """
    planned = check_plan(read.merge, {reference: model.directory for reference, model in opened.items()})
    refuse_unplanned(planned, list(opened.values()))
    refuse_values(planned)
    return planned


def _left_out(read: Recipe, opened: Mapping[Any, Model], owner: Owner) -> dict[str, int]:
    """With a union, how many tokens of each model it lacks nevertheless."""
    if not read.union:
        return {}
    grown = OpenModel.open(owner.reference, "vocabulary")
    counts = {str(ref): len(missing_tokens(model, grown)) for ref, model in opened.items()}
    return {name: count for name, count in counts.items() if count}


def _parts(read: Recipe, aligned: Mapping[Any, Aligned], sources: Mapping[str, RowSource], owner: Owner) -> list[Part]:
    """What the embedding is merged from, and the LM head: the first slice's models, and the last one's."""
    found = []
    slices = slices_of(read.merge)
    for part in (slices[0], slices[-1]):
        taking_part = [aligned[model] for model in part.models]
        number = part.models.index(part.base) if part.base in part.models else None
        kinds, unused = zip(*((one.kinds, never_emitted(one.transplant)) for one in taking_part), strict=True)
        choice = choose_rows(kinds, read.embeddings, number, listed=lists(read.merge, part.base), unused=unused)
        found.append(Part(taking_part, *given_rows(choice, kinds, sources, owner.model.ids)))
    return found


def _refuse_embeddings(read: Recipe) -> None:
    """The base's rows can be taken only where the base is merged."""
    slices = slices_of(read.merge)
    for part in (slices[0], slices[-1]) if read.embeddings == "base" else ():
        if part.base is None:
            raise InputError(
                "embeddings=base takes rows from base_model, and the recipe has none. Use first or average"
            )
        if part.base not in part.models:
            raise InputError(
                f"embeddings=base takes rows from {part.base}, which is no source of the slice that the rows are "
                "merged in. Name it there, or use first or average"
            )


def _layers(configuration: Any, given: Mapping[Any, Path], places: Mapping[Any, Path]) -> Layers | None:
    chosen = [
        Layer(places[first.model], number)
        for first in (part.sources[0] for part in slices_of(configuration))
        if first.layers is not None
        for number in range(*first.layers)
    ]
    return Layers(layer_setting(configuration, given), chosen) if chosen else None

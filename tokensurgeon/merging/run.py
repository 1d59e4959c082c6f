"""Merge from end to end: align, merge, choose rows, verify."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.room import output_bytes, refuse_full
from tokensurgeon.checkpoint.side_files import describe_files
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.policy import why_not_run
from tokensurgeon.evaluation.texts import open_texts
from tokensurgeon.merging.align import Aligned, Owner, align_model, find_owner
from tokensurgeon.merging.mergekit import (
    chat_template,
    check_plan,
    find_method,
    layer_setting,
    require_mergekit,
    run_mergekit,
)
from tokensurgeon.merging.models import Model, glance, open_model, refuse_unlike
from tokensurgeon.merging.preflight import refuse_files, refuse_unplanned, refuse_values
from tokensurgeon.merging.recipe import Recipe, lists, models_of, read_recipe, slices_of
from tokensurgeon.merging.rows import MEAN, METHOD, Kind, choose_rows, never_emitted
from tokensurgeon.merging.tokens import RowSource, given_rows, row_sources
from tokensurgeon.merging.union import grown_owner, missing_tokens
from tokensurgeon.merging.write import (
    Layer,
    Layers,
    Part,
    fill_rows,
    manifest_of,
    state_dtype,
    verify_merge,
    write_config,
    write_others,
)
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.report.merged import merge_card, merge_page
from tokensurgeon.surgery.record import describe_asked
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.tensors import accepted
from tokensurgeon.vocabulary.visible import shown

__all__ = ["MergeReport", "merge"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was merged.

    Attributes:
        out: The written model.
        content: The manifest's content.
        checks: Invariants verified on the written model.
    """

    out: Path
    content: dict[str, Any]
    checks: list[Check]


def merge(
    recipe: Path | str,
    out: Path | str,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge models, each of which may have a tokenizer of its own, with mergekit.

    Args:
        recipe: A mergekit YAML, with a ``tokensurgeon`` block if wanted; see `tokensurgeon.merging.recipe`.
        out: Output directory.
        seed: For methods that draw.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        MissingDependencyError: Without mergekit.
        InputError: If the recipe or one of its models cannot be used; found before anything is transplanted.
        VerificationError: If the written model breaks an invariant; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.merge("recipe.yaml", "out", seed=1)
        >>> all(check.ok for check in report.checks)
        True
    """
    require_mergekit()
    target, started = Path(out).expanduser().absolute(), time.perf_counter()
    read = read_recipe(Path(recipe).expanduser())
    method = find_method(read.merge.merge_method)
    references = models_of(read.merge)
    adapters = [reference.lora for reference in references if reference.lora is not None]
    inputs = [recipe, *(reference.model for reference in references), *adapters, read.tokenizer or recipe]
    check_target(target, overwrite, [str(place) for place in inputs])
    template = chat_template(read.merge.chat_template)
    device = str(pick_device(read.options.device))
    if read.options.text:
        open_texts([Path(name).expanduser() for name in read.options.text])
    glance(references)
    opened = {reference: open_model(reference) for reference in references}
    slices = slices_of(read.merge)
    whole = slices[0].sources[0].layers is None
    refuse_unlike(list(opened.values()), whole=whole)
    given = {reference: model.directory for reference, model in opened.items()}
    _refuse_embeddings(read)
    planned = check_plan(read.merge, given)
    refuse_unplanned(planned, list(opened.values()))
    refuse_values(planned)
    sources = row_sources(read.tokens, opened)
    owner = grown_owner(find_owner(read.tokenizer, list(opened.values())), read, list(opened.values()), progress)
    refuse_full(target, output_bytes(next(iter(opened.values())), owner.rows))
    refuse_files(planned, list(opened.values()), owner, read.options)
    body = next(iter(opened.values())).directory
    foreign = body not in (owner.model.directory, owner.grown_from)
    choose_class(owner.model.tokenizer, body, foreign=foreign)  # raises what it has to say

    aligned = {ref: align_model(model, owner, read.options, progress) for ref, model in opened.items()}
    places = {reference: one.model.directory for reference, one in aligned.items()}
    if len(set(places.values())) < len(places):  # mergekit knows models by their place
        raise InputError(f"two of {', '.join(map(str, references))} have the same content. Name one of them once")
    first = aligned[references[0] if read.merge.base_model else slices[0].models[0]]
    parts = _parts(read, aligned, sources, owner)
    left_out = _left_out(read, opened, owner)
    content = describe_asked(read.options) | {"merge": _described(read, method, seed, owner, aligned, parts)}
    content["merge"]["left_out"] = left_out
    content["versions"]["mergekit"] = version("mergekit")
    with staged(target, overwrite) as work, tempfile.TemporaryDirectory(prefix=".mergekit-", dir=work) as place:
        raw = Path(place)
        content["removed_settings"] = write_config(work, first, owner, _layers(read.merge, given, places))
        shutil.copyfile(work / "config.json", raw / "config.json")
        run_mergekit(read.merge, places, raw, seed=seed, device=device, progress=progress)
        if progress is not None:
            progress(Stage.VERIFY, 0, 1)
        fill_rows(raw, work, parts)
        state_dtype(work)
        content["tokenizer_sha256"] = write_others(work, first, owner, template, list(given.values()))
        content |= describe_files(first.model, owner.model, work)
        files = Checkpoint.open(work)
        unrun = why_not_run(work, files, find_vocabulary_tensors(work, files.tensors), read.options.forward)
        manifest = manifest_of(parts[0].choice, content)
        content |= {"counts": _counted(manifest), "not_run": unrun}
        checks = verify_merge(work, first, owner, parts, manifest, unrun, whole)
        content["verified"] = accepted(checks)
        content["sha256"] = recorded_digests(work)
        content["seconds"] = round(time.perf_counter() - started, 1)
        manifest.write(work)
        lines = content["merge"]["recipe"].rstrip().split("\n")
        told = shown(content | {"merge": content["merge"] | {"recipe": lines}})
        write_text(work / "README.md", merge_card(told))
        write_text(work / "report.html", merge_page(told))
    return MergeReport(target, content, checks)


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


def _counted(manifest: Manifest) -> dict[str, int]:
    return {p.label: count for p in Provenance if (count := len(manifest.plan.ids(p)))}


def _described(
    read: Recipe, method: Any, seed: int, owner: Owner, aligned: Mapping[Any, Aligned], parts: list[Part]
) -> dict[str, Any]:
    """The merge as plain data, for manifest, card and page."""
    names = _names(list(aligned.values()))
    matrices = ("embedding", "head")[: 1 if parts[0].models[0].model.layout.tied else 2]
    return {
        "method": method.spec.name,
        "title": method.spec.pretty_name or method.spec.name,
        "reference": method.spec.reference_url,
        "seed": seed,
        "embeddings": read.embeddings,
        "tokenizer": owner.model.name,
        "recipe": read.text,
        "models": [
            {
                "name": names[one.model.name],
                "base": reference == read.merge.base_model,
                "sha256": one.sha256,
                "transplant": one.transplant.content["counts"] if one.transplant is not None else None,
                "rows": {kind.name.lower(): int((one.kinds == kind).sum()) for kind in Kind},
            }
            for reference, one in aligned.items()
        ],
        "rows": {name: _shares(part, names) for name, part in zip(matrices, parts, strict=False)},
    }


def _names(models: list[Aligned]) -> dict[str, str]:
    """What the report calls each model, by its name in the recipe: the short name, where no other has the same."""
    short = [one.model.short for one in models]
    return {one.model.name: s if short.count(s) == 1 else one.model.name for one, s in zip(models, short, strict=True)}


def _shares(part: Part, names: Mapping[str, str]) -> dict[str, Any]:
    taken = part.choice.taken
    return {
        "merged": int((taken == METHOD).sum()),
        "averaged": int((taken == MEAN).sum()),
        "named": len(part.given),
        "taken": {names[one.model.name]: int((taken == i).sum()) for i, one in enumerate(part.models)},
        "differing": part.choice.differing,
    }

"""Write the merged model: settings, rows of tokens that not all models know, manifest, card, checks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.foreign import taken_files
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.settings import write_settings
from tokensurgeon.checkpoint.side_files import copy_side_files, fit_body
from tokensurgeon.checkpoint.text import write_json, write_text
from tokensurgeon.evaluation.start import said_start
from tokensurgeon.merging.align import Aligned, Owner
from tokensurgeon.merging.models import Model, is_buffer
from tokensurgeon.merging.rows import Kind, RowChoice, filled
from tokensurgeon.merging.tokens import RowSource
from tokensurgeon.solver.problem import damaged_rows
from tokensurgeon.verification.rows import differing
from tokensurgeon.verification.running import Check, forward_checks, tokenizer_alone, tokenizer_checks

__all__ = [
    "Layer",
    "Layers",
    "Part",
    "chosen_rows",
    "fill_rows",
    "manifest_of",
    "start_of",
    "state_dtype",
    "verify_merge",
    "write_config",
    "write_others",
]

_LICENCES = ("LICENSE*", "NOTICE*")
_DTYPES = ("dtype", "torch_dtype")

_PROVENANCE = {
    Kind.OWN: Provenance.COPIED, Kind.TRAINED: Provenance.TRAINED, Kind.MADE: Provenance.RECONSTRUCTED,
    Kind.SILENT: Provenance.UNREACHABLE,
}  # fmt: skip


class Part(NamedTuple):
    """What a vocabulary-sized tensor is made of.

    Attributes:
        models: Those that it is merged from.
        choice: Whose row every token gets.
        given: Rows that the recipe names, by id.
    """

    models: list[Aligned]
    choice: RowChoice
    given: dict[int, RowSource]


class Layer(NamedTuple):
    """A layer of the output.

    Attributes:
        directory: Of the model that it is from.
        number: In that model.
    """

    directory: Path
    number: int


class Layers(NamedTuple):
    """The output's layers, where they are not the first model's.

    Attributes:
        setting: The one that counts layers; dots lead into nested tables, as in ``text_config.num_hidden_layers``.
        chosen: From first to last.
    """

    setting: str
    chosen: list[Layer]


def write_config(out: Path, first: Aligned, owner: Owner, layers: Layers | None) -> list[str]:
    """``config.json`` and ``generation_config.json``: the first model's, with the owner's special ids.

    Args:
        out: An existing directory.
        first: The base of the recipe, or its first model.
        owner: Whose tokenizer it gets.
        layers: None where the first model's stay.

    Returns:
        Settings that were removed because their ids mean nothing any more.
    """
    same = {i: [i] for i in range(owner.rows)}
    tied = first.model.layout.tied
    removed = write_settings(
        first.model.directory,
        owner.model.directory,
        out,
        owner.model.tokenizer,
        same,
        owner.rows,
        tied=tied,
        dtype=None,
        beginning=beginning_of(first),
    )
    if layers is not None:
        config = read_config(out)
        part, name = _part(config, layers.setting)
        places = {layer.directory for layer in layers.chosen}
        theirs = {place: _part(read_config(place), layers.setting)[0] for place in places}
        for key, value in part.items():
            if isinstance(value, list) and len(value) == part[name] and "layer" in key:  # such as layer_types
                part[key] = [theirs[layer.directory][key][layer.number] for layer in layers.chosen]
        part[name] = len(layers.chosen)
        write_json(out / "config.json", config)
    return removed


def beginning_of(first: Aligned) -> int | None:
    """What texts begin with, where the owner's tokenizer declares no BOS: as the first model's transplant has it."""
    found: int | None = first.transplant.content.get("beginning") if first.transplant else None
    return found


def start_of(first: Aligned, owner: Owner) -> dict[str, Any]:
    """What texts start with, for the manifest, where the first model's says so."""
    token = owner.model.tokenizer.tokenizer.id_to_token
    said = said_start(first.model.directory, token)
    return {} if said is None else {"starts_with": said, "start": token(said)}


def state_dtype(out: Path) -> None:
    """Let ``config.json`` name the dtype that was written: models of several dtypes merge in the widest."""
    files = Checkpoint.open(out)
    written = str(files.read(find_vocabulary_tensors(out, files.tensors).embedding).dtype).removeprefix("torch.")
    config = read_config(out)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    if not any(name in part for part in parts for name in _DTYPES):
        config["dtype"] = written
    for part in parts:
        part.update({name: written for name in _DTYPES if name in part})
    write_json(out / "config.json", config)


def _part(config: dict[str, Any], setting: str) -> tuple[dict[str, Any], str]:
    """The table in which a setting stands, and what it is called there."""
    *way, name = setting.split(".")
    for step in way:
        config = config[step]
    return config, name


def write_others(out: Path, first: Aligned, owner: Owner, template: str | None, others: Sequence[Path]) -> str:
    """The tokenizer and what else lies beside the weights, with all models' licences; gives the tokenizer's digest."""
    copy_side_files(first.model.directory, out)
    licences = [path for place in others for pattern in _LICENCES for path in taken_files(place) if path.match(pattern)]
    for number, path in enumerate(licences, 2):
        known = [there for pattern in _LICENCES for there in out.glob(pattern)]
        if all(there.read_bytes() != path.read_bytes() for there in known):
            name = path.name if not (out / path.name).exists() else f"{path.stem}-{number}{path.suffix}"
            shutil.copyfile(path, out / name)
    foreign = first.model.directory not in (owner.model.directory, owner.grown_from)
    owner.model.tokenizer.write(out, code=not foreign)
    if template is not None:
        write_text(out / "chat_template.jinja", template)
    choose_class(owner.model.tokenizer, first.model.directory, foreign=foreign).write(out)
    if foreign:
        fit_body(out, out, owner.model.tokenizer.tokenizer)
    return TokenizerFiles.open(out).digest()


def fill_rows(raw: Path, out: Path, parts: Sequence[Part]) -> None:
    """Copy the tensors that mergekit wrote, with chosen rows in those that have one row per token.

    Args:
        raw: Where mergekit wrote; configuration and tensors.
        out: Output directory, on the same file system.
        parts: For the embedding, and for the LM head with its bias.
    """
    files = Checkpoint.open(raw)
    layout = find_vocabulary_tensors(raw, files.tensors)
    files.write(out, chosen_rows(files.read, layout, parts), frozenset(layout.stale))


def chosen_rows(
    read: Callable[[str], torch.Tensor], layout: VocabularyTensors, parts: Sequence[Part]
) -> dict[str, torch.Tensor]:
    """The tensors with one row per token, with chosen rows in place of the method's.

    Args:
        read: Gives what mergekit made, by name.
        layout: Which tensors these are.
        parts: As for `fill_rows`.
    """
    replaced = {}
    for name, (models, choice, given) in _by_name(layout, parts):
        tensors = [_counterpart(name, layout, aligned.model) for aligned in models]
        replaced[name] = filled(read(name), tensors, choice)
        for ids, rows in _given(name, layout, given):
            replaced[name][ids] = rows.to(replaced[name].dtype)
    return replaced


def _by_name(layout: VocabularyTensors, parts: Sequence[Part]) -> Iterator[tuple[str, Part]]:
    yield layout.embedding, parts[0]
    for name in (layout.head, layout.bias):
        if name is not None:
            yield name, parts[1]


def _counterpart(name: str, layout: VocabularyTensors, model: Model) -> torch.Tensor:
    """A model's own tensor for the output's embedding, head or bias."""
    theirs = model.layout
    known = {layout.embedding: theirs.embedding, layout.head: theirs.head, layout.bias: theirs.bias}
    return model.checkpoint.read(known[name] or theirs.embedding)


def _given(
    name: str, layout: VocabularyTensors, given: Mapping[int, RowSource]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids of the output, and the rows that the recipe names for them, model by model."""
    for model in dict.fromkeys(source.model for source in given.values()):
        ids = [token_id for token_id, source in given.items() if source.model is model]
        if model is None:
            yield torch.tensor(ids), torch.zeros(())
        else:
            yield torch.tensor(ids), _counterpart(name, layout, model)[torch.tensor([given[i].token_id for i in ids])]


def manifest_of(choice: RowChoice, content: dict[str, Any]) -> Manifest:
    """Provenance of every row: known to a model, trained, made, or silent; as source the model that it is from."""
    provenance = np.array([_PROVENANCE[kind] for kind in Kind], dtype=np.int8)[choice.kinds]
    return Manifest(content, RowPlan(provenance, np.maximum(choice.taken, -1)))


def verify_merge(
    out: Path, first: Aligned, owner: Owner, parts: Sequence[Part], manifest: Manifest, unrun: str | None, whole: bool
) -> list[Check]:
    """Check what was written.

    Args:
        out: The merged model.
        first: The model that its tensors must be named as.
        owner: Whose tokenizer it must have.
        parts: As for `fill_rows`.
        manifest: Its manifest.
        unrun: Why it is not to be run; None runs it.
        whole: Whether it has the first model's layers; otherwise it has others of the same shapes.
    """
    checks = list(_tensors(out, first, parts, whole)) + list(tokenizer_checks(out, owner.model.directory, manifest))
    if all(check.ok for check in checks):
        checks += list(forward_checks(out, manifest) if unrun is None else tokenizer_alone(out, unrun))
    return checks


def _tensors(out: Path, first: Aligned, parts: Sequence[Part], whole: bool) -> Iterator[Check]:
    files = Checkpoint.open(out)
    layout = find_vocabulary_tensors(out, files.tensors)
    yield Check("tied as before", layout.tied == first.model.layout.tied, "tied" if layout.tied else "two matrices")
    own = {layout.embedding, layout.head, layout.bias}
    body = {name: info.shape for name, info in files.tensors.items() if name not in own and not is_buffer(name)}
    if whole:
        theirs = first.model.body
        wrong = sorted(name for name in body.keys() | theirs.keys() if body.get(name) != theirs.get(name))
        yield Check("body", not wrong, f"{wrong[:3]} differ" if wrong else f"{len(body)} tensors like the models'")
    broken = [name for name in body if not _finite(files.read(name))]
    yield Check("body finite", not broken, f"{broken[:3]} are not" if broken else f"{len(body)} tensors")
    for name, (models, choice, given) in _by_name(layout, parts):
        whole_tensor = files.read(name)
        tensor = whole_tensor.reshape(len(whole_tensor), -1)
        bad = damaged_rows(tensor)
        yield Check(f"{name} finite", not len(bad), f"row {int(bad[0])} is not" if len(bad) else f"{len(tensor)} rows")
        wrong_rows = 0
        for number, aligned in enumerate(models):
            ids = np.flatnonzero(choice.taken == number)
            wrong_rows += len(
                differing(tensor, _counterpart(name, layout, aligned.model).reshape(tensor.shape), ids, ids)
            )
        taken = int((choice.taken >= 0).sum())
        yield Check(
            f"{name} chosen rows",
            not wrong_rows,
            f"{wrong_rows} differ" if wrong_rows else f"{taken} bit-identical to the model's that they are from",
        )
        if given:
            same = all(
                torch.equal(whole_tensor[ids], rows.to(tensor.dtype).expand_as(whole_tensor[ids]))
                for ids, rows in _given(name, layout, given)
            )
            yield Check(f"{name} named rows", same, f"{len(given)} of them" if same else "others came out")


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())

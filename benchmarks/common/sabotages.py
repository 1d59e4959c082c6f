"""Ways to change a written model behind its author's back: each breaks one thing, or adds one, in a directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.common.sabotages_of_files import PLANTED, SETTINGS
from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest

__all__ = ["Sabotage", "change_json", "change_tensor", "sabotages"]

Edit = Callable[[torch.Tensor, RowPlan], torch.Tensor | None]
NEW, DEAD = (Provenance.RECONSTRUCTED,), (Provenance.UNREACHABLE, Provenance.PADDING)


class Sabotage(NamedTuple):
    """One change.

    Attributes:
        group: Of what.
        name: In words.
        apply: Makes it in a directory; False where there is nothing of the kind to change.
    """

    group: str
    name: str
    apply: Callable[[Path], bool]


def sabotages() -> Iterator[Sabotage]:
    """All of them."""
    for matrix in ("embedding", "head", "bias"):
        for name, edit in _ROWS.items():
            yield Sabotage(f"rows of the {matrix}", name, partial(_change_rows, matrix=matrix, edit=edit))
    for name, change in _BODY.items():
        yield Sabotage("body", name, change)
    for file, name, edit in SETTINGS:
        yield Sabotage(file, name, partial(change_json, file=file, edit=edit))
    for file, content in PLANTED.items():
        yield Sabotage("planted", file, partial(_plant, file=file, content=content))
    for name, change in _MANIFEST.items():
        yield Sabotage("manifest", name, change)


def change_tensor(out: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> bool:
    """Change one tensor of a checkpoint; ``edit`` gets a copy and gives another, or None to take it away."""
    info = Checkpoint.open(out).tensors[name]
    tensors = load_file(info.file)
    made = edit(tensors.pop(name).clone())
    if made is not None:
        tensors[name] = made.contiguous()
    info.file.unlink()  # it may be linked
    save_file(tensors, info.file, metadata={"format": "pt"})
    return True


def change_json(out: Path, file: str, edit: Callable[[dict[str, Any]], Any]) -> bool:
    """Change a JSON file in place; False where it is not there, or stays as it is."""
    path = out / file
    if not path.is_file():
        return False
    content = json.loads(path.read_text("utf-8"))
    before = json.dumps(content)
    edit(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return json.dumps(content) != before


def _plant(out: Path, file: str, content: bytes) -> bool:
    path = out / file
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True


def _plan(out: Path) -> RowPlan:
    manifest = Manifest.read(out)
    assert manifest is not None
    return manifest.plan


def _change_rows(out: Path, matrix: str, edit: Edit) -> bool:
    layout = find_vocabulary_tensors(out, Checkpoint.open(out).tensors)
    name = {"embedding": layout.embedding, "head": layout.head, "bias": layout.bias}[matrix]
    if name is None:
        return False
    plan, changed = _plan(out), False

    def apply(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal changed
        rows = tensor.reshape(len(tensor), -1)
        made = edit(rows.clone(), plan)
        if made is None or (made.shape == rows.shape and made.dtype == rows.dtype and torch.equal(made, rows)):
            return tensor
        changed = True
        return made.reshape(len(made), *tensor.shape[1:])

    change_tensor(out, name, apply)
    return changed


Change = Callable[[torch.Tensor], torch.Tensor]


def _some(provenances: tuple[Provenance, ...], change: Change, first: int | None) -> Edit:
    """Change rows of some provenance: the first few, or all. Of dead rows those that hold none of the base's."""

    def edit(rows: torch.Tensor, plan: RowPlan) -> torch.Tensor | None:
        ids = plan.ids(*provenances)
        ids = np.intersect1d(ids, plan.silenced) if provenances == DEAD else ids
        if len(ids) < 2:
            return None
        ids = ids[:first]
        rows[ids] = change(rows[ids])
        return rows

    return edit


def _copied(change: Change, first: int) -> Edit:
    def edit(rows: torch.Tensor, plan: RowPlan) -> torch.Tensor | None:
        ids = plan.anchors[-first:]
        rows[ids] = change(rows[ids])
        return rows

    return edit


def _like_a_copied_one(provenances: tuple[Provenance, ...]) -> Edit:
    def edit(rows: torch.Tensor, plan: RowPlan) -> torch.Tensor | None:
        ids = plan.ids(*provenances)
        ids = np.intersect1d(ids, plan.silenced) if provenances == DEAD else ids
        if not len(ids):
            return None
        rows[ids[0]] = rows[plan.anchors[5]]
        return rows

    return edit


def _noise(rows: torch.Tensor) -> torch.Tensor:
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    return (drawn * rows.float().std().clamp(min=0.1)).to(rows.dtype)


def _one_number(rows: torch.Tensor) -> torch.Tensor:
    rows[0, rows.shape[1] // 2] += 1
    return rows


def _one_bit(rows: torch.Tensor) -> torch.Tensor:
    rows.view(torch.uint8)[0, 0] ^= 1
    return rows


_ROWS: dict[str, Edit] = {
    "a new row zeroed": _some(NEW, torch.zeros_like, 1),
    "all new rows zeroed": _some(NEW, torch.zeros_like, None),
    "two new rows swapped": _some(NEW, lambda rows: rows.flip(0), 2),
    "all new rows in another order": _some(NEW, lambda rows: rows.roll(1, 0), None),
    "a new row times 1000": _some(NEW, lambda rows: rows * 1000, 1),
    "all new rows times 1000": _some(NEW, lambda rows: rows * 1000, None),
    "all new rows times 1.2": _some(NEW, lambda rows: rows * 1.2, None),
    "all new rows drawn at random": _some(NEW, _noise, None),
    "one number of a new row": _some(NEW, _one_number, 1),
    "a bit of a new row": _some(NEW, _one_bit, 1),
    "a new row is a copied one": _like_a_copied_one(NEW),
    "a new row is NaN": _some(NEW, lambda rows: rows * float("nan"), 1),
    "a bit of a copied row": _copied(_one_bit, 1),
    "two copied rows swapped": _copied(lambda rows: rows.flip(0), 2),
    "copied rows zeroed": _copied(torch.zeros_like, 20),
    "a silent row is a copied one": _like_a_copied_one(DEAD),
    "a bit of a silent row": _some(DEAD, _one_bit, 1),
    "all silent rows drawn at random": _some(DEAD, _noise, None),
    "all silent rows turned round": _some(DEAD, lambda rows: -rows, None),
    "rows cut off": lambda rows, _: rows[:-3],
    "rows added": lambda rows, _: torch.cat([rows, rows[:3]]),
    "another dtype": lambda rows, _: rows.to(torch.float16 if rows.dtype != torch.float16 else torch.bfloat16),
}


def _body_names(out: Path) -> list[str]:
    files = Checkpoint.open(out)
    layout = find_vocabulary_tensors(out, files.tensors)
    return [n for n in files.tensors if n not in (layout.embedding, layout.head, layout.bias)]


def _on_body(which: int, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], bool]:
    return lambda out: change_tensor(out, sorted(_body_names(out))[which], edit)


def _swap_tensors(out: Path) -> bool:
    names = [n for n in sorted(_body_names(out)) if ".0." in n and n.replace(".0.", ".1.") in _body_names(out)]
    files = Checkpoint.open(out)
    name = next(n for n in names if files.tensors[n].shape[0] > 1 and len(files.tensors[n].shape) == 2)
    other = name.replace(".0.", ".1.")
    one, two = files.read(name), files.read(other)
    return change_tensor(out, name, lambda _: two) and change_tensor(out, other, lambda _: one)


def _add_tensor(out: Path, name: str) -> bool:
    files = Checkpoint.open(out)
    layout = find_vocabulary_tensors(out, files.tensors)
    path = files.tensors[layout.embedding].file
    tensors = load_file(path)
    if name == "lm_head.weight" and layout.head is not None:
        return False
    path.unlink()
    save_file(tensors | {name: tensors[layout.embedding].clone()}, path, metadata={"format": "pt"})
    index = out / "model.safetensors.index.json"
    if index.is_file():
        change_json(out, index.name, lambda content: content["weight_map"].update({name: path.name}))
    return True


_BODY: dict[str, Callable[[Path], bool]] = {
    "a bit of the first tensor": _on_body(0, lambda t: _one_bit(t.reshape(1, -1)).reshape(t.shape)),
    "a bit of the last tensor": _on_body(-1, lambda t: _one_bit(t.reshape(1, -1)).reshape(t.shape)),
    "a tensor zeroed": _on_body(3, torch.zeros_like),
    "a tensor times 1.01": _on_body(3, lambda t: t * 1.01),
    "a tensor missing": _on_body(-1, lambda _: None),
    "another dtype": _on_body(-1, lambda t: t.to(torch.float16)),
    "another shape": _on_body(-1, lambda t: t.reshape(1, -1)),
    "two layers' tensors swapped": _swap_tensors,
    "a tensor added": partial(_add_tensor, name="model.extra.weight"),
    "a head added": partial(_add_tensor, name="lm_head.weight"),
}


def _rewrite(out: Path, change: Callable[[dict[str, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], Any]) -> bool:
    """Change the manifest's content or plan; False where there is nothing to change."""
    manifest = Manifest.read(out)
    assert manifest is not None
    provenance, source = manifest.plan.provenance.copy(), manifest.plan.source.copy()
    if change(manifest.content, provenance, source) is False:
        return False
    Manifest(manifest.content, RowPlan(provenance, source)).write(out)
    return True


def _reconstructed(_content: dict[str, Any], provenance: Any, source: Any) -> Any:
    ids = np.flatnonzero(source >= 0)[-5:]
    provenance[ids], source[ids] = Provenance.RECONSTRUCTED, -1


def _swapped(_content: dict[str, Any], _provenance: Any, source: Any) -> Any:
    a, b = np.flatnonzero(source >= 0)[-2:]
    source[a], source[b] = source[b], source[a]


def _all_new(_content: dict[str, Any], provenance: Any, source: Any) -> Any:
    provenance[:], source[:] = Provenance.RECONSTRUCTED, -1


def _pretend_copied(_content: dict[str, Any], provenance: Any, source: Any) -> Any:
    ids = np.flatnonzero(provenance == Provenance.RECONSTRUCTED)
    if not len(ids):
        return False
    provenance[ids[0]], source[ids[0]] = Provenance.COPIED, 7


def _pretend_dead(_content: dict[str, Any], provenance: Any, source: Any) -> Any:
    ids = np.flatnonzero(source >= 0)[-1:]
    provenance[ids], source[ids] = Provenance.PADDING, -1


def _healed(out: Path, names: Callable[[str], bool], rows: bool, lora: int | None) -> bool:
    """Zero what a made-up run is said to have trained."""
    manifest = Manifest.read(out)
    assert manifest is not None
    if "healed" in manifest.content:
        return False
    chosen = [name for name in _body_names(out) if names(name)]
    for name in chosen:
        change_tensor(out, name, lambda t: t * 0.5 if t.ndim == 1 else torch.randn(t.shape).to(t.dtype))
    ids = manifest.plan.anchors.tolist() if rows else []
    if rows:
        layout = find_vocabulary_tensors(out, Checkpoint.open(out).tensors)
        change_tensor(out, layout.embedding, lambda t: t.index_fill(0, torch.tensor(ids), 0.01))
    run = {"rows": "new", "lora": lora, "steps": 1}
    manifest.content["healed"] = {"runs": [run], "rows": ids, "tensors": chosen}
    manifest.write(out)
    return True


def _set(*path: str, value: Any) -> Callable[[Path], bool]:
    def change(content: dict[str, Any], _provenance: Any, _source: Any) -> Any:
        place = content
        for name in path[:-1]:
            if not isinstance(place.get(name), dict):
                return False
            place = place[name]
        if place.get(path[-1]) == value or path[-1] not in place:
            return False
        place[path[-1]] = value
        return None

    return lambda out: _rewrite(out, change)


_MANIFEST: dict[str, Callable[[Path], bool]] = {
    "copied rows said to be new": lambda out: _rewrite(out, _reconstructed),
    "two sources swapped": lambda out: _rewrite(out, _swapped),
    "all rows said to be new": lambda out: _rewrite(out, _all_new),
    "a new row said to be copied": lambda out: _rewrite(out, _pretend_copied),
    "a copied row said to be padding": lambda out: _rewrite(out, _pretend_dead),
    "healed lists the whole body": lambda out: _healed(out, lambda _: True, rows=False, lora=4),
    "healed lists all linear layers": lambda out: _healed(out, lambda n: "proj" in n or "fc" in n, rows=False, lora=4),
    "healed lists the norms": lambda out: _healed(out, lambda n: "norm" in n, rows=False, lora=None),
    "healed lists copied rows": lambda out: _healed(out, lambda _: False, rows=True, lora=None),
    "the base's embedding digest": lambda out: _rewrite(
        out, lambda c, *_: c["base"]["sha256"].update({n: "0" * 64 for n in c["base"]["sha256"] if "embed" in n})
    ),
    "the base's config digest": _set("base", "sha256", "config.json", value="0" * 64),
    "the donor's tokenizer digest": _set("donor", "sha256", "tokenizer", value="0" * 64),
    "the donor's number of rows": _set("donor", "rows", value=300),
    "the tokenizer's digest": _set("tokenizer_sha256", value="0" * 64),
    "another dtype": _set("options", "dtype", value="float16"),
    "untied": _set("options", "untie", value=True),
    "an override": _set("options", "map", value={"a": "b"}),
    "another method": _set("method", "name", value="zero"),
    "another k": _set("method", "k", value=3),
    "said to be trimmed": _set("method", "name", value="trim"),
    "said to be reverted": _set("method", "name", value="revert"),
    "no numbers cut apart": _set("numbers", "changed", value=True),
    "texts begin otherwise": _set("beginning", value=5),
    "another mean": _set("blends", value={"3": [[1, 2], [1, 2], []]}),
}  # fmt: skip

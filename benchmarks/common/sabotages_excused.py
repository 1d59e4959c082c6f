"""Ways to change a written model together with the entry of its manifest that is to excuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.sabotages import Sabotage, change_json, change_tensor
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.layout import linear_weights
from tokensurgeon.checkpoint.manifest import MANIFEST, Manifest

__all__ = ["excused"]

GROUP = "with its excuse"


def excused() -> Iterator[Sabotage]:
    """All of them."""
    for name, change in _CHANGES.items():
        yield Sabotage(GROUP, name, change)


def _say(out: Path, **entries: Any) -> bool:
    return change_json(out, MANIFEST, lambda content: content.update(entries))


def _rows(out: Path, which: Callable[[Manifest], Any], edit: Callable[[torch.Tensor], torch.Tensor]) -> list[int]:
    """Change rows of the head, or of the one matrix; gives their ids."""
    manifest = Manifest.read(out)
    assert manifest is not None
    ids: list[int] = which(manifest).tolist()
    layout = find_vocabulary_tensors(out, Checkpoint.open(out).tensors)
    if ids:
        some = torch.tensor(ids)
        change_tensor(out, layout.head or layout.embedding, lambda t: t.index_copy(0, some, edit(t[some]).to(t.dtype)))
    return ids


def _new(first: int | None, manifest: Manifest) -> Any:
    replaced = manifest.content.get("outliers", {}).get("ids", [])
    return np.setdiff1d(manifest.plan.ids(Provenance.RECONSTRUCTED), replaced)[:first]


def _along_one(out: Path, first: int | None, length: float) -> bool:
    direction = torch.randn(1 << 16, generator=torch.Generator().manual_seed(3)) * length
    moved = _rows(out, partial(_new, first), lambda rows: rows + direction[: rows.shape[1]])
    return bool(moved) and (_say(out, calibrated=True) or True)


def _body(out: Path, runs: list[dict[str, Any]], share: float) -> bool:
    files = Checkpoint.open(out)
    names = sorted(linear_weights(out, files.tensors))
    drawn = torch.Generator().manual_seed(1)
    for name in names:
        change_tensor(out, name, lambda t: (t + share * t.std() * torch.randn(t.shape, generator=drawn)).to(t.dtype))
    return _say(out, healed={"runs": runs, "rows": [], "tensors": names})


def _copied(out: Path) -> bool:
    ids = _rows(out, lambda manifest: manifest.plan.anchors[-3:], lambda rows: rows * 1000)
    return _say(out, healed={"runs": [{"rows": "all", "lora": None}], "rows": ids, "tensors": []})


def _trained(out: Path) -> bool:
    ids = _rows(out, partial(_new, 1), lambda rows: rows * 1000)
    return bool(ids) and _say(out, healed={"runs": [{"rows": "new", "lora": None}], "rows": ids, "tensors": []})


def _drawn(out: Path) -> bool:
    return bool(_rows(out, partial(_new, 1), lambda rows: rows * 1000)) and _say(out, method={"name": "normal"})


def _older(out: Path, **settings: Any) -> bool:
    changed = change_json(out, "tokenizer_config.json", lambda content: content.update(settings))
    return changed and change_json(out, MANIFEST, lambda content: content["versions"].update(transformers="4.0.0"))


def _linked(out: Path, name: str) -> bool:
    (out / name).symlink_to(out.parent)
    return True


_CHANGES: dict[str, Callable[[Path], bool]] = {
    "a new row along one direction, said to be calibrated": partial(_along_one, first=1, length=1000.0),
    "20 new rows along one direction, said to be calibrated": partial(_along_one, first=20, length=1000.0),
    "all new rows along one direction, said to be calibrated": partial(_along_one, first=None, length=1000.0),
    "the body by noise, said to be healed by rank 100,000": partial(_body, runs=[{"lora": 100_000}], share=0.3),
    "the body by noise, said to be healed by 100 ranks": partial(_body, runs=[{"lora": 1}] * 100, share=0.3),
    "the body by noise, said to be healed often": partial(_body, runs=[{"lora": 1}, *[{}] * 10_000], share=1e-3),
    "the body by noise, said to be healed by rank -1": partial(_body, runs=[{"lora": -1}], share=0.3),
    "copied rows times 1000, said to be healed": _copied,
    "a new row times 1000, said to be healed": _trained,
    "a new row times 1000, said to be drawn": _drawn,
    "auto_map, by another transformers": partial(_older, auto_map={"AutoTokenizer": [None, "x--y.T"]}),
    "a chat template, by another transformers": partial(_older, chat_template="{{ 'ignore all' }}"),
    "a length, by another transformers": partial(_older, model_max_length=9),
    "a link to a folder": partial(_linked, name="custom_generate"),
    "a link with a hidden name": partial(_linked, name=".hidden"),
}

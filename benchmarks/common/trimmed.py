"""A smaller donor: a BPE model's leading tokens and its single characters, so that a slow peer can be run too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tokensurgeon.checkpoint.cache import is_kept, kept

__all__ = ["trim"]


def trim(model: Path, out: Path, n_leading: int) -> Path:
    """Write ``model`` with the ids below ``n_leading``, single characters and added tokens of low id only.

    Tokens keep their order and get new ids without gaps; merges that need a dropped token go.
    """
    if not is_kept(out):
        with kept(out) as work:
            shutil.copytree(model, work, dirs_exist_ok=True)
            _trim(model, work, n_leading)
    return out


def _trim(model: Path, work: Path, n_leading: int) -> None:
    spec = json.loads((model / "tokenizer.json").read_text())
    vocab = spec["model"]["vocab"]
    old = sorted(i for piece, i in vocab.items() if i < n_leading or len(piece) == 1)
    new = {before: after for after, before in enumerate(old)}
    spec["model"]["vocab"] = {piece: new[i] for piece, i in vocab.items() if i in new}
    left = spec["model"]["vocab"]
    spec["model"]["merges"] = [
        pair for pair in spec["model"]["merges"] if all(part in left for part in (*pair, "".join(pair)))
    ]
    spec["added_tokens"] = [t | {"id": new[t["id"]]} for t in spec["added_tokens"] if t["id"] in new]
    (work / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False))
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensor[torch.tensor(old)].contiguous()
    save_file(tensors, work / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (work / "config.json").write_text(json.dumps(config | {"vocab_size": len(old)}, indent=1))

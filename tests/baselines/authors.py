"""The authors' own WECHSEL and FOCUS on given vectors. Runs where the packages wechsel and deepfocus are installed.

python authors.py PROBLEM.npz OUT.npz
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from deepfocus.focus import focus_additional_token_initialization
from wechsel import create_target_embeddings


@dataclass
class Tokenizer:
    """As much of a tokenizer as WECHSEL asks for: names to ids."""

    vocab: dict[str, int]
    special_tokens_map: dict[str, str] = field(default_factory=dict)

    def __len__(self):
        """Number of tokens."""
        return len(self.vocab)

    def convert_ids_to_tokens(self, ids):
        return [str(i) for i in ids] if hasattr(ids, "__len__") else str(ids)


def main(problem: str, out: str) -> None:
    """Rows for the targets by both methods."""
    data = np.load(problem)
    targets, sources, base = data["targets"], data["sources"], data["base"]
    names = {str(i): i for i in range(len(sources))}, {str(i): i for i in range(len(targets))}
    wechsel, _, _ = create_target_embeddings(sources, targets, *map(Tokenizer, names), base, verbose=False)
    known = {
        str(i): SimpleNamespace(auxiliary_embedding=torch.from_numpy(v), source_embedding=torch.from_numpy(row))
        for i, (v, row) in enumerate(zip(sources, base, strict=True))
    }
    new = {
        str(i): SimpleNamespace(auxiliary_embedding=torch.from_numpy(v), target=SimpleNamespace(id=i))
        for i, v in enumerate(targets)
    }
    made = focus_additional_token_initialization(known, new, torch.zeros(len(targets), base.shape[1]))
    np.savez(out, wechsel=wechsel, focus=made.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Merge in memory and score the merge, without writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint import VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.header import DTYPES, TensorInfo
from tokensurgeon.evaluation.loading import LoadedModel, in_fast_numbers, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.start import prefix_of
from tokensurgeon.merging.mergekit import merged_tensors
from tokensurgeon.merging.prepare import Prepared
from tokensurgeon.merging.recipe import Recipe
from tokensurgeon.merging.search.items import Item, score_item
from tokensurgeon.merging.search.objective import Pieces
from tokensurgeon.merging.write import chosen_rows, start_of, write_config, write_others

__all__ = ["Trials", "score_model", "score_pieces"]


class Trials:
    """Merges of the same models by recipes that differ in numbers only."""

    def __init__(self, ready: Prepared, place: Path, seed: int) -> None:
        """Write what all have in common.

        Args:
            ready: The merge by any of the recipes.
            place: An empty directory, for configuration and tokenizer.
            seed: For methods that draw; every merge draws the same.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        self.ready, self.place, self.seed = ready, place, seed
        write_config(place, ready.first, ready.owner, ready.layers)
        write_others(place, ready.first, ready.owner, ready.template, [])
        self.tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        said = start_of(ready.first, ready.owner).get("starts_with")
        self._start = prefix_of(place, self.tokenizer) if said is None else said
        self._config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        with torch.device("meta"):
            self._class: Any = type(AutoModelForCausalLM.from_config(self._config, trust_remote_code=False))
        self._layout: VocabularyTensors | None = None

    def tensors(self, read: Recipe) -> dict[str, torch.Tensor]:
        """The merge by a recipe, with the rows that it would be written with."""
        ready = self.ready
        found = merged_tensors(read.merge, ready.places, self.place, seed=self.seed, device=ready.device)
        if self._layout is None:
            stored = {dtype: name for name, dtype in DTYPES.items()}
            infos = {n: TensorInfo(self.place, stored[t.dtype], (*t.shape,), 0, t.nbytes) for n, t in found.items()}
            self._layout = find_vocabulary_tensors(self.place, infos)
        found |= chosen_rows(found.__getitem__, self._layout, ready.parts)
        return {name: tensor for name, tensor in found.items() if name not in self._layout.stale}

    def model(self, read: Recipe) -> LoadedModel:
        """The same, ready to score text."""
        tensors = self.tensors(read)
        dtype = next(iter(tensors.values())).dtype
        model = self._class.from_pretrained(None, config=deepcopy(self._config), state_dict=tensors, dtype=dtype)
        model = in_fast_numbers(model, torch.device(self.ready.device)).to(self.ready.device).eval()
        return LoadedModel(model, self.tokenizer, self._start)


def score_pieces(loaded: LoadedModel, texts: Mapping[str, Sequence[str | Item]]) -> dict[str, list[list[float]]]:
    """Nats and bytes of every piece, by text; nats and one for every item.

    Args:
        loaded: The model.
        texts: Pieces, or items, by text.
    """
    found: dict[str, list[list[float]]] = {}
    for name, pieces in texts.items():
        found[name] = []
        for piece in pieces:
            if isinstance(piece, Item):
                found[name].append([score_item(loaded, piece), 1])
                continue
            scored = score_text(loaded.model, loaded.encode, loaded.prefix, [piece])
            found[name].append([scored.nats, scored.n_bytes])
    return found


def score_model(directory: Path, device: str, *texts: Mapping[str, Sequence[str | Item]]) -> list[Pieces]:
    """The same of a model on disk, for several sets of texts."""
    loaded = load_model(directory, device)
    return [score_pieces(loaded, some) for some in texts]

"""Load models whose gradients are needed, and find what their checkpoints call the parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, find_vocabulary_tensors, resolve
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.layout import read_config, stored_name
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import inputs_of
from tokensurgeon.evaluation.loading import LoadedModel, load_model, pick_device
from tokensurgeon.progress import Progress, Stage

__all__ = ["TokenRows", "ids_digest", "ids_of", "load_trainable", "stored_names", "token_rows", "weights_digest"]


def load_trainable(reference: str, device: str) -> tuple[Path, LoadedModel]:
    """A model and where it lies. float16 becomes float32: gradients are too small for it.

    Raises:
        InputError: If there is no such model, or it is quantised.
    """
    directory = resolve(reference)
    if read_config(directory).get("quantization_config"):
        raise InputError(f"{reference} is quantised, and has no gradients; give the model that it was made from")
    loaded = load_model(directory, pick_device(device))
    if next(loaded.model.parameters()).dtype == torch.float16:
        loaded.model.float()
    return directory, loaded


def stored_names(tensors: Mapping[str, torch.Tensor], directory: Path, loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """The same tensors under the names that the checkpoint has for those parameters."""
    stored = Checkpoint.open(directory).tensors
    prefix = loaded.model.base_model_prefix
    return {stored_name(name, prefix, stored) or name: tensor for name, tensor in tensors.items()}


def token_rows(loaded: LoadedModel, pieces: list[str]) -> list[torch.Tensor]:
    """(1, length) int64 ids of each piece of text, behind what every text starts with; cut to the context."""
    context = loaded.context
    read = [ids for piece in pieces for _, ids in inputs_of(loaded.encode, loaded.prefix, piece, context)]
    return [torch.tensor([ids], device=loaded.model.device) for ids in read]


class TokenRows(Sequence[torch.Tensor]):
    """`token_rows` of many pieces, each made when it is asked for."""

    def __init__(self, loaded: LoadedModel, pieces: Sequence[str], progress: Progress | None = None) -> None:
        """Count the rows: a piece that exceeds the model's context has several.

        Args:
            loaded: The model.
            pieces: Of text.
            progress: Called with (stage, pieces read, pieces in all).
        """
        self.loaded, self.pieces = loaded, pieces
        counts = []
        for done, piece in enumerate(pieces, 1):
            counts.append(sum(1 for _ in inputs_of(loaded.encode, loaded.prefix, piece, loaded.context)))
            if progress is not None:
                progress(Stage.READ, done, len(pieces))
        self.ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        """How many."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        """One row, or some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        piece = int(np.searchsorted(self.ends, index, side="right"))
        first = int(self.ends[piece - 1]) if piece else 0
        return token_rows(self.loaded, [self.pieces[piece]])[index - first]


def ids_digest(tokenizer: TokenizerFiles, rows: int) -> str:
    """SHA-256 of what the rows of a model stand for: its tokens' ids, and how many rows there are."""
    ids = sorted(tokenizer.tokenizer.get_vocab(with_added_tokens=True).items())
    return hashlib.sha256(json.dumps([rows, ids]).encode()).hexdigest()


def ids_of(directory: Path) -> str:
    """`ids_digest` of a model on disk."""
    layout = find_vocabulary_tensors(directory, Checkpoint.open(directory).tensors)
    return ids_digest(TokenizerFiles.open(directory), layout.rows)


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model's weights, whatever else lies beside them."""
    sha = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        sha.update(bytes.fromhex(file_digest(path)))
    return sha.hexdigest()

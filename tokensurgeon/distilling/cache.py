"""Keep on disk what a teacher says of text, so that it reads each text once, whoever learns from it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tokensurgeon.checkpoint.durable import put_in_place
from tokensurgeon.distilling.top import Top

__all__ = ["TopCache"]


class TopCache:
    """One file for each piece, named by the teacher and the teacher's ids: texts may share pieces."""

    def __init__(self, directory: Path, teacher: str) -> None:
        """Use a directory.

        Args:
            directory: Is made when it is needed.
            teacher: A key that another teacher, or another number of tokens kept, does not have.
        """
        self.directory = directory / teacher

    def path(self, ids: Sequence[int]) -> Path:
        """Where a piece lies."""
        name = hashlib.sha256(np.array(ids, dtype="<i8").tobytes()).hexdigest()[:32]
        return self.directory / name[:2] / f"{name}.safetensors"

    def load(self, ids: Sequence[int]) -> Top | None:
        """What was kept of a piece, if it was, whole."""
        try:
            found = load(self.path(ids).read_bytes())
            top = Top(found["token"], found["log"])
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        fits = top.token.shape == top.log.shape and top.token.ndim == 2 and len(top.token) == len(ids)
        return top if fits and bool((top.token[:-1] == torch.tensor(ids[1:])[:, None]).any(dim=-1).all()) else None

    def save(self, ids: Sequence[int], top: Top) -> None:
        """Keep it, in one step."""
        path = self.path(ids)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(".new")
        work.write_bytes(save({"token": top.token.contiguous(), "log": top.log.contiguous()}))
        put_in_place(work, path)

    def remove(self) -> None:
        """It is no longer needed."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.parent.is_dir() and not any(self.directory.parent.iterdir()):
            self.directory.parent.rmdir()

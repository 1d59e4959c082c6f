"""Read and write ``tokensurgeon.json``: what was done, so that it can be repeated, audited or reversed."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.checkpoint.inherited import nature
from tokensurgeon.checkpoint.layout import VocabularyTensors
from tokensurgeon.checkpoint.manifest_kinds import wrongs
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.checkpoint.text import read_json, write_json
from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.token import MOST_IDS

__all__ = ["Manifest", "refuse_strangers"]

_FORMAT = 1
_NEEDED = ("base", "donor", "method", "options", "tokenizer_sha256")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parsed file.

    Attributes:
        content: Everything but the per-row arrays, as plain data.
        plan: Where every row comes from.
    """

    content: dict[str, Any]
    plan: RowPlan

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """The manifest of a model directory, or None where there is none.

        Raises:
            InputError: If the file is damaged or of a format that this version does not know.
        """
        path = directory / MANIFEST
        if not path.is_file():
            return None
        try:
            content = read_json(path, "Run the transplant again")
            if content["format"] != _FORMAT:
                raise InputError(f"{path} has format {content['format']}; this version reads {_FORMAT}")
            rows = content.pop("rows")
            source = _unpack(rows["source"], np.int32).astype(np.int64)
            plan = RowPlan(_unpack(rows["provenance"], np.int8), source)
            if wrong := next(wrongs(content, plan), None):
                raise ValueError(wrong)
            healed = content.get("healed") or {"rows": []}  # in older files these rows are what they were before
            return cls(content, plan if "merge" in content else plan.trained(healed["rows"]))
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged ({error}). Run the transplant again") from error

    @classmethod
    def of_transplant(cls, directory: Path) -> Manifest | None:
        """As `read`, for what needs the one base that a model was made from.

        Raises:
            InputError: If the model is a merge of several.
        """
        manifest = cls.read(directory)
        if manifest is not None and "merge" in manifest.content:
            raise InputError(
                f"{directory} was written by tokensurgeon merge, and has no single base. Give a transplanted model; "
                "verify checks a merge without --base"
            )
        if manifest is not None and (missing := [name for name in _NEEDED if name not in manifest.content]):
            raise InputError(f"{directory / MANIFEST} is damaged (it lacks {missing[0]}). Run the transplant again")
        return manifest

    @classmethod
    def of_output(cls, directory: Path) -> Manifest:
        """As `of_transplant`, of what must be an output of ours.

        Raises:
            InputError: If there is none, too.
        """
        manifest = cls.of_transplant(directory)
        if manifest is None:
            raise InputError(f"{directory} has no {MANIFEST}, so it was not written by tokensurgeon")
        return manifest

    @property
    def nature(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        """(n_rows,) what every row is, whatever models it was copied through; see `checkpoint.inherited.nature`."""
        return nature(self.content, self.plan)

    def write(self, directory: Path) -> None:
        """Write the file."""
        rows = {
            "encoding": "base64 of zlib of little-endian values, one per row: provenance int8, source int32",
            "meaning": {str(int(p)): p.label for p in Provenance},
            "provenance": _pack(self.plan.provenance.astype("<i1")),
            "source": _pack(self.plan.source.astype("<i4")),
        }
        content = {"format": _FORMAT, **self.content, "rows": rows}
        write_json(directory / MANIFEST, content)


def _pack(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _unpack(text: str, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    unpacked = zlib.decompressobj()
    found = unpacked.decompress(base64.b64decode(text), MOST_IDS * np.dtype(dtype).itemsize)
    if not unpacked.eof:
        raise ValueError(f"its rows are cut short, or more than {MOST_IDS:,}")
    return np.frombuffer(found, dtype=np.dtype(dtype).newbyteorder("<"))


def refuse_strangers(
    model: str,
    layout: VocabularyTensors,
    manifest: Manifest,
    base: str,
    sha256: dict[str, str],
    base_layout: VocabularyTensors,
) -> None:
    """Refuse a base that is not the one of a model's manifest, and a model that has other rows than its manifest.

    Args:
        model: The model's name.
        layout: Its vocabulary-sized tensors.
        manifest: Its manifest.
        base: The base's name.
        sha256: Of the base, as `OpenModel.described` has it.
        base_layout: The base's vocabulary-sized tensors.
    """
    recorded = manifest.content["base"]
    for name in ("tokenizer", base_layout.embedding):
        if recorded["sha256"].get(name) != sha256[name]:
            raise InputError(
                f"{base} is not the base that the model was made from ({recorded['name']}): its {name} differs"
            )
    if layout.rows != manifest.plan.n_rows:
        raise InputError(
            f"{model} has {layout.rows} rows, its tokensurgeon.json tells of {manifest.plan.n_rows}. "
            "Its vocabulary was changed since; undo that first"
        )

"""Hold what a verification goes by: the output and its manifest, its base, and its donor if that is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from tokensurgeon.baselines import Method, make_method
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.transfer.rows import VocabularyMatrices

__all__ = ["Evidence", "Kind"]

Kind = Literal["transplant", "trim", "extend", "resize", "revert"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The models that a verification compares.

    Attributes:
        out: What is verified; nothing in it is believed because it says so.
        base: Whose body it has.
        donor: Whose tokenizer it has; None where that is not given.
        manifest: The output's.
    """

    out: OpenModel
    base: OpenModel
    donor: OpenModel | None
    manifest: Manifest

    @classmethod
    def open(cls, out: Path, base: Path, donor: Path | None) -> Self:
        """Read headers, tokenizers and manifest.

        Raises:
            InputError: If ``out`` has no manifest, or one of the directories is not a model.
        """
        manifest = Manifest.of_output(out)
        sides = [OpenModel(p.name, p, TokenizerFiles.open(p)) if p is not None else None for p in (out, base, donor)]
        assert sides[0] is not None and sides[1] is not None
        return cls(sides[0], sides[1], sides[2], manifest)

    @property
    def content(self) -> Mapping[str, Any]:
        """Of the manifest."""
        return self.manifest.content

    @property
    def kind(self) -> Kind:
        """Which command wrote it, as it says."""
        name = self.content["method"]["name"]
        if name in ("trim", "resize", "revert"):
            return name  # type: ignore[no-any-return]
        return "extend" if "extended" in self.content else "transplant"

    @property
    def method(self) -> Method:
        """What made the new rows, as it says.

        Raises:
            InputError: If there is no such method, or it does not take these options.
        """
        said = dict(self.content["method"])
        name = said.pop("name")
        before = {"ridge": {"pieces": "none"}, "omp": {"rest": "dropped"}}.get(name, {})  # before there was a choice
        return make_method(name, {**before, **said})

    @property
    def digitwise(self) -> bool:
        """Whether the donor's tokenizer was made to cut numbers digit by digit."""
        return bool(self.content.get("numbers", {}).get("changed"))

    @cached_property
    def tokenizer(self) -> TokenizerFiles | None:
        """The tokenizer that the output must have, if that is known without it."""
        if self.kind == "resize":
            return self.base.tokenizer
        if self.donor is None or self.kind in ("trim", "extend"):
            return None
        return self.donor.tokenizer.digit_by_digit() if self.digitwise else self.donor.tokenizer

    @property
    def compared(self) -> Path | None:
        """The donor's directory, where the output has its tokenizer as a whole."""
        return None if self.donor is None or self.kind in ("trim", "extend") else self.donor.directory

    @cached_property
    def donor_matrices(self) -> VocabularyMatrices | None:
        """The donor's vocabulary-sized tensors; None without a donor, or without its weights."""
        if self.donor is None or not any(self.donor.directory.glob("*.safetensors")):
            return None
        return self.donor.matrices()

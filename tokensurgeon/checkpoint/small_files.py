"""Write what lies beside an output's weights: the tokenizer, the settings, the base's other files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokensurgeon.alignment import Alignment, Provenance, RowPlan
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.settings import write_resized, write_settings
from tokensurgeon.checkpoint.side_files import copy_side_files, fit_body
from tokensurgeon.checkpoint.tokenizer import TokenizerFiles

__all__ = ["SmallFiles"]


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """What an output's small files are made from; `tokensurgeon.verification` makes them once more.

    Attributes:
        base: The base's directory.
        tokenizer: The output's tokenizer, as the donor's directory has it.
        stops: A directory whose settings name stop tokens by the output's ids; None where there is none.
        plan: Provenance of every row.
        alignment: Of both vocabularies, where the tokenizer is another body's; None otherwise.
        tied: Whether the output's head is its input embedding.
        dtype: New dtype, if it changes.
        resized: Rows before, and one more than the tokenizer's highest id, where the tokenizer is the base's own and
            only the number of rows changes; None otherwise.
    """

    base: Path
    tokenizer: TokenizerFiles
    stops: Path | None
    plan: RowPlan
    alignment: Alignment | None
    tied: bool
    dtype: str | None = None
    resized: tuple[int, int] | None = None

    def write_others(self, out: Path) -> None:
        """The base's files that are neither weights nor settings nor its tokenizer."""
        copy_side_files(self.base, out)

    def write_tokenizer(self, out: Path) -> None:
        """The tokenizer, with what makes AutoTokenizer load it, and the length that the body holds.

        Raises:
            InputError: If AutoTokenizer cannot be made to cut text as it does.
        """
        foreign = self.alignment is not None
        self.tokenizer.write(out, code=not foreign)
        choose_class(self.tokenizer, self.base, foreign=foreign).write(out)
        if foreign:
            fit_body(out, self.base, self.tokenizer.tokenizer)

    def write_settings(self, out: Path) -> list[str]:
        """``config.json`` and ``generation_config.json``; what named base tokens without a counterpart and is gone."""
        plan, alignment = self.plan, self.alignment
        if self.resized is not None:
            return write_resized(self.base, out, self.resized[0], plan.n_rows, self.resized[1])
        new_ids: dict[int, list[int]] = {}
        for token_id in plan.anchors.tolist():
            new_ids.setdefault(int(plan.source[token_id]), []).append(token_id)
        for token_id, blend in (alignment.roles if alignment else {}).items():
            new_ids.setdefault(blend.head[0], []).append(token_id)
        return write_settings(
            self.base,
            self.stops,
            out,
            self.tokenizer,
            new_ids,
            plan.n_rows,
            tied=self.tied,
            dtype=self.dtype,
            padding=plan.ids(Provenance.PADDING).tolist(),
            beginning=alignment.beginning if alignment else None,
        )

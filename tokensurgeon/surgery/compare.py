"""Compare donors for a base: which tokenizer costs it least, from tokenizers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.texts import Text, open_texts
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import align_sides
from tokensurgeon.surgery.prediction import predict

__all__ = ["compare"]


def compare(
    base: str, donors: Sequence[str], texts: Sequence[Path | str] = (), progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Say what each of several tokenizers would cost a base; no weights are read or fetched.

    Args:
        base: Model that keeps its body: directory, ``.gguf`` file, or hub id.
        donors: Models that could give the tokenizer.
        texts: UTF-8 files, whose beginnings are read; Python's own text where there are none.
        progress: Called with (stage, donors done, donors in all).

    Returns:
        For each donor its ``donor`` name, how many ``tokens_in_all`` it has, of which ``anchors`` are the base's, how
        the text is cut and the loss that is to be expected, see `tokensurgeon.surgery.prediction.predict`, and what
        else is ``cut_differently``. The least loss comes first.

    Raises:
        InputError: If a model cannot be read.

    Example:
        >>> import tokensurgeon
        >>> [found["donor"] for found in tokensurgeon.compare("base", ["donor", "base"])]
        ['base', 'donor']
    """
    opened = open_texts([Path(name) for name in texts])
    left = OpenModel.open(base, "none")
    found = []
    for donor in donors:
        found.append(_compared(left, donor, opened))
        if progress is not None:
            progress(Stage.ALIGN, len(found), len(donors))
    return sorted(found, key=lambda one: float(one["loss"]))


def _compared(left: OpenModel, donor: str, texts: Mapping[str, Text]) -> dict[str, Any]:
    right = OpenModel.open(donor, "none")
    aligned, schemes = align_sides(left, right, TransplantOptions(pad_to_multiple_of=1))  # its config may be too small
    return {
        "donor": donor,
        "tokens_in_all": aligned.plan.n_rows,
        "anchors": len(aligned.plan.anchors),
        **predict(left, right, aligned, texts),
        "cut_differently": [scheme.kind for scheme in schemes],
    }

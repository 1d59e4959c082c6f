"""Say what figures a pipeline must keep to, and stop where it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tokensurgeon.errors import InputError

__all__ = ["Gate", "gate_of"]

Kind = Literal["loses_at_most", "gains_at_least"]
_KINDS: tuple[Kind, ...] = ("loses_at_most", "gains_at_least")


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on how bits per byte differ from those of the model that is compared with.

    Attributes:
        kind: ``loses_at_most``, or ``gains_at_least``.
        bound: In bits per byte.
        text: The text's path, or its name, such as ``general.txt``; None for the mean of all.
    """

    kind: Kind
    bound: float
    text: str | None = None

    def among(self, texts: Sequence[Path]) -> Gate:
        """The same, with the path of one of the texts that a stage reads.

        Args:
            texts: Their paths.

        Raises:
            InputError: If the stage does not read the text, or the gate gives a name that several of its texts have.
        """
        if self.text is None:
            return self
        place = Path(self.text).expanduser().resolve()
        found = [text for text in texts if text.resolve() == place] or [t for t in texts if t.name == self.text]
        if not found:
            raise InputError(f"gate: the stage reads no text {self.text}; it reads {', '.join(map(str, texts))}")
        if len({text.resolve() for text in found}) > 1:
            raise InputError(f"gate: {self.text} is the name of {' and of '.join(map(str, found))}. Give the path")
        return replace(self, text=str(found[0]))

    def judged(self, scores: Mapping[str, Any], against: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether it is kept to, and how to say so.

        Args:
            scores: Of the model, as `tokensurgeon.evaluate` gives them.
            against: Of what it is compared with.

        Raises:
            InputError: If there is no such text.
        """
        lost = self._bits(scores) - self._bits(against)
        ok = lost <= self.bound if self.kind == "loses_at_most" else -lost >= self.bound
        change = f"{'loses' if lost > 0 else 'gains'} {abs(lost):.4f} bits per byte"
        wanted = f"{'may lose at most' if self.kind == 'loses_at_most' else 'must gain at least'} {self.bound:g}"
        return ok, f"{self._key(scores) or 'the mean of all text'} {change}; it {wanted}"

    def _bits(self, scores: Mapping[str, Any]) -> float:
        key = self._key(scores)
        return float(scores["mean_bits_per_byte"] if key is None else scores["texts"][key]["bits_per_byte"])

    def _key(self, scores: Mapping[str, Any]) -> str | None:
        """What the scores call the text: its path where another text before it has its name."""
        if self.text is None:
            return None
        path, texts = Path(self.text), scores["texts"]
        for key in (str(path), path.name):
            if key in texts:
                return key
        raise InputError(f"gate: no text is called {self.text}; there are {', '.join(texts)}")


def gate_of(entry: Any, where: str) -> Gate:
    """A gate as a file has it, such as ``{loses_at_most: 0.02, text: general.txt}``; the text may be a path.

    Raises:
        InputError: If it is none.
    """
    kinds = [kind for kind in _KINDS if isinstance(entry, dict) and kind in entry]
    if len(kinds) != 1 or set(entry) - {"text", *kinds}:
        raise InputError(f"{where}: a gate is {' or '.join(_KINDS)}, and perhaps a text; this is {entry!r}")
    bound, text = entry[kinds[0]], entry.get("text")
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise InputError(f"{where}: {kinds[0]}: {bound!r} must be a number of bits per byte")
    if not isinstance(text, str | None):
        raise InputError(f"{where}: gates: text: {text!r} must be the name of a text")
    return Gate(kinds[0], float(bound), text)

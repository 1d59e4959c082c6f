"""Change a model's own tokenizer: what trimming and extending share."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment.summary import CountedText
from tokensurgeon.checkpoint.foreign import copy_if_there
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.names import TEMPLATES
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.text import read_json, read_json_if_there, text_lines, write_json, write_text
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.report.markdown import short_card
from tokensurgeon.report.page import report_page
from tokensurgeon.vocabulary.token import literal_of
from tokensurgeon.vocabulary.visible import shown, visible

__all__ = ["MeasuredTexts", "changed_model", "measure_texts", "read_lines", "refuse_other_texts", "write_pages"]

_STRANGE = "naïve café — 日本語 🙂\x00\x7f\u200b \t\n\n  ﬀ Ω ж \ud7ff"
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
_CARRIED = ("special_tokens_map.json", "chat_template.jinja", "chat_template.json", TEMPLATES)


def read_lines(option: str, path: str | PathLike[str]) -> list[str]:
    """The lines of a file that an option names, without empty ones.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return [line for line in text_lines(Path(path)) if line]
    except (OSError, InputError) as error:
        raise InputError(f"{option} {path} cannot be read ({error})") from error


def changed_model(
    old: OpenModel,
    spec: Mapping[str, Any],
    new_ids: Mapping[int, int],
    place: Path,
    what: str,
    special: Collection[str] = (),
) -> OpenModel:
    """Write a model's tokenizer with other content, and open it.

    Args:
        old: The model.
        spec: Its changed ``tokenizer.json``.
        new_ids: Old ids to new ones; those that are gone are missing.
        place: An empty directory.
        what: What was done, for the name.
        special: Literals that are special now and were not.
    """
    write_text(place / "tokenizer.json", json.dumps(spec, ensure_ascii=False))
    path = old.directory / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else dict(old.tokenizer.declared)
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        known = {new_ids[int(i)]: token for i, token in decoder.items() if int(i) in new_ids}
        known |= {t["id"]: {n: t[n] for n in _FLAGS} for t in spec["added_tokens"] if t["content"] in special}
        settings["added_tokens_decoder"] = {str(i): token for i, token in sorted(known.items())}
    for name in _CARRIED:
        copy_if_there(old.directory / name, place / name)
    if special:
        _declare(settings, special)
        if "additional_special_tokens" in (others := read_json_if_there(place / "special_tokens_map.json")):
            _declare(others, special)
            write_json(place / "special_tokens_map.json", others)
    write_json(place / "tokenizer_config.json", settings)
    config = read_json(old.directory / "config.json")
    config.pop("eos_token_id", None)  # an old id, which may be another token's now
    write_json(place / "config.json", config)
    changed = replace(OpenModel.open(str(place), "none"), name=f"{old.name}, {what}")
    choose_class(changed.tokenizer, old.directory, foreign=False)  # raises what it has to say before rows are made
    return changed


def _declare(settings: dict[str, Any], special: Collection[str]) -> None:
    """Name special tokens under the key that is there, or that transformers writes."""
    old, new = "additional_special_tokens", "extra_special_tokens"
    named = settings.get(new)
    key = new if isinstance(named, list) or (not named and not settings.get(old)) else old
    listed = list(settings.get(key) or [])
    texts = {literal_of(token) for token in listed}
    settings[key] = listed + [literal for literal in special if literal not in texts]


@dataclass(frozen=True, slots=True)
class MeasuredTexts:
    """Some texts as a tokenizer cuts them before and after it was changed.

    Attributes:
        counted: Tokens of the old one, and how often each id of the new one occurs.
        n_bytes: UTF-8 bytes.
    """

    counted: CountedText
    n_bytes: int

    @property
    def tokens_per_byte(self) -> tuple[float, float]:
        """Before and after."""
        n_bytes = max(1, self.n_bytes)  # blank texts have no pieces
        return self.counted.base_tokens / n_bytes, int(self.counted.donor_counts.sum()) / n_bytes


def measure_texts(
    old: OpenModel, new: OpenModel, texts: Sequence[str], what: str, progress: Progress | None = None
) -> MeasuredTexts:
    """Encode texts, one by one, as before and now.

    Args:
        old: The model.
        new: With the changed tokenizer.
        texts: Not too long.
        what: What was done to it, for the message.
        progress: Called with (stage, texts encoded, in all).

    Raises:
        VerificationError: If some text does not come back from the new ids as it does from the old ones.
    """
    counts, before, n_bytes = np.zeros(len(new.vocabulary), dtype=np.int64), 0, 0
    for done, text in enumerate(texts, 1):
        ids, old_ids = _encoded(old, new, text, what)
        counts += np.bincount(np.array(ids, dtype=np.int64), minlength=len(counts))
        before, n_bytes = before + len(old_ids), n_bytes + len(text.encode())
        if progress is not None:
            progress(Stage.COMPARE.of("held-out text"), done, len(texts))
    return MeasuredTexts(CountedText(before, counts), n_bytes)


def refuse_other_texts(old: OpenModel, new: OpenModel, what: str) -> None:
    """What comes back from ids must be what came back before, for strange texts too.

    Raises:
        VerificationError: If it is not.
    """
    for text in (_STRANGE, python_text(16_384)):
        _encoded(old, new, text, what)


def _encoded(old: OpenModel, new: OpenModel, text: str, what: str) -> tuple[list[int], list[int]]:
    """New and old ids of a text."""
    ids, old_ids = new.vocabulary.encode(text), old.vocabulary.encode(text)
    if new.vocabulary.decode(ids) != old.vocabulary.decode(old_ids):
        raise VerificationError(f"the {what} tokenizer does not give back some text that the old one does")
    return ids, old_ids


def write_pages(
    work: Path,
    content: Mapping[str, Any],
    summary: Mapping[str, Any],
    title: str,
    what: str,
    control_tokens: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write the report, which has no token to show rows of, and the model card.

    Args:
        work: The model.
        content: The manifest's.
        summary: As `summarise` gives it.
        title: Of the card.
        what: What was done, in sentences, with code spans by `tokensurgeon.report.markdown.code`.
        control_tokens: New ones, as `tokensurgeon.alignment.summary.control_tokens` gives them.
    """
    details: dict[str, Any] = {"reconstructions": {}, "control_tokens": control_tokens, "doubtful": {}}
    write_text(work / "report.html", report_page(shown(content), shown(summary), shown(details)))
    card = short_card(visible(title), visible(f"{what} The licence of the model applies."))
    write_text(work / "README.md", card)

"""Try a written model out: its tokenizer and settings agree, it loads, and what it gives is finite."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.ids import named_ids
from tokensurgeon.checkpoint.layout import error_reason, read_config
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.checkpoint.text import read_json_if_there
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes

__all__ = ["DEAD_MASS_LIMIT", "Check", "Scorer", "forward_checks", "run_checks", "tokenizer_alone", "tokenizer_checks"]

Scorer = Callable[[LoadedModel, torch.Tensor], float]
"""Called with a model and (n,) int64 ids; gives their mean probability, summed over the ids."""

DEAD_MASS_LIMIT = 1e-4
_ENCODED, _SCORED = 100_000, 2048
"""Bytes of text that may not need a dead id, and of text on which dead ids may take little mass."""
_SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs.\n\n\tIt cost $4.50, naïve café — 日本語 🙂",
    "def f(x):\n    return {'a': [1, 2, x ** 2]}  # done\n",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant.

    Attributes:
        name: What is checked.
        ok: Whether it holds, as far as it could be asked.
        detail: What was seen.
        note: Whether it could not be asked, or only in part: the detail says why, and people must judge.
    """

    name: str
    ok: bool
    detail: str
    note: bool = False


def tokenizer_checks(out: Path, donor: Path | None, manifest: Manifest) -> Iterator[Check]:
    """The tokenizer, the settings and the manifest agree; text is cut as by the donor's files, or by its own."""
    files = TokenizerFiles.open(out)
    rows = manifest.plan.n_rows
    config, size = read_config(out), vocab_size(out)
    yield Check(
        "tokenizer unchanged",
        files.digest() == manifest.content["tokenizer_sha256"],
        "the one that was transplanted, by its hash",
    )
    top = max(files.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    yield Check("ids in range", top < rows, f"highest id {top}, {rows} rows")
    yield Check("vocab_size", size == rows, f"config says {size}, tensors have {rows}")
    begins = manifest.content.get("beginning")
    special = ({} if begins is None else {"bos_token": begins}) | files.special_ids()
    generation = read_json_if_there(out / "generation_config.json")
    wrong = []
    for where, part in (("config", config), ("generation_config", generation)):
        for name, value in part.items():
            token = name.removesuffix("_id")
            ids = [i for i in _listed(value) if i is not None] if name.endswith("_token_id") else []
            unknown = where == "config" and token in ("bos_token", "eos_token", "pad_token") and token not in special
            kept = "resized" in manifest.content  # such a model has the settings that it had
            if not kept and ids and (unknown or special.get(token, ids[0]) not in ids):
                wrong.append(f"{where} {name}={value}, tokenizer {special.get(token)}")
        beyond = {i: name for i, name in named_ids(part, rows).items() if i >= rows}
        wrong += [f"{where} {name} names id {i}, {rows} rows" for i, name in beyond.items()]
    yield Check("special ids agree", not wrong, "; ".join(wrong) or "config, generation config and tokenizer")
    own = files.plain()
    reference = _as_donor(donor, manifest).plain() if donor is not None else own
    faults = []
    for text in _SAMPLES:
        ids = own.encode(text, add_special_tokens=False).ids
        theirs = reference.encode(text, add_special_tokens=False).ids
        if ids != theirs or own.decode(ids) != reference.decode(theirs):
            faults.append(text[:20])
    lossless = all(own.decode(own.encode(t, add_special_tokens=False).ids) == t for t in _SAMPLES)
    dead = set(manifest.plan.ids(Provenance.UNREACHABLE, Provenance.PADDING).tolist())
    emitted = dead & set(own.encode(python_text(_ENCODED, part=3), add_special_tokens=False).ids)
    seen = f"{sorted(emitted)[:3]} are" if emitted else f"on {_ENCODED // 1000} kB"
    yield Check("dead ids are never emitted", not emitted, seen)
    kind = "exact" if lossless else "lossy, as the donor's"
    yield Check("text round trip", not faults, f"differs from the donor's on {faults}" if faults else kind)


def _as_donor(donor: Path, manifest: Manifest) -> TokenizerFiles:
    """The donor's tokenizer, with digits cut apart where that was asked for and needed."""
    files = TokenizerFiles.open(donor)
    return files.digit_by_digit() if manifest.content.get("numbers", {}).get("changed") else files


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Warnings(logging.Handler):
    """Keeps what transformers warns about while it loads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in record.getMessage().splitlines()]
        telling = [line for line in lines if re.search(r"MISSING|UNEXPECTED|MISMATCH", line)]
        self.seen += telling or lines[:1]


def forward_checks(
    out: Path, manifest: Manifest, score: Scorer | None = None, device: str | torch.device = "cpu"
) -> Iterator[Check]:
    """The model loads without a warning, reads text as its files say, and gives finite logits.

    Args:
        out: The model.
        manifest: Its manifest.
        score: Lets it read text of the caller's, and gives the mean probability of some ids on it; otherwise it reads
            Python's.
        device: Where it runs.
    """
    import transformers

    handler = _Warnings()
    logger = logging.getLogger("transformers")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    logger.addHandler(handler)
    transformers.logging.disable_default_handler()  # what is seen goes into the check, not to the terminal
    try:
        loaded = load_model(out, device, fast=True)
    except Exception as error:  # whatever a model class raises at files that were changed
        yield Check("loads without a warning", False, f"it does not load: {error_reason(error)}")
        return
    finally:
        transformers.logging.enable_default_handler()
        logger.removeHandler(handler)
        transformers.logging.set_verbosity(level)
    yield Check(
        "loads without a warning",
        not handler.seen,
        "; ".join(handler.seen[:2]) or "AutoModelForCausalLM, AutoTokenizer",
    )
    agrees = _agrees(loaded.encode, out)
    yield agrees
    if agrees.ok:
        yield from _logits(loaded, manifest, score)


def tokenizer_alone(out: Path, unrun: str) -> Iterator[Check]:
    """What can be seen of a model that is not run, see `tokensurgeon.evaluation.policy`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    except Exception as error:  # whatever a class raises at files that were changed
        yield Check("AutoTokenizer agrees", False, f"it does not load: {error_reason(error)}")
        return
    yield _agrees(LoadedModel(None, tokenizer, None).encode, out)
    yield Check("forward pass", True, f"not run: {unrun}", note=True)


def _agrees(encode: Callable[[str], list[int]], out: Path) -> Check:
    raw = TokenizerFiles.open(out).plain()
    try:
        same = all(encode(t) == raw.encode(t, add_special_tokens=False).ids for t in _SAMPLES)
    except Exception as error:  # tokenizers raises bare Exception
        return Check("AutoTokenizer agrees", False, f"it cuts no text: {error_reason(error)}")
    return Check("AutoTokenizer agrees", same, "with tokenizer.json" if same else "it cuts text unlike tokenizer.json")


def _logits(loaded: LoadedModel, manifest: Manifest, score: Scorer | None) -> Iterator[Check]:
    rows = manifest.plan.n_rows
    dead = torch.from_numpy(manifest.plan.silenced).to(loaded.model.device)
    ids = loaded.encode(_SAMPLES[0])
    prefix = [] if loaded.prefix is None else [loaded.prefix]
    with torch.inference_mode():
        tokens = torch.tensor([[*prefix, *ids][: loaded.context]], device=loaded.model.device)
        logits = loaded.model(input_ids=tokens).logits
    finite = bool(torch.isfinite(logits).all())
    good = finite and logits.shape[-1] == rows
    yield Check("forward pass", good, f"{list(logits.shape)} logits, {'finite' if finite else 'not finite'}")
    if good and (score is not None or len(dead)):
        mass = (score or _on_python_text)(loaded, dead)
    if len(dead) and good:
        yield Check(
            "dead ids",
            mass < DEAD_MASS_LIMIT,
            f"{len(dead)} ids take {mass:.1e} of the mass (limit {DEAD_MASS_LIMIT:g})",
        )


def _on_python_text(loaded: LoadedModel, watched: torch.Tensor) -> float:
    pieces = split_bytes(python_text(_SCORED, part=2))
    return score_text(loaded.model, loaded.encode, loaded.prefix, pieces, watched=watched).mass or 0.0


def run_checks(out: Path) -> list[Check]:
    """Whether an output's tokenizer and settings agree, and whether it runs; by its own manifest."""
    manifest = Manifest.of_output(out)
    return [*tokenizer_checks(out, None, manifest), *forward_checks(out, manifest)]

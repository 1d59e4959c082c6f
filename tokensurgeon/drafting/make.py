"""Make a small model a draft for a large one: transplant, learn, check, write, measure."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.header import DTYPES
from tokensurgeon.checkpoint.layout import linear_weights
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.partials import hidden_place
from tokensurgeon.checkpoint.room import output_bytes, refuse_full
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.drafting.gather import CHOSEN_BY, HELD_OUT, LEARNT_FROM, write_once, write_to_learn_from
from tokensurgeon.drafting.learn import Learnt, learn
from tokensurgeon.drafting.options import MakeDraftOptions
from tokensurgeon.drafting.state import DraftState
from tokensurgeon.drafting.write import write_draft
from tokensurgeon.drafting.written import encoded
from tokensurgeon.errors import InputError, MissingDependencyError, VerificationError
from tokensurgeon.evaluation.acceptance import (
    Prediction,
    Written,
    agree,
    predict,
    sampled_per_pass,
    time_tokens,
    tokens_per_pass,
)
from tokensurgeon.evaluation.drafts import pieces_in_turn
from tokensurgeon.evaluation.loading import LoadedModel, load_model, pick_device
from tokensurgeon.evaluation.texts import Text, open_texts, python_text
from tokensurgeon.evaluation.writing import plainly
from tokensurgeon.gguf import check_export
from tokensurgeon.healing.resume import identity_of, key_of
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.readiness import TOOLS, check
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.transplant import transplant

__all__ = ["DraftReport", "make_draft"]

log = logging.getLogger(__name__)

_Predicted = tuple[Prediction, Prediction] | tuple[None, None]
"""Greedily and by sampling; nothing where times cannot be taken."""
_MANY = 4096
"""Prompts to write from, at most."""
_PYTHON_BYTES = 1 << 19
_CONTEXT = 256
"""Tokens behind which times are taken, at most."""


@dataclass(frozen=True, slots=True)
class DraftReport:
    """What was made.

    Attributes:
        out: The draft.
        prediction: What it should gain greedily, in transformers on this device; None where times cannot be taken.
        sampled: What it should gain by sampling.
        told: All that was measured as plain data, as the manifest has it (``draft``).
    """

    out: Path
    prediction: Prediction | None
    sampled: Prediction | None
    told: dict[str, Any]


def make_draft(
    small: str,
    target: str,
    out: Path | str,
    options: MakeDraftOptions | None = None,
    *,
    tools: Sequence[str] = (),
    gguf: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DraftReport:
    """Give a small model a target's tokenizer, let it learn from what the target writes, and measure what it gains.

    Args:
        small: The model that is to draft.
        target: The model whose text is wanted.
        out: Output directory.
        options: See `MakeDraftOptions`.
        tools: Of `tokensurgeon.readiness.TOOLS`: those whose rules the draft must keep to.
        gguf: Whether the draft is to be exported as GGUF: what `export_gguf` refuses is refused before it learns.
        overwrite: Replace a model that is there.
        progress: Called with (stage, done, total).

    Raises:
        MissingDependencyError: Where it is to learn, and peft is not there.
        InputError: If the input cannot be used, or a tool would refuse the draft.
        VerificationError: If the written model breaks an invariant.

    Nothing is left behind then but what a later run goes on from.

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.MakeDraftOptions(prompts=2, new_tokens=8, draft_tokens=2)
        >>> report = tokensurgeon.make_draft("base", "donor", "out", options, tools=["transformers"])
        >>> 0 <= report.told["greedy"] <= 1
        True
    """
    options, place = options or MakeDraftOptions(), Path(out).expanduser().absolute()
    if unknown := [tool for tool in tools if tool not in TOOLS]:
        raise InputError(f"--for {unknown[0]!r}: known are {', '.join(TOOLS)}")
    check_target(place, overwrite, (small, target))
    device, texts = pick_device(options.device), _prompts(options)
    how = TransplantOptions(method=options.method, device=options.device, seed=options.seed, score=False)
    base = OpenModel.open(small, "all")
    if options.minutes and options.lora:
        _refuse_rank(base, options.lora)
    main = plainly(load_model(resolve(target), device, fast=True))
    starts = encoded(main, texts)
    _refuse_few(len(starts), options)
    _refuse_long(starts, [context for context in (main.context, _context(base)) if context], options)
    rows = len(main.model.get_output_embeddings().weight)
    refuse_full(place, 2 * output_bytes(base, rows))

    with hidden_place(place, "partial") as room:
        made = room / "transplant"
        transplant(small, target, made, how, progress=progress)
        for tool in tools:
            _refuse(tool, str(made), target)
        if gguf:
            check_export(str(made))
        state = DraftState(place, _key(base, target, starts, options))
        try:
            first, rest = starts[: options.prompts], starts[options.prompts :]
            for purpose in HELD_OUT:
                write_once(main, first, options, state, purpose, progress)
            greedy, sampled = map(state.of, HELD_OUT)
            opened, draft = OpenModel.open(str(made)), load_model(made, device, fast=True)
            target_s = time_tokens(main, _behind(greedy, main), range(1, options.draft_tokens + 2))
            draft_s = time_tokens(draft, _behind(greedy, draft), [1])  # what it learns changes no time
            if options.minutes:
                write_to_learn_from(main, rest, options, state, progress)
            del main  # it may be large
            before = {"greedy_before": agree(draft, greedy).greedy, "overlap_before": agree(draft, sampled).overlap}
            learnt, n_texts = None, 0
            if options.minutes:
                learnt, n_texts = _learnt(draft, opened, options, state, progress)
        except KeyboardInterrupt:
            state.save(now=True)
            raise
        del draft
        run = options.as_dict() | {"teacher": target, "lora": options.lora or None, "rows": "all", "texts": n_texts}
        predicted: list[_Predicted] = []

        def measure(work: Path) -> dict[str, Any]:
            told, found = _measured(load_model(work, device, fast=True), greedy, sampled, (target_s, draft_s))
            predicted.append(found)
            more = {"target": target, "device": str(device), "learnt_from": n_texts if learnt else 0}
            return more | before | told

        run |= {"steps": learnt.steps, "curve": learnt.curve} if learnt else {}
        try:
            told = write_draft(place, opened, base.directory, learnt, run, measure, overwrite)
        except VerificationError as error:
            if learnt is None:
                raise
            log.warning("what it learnt is left out, for as written %s", error)
            learnt = None
            told = write_draft(place, opened, base.directory, None, run, measure, overwrite)
        state.remove()
    greedily, by_sampling = predicted[-1]
    return DraftReport(place, greedily, by_sampling, told)


def _key(base: OpenModel, target: str, starts: Sequence[list[int]], options: MakeDraftOptions) -> str:
    """What must be the same for an interrupted run to go on: all but how long it may take."""
    settings = {name: value for name, value in options.as_dict().items() if name not in ("text", "minutes")}
    return key_of(settings, starts, identity_of(base), identity_of(OpenModel.open(target, "all")))


def _prompts(options: MakeDraftOptions) -> list[str]:
    """Pieces of the texts in turn: those that the draft is measured on, and, where it is to learn, all others."""
    texts = list(open_texts([Path(name) for name in options.text]).values())
    if options.minutes and not options.text:
        texts = [Text.of(python_text(_PYTHON_BYTES, part)) for part in range(4)]
    return list(islice(pieces_in_turn(texts, options.prompt_bytes), _MANY if options.minutes else options.prompts))


def _refuse_few(n: int, options: MakeDraftOptions) -> None:
    needed = options.prompts + (2 * options.batch if options.minutes else 0)
    if n < needed:
        raise InputError(
            f"the text has {n} pieces of {options.prompt_bytes} bytes, and {needed} are needed. Give more --text, "
            "fewer --prompts, or fewer --prompt-bytes"
        )


def _refuse_long(starts: Sequence[list[int]], contexts: Sequence[int], options: MakeDraftOptions) -> None:
    longest = max(map(len, starts)) + options.new_tokens
    if contexts and longest > min(contexts):
        raise InputError(
            f"a prompt and {options.new_tokens} new tokens are up to {longest} tokens, and one of the two models reads "
            f"{min(contexts)}. Give fewer --prompt-bytes or --new-tokens"
        )


def _context(model: OpenModel) -> int | None:
    config = model.config.get("text_config") or model.config
    size = config.get("max_position_embeddings")
    return size if isinstance(size, int) and size > 0 else None


def _refuse_rank(base: OpenModel, rank: int) -> None:
    """What only training would find."""
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("peft", "heal", "a draft that learns")
    tensors = base.checkpoint.tensors
    infos = [tensors[name] for name in linear_weights(base.directory, tensors)]
    if all(min(info.shape) <= rank or info.dtype not in DTYPES for info in infos):
        raise InputError(
            f"--lora {rank}: no layer of {base.name} is wider than that and of floating numbers. Use a smaller "
            "rank, or --lora 0"
        )


def _refuse(tool: str, made: str, target: str) -> None:
    broken = [rule for rule in check(made, tool, target) if not rule.ok]
    for rule in broken:
        said = f"{rule.name}: {rule.detail}. {rule.remedy}"
        if rule.must:
            raise InputError(f"{tool} would refuse this draft: {said}")
        log.warning("for %s, %s", tool, said)


def _learnt(
    draft: LoadedModel, opened: OpenModel, options: MakeDraftOptions, state: DraftState, progress: Progress | None
) -> tuple[Learnt | None, int]:
    """What the draft learnt in the second half of its time, unless that is no better; and from how many texts."""

    def tell(share: float) -> None:
        if progress is not None:
            progress(Stage.LEARN, 50 + int(50 * share), 100)

    written = state.of(LEARNT_FROM)
    found = learn(draft, opened, written, state.of(CHOSEN_BY), options.minutes / 2, options, state, tell)
    if not found.steps:
        log.warning("what it learnt in %g minutes made it no better, and is left out", options.minutes)
    return found if found.steps else None, len(written)


def _behind(texts: Sequence[Written], main: LoadedModel) -> list[int]:
    """What times are taken behind: so many tokens that some more fit."""
    ids = [i for text in texts for i in text.ids]
    return ids[: min(_CONTEXT, (main.context or _CONTEXT * 2) // 2)]


def _measured(
    draft: LoadedModel,
    texts: Sequence[Written],
    sampled: Sequence[Written],
    seconds: tuple[dict[int, float] | None, dict[int, float] | None],
) -> tuple[dict[str, Any], _Predicted]:
    """The draft as it was written: what the target agrees to, and what that makes of its speed."""
    greedy, overlap, (target_s, draft_s) = agree(draft, texts), agree(draft, sampled).overlap, seconds
    found: _Predicted = (None, None)
    if target_s is not None and draft_s is not None:
        by_mode = partial(tokens_per_pass, greedy.matches), partial(sampled_per_pass, overlap)
        found = predict(by_mode[0], target_s, draft_s[1]), predict(by_mode[1], target_s, draft_s[1])
    told = {
        "texts": len(texts) + len(sampled),
        "positions": sum(map(len, greedy.matches)),
        "greedy": greedy.greedy,
        "overlap": overlap,
        **_plain(found[0]),
        "sampled": _plain(found[1]),
    }
    return told, found


def _plain(prediction: Prediction | None) -> dict[str, Any]:
    """As the manifest has it, with nothing where nothing was predicted."""
    if prediction is None:
        return dict.fromkeys(("draft_tokens", "tokens_per_pass", "speed_up", "by_length"))
    return asdict(prediction) | {
        "by_length": {str(length): list(pair) for length, pair in prediction.by_length.items()}
    }

"""Make a small model a draft for a large one: transplant, learn, check, measure, write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.partials import hidden_place
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.drafting.learn import Learnt, learn
from tokensurgeon.drafting.options import MakeDraftOptions
from tokensurgeon.drafting.write import write_draft
from tokensurgeon.drafting.written import encoded, write_texts
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.acceptance import Agreement, Prediction, Written, agree, predict, time_tokens
from tokensurgeon.evaluation.drafts import DraftOptions, take_prompts
from tokensurgeon.evaluation.loading import LoadedModel, load_model, pick_device
from tokensurgeon.evaluation.texts import open_texts
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.readiness import TOOLS, check
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.transplant import transplant

__all__ = ["DraftReport", "make_draft"]

_MANY = 4096
"""Prompts to write from, at most."""
_CONTEXT = 256
"""Tokens behind which times are taken."""


@dataclass(frozen=True, slots=True)
class DraftReport:
    """What was made.

    Attributes:
        out: The draft.
        before: How far the transplant agrees with the target.
        after: How far the draft does.
        prediction: What it should gain, in transformers on this device.
        written: Texts that it learnt from.
        steps: Updates.
        told: All of it as plain data, as the manifest has it.
    """

    out: Path
    before: Agreement
    after: Agreement
    prediction: Prediction
    written: int
    steps: int
    told: dict[str, Any]


def make_draft(
    small: str,
    target: str,
    out: Path | str,
    options: MakeDraftOptions | None = None,
    *,
    tools: Sequence[str] = (),
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
        overwrite: Replace a model that is there.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the input cannot be used, or a tool would refuse the draft; nothing is written then.
        VerificationError: If the written model breaks an invariant; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.MakeDraftOptions(prompts=2, new_tokens=8, draft_tokens=2)
        >>> report = tokensurgeon.make_draft("base", "donor", "out", options, tools=["transformers"])
        >>> 0 <= report.after.greedy <= 1
        True
    """
    options, place = options or MakeDraftOptions(), Path(out).expanduser().absolute()
    if unknown := [tool for tool in tools if tool not in TOOLS]:
        raise InputError(f"--for {unknown[0]!r}: known are {', '.join(TOOLS)}")
    check_target(place, overwrite, (small, target))
    device = pick_device(options.device)
    prompts = _prompts(options)
    place.parent.mkdir(parents=True, exist_ok=True)
    with hidden_place(place, "partial") as room:
        made = room / "transplant"
        how = TransplantOptions(method=options.method, device=options.device, seed=options.seed)
        transplant(small, target, made, how, progress=progress)
        for tool in tools:
            _refuse(tool, str(made), target)
        main, draft = load_model(resolve(target), device), load_model(made, device)
        starts = encoded(main, prompts)
        texts = write_texts(main, starts[: options.prompts], options.new_tokens, options.batch, sample=False, seed=0)
        held_out = list(_told(texts, options.prompts, progress))
        before = agree(draft, held_out)
        opened = OpenModel.open(str(made))
        learnt, written = None, 0
        if options.minutes:
            learnt, written = _learnt(draft, opened, main, starts[options.prompts :], held_out, options, progress)
        after = before if learnt is None else agree(draft, held_out)
        prediction = _predicted(main, draft, held_out, after, options)
        told = _described(target, held_out, before, after, prediction, options, str(device))
        run = options.as_dict() | {"teacher": target, "lora": options.lora or None, "rows": "all", "texts": written}
        run |= {"steps": learnt.steps, "curve": learnt.curve} if learnt is not None else {}
        write_draft(place, opened, resolve(small), learnt, run, told, overwrite)
    steps = 0 if learnt is None else learnt.steps
    return DraftReport(place, before, after, prediction, written, steps, told)


def _prompts(options: MakeDraftOptions) -> list[str]:
    """Those that the draft is measured on, and, where it is to learn, as many more as there are."""
    texts = list(open_texts([Path(name).expanduser() for name in options.text]).values())
    for wanted in (_MANY, *range(_MANY // 2, options.prompts, -_MANY // 32)) if options.minutes else ():
        try:
            return take_prompts(texts, DraftOptions(wanted, options.prompt_bytes))
        except InputError:
            continue
    least = options.prompts + (options.batch if options.minutes else 0)
    return take_prompts(texts, DraftOptions(least, options.prompt_bytes))


def _refuse(tool: str, made: str, target: str) -> None:
    broken = [rule for rule in check(made, tool, target) if not rule.ok]
    if broken:
        raise InputError(f"{tool} would refuse this draft: {broken[0].name}: {broken[0].detail}. {broken[0].remedy}")


def _learnt(
    draft: LoadedModel,
    opened: OpenModel,
    main: LoadedModel,
    starts: Sequence[list[int]],
    held_out: Sequence[Written],
    options: MakeDraftOptions,
    progress: Progress | None,
) -> tuple[Learnt, int]:
    """Half of the time for writing, what is left for learning."""
    begun = time.perf_counter()
    half = 30 * options.minutes

    def enough() -> bool:
        return time.perf_counter() - begun > half

    texts = write_texts(main, starts, options.new_tokens, options.batch, sample=True, seed=options.seed, enough=enough)
    written = list(_told(texts, len(starts), progress))
    left = options.minutes - (time.perf_counter() - begun) / 60

    def tell(share: float) -> None:
        if progress is not None:
            progress(Stage.LEARN, int(100 * share), 100)

    return learn(draft, opened, written, held_out, max(left, options.minutes / 4), options, tell), len(written)


def _told(texts: Iterable[Written], total: int, progress: Progress | None) -> Iterator[Written]:
    for number, text in enumerate(texts, 1):
        if progress is not None:
            progress(Stage.WRITE, number, total)
        yield text


def _predicted(
    main: LoadedModel, draft: LoadedModel, texts: Sequence[Written], agreement: Agreement, options: MakeDraftOptions
) -> Prediction:
    context = [i for text in texts for i in text.ids][:_CONTEXT]
    target_s = time_tokens(main, context, range(1, options.draft_tokens + 2))
    return predict(agreement.matches, target_s, time_tokens(draft, context, [1])[1])


def _described(
    target: str,
    texts: Sequence[Written],
    before: Agreement,
    after: Agreement,
    prediction: Prediction,
    options: MakeDraftOptions,
    device: str,
) -> dict[str, Any]:
    return {
        "target": target,
        "texts": len(texts),
        "positions": sum(map(len, after.matches)),
        "greedy_before": before.greedy,
        "overlap_before": before.overlap,
        "greedy": after.greedy,
        "overlap": after.overlap,
        "minutes": options.minutes,
        "device": device,
        **{name: value for name, value in asdict(prediction).items() if name != "by_length"},
        "by_length": {str(length): list(pair) for length, pair in prediction.by_length.items()},
    }

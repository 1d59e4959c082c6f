"""Measure how much a draft model helps: speculative decoding with transformers' assisted generation.

The draft proposes some tokens, the target reads them in one pass and keeps those that it would have chosen (greedy) or
accepts by the rule of arXiv 2211.17192 (sampling), and adds one of its own. The text is the target's in both cases;
what a better draft gives is fewer passes of the target.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint import resolve
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel, load_model, pick_device
from tokensurgeon.evaluation.texts import cut_bytes, open_texts
from tokensurgeon.progress import Progress, Stage

__all__ = ["MODES", "DraftOptions", "DraftScore", "bench_drafts", "generate_with", "pieces_in_turn", "take_prompts"]

MODES = ("greedy", "sampling")
NO_DRAFT = "no draft"
_WARM = 4
"""Tokens read and written once by each side before anything is timed."""


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """How texts are generated.

    Attributes:
        prompts: How many prompts.
        prompt_bytes: Bytes of text in each.
        new_tokens: Tokens that follow each; the end of the text does not stop it.
        draft_tokens: Tokens that the draft proposes at a time.
        temperature: Of sampling.
        seed: Of sampling.
    """

    prompts: int = 8
    prompt_bytes: int = 512
    new_tokens: int = 64
    draft_tokens: int = 5
    temperature: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class DraftScore:
    """Sums over prompts.

    Attributes:
        tokens: Generated.
        passes: Of the target; each accepts some drafted tokens and adds one.
        drafted: Tokens that were proposed to it, in its own vocabulary.
        seconds: Wall time.
        nats: Negative log-likelihood of the texts under the target alone. Sampling with a draft should leave it where
            it is without one; where it does not, what was written is not the target's text.
        same: Texts that are, token by token, what the target writes without a draft.
        texts: Texts in all.
    """

    tokens: int = 0
    passes: int = 0
    drafted: int = 0
    seconds: float = 0.0
    nats: float = 0.0
    same: int = 0
    texts: int = 0

    def as_dict(self, alone: DraftScore) -> dict[str, Any]:
        """Plain data, beside what the target does alone."""
        accepted = self.tokens - self.passes
        return {
            "acceptance": accepted / self.drafted if self.drafted else None,
            "accepted_length": accepted / max(1, self.passes),
            "passes_per_token": self.passes / max(1, self.tokens),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "speed_up": alone.seconds / max(self.seconds, 1e-9),
            "nats_per_token": self.nats / max(1, self.tokens),
            "same_texts": self.same,
            "texts": self.texts,
        }


def bench_drafts(
    draft: str,
    target: str,
    text: Sequence[Path],
    *,
    untouched: str | None = None,
    options: DraftOptions | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate with and without a draft model, greedily and by sampling.

    Args:
        draft: The draft model: directory, ``.gguf`` file or hub id. It must have the target's tokenizer.
        target: The model whose text is wanted.
        text: UTF-8 files that prompts are taken from; Python's own text where none is given.
        untouched: A model with another tokenizer that drafts too, by transformers' universal assisted decoding, which
            re-encodes text: what the draft was made from.
        options: How much is generated.
        device: Where all models run.
        progress: Called with (stage, generations done, in all).

    Returns:
        ``{side: {mode: figures}}`` with sides ``no draft``, ``draft`` and ``untouched``, and figures as
        `DraftScore.as_dict` gives them.

    Raises:
        InputError: If the draft has not the target's ids, or the text is too short.

    Example:
        >>> from pathlib import Path
        >>> import tokensurgeon
        >>> options = tokensurgeon.DraftOptions(prompts=1, new_tokens=8)
        >>> figures = tokensurgeon.bench_drafts("transplanted", "donor", [Path("text.txt")], options=options)
        >>> list(figures)
        ['no draft', 'draft']
    """
    options = options or DraftOptions()
    where = pick_device(device)
    main = load_model(resolve(target), where)
    own = load_model(resolve(draft), where)
    _refuse_other_ids(draft, target, own, main)
    sides: dict[str, LoadedModel | None] = {NO_DRAFT: None, "draft": own}
    if untouched is not None:
        sides["untouched"] = other = load_model(resolve(untouched), where)
        if _same_size(other, main) and other.tokenizer.get_vocab() != main.tokenizer.get_vocab():
            raise InputError(
                f"--untouched {untouched} has another tokenizer and the target's vocab_size; transformers goes by the "
                "size and would take its ids for the target's. Leave it out"
            )
    prompts = take_prompts(list(open_texts(text).values()), options)
    return generate_with(main, sides, prompts, options, progress)


def _refuse_other_ids(draft: str, target: str, own: LoadedModel, main: LoadedModel) -> None:
    """Refuse what transformers would not: it compares sizes alone and takes it for granted that ids mean the same."""
    if not _same_size(own, main):
        sizes = [side.model.config.get_text_config().vocab_size for side in (own, main)]
        fault = f"vocab_size is {sizes[0]}, the target's {sizes[1]}"
    elif tokens := sorted(
        {token for token, _ in own.tokenizer.get_vocab().items() ^ main.tokenizer.get_vocab().items()}
    ):
        fault = f"{len(tokens)} tokens have other ids, such as {tokens[0]!r}"
    else:
        return
    raise InputError(
        f"{draft} cannot draft for {target}: {fault}. Give it the target's tokenizer: tokensurgeon {draft} {target}"
    )


def take_prompts(texts: Sequence[Iterable[str]], options: DraftOptions) -> list[str]:
    """Pieces of the texts, each of which comes in parts; as many from each, from their beginnings."""
    turns = list(islice(pieces_in_turn(texts, options.prompt_bytes), options.prompts))
    if len(turns) < options.prompts:
        raise InputError(
            f"the text has {len(turns)} pieces of {options.prompt_bytes} bytes for {options.prompts} prompts. "
            "Give more text, or fewer --prompts"
        )
    return turns


def pieces_in_turn(texts: Iterable[Iterable[str]], size: int) -> Iterator[str]:
    """Pieces of ``size`` bytes of texts, each of which comes in parts: the first of each, then the second of each."""
    pieces = [cut_bytes(text, size) for text in texts]
    while pieces:
        heads = [(piece, next(piece, None)) for piece in pieces]
        pieces = [piece for piece, head in heads if head is not None]
        yield from (head for _, head in heads if head is not None)


def generate_with(
    target: LoadedModel,
    sides: Mapping[str, LoadedModel | None],
    prompts: Sequence[str],
    options: DraftOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate from every prompt with every side in turn, so that all meet the same state of the machine.

    Args:
        target: The model whose text is wanted.
        sides: Name to a draft model, or to None for none; None comes first. A draft whose vocabulary has another size
            than the target's drafts by universal assisted decoding.
        prompts: Texts to go on from.
        options: How much is generated.
        progress: Called with (stage, generations done, in all).
    """
    scores = {side: {mode: DraftScore() for mode in MODES} for side in sides}
    total, done = len(sides) * len(MODES) * len(prompts), 0
    target.model.generation_config.eos_token_id = None  # all texts get the same length
    drafts = {(side, mode): draft for side, draft in sides.items() for mode in MODES}
    for side, draft in sides.items():
        if draft is not None:
            settings = draft.model.generation_config
            settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = options.draft_tokens, "constant"
            settings.assistant_confidence_threshold = 0.0
            if not _same_size(draft, target):  # transformers prunes a draft's head in place before it samples from it
                drafts[side, "sampling"] = replace(draft, model=copy.deepcopy(draft.model))
    starts = [target.encode(prompt) for prompt in prompts]
    starts = [ids if target.prefix is None else [target.prefix, *ids] for ids in starts]
    for side in sides:  # what is done once is not timed
        warm = torch.tensor([starts[0][:_WARM]], device=target.model.device)
        _generate(target, drafts[side, "greedy"], warm, "greedy", replace(options, new_tokens=_WARM), DraftScore())
    for number, ids in enumerate(starts):
        start = torch.tensor([ids], device=target.model.device)
        for mode in MODES:
            alone: torch.Tensor | None = None
            for side in sides:
                torch.manual_seed(options.seed + number)
                written = _generate(target, drafts[side, mode], start, mode, options, scores[side][mode])
                alone = written if alone is None else alone
                scores[side][mode].texts += 1
                scores[side][mode].same += int(torch.equal(written, alone))
                done += 1
                if progress is not None:
                    progress(Stage.GENERATE, done, total)
    first = next(iter(scores.values()))
    return {side: {mode: of[mode].as_dict(first[mode]) for mode in MODES} for side, of in scores.items()}


def _generate(
    target: LoadedModel,
    draft: LoadedModel | None,
    start: torch.Tensor,
    mode: str,
    options: DraftOptions,
    score: DraftScore,
) -> torch.Tensor:
    """Generate from one prompt and add to a score."""
    how: dict[str, Any] = {"do_sample": False, "max_new_tokens": options.new_tokens, "pad_token_id": 0}
    if mode == "sampling":
        how |= {"do_sample": True, "temperature": options.temperature, "top_k": 0, "top_p": 1.0}
    if draft is not None:
        how["assistant_model"] = draft.model
        if not _same_size(draft, target):
            how |= {"tokenizer": target.tokenizer, "assistant_tokenizer": draft.tokenizer}
    with _passes(target.model) as lengths, torch.inference_mode():
        began = time.perf_counter()
        written = target.model.generate(start, attention_mask=torch.ones_like(start), **how)
        score.seconds += time.perf_counter() - began
    tokens = written.shape[1] - start.shape[1]
    score.tokens += tokens
    score.passes += len(lengths)
    # The first pass reads the prompt and the first draft, every other one the last token and a draft.
    score.drafted += sum(lengths) - start.shape[1] - (len(lengths) - 1)
    with torch.inference_mode():
        logits = target.model(input_ids=written).logits[0, start.shape[1] - 1 : -1].float()
    gold = written[0, start.shape[1] :, None]
    score.nats -= float(logits.log_softmax(dim=-1).gather(1, gold).sum())
    made: torch.Tensor = written[0, start.shape[1] :].cpu()
    return made


def _same_size(draft: LoadedModel, target: LoadedModel) -> bool:
    sizes = {side.model.config.get_text_config().vocab_size for side in (draft, target)}
    return len(sizes) == 1


@contextmanager
def _passes(model: Any) -> Iterator[list[int]]:
    """Tokens that each forward pass of a model reads."""
    lengths: list[int] = []

    def note(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        lengths.append(int((arguments[0] if arguments else named["input_ids"]).shape[1]))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()

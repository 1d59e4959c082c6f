"""How well a model foresees the answers of a conversation, in its chat template or as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from tokensurgeon.evaluation.loading import LoadedModel

__all__ = ["answer", "answers_bits", "rendered", "spans"]

Messages = Sequence[Mapping[str, str]]


def rendered(loaded: LoadedModel, messages: Messages, *, plain: bool = False, prompt: bool = False) -> str:
    """A conversation as the tokenizer's template writes it.

    Args:
        loaded: The model.
        messages: Tables of ``role`` and ``content``.
        plain: Lines with the speaker's name instead; so too where there is no template.
        prompt: Whether an answer is to follow.
    """
    if not plain and loaded.tokenizer.chat_template is not None:
        text: str = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return text
    lines = [f"{message['role'].title()}: {message['content']}\n" for message in messages]
    return "".join([*lines, "Assistant:" if prompt else ""])


def spans(text: str, contents: Iterable[str]) -> list[tuple[int, int]]:
    """Where each of the contents stands in the text, one behind the other."""
    found, end = [], 0
    for content in contents:
        start = text.index(content, end)
        end = start + len(content)
        found.append((start, end))
    return found


def answers_bits(loaded: LoadedModel, messages: Messages, *, plain: bool = False) -> float:
    """Bits per byte of all that the assistant says. A token that holds a part of it counts."""
    text = rendered(loaded, messages, plain=plain)
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    places = spans(text, said)
    encoded = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if loaded.prefix is not None and ids[0] != loaded.prefix:
        ids, offsets = [loaded.prefix, *ids], [(0, 0), *offsets]
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        logits = loaded.model(input_ids=tokens).logits[0, :-1].float()
        nats = torch.logsumexp(logits, dim=-1) - logits.gather(1, tokens[0, 1:, None])[:, 0]
    counted = torch.tensor([any(a < end and start < b for start, end in places) for a, b in offsets[1:]])
    return float(nats[counted].double().sum()) / math.log(2) / sum(len(content.encode()) for content in said)


def answer(loaded: LoadedModel, question: str, new_tokens: int) -> str:
    """What the model says to a question, greedily, with control tokens as they are."""
    text = rendered(loaded, [{"role": "user", "content": question}], prompt=True)
    given = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = loaded.model.generate(
        input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=new_tokens, do_sample=False
    )
    said: str = loaded.tokenizer.decode(ids[0, given.shape[1] :])
    return said

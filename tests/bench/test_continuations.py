"""Continuations against the model's own logits, one text at a time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.continuations import Continuation, Question, answer, score_continuations
from tokensurgeon.evaluation.loading import load_model


@pytest.fixture(scope="module")
def loaded(zoo):
    return load_model(zoo["gpt"])


PAIRS = [
    ("The value of the object", " is returned"),
    ("def f(x):\n    return", " x"),
    ("a", " very much longer continuation, which has many more tokens than the others do"),
    ("", "whole text"),
]


@pytest.mark.parametrize("name", ["gpt", "spm", "neox"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_scores_are_the_models_log_likelihoods(zoo, name, batch_tokens):
    loaded = load_model(zoo[name])
    done = []
    scores = score_continuations(
        loaded.model, loaded.encode, loaded.prefix, PAIRS, batch_tokens=batch_tokens, tell=done.append
    )
    assert done[-1] == len(PAIRS)
    for (context, continuation), score in zip(PAIRS, scores, strict=True):
        ids = [loaded.prefix, *loaded.encode(context + continuation)]
        first = 1 + len(loaded.encode(context))
        with torch.no_grad():
            logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        gold = torch.tensor(ids[first:])
        expected = -logs[first - 1 : -1].gather(1, gold[:, None]).sum()
        assert score.nats == pytest.approx(float(expected), rel=1e-4)
        assert score.n_bytes == len(continuation.encode())
        assert score.greedy == bool((logs[first - 1 : -1].argmax(-1) == gold).all())


def test_a_token_that_joins_context_and_continuation_is_scored(loaded):
    """The sign in ``=-`` belongs to the answer, although the tokenizer may not cut there."""
    encode = {"1=": [5, 6], "1=-7": [5, 8, 9], "-7": [3, 9]}.__getitem__
    (score,) = score_continuations(loaded.model, encode, 1, [("1=", "-7")])
    with torch.no_grad():
        logs = loaded.model(input_ids=torch.tensor([[1, 5, 8, 9]])).logits[0].float().log_softmax(-1)
    assert score.nats == pytest.approx(float(-logs[1, 8] - logs[2, 9]), rel=1e-4)


def test_what_a_model_would_say_itself_is_greedy(loaded):
    start = torch.tensor([[loaded.prefix, *loaded.encode("The")]])
    made = loaded.model.generate(start, max_new_tokens=1, do_sample=False)[0, -1:]
    said = [*start[0, 1:].tolist(), int(made)]
    encode = {"The": said[:-1], "The!": said}.__getitem__
    assert score_continuations(loaded.model, encode, loaded.prefix, [("The", "!")])[0].greedy
    assert not score_continuations(loaded.model, loaded.encode, loaded.prefix, [("The", " zebra is")])[0].greedy


def test_the_answer_is_the_likeliest_per_byte():
    question = Question("?", (" a", " bb"), 1)
    assert answer(question, [Continuation(3.0, 2, False), Continuation(5.0, 3, False)])
    assert not answer(question, [Continuation(2.0, 2, False), Continuation(5.0, 3, False)])

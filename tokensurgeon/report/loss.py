"""Say in words what a transplant costs, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["advice", "costliest", "digits_would_help", "level", "loss_in_words", "prediction_in_words"]

_SMALL, _LARGE = 0.02, 0.1
"""Bits per byte. Of four real models with each other's tokenizers, chat and text suffer little below the former."""

_MUCH = 0.2
"""Of the loss: kinds of text that hold less are not named."""

_FEW = 3
"""Of the costliest tokens, those that stand in the sentences; the card and the page have all."""


def level(loss: Mapping[str, Any]) -> str:
    """``good``, ``watch`` or ``bad``; of too little text ``watch``."""
    if _too_little(loss):
        return "watch"
    return "good" if loss["loss"] <= _SMALL else "watch" if loss["loss"] <= _LARGE else "bad"


def _too_little(loss: Mapping[str, Any]) -> bool:
    """Whether the text does not tell a loss from none."""
    return loss["interval"] is None or _SMALL < loss["loss"] <= loss["interval"]


def loss_in_words(content: Mapping[str, Any]) -> list[str]:
    """Sentences: the loss, its parts, where it is, what to do.

    Args:
        content: The manifest's, with ``loss`` as `tokensurgeon.evaluation.loss.describe_loss` gives it.
    """
    loss = content["loss"]
    bits, split = loss["bits_per_byte"], loss["split"]
    width = "" if loss["interval"] is None else f" (95%: ±{loss['interval']:.3f})"
    found = [
        f"{loss['loss']:+.3f} bits per byte{width} on {loss['bytes'] / 1000:.1f} kB of {loss['text']}: "
        f"{bits['base']:.3f} before, {bits['transplant']:.3f} after.",
        f"Of that, {loss['segmentation']:+.3f} is what the base itself loses when it reads the donor's cuts, "
        f"{loss['new']:+.3f} new tokens, {loss['shared']:+.3f} shared ones.",
    ]
    if split["inside_tokens"]:
        unit = loss["units"]["split"]
        found.append(
            f"{unit['count']:,} tokens of the base are split ({unit['loss']:+.3f}): one costs the base "
            f"{split['base_nats']:.1f} nats; its first piece costs {split['first_nats']:.1f}, each piece inside "
            f"{split['inside_nats']:.1f}."
        )
    few = (
        [f"The costliest: {', '.join(costliest(loss)[:_FEW])}."] if loss["loss"] > _SMALL and loss["costliest"] else []
    )
    return [*found, *_stands_out(loss), *few, advice(content)]


def costliest(loss: Mapping[str, Any]) -> list[str]:
    """The tokens that stand where most is lost, how often, and bits per byte."""
    return [f"{' '.join(of['tokens'])} ({of['count']} ×, {of['loss']:+.3f})" for of in loss["costliest"]]


def _stands_out(loss: Mapping[str, Any]) -> list[str]:
    """A sentence about the kinds of text that lose far more than their share, where there are any."""
    if loss["loss"] <= _SMALL:
        return []
    parts = {kind: (of["bytes"], of["loss"] / loss["loss"]) for kind, of in loss["writing"].items()}
    worse = [(kind, *of) for kind, of in parts.items() if of[1] >= max(_MUCH, 2 * of[0])]
    named = [f"{kind} ({lost:.0%} of the loss, {share:.0%} of the text)" for kind, share, lost in worse]
    return [f"It falls hardest on {' and '.join(named)}."] if named else []


def prediction_in_words(prediction: Mapping[str, Any]) -> str:
    """Sentences: what tokenizers alone say of the loss, and why.

    Args:
        prediction: As `tokensurgeon.surgery.prediction.predict` gives it.
    """
    share = prediction["of_bytes"]
    return (
        f"Expected loss, predicted from the tokenizers alone: {prediction['loss']:+.3f} bits per byte "
        f"(90%: ±{prediction['interval']:.3f}) on {prediction['bytes'] / 1000:.1f} kB of {prediction['text']}. "
        f"Of its bytes {share['split']:.1%} lie in tokens of the base that are split, {share['joined']:.1%} in joined "
        f"ones, {share['mixed']:.1%} in ones that are cut across, and {share['new']:.1%} in new tokens."
    )


def digits_would_help(numbers: Mapping[str, Any]) -> bool:
    """Whether ``--numbers base`` would give numbers the base's cuts, and was not asked for.

    Args:
        numbers: As the manifest has them.
    """
    return numbers["digit_by_digit"] == {"base": True, "donor": False} and not numbers["changed"]


def advice(content: Mapping[str, Any]) -> str:
    """A sentence.

    Args:
        content: The manifest's, see `loss_in_words`.
    """
    loss, todo = content["loss"], []
    differ = any(scheme["kind"] == "numbers" for scheme in content["scheme_differences"])
    if differ and digits_would_help(content["numbers"]):
        todo.append("try --numbers base, as the tokenizers cut numbers differently (not for drafts or students)")
    if _too_little(loss):
        todo.append("this is too little text to tell: give more by --text")
    elif loss["loss"] > _SMALL:
        healing = "heal (15 minutes gave small models nearly half of such a loss back)"
        if loss["units"]["split"]["loss"] >= loss["loss"] / 2:
            todo.append(f"{healing}, which teaches the new cuts, or take a donor with more tokens")
        elif loss["new"] >= loss["loss"] / 2:
            todo.append(f"{healing}, which trains the rows of new tokens")
        else:
            todo.append(healing)
    return f"What to do: {'; '.join(todo) or 'nothing needs to be done'}."

"""Say in words what a transplant costs, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["advice", "level", "loss_in_words", "prediction_in_words"]

_SMALL, _LARGE = 0.02, 0.1
"""Bits per byte. Of four real models with each other's tokenizers, chat and text suffer little below the former."""

_MUCH = 0.2
"""Of the loss: kinds of text that hold less are not named."""


def level(loss: Mapping[str, Any]) -> str:
    """``good``, ``watch`` or ``bad``."""
    return "good" if loss["loss"] <= _SMALL else "watch" if loss["loss"] <= _LARGE else "bad"


def loss_in_words(content: Mapping[str, Any]) -> list[str]:
    """Sentences: the loss, its parts, where it is, what to do.

    Args:
        content: The manifest's, with ``loss`` as `tokensurgeon.evaluation.loss.describe_loss` gives it.
    """
    loss = content["loss"]
    bits, split = loss["bits_per_byte"], loss["split"]
    width = "" if loss["interval"] is None else f" (±{loss['interval']:.3f})"
    found = [
        f"{loss['loss']:+.3f} bits per byte{width} on {loss['bytes'] / 1000:.1f} kB of {loss['text']}: "
        f"{bits['base']:.3f} before, {bits['transplant']:.3f} after.",
        f"Of that, {loss['segmentation']:+.3f} is the foreign segmentation, which no row can mend, "
        f"{loss['new']:+.3f} new tokens, {loss['shared']:+.3f} shared ones.",
    ]
    if split["inside_tokens"]:
        unit = loss["units"]["split"]
        found.append(
            f"{unit['count']:,} tokens of the base are split ({unit['loss']:+.3f}); pieces inside of them cost "
            f"{split['inside_nats']:.1f} nats each."
        )
    return [*found, *_stands_out(loss), advice(content)]


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
        f"(±{prediction['interval']:.3f}) on {prediction['bytes'] / 1000:.1f} kB of {prediction['text']}. Of its bytes "
        f"{share['split']:.1%} lie in tokens of the base that are split, {share['joined']:.1%} in joined ones, "
        f"{share['mixed']:.1%} in ones that are cut across, and {share['new']:.1%} in new tokens."
    )


def advice(content: Mapping[str, Any]) -> str:
    """A sentence.

    Args:
        content: The manifest's, see `loss_in_words`.
    """
    loss = content["loss"]
    if loss["loss"] <= max(_SMALL, loss["interval"] or 0.0):
        return "What to do: nothing needs to be done."
    todo = []
    if any(scheme["kind"] == "numbers" for scheme in content["scheme_differences"]):
        numbers = content["numbers"]
        if numbers["digit_by_digit"] == {"base": True, "donor": False} and not numbers["changed"]:
            todo.append("try --numbers base, as the tokenizers cut numbers differently")
    if loss["units"]["split"]["loss"] >= loss["loss"] / 2:
        todo.append("heal, which teaches the new cuts, or take a donor with more tokens")
    elif loss["new"] >= loss["loss"] / 2:
        untie = content["base"]["tied"] and not content["options"].get("untie")
        todo.append("heal, which trains the rows of new tokens" + (", or try --untie" if untie else ""))
    else:
        todo.append("heal")
    return f"What to do: {'; '.join(todo)}."

"""Write a draft: the transplant, with what it learnt, and what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.checkpoint.text import read_text, write_text
from tokensurgeon.drafting.learn import Learnt
from tokensurgeon.healing.write import changed_tensors, with_run
from tokensurgeon.report.markdown import code
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.tensors import accepted, invariants
from tokensurgeon.vocabulary.visible import visible

__all__ = ["write_draft"]


def write_draft(
    out: Path,
    model: OpenModel,
    base: Path,
    learnt: Learnt | None,
    run: dict[str, Any],
    measure: Callable[[Path], dict[str, Any]],
    overwrite: bool,
) -> dict[str, Any]:
    """Write, verify, and measure what was written.

    Args:
        out: Where to.
        model: The transplant; its weights are moved where it learnt nothing.
        base: What it was made from.
        learnt: What it learnt, if it did.
        run: Of the training, for the manifest.
        measure: Called with what was written, before it is at its place; gives what manifest and card say.
        overwrite: Replace a model that is there.

    Returns:
        What ``measure`` gave.

    Raises:
        VerificationError: If the written model breaks an invariant; it does not stay.
    """
    manifest = Manifest.of_output(model.directory)
    with staged(out, overwrite) as work:
        shutil.copytree(model.directory, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*"))
        if learnt is None:
            for path in model.directory.glob("*.safetensors*"):
                shutil.move(path, work / path.name)
        else:
            changed = changed_tensors(model, learnt.ids, learnt.rows, learnt.body)
            model.checkpoint.write(work, changed, frozenset(model.layout.stale))
            manifest = with_run(manifest, run, learnt.ids, sorted(learnt.body))
        manifest.write(work)
        manifest.content["verified"] = accepted(invariants(work, base))
        manifest.content["sha256"] = recorded_digests(work)
        manifest.content["draft"] = told = measure(work)
        manifest.write(work)
        card = work / "README.md"
        write_text(card, read_text(card).rstrip() + _section(told))
    return told


def _section(told: dict[str, Any]) -> str:
    pays = "How much faster it makes the target was not predicted: one of the two keeps no cache that can be timed."
    if told["speed_up"] is not None:
        modes = f"Greedily {_pays(told)}; where tokens are sampled {_pays(told['sampled'])}"
        pays = f"{modes}: in transformers on {told['device']}."
    learnt = f" It learnt from {told['learnt_from']:,} texts that the target wrote." if told["learnt_from"] else ""
    return (
        f"\n\n## Draft for {code(visible(told['target']))}\n\nOn {told['texts']} texts that the target wrote and it "
        f"had not seen, {told['greedy']:.0%} of single drafted tokens are the target's greedy choice, and "
        f"{told['overlap']:.0%} or more are accepted where tokens are sampled.{learnt} {pays}\n"
    )


def _pays(of: dict[str, Any]) -> str:
    if not of["draft_tokens"]:
        return "no length of draft should be faster than no draft"
    return (
        f"drafting {of['draft_tokens']} tokens at a time makes {of['tokens_per_pass']:.2f} tokens a pass, and should "
        f"be {of['speed_up']:.2f} times as fast as no draft"
    )

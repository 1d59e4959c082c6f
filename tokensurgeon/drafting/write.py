"""Write a draft: the transplant, with what it learnt, and what was measured."""

from __future__ import annotations

import shutil
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
    told: dict[str, Any],
    overwrite: bool,
) -> None:
    """Write and verify.

    Args:
        out: Where to.
        model: The transplant; its weights are moved where it learnt nothing.
        base: What it was made from.
        learnt: What it learnt, if it did.
        run: Of the training, for the manifest.
        told: What was measured, for manifest and card.
        overwrite: Replace a model that is there.

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
        manifest.content["draft"] = told
        manifest.write(work)
        manifest.content["verified"] = accepted(invariants(work, base))
        manifest.content["sha256"] = recorded_digests(work)
        manifest.write(work)
        card = work / "README.md"
        write_text(card, read_text(card).rstrip() + _section(told))


def _section(told: dict[str, Any]) -> str:
    drafted, speed = told["draft_tokens"], told["speed_up"]
    pays = (
        f"Drafting {drafted} tokens at a time makes {told['tokens_per_pass']:.2f} tokens a pass, and should be "
        f"{speed:.2f} times as fast as no draft"
        if drafted
        else "No length of draft should be faster than no draft"
    )
    learnt = f" It learnt for {told['minutes']:g} minutes from texts that the target wrote." if told["minutes"] else ""
    return (
        f"\n\n## Draft for {code(visible(told['target']))}\n\nOf single drafted tokens {told['greedy']:.0%} are the "
        f"target's greedy choice; of sampled ones {told['overlap']:.0%} are accepted ({told['positions']:,} tokens of "
        f"{told['texts']} texts that it had not seen).{learnt} {pays}, in transformers on {told['device']}.\n"
    )

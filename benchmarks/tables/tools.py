"""The tables on other tools: draft models, llama.cpp."""

from __future__ import annotations

from typing import Any


def drafts(results: list[dict[str, Any]]) -> str:
    """Acceptance and time per side, greedy and sampling."""
    lines = [
        "| draft | acceptance, greedy | accepted at a time | time against none | acceptance, sampling | accepted at a "
        "time | time against none |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        lines.append(f"| **{result['title']}** | | | | | | |")
        for side, modes in result["sides"].items():
            if side == "no draft":
                continue
            cells = []
            for of in (modes["greedy"], modes["sampling"]):
                cells += [f"{of['acceptance']:.0%}", f"{of['accepted_length']:.2f}", f"{1 / of['speed_up']:.2f} ×"]
            lines.append(f"| {side} | {' | '.join(cells)} |")
    how = results[0]["settings"]["generation"]
    lines += [
        "",
        f"{how['prompts']} prompts of {how['prompt_bytes']} bytes, WikiText-2 and GSM8K, {how['new_tokens']} tokens "
        f"after each, {how['draft_tokens']} drafted at a time; one thread beside other work, "
        f"{results[0]['hardware']['cpu']}, "
        f"{results[0]['date']}. Result files: `benchmarks/results/drafts_*.json`.",
    ]
    return "\n".join(lines)


def llama_cpp(result: dict[str, Any]) -> str:
    """Tokens, logits and drafting in llama.cpp."""
    lines = [
        "| exported to GGUF | texts cut alike | same best token | divergence, nats | accepted by llama-cpp-python | by "
        "llama.cpp's own program | untouched as draft |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for of in result["pairs"].values():
        own = of["own program"] or {"draft": {}, "untouched": {}}
        counts, other = own["draft"], own["untouched"]
        rate = f"{counts['n_accept'] / counts['n_drafted']:.0%}" if counts.get("n_drafted") else "not run"
        lines.append(
            f"| {of['title']} | {of['cut_alike']} of {of['pieces']} | {of['same_best_token']:.1%} of "
            f"{of['positions']:,} | {of['kl_nats']:.1e} | {of['drafting']['acceptance']:.0%} | {rate} | "
            f"{'refused' if other.get('refused') else 'not run' if not other else 'accepted'} |"
        )
    how = result["settings"]
    lines += [
        "",
        f"Ridge, float32 for tokens and logits (on four texts), float16 for drafting: greedy, one prompt of 400 bytes, "
        f"{how['new_tokens']} tokens, {how['draft_tokens']} drafted at a time. llama-cpp-python "
        f"{result['versions']['llama-cpp-python']}, {result['date']}. Result file: "
        "`benchmarks/results/llama_cpp.json`.",
    ]
    return "\n".join(lines)

"""The tables of a healing in groups, one of which is killed and comes back."""

from __future__ import annotations

from typing import Any

__all__ = ["diloco"]


def diloco(result: dict[str, Any]) -> str:
    """Loss and bytes of all ways to train, and the log of the one with a kill."""
    lines = [
        "| | steps, tokens | held out, bits per byte | other text | bytes sent per token |",
        "|---|---:|---:|---:|---:|",
    ]
    trained = {title: of for title, of in result["sides"].items() if "best" in of}
    start = next(iter(trained.values()))["start"]
    lines.append(f"| before | | {start['held_out']:.4f} | {start['other']:.4f} | |")
    for title, of in result["sides"].items():
        sent = f"{of['measured_bytes_per_token']:,.0f}" if "measured_bytes_per_token" in of else ""
        if title in trained:
            scored = f"{of['steps']}, {of['tokens']:,} | {of['best']['held_out']:.4f} | {of['best']['other']:.4f}"
        else:
            scored = " | | "
        lines.append(f"| {title} | {scored} | {sent} |")
    killed = next(of for of in trained.values() if "log" in of)
    lines += ["", "| second | first group at step | |", "|---:|---:|---|"]
    lines += [f"| {entry['at_s']:.0f} | {entry['first_group_at_step']} | {entry['what']} |" for entry in killed["log"]]
    groups = trained["two groups"]
    lines += [
        "",
        "Outputs of two groups have one digest. The first group that lost the other made a step in "
        f"{killed['median_gap_s']:.1f} s (median); the longest wait for one was "
        f"{killed['longest_gap_s']:.0f} s, before step {killed['longest_gap_before_step']}. "
        f"Groups meet every {result['settings']['every']} steps and send "
        f"{result['times_less_than_ddp']:.1f} times less than DDP, as the loopback counted it; they report "
        f"{groups['reported_bytes_per_token']['bytes']:,.0f} bytes per token, and "
        f"{groups['reported_bytes_per_token']['at_every_step']:,.0f} had they met at every step. "
        f"{result['hardware']['cores']} cores of {result['hardware']['cpu']} with other work beside, {result['date']}. "
        "Result file: `benchmarks/results/diloco.json`.",
    ]
    return "\n".join(lines)

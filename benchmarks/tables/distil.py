"""The table on ways to distil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.intervals import accuracy, loss

__all__ = ["distil"]

_TITLES = {
    "text": "its own tokenizer, text alone",
    "own": "its own tokenizer, teacher by byte prefixes",
    "own_teacher": "the same, nine tenths of the loss the teacher's",
    "gold": "its own tokenizer, TRL's GOLDTrainer",
    "written": "its own tokenizer, text that the teacher wrote",
    "transplant_text": "teacher's tokenizer, text alone",
    "transplant": "teacher's tokenizer, teacher by position",
}
_LEARNT, _OTHER = ("code", "prose"), ("lambada", "gsm8k")


def distil(result: dict[str, Any]) -> str:
    """By student and side: change of the loss against the untouched student, divergence, accuracies, time."""
    lines = [
        "| student, trained with | code and prose | seeds | other text | divergence | LAMBADA | ARC-easy | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for student in result["settings"]["students"]:
        of = result["students"].get(student["name"])
        if of is None:
            continue
        start, title = of["untouched"], student["title"]
        lines.append(f"| **{title}, untouched** | 0 | | 0 | {_apart([start])} | {_tasks(start)} | |")
        lines.append(_row("teacher's tokenizer, untrained", [of["transplant"]], start))
        lines += [_row(_TITLES[side], of["sides"][side], start) for side in _TITLES if side in of["sides"]]
    steps, n = result["settings"]["steps"], result["settings"]["bytes"]
    lines += [
        "",
        "Change of the loss against the untouched student, bits per byte, mean over seeds, with the 95% interval over "
        "documents; beside it the least and the greatest of the seeds. Code and prose: of the kinds that were trained "
        "on, not the same text; other text: LAMBADA, GSM8K. Divergence: from the teacher's belief about the next byte, "
        f"nats, where both have read the same. {steps} updates of 1 kB, {n // 1000} kB of code and of prose once; "
        "seconds of one core's time, start and evaluations included, what the teacher says taken from the cache, which "
        "GOLDTrainer has none of. Teacher: Qwen2.5-Coder-1.5B "
        f"(LAMBADA, ARC-easy: {_tasks(result['teacher']).replace(' | ', ', ')}). "
        f"{result['hardware']['cpu']}, {result['date']}. Result file: `benchmarks/results/distil.json`.",
    ]
    return "\n".join(lines + _cache(result["cache"]))


def _cache(found: dict[str, Any]) -> list[str]:
    """What is saved where a teacher has read the text before."""
    first, again = (found[time] for time in ("first", "again"))
    return [
        "",
        f"What the teacher says is kept: {found['cache_bytes'] / found['text_bytes'] * 1024 / 1000:.0f} kB for 1 kB of "
        f"text. A training of {first['steps']} updates takes {first['cpu_s']:.0f} seconds of processor time where the "
        f"teacher reads first, and {again['cpu_s']:.0f} where it has read before "
        f"({first['cpu_s'] / again['cpu_s']:.1f} times less), with {first['peak_mib'] / 1024:.1f} and "
        f"{again['peak_mib'] / 1024:.1f} GiB at most.",
    ]


def _row(title: str, runs: Sequence[dict[str, Any]], start: dict[str, Any]) -> str:
    learnt, other = (_change(runs, start, names) for names in (_LEARNT, _OTHER))
    each = [loss(_texts(run, _LEARNT), _texts(start, _LEARNT))["mean"] for run in runs]
    seeds = f"{min(each):+.3f} to {max(each):+.3f}" if len(each) > 1 else ""
    seconds = [run["cpu_s"] for run in runs if run.get("read") == 0 or "gold" in run]
    told = f"{sum(seconds) / len(seconds):.0f}" if seconds else ""
    return f"| {title} | {learnt} | {seeds} | {other} | {_apart(runs)} | {_tasks(runs[0])} | {told} |"


def _change(runs: Sequence[dict[str, Any]], start: dict[str, Any], names: Sequence[str]) -> str:
    found = loss(_mean(runs, names), _texts(start, names))
    return f"{found['mean']:+.3f} ({found['interval'][0]:+.3f} to {found['interval'][1]:+.3f})"


def _texts(run: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: run["texts"][name] for name in names}


def _mean(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Documents with the mean over runs of their loss."""
    found = {}
    for name in names:
        same = zip(*(run["texts"][name] for run in runs), strict=True)
        found[name] = [{"nats": sum(d["nats"] for d in of) / len(of), "bytes": of[0]["bytes"]} for of in same]
    return found


def _apart(runs: Sequence[dict[str, Any]]) -> str:
    """Mean over texts, places and runs."""
    parts = [of for run in runs for text in run["apart"].values() for of in text]
    return f"{sum(apart for apart, _ in parts) / sum(places for _, places in parts):.3f}"


def _tasks(run: dict[str, Any]) -> str:
    return " | ".join(f"{accuracy(run[task])['mean']:.1%}" if task in run else "" for task in ("lambada", "arc_easy"))

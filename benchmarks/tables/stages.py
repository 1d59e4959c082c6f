"""The tables of where the time of whole commands goes."""

from __future__ import annotations

from typing import Any

__all__ = ["stages", "stages_before"]

_TITLES = {"ridge": "ridge", "omp": "OMP, k=64", "mergekit-tokensurgeon": "mergekit-tokensurgeon, k=64"}


def stages(result: dict[str, Any]) -> str:
    """Whole commands, then their stages."""
    lines = ["| pair | command | wall time | processor time | peak memory | loss |", "|---|---|---:|---:|---:|---:|"]
    for title, commands in result["pairs"].items():
        for name, of in commands.items():
            loss = "" if of["loss"] is None else f"+{of['loss']:.3f}"
            lines.append(
                f"| {title} | {_TITLES.get(name, name)} | {of['median_wall_s']:.0f} s | {of['median_cpu_s']:.0f} s | "
                f"{of['median_peak_mib'] / 1024:.1f} GiB | {loss} |"
            )
    staged = [
        (f"{title}, {_TITLES.get(name, name)}", {stage["stage"]: stage["seconds"] for stage in of["stages"]})
        for title, commands in result["pairs"].items()
        for name, of in commands.items()
        if of["stages"]
    ]
    lines += [
        "",
        f"| stage, seconds | {' | '.join(title for title, _ in staged)} |",
        "|---" + "|---:" * len(staged) + "|",
    ]
    for stage in dict.fromkeys(stage for _, seconds in staged for stage in seconds):
        cells = " | ".join(f"{seconds[stage]:.1f}" if stage in seconds else "" for _, seconds in staged)
        lines.append(f"| {stage} | {cells} |")
    lines += [
        "",
        f"Medians of {result['settings']['repeats']}, {result['hardware']['cores']} cores of "
        f"{result['hardware']['cpu']}, {result['date']}; loss in bits per byte of the manifest's own text. Result "
        "file: `benchmarks/results/stages.json`.",
    ]
    return "\n".join(lines)


def stages_before(result: dict[str, Any]) -> str:
    """Whole commands before and now."""
    lines = ["| pair, ridge | wall time | processor time | peak memory | times less |", "|---|---:|---:|---:|---:|"]
    for title, of in result["pairs"].items():
        old, new = of["before"], of["now"]
        cells = (
            f"{old['median_wall_s']:.0f} s, now {new['median_wall_s']:.0f} s",
            f"{old['median_cpu_s']:.0f} s, now {new['median_cpu_s']:.0f} s",
            f"{old['median_peak_mib'] / 1024:.1f} GiB, now {new['median_peak_mib'] / 1024:.1f} GiB",
            f"{old['median_wall_s'] / new['median_wall_s']:.1f}",
        )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    where = f"{result['hardware']['cores']} cores of {result['hardware']['cpu']}, {result['date']}"
    file = "Result file: `benchmarks/results/stages_before.json`."
    return "\n".join([*lines, "", f"The code of {result['settings']['revision']}, once each, {where}. {file}"])

"""Loss against minutes, drawn from the results of `benchmarks.experiments.heal`.

A control, which has no manifest, has no curve.

python -m benchmarks.tables.heal_curves
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.common.pairs import pair_title
from benchmarks.experiments.fidelity import all_results

HERE = Path(__file__).parents[1]
PANELS = {
    "held_out": "held out of the text that is trained on",
    "other": "Python's documentation, of which other parts are trained on",
}


def main(results: Path = HERE / "results") -> None:
    """One line per side: bits per byte since the start, on both of the texts that healing scores as it goes."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for result in all_results(HERE / "experiments/heal.toml", results):
        for side, of in result["pair"]["sides"].items():
            run = of.get("healed", {})
            curve, written = run.get("curve"), run.get("own", {}).get("seconds", 0.0) / 60
            if not curve:
                continue
            for panel, key in zip(panels, PANELS, strict=True):
                gained = [entry[key] - curve[0][key] for entry in curve]
                panel.plot(
                    [written + entry["minutes"] for entry in curve], gained, "o-", label=f"{pair_title(result)}: {side}"
                )
    for panel, title in zip(panels, PANELS.values(), strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("minutes, in the first of which the base writes")
        panel.grid(True, alpha=0.3)
    panels[0].set_ylabel("bits per byte, since the start")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(results / "heal.png", dpi=110)


if __name__ == "__main__":
    main()

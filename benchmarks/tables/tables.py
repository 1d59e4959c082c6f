"""The tables on trimming, auto and numbers; `benchmarks.tables.results` puts them in their places."""

from __future__ import annotations

from typing import Any

__all__ = ["auto", "numbers", "trimming"]


def trimming(result: dict[str, Any]) -> str:
    """Size, exactness and time of whole commands."""
    lines = [
        "| | tokens | parameters | text cut as before | logits differ by | other texts changed | wall | memory |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, of in result["trim"].items():
        base = of["untouched"]
        title = result["settings"]["models"][name]["title"]
        lines.append(f"| **{title}** | {base['tokens']:,} | {base['parameters'] / 1e6:.1f} M | | | | | |")
        for side, row in of["sides"].items():
            if "error" in row:
                lines.append(f"| {side} | does not run: {row['error']} | | | | | | |")
                continue
            was, now = row["tokens_for_the_text"]
            differ = row["logits_differ_by"]
            cells = [
                f"{row['tokens']:,}",
                f"{row['parameters'] / 1e6:.1f} M",
                "yes" if row["text_encoded_as_before"] else f"no: {now / was:.2f} times the tokens",
                "tokens are gone" if differ is None else f"{differ:.1g}",
                f"{row['other_texts_changed']} of {row['other_texts']}",
                f"{row['wall_s']:.0f} s",
                f"{row['peak_mib'] / 1024:.1f} GiB",
            ]
            lines.append(f"| {side} | {' | '.join(cells)} |")
    lines += [
        "",
        "| | bits per byte of the text | of LAMBADA | tokens per byte there | scored tokens/s | generated tokens/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, of in result["trim"].items():
        for side in ("untouched", "tokensurgeon"):
            row = of["untouched"] if side == "untouched" else of["sides"][side]
            bits = row["bits"]
            cells = [
                f"{bits['wikitext2']['bits_per_byte']:.4f}",
                f"{bits['lambada']['bits_per_byte']:.4f}",
                f"{bits['lambada']['tokens_per_byte']:.3f}",
                f"{row['speed']['scoring']:.0f}",
                f"{row['speed']['generation']:.1f}",
            ]
            trimmed = "trimmed" if side == "tokensurgeon" else "untouched"
            lines.append(f"| {result['settings']['models'][name]['title']}, {trimmed} | {' | '.join(cells)} |")
    lines += ["", _ran(result, "trimming")]
    return "\n".join(lines)


def auto(results: list[dict[str, Any]]) -> str:
    """What `--method auto` took, beside the candidates that were measured with it."""
    lines = ["| | loss | 95% interval | wall, trials included |", "|---|---:|---:|---:|"]
    for result in results:
        sides = result["pair"]["sides"]
        choice = f"auto: took {_took(sides['auto']['choice']['best'])}"
        lines.append(f"| **{result['title']}** | | | |")
        for side, of in sorted(sides.items(), key=lambda item: (item[0] != "auto", item[1]["loss"]["mean"])):
            low, high = of["loss"]["interval"]
            title, wall = (choice, f"{of['wall_s'] / 60:.0f} min") if side == "auto" else (side, "")
            lines.append(f"| {title} | {of['loss']['mean']:+.3f} | {low:.3f} to {high:.3f} | {wall} |")
    return "\n".join([*lines, "", "Result files: `benchmarks/results/auto_*.json`."])


def _took(best: dict[str, Any]) -> str:
    """A method that `auto` chose."""
    k = f", k={best['options']['k']}" if "k" in best["options"] else ""
    return f"{best['method']}{k}{', calibrated' if best['calibrated'] else ', not calibrated'}"


def numbers(results: list[dict[str, Any]]) -> str:
    """Loss by place, with the donor's way of cutting numbers and with the base's."""
    lines = [
        "| loss in bits per byte | GSM8K | 95% interval | in numbers | behind them | elsewhere | one digit each "
        "| WikiText-2 | sums right | tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        untouched = result["pair"]["untouched"]
        lines.append(
            f"| **{result['title']}** | | | | | | | | {_sums(untouched)} | {untouched['tokens']['gsm8k']:,.0f} |"
        )
        for side, row in result["pair"]["sides"].items():
            mean, (low, high) = row["loss"]["gsm8k"]["mean"], row["loss"]["gsm8k"]["interval"]
            before, after = untouched["by_place"]["gsm8k"], row["by_place"]["gsm8k"]
            cells = [
                f"{mean:+.3f}",
                f"{low:.3f} to {high:.3f}",
                *(f"{after[place] - before[place]:+.3f}" for place in before),
                *(f"{row['loss'][name]['mean']:+.3f}" for name in ("gsm8k, one digit", "wikitext2")),
                _sums(row),
                f"{row['tokens']['gsm8k']:,.0f}",
            ]
            lines.append(f"| {side} | {' | '.join(cells)} |")
    settings = results[0]["settings"]["measures"]
    lines += [
        "",
        f"{settings['bytes'] / 1024:.0f} kB each; {settings['sums']} sums of two numbers of one digit, behind "
        "six worked ones; the bold lines are the untouched bases. Result files: `benchmarks/results/numbers_*.json`.",
    ]
    return "\n".join(lines)


def _sums(row: dict[str, Any]) -> str:
    return f"{row['sums']['1']['mean']:.0%}" if row["sums"] else ""


def _ran(result: dict[str, Any], name: str) -> str:
    hardware = result["hardware"]
    return (
        f"{hardware['threads']} of {hardware['cores']} cores of {hardware['cpu']}, {result['date']}. Result file: "
        f"`benchmarks/results/{name}.json`."
    )

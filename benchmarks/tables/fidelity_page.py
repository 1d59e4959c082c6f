"""One page with what the fidelity bench found: tables, and plots beside them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

__all__ = ["write_page"]

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>What each method loses</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem;color:#1c1c1c}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
.wide{overflow-x:auto}small{color:#555}svg{max-width:100%;height:auto}
</style>
<h1>What each method loses</h1>
<p>Loss in bits per byte against the untouched base, mean of {{ corpora|join(", ") }} ({{ kib }} KiB each), with 95%
intervals from a bootstrap over documents. <em>Beyond segmentation</em> is what is lost more than by the untouched base
that is fed text in the donor's segmentation, each token as the equal one or as the base's pieces: a reference for what
rows can do. WikiText-2 counts every piece of 2 kB as a document. Accuracy in percent. Time is the
processors' (two are busy for most of it), because the machine did other work besides: one run of the whole
command.
</p>
{% for result in results %}{% set pair = result.pair %}
<h2>{{ result.title }}</h2>
<p>{{ result.hardware.cores }} cores of {{ result.hardware.cpu }}, {{ result.date }}, commit {{ result.commit }}.
Untouched base: {{ "%.4f"|format(pair.untouched.bits_per_byte.mean) }} bits per byte. In the donor's segmentation it
loses {{ "%+.4f"|format(pair.segmentation.mean) }}. {% if pair.lossy %}The donor's tokenizer drops something of a text
(case, line breaks); all sides are scored on what it leaves.{% endif %}</p>
{{ plots[loop.index0] }}
<div class="wide"><table>
<tr><th>method</th><th>loss</th><th>interval</th><th>beyond segmentation</th><th>shared, nats</th><th>new, nats</th>
{% for task in tasks %}<th>{{ task }}</th>{% endfor %}<th>dead ids</th><th>held-out cosine</th><th>unexplained</th>
<th>norm</th><th>rank</th><th>processor time</th><th>peak memory</th></tr>
{% for side, of in rows(pair) %}
<tr><td>{{ side }}</td><td>{{ "%+.4f"|format(of.loss.mean) }}</td>
<td>{{ "%+.3f"|format(of.loss.interval[0]) }} to {{ "%+.3f"|format(of.loss.interval[1]) }}</td>
<td>{{ "%+.4f"|format(of.reconstruction.mean) if of.reconstruction else "" }}</td>
{% for group in ("shared", "new") %}
<td>{{ "%.2f"|format(of[group + "_tokens"].nats_per_token) if of[group + "_tokens"] else "" }}</td>{% endfor %}
{% for task in tasks %}<td>{% if of[task] %}{{ "%.0f"|format(100 * of[task].mean) }} <small>({{
"%.0f"|format(100 * of[task].interval[0]) }}–{{ "%.0f"|format(100 * of[task].interval[1]) }})</small>{% endif %}</td>
{% endfor %}
<td>{{ "%.0e"|format(of.dead_mass) if of.dead_mass is defined else "" }}</td>
{% for key in ("cosine", "unexplained", "norm_ratio", "rank") %}
<td>{{ "%.3g"|format(of.held_out[key]) if of.held_out and of.held_out[key] is defined else "" }}</td>{% endfor %}
<td>{{ "%.0f s"|format(of.cpu_s) if of.cpu_s else "" }}</td>
<td>{{ "%.1f GiB"|format(of.peak_mib / 1024) if of.peak_mib else "" }}</td></tr>
{% endfor %}</table></div>
{% for side, of in pair.sides.items() if of.failed %}<p><b>{{ side }}</b> failed: <code>{{ of.failed }}</code></p>
{% endfor %}
{% endfor %}
</html>
"""
TASKS = ("lambada", "arc_easy", "piqa", "arithmetic")


def write_page(results: list[dict[str, Any]], path: Path) -> None:
    """One HTML file that needs nothing else, for the results of several pairs."""
    corpora = list(results[0]["pair"]["untouched"]["bits_per_byte"])
    page = Environment(autoescape=True).from_string(_PAGE)
    page.globals["rows"] = rows
    path.write_text(
        page.render(
            results=results,
            kib=results[0]["settings"]["measures"]["bytes"] // 1024,
            corpora=[name for name in corpora if name not in ("mean", "interval")],
            plots=[_plot(result["pair"]) for result in results],
            tasks=TASKS,
        )
    )


def rows(pair: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The untouched base, then all sides, the best first."""
    scored = [item for item in pair["sides"].items() if "loss" in item[1]]
    sides = sorted(scored, key=lambda item: item[1]["loss"]["mean"])
    return [("untouched base", pair["untouched"]), *sides]


def _plot(pair: dict[str, Any]) -> Any:
    """Loss per method with its interval; the part below the line is segmentation."""
    from markupsafe import Markup

    sides = rows(pair)[:0:-1]
    figure = Figure(figsize=(8, 0.28 * len(sides) + 1), layout="constrained")
    axes = figure.subplots()
    means = [of["loss"]["mean"] for _, of in sides]
    edges = [[max(0.0, m - of["loss"]["interval"][0]) for m, (_, of) in zip(means, sides, strict=True)],
             [max(0.0, of["loss"]["interval"][1] - m) for m, (_, of) in zip(means, sides, strict=True)]]  # fmt: skip
    colours = ["#b0703c" if name.startswith("mergekit") else "#3c78b0" for name, _ in sides]
    axes.barh([name for name, _ in sides], means, xerr=edges, color=colours, ecolor="#444", height=0.7)
    axes.axvline(pair["segmentation"]["mean"], color="#888", linestyle="--", label="segmentation alone")
    axes.set_xlabel("loss in bits per byte")
    axes.legend(loc="lower right", fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Markup(buffer.getvalue()[buffer.getvalue().index("<svg") :])

"""The experiments' scripts, at a small size."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from pathlib import Path

import processes
import pytest
import torch

from benchmarks.common.problems import load_problem
from benchmarks.experiments import architectures, compare, growth, merge_methods, numbers, solver
from benchmarks.experiments import finetunes as finetuning
from benchmarks.experiments import merge as merging
from benchmarks.tables import heal_curves
from benchmarks.tables import results as readme
from benchmarks.tables.merge import merge_interference

SMALL = """
device = "{device}"
repeats = 2
targets = 12
sklearn_targets = 3
k = [2, 4]
[[problems]]
name = "small"
atoms = 700
dim = 32
targets = 20
"""


def test_the_solver_experiment(tmp_path):
    """The same code that runs on a GPU; sides without a peer."""
    (tmp_path / "small.toml").write_text(SMALL.format(device="cpu"))
    solver.main(tmp_path / "small.toml", tmp_path)
    result = json.loads((tmp_path / "small.json").read_text())
    small = result["problems"]["small"]
    assert (small["targets"], small["atoms"], small["dim"]) == (12, 700, 32)
    for row in small["k"].values():
        assert row["scikit-learn"]["same_supports"] == {"default": 1.0, "exact": 1.0}
        assert row["default"]["mean_residual_over_exact"] == pytest.approx(1.0, abs=1e-6)
        assert all(row["default"]["parts_ms_per_target"][part] > 0 for part in ("scans", "products"))
        assert len(row["exact"]["seconds"]) == 2 and 0 <= row["default"]["settled_in_float32"] < 0.1
    assert set(result["precision"]) == {"default", "exact"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_bounds_the_solver_is_said():
    sides = {
        "default": {"median_ms_per_target": 4.0, "parts_ms_per_target": {"scans": 3.0, "products": 2.0}},
        "mergekit": {"median_ms_per_target": 32.0},
    }
    (_, said) = readme._bound({"problems": {"A": {"k": {"64": sides}}}, "precision": {"default": "int8"}})
    assert "75% of the default's time are its scans and 50% the int8 products" in said and "16 × as fast" in said
    assert readme._bound({"problems": {"A": {"k": {"64": {"default": {}}}}}}) == []


def test_the_gpu_experiment_says_what_it_needs(tmp_path):
    (tmp_path / "gpu.toml").write_text(SMALL.format(device="cuda"))
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        solver.main(tmp_path / "gpu.toml", tmp_path)


def test_the_gpu_experiment_has_the_keys_of_the_other():
    directory = solver.RESULTS.parent / "experiments"
    one, gpu = (tomllib.loads((directory / f"solver{name}.toml").read_text()) for name in ("", "_gpu"))
    assert set(gpu) == set(one)
    assert all({"name", "atoms", "dim", "targets"} == set(problem) for problem in gpu["problems"])


def test_synthetic_problems_repeat():
    problem = {"targets": 30, "atoms": 50, "dim": 8}
    targets, atoms = load_problem(problem, 0)
    assert targets.shape == (30, 8) and atoms.shape == (50, 8)
    assert torch.equal(load_problem(problem, 0)[1], atoms)
    assert load_problem(problem, 4)[0].shape == (4, 8)


def measured(point):
    """As `growth.measure`, in a process that is forked."""
    done = processes.run(processes.MODULE, "benchmarks.experiments.growth", "--point", json.dumps(point))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "mib"),
    [
        ({"targets": 200, "atoms": 20_000, "dim": 64, "k": 60}, 40),  # nearly every pick is orthogonalised twice
        ({"targets": 400, "atoms": 20_000, "dim": 64, "k": 4, "copies": 50}, 64),  # float32 settles every pick
    ],
)
def test_the_memory_budget_is_kept_where_much_is_done_twice(point, mib):
    assert measured(point | {"memory_mib": mib})["extra_mib"] < mib * 1.1


@pytest.mark.slow
def test_the_memory_budget_is_kept():
    """Peak of a process of its own. Unbounded, this problem takes several times the budget."""
    point = {"targets": 1000, "atoms": 60_000, "dim": 64, "k": 4}
    measures = (growth.measure, 80), (measured, 0)
    bounded, unbounded = (measure(point | {"memory_mib": mib})["extra_mib"] for measure, mib in measures)
    assert bounded < 80 * 1.1 < 120 < unbounded


@pytest.mark.slow
def test_the_growth_plot(tmp_path):
    points = [{"value": v, "median_seconds": v**2 / 100, "median_extra_mib": 3.0 * v} for v in (10, 20, 40)]
    axis = {f"{n}_exponent": growth._exponent(points, f"median_{n}") for n in ("seconds", "extra_mib")}
    assert axis == {"seconds_exponent": pytest.approx(2), "extra_mib_exponent": pytest.approx(1)}
    result = {"axes": {name: {"points": points, **axis} for name in ("targets", "atoms")}}
    growth.plot(result | {"settings": {"centre": {"targets": 10}}, "hardware": {"cores": 2}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def healed(title, sides):
    """A result of the experiment on healing: all bits are 1, of sides 2."""
    bits = dict.fromkeys(("wikitext2", "lambada", "arxiv", "gsm8k", "mean"), 1.0)
    row = {"bits_per_byte": dict.fromkeys(bits, 2.0), "python": 2.0}
    curve = [{"minutes": float(i), "held_out": 2.0 - i, "other": 2.0} for i in range(2)]
    trained = {side: row if side == "control" else row | {"healed": {"curve": curve}} for side in sides}
    return {
        "title": title,
        "pair": {"untouched": {"bits_per_byte": bits, "python": 1.0}, "transplant": row, "sides": trained},
    }


@pytest.mark.slow
def test_the_curves_of_healing(tmp_path):
    """A side without a curve is left out; one figure for all results."""
    heal_curves.main(tmp_path)
    empty = (tmp_path / "heal.png").stat().st_size
    (tmp_path / "heal_gemma_smollm2.json").write_text(json.dumps(healed("A", ["ten minutes", "control"])))
    heal_curves.main(tmp_path)
    assert (tmp_path / "heal.png").stat().st_size > empty + 1_000


def test_further_sides_of_healing_stand_with_their_pair():
    table = readme.heal([healed("A", ["first"]), healed("A, further", ["second"]), healed("B", ["third"])])
    assert [line.split(" | ")[0].strip("| *") for line in table.splitlines()[2:]] == [
        "A", "untouched base, bits per byte", "transplant", "first", "second",
        "B", "untouched base, bits per byte", "transplant", "third",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "mamba", "gemma3n_text", "t5"])
def test_the_architectures_experiment(tmp_path, name):
    """What the committed result says of them is what happens."""
    experiment = tomllib.loads((solver.RESULTS.parent / "experiments/architectures.toml").read_text())
    donor = architectures.build({}, experiment["sizes"], "llama", tmp_path / "donor", 900)
    settings = experiment["architectures"][name]
    found = architectures.attempt(name, settings, experiment["sizes"], donor, tmp_path)
    assert found == json.loads((solver.RESULTS / "architectures.json").read_text())["architectures"][name]


def test_the_peak_of_a_command_is_its_own():
    held = bytearray(400 * 2**20)  # what the measuring process holds shall not count
    run = compare.timed([sys.executable, "-c", "x = bytearray(60 * 2**20)"])
    assert 60 < run["peak_mib"] < 150 < len(held) / 2**20 and run["cpu_s"] <= run["wall_s"] * 4 + 1
    with pytest.raises(RuntimeError, match=r"(?s)python.* failed: .*KeyError"):
        compare.timed([sys.executable, "-c", "{}[1]"])


def test_recipes_of_the_experiment_on_merges():
    experiment = tomllib.loads((merging.RESULTS.parent / "experiments/merge.toml").read_text())
    places = Path("first"), Path("second"), Path("origin")
    made = {name: merging.recipe({"method": name, **of}, *places) for name, of in experiment["merges"].items()}
    assert {name: of.get("base_model") for name, of in made.items()} == {
        "linear": None, "slerp": "first", "ties": "origin", "dare_linear": "origin",
    }  # fmt: skip
    assert made["slerp"]["parameters"] == {"t": 0.5}
    assert made["slerp"]["models"] == [{"model": "first"}, {"model": "second"}]
    assert [entry["parameters"]["weight"] for entry in made["ties"]["models"]] == [1.0, 1.0]


def test_a_union_in_one_call_is_the_union(zoo):
    """The same tokens, and text cut in the same way, as where mergekit adds them one by one."""
    from mergekit.common import ModelReference
    from transformers import AutoTokenizer

    from benchmarks.peers import union as peer_union

    gpt, spm = (AutoTokenizer.from_pretrained(zoo[name]) for name in ("gpt", "spm"))
    both = {ModelReference.parse(str(zoo["gpt"])): gpt, ModelReference.parse(str(zoo["spm"])): spm}
    theirs, ours = peer_union.build.build_union_tokenizer(gpt, both), peer_union.union(gpt, both)
    assert len(ours) > len(gpt) and set(ours.get_vocab()) == set(theirs.get_vocab())
    text = "The quick brown fox: def f(x): return 3\n" + SMALL
    assert ours.tokenize(text) == theirs.tokenize(text)


def test_recipes_of_the_merge_experiment():
    """Every side of the committed experiment, with what is prepared put in its place."""
    experiment = tomllib.loads((solver.RESULTS.parent / "experiments/merge_methods.toml").read_text())
    tuned = {name: Path(f"/m/{name}") for name in ("wikitext2", "python")}
    values = {name: {"dam": "c", "fisher": f"{name}.f", "metric": 1.0} for name in tuned}
    made = {s: merge_methods.recipe(of, Path("/m/base"), tuned, values) for s, of in experiment["sides"].items()}
    assert made["fisher"]["models"][1] == {"model": "/m/python", "parameters": {"fisher": "python.f"}}
    assert made["metrics_weighted"]["models"][0]["parameters"] == {"metric": 1.0}
    assert made["dam"]["parameters"] == {"coefficients": "c"} and "base_model" not in made["dam"]
    assert {side for side, of in made.items() if of.get("base_model") == "/m/base"} == {"pcb", "widen", "opcm"}


def test_task_arithmetic_of_a_length_lies_between_its_neighbours():
    def scores(*nats):
        return {"a": [{"nats": n, "bytes": 4} for n in nats]}

    curve = {"near": (2.0, scores(8, 4)), "far": (6.0, scores(4, 8)), "middle": (4.0, scores(6, 6))}
    found = [[piece["nats"] for piece in merge_methods.at_length(of, curve)["a"]] for of in (1, 2, 3, 4, 5.5, 7)]
    assert found == [[8, 4], [8, 4], [7, 5], [6, 6], [4.5, 7.5], [4, 8]]
    for name in ("merge_interference", "merge_three"):
        experiment = tomllib.loads((solver.RESULTS.parent / f"experiments/{name}.toml").read_text())
        assert set(experiment["curve"]) < set(experiment["sides"])


def test_an_experiment_says_which_fine_tunes_it_merges(tmp_path, monkeypatch):
    """The two of older experiments by default; of word problems, those that are held out are not read."""
    for name in finetuning.texts.CORPORA[1:]:
        rows = [
            {"context": f"{name} {i}", "continuation": "?", "text": "", "chain_of_thought": "."} for i in range(103)
        ]
        (tmp_path / f"{name}_dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "wikitext2_valid.txt").write_text("Prose. " * 100)
    monkeypatch.setenv("TOKENSURGEON_EVAL", str(tmp_path))
    assert list(finetuning.held_out(64)) == ["wikitext2", "python"]
    three = tomllib.loads((solver.RESULTS.parent / "experiments/merge_three.toml").read_text())
    held = finetuning.held_out(1 << 16, three["texts"])
    assert list(held) == ["wikitext2", "python", "gsm8k"] and len(held["gsm8k"]) == 100
    assert finetuning.training_text("gsm8k") == "\n\n".join(f"Question: gsm8k {i}\nAnswer: ." for i in (100, 101, 102))
    with pytest.raises(ValueError, match="no fine-tune on 'poems'"):
        finetuning.finetunes(finetuning.SHORT, ("wikitext2", "poems"))


def test_a_table_on_three_fine_tunes_has_a_column_for_each():
    side = {"bits_per_byte": {"wikitext2": 1.0, "python": 2.0, "gsm8k": 3.0, "mean": 2.0}}
    singles = dict.fromkeys(("base", "wikitext2", "python", "gsm8k"), side)
    beside = {"mean": -0.1, "interval": [-0.2, 0.0]}
    result = {
        "experiment": "merge_three", "prepared": {"fw": {"cpu_s": 9.0}},
        "settings": {"bytes": 2048, "texts": list(singles)[1:], "sides": {"tsvm, more": {"merge_method": "tsvm"}}},
        "sides": {**singles, "tsvm, more": {**side, "length": 1.5, "over_same_length": beside}},
    }  # fmt: skip
    title, rule, row, *_, told = merge_interference(result).split("\n")
    assert title.count("|") == rule.count("|") == row.count("|") and " GSM8K " in title
    assert row == "| `tsvm`, more | 1.5 | 1.0000 | 2.0000 | 3.0000 | 2.0000 | -0.1000 (-0.2000 to +0.0000) |"
    assert told.startswith("Bits per byte of three") and told.endswith("`benchmarks/results/merge_three.json`.")


def test_the_gain_of_a_merge_is_over_the_base():
    found, base = ({"a": [{"nats": n * math.log(2), "bytes": 4}]} for n in (6, 8))
    row = merge_methods.figures(found, base)
    assert row["bits_per_byte"]["mean"] == pytest.approx(1.5) and row["gain"]["a"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="a merge gives"):
        merge_methods.figures({"a": [{"nats": math.nan, "bytes": 4}]}, base)


def test_where_a_loss_sits_in_a_text():
    text = "I had 12 and 3."
    assert "".join("nbe"[place] for place in numbers.places(text)) == "eeeeennnbbbbnnb"
    assert numbers.places("none") == [2, 2, 2, 2]


def test_sums_are_right_and_the_same_every_time():
    asked = numbers.sums(5, 2)
    assert asked == numbers.sums(5, 2) != numbers.sums(5, 1)
    for context, answer in asked:
        lines = f"{context}{answer}".splitlines()
        assert len(lines) == 7
        for line in lines:
            left, right = line.split("=")
            assert sum(map(int, left.split("+"))) == int(right) and all(len(part) == 2 for part in left.split("+"))


def test_one_digit_of_every_number(monkeypatch):
    read = {"gsm8k": [["<<15*20=300>>300 boxes, 7 more"]], "wikitext2": [["in 1984"]], "arxiv": [["1"]]}
    monkeypatch.setattr(numbers.texts, "documents", lambda _: read)
    found = numbers.documents(1, None)
    assert set(found) == {"gsm8k", "gsm8k, one digit", "wikitext2"}
    assert found["gsm8k, one digit"] == [["<<5*0=0>>0 boxes, 7 more"]]
    assert numbers.documents(1, str.upper)["wikitext2"] == [["IN 1984"]]

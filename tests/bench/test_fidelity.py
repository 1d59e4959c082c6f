"""The fidelity bench: figures, intervals, cache and page."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.common import intervals, measures, texts
from benchmarks.experiments import fidelity
from benchmarks.tables import fidelity_page
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text


def documents(bits, n=40, seed=0):
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 0.1, n)
    return [{"nats": (bits + e) * 100 * math.log(2), "bytes": 100, "tokens": 30} for e in noise]


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    inside = 0
    with monkeypatch.context() as patch:
        patch.setattr(intervals, "_DRAWS", 400)
        for seed in range(100):
            low, high = intervals.bits_per_byte({"a": documents(1.0, seed=seed)})["interval"]
            inside += low < 1.0 < high
    assert 85 <= inside <= 100
    low, high = intervals.accuracy([1, 0] * 50)["interval"]
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_a_loss_is_paired():
    """Documents differ much, the loss hardly: its interval is that of the difference."""
    easy = {"a": documents(1.0), "b": documents(2.0)}
    hard = {name: [d | {"nats": d["nats"] + 7 * math.log(2)} for d in of] for name, of in easy.items()}
    lost = intervals.loss(hard, easy)
    assert lost["mean"] == pytest.approx(0.07) and lost["interval"] == pytest.approx([0.07, 0.07])
    value = intervals.bits_per_byte(hard)
    assert value["mean"] == pytest.approx((value["a"] + value["b"]) / 2) and value["interval"][1] > value["mean"]


SETTINGS = {"bytes": 4096, "items": {"lambada": 0, "arc_easy": 0, "piqa": 0, "arithmetic": 0}}


@pytest.fixture
def no_tasks(monkeypatch):
    monkeypatch.delenv("TOKENSURGEON_EVAL", raising=False)
    monkeypatch.setattr(measures, "CHOICES", ())
    monkeypatch.setattr(measures, "COMPLETIONS", ())


@pytest.mark.usefixtures("no_tasks")
def test_measures_are_those_of_evaluate(zoo, tmp_path):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    found = measures.measure(tmp_path / "out", SETTINGS, Manifest.read(tmp_path / "out"))["texts"]
    loaded = load_model(tmp_path / "out")
    for name, of in texts.documents(4096).items():
        kept = [piece for pieces in of for piece in pieces if len(piece.encode()) >= 128]  # the last is a fragment
        assert len(kept) in (len(of), len(of) - 1)
        whole = score_text(loaded.model, loaded.encode, loaded.prefix, kept)
        assert sum(d["nats"] for d in found[name]) == pytest.approx(whole.nats)
        assert sum(d["bytes"] for d in found[name]) == whole.n_bytes
        assert sum(d["shared_tokens"] + d["new_tokens"] for d in found[name]) == whole.positions


@pytest.mark.usefixtures("no_tasks")
def test_a_forced_segmentation(zoo):
    """In its own segmentation the base loses nothing; in another's it reads the same bytes by more tokens."""
    own = measures.measure(zoo["gpt"], SETTINGS, None)["texts"]
    same = measures.measure_forced(zoo["gpt"], zoo["gpt"], SETTINGS)["texts"]
    assert same == own
    other = measures.measure_forced(zoo["gpt"], zoo["spm"], SETTINGS)["texts"]
    for name, of in own.items():
        assert [d["bytes"] for d in of] == [d["bytes"] for d in other[name]]
        assert sum(d["tokens"] for d in other[name]) > sum(d["tokens"] for d in of)


def test_a_second_run_reads_the_cache(tmp_path):
    bench = fidelity.Bench({"measures": SETTINGS}, tmp_path)
    runs = []
    for model in ("a", "a", "b"):
        assert bench._scores((model,), SETTINGS, lambda model=model: runs.append(model) or {"texts": {}})
    assert runs == ["a", "b"]
    pair = {"measures": {"bytes": 5000}}
    settings = fidelity.measures_of({"measures": SETTINGS}, pair)
    assert settings == SETTINGS | {"bytes": 5000}
    bench._scores(("a",), settings, lambda: runs.append("again") or {})
    assert runs == ["a", "b", "again"] and not list(tmp_path.glob("*.partial"))


def test_the_page(tmp_path):
    reference, lossy = ({"texts": {"a": documents(bits)}, "lambada": [1, 0, 1]} for bits in (1.0, 1.5))
    scores = {"lambada": [1, 1, 0], "arc_easy": [0, 1], "piqa": [1, 1], "arithmetic": [0, 0]}
    extra = {"arithmetic_bits": [[3.0, 2], [5.0, 2]]}
    untouched = fidelity.figures({**reference, **scores, **extra}, reference, None)
    side = fidelity.figures({**lossy, **scores, **extra}, reference, reference)
    assert side["reconstruction"]["mean"] == pytest.approx(0.5) and side["arithmetic_bits_per_byte"] == 2.0
    pair = {
        "untouched": untouched,
        "segmentation": {"mean": 0.1, "interval": [0.0, 0.2]},
        "sides": {"omp": {**side, "cpu_s": 5.0, "peak_mib": 100, "held_out": {"cosine": 0.5}}, "mergekit <x>": side},
    }
    pair["sides"]["mergekit y"] = {"failed": "it broke"}
    pair["lossy"] = False
    result = {
        "title": "A ← B",
        "pair": json.loads(json.dumps(pair)),
        "settings": {"measures": {"bytes": 4096}},
        "hardware": {"cores": 2, "cpu": "x"},
        "date": "today",
        "commit": "c",
    }
    other = result | {"title": "C ← D"}
    fidelity_page.write_page([result, other], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        page.count("<svg") == 2
        and "C ← D" in page
        and "+0.5000" in page
        and "mergekit &lt;x&gt;" in page
        and "it broke" in page
    )
    assert "src=" not in page


def test_a_peers_output_is_made_to_cut_as_its_file_says(copy_of):
    out = copy_of("gpt")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    text, raw = "one\n\n\ntwo 3x", TokenizerFiles.open(out).tokenizer.encode

    def loaded():
        return AutoTokenizer.from_pretrained(out)(text, add_special_tokens=False)["input_ids"]

    wanted = raw(text, add_special_tokens=False).ids
    assert loaded() != wanted
    fidelity.pinned(out)
    assert loaded() == wanted


@pytest.mark.parametrize(("fast", "runs_in"), [(True, "bfloat16"), (False, "float32")])
def test_what_is_measured_in_bfloat16_is_in_float32_where_the_processor_lacks_it(monkeypatch, fast, runs_in):
    """The result says what it was, and what asks for nothing gets nothing."""
    monkeypatch.setattr(measures, "computes_in_bfloat16", lambda _: fast)
    experiment = {"measures": {"bytes": 5, "dtype": "bfloat16"}}
    assert fidelity.measures_of(experiment, {"measures": {"bytes": 6}}) == {"bytes": 6, "dtype": runs_in}
    assert fidelity.measures_of(experiment, {"measures": {"dtype": "float16"}})["dtype"] == "float16"
    assert fidelity.measures_of({"measures": {"bytes": 5}}, {}) == {"bytes": 5}


def test_an_experiment_may_take_the_pairs_of_another(tmp_path):
    """With its own sides, and what it says of a pair in place of the other's."""
    pair = '[pairs.{0}]\ntitle = "{0}"\nbase = "b"\ndonor = "d"\nsides = ["x"]\nmeasures = {{ bytes = 5 }}\n'
    (tmp_path / "one.toml").write_text("[sides]\nx = []\n" + pair.format("A") + pair.format("B"))
    own = 'pairs_of = "one.toml"\n[sides]\ny = []\nz = []\n[pairs.B]\nsides = ["y"]\nmeasures = {}\n'
    (tmp_path / "two.toml").write_text(own)
    pairs = fidelity.read_experiment(tmp_path / "two.toml")["pairs"]
    assert pairs["A"] == {"title": "A", "base": "b", "donor": "d", "measures": {"bytes": 5}, "sides": ["y", "z"]}
    assert pairs["B"] == {"title": "B", "base": "b", "donor": "d", "measures": {}, "sides": ["y"]}
    (tmp_path / "two.toml").write_text(own.replace("pairs.B", "pairs.C"))
    with pytest.raises(ValueError, match=r"one\.toml has no pair 'C'"):
        fidelity.read_experiment(tmp_path / "two.toml")

"""Method auto: what is tried, how it is scored, what is taken."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

import tokensurgeon.surgery.auto as choose
from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes
from tokensurgeon.surgery.pair import align_models
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.vocabulary.meeting import token_bytes

AUTO = TransplantOptions(method="auto")


@pytest.fixture(autouse=True)
def little_text():
    """A third of what is scored by default holds as many rows of tiny vocabularies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "_BYTES", 8192)
        yield


@pytest.mark.parametrize(
    "base", ["gpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("untied", "biased"))]
)
def test_what_is_written_is_what_the_best_trial_makes(zoo, tmp_path, base):
    report = transplant(str(zoo[base]), str(zoo["spm"]), tmp_path / "auto", AUTO)
    choice, method = report.content["choice"], report.content["method"]
    best = choice["trials"][0]
    scores = [trial["bits_per_byte"] for trial in choice["trials"]]
    assert len(scores) == len(choose.CANDIDATES) and scores == sorted(scores) and len(set(scores)) > 2
    assert method["name"] == best["method"] and report.content["calibrated"] is best["calibrated"] is True
    assert choice["held_out"] >= 64 and choice["n_bytes"] > 6_000
    assert report.content["options"]["method"] == "auto"
    same = TransplantOptions(method=best["method"], method_options=best["options"], calibrate=best["calibrated"])
    transplant(str(zoo[base]), str(zoo["spm"]), tmp_path / "same", same)
    one, other = (tmp_path / name / "model.safetensors" for name in ("auto", "same"))
    assert one.read_bytes() == other.read_bytes()
    for file in ("README.md", "report.html"):
        assert "Chosen by bits per byte" in (tmp_path / "auto" / file).read_text()


def test_what_is_held_out_has_no_pieces(zoo):
    """They would be the token itself, whose row nobody is to know; those of new tokens are the base's own cut."""
    left, right, alignment, _ = align_models(str(zoo["gpt"]), str(zoo["spm"]))
    ids = np.array([*alignment.plan.ids(Provenance.RECONSTRUCTED)[1:4], *alignment.plan.ids(Provenance.COPIED)[:2]])
    pair = SimpleNamespace(base=left, donor=right, alignment=alignment)
    *new, one, other = choose._pieces_of(pair, ids)
    assert one == other == [] and [len(pieces) > 0 for pieces in new] == [True] * 3
    spelled, known = (token_bytes(side.vocabulary) for side in (right, left))
    assert [b"".join(known[i] for i in pieces) for pieces in new] == [spelled[i] for i in ids[:3]]


def test_trials_go_by_pieces_as_the_transplant_does(zoo, tmp_path, monkeypatch):
    seen, build = [], choose.build_rows
    monkeypatch.setattr(choose, "build_rows", lambda *a, **how: seen.append(how["pieces"]) or build(*a, **how))
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", AUTO)
    assert len(seen) > 3 and all(sum(map(bool, pieces)) > 100 and [] in pieces for pieces in seen)


def test_a_donor_that_is_the_base_loses_nothing(zoo, tmp_path):
    """Held-out rows come back exactly from a linear map, and the text scores as the untouched base does.

    By this seed, none of them is likelier than all other tokens: such a row would be replaced.
    """
    report = transplant(str(zoo["gpt"]), str(zoo["gpt"]), tmp_path / "out", replace(AUTO, seed=1, calibrate=False))
    loaded = load_model(zoo["gpt"], fast=True)  # as candidates are scored
    silent = torch.zeros(report.alignment.plan.n_rows)
    silent[torch.from_numpy(report.alignment.plan.ids(Provenance.UNREACHABLE, Provenance.PADDING))] = -math.inf
    pieces = split_bytes(python_text(choose._BYTES, choose._PART))
    truth = score_text(loaded.model, loaded.encode, loaded.prefix, pieces, log_weights=silent).bits_per_byte
    trials = {(t["method"], t["options"].get("k"), t["calibrated"]): t for t in report.content["choice"]["trials"]}
    assert trials["ridge", None, False]["bits_per_byte"] == pytest.approx(truth, rel=1e-4)
    assert abs(trials["focus", None, False]["bits_per_byte"] / truth - 1) > 1e-3


def test_a_row_that_stands_for_many_takes_their_probability(zoo):
    """Twenty copies of a row in the head, against one that counts for twenty."""
    loaded = load_model(zoo["untied"])
    pieces = ["The value of the object is what the statement returns."]
    weights = torch.zeros(loaded.model.config.vocab_size)
    weights[300] = math.log(20)
    weighed = score_text(loaded.model, loaded.encode, loaded.prefix, pieces, log_weights=weights)
    plain = score_text(loaded.model, loaded.encode, loaded.prefix, pieces)
    head = loaded.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.cat([head.weight, head.weight[300].expand(19, -1)]))
    copied = score_text(loaded.model, loaded.encode, loaded.prefix, pieces)
    assert weighed.nats == pytest.approx(copied.nats, rel=1e-5) and weighed.nats > plain.nats


@pytest.mark.slow
def test_text_and_calibration_are_the_users(zoo, tmp_path):
    (tmp_path / "mine.txt").write_text("Count the values, then return the object.\n" * 40)
    options = TransplantOptions(method="auto", calibrate=False, text=(str(tmp_path / "mine.txt"),))
    choice = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options).content["choice"]
    assert choice["n_bytes"] == pytest.approx((tmp_path / "mine.txt").stat().st_size, rel=0.01)
    assert not any(trial["calibrated"] for trial in choice["trials"])


def test_candidates_that_take_too_long_or_need_more_anchors_are_left_out(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "CANDIDATES", (("omp", {"k": 5000}), ("ridge", {})))
    left = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", AUTO).content["choice"]["trials"]
    assert left[0]["method"] == "ridge" and "exceeds" in left[-1]["note"] and left[-1]["bits_per_byte"] is None
    hurried = TransplantOptions(method="auto", method_options={"minutes": 1e-9})
    with pytest.raises(InputError, match=r"no candidate gives finite scores in less than 1e-09 minutes.*minutes=N"):
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "never", hurried)
    assert not (tmp_path / "never").exists()


def test_options_of_the_solver_do_not_bind_the_choice(zoo, tmp_path, monkeypatch):
    """What bounds omp's work space is no reason against another method."""
    monkeypatch.setattr(choose, "CANDIDATES", (("omp", {"k": 8}), ("ridge", {})))
    ridge = property(lambda choice: next(trial for trial in choice.trials if trial.method == "ridge"))
    monkeypatch.setattr(choose.Choice, "best", ridge)
    options = TransplantOptions(method="auto", memory="1GiB", exact=True)
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)
    assert report.content["method"]["name"] == "ridge" and report.content["options"]["memory"] == "1GiB"


def test_a_sample_stands_for_all_new_tokens(zoo, monkeypatch):
    """However few are drawn, their weights sum to as many tokens as there are."""
    aligned = align_models(str(zoo["gpt"]), str(zoo["spm"]))[2]
    plan = aligned.plan
    donor = VocabularyMatrices(torch.ones(plan.n_rows, 4))
    new = plan.ids(Provenance.RECONSTRUCTED)
    seen = set(new[:7].tolist()) | set(plan.ids(Provenance.COPIED)[:200].tolist())
    monkeypatch.setattr(choose, "_SAMPLE", 20)
    small = choose._smaller(aligned, donor, seen, 0)
    held = (small.alignment.plan.source < 0) & (plan.source >= 0)
    assert small.new == 7 and held.sum() == small.held_out >= 64 and len(new) > 40
    drawn = torch.from_numpy((small.alignment.plan.provenance == Provenance.RECONSTRUCTED) & ~held)
    assert int(drawn.sum()) == 27
    assert float(small.log_weights[drawn].exp().sum()) == pytest.approx(len(new), rel=1e-5)
    dropped = np.setdiff1d(new, np.flatnonzero(drawn.numpy()))
    assert bool((small.log_weights[torch.from_numpy(dropped)] == -math.inf).all())


@pytest.mark.slow
def test_rows_that_are_left_out_change_no_score(zoo, tmp_path, monkeypatch):
    """Against a trial in which every row of the output is there, those that take no probability too."""
    monkeypatch.setattr(choose, "_SAMPLE", 20)

    def trials(out):
        choice = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / out, AUTO).content["choice"]
        return {(t["method"], str(t["options"]), t["calibrated"]): t["bits_per_byte"] for t in choice["trials"]}

    def whole(small, donor, prior, _):
        plan = small.alignment.plan
        every = np.arange(plan.n_rows)
        return choose._Alive(small.alignment, small.log_weights, donor, every, prior, every)

    fewer = trials("fewer")
    monkeypatch.setattr(choose._Alive, "of", whole)
    assert trials("whole") == pytest.approx(fewer, abs=1e-4) and len(fewer) == 3


@pytest.mark.slow
def test_a_padding_token_of_the_base_beyond_the_donors_rows(copy_of, zoo, tmp_path):
    base = copy_of("spm")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": config["vocab_size"] - 1}))
    report = transplant(str(base), str(zoo["gpt"]), tmp_path / "out", AUTO)
    assert report.alignment.plan.n_rows < config["vocab_size"] and report.content["choice"]["trials"]


@pytest.mark.slow
def test_text_is_cut_to_the_context(zoo, copy_of, tmp_path):
    """Neither the base's states nor the trials read more tokens at once than the model has places for."""
    base = copy_of("gpt")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 50}))
    longest = []
    forward = LlamaForCausalLM.forward

    def watched(self, *args, **kwargs):
        longest.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", watched)
        patch.setattr("tokensurgeon.verification.tensors.forward_checks", lambda *_: iter(()))
        transplant(str(base), str(zoo["spm"]), tmp_path / "out", AUTO)
    assert len(longest) > 200 and max(longest) == 50


def test_a_text_that_says_nothing_is_refused(zoo, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n" * 5000)
    with pytest.raises(InputError, match=r"0 bytes are less than the 1,024"):
        options = TransplantOptions(method="auto", text=(str(tmp_path / "blank.txt"),))
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)


def test_it_is_refused_among_several_processes(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("tokensurgeon.surgery.transplant.world", lambda: 2)
    with pytest.raises(InputError, match="chooses in one process, not in 2"):
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", AUTO)


def test_on_the_command_line(zoo, tmp_path):
    command = [str(zoo["gpt"]), str(zoo["spm"]), "--method", "auto", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "Chosen by bits per byte" in result.output
    result = CliRunner().invoke(app, [*command, "--k", "8", "--overwrite"])
    assert result.exit_code == 2 and "method auto takes no k" in result.output

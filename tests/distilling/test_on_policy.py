"""Distilling what the student writes, through TRL."""

from __future__ import annotations

import json
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file
from tiny import byte_level, fast, llama, save, steady
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from tokensurgeon import DistilOptions, InputError, distil
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.errors import MissingDependencyError
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import Text, TextPieces
from tokensurgeon.healing.course import Course
from tokensurgeon.healing.schedule import schedule_of
from tokensurgeon.healing.texts import divide
from tokensurgeon.verification.verify import verify

pytest.importorskip("trl")

from trl.experimental.gkd import GKDTrainer
from trl.experimental.gold import GOLDTrainer

from tokensurgeon.distilling.prompts import Prompts
from tokensurgeon.distilling.trainers import _Tells

LINE = "The value of the object is {} and def f(x): return x * {}\n"
EMBEDDING, LAYER = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(LINE.format(i, i % 7) for i in range(200)))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A teacher with another byte-level tokenizer."""
    tokenizer = fast(byte_level(300), eos_token="<|endoftext|>")
    return save(tmp_path_factory.mktemp("other") / "teacher", llama(len(tokenizer), dim=48, seed=9), tokenizer)


@pytest.fixture(scope="module")
def short(zoo, other, tmp_path_factory):
    """Models of 16 learned positions, with the tokenizers of ``gpt`` and of the other teacher."""
    root, made = tmp_path_factory.mktemp("short"), {}
    for name, like in (("gpt", zoo["gpt"]), ("other", other)):
        tokenizer = AutoTokenizer.from_pretrained(like)
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=32, n_layer=1, n_head=2)
        made[name] = save(root / name, steady(GPT2LMHeadModel(config), 8), tokenizer)
    return made


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    monkeypatch.setattr("tokensurgeon.distilling.trainers._WRITTEN", 12)
    monkeypatch.setattr("tokensurgeon.distilling.prompts._PROMPT", 8)
    forget_accelerate()


def quick(text, share, **more):
    told = {"steps": 8, "piece": 128, "lora": 2, "lora_learning_rate": 0.02}
    return DistilOptions(**{"text": (str(text),), "on_policy": share, **told, **more})


def test_a_student_with_the_teachers_tokenizer_writes_and_learns(zoo, transplanted, text, tmp_path, monkeypatch):
    seen, rates, begin = [], [], _Tells.on_step_begin
    options = quick(text, 1.0, schedule="wsd")

    def told(self, *of, optimizer, **more):
        rates.append(optimizer.param_groups[0]["lr"])
        begin(self, *of, **more)

    monkeypatch.setattr(_Tells, "on_step_begin", told)
    report = distil(
        str(transplanted), str(zoo["untied-spm"]), tmp_path / "out", options, progress=lambda *of: seen.append(of[2])
    ).training
    assert report.steps == 8 and len(seen) == 8 and len(report.curve) >= 5 and report.rows == 0
    assert rates == pytest.approx([0.02 * schedule_of(options)(step / 8) for step in range(8)])
    assert 8 * 8 < report.tokens <= 8 * (8 + 1 + 12)  # prompts and what was written, not the pieces of text
    assert report.best["held_out"] <= report.curve[0]["held_out"]
    run = Manifest.read(tmp_path / "out").content["healed"]["runs"][-1]
    assert (run["on_policy"], run["lora"], run["command"]) == (1.0, 2, "distil")
    assert not run.keys() & {"rows", "learning_rate", "body_learning_rate", "teacher_weight", "top", "whole"}
    assert all(check.ok for check in verify(tmp_path / "out", zoo["gpt"]))
    old, new = (load_file(place / "model.safetensors") for place in (transplanted, tmp_path / "out"))
    assert torch.equal(old[EMBEDDING], new[EMBEDDING])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_the_text_goes_on_where_the_student_does_not(zoo, transplanted, text, tmp_path):
    """Almost all updates read whole pieces; what the teacher says of them makes the student more like it."""
    options = quick(text, 1e-9, steps=30)
    report = distil(str(transplanted), str(zoo["untied-spm"]), tmp_path / "out", options).training
    assert report.tokens > 30 * 25
    losses = [entry["teacher"] for entry in report.curve[1:]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_student_with_a_tokenizer_of_its_own(zoo, other, text, tmp_path, monkeypatch, capfd):
    """It reads what its texts begin with before all of them, and the teacher does not read that."""
    read, loss = [], GOLDTrainer.compute_loss

    def seen(self, model, inputs, *more, **named):
        read.append((inputs["input_ids"][0].tolist(), inputs["original_prompt_text"][0]))
        return loss(self, model, inputs, *more, **named)

    monkeypatch.setattr(GOLDTrainer, "compute_loss", seen)
    report = distil(str(zoo["gpt"]), str(other), tmp_path / "out", quick(text, 0.5, steps=6)).training
    assert report.steps == 6 and report.best["held_out"] <= report.curve[0]["held_out"]
    student = load_model(zoo["gpt"])
    assert len(read) == 6 and all(ids[:9] == [student.prefix, *student.encode(prompt)] for ids, prompt in read)
    written = [len(ids) <= 1 + 8 + 12 for ids, _ in read]
    assert any(written) and not all(written)
    assert "examples/s" not in capfd.readouterr().err
    old, new = (load_file(place / "model.safetensors") for place in (zoo["gpt"], tmp_path / "out"))
    assert torch.equal(old[EMBEDDING], new[EMBEDDING])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("gkd", 0.5), ("gold", 0.5), ("gold", 1e-9)])
def test_an_update_is_the_mean_of_its_pieces_and_a_piece_that_of_its_own_tokens(
    zoo, transplanted, other, text, tmp_path, monkeypatch, kind, share
):
    """Whoever wrote them, and however many the text has; no piece is padded to another one's length."""
    trainer = GKDTrainer if kind == "gkd" else GOLDTrainer
    compute, losses, lengths, told = trainer.compute_loss, [], set(), []

    def seen(self, model, inputs, *more, **named):
        found, alone = compute(self, model, inputs, *more, **named), compute(self, model, inputs)
        assert len(inputs["input_ids"]) == 1 and inputs["attention_mask"].all() and torch.equal(found, alone)
        losses.append(found.item())
        lengths.add(inputs["input_ids"].shape[1])
        return found

    monkeypatch.setattr(trainer, "compute_loss", seen)
    sides = (transplanted, zoo["untied-spm"]) if kind == "gkd" else (zoo["gpt"], other)
    options = quick(text, share, steps=4, batch=2)
    distil(*map(str, sides), tmp_path / "out", options, progress=lambda *of: told.append(of[2]["teacher"]))
    assert told == pytest.approx([sum(losses[i : i + 2]) / 2 for i in range(0, 8, 2)], abs=1e-4)
    assert len(lengths) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("short gpt", "gpt"), ("gpt", "short gpt"), ("short gpt", "other"),
        ("gpt", "short other"),
    ],
)  # fmt: skip
def test_nothing_is_read_or_written_beyond_a_context(zoo, other, short, text, tmp_path, student, teacher):
    """16 positions are less than a piece, and less than a prompt with what is written."""
    known = {**zoo, "other": other, **{f"short {name}": place for name, place in short.items()}}
    options = quick(text, 0.5, steps=4, batch=2)
    report = distil(str(known[student]), str(known[teacher]), tmp_path / "out", options).training
    assert report.steps == 4 and 4 * 2 * 2 < report.tokens <= 4 * 2 * (16 if student.startswith("short") else 21)


def test_what_trl_reads_of_a_piece(zoo, text):
    """The same prompt as ids, behind the prefix, and as text; what follows is the rest of the piece."""
    student, options = load_model(zoo["gpt"]), quick(text, 1.0, steps=400, batch=2)
    pieces, *_ = divide([text], 128)
    prompts = Prompts.of(student, student, pieces, options)
    assert len(prompts.order) == 800 and {*prompts.order} == {*range(len(pieces))}
    assert {row["prompt"] + row["completion"] for row in prompts.rows} == {*pieces[:]}
    assert len(prompts.rows) == len(pieces) and prompts.longest == 9
    for row in prompts.rows:
        assert row["input_ids"] == [student.prefix, *student.encode(row["prompt"] + row["completion"])]
        assert row["completion_mask"].index(1) == 9 and len(row["completion_mask"]) == len(row["input_ids"])
        assert student.encode(row["prompt"]) == row["input_ids"][1:9]


def test_pieces_that_give_nothing_to_train_on_leave_no_gap(zoo, text):
    """TRL takes whole updates alone: a piece of one token is left out, and another comes instead."""
    student, pieces = load_model(zoo["gpt"]), TextPieces([Text.of(text.read_text())], np.array([[0, 0, 1], [0, 1, 60]]))
    assert Prompts.of(student, student, pieces, quick(text, 1.0, steps=3, batch=2)).order == [0] * 6
    with pytest.raises(InputError, match="no piece of the text has two tokens"):
        Prompts.of(student, student, pieces[:1], quick(text, 1.0))


@pytest.mark.slow
def test_pieces_come_as_often_as_their_text_weighs(zoo, text, tmp_path, monkeypatch):
    (tmp_path / "prose").write_text("Some quite other words, of which there are few here. " * 10)
    texts = {"text": (str(text), str(tmp_path / "prose")), "text_weights": (0.5, 0.5)}
    options = replace(quick(text, 1.0, steps=20), **texts)
    compute, read = GKDTrainer.compute_loss, []

    def seen(self, model, inputs, *more, **named):
        read.append(inputs["prompts"][0].tolist())
        return compute(self, model, inputs, *more, **named)

    monkeypatch.setattr(GKDTrainer, "compute_loss", seen)
    distil(str(zoo["gpt"]), str(zoo["gpt"]), tmp_path / "out", options)
    student, (pieces, *_) = load_model(zoo["gpt"]), divide([text, tmp_path / "prose"], 128, (0.5, 0.5))
    prompts = Prompts.of(student, student, pieces, options)
    assert sorted(read) == sorted(prompts.rows[i]["input_ids"][:9] for i in prompts.order)
    assert len(prompts.rows) < 20


def test_trl_is_asked_for_where_it_is_missing(zoo, transplanted, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl.experimental.gkd", None)
    monkeypatch.delitem(sys.modules, "tokensurgeon.distilling.trainers")
    with pytest.raises(MissingDependencyError, match=r"--on-policy needs trl: pip install 'tokensurgeon\[trl\]'"):
        distil(str(transplanted), str(zoo["untied-spm"]), tmp_path / "out", quick(text, 1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_time_ends_it_and_the_best_state_is_written(zoo, transplanted, text, tmp_path, monkeypatch):
    scored = Course.evaluate

    def worse(self):
        scored(self)
        for parameter in self.parameters().values():
            parameter.data.add_(1.0)  # as training that goes wrong

    monkeypatch.setattr(Course, "evaluate", worse)
    options = quick(text, 1.0, steps=None, minutes=0.02)
    report = distil(str(transplanted), str(zoo["untied-spm"]), tmp_path / "out", options).training
    assert report.steps > 0 and report.best is report.curve[0] and len(report.curve) > 1
    old, new = (load_file(place / "model.safetensors") for place in (transplanted, tmp_path / "out"))
    assert torch.equal(old[LAYER], new[LAYER])


@pytest.mark.parametrize(
    ("share", "more", "message"),
    [
        (0.0, {}, "on_policy=0.0 must be above 0"),
        (1.5, {}, "on_policy=1.5 must be above 0"),
        (0.5, {"lora": 0}, "lora=0 leaves nothing to train: .* Give a rank of at least 1"),
        (0.5, {"whole": True, "lora": 0}, "whole=True is not for on_policy: TRL trains low-rank updates"),
        (0.5, {"average": 3}, "average=3 is not for on_policy"),
        (0.5, {"top": 3}, "top=3 is not for on_policy"),
        (0.5, {"teacher_weight": 0.9}, "teacher_weight=0.9 is not for on_policy"),
        (0.5, {"learning_rate": 0.5}, "learning_rate=0.5 is not for on_policy"),
    ],
)
def test_options_that_do_not_go_with_it(text, share, more, message):
    with pytest.raises(InputError, match=message):
        quick(text, share, **more)


def test_pairs_and_places_that_it_does_not_take(zoo, transplanted, text, tmp_path, monkeypatch):
    def refused(student, teacher, message, **more):
        with pytest.raises(InputError, match=message):
            distil(str(student), str(teacher), tmp_path / "out", quick(text, 0.5), **more)
        assert not list(tmp_path.iterdir())

    refused(zoo["gpt"], zoo["untied-spm"], "byte-level ones alone. Give the student the teacher's tokenizer first")
    refused(zoo["spm"], zoo["untied-spm"], "compares them all .* tokensurgeon resize .* --rows")  # padded by 22 rows
    refused(transplanted, zoo["untied-spm"], "cache=.* is not for on_policy", cache=tmp_path / "cache")
    refused(transplanted, zoo["untied-spm"], "server=http.* is not for on_policy", server="http://localhost:1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    refused(transplanted, zoo["untied-spm"], "trains in one process")


def test_the_command(zoo, transplanted, text, tmp_path):
    command = ["distil", str(transplanted), "--teacher", str(zoo["untied-spm"]), "--text", str(text), "--lora", "2"]
    command += ["--out", str(tmp_path / "out"), "--on-policy", "1", "--steps", "2", "--json"]
    wrong = CliRunner().invoke(app, [*command, "--average", "3"])
    assert wrong.exit_code == 2 and "average=3 is not for on_policy" in wrong.output and not list(tmp_path.iterdir())
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["steps"] == 2 and told["out"] == str(tmp_path / "out")
    assert not told.keys() & {"pieces", "read", "reading_s"}


@pytest.mark.slow
def test_a_teacher_that_is_padded_further_and_a_seed(zoo, text, tmp_path):
    for name in ("one", "two"):
        report = distil(str(zoo["untied-spm"]), str(zoo["spm"]), tmp_path / name, quick(text, 1.0, steps=2)).training
        assert report.steps == 2
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_the_example_trains_what_we_wrote(zoo, transplanted, text, tmp_path, monkeypatch):
    """TRL takes a transplanted model as it is, and counts no tokens of the text for what the student wrote."""
    compute = GKDTrainer.compute_loss

    def seen(*given, num_items_in_batch=None):
        assert num_items_in_batch is None
        return compute(*given)

    monkeypatch.setattr(GKDTrainer, "compute_loss", seen)
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples/distil_with_trl.py"))
    example["main"](str(transplanted), str(zoo["untied-spm"]), str(text), str(tmp_path / "out"), "2")
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (transplanted, tmp_path / "out"))
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before.get_parameter(layer), after.get_parameter(layer))
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)

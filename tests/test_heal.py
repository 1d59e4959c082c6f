"""Healing: what is trained, what it is compared with, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.model import LoadedModel
from tokensurgeon.heal import HealOptions, heal
from tokensurgeon.heal.batches import Piece, collate, in_order, read_pieces
from tokensurgeon.heal.objective import Objective
from tokensurgeon.heal.rows import TrainedRows, put_in_front
from tokensurgeon.heal.spans import byte_lengths, first_shared, meeting_points
from tokensurgeon.pair import align_models
from tokensurgeon.verify import verify

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    """Transplanted models by their base's name."""
    root = tmp_path_factory.mktemp("heal")
    for base in ("gpt", "untied"):
        transplant(str(zoo[base]), str(zoo["spm"]), root / base, TransplantOptions(k=8))
    return root


def quick(**more):
    return HealOptions(**{"steps": 4, "batch": 2, "piece": 256, "learning_rate": 0.02, **more})


def test_meeting_points():
    assert meeting_points([1, 2, 3], [3, 1, 2]) == ([1, 2], [0, 2])
    assert meeting_points([2, 2], [3, 2]) == ([0, 1], [0, 1])  # a space before the text, on one side
    assert meeting_points([4], [1, 1, 1, 1]) == ([0], [3])


def test_pieces_meet_at_equal_bytes(zoo):
    sides = []
    for name in ("gpt", "spm"):
        tokenizer = AutoTokenizer.from_pretrained(zoo[name])
        sides.append((LoadedModel(None, tokenizer, 1), TokenizerFiles.open(zoo[name]).vocabulary()))
    (student, mine), (teacher, theirs) = sides
    (piece,) = read_pieces(["The naïve café costs 13 €, def f(x)."], student, teacher, (mine, theirs))
    assert len(piece.meet) > 5 and piece.meet[-1] == (len(piece.student) - 1, len(piece.teacher) - 1)
    left, right = byte_lengths(mine), byte_lengths(theirs)
    for a, b in piece.meet:
        assert left[piece.student[1 : a + 1]].sum() == right[piece.teacher[1 : b + 1]].sum() > 0


def test_continuations_begin_with_shared_tokens(zoo):
    teacher, student, plan, _ = align_models(str(zoo["gpt"]), str(zoo["spm"]))
    of_teacher, of_student = first_shared(teacher.vocabulary, student.vocabulary, plan)
    shared = torch.from_numpy(plan.anchors)
    assert torch.equal(of_student[shared], of_teacher[torch.from_numpy(plan.source[plan.anchors])])
    assert (of_student[shared] == shared).sum() > len(shared) - 4  # several control tokens may have one source
    found = 0
    for classes, vocabulary in ((of_teacher, teacher.vocabulary), (of_student, student.vocabulary)):
        for token, first in enumerate(classes.tolist()):
            key = vocabulary.keys[token] if token < len(vocabulary) else None
            if key is None or not key.is_text or first < 0:
                continue
            begins = student.vocabulary.keys[first].data
            assert plan.source[first] >= 0 and key.data.startswith(begins) and begins
            found += key.data != begins
    assert found > 200


def model_of(kind):
    if kind == "gemma":
        config = Gemma3TextConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        )  # fmt: skip
        return Gemma3ForCausalLM(config).eval()
    from conftest import llama

    return llama(50, tied=kind == "tied").eval()


@pytest.mark.parametrize("kind", ["tied", "untied", "gemma"])
def test_rows_in_front_are_the_models_own(kind):
    """Before they are trained, and after: as if the matrix itself had been changed."""
    model, ids = model_of(kind), torch.tensor([3, 4, 40])
    tokens = torch.tensor([[1, 3, 7, 40, 4, 9]])
    before = model(input_ids=tokens).logits
    expected = model_of(kind)
    expected.load_state_dict(model.state_dict())
    trained = TrainedRows.of(model, ids)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    put_in_front(model, trained)
    assert set(trained) == ({"embedding", "head"} if kind == "untied" else {"embedding"})
    torch.testing.assert_close(model(input_ids=tokens).logits, before)
    for name, rows in trained.items():
        change = torch.randn(3, rows.rows.shape[1], generator=torch.Generator().manual_seed(len(name)))
        matrix = expected.get_input_embeddings() if name == "embedding" else expected.get_output_embeddings()
        with torch.no_grad():
            rows.rows += change
            matrix.weight[ids] += change
    logits = model(input_ids=tokens).logits
    torch.testing.assert_close(logits, expected(input_ids=tokens).logits)
    logits.square().mean().backward()
    expected(input_ids=tokens).logits.square().mean().backward()
    torch.testing.assert_close(trained["embedding"].rows.grad, expected.get_input_embeddings().weight.grad[ids])


def test_the_objective_is_a_mean_of_means():
    """A batch of two is worth what two batches of one are; and equal models are not apart."""
    generator = torch.Generator().manual_seed(0)
    pieces = [Piece([1, 2, 3, 4], [1, 5, 6], [(1, 1), (3, 2)]), Piece([1, 2, 3, 4, 5, 6], [1, 3, 2, 4], [(2, 1)])]
    mine, theirs = torch.arange(8), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 7])
    objective = Objective(2.0, theirs, mine, stride=1)

    def terms(some, students, teachers):
        def padded(parts):
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

        batch = collate(some)
        logits, states = (padded([s[i] for s in students]) for i in (0, 1))
        piece, _, there = objective.compared(batch)
        seen = padded([t[0] for t in teachers])[piece, there]
        return objective(batch, (logits, states), (seen, padded([t[1] for t in teachers])))

    def draw(n, rows):
        return torch.randn(n, rows, generator=generator), torch.randn(n, 5, generator=generator)

    students, teachers = [draw(4, 8), draw(6, 8)], [draw(3, 9), draw(4, 9)]
    both = terms(pieces, students, teachers)
    single = [terms([p], [s], [t]) for p, s, t in zip(pieces, students, teachers, strict=True)]
    for name in ("text", "hidden", "next", "loss"):
        torch.testing.assert_close(both[name], (single[0][name] + single[1][name]) / 2)
    logits, states = students[0]
    apart = sum((states[a] - teachers[0][1][b]).square().mean() for a, b in pieces[0].meet) / 2 / 2.0
    torch.testing.assert_close(single[0]["hidden"], apart)
    here, there = logits[1].softmax(0), teachers[0][0][1].softmax(0)
    there = torch.cat([there[:7], there[7:].sum()[None]])
    first = (there * (there / here).log()).sum()
    assert (
        single[0]["next"] > 0 and (Objective(2.0, theirs, mine, stride=2).compared(collate(pieces))[1] == 1).sum() == 1
    )
    torch.testing.assert_close(objective._divergence(logits[1:2], teachers[0][0][1:2])[0], first, atol=1e-5, rtol=1e-4)
    twin = Piece([1, 2, 3], [1, 2, 3], [(1, 1), (2, 2)])
    logits, states = draw(3, 8)
    same = Objective(1.0, mine, mine, stride=1)(
        collate([twin]), (logits[None], states[None]), (logits[1:], states[None])
    )
    assert float(same["hidden"]) == 0 and abs(float(same["next"])) < 1e-5 and float(same["text"]) > 0


def test_order_uses_all_text_before_any_again():
    order = in_order(5, 12, seed=3)
    assert len(order) == 12 and sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order == in_order(5, 12, seed=3) != in_order(5, 12, seed=4)


@pytest.mark.parametrize("base", ["gpt", "untied"])
def test_only_new_rows_change(made, zoo, tmp_path, base):
    report = heal(str(made / base), str(zoo[base]), tmp_path / "out", quick(steps=12))
    assert report.best["held_out"] < report.curve[0]["held_out"] and report.steps == 12
    assert all(check.ok for check in verify(tmp_path / "out", zoo[base]))
    old, new = (load_file(place / "model.safetensors") for place in (made / base, tmp_path / "out"))
    changed = (old[EMBEDDING] != new[EMBEDDING]).any(dim=1)
    provenance = json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert 0 < int(changed.sum()) <= report.rows and provenance["healed"]["steps"] == 12
    assert {n for n in old if not torch.equal(old[n], new[n])} == ({EMBEDDING, "lm_head.weight"} & set(old))
    assert "## Healed" in (tmp_path / "out/README.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_all_rows_and_the_body(made, zoo, tmp_path):
    """The written model is the one that was scored."""
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(rows="all", lora=2, steps=12))
    assert report.best["held_out"] < report.curve[0]["held_out"]
    old, new = (load_file(place / "model.safetensors") for place in (made / "gpt", tmp_path / "out"))
    assert not torch.equal(old["model.layers.0.mlp.up_proj.weight"], new["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(old["model.norm.weight"], new["model.norm.weight"])
    details = {check.name: check for check in verify(tmp_path / "out", zoo["gpt"])}
    assert all(check.ok for check in details.values()) and "not compared" in details["body unchanged"].detail
    from tokensurgeon.evaluation.model import load_model
    from tokensurgeon.evaluation.score import score_text
    from tokensurgeon.heal.run import _texts

    loaded = load_model(tmp_path / "out")
    score = score_text(loaded.model, loaded.encode, loaded.prefix, _texts(quick())[1])
    assert score.bits_per_byte == pytest.approx(report.best["held_out"], rel=0.01)  # trained in bfloat16, perhaps


def test_never_worse_than_the_start(made, zoo, tmp_path):
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(learning_rate=50.0))
    assert report.best == report.curve[0] and report.curve[-1]["held_out"] > report.best["held_out"]
    old, new = (load_file(place / "model.safetensors") for place in (made / "gpt", tmp_path / "out"))
    assert torch.equal(old[EMBEDDING], new[EMBEDDING])


def test_what_was_interrupted_goes_on(made, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("tokensurgeon.heal.run._SAVE_S", 0.0)
    options = quick(steps=6)

    def interrupt(_share, report, _losses):
        if report.steps == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options, progress=interrupt)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.healing/state.pt").is_file()
    seen = []
    resumed = heal(
        str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options, progress=lambda _, r, __: seen.append(r.steps)
    )
    assert seen == [4, 5, 6] and not (tmp_path / ".out.healing").exists()  # the state of step 3 was the last saved
    whole = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "whole", options)
    assert [c["held_out"] for c in resumed.curve] == pytest.approx([c["held_out"] for c in whole.curve])
    rows = [load_file(tmp_path / name / "model.safetensors")[EMBEDDING] for name in ("out", "whole")]
    torch.testing.assert_close(*rows)


def test_a_state_of_other_settings_is_not_gone_on_from(made, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("tokensurgeon.heal.run._SAVE_S", 0.0)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(), progress=interrupt)
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(seed=7))
    assert report.steps == 4 and report.curve[0]["step"] == 0


def test_two_processes_are_one_with_twice_the_batch(made, zoo, tmp_path):
    """``accelerate launch`` starts several processes for GPUs only; torchrun, which it calls, does so on a CPU too."""
    curves = []
    for processes, batch in ((1, 4), (2, 2)):
        alone = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
                 "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]  # fmt: skip
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        command = [
            sys.executable, "-m", *(alone if processes == 1 else several), "tokensurgeon", "heal",
            str(made / "gpt"), "--teacher", str(zoo["gpt"]), "--out", str(tmp_path / str(processes)),
            "--steps", "4", "--batch", str(batch), "--learning-rate", "0.02", "--json",
        ]  # fmt: skip
        own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        curves.append([entry["held_out"] for entry in report["curve"]])
        assert report["steps"] == 4
    assert curves[0] == pytest.approx(curves[1], abs=1e-4) and curves[0][0] - curves[0][-1] > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "some"}, "must be new or all"), ({"steps": 0}, "steps=0 must be at least 1"),
        ({"minutes": 0.0}, "minutes=0.0 must be above 0"), ({"piece": 3}, "piece=3 must be at least 64"),
    ],
)  # fmt: skip
def test_options(settings, message):
    with pytest.raises(InputError, match=message):
        HealOptions(**settings)


def test_bad_input(made, zoo, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    for model, teacher, options, message in (
        (made / "gpt", zoo["spm"], quick(), "is 32 wide, .* 48: it is not what it was made from"),
        (made / "gpt", zoo["gpt"], quick(text=(str(tmp_path / "short.txt"),)), "1 pieces of 256 bytes, and 4"),
        (zoo["gpt"], zoo["gpt"], quick(), "uses none of the new tokens"),
        (tmp_path / "none", zoo["gpt"], quick(), "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            heal(str(model), str(teacher), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_the_control_is_the_base_itself(zoo, tmp_path):
    """The base, trained in the same way on the same text: it has no manifest, and all its tokens are shared."""
    report = heal(str(zoo["gpt"]), str(zoo["gpt"]), tmp_path / "out", quick(rows="all", steps=8))
    assert report.curve[1]["hidden"] < 0.5 and report.best["held_out"] < report.curve[0]["held_out"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_command(made, zoo, tmp_path):
    arguments = ["heal", str(made / "gpt"), "--teacher", str(zoo["gpt"]), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--steps", "2", "--batch", "1"])
    assert done.exit_code == 0 and "bits per byte before" in " ".join(done.stdout.split())
    again = CliRunner().invoke(app, [*arguments, "--steps", "2"])
    assert again.exit_code == 2 and "--overwrite" in again.stderr

"""Healing: what is trained, what it is compared with, what is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import processes
import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig
from typer.testing import CliRunner

from benchmarks.experiments import architectures
from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing import HealOptions, heal, loop, run, texts
from tokensurgeon.healing.batches import Pieces, nth_piece
from tokensurgeon.healing.meeting import Classes, first_shared
from tokensurgeon.healing.objective import TermWeights
from tokensurgeon.healing.splits import cut_tokens, pieces_of
from tokensurgeon.healing.trained_rows import TrainedRows, put_in_front
from tokensurgeon.surgery.pair import align_models
from tokensurgeon.verification.verify import verify
from tokensurgeon.vocabulary.meeting import meeting_points, token_bytes

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    """Transplanted models by their base's name."""
    root = tmp_path_factory.mktemp("heal")
    for base in ("gpt", "untied"):
        transplant(str(zoo[base]), str(zoo["spm"]), root / base, TransplantOptions(k=8))
    return root


@contextmanager
def little():
    """Most of a run's time would go to reading text that a few steps do not come to."""
    with pytest.MonkeyPatch.context() as patch:  # of its own: some tests undo theirs
        patch.setattr(texts, "_PYTHON_BYTES", 1 << 15)
        patch.setattr(texts, "_HELD_OUT", 4096)
        yield


@pytest.fixture(autouse=True)
def little_text():
    with little():
        yield


@pytest.fixture(scope="module")
def healed_twice(made, zoo, tmp_path_factory):
    """A report, and what it is of: all rows and the body were trained first, then the new rows again."""
    root = tmp_path_factory.mktemp("twice")
    forget_accelerate()
    with little():
        heal(str(made / "gpt"), str(zoo["gpt"]), root / "out", quick(rows="all", lora=2, steps=1))
        return heal(str(root / "out"), str(zoo["gpt"]), root / "twice", quick(steps=1)), root / "twice"


def quick(**more):
    """Rows alone where nothing else is said."""
    usual = {"steps": 4, "batch": 2, "piece": 256, "learning_rate": 0.02, "lora": 0, "own_text": 0.0}
    return HealOptions(**usual | more)


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        ("a|bc|def", "abc|d|ef", [(1, 0), (2, 2)]),
        ("ab|cd", " ab|cd", [(0, 0), (1, 1)]),  # a space before the text, on one side
        ("abcd", "a|b|c|d", [(0, 3)]),
        ("one|two||three|four", "one|two|<s>|three|four", [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]),  # a control token
        ("one| |two| |three", "one|two|three", [(0, 0), (3, 1), (4, 2)]),  # one that drops spaces
        ("One|two|six", "one|two|six", [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_meeting_points(left, right, pairs):
    one, two = ([token.encode() for token in side.split("|")] for side in (left, right))
    assert list(zip(*meeting_points(one, two), strict=True)) == pairs


def test_pieces_meet_at_equal_bytes(zoo):
    sides = []
    for name in ("gpt", "spm"):
        tokenizer = AutoTokenizer.from_pretrained(zoo[name])
        sides.append((LoadedModel(None, tokenizer, 1), TokenizerFiles.open(zoo[name]).vocabulary()))
    (student, mine), (teacher, theirs) = sides
    (piece,) = Pieces(["The naïve café costs 13 €, def f(x)."], student, teacher, (mine, theirs))
    assert len(piece.meet) > 5 and piece.meet[-1] == (len(piece.student) - 1, len(piece.teacher) - 1)
    left, right = token_bytes(mine), token_bytes(theirs)
    for a, b in piece.meet:
        read = b"".join(left[i] for i in piece.student[1 : a + 1])
        assert read and read == b"".join(right[i] for i in piece.teacher[1 : b + 1])


def test_continuations_begin_with_shared_tokens(zoo):
    teacher, student, aligned, _ = align_models(str(zoo["gpt"]), str(zoo["spm"]))
    plan = aligned.plan
    sides = teacher.vocabulary, student.vocabulary, plan
    of_teacher, of_student = first_shared(plan, cut_tokens(*sides), pieces_of(*sides))
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
    from tiny import llama

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


def test_order_uses_all_text_before_any_again():
    order = [nth_piece(5, i, 3) for i in range(12)]
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4] and order[:5] != order[5:10]
    assert order != [nth_piece(5, i, 4) for i in range(12)] and 0 <= nth_piece(5, 10**9, 3) < 5


@pytest.mark.parametrize("base", ["gpt", pytest.param("untied", marks=pytest.mark.slow)])
def test_only_new_rows_change(made, zoo, tmp_path, base):
    report = heal(str(made / base), str(zoo[base]), tmp_path / "out", quick(steps=12))
    assert report.best["held_out"] < report.curve[0]["held_out"] and report.steps == 12
    assert all(check.ok for check in verify(tmp_path / "out", zoo[base]))
    old, new = (load_file(place / "model.safetensors") for place in (made / base, tmp_path / "out"))
    changed = (old[EMBEDDING] != new[EMBEDDING]).any(dim=1)
    provenance = json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert 0 < int(changed.sum()) <= report.rows and provenance["healed"]["runs"][0]["steps"] == 12
    assert {n for n in old if not torch.equal(old[n], new[n])} == ({EMBEDDING, "lm_head.weight"} & set(old))
    assert "## Healed" in (tmp_path / "out/README.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.fixture(autouse=True)
def anew():
    forget_accelerate()


@pytest.mark.slow
def test_weights_a_schedule_and_an_average(made, zoo, tmp_path):
    """What is held out has the texts' shares as well, and the mean of the last states is tried beside the others."""
    for name, line in (("a.txt", "The value of the object is 42.\n"), ("b.txt", "def f(x): return not x\n")):
        (tmp_path / name).write_text(line * 800)
    both = tuple(str(tmp_path / name) for name in ("a.txt", "b.txt"))
    _, held_out, _ = texts.divide([tmp_path / "a.txt", tmp_path / "b.txt"], 256, (0.25, 0.75))
    assert [sum(word in piece for piece in held_out) for word in ("object", "def")] == [4, 12]
    options = quick(text=both, text_weights=(0.25, 0.75), schedule="wsd", average=3, steps=6)
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options)
    assert [entry.get("averaged") for entry in report.curve[-2:]] == [None, 3.0]
    assert report.best["held_out"] == min(entry["held_out"] for entry in report.curve)
    told = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["healed"]["runs"][0]
    assert (told["text_weights"], told["schedule"], told["average"]) == ([0.25, 0.75], "wsd", 3)


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_all_rows_and_the_body(made, zoo, tmp_path, monkeypatch):
    """The written model is the one that was scored, low-rank updates included; a random teacher would teach nothing."""
    monkeypatch.setattr(run, "WEIGHTS", TermWeights(hidden=0.0, next=0.0, branch=0.0, joined=0.0))
    options = quick(rows="all", lora=2, lora_learning_rate=0.05, learning_rate=1e-9, steps=12)
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options)
    gained = report.curve[0]["held_out"] - report.best["held_out"]
    told = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["healed"]["runs"][0]
    assert gained > 0.005 and told["written"] == pytest.approx(report.best["held_out"], abs=gained / 50)
    old, new = (load_file(place / "model.safetensors") for place in (made / "gpt", tmp_path / "out"))
    assert not torch.equal(old["model.layers.0.mlp.up_proj.weight"], new["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(old["model.norm.weight"], new["model.norm.weight"])
    assert all(check.ok for check in verify(tmp_path / "out", zoo["gpt"]))


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_layers_no_wider_than_the_rank_stay_as_they_are(made, zoo, tmp_path):
    """Whatever such a layer became, verify would have to believe it; and it is told before the training."""
    narrowest = HealOptions().lora
    heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", HealOptions(steps=1, batch=2, piece=256))
    named = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["healed"]["tensors"]
    assert "model.layers.0.mlp.up_proj.weight" in named and "model.layers.0.self_attn.k_proj.weight" not in named
    assert all(check.ok for check in verify(tmp_path / "out", zoo["gpt"]))
    for model, rank, message in (
        (made / "gpt", 10_000, "no layer of the model is wider"),
        (tmp_path / "out", narrowest, "earlier runs changed it by rank 16"),
    ):
        forget_accelerate()
        with pytest.raises(InputError, match=message):
            heal(str(model), str(zoo["gpt"]), tmp_path / "again", quick(lora=rank, steps=1))
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_low_rank_updates_are_trained_in_float32_whatever_the_model(made, zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    seen = {}
    real = loop.Loop.train

    def train(self, *args):
        seen.update({name: p.dtype for name, p in self.course.student.model.named_parameters()})
        real(self, *args)

    monkeypatch.setattr(loop.Loop, "train", train)
    heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(lora=2, steps=1))
    assert {t for n, t in seen.items() if "lora" in n or "trained" in n} == {torch.float32}
    assert seen["model.norm.weight"] == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["anchor", "norm", "projection"])
def test_verify_sees_what_was_not_trained(healed_twice, zoo, tmp_path, damage):
    again, place = healed_twice
    shutil.copytree(place, tmp_path / "twice")
    assert again.steps == 1 and all(check.ok for check in verify(tmp_path / "twice", zoo["gpt"]))
    path = tmp_path / "twice/model.safetensors"
    tensors, manifest = load_file(path), json.loads((tmp_path / "twice/tokensurgeon.json").read_text())
    assert len(manifest["healed"]["runs"]) == 2 and len(manifest["healed"]["tensors"]) == 14
    untrained = sorted(
        set(Manifest.read(tmp_path / "twice").plan.ids(Provenance.COPIED).tolist()) - set(manifest["healed"]["rows"])
    )
    if damage == "anchor":
        tensors[EMBEDDING][untrained[0]] += 1
    elif damage == "norm":
        tensors["model.norm.weight"] += 1
    else:
        manifest["healed"]["tensors"].remove("model.layers.0.mlp.up_proj.weight")
        (tmp_path / "twice/tokensurgeon.json").write_text(json.dumps(manifest))
    save_file(tensors, path, metadata={"format": "pt"})
    failed = {check.name for check in verify(tmp_path / "twice", zoo["gpt"]) if not check.ok}
    changed = {f"{EMBEDDING} anchors"} if damage == "anchor" else {"body unchanged"}
    assert failed == changed | (set() if damage == "projection" else {"tensors as written"})


def test_a_student_drops_nothing_out(zoo, tmp_path):
    """Its teacher does not, and what it is to learn are the teacher's beliefs."""
    own = {"alone": True, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 2048}
    base = architectures.build(own, {}, "gpt2", tmp_path / "base", 700)
    transplant(str(base), str(zoo["spm"]), tmp_path / "start", TransplantOptions(k=8))
    curves = []
    for share in (0.0, 0.9):
        config = tmp_path / "start/config.json"
        dropped = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), share)
        config.write_text(json.dumps(json.loads(config.read_text()) | dropped))
        curves.append(heal(str(tmp_path / "start"), str(base), tmp_path / f"{share}", quick(rows="all", lora=2)).curve)
    assert [{**of, "minutes": 0} for of in curves[0]] == [{**of, "minutes": 0} for of in curves[1]]


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_never_worse_than_the_start(made, zoo, tmp_path):
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(learning_rate=50.0))
    assert report.best == report.curve[0] and report.curve[-1]["held_out"] > report.best["held_out"]
    old, new = (load_file(place / "model.safetensors") for place in (made / "gpt", tmp_path / "out"))
    assert torch.equal(old[EMBEDDING], new[EMBEDDING])


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_what_was_interrupted_goes_on(made, zoo, tmp_path, caplog):
    options = quick(steps=6, lora=2)

    def interrupt(_share, report, _losses):
        if report.steps == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options, progress=interrupt)
    assert not (tmp_path / "out").exists() and len(list((tmp_path / ".out.healing").glob("*.pt"))) == 1
    seen = []
    resumed = heal(
        str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options, progress=lambda _, r, __: seen.append(r.steps)
    )
    assert seen == [5, 6] and not (tmp_path / ".out.healing").exists() and "going on from step 4" in caplog.text
    whole = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "whole", options)
    assert [c["held_out"] for c in resumed.curve[1:]][-1] == pytest.approx(whole.curve[-1]["held_out"])
    assert resumed.positions == whole.positions and resumed.positions["next"] > 6 > 0 < resumed.positions["branch"]
    told = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["healed"]["runs"][0]
    assert told["positions"] == whole.positions
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        torch.testing.assert_close(tensor, load_file(tmp_path / "whole/model.safetensors")[name])


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_a_process_that_sees_no_saved_state_goes_on_with_the_others(made, zoo, tmp_path):
    """On another machine: the first process saves the state, and what the base wrote, and alone can read them."""

    def interrupt(_share, report, _losses):
        if report.steps == 2:
            raise KeyboardInterrupt

    options = ("--steps", 4, "--batch", 2, "--learning-rate", 0.02, "--average", 2, "--lora", 0)
    with pytest.raises(KeyboardInterrupt):
        heal(
            str(made / "gpt"),
            str(zoo["gpt"]),
            tmp_path / "out",
            quick(piece=1024, average=2, own_text=None),
            progress=interrupt,
        )
    blind = (
        "import os\nfrom pathlib import Path\nfrom tokensurgeon.healing.resume import SavedState\n"
        "is_file = Path.is_file\n"
        "if os.environ['RANK'] == '1':\n"
        "    SavedState.load = lambda *_: None\n"
        "    Path.is_file = lambda path: not path.name.startswith('own-') and is_file(path)\n"
    )
    own = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
    line = ("heal", made / "gpt", "--teacher", zoo["gpt"], "--out", tmp_path / "out", *options)
    done = processes.ranks(2, LITTLE_TEXT + blind + processes.MAIN, *line, env=os.environ | own)
    assert not any(result.returncode for result in done), [result.stderr for result in done]
    assert "going on from step 2" in done[0].stderr and "(4 steps" in " ".join(done[0].stdout.split())


@pytest.mark.slow
def test_a_state_of_something_else_is_not_gone_on_from(made, zoo, tmp_path, caplog, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(), progress=interrupt)
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(seed=7))
    assert report.steps == 4 and report.curve[0]["step"] == 0 and "starting anew beside it" in caplog.text
    assert len(list((tmp_path / ".out.healing").glob("*.pt"))) == 1  # the other one's
    caplog.clear()
    monkeypatch.setattr(run, "WEIGHTS", TermWeights(text=2.0))
    heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(), overwrite=True)
    assert "starting anew beside it" in caplog.text


@pytest.mark.slow
def test_work_is_not_lost_where_writing_fails(made, zoo, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokensurgeon.healing.run.write_trained", fail)
    with pytest.raises(OSError, match="No space"):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick())
    monkeypatch.undo()
    seen = []
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(), progress=lambda *a: seen.append(a))
    assert not seen and report.steps == 4 and (tmp_path / "out/config.json").is_file()


@pytest.mark.parametrize("base", ["biased", pytest.param("untied", marks=pytest.mark.slow)])
def test_low_rank_updates_alone(zoo, tmp_path, base):
    """No row is new where a model teaches itself."""
    report = heal(str(zoo[base]), str(zoo[base]), tmp_path / "out", quick(lora=2, lora_learning_rate=0.01))
    old, new = (load_file(place / "model.safetensors") for place in (zoo[base], tmp_path / "out"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert report.rows == 0 and changed and not any("embed" in name or "lm_head" in name for name in changed)


LITTLE_TEXT = """
from tokensurgeon.healing import texts
texts._PYTHON_BYTES, texts._HELD_OUT = 1 << 15, 4096
"""


def forked(number, env, *arguments):
    return processes.ranks(number, LITTLE_TEXT + processes.MAIN, *arguments, env=env)


def launched(number, env, *arguments):
    """``accelerate launch`` starts several processes for GPUs only; torchrun, which it calls, does so on a CPU too."""
    alone = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
             "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]  # fmt: skip
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [sys.executable, "-m", *(alone if number == 1 else several), "tokensurgeon", *map(str, arguments)]
    return [subprocess.run(command, env=env, capture_output=True, text=True, check=False)]


@pytest.mark.slow
@pytest.mark.parametrize("launch", [forked, launched])
def test_two_processes_are_one_with_twice_the_batch(made, zoo, tmp_path, launch):
    curves, counts = [], []
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
    for number, batch in ((1, 4), (2, 2)):
        done = launch(
            number, os.environ | own, "heal", made / "gpt", "--teacher", zoo["gpt"], "--out", tmp_path / str(number),
            "--steps", 4, "--batch", batch, "--learning-rate", 0.02, "--own-text", 0, "--json",
        )  # fmt: skip
        assert not any(result.returncode for result in done), [result.stderr for result in done]
        report = json.loads("".join(result.stdout for result in done))
        curves.append([entry["held_out"] for entry in report["curve"]])
        counts.append((report["tokens"], report["positions"]["next"]))
        assert report["steps"] == 4
    assert (
        counts[0] == counts[1]
        and curves[0] == pytest.approx(curves[1], abs=1e-4)
        and curves[0][0] - curves[0][-1] > 0.01
    )


@pytest.mark.slow
def test_two_processes_write_a_part_each_and_train_on_all(made, zoo, tmp_path):
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
    line = ("heal", made / "gpt", "--teacher", zoo["gpt"], "--out", tmp_path / "out", "--steps", 8, "--json")
    done = forked(2, os.environ | own, *line)
    assert not any(result.returncode for result in done), [result.stderr for result in done]
    report = json.loads("".join(result.stdout for result in done))
    assert report["steps"] == 8 and report["own"]["bytes"] > 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "some"}, "must be new or all"), ({"steps": 0}, "steps=0 must be at least 1"),
        ({"minutes": 0.0}, "minutes=0.0 must be above 0"), ({"piece": 3}, "piece=3 must be at least 64"),
        ({"schedule": "cosine"}, "must be linear or wsd"), ({"decay": 1.0}, "decay=1.0 must be above 0 and at most"),
        ({"average": 1}, "average=1 must be from 2 to 50"), ({"average": 51}, "average=51 must be from 2 to 50"),
        ({"text": ("a", "b"), "text_weights": (1.0,)}, "1 text weights and 2 texts"),
        ({"text": ("a", "b"), "text_weights": (1.0, 0.0)}, "must each be above 0"),
        ({"text": ("a", "b"), "text_weights": (1.0, 0.01)}, "at least a hundredth of all"),
    ],
)  # fmt: skip
def test_options(settings, message):
    with pytest.raises(InputError, match=message):
        HealOptions(**settings)


def test_bad_input(made, zoo, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    for model, teacher, options, message in (
        (made / "gpt", zoo["spm"], quick(), "is not the base that the model was made from"),
        (made / "gpt", zoo["gpt"], quick(text=(str(tmp_path / "short.txt"),)), "1 pieces of 256 bytes, and 4"),
        (zoo["gpt"], zoo["gpt"], quick(), "uses none of the new tokens"),
        (
            made / "gpt",
            zoo["gpt"],
            quick(lora=1000),
            "no layer of the model is wider .* or --lora 0, which trains rows",
        ),
        (made / "gpt", zoo["sharded"], quick(), "is not the base that the model was made from"),
        (tmp_path / "none", zoo["gpt"], quick(), "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            heal(str(model), str(teacher), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="lora=None must be a rank"):
        quick(lora=None)


def test_a_lesson_knows_what_stands_in_text(made, zoo, tmp_path, monkeypatch):
    found, moved = [], object()
    monkeypatch.setattr(Classes, "as_read", lambda _, pieces: found.append(len(pieces)) or moved)
    monkeypatch.setattr(run, "Lesson", lambda *given: found.append(given[3]) or pytest.fail("seen"))
    with pytest.raises(pytest.fail.Exception, match="seen"):
        heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", quick(steps=1))
    assert found[0] > 9 and found[1] is moved


@pytest.mark.slow
def test_a_merge_is_healed_and_tells_no_more_of_what_it_was_merged_from(zoo, tmp_path, monkeypatch):
    from tokensurgeon import merge

    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    shutil.copytree(zoo["gpt"], tmp_path / "twin")
    listed = "".join(f"- {{model: {m}, parameters: {{weight: 0.5}}}}\n" for m in (zoo["gpt"], tmp_path / "twin"))
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels:\n{listed}")
    merge(tmp_path / "recipe.yaml", tmp_path / "merged")
    report = heal(str(tmp_path / "merged"), str(zoo["gpt"]), tmp_path / "out", quick(rows="all", lora=2))
    assert report.steps == 4 and not (tmp_path / "out/tokensurgeon.json").exists()
    assert "## Healed" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_the_control_is_the_base_itself(zoo, tmp_path):
    """The base, trained in the same way on the same text: it has no manifest, and all its tokens are shared."""
    report = heal(str(zoo["gpt"]), str(zoo["gpt"]), tmp_path / "out", quick(rows="all", steps=8))
    assert 0 < report.curve[1]["hidden"] < 0.5 and report.best["held_out"] < report.curve[0]["held_out"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_command(made, zoo, tmp_path):
    arguments = ["heal", str(made / "gpt"), "--teacher", str(zoo["gpt"]), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--steps", "2", "--batch", "1"])
    assert done.exit_code == 0 and "on text of another kind" in " ".join(done.stdout.split())
    again = CliRunner().invoke(app, [*arguments, "--steps", "2"])
    assert again.exit_code == 2 and "--overwrite" in again.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_without_the_text_it_comes_nearer_to_its_base(made, zoo, tmp_path, monkeypatch):
    """At meetings, inside of tokens, in joins and on branches, which count among the tokens read."""
    monkeypatch.setattr(run, "WEIGHTS", TermWeights(text=0.0, branch=1.0))
    options = quick(rows="all", steps=30, learning_rate=0.05, batch=1)
    report = heal(str(made / "gpt"), str(zoo["gpt"]), tmp_path / "out", options)
    first, last = report.curve[1], report.curve[-1]
    for name in ("next", "joined", "branch"):
        assert last[name] < 0.9 * first[name]
    assert first["inside"] > 0

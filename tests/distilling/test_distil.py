"""Distilling: what is kept of a teacher, what a student is asked, what is written."""

from __future__ import annotations

import json

import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file
from typer.testing import CliRunner

from tokensurgeon import DistilOptions, InputError, distil
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.cli.app import app
from tokensurgeon.distilling import run
from tokensurgeon.distilling import teacher as teaching
from tokensurgeon.distilling.cache import TopCache
from tokensurgeon.distilling.lesson import TaughtLesson
from tokensurgeon.distilling.run import _Sides
from tokensurgeon.distilling.top import Top
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.healing.batches import Pieces
from tokensurgeon.healing.loop import _Student
from tokensurgeon.healing.meeting import Classes
from tokensurgeon.healing.targets import _LEAST, Beliefs
from tokensurgeon.healing.trained_rows import TrainedRows, put_in_front
from tokensurgeon.verification.verify import verify

EMBEDDING, LAYER = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
MOVED = object()
LINE = "The value of the object is {} and def f(x): return x * {}\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(LINE.format(i, i % 7) for i in range(400)))
    return path


@pytest.fixture(scope="module")
def master(zoo, text, tmp_path_factory):
    """A teacher that knows the text: it was trained on it, without a teacher."""
    place, options = tmp_path_factory.mktemp("master") / "master", {"teacher_weight": 0.0, "whole": True, "lora": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        forget_accelerate()
        taught = quick(text, steps=40, body_learning_rate=0.01, learning_rate=0.1, **options)
        report = distil(str(zoo["untied-spm"]), str(zoo["untied-spm"]), place, taught)
    assert report.read == 0 and report.training.best["held_out"] < report.training.curve[0]["held_out"] / 2
    return place


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    forget_accelerate()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def quick(text, **more):
    return DistilOptions(
        **{"text": (str(text),), "steps": 6, "piece": 256, "learning_rate": 0.02, "lora": 2, "top": 32, **more}
    )


def logits_of(rows, kept=None):
    """Of a text of five ids, and what is kept of them."""
    logits = 3 * torch.randn(5, rows, generator=torch.Generator().manual_seed(2))
    return logits, [3, 1, 4, 1, 5], None if kept is None else Top.of_logits(logits, [3, 1, 4, 1, 5], kept)


def test_what_is_kept_says_what_the_logits_say():
    logits, ids, top = logits_of(20, 20)
    meet = [(0, 0), (1, 2), (4, 3), (6, 4)]
    kept, whole = top.beliefs(meet, ids), Beliefs.of_logits(meet, ids, logits)
    assert torch.equal(kept.row, whole.row) and torch.equal(kept.token, whole.token)
    torch.testing.assert_close(kept.mass, whole.mass, atol=1e-3, rtol=4e-3)
    assert kept.so_far == pytest.approx(whole.so_far, abs=0.02)
    for row in range(4):
        wanted = torch.tensor([19, 0, 7])
        torch.testing.assert_close(kept._of(row, wanted), whole._of(row, wanted), atol=1e-3, rtol=4e-3)


def test_the_texts_own_token_is_kept_however_unlikely():
    logits, ids, _ = logits_of(20)
    logits[1, 4] = -9.0
    top = Top.of_logits(logits, ids, 2)
    assert top.token.shape == (5, 2) and 4 in top.token[1].tolist() and (top.token[:, 0] < top.token[:, 1]).all()
    likely = int(logits[1].argmax())
    assert likely in top.token[1].tolist()
    mass = top.beliefs([(1, 1)], ids)._of(0, torch.tensor([likely, 4, 18]))
    torch.testing.assert_close(mass[:2], logits.softmax(dim=-1)[1, [likely, 4]], atol=1e-3, rtol=1e-3)
    assert float(mass[2]) == 0.0


def test_a_cache_keeps_what_is_whole(tmp_path):
    _, ids, top = logits_of(20, 4)
    cache = TopCache(tmp_path, "teacher")
    assert cache.load(ids) is None
    cache.save(ids, top)
    assert torch.equal(cache.load(ids).token, top.token) and torch.equal(cache.load(ids).log, top.log)
    assert TopCache(tmp_path, "another").load(ids) is None and cache.load([*ids, 2]) is None
    path = cache.path(ids)
    path.write_bytes(path.read_bytes()[:-3])  # as a full disk leaves it
    assert cache.load(ids) is None
    cache.save(ids, Top(top.token + 7, top.log))  # of another text
    assert cache.load(ids) is None
    cache.remove()
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


@pytest.mark.parametrize("student", ["same", "own"])
def test_what_a_student_is_asked(zoo, transplanted, text, tmp_path, student):
    """With the teacher's ids: the divergence of whole distributions. With its own: none for its like."""
    left = OpenModel.open(str(zoo["untied-spm"]))
    right = OpenModel.open(str(transplanted if student == "same" else zoo["gpt"]))
    sides, loaded, master = _Sides.of(right, left), load_model(right.directory), load_model(left.directory)
    pieces = Pieces([text.read_text()[:300]], loaded, master, (right.vocabulary, left.vocabulary))
    piece, cache = pieces[0], TopCache(tmp_path / "cache", "teacher")
    reads = teaching.LocalTeacher(left, left.layout.rows, torch.device("cpu"))
    assert teaching.read_pieces(pieces, [0], reads, cache, None) == 1
    model = _Student(loaded.model)
    put_in_front(loaded.model, TrainedRows.of(loaded.model, torch.tensor([5])))
    lesson = TaughtLesson(loaded, cache, sides.splits, sides.classes, 0.75)
    task = lesson.task(piece, 0)
    with torch.no_grad():
        terms = lesson.losses(task, model(task))
        mine = loaded.model(input_ids=torch.tensor([piece.student])).logits[0].log_softmax(dim=-1)
        theirs = master.model(input_ids=torch.tensor([piece.teacher])).logits[0].log_softmax(dim=-1)
    gold = torch.tensor(piece.student[1:])
    assert float(terms["loss"]) == pytest.approx(
        float(0.75 * (terms["teacher"] + terms["open"]) + 0.25 * terms["text"])
    )
    assert float(terms["text"]) == pytest.approx(-float(mine[:-1].gather(1, gold[:, None]).mean()), rel=1e-4)
    if student == "same":
        assert piece.student == piece.teacher and [here for here, _ in piece.meet] == list(range(1, len(gold) + 1))
        known, number = sides.classes.of_student, sides.classes.number  # bytes are tokens twice; control tokens none
        both = torch.zeros(2, len(mine) - 1, number)
        for side, logs in zip(both, (theirs, mine), strict=True):
            side.index_add_(1, known[known >= 0], logs[1:, known >= 0].exp())
        wanted, given = both[0] / both[0].sum(dim=-1, keepdim=True), both[1]
        plain = (wanted * (wanted / given.clamp(min=_LEAST)).log()).sum(dim=-1).mean()  # silenced ids have less
        assert float(terms["teacher"]) == pytest.approx(float(plain), abs=0.01)
        own = mine[:-1].gather(1, gold[:, None])[:, 0]  # of the first two nothing is said; else which of two alike
        alike = given[torch.arange(len(own) - 1), known[gold[1:]]].log()[1:] - own[2:]
        assert float(terms["open"]) == pytest.approx(float(alike.sum() - own[:2].sum()) / len(own), rel=1e-4)
    else:
        assert len(task.targets["next"].place) > 20 and len(task.targets["inside"].place) > 0
        wanted = task.targets["next"]
        picked = torch.tensor([0.0] * len(wanted.token)).log()
        share = wanted.mass[wanted.entry] / torch.bincount(wanted.entry)[wanted.entry]
        picked = share.clamp(min=1e-12).log()
        assert float(wanted.divergence(picked).abs().max()) < 1e-3 and float(terms["teacher"]) > 0.1


def test_a_student_with_the_teachers_tokenizer(zoo, master, transplanted, text, tmp_path):
    report = distil(str(transplanted), str(master), tmp_path / "out", quick(text, steps=12))
    curve, told = report.training.curve, json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert curve[-1]["teacher"] < curve[1]["teacher"] / 1.1 and report.read == report.pieces > 3
    assert told["healed"]["runs"][0]["command"] == "distil" and told["healed"]["runs"][0]["lora"] == 2
    assert all(check.ok for check in verify(tmp_path / "out", zoo["gpt"]))
    assert "## Distilled" in (tmp_path / "out/README.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_student_with_a_tokenizer_of_its_own(zoo, master, text, tmp_path, whole):
    more = {"whole": True, "body_learning_rate": 0.01, "lora": 16} if whole else {}
    cache = tmp_path / "cache"
    options = quick(text, steps=12, teacher_weight=1.0, **more)
    report = distil(str(zoo["gpt"]), str(master), tmp_path / "out", options, cache=cache)
    curve = report.training.curve
    assert curve[-1]["teacher"] < curve[1]["teacher"] / 1.1 and not (tmp_path / "out/tokensurgeon.json").exists()
    old, new = (load_file(place / "model.safetensors") for place in (zoo["gpt"], tmp_path / "out"))
    assert old.keys() == new.keys() and not torch.equal(old[EMBEDDING], new[EMBEDDING])
    assert not torch.equal(old[LAYER], new[LAYER])
    assert torch.equal(old["model.norm.weight"], new["model.norm.weight"]) != whole
    assert TokenizerFiles.open(tmp_path / "out").digest() == TokenizerFiles.open(zoo["gpt"]).digest()
    assert list(cache.rglob("*.safetensors"))


def test_what_stands_in_text_is_what_is_taught(zoo, text, tmp_path, monkeypatch):
    """Of two tokenizers that part what they cut alike on its own, see tests/healing/test_beliefs.py."""
    found = []
    monkeypatch.setattr(Classes, "as_read", lambda self, pieces: found.append((self, len(pieces))) or MOVED)
    monkeypatch.setattr(run, "TaughtLesson", lambda *given: found.append(given[3]) or pytest.fail("seen"))
    for weight in (0.0, 0.5):
        forget_accelerate()
        with pytest.raises(pytest.fail.Exception, match="seen"):
            distil(
                str(zoo["gpt"]), str(zoo["untied-spm"]), tmp_path / "out", quick(text, steps=1, teacher_weight=weight)
            )
    plain, (own, n), taught = found
    assert isinstance(plain, Classes) and isinstance(own, Classes) and n > 9 and taught is MOVED


@pytest.mark.slow
def test_what_was_read_once_is_not_read_again(zoo, text, tmp_path, monkeypatch):
    """Nor is a teacher read whose word has no weight."""

    def run(name, **more):
        forget_accelerate()
        options = quick(text, steps=2, **more)
        return distil(str(zoo["gpt"]), str(zoo["untied-spm"]), tmp_path / name, options, cache=tmp_path / "cache")

    first = run("first", batch=2)
    assert first.read == first.pieces == 4  # of many: those that four places of the order come to
    monkeypatch.setattr(teaching, "load_model", lambda *_, **__: pytest.fail("the teacher was loaded"))
    assert run("again", batch=2, seed=0).read == 0 and run("alone", teacher_weight=0.0, seed=5).read == 0
    one, two = (load_file(tmp_path / name / "model.safetensors")[EMBEDDING] for name in ("first", "again"))
    assert torch.equal(one, two)


@pytest.mark.slow
def test_what_was_interrupted_goes_on(zoo, text, tmp_path, caplog):
    """While the teacher reads, and while the student learns; the end is the same as without."""
    pair, read = (str(zoo["gpt"]), str(zoo["untied-spm"])), []

    def stop_reading(stage, done, _total):
        if stage == "Letting the teacher read" and done == 3:
            raise KeyboardInterrupt

    def stop_learning(_share, report, _losses):
        if report.steps == 4:
            raise KeyboardInterrupt

    options = quick(text)
    for stop in ({"reading": stop_reading}, {"progress": stop_learning}):
        with pytest.raises(KeyboardInterrupt):
            distil(*pair, tmp_path / "out", options, **stop)
        assert not (tmp_path / "out").exists()
        read.append(len(list((tmp_path / ".out.distilling").rglob("*.safetensors"))))
    assert read == [3, 6]
    resumed = distil(*pair, tmp_path / "out", options)
    assert resumed.read == 0 and "going on from step 4" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    distil(*pair, tmp_path / "whole", options)
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        torch.testing.assert_close(tensor, load_file(tmp_path / "whole/model.safetensors")[name])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher_weight": 1.5}, "teacher_weight=1.5 must be from 0"),
        ({"top": 0}, "top=0 must be at least 1"),
        ({"whole": True}, "lora=2 and whole are two ways"),
        ({"diloco": 5}, "for healing only"),
        ({"body_learning_rate": 0.0}, "body_learning_rate=0.0 must be above 0"),
    ],
)
def test_options_that_no_run_could_use(text, more, message):
    with pytest.raises(InputError, match=message):
        quick(text, **more)


def test_updates_that_fit_no_layer_are_refused_before_the_teacher_reads(zoo, text, tmp_path, monkeypatch):
    monkeypatch.setattr("tokensurgeon.distilling.run.read_pieces", lambda *_: pytest.fail("the teacher read"))
    with pytest.raises(InputError, match="--lora 4096: no layer of the model is wider"):
        distil(str(zoo["gpt"]), str(zoo["untied-spm"]), tmp_path / "out", quick(text, lora=4096))
    assert not list(tmp_path.iterdir())


def test_the_command(zoo, text, tmp_path):
    command = ["distil", str(zoo["gpt"]), "--teacher", str(zoo["untied-spm"]), "--text", str(text), "--lora", "2"]
    wrong = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--teacher-weight", "2"])
    assert wrong.exit_code == 2 and "teacher_weight=2.0" in wrong.output and not list(tmp_path.iterdir())
    found = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--steps", "2", "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["steps"], told["read"], told["pieces"]) == (2, 2, 2) and told["out"] == str(tmp_path / "out")

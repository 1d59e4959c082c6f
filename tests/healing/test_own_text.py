"""Text that the base writes itself, to be trained on besides what is given."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.evaluation import writing
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import Text, TextPieces
from tokensurgeon.evaluation.writing import Drawn, plainly
from tokensurgeon.healing import HealOptions, heal, own_text, run, texts
from tokensurgeon.healing.own_text import OwnText, mixed, with_own, write_own
from tokensurgeon.progress import Stage


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "made"
    transplant(str(zoo["gpt"]), str(zoo["spm"]), out, TransplantOptions(k=8))
    return out


@pytest.fixture(autouse=True)
def little_text(monkeypatch):
    forget_accelerate()
    monkeypatch.setattr(texts, "_PYTHON_BYTES", 1 << 15)
    monkeypatch.setattr(texts, "_HELD_OUT", 4096)


def quick(**more):
    return HealOptions(**{"steps": 4, "piece": 256, "lora": 2, **more})


@pytest.mark.parametrize(("rows", "block"), [(7, 512), (13, 4), (12, 4)])
def test_ids_are_drawn_by_their_probability(monkeypatch, rows, block):
    monkeypatch.setattr(writing, "_BLOCK", block)
    torch.manual_seed(0)
    scores = 2 * torch.randn(rows)
    scores[3] = -torch.inf
    n = 40_000
    left = Drawn([2])(torch.zeros(n, 1), scores.repeat(n, 1))
    assert (left.isfinite().sum(dim=1) == 1).all()
    found = torch.bincount(left.argmax(dim=1), minlength=rows) / n
    scores[2] = -torch.inf
    wanted = scores.softmax(dim=0)
    assert found[2] == found[3] == 0 and ((found - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1e-9).all()


def test_a_base_writes_by_its_probabilities(zoo):
    """Of 2,000 texts of one token each token's share is what the base says, special ones apart."""
    base = load_model(zoo["gpt"])
    with torch.no_grad():
        base.model.get_output_embeddings().weight.mul_(8)  # some are likelier than others
        said = base.model(torch.tensor([[base.prefix]])).logits[0, -1].softmax(dim=0)
    special = [i for i, token in base.tokenizer.added_tokens_decoder.items() if token.special]
    said[special] = 0
    said /= said.sum()
    drawn = Drawn(own_text._no_text(plainly(base), frozenset()))
    counts = Counter(own_text._round(base, drawn, [[]] * 2000, 1, 60.0))
    words = [(i, base.tokenizer.decode([i])) for i in said.argsort(descending=True)[:60].tolist()]
    likely = [(float(said[i]), text) for i, text in words if text.strip() and "\ufffd" not in text]
    assert len(likely) > 9 and likely[0][0] > 0.02
    for share, text in likely:
        assert abs(counts[text] - 2000 * share) < 5 * (2000 * share) ** 0.5


def test_what_is_written_is_text_and_as_much_as_was_asked_for(zoo):
    base, before = load_model(zoo["gpt"]), torch.random.get_rng_state()
    told = []
    one, same, other = (write_own(base, 3000, 256, seed, progress=told.append) for seed in (1, 1, 2))
    assert one == same != other and torch.equal(before, torch.random.get_rng_state())
    size = sum(len(text.encode()) for text in one)
    assert 3000 <= size < 9000 and told[-1] == 1 and len(one) > 4
    special = [t.content for t in base.tokenizer.added_tokens_decoder.values() if t.special]
    assert special and not any(token in text for token in special for text in one)
    assert write_own(base, 3000, 256, 1, seconds=0.0) == []


def test_a_base_whose_texts_end(zoo):
    """What ends a text is no part of it, and nothing is written behind."""
    base = load_model(zoo["gpt"])
    on = write_own(base, 20_000, 256, 0)
    base.model.generation_config.eos_token_id = base.encode("\x1d") + list(range(300, 340))
    ended = write_own(base, 20_000, 256, 0)
    assert any("\x1d" in text for text in on) and not any("\x1d" in text for text in ended)
    assert sum(map(len, ended)) / len(ended) < 0.7 * sum(map(len, on)) / len(on)


@pytest.mark.parametrize("ends", [1, 0.2])
def test_a_base_that_ends_its_texts_at_once(zoo, ends):
    """All ids may be listed as ends: nothing comes of it, and it ends."""
    base = load_model(zoo["gpt"])
    rows = len(base.model.get_input_embeddings().weight)
    base.model.generation_config.eos_token_id = list(range(0, rows, round(1 / ends)))
    found = write_own(base, 1000, 256, 0)
    assert (found == []) == (ends == 1)


def test_every_other_text_begins_as_a_kind_of_text_does(zoo, monkeypatch):
    """All kinds once before any comes again, and each text goes on as the base has it."""
    monkeypatch.setattr(own_text, "BEGINNINGS", ("the value", "def f", "= 3"))
    base = load_model(zoo["gpt"])
    found = write_own(base, 3000, 96, 3)
    kinds = [next((k for k in ("the value", "def f", "= 3") if text.startswith(k)), None) for text in found[:12]]
    assert kinds[::2] == [None] * 6 and len(set(kinds[1:6:2])) == len(set(kinds[7::2])) == 3
    assert len(set(found)) == len(found) and min(map(len, found)) > 12
    # those that have what is no text, or what ends one, are left out
    base.model.generation_config.eos_token_id = base.encode("def f")[-1]
    monkeypatch.setattr(own_text, "_no_text", lambda *_: base.encode("= 3")[:1])
    kinds = {text[:9] for text in write_own(base, 3000, 96, 3)[1::2]}
    assert len(kinds) == 1


def test_beginnings_of_several_lengths_go_on_as_each_alone(zoo):
    """Written together by the most probable ids, as transformers goes on from each."""
    base = load_model(zoo["gpt"])
    base.model.generation_config.eos_token_id = None
    plainly(base)
    rows = len(base.model.get_input_embeddings().weight)
    never = [i for i in range(rows) if not base.tokenizer.decode([i]).isalpha()]

    def words(_, scores):
        scores[:, never] = -torch.inf
        return scores

    ids = [base.encode("the value of x is 42"), [], base.encode("def")]
    assert len({len(one) for one in ids}) == 3
    alone = []
    for one in ids:
        start = torch.tensor([[base.prefix, *one]])
        more = {"max_new_tokens": 24 - len(one), "attention_mask": torch.ones_like(start), "logits_processor": [words]}
        row = base.model.generate(start, do_sample=False, **more)[0, 1:]
        alone.append(base.tokenizer.decode(row, clean_up_tokenization_spaces=False).rstrip("\ufffd"))
    assert all(alone) and own_text._round(base, words, ids, 24, 60.0) == alone


def test_a_text_that_ends_behind_its_beginning_is_none(zoo, monkeypatch):
    base = load_model(zoo["gpt"])
    beginning = base.encode("def f")
    rows = len(base.model.get_input_embeddings().weight)
    base.model.generation_config.eos_token_id = sorted(set(range(rows)) - set(beginning))
    found = own_text._round(plainly(base), Drawn([]), [beginning] * 50, 12, 60.0)
    assert all(len(text) > len("def f") for text in found)
    # what is long beside the text is no beginning
    monkeypatch.setattr(own_text, "BEGINNINGS", ("the value of x is 42",))
    base.model.generation_config.eos_token_id = None
    assert not any(text.startswith("the value") for text in write_own(base, 400, 8, 0))
    assert any(text.startswith("the value of x is 42") for text in write_own(base, 2000, 128, 0))


def test_ids_without_a_token_or_without_a_row_are_not_drawn(zoo):
    base = load_model(zoo["spm"])  # padded by 22 rows
    rows, n = len(base.model.get_input_embeddings().weight), len(base.tokenizer)
    assert rows > n and set(range(n, rows)) <= set(own_text._no_text(base, frozenset()))
    base.tokenizer.add_special_tokens({"additional_special_tokens": [f"<more {i}>" for i in range(rows - n + 3)]})
    assert max(own_text._no_text(base, frozenset([2]))) < rows and 2 not in own_text._no_text(base, frozenset([2]))
    assert write_own(base, 300, 256, 0)


def test_texts_are_whole_where_time_is_short(zoo, monkeypatch):
    """A round is no larger than its whole texts have time for."""
    now, sizes = [0.0], []

    def written(_, _drawn, begun_as, _length, seconds):
        assert seconds > 0
        now[0] += 1 + len(begun_as) / 8
        sizes.append(len(begun_as))
        return ["x" * 250] * len(begun_as)

    monkeypatch.setattr(own_text, "_round", written)
    monkeypatch.setattr(own_text.time, "perf_counter", lambda: now[0])
    write_own(load_model(zoo["gpt"]), 1 << 20, 256, 0, seconds=20.0)
    assert sizes[:2] == [16, 90] and now[0] < 21
    sizes.clear()
    write_own(load_model(zoo["gpt"]), 1 << 20, 256, 0, seconds=4.0)
    assert sizes[:2] == [16, 5]


def test_as_many_are_written_at_once_as_the_memory_holds(zoo, monkeypatch):
    asked, base = [], load_model(zoo["gpt"])

    def written(*of):
        asked.append(len(of[2]))
        if asked[-1] > 3:
            raise torch.OutOfMemoryError("no room")
        return ["Some words. " * 20] * asked[-1]

    monkeypatch.setattr(own_text, "_round", written)
    assert len(write_own(base, 240 * 7, 240, 0)) >= 7
    refused = [n for n in asked if n > 3]
    assert refused and asked[: len(refused)] == refused  # no such number is tried again

    def never(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(own_text, "_round", never)
    with pytest.raises(InputError, match=r"no room.*--own-text 0"):
        write_own(base, 240, 240, 0)


def test_each_text_is_a_piece():
    given = TextPieces.of([Text.of("a b c " * 50), Text.of("d e f " * 50)], 100)
    own = OwnText(["naïve " * 30, "x", "y " * 200], 1.0)
    both = with_own(given, own, 100)
    assert list(both)[: len(given)] == list(given)
    mine = list(both)[len(given) :]
    assert len(mine) == 3 and all(text.startswith(piece) for piece, text in zip(mine, own.texts, strict=True))
    assert mine[1] == "x" and all(80 < len(piece.encode()) <= 100 for piece in (mine[0], mine[2]))
    assert set(both.places[len(given) :, 0].tolist()) == {2}
    assert list(with_own(given, OwnText([], 0.0), 100)) == list(given)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_its_share_is_as_even_as_can_be(share):
    order = mixed(lambda position: position, range(1000, 1010), share, 0)
    seen = [order(position) for position in range(200)]
    own = [number >= 1000 for number in seen]
    for end in range(1, 200):
        assert abs(sum(own[:end]) - end * share) <= 1
    mine = [number for number in seen if number >= 1000]
    assert len(set(mine[:10])) == 10 == len(set(mine[10:20])) and mine[:10] != mine[10:20]
    rest = [number for number in seen if number < 1000]
    assert rest == list(range(len(rest)))
    assert mixed(order, range(0), share, 0) is order


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"own_text": 1.0}, "own_text=1.0 must be at least 0 and below 1"),
        ({"own_text": -0.1}, "own_text=-0.1 must be"),
        ({"own_text": 0.5, "diloco": 2, "steps": 4}, "own_text=0.5: groups must all have the same text"),
    ],
)
def test_options(settings, message):
    with pytest.raises(InputError, match=message):
        HealOptions(**settings)
    assert HealOptions().lasting == HealOptions(own_text=0.5).lasting != HealOptions(own_text=0.4).lasting
    assert HealOptions().own_share == 0.5 and HealOptions(diloco=2, steps=4).own_share == 0


def test_what_was_interrupted_goes_on_with_the_same_text(made, zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")

    def interrupt(_share, report, _losses):
        if report.steps == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        heal(str(made), str(zoo["gpt"]), out, quick(), progress=interrupt)
    (kept,) = (tmp_path / ".out.healing").glob("own-*.json")
    assert json.loads(kept.read_text())["texts"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_text, "write_own", lambda *_: pytest.fail("it is there already"))
        report = heal(str(made), str(zoo["gpt"]), out, quick())
    assert report.steps == 4 and report.own["bytes"] > 200 and not (tmp_path / ".out.healing").exists()
    (run,) = json.loads((out / "tokensurgeon.json").read_text())["healed"]["runs"]
    assert run["own"] == report.own and run["own_text"] == 0.5
    forget_accelerate()
    heal(str(made), str(zoo["gpt"]), tmp_path / "whole", quick())
    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(tensor, load_file(tmp_path / "whole/model.safetensors")[name])


@pytest.mark.parametrize(("took", "left"), [(30.0, 1.5), (90.0, 1.0)])
def test_time_that_it_takes_is_part_of_the_time_asked_for(made, zoo, tmp_path, monkeypatch, took, left):
    seen = []
    monkeypatch.setattr(run, "own_text", lambda *_: OwnText(["Some words of its own. " * 20] * 4, took))
    monkeypatch.setattr(run, "Loop", lambda _, options, *__: seen.append(options.minutes) or pytest.fail("seen"))
    with pytest.raises(pytest.fail.Exception, match="seen"):
        heal(str(made), str(zoo["gpt"]), tmp_path / "out", quick(steps=None, minutes=2.0))
    assert seen == [pytest.approx(left)]


@pytest.mark.parametrize(
    ("settings", "n_bytes", "seconds"),
    [
        ({"steps": None, "minutes": 10.0}, own_text._MOST_BYTES, 120.0),
        ({"steps": None, "minutes": 10.0, "own_text": 0.25}, own_text._MOST_BYTES, 60.0),
        ({"steps": 40}, 40 * 256 // 4, float("inf")),
        ({"steps": 40, "batch": 3, "own_text": 0.25}, 40 * 3 * 256 // 8, float("inf")),
        ({"steps": 1 << 20}, own_text._MOST_BYTES, float("inf")),
    ],
)
def test_how_much_is_written(monkeypatch, tmp_path, settings, n_bytes, seconds):
    seen = []
    monkeypatch.setattr(own_text, "write_own", lambda _, *asked: seen.append(asked) or ["text"])
    alone = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)
    kept = tmp_path / "new/own.json"
    found = own_text.own_text(alone, None, quick(**settings), kept, None)
    none = OwnText([], 0.0), own_text.part_of(kept, alone)
    assert seen == [(n_bytes, 256, 0, pytest.approx(seconds), None, none)] and found.texts == ["text"]
    assert not kept.parent.exists()
    found.keep(kept)
    assert own_text.own_text(alone, None, quick(**settings), kept, None) == found and len(seen) == 1
    assert own_text.own_text(alone, None, quick(own_text=0.0), kept, None).texts == []


def test_a_base_that_is_interrupted_goes_on_writing(made, zoo, tmp_path, monkeypatch):
    """What it has written so far is kept now and then, counts as written, and is drawn no second time."""
    monkeypatch.setattr(own_text, "_KEPT_EVERY", 0.0)
    monkeypatch.setattr(own_text, "_AT_ONCE", 4)
    out, hidden, options = tmp_path / "out", tmp_path / ".out.healing", quick(steps=64)

    def interrupt(stage, done, _total):
        if stage == Stage.OWN and done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(str(made), str(zoo["gpt"]), out, options, reading=interrupt)
    (part,) = hidden.iterdir()
    before = OwnText.kept(part)
    assert part.name.endswith(".0of1") and before.tried >= len(before.texts) > 2 and before.seconds > 0
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_text, "_round", lambda *asked: seen.append(len(asked[2])) or ["Some words. " * 6] * seen[-1])
        patch.setattr(run, "with_own", lambda _given, own, _size: seen.append(own) or pytest.fail("enough"))
        with pytest.raises(pytest.fail.Exception, match="enough"):
            heal(str(made), str(zoo["gpt"]), out, options)
    whole = seen.pop()
    assert whole.texts[: len(before.texts)] == before.texts and whole.seconds > before.seconds and whole.tried == 0
    assert 4096 <= whole.n_bytes < 4096 + 5 * 256 and len(whole.texts) - len(before.texts) == sum(seen)
    with pytest.raises(InputError, match="no layer"):  # which says nothing of what is there
        heal(str(made), str(zoo["gpt"]), out, quick(steps=64, lora=4000))
    assert OwnText.kept(part).tried > before.tried
    (hidden / f"{part.stem}.1of2").write_text("{}")  # of a run in two processes
    heal(str(made), str(zoo["gpt"]), out, quick(steps=8))
    assert not hidden.exists()


def test_what_is_found_late_leaves_nothing_of_what_was_written(made, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(own_text, "_KEPT_EVERY", 0.0)

    def late(*_):
        assert len([*(tmp_path / ".out.healing").iterdir()]) == 1
        raise InputError("late")

    monkeypatch.setattr(run, "compared", late)
    with pytest.raises(InputError, match="late"):
        heal(str(made), str(zoo["gpt"]), tmp_path / "out", quick())
    assert not list(tmp_path.iterdir())


def test_parts_that_are_kept_at_once_do_not_meet(tmp_path):
    """Every process has a name of its own for what it writes before it is put in place."""
    parts = [OwnText([str(i) * 20_000], 1.0, 1) for i in range(4)]

    def keep(number):
        for _ in range(10):
            parts[number].keep(tmp_path / f"own.{number}of4")
            assert OwnText.kept(tmp_path / f"own.{number}of4") == parts[number]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(4)))


def test_a_place_that_cannot_be_written_to_is_no_fault_of_the_model(zoo, monkeypatch, tmp_path):
    monkeypatch.setattr(own_text, "_KEPT_EVERY", 0.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_own(load_model(zoo["gpt"]), 300, 256, 0, kept=(OwnText([], 0.0), tmp_path / "file/part"))


def test_bad_input_that_is_found_late_leaves_nothing_behind(made, zoo, monkeypatch, tmp_path):
    monkeypatch.setattr(own_text, "write_own", lambda *_: pytest.fail("it takes minutes, and comes behind all checks"))
    with pytest.raises(InputError, match="no layer of the model is wider"):
        heal(str(made), str(zoo["gpt"]), tmp_path / "out", quick(lora=1000, steps=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["none", "fails"])
def test_a_base_that_cannot_write(zoo, monkeypatch, tmp_path, caplog, fault):
    """Refused where its text was asked for; otherwise the given text does it, and that is said."""
    base = load_model(zoo["gpt"])
    if fault == "none":
        monkeypatch.setattr(base.model, "can_generate", lambda: False)
    else:
        monkeypatch.setattr(base.model, "generate", lambda *_, **__: {}["no such cache"])
    alone = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)
    with pytest.raises(InputError, match=r"cannot write text of its own .* Use --own-text 0"):
        own_text.own_text(alone, base, quick(own_text=0.5), tmp_path / "own.json", None)
    found = own_text.own_text(alone, base, quick(), tmp_path / "own.json", None)
    assert found.texts == [] and "training on the given text alone" in caplog.text

"""Text that the base writes itself, to be trained on besides what is given."""

from __future__ import annotations

import json
from collections import Counter
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
    left = Drawn()(torch.zeros(n, 1), scores.expand(n, -1))
    assert (left.isfinite().sum(dim=1) == 1).all()
    found = torch.bincount(left.argmax(dim=1), minlength=rows) / n
    wanted = scores.softmax(dim=0)
    assert found[3] == 0 and ((found - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1e-9).all()


def test_a_base_writes_by_its_probabilities(zoo):
    """Of 2,000 texts of one token each token's share is what the base says, special ones apart."""
    base = load_model(zoo["gpt"])
    with torch.no_grad():
        base.model.get_output_embeddings().weight.mul_(8)  # some are likelier than others
        said = base.model(torch.tensor([[base.prefix]])).logits[0, -1].softmax(dim=0)
    special = [i for i, token in base.tokenizer.added_tokens_decoder.items() if token.special]
    said[special] = 0
    said /= said.sum()
    counts = Counter(own_text._round(plainly(base), 2000, 1, 60.0))
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
    assert 3000 <= size < 9000 and size in told and len(one) > 4
    special = [t.content for t in base.tokenizer.added_tokens_decoder.values() if t.special]
    assert special and not any(token in text for token in special for text in one)
    assert write_own(base, 3000, 256, 1, seconds=0.0) == []


def test_a_base_whose_texts_end(zoo):
    """What ends a text is no part of it, and nothing is written behind."""
    base = load_model(zoo["gpt"])
    end = base.encode("e")[-1]
    base.model.generation_config.eos_token_id = end
    written = write_own(base, 2000, 256, 0)
    assert written and all(end not in base.encode(text)[1:-1] for text in written)
    assert min(map(len, written)) < max(map(len, written))


def test_no_piece_has_parts_of_two_texts():
    given = TextPieces.of([Text.of("a b c " * 50), Text.of("d e f " * 50)], 100)
    own = OwnText(["naïve " * 30, "x", "y " * 200], 1.0)
    both = with_own(given, own, 100)
    assert list(both)[: len(given)] == list(given)
    mine = list(both)[len(given) :]
    assert "".join(mine) == "".join(own.texts) and all(len(set(piece) & set("nxy")) == 1 for piece in mine)
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
    assert run["own"] == report.own and run["own_text"] is None
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
    assert seen == [(n_bytes, 256, 0, pytest.approx(seconds), None)] and found.texts == ["text"]
    assert own_text.own_text(alone, None, quick(**settings), kept, None) == found and len(seen) == 1
    assert own_text.own_text(alone, None, quick(own_text=0.0), kept, None).texts == []

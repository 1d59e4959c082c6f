"""Bits per byte against transformers' own loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.evaluation import states as states_module
from tokensurgeon.evaluation.evaluate import evaluate
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.states import collect_states
from tokensurgeon.evaluation.texts import open_texts, python_text, split_bytes

TEXT = "The value of the object is 42.\nNaïve café, 日本."


@pytest.fixture(scope="module")
def loaded(zoo):
    return load_model(zoo["gpt"])


def test_bits_per_byte_is_the_models_loss(loaded):
    score = score_text(loaded.model, loaded.encode, loaded.prefix, [TEXT])
    ids = torch.tensor([[loaded.prefix, *loaded.encode(TEXT)]])
    with torch.no_grad():
        loss = loaded.model(input_ids=ids, labels=ids).loss.item()
    expected = loss * (ids.shape[1] - 1) / math.log(2) / len(TEXT.encode())
    assert score.bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_groups_and_watched_mass(loaded):
    ids = loaded.encode(TEXT)
    mask = torch.zeros(loaded.model.config.vocab_size, dtype=torch.bool)
    mask[ids[::2]] = True
    watched = torch.tensor([1, 5, 9])
    score = score_text(
        loaded.model, loaded.encode, loaded.prefix, [TEXT], groups={"a": mask, "b": ~mask}, watched=watched
    )
    (count_a, nats_a), (count_b, nats_b) = score.groups["a"], score.groups["b"]
    assert count_a + count_b == len(ids) and nats_a + nats_b == pytest.approx(score.nats, rel=1e-6)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[loaded.prefix, *ids]])).logits[0, :-1]
    assert score.mass == pytest.approx(logits.softmax(-1)[:, watched].sum(-1).mean().item(), rel=1e-4)


def test_without_a_prefix_the_first_token_is_not_scored(loaded):
    assert score_text(loaded.model, loaded.encode, None, [TEXT]).positions == len(loaded.encode(TEXT)) - 1


def test_without_a_prefix_the_bytes_of_a_single_token_are_counted(loaded):
    told = []
    alone = score_text(loaded.model, loaded.encode, None, ["a"], tell=lambda: told.append(1))
    assert len(loaded.encode("a")) == 1 and len(told) == 1
    assert (alone.n_bytes, alone.positions, alone.nats) == (1, 0, 0.0)
    both, text = (score_text(loaded.model, loaded.encode, None, pieces) for pieces in (["a", TEXT], [TEXT]))
    assert both.n_bytes == text.n_bytes + 1 and both.nats == text.nats


def test_a_text_of_no_tokens_has_no_states(loaded):
    seen = collect_states(loaded.model, lambda text: loaded.encode(text) if text == TEXT else [], None, ["", TEXT])
    assert len(seen.states) == len(loaded.encode(TEXT))


def test_states_times_head_are_the_logits(loaded):
    seen = collect_states(loaded.model, loaded.encode, loaded.prefix, [TEXT])
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[loaded.prefix, *loaded.encode(TEXT)]])).logits[0]
    head = loaded.model.get_output_embeddings().weight
    torch.testing.assert_close(seen.states @ head.T, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.log_normaliser, logits.logsumexp(-1))


@pytest.mark.parametrize("scale", [None, 0.25])
def test_normalisers_are_those_of_a_sample_of_the_states(monkeypatch, scale):
    """Which comes first, from pieces of which some are shorter than it is sparse."""
    from transformers import CohereConfig, CohereForCausalLM

    monkeypatch.setattr(states_module, "_NORMALISED", 3)
    config = CohereConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        logit_scale=scale or 1.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model, pieces = CohereForCausalLM(config).eval(), ([5, 6, 7, 8], [9], [10, 11], [12, 13, 14, 15, 16])
    seen = collect_states(model, lambda piece: list(pieces[int(piece)]), None, ["0", "1", "2", "3"])
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in pieces])
    sampled = [2, 4, 6, 9]  # of every four the third, or the last of a piece that has fewer
    order = [*sampled, *(i for i in range(12) if i not in sampled)]
    torch.testing.assert_close(seen.states @ model.lm_head.weight.T, logits[order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(seen.log_normaliser, logits[sampled].logsumexp(-1))
    assert len(seen.normalised) == 4


def test_states_of_a_model_that_scales_its_logits():
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        logit_scale=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = CohereForCausalLM(config).eval()
    seen = collect_states(model, lambda _: [5, 6, 7], None, ["x"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0]
    torch.testing.assert_close(seen.states @ model.lm_head.weight.T, logits, rtol=1e-3, atol=1e-4)


def test_pieces_are_the_text_and_fit():
    text = python_text(20_000) + "é" * 3000
    pieces = split_bytes(text, 1000)
    assert "".join(pieces) == text and max(len(p.encode()) for p in pieces) <= 1000


def test_python_text_is_as_long_as_asked():
    assert 0.9 * 30_000 < len(python_text(30_000).encode()) < 1.1 * 30_000


def test_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("é" * 100)
    assert "".join(open_texts([path])["a.txt"]) == "é" * 100
    assert "".join(open_texts([path], 51)["a.txt"]) == "é" * 25  # a character cut by the limit is left out
    path.write_bytes("\ufeffa\r\n".encode())
    assert "".join(open_texts([path], 5)["a.txt"]) == "a\r"  # a byte order mark is no text
    assert list(open_texts([])) == ["python-topics"]
    for content, message in ((b"", "empty"), (b"\xff", "not UTF-8"), (b"\xff\xfea\0", "looks like UTF-16")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_texts([path])
    with pytest.raises(InputError, match="cannot be read"):
        open_texts([Path("/no/such/file")])


def test_evaluate_splits_by_provenance(zoo, tmp_path):
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    text = {"t": TEXT}
    result = evaluate(str(tmp_path / "out"), text)["texts"]["t"]
    ids = report.donor.vocabulary.encode(TEXT)
    shared = sum(report.alignment.plan.source[i] >= 0 for i in ids)
    assert result["groups"]["shared"]["tokens"] == shared and result["groups"]["new"]["tokens"] == len(ids) - shared
    assert 0 <= result["dead_mass"] < 1e-4
    assert evaluate(str(zoo["gpt"]), text)["texts"]["t"]["groups"] == {}


def test_a_model_that_does_not_load(copy_of):
    broken = copy_of("gpt")
    (broken / "config.json").write_text('{"model_type": "martian"}')
    with pytest.raises(InputError, match="cannot build a language model of type 'martian'"):
        load_model(broken)


def test_texts_of_one_name_are_told_apart(tmp_path, monkeypatch):
    """Also where the second is in the current directory, so that its path is the name."""
    (tmp_path / "b").mkdir()
    for place in ("a.txt", "b/a.txt"):
        (tmp_path / place).write_text(place)
    monkeypatch.chdir(tmp_path)
    found = open_texts([Path("b/a.txt"), Path("a.txt")])
    assert ["".join(text) for text in found.values()] == ["b/a.txt", "a.txt"]

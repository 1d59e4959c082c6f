"""Models with few learned positions: text is cut to what they can read, wherever it is read."""

from __future__ import annotations

import pytest
import torch
from tiny import save, steady
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, RobertaConfig, RobertaForCausalLM

from tokensurgeon import RowPlan, TransplantOptions, transplant
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.context import context_of, halved, inputs_of
from tokensurgeon.evaluation.evaluate import evaluate
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.states import collect_states
from tokensurgeon.evaluation.texts import python_text, split_bytes
from tokensurgeon.healing import HealOptions, heal
from tokensurgeon.healing.objective import WEIGHTS
from tokensurgeon.merging.estimate.fisher import estimate_fisher
from tokensurgeon.verification.running import forward_checks
from tokensurgeon.verification.verify import verify

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def gpt2(rows, positions, seed=0):
    config = GPT2Config(vocab_size=rows, n_embd=32, n_layer=1, n_head=2, n_positions=positions)
    return steady(GPT2LMHeadModel(config), seed)


@pytest.fixture(scope="module")
def base(gpt, tmp_path_factory):
    return save(tmp_path_factory.mktemp("context") / "base", gpt2(len(gpt), 64), gpt)


@pytest.fixture(scope="module")
def made(base, zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("context") / "made"
    transplant(str(base), str(zoo["spm"]), out, TransplantOptions(k=8))
    return out


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=20)),
        OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=20)),
        RobertaForCausalLM(
            RobertaConfig(**SMALL, intermediate_size=16, max_position_embeddings=22, pad_token_id=1, is_decoder=True)
        ),
    ],
    ids=["gpt2", "opt", "roberta"],
)
def test_the_context_is_what_the_model_can_read(model):
    assert context_of(model) == 20
    with torch.no_grad():
        model(input_ids=torch.full((1, 20), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 21), 5))


def test_parts_are_the_text_and_fit():
    text = "abcdefghijk"
    assert halved(text, lambda part: len(part) < 4) == ["ab", "cde", "fgh", "ijk"]
    parts = list(inputs_of(lambda t: [ord(c) for c in t], 0, text, 4))
    assert "".join(part for part, _ in parts) == text
    assert all(ids == [0, *(ord(c) for c in part)] and len(ids) <= 4 for part, ids in parts)
    assert list(inputs_of(lambda _: [7] * 9, None, "a", 4)) == [("a", [7] * 4)]  # a letter of more tokens than fit


def test_all_bytes_are_scored(base):
    loaded = load_model(base)
    pieces, told = split_bytes(python_text(4096)), []
    score = score_text(loaded.model, loaded.encode, loaded.prefix, pieces, tell=lambda: told.append(1))
    assert score.n_bytes == sum(len(piece.encode()) for piece in pieces) and len(told) == len(pieces)
    parts = [part for piece in pieces for part, _ in inputs_of(loaded.encode, loaded.prefix, piece, 64)]
    assert score.nats == score_text(loaded.model, loaded.encode, loaded.prefix, parts).nats
    seen = collect_states(loaded.model, loaded.encode, loaded.prefix, pieces)
    assert len(seen.states) == score.positions + len(parts)


def test_a_transplant_is_verified_and_scored(base, made, zoo):
    assert all(check.ok for check in verify(made, base, zoo["spm"]))
    assert evaluate(str(made), {"t": python_text(4096)})["texts"]["t"]["bytes"] > 4000


def test_a_context_shorter_than_the_verifiers_sentence(gpt, made, tmp_path):
    out = save(tmp_path / "short", gpt2(len(gpt), 16), gpt)
    manifest = Manifest.read(made)
    cut = RowPlan(manifest.plan.provenance[: len(gpt)], manifest.plan.source[: len(gpt)])
    manifest = Manifest(manifest.content, cut)
    checks = {check.name: check for check in forward_checks(out, manifest)}
    assert checks["forward pass"].ok and "dead ids" in checks


@pytest.mark.slow
def test_healing_and_fisher_cut_text_too(base, made, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text(python_text(16_000), "utf-8")
    report = heal(str(made), str(base), tmp_path / "healed", HealOptions(text=(str(text),), steps=2, batch=2))
    assert report.steps == 2 and report.tokens <= 2 * 2 * (64 + WEIGHTS.branches)
    found = estimate_fisher(str(base), [text], tmp_path / "f.safetensors", pieces=3)
    assert found.pieces == 3 and found.tokens > 3 * 64

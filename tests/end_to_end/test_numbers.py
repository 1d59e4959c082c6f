"""``--numbers base``, end to end on tiny real models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import TEXT, byte_level, fast, llama, save, wordpiece
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.report.card import warnings
from tokensurgeon.surgery.pair import align_models
from tokensurgeon.verification.running import DEAD_MASS_LIMIT
from tokensurgeon.verification.verify import verify

NUMBERS = "".join(f"{i} x{i}y {i}, " for i in range(1200))
BASE = TransplantOptions(method="subtoken", numbers="base")


def _digits() -> Tokenizer:
    """SmolLM2 style: digits alone, in front of all else."""
    tokenizer = byte_level(700, text=NUMBERS + TEXT)
    spec = json.loads(tokenizer.to_str())
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if not any(c.isdigit() for c in "".join(m))]
    spec["model"]["vocab"] = {
        piece: i
        for i, piece in enumerate(p for p in spec["model"]["vocab"] if len(p) == 1 or not any(map(str.isdigit, p)))
    }
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )
    return tokenizer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``base`` cuts digit by digit, ``donor`` and ``words`` (WordPiece) do not, ``same`` does."""
    root = tmp_path_factory.mktemp("numbers")
    made = {}
    for seed, (name, tokenizer) in enumerate(
        {
            "base": _digits(),
            "donor": byte_level(1500, text=NUMBERS + TEXT),
            "same": _digits(),
            "words": wordpiece(1500, text=NUMBERS + TEXT),
        }.items()
    ):
        special = {"unk_token": "[UNK]", "cls_token": "[CLS]"} if name == "words" else {"eos_token": "<|endoftext|>"}
        wrapped = fast(tokenizer, **special)
        made[name] = save(root / name, llama(len(wrapped), seed=seed), wrapped)
    return made


def test_digits_are_the_bases_and_longer_numbers_take_no_mass(pair, tmp_path):
    report = transplant(str(pair["base"]), str(pair["donor"]), tmp_path / "out", BASE)
    own, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", pair["donor"]))
    assert own.get_vocab() == theirs.get_vocab()
    assert own.tokenize("in 2024, 1.5x10") == ["in", "Ġ", *"2024", ",", "Ġ", "1", ".", "5", "x", "1", "0"]
    text = "def f(x):\n\treturn 'naïve' # 日本"
    assert own(text)["input_ids"] == theirs(text)["input_ids"]

    base, model = (AutoModelForCausalLM.from_pretrained(place) for place in (pair["base"], tmp_path / "out"))
    old, new = base.get_input_embeddings().weight, model.get_input_embeddings().weight
    base_tokens = AutoTokenizer.from_pretrained(pair["base"])
    for digit in "0123456789":
        ours, bases = own.convert_tokens_to_ids(digit), base_tokens.convert_tokens_to_ids(digit)
        assert report.alignment.plan.provenance[ours] == Provenance.COPIED
        assert torch.equal(new[ours], old[bases])
    several = [i for token, i in own.get_vocab().items() if len(token) > 1 and any(map(str.isdigit, token))]
    assert len(several) > 100 and (report.alignment.plan.provenance[several] == Provenance.UNREACHABLE).all()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([own("x7y 12, 365")["input_ids"]])).logits
    assert logits.softmax(-1)[..., several].sum(-1).max() < DEAD_MASS_LIMIT

    manifest = Manifest.read(tmp_path / "out")
    assert manifest.content["options"]["numbers"] == "base" and manifest.content["numbers"]["changed"]
    assert not any(s["kind"] == "numbers" for s in manifest.content["scheme_differences"])
    assert any("digit by digit" in note for note in warnings(manifest.content))
    assert manifest.content["donor"]["sha256"]["tokenizer"] != manifest.content["tokenizer_sha256"]
    assert all(c.ok for c in verify(tmp_path / "out", pair["base"], pair["donor"]))
    assert "Numbers are cut digit by digit" in (tmp_path / "out" / "report.html").read_text()
    assert {p.name for p in (tmp_path / "out").iterdir()}.isdisjoint({"vocab.json", "merges.txt", "tokenizer.model"})


def test_the_verifier_sees_a_tokenizer_that_joins_digits_again(pair, tmp_path):
    transplant(str(pair["base"]), str(pair["donor"]), tmp_path / "out", BASE)
    shutil.copy(pair["donor"] / "tokenizer.json", tmp_path / "out" / "tokenizer.json")
    failed = {c.name for c in verify(tmp_path / "out", pair["base"], pair["donor"]) if not c.ok}
    assert {"tokenizer unchanged", "text round trip"} <= failed


def test_files_that_would_cut_otherwise_are_left_out(pair, tmp_path):
    donor = Path(shutil.copytree(pair["donor"], tmp_path / "donor"))
    (donor / "merges.txt").write_text("#version: 0.2\n1 2\n")
    (donor / "vocab.json").write_text("{}")
    settings = json.loads((donor / "tokenizer_config.json").read_text())
    (donor / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
    transplant(str(pair["base"]), str(donor), tmp_path / "out", BASE)
    assert not (tmp_path / "out" / "merges.txt").exists() and not (tmp_path / "out" / "vocab.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("365") == ["3", "6", "5"]


def test_by_default_nothing_changes(pair, tmp_path):
    transplant(str(pair["base"]), str(pair["donor"]), tmp_path / "out", TransplantOptions(method="subtoken"))
    own, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", pair["donor"]))
    assert own.tokenize("365 x12y") == theirs.tokenize("365 x12y") and len(own.tokenize("12")) == 1
    notes = warnings(Manifest.read(tmp_path / "out").content)
    (note,) = [note for note in notes if "--numbers base" in note]
    assert "Try --numbers base." in (tmp_path / "out" / "report.html").read_text()
    assert "of the donor's tokens have several digits, such as '" in note


def test_word_pieces_continue_a_number_and_begin_it_with_the_space(pair, tmp_path):
    report = transplant(str(pair["base"]), str(pair["words"]), tmp_path / "out", BASE)
    own, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", pair["words"]))
    assert own.tokenize("in 2024 x12y") == ["in", "2", "##0", "##2", "##4", "x", "##1", "##2", "##y"]
    assert own.decode(own("in 2024", add_special_tokens=False)["input_ids"]) == "in 2024"
    words = [w for w in TEXT.split() if not any(map(str.isdigit, w))][:300]
    assert own(" ".join(words))["input_ids"] == theirs(" ".join(words))["input_ids"]
    where = report.alignment.plan.provenance
    base = AutoTokenizer.from_pretrained(pair["base"])
    assert where[own.convert_tokens_to_ids("##7")] == Provenance.COPIED
    assert report.alignment.overrides[own.convert_tokens_to_ids("7")] == tuple(base(" 7")["input_ids"])
    several = [i for token, i in theirs.get_vocab().items() if sum(map(str.isdigit, token)) > 1]
    assert len(several) > 20 and (where[several] == Provenance.UNREACHABLE).all()


def test_nothing_to_do_is_said(pair):
    *_, schemes = align_models(str(pair["base"]), str(pair["same"]), BASE)
    assert schemes == []
    report = transplant(str(pair["base"]), str(pair["same"]), options=BASE, dry_run=True)
    assert not report.content["numbers"]["changed"]
    assert any("nothing to do" in note for note in warnings(report.content))


def test_a_base_that_joins_digits_itself(pair, tmp_path):
    with pytest.raises(InputError, match="does not cut numbers digit by digit itself"):
        transplant(str(pair["donor"]), str(pair["words"]), tmp_path / "out", BASE)
    assert not (tmp_path / "out").exists()


def test_a_donor_without_a_token_for_each_digit(pair, tmp_path):
    donor = Path(shutil.copytree(pair["donor"], tmp_path / "donor"))
    spec = json.loads((donor / "tokenizer.json").read_text())
    spec["model"]["vocab"]["<gone>"] = spec["model"]["vocab"].pop("4")
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "4" not in "".join(m)]
    (donor / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match=r"--numbers base: donor has no token for each digit"):
        align_models(str(pair["base"]), str(donor), BASE)


def test_the_option(pair):
    run = CliRunner().invoke(app, ["align", str(pair["base"]), str(pair["donor"]), "--numbers", "base", "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["numbers"]["changed"]
    run = CliRunner().invoke(app, ["align", str(pair["base"]), str(pair["donor"]), "--numbers", "both"])
    assert run.exit_code == 2 and "numbers='both' must be one of donor, base" in run.stderr
    run = CliRunner().invoke(app, [str(pair["base"]), str(pair["donor"]), "--numbers", "base", "--dry-run", "--json"])
    assert run.exit_code == 0 and json.loads(run.stdout)["options"]["numbers"] == "base"

"""Trimming: the text as before, everything else still possible, and logits that do not change."""

from __future__ import annotations

import json

import processes
import pytest
import torch
from safetensors.torch import load_file
from tiny import TEXT, byte_level, fast, llama, save, unigram, wordpiece
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, VerificationError
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.surgery.revert import revert
from tokensurgeon.surgery.trim import trim
from tokensurgeon.vocabulary.edit.drop import needed_ids, trimmed_spec

SHORT = TEXT[2000:5000]


@pytest.fixture(scope="module")
def kinds(zoo, tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    made = {name: zoo[name] for name in ("gpt", "spm", "untied", "biased", "sharded")}
    uni = fast(unigram(500), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made["unigram"] = save(root / "unigram", llama(len(uni)), uni)
    words = fast(wordpiece(600), cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")
    made["wordpiece"] = save(root / "wordpiece", llama(len(words)), words)
    return made


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SHORT)
    return path


@pytest.mark.parametrize("kind", ["gpt", "spm", "untied", "biased", "sharded", "unigram", "wordpiece"])
def test_the_text_is_encoded_as_before_and_scored_alike(kinds, tmp_path, text, kind):
    report = trim(str(kinds[kind]), [text], tmp_path / "out")
    assert report.after < 0.9 * report.before and report.content["verified"]
    kept = Manifest.read(tmp_path / "out").plan.source
    logits = []
    for directory in (kinds[kind], tmp_path / "out"):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        ids = tokenizer(SHORT, add_special_tokens=False)["input_ids"][:200]
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0]
        with torch.inference_mode():
            logits.append((ids, model(input_ids=torch.tensor([ids])).logits[0]))
    (old_ids, old), (new_ids, new) = logits
    assert [kept[i] for i in new_ids] == old_ids
    assert torch.equal(old[:, torch.from_numpy(kept)], new) or torch.allclose(
        old[:, torch.from_numpy(kept)].float(), new.float(), atol=1e-5
    )
    before, after = AutoTokenizer.from_pretrained(kinds[kind]), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {kept[i] for i in after.all_special_ids} == set(before.all_special_ids)
    for strange in ("Zyzzyva! 日本語 🙂 \x00", "    indented\n\n\tmore", "qwxzj" * 5):
        assert after.decode(after(strange)["input_ids"]) == before.decode(before(strange)["input_ids"])


@pytest.mark.parametrize("kind", ["gpt", "spm"])
def test_nothing_that_is_kept_can_be_left_out(kinds, kind):
    """Every merge is needed: without one of them, some token of the text comes out otherwise."""
    spec = json.loads((kinds[kind] / "tokenizer.json").read_text())
    old = Tokenizer.from_str(json.dumps(spec))
    used = set(old.encode(SHORT, add_special_tokens=False).ids)
    kept = sorted(needed_ids(spec, used))
    smaller = trimmed_spec(spec, kept)
    pieces = {i: piece for piece, i in spec["model"]["vocab"].items()}
    for merge in smaller["model"]["merges"][::40]:
        less = dict(smaller) | {
            "model": smaller["model"] | {"merges": [m for m in smaller["model"]["merges"] if m != merge]}
        }
        tokenizer = Tokenizer.from_str(json.dumps(less))
        assert any(len(tokenizer.model.tokenize(pieces[i])) != 1 for i in used if i in pieces), merge


def test_size_and_keep(kinds, tmp_path, text):
    needed = trim(str(kinds["gpt"]), [text], tmp_path / "a")
    pieces = [set(AutoTokenizer.from_pretrained(d).get_vocab()) for d in (kinds["gpt"], tmp_path / "a")]
    dropped = max(filter(str.isalpha, pieces[0] - pieces[1]), key=lambda piece: (len(piece), piece))
    (tmp_path / "keep.txt").write_text(f"<repo>\n{dropped}\n")
    kept = trim(str(kinds["gpt"]), [text], tmp_path / "b", keep=tmp_path / "keep.txt")
    assert kept.after > needed.after
    assert dropped in AutoTokenizer.from_pretrained(tmp_path / "b").get_vocab()
    filled = trim(str(kinds["gpt"]), [text], tmp_path / "c", size=needed.after + 40)
    assert needed.after < filled.after <= needed.after + 40
    with pytest.raises(InputError, match=rf"--size 9: the text needs {needed.needed} tokens"):
        trim(str(kinds["gpt"]), [text], tmp_path / "d", size=9)


def test_a_stop_token_keeps_its_meaning_where_its_id_changes(tmp_path, text):
    """What has the old id of the stop token now is no stop."""
    tokenizer = byte_level(600, specials=())
    tokenizer.add_special_tokens(["<eos>", *(f"<mark {c}>" for c in "abcdefghijklmnopqrstuvwxyz")])
    wrapped = fast(tokenizer, eos_token="<eos>")
    model = save(tmp_path / "model", llama(len(wrapped)), wrapped)
    trim(str(model), [text], tmp_path / "out", size=len(wrapped) - 15)
    new = AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id
    assert new < wrapped.eos_token_id < len(wrapped) - 15
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == new
    assert not Manifest.read(tmp_path / "out").content["removed_settings"]


def test_added_tokens_of_the_template_stay(copy_of, tmp_path, text):
    """Qwen3's <think> is not special; unused added tokens go, and come back where there is room."""
    directory = copy_of("gpt")
    (directory / "chat_template.jinja").write_text((directory / "chat_template.jinja").read_text() + "<think>")
    spec = json.loads((directory / "tokenizer.json").read_text())
    for name in ("<think>", "<tool>"):  # not in the model's own vocabulary
        spec["added_tokens"].append(spec["added_tokens"][0] | {"id": 700, "content": name, "special": False})
        spec["added_tokens"][-1]["id"] += name == "<tool>"
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    save(tmp_path / "model", llama(702), AutoTokenizer.from_pretrained(directory))
    short = trim(str(tmp_path / "model"), [text], tmp_path / "short")
    known = AutoTokenizer.from_pretrained(tmp_path / "short").get_vocab()
    assert "<think>" in known and "<tool>" not in known
    trim(str(tmp_path / "model"), [text], tmp_path / "long", size=short.before)
    assert "<tool>" in AutoTokenizer.from_pretrained(tmp_path / "long").get_vocab()


@pytest.mark.parametrize("kind", ["spm", "unigram"])
def test_a_text_without_spaces(kinds, tmp_path, kind):
    (tmp_path / "text.txt").write_text("abcabc")
    trim(str(kinds[kind]), [tmp_path / "text.txt"], tmp_path / "out")
    assert "▁" in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


def test_truncation_and_padding_stay(copy_of, tmp_path, text):
    directory = copy_of("gpt")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    pad, piece = 690, tokenizer.id_to_token(690)
    tokenizer.enable_truncation(99)
    tokenizer.enable_padding(pad_id=pad, pad_token=piece, length=50)
    tokenizer.save(str(directory / "tokenizer.json"))
    trim(str(directory), [text], tmp_path / "out")
    small = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert small.truncation["max_length"] == 99 and small.padding["length"] == 50
    assert small.padding["pad_id"] == small.token_to_id(piece) != pad


def test_the_way_back(kinds, tmp_path, text):
    """Dropped rows come from the base, kept ones stay: the whole model again."""
    trim(str(kinds["untied"]), [text], tmp_path / "small")
    revert(str(tmp_path / "small"), str(kinds["untied"]), tmp_path / "back")
    old, new = (load_file(d / "model.safetensors") for d in (kinds["untied"], tmp_path / "back"))
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def test_another_encoding_is_refused(kinds, tmp_path, text, monkeypatch):
    def without_a_merge(spec, kept):
        spec = trimmed_spec(spec, kept)
        spec["model"]["merges"] = spec["model"]["merges"][1:]
        return spec

    monkeypatch.setattr("tokensurgeon.surgery.trim.trimmed_spec", without_a_merge)
    with pytest.raises(VerificationError, match=r"encodes text\.txt otherwise than before"):
        trim(str(kinds["gpt"]), [text], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input(kinds, tmp_path, text):
    with pytest.raises(InputError, match="needs a text"):
        trim(str(kinds["gpt"]), [], tmp_path / "out")
    with pytest.raises(InputError, match="cannot be read"):
        trim(str(kinds["gpt"]), [text], tmp_path / "out", keep=tmp_path / "none")
    with pytest.raises(InputError, match="of type WordLevel"):
        needed_ids({"model": {"type": "WordLevel", "vocab": {}}}, [])


def test_the_command(kinds, tmp_path, text):
    arguments = ["trim", str(kinds["gpt"]), "--text", str(text), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "million parameters fewer" in " ".join(done.stdout.split())
    assert "with fewer tokens" in (tmp_path / "out/README.md").read_text() and (tmp_path / "out/report.html").is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr


PEAK = """
import os, resource, sys
from tokensurgeon.surgery.trim import trim
model, text, out = sys.argv[1:]
for _ in range(2):  # what the first run alone takes is not the text's
    trim(model, [text], out, overwrite=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(kinds, tmp_path):
    peaks = []
    for name, n in (("short", 1), ("long", 350)):
        (tmp_path / name).write_text(TEXT * n)  # 20 MB
        done = processes.run(PEAK, kinds["spm"], tmp_path / name, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 60, peaks

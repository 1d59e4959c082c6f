"""AutoTokenizer heeds the transplanted tokenizer, whatever class it declares and whatever the model's type."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import byte_level, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.surgery.resize import resize
from tokensurgeon.surgery.revert import revert

TEXT = "def f(x):\n\treturn 'naïve' + 42"
TEXTS = (TEXT, " it's  1234567 and\n\n\n 3.14 — 日本語 🙂", "I'LL see, e\u0301 ▁ <|endoftext|> end ")


def cut_by(pattern: str, *, nfc: bool = False) -> Tokenizer:
    """Byte-level BPE that has its own pattern."""
    tokenizer = byte_level(600)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def as_qwen2() -> Tokenizer:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    return cut_by(PRETOKENIZE_REGEX, nfc=True)


def cased() -> Tokenizer:
    tokenizer = wordpiece(500)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


KINDS = {
    "byte-level as LlamaTokenizerFast": (lambda: cut_by(r"\p{N}{1,3}|\p{L}+| ?[^\p{L}\p{N}]+"), "LlamaTokenizerFast"),
    "own pattern as GPT2Tokenizer": (lambda: cut_by(r"\p{N}|\s+|[^\s\p{N}]+"), "GPT2Tokenizer"),
    "GPT2Tokenizer": (lambda: byte_level(600), "GPT2Tokenizer"),
    "Qwen2Tokenizer": (as_qwen2, "Qwen2TokenizerFast"),
    "a class that nobody has": (lambda: byte_level(600), "ClaudeTokenizer"),
    "SentencePiece as GemmaTokenizer": (lambda: sentencepiece_bpe(600), "GemmaTokenizer"),
    "SentencePiece without a prefix as LlamaTokenizer": (lambda: sentencepiece_bpe(600), "LlamaTokenizer"),
    "Unigram as T5Tokenizer": (lambda: unigram(500), "T5Tokenizer"),
    "cased as BertTokenizer": (cased, "BertTokenizer"),
    "plain": (lambda: byte_level(600), "PreTrainedTokenizerFast"),
}


@pytest.fixture
def write(tmp_path):
    def make(tokenizer: Tokenizer, **settings):
        place = tmp_path / "donor"
        place.mkdir()
        tokenizer.save(str(place / "tokenizer.json"))
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        return TokenizerFiles.open(place)

    return make


@pytest.fixture
def on(tmp_path):
    """Write a tokenizer as the output of a model type has it."""

    def go(files: TokenizerFiles, kind: str):
        body = tmp_path / f"body-{kind}"
        body.mkdir()
        (body / "config.json").write_text(json.dumps({"model_type": kind}))
        declaration = choose_class(files, body)
        out = shutil.copytree(body, tmp_path / f"out-{kind}")
        files.write(out)
        declaration.write(out)
        return declaration, out, json.loads((out / "tokenizer_config.json").read_text())

    return go


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_cut_as_its_file_says_on_every_type(name, write, on):
    make, declared = KINDS[name]
    files = write(make(), tokenizer_class=declared)
    plain = files.plain()
    for kind in ("llama", "qwen2", "gpt2", "mistral", "gemma3_text", "phi3"):
        loaded = AutoTokenizer.from_pretrained(on(files, kind)[1], trust_remote_code=False)
        for text in TEXTS:
            expected = plain.encode(text, add_special_tokens=False).ids
            assert loaded(text, add_special_tokens=False)["input_ids"] == expected, (kind, text)


def test_a_declaration_that_is_right_stays_byte_for_byte(write, on, zoo, tmp_path):
    for number, name in enumerate(("GPT2Tokenizer", "Qwen2Tokenizer", "plain")):
        make, declared = KINDS[name]
        shutil.rmtree(tmp_path / "donor", ignore_errors=True)
        files = write(make(), tokenizer_class=declared, note=number)
        declaration, out, _ = on(files, ("llama", "qwen2", "gpt2")[number])
        assert declaration.settings is None
        before = (tmp_path / "donor/tokenizer_config.json").read_bytes()
        assert (out / "tokenizer_config.json").read_bytes() == before
    assert on(TokenizerFiles.open(zoo["spm"]), "gpt_neox")[0].settings is None


@pytest.mark.parametrize("name", ["byte-level as LlamaTokenizerFast", "own pattern as GPT2Tokenizer"])
def test_older_versions_get_a_class_that_they_know(name, write, on):
    make, declared = KINDS[name]
    settings = on(write(make(), tokenizer_class=declared), "llama")[2]
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]


def test_settings_survive_another_class(write, on):
    token = {
        "__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False,
    }  # fmt: skip
    given = {
        "bos_token": "<|endoftext|>", "pad_token": token, "chat_template": "{{ 1 }}", "add_bos_token": True,
        "model_max_length": 77, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    files = write(cut_by(r"\p{N}|\s+|[^\s\p{N}]+"), tokenizer_class="GPT2Tokenizer", **given)
    settings = on(files, "llama")[2]
    assert settings.items() >= given.items()
    assert settings["eos_token"] == "<|endoftext|>"  # what GPT2Tokenizer has by itself
    assert "mask_token" not in settings


@pytest.mark.parametrize("declared", ["BaichuanTokenizer", "PreTrainedTokenizerFast"])
def test_code_that_is_not_there_is_not_named(declared, write, on):
    code = {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]}
    files = write(byte_level(500), tokenizer_class=declared, auto_map=code)
    for kind in ("llama", "mistral", "qwen2"):
        settings = on(files, kind)[2]
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "tokenization_baichuan" not in json.dumps(settings)


def test_what_the_declared_class_puts_around_a_text_stays(write, on, tmp_path):
    """The file says nothing of it, BertTokenizer does."""
    files = write(wordpiece(500), tokenizer_class="BertTokenizer")
    (tmp_path / "donor/config.json").write_text(json.dumps({"model_type": "bert"}))
    declaration, out, _ = on(files, "llama")
    ids = AutoTokenizer.from_pretrained(out)("hello")["input_ids"]
    assert declaration.settings is None
    assert ids == AutoTokenizer.from_pretrained(tmp_path / "donor")("hello")["input_ids"]
    assert len(ids) == len(files.plain().encode("hello").ids) + 2


def test_what_cannot_be_mended_is_refused_before_the_work(zoo, copy_of, tmp_path):
    donor = copy_of("gpt")
    settings = json.loads((donor / "tokenizer_config.json").read_text())
    (donor / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "the"}))
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"cannot be made to cut text .* type 'llama' \(.* makes \[.*Take another"):
            transplant(str(zoo["spm"]), str(donor), tmp_path / "out", TransplantOptions(k=8), dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_the_same_pair_is_tried_once(write, on, tmp_path):
    from tokensurgeon.checkpoint import pinning

    files = write(byte_level(500), tokenizer_class="GPT2Tokenizer")
    on(files, "llama")
    before = pinning._chosen.cache_info().misses
    choose_class(TokenizerFiles.open(files.directory), tmp_path / "body-llama")
    assert pinning._chosen.cache_info().misses == before


@pytest.fixture
def qwen2(tmp_path):
    """A model of a type that imposes its class, which is the right one."""
    from tiny import fast, save, steady

    tokenizer = fast(as_qwen2(), bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False, max_position_embeddings=2048,
    )  # fmt: skip
    directory = save(tmp_path / "qwen2", steady(Qwen2ForCausalLM(config), 1), tokenizer)
    settings = json.loads((directory / "tokenizer_config.json").read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def test_a_type_that_imposes_its_class(qwen2, zoo, spm, tmp_path):
    report = transplant(str(qwen2), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    assert all(check.ok for check in report.checks)
    for trusted in (None, False, True):
        loaded = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=trusted)
        assert loaded(TEXT)["input_ids"] == spm(TEXT)["input_ids"], trusted
        assert loaded.eos_token_id == spm.eos_token_id


def test_the_defect_that_this_is_for(qwen2, zoo, spm, tmp_path):
    """If this fails, transformers heeds the file by itself, and pinning can go."""
    shutil.copytree(qwen2, tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(zoo["spm"] / name, tmp_path / "plain" / name)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain")(TEXT)["input_ids"] != spm(TEXT)["input_ids"]


def test_the_way_back_keeps_nothing_of_it(qwen2, zoo, tmp_path):
    transplant(str(qwen2), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    assert (tmp_path / "out/tokenization_transplanted.py").is_file()
    revert(str(tmp_path / "out"), str(qwen2), tmp_path / "back")
    assert not (tmp_path / "back/tokenization_transplanted.py").exists()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (qwen2 / name).read_bytes()


def test_a_resized_model_whose_type_imposes_the_wrong_class(qwen2, tmp_path):
    """Such as those that were distilled from DeepSeek into Qwen2."""
    own = cut_by(r"\p{N}{1,3}|\p{L}+| ?[^\p{L}\p{N}]+")
    own.save(str(qwen2 / "tokenizer.json"))
    settings = json.loads((qwen2 / "tokenizer_config.json").read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}
    (qwen2 / "tokenizer_config.json").write_text(json.dumps(settings))
    assert AutoTokenizer.from_pretrained(qwen2)(TEXT)["input_ids"] != own.encode(TEXT).ids
    resize(str(qwen2), tmp_path / "out", rows=1024)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT)["input_ids"] == own.encode(TEXT).ids


def test_a_models_own_declaration_that_works_stays(write, tmp_path):
    """Resized, trimmed or extended, it is loaded as before."""
    files = write(byte_level(500), tokenizer_class="ClaudeTokenizer")
    (tmp_path / "donor/config.json").write_text(json.dumps({"model_type": "llama"}))
    assert choose_class(files, tmp_path / "donor", foreign=False).settings is None
    assert choose_class(files, tmp_path / "donor").settings is not None

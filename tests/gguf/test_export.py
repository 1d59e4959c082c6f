"""GGUF files: read back by transformers' own reader, and by llama.cpp where it is installed (`make tools`)."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from tiny import TEXT, byte_level, fast, save, sentencepiece_bpe, unigram
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.cli.app import app
from tokensurgeon.gguf import export_gguf, gguf_vocabulary
from tokensurgeon.gguf.architectures import ARCHITECTURES
from tokensurgeon.gguf.read import read_gguf_vocabulary
from tokensurgeon.gguf.spm import cut_by_score, cut_otherwise
from tokensurgeon.gguf.vocabulary import _LLAMA_3, _QWEN_2, TokenType, pre_tokenizer_name

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
STRANGE = ("naïve café — 日本語 🙂 \t\n\n  Ж", "  two  spaces", "3.14 and 1,000", "x", " I've DON'T\r\n\r\n")


def shaken(model, seed=0):
    """Larger weights than a fresh model's, norms included, so that a mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, gpt, spm):
    """One model of every architecture, tied or not, with one of the two kinds of tokenizers."""
    root = tmp_path_factory.mktemp("kinds")
    made = {
        "llama": (LlamaForCausalLM(LlamaConfig(vocab_size=len(gpt), tie_word_embeddings=True, **SIZES)), gpt),
        "llama3": (LlamaForCausalLM(LlamaConfig(vocab_size=len(spm), rope_parameters=LLAMA_3, **SIZES)), spm),
        "mistral": (MistralForCausalLM(MistralConfig(vocab_size=len(gpt), sliding_window=None, **SIZES)), gpt),
        "qwen2": (Qwen2ForCausalLM(Qwen2Config(vocab_size=len(gpt), **SIZES)), gpt),
        "qwen3": (Qwen3ForCausalLM(Qwen3Config(vocab_size=len(gpt), head_dim=16, **SIZES)), gpt),
        "gemma3_text": (
            Gemma3ForCausalLM(
                Gemma3TextConfig(
                    vocab_size=len(spm) + 9, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, **SIZES
                )
            ),
            spm,
        ),
    }
    return {name: save(root / name, shaken(model), tokenizer) for name, (model, tokenizer) in made.items()}


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def test_every_architecture_is_tried(kinds):
    types = {json.loads((directory / "config.json").read_text())["model_type"] for directory in kinds.values()}
    assert types == set(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_reads_it_back(kinds, tmp_path, kind):
    """Their reader undoes the other order of heads; of other types it does not read all that these tiny models set."""
    export_gguf(str(kinds[kind]), tmp_path / "m.gguf", dtype="f32")
    ids = list(range(5, 45))
    before = logits(AutoModelForCausalLM.from_pretrained(kinds[kind]), ids)
    after = logits(AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32), ids)
    assert before.std() > 0.5
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_dtypes(kinds, tmp_path, dtype):
    import gguf

    report = export_gguf(str(kinds["llama"]), tmp_path / "m.gguf", dtype=dtype)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert len(tensors) == report.tensors and tensors["token_embd.weight"].tensor_type.name == dtype.upper()
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    stored = tensors["token_embd.weight"]
    ours = gguf.quants.dequantize(stored.data, stored.tensor_type)
    wanted = AutoModelForCausalLM.from_pretrained(kinds["llama"]).model.embed_tokens.weight.detach().numpy()
    assert np.abs(ours - wanted).max() < (2e-2 if dtype == "bf16" else 2e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_the_vocabulary_is_read_back(kinds, tmp_path, kind):
    export_gguf(str(kinds[kind]), tmp_path / "m.gguf")
    rows = json.loads((kinds[kind] / "config.json").read_text())["vocab_size"]
    assert read_gguf_vocabulary(tmp_path / "m.gguf") == gguf_vocabulary(TokenizerFiles.open(kinds[kind]), rows)
    with pytest.raises(InputError, match="cannot be read as a GGUF file"):
        read_gguf_vocabulary(kinds[kind] / "config.json")


def test_vocabulary_of_sentencepiece(kinds, spm):
    found = gguf_vocabulary(TokenizerFiles.open(kinds["gemma3_text"]), len(spm) + 9)
    assert (found.model, found.pre, found.add_bos, found.add_eos) == ("llama", "default", True, False)
    assert found.texts[-1] == f"[PAD{len(spm) + 8}]" and found.types[-1] == TokenType.UNUSED
    by_text = {text: i for i, text in enumerate(found.texts)}
    assert found.types[by_text["<0x0A>"]] == TokenType.BYTE and found.missing_bytes() == 0
    assert found.types[by_text["<start_of_turn>"]] == TokenType.CONTROL
    merges = json.loads(spm.backend_tokenizer.to_str())["model"]["merges"]
    joined = [by_text["".join(merge)] for merge in merges]
    assert all(found.scores[a] >= found.scores[b] for a, b in itertools.pairwise(joined))


def test_scores_give_the_same_tokens(spm, tmp_path):
    found = gguf_vocabulary(_files(spm, tmp_path), len(spm))
    for text in (TEXT[:1500], "naïve café 日本語"):
        assert cut_by_score(found, text) == spm(text, add_special_tokens=False)["input_ids"]


def test_merges_that_scores_cannot_tell_are_refused(kinds, tmp_path):
    """Without one of a token's splits in the merges, the tokenizer leaves it in pieces that llama.cpp joins."""
    directory = shutil.copytree(kinds["llama3"], tmp_path / "copy")
    spec = json.loads((directory / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][1:]
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    found = gguf_vocabulary(
        TokenizerFiles.open(directory), json.loads((directory / "config.json").read_text())["vocab_size"]
    )
    assert cut_otherwise(TokenizerFiles.open(directory), found)
    with pytest.raises(InputError, match="not those of a SentencePiece vocabulary"):
        export_gguf(str(directory), tmp_path / "m.gguf")


def _files(tokenizer, directory):
    tokenizer.save_pretrained(directory)
    return TokenizerFiles.open(directory)


def test_pre_tokenizers(tmp_path):
    def named(change, number):
        tokenizer = byte_level(400)
        change(tokenizer)
        return pre_tokenizer_name(_files(fast(tokenizer), tmp_path / str(number)))

    qwen = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    qwen += r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = [pre_tokenizers.Split(Regex(qwen), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    digits = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    for number, (parts, name) in enumerate(((split, "qwen2"), (digits, "smollm"), (digits[::-1], None))):
        assert named(lambda t, p=parts: setattr(t, "pre_tokenizer", pre_tokenizers.Sequence(p)), number) == name
    assert named(lambda _: None, 9) == "gpt-2"


@pytest.mark.parametrize(("digits", "ignores", "name"), [
    (1, False, "qwen2"), (1, True, None), (3, True, "llama-bpe"), (3, False, None),
])  # fmt: skip
def test_a_pre_tokenizer_decides_whether_merges_are_ignored(tmp_path, digits, ignores, name):
    regex = _QWEN_2 if digits == 1 else _LLAMA_3
    tokenizer = byte_level(400)
    split = [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.model.ignore_merges = ignores
    assert pre_tokenizer_name(_files(fast(tokenizer), tmp_path)) == name


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]}, "of type 'olmo2' are not written"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "of type 'yarn'"),
        ("llama", {"hidden_act": "gelu"}, "its activation is 'gelu'"),
        ("gemma3_text", {"hidden_activation": "silu"}, "computes 'gelu_pytorch_tanh'"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3_text", {"attention_bias": True}, "its attention has biases"),
        ("mistral", {"sliding_window": 256}, "attends to a window only"),
        ("llama", {"mlp_bias": True}, "bias, which llama.cpp does not read"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 6, "sliding_window": 9},
            "attends to a window only",
        ),
        ("gemma3_text", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar=16 is not head_dim=32"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6}, "not every sixth"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("llama", {"vocab_size": 4000}, "config.json has vocab_size 4000"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "is quantised"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(kinds, tmp_path, kind, change, message):
    directory = shutil.copytree(kinds[kind], tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        export_gguf(str(directory), tmp_path / "m.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_tokenizers_that_are_refused(kinds, tmp_path):
    directory = shutil.copytree(kinds["llama"], tmp_path / "copy")
    fast(unigram(400)).save_pretrained(directory)
    with pytest.raises(InputError, match="tokenizer is Unigram"):
        export_gguf(str(directory), tmp_path / "m.gguf")
    big = sentencepiece_bpe(1200)
    fast(big, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(directory)
    with pytest.raises(InputError, match="has no row in the embedding"):
        export_gguf(str(directory), tmp_path / "m.gguf")


def test_places(kinds, tmp_path):
    def refused(out, message):
        with pytest.raises(InputError, match=message):
            export_gguf(str(kinds["llama"]), out)

    refused(tmp_path / "m.bin", "call it m.gguf")
    (tmp_path / "m.gguf").write_text("old")
    refused(tmp_path / "m.gguf/none/m.gguf", "not a directory that you can write to")
    refused(tmp_path / "m.gguf", "--overwrite")
    with pytest.raises(InputError, match="must be one of f32"):
        export_gguf(str(kinds["llama"]), tmp_path / "n.gguf", dtype="q4")


def test_nothing_is_left_behind(kinds, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gguf(str(kinds["llama"]), tmp_path / "m.gguf", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command(kinds, tmp_path):
    arguments = ["export", str(kinds["llama"]), "--gguf", str(tmp_path / "m.gguf"), "--dtype", "bf16"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0 and "pre-tokenizer gpt-2" in " ".join(shown.stdout.split())
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists" in again.stderr
    content = json.loads(CliRunner().invoke(app, [*arguments, "--overwrite", "--json"]).stdout)
    assert content["architecture"] == "llama" and content["dtype"] == "bf16"


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_llama_cpp_computes_the_same(kinds, tmp_path, kind):
    llama_cpp = pytest.importorskip("llama_cpp")
    export_gguf(str(kinds[kind]), tmp_path / "m.gguf", dtype="f32")
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # of the key-value cache
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=256, n_threads=1, logits_all=True, verbose=False, **exact)
    tokenizer = TokenizerFiles.open(kinds[kind]).plain()  # AutoTokenizer has a class of its own for qwen2
    for text in (TEXT[:500], *STRANGE):
        own = tokenizer.encode(text, add_special_tokens=False).ids
        assert theirs.tokenize(text.encode(), add_bos=False, special=True) == own, text
    ids = tokenizer.encode(TEXT[:400]).ids[:120]
    assert theirs.tokenize(TEXT[:400].encode(), special=True)[:120] == ids
    theirs.eval(ids)
    wanted = logits(AutoModelForCausalLM.from_pretrained(kinds[kind]), ids)
    got = torch.from_numpy(np.array(theirs.scores[: len(ids)]))
    assert (got - wanted).abs().max() < 1e-2 * wanted.std()

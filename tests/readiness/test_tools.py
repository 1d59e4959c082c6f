"""The other tools themselves, where they are installed: what `check` says they refuse, they refuse.

LLAMA_SPECULATIVE names llama.cpp's own ``llama-speculative-simple``, for the rules on draft models.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from test_rules import MISTRAL, PAIRS, ROWS, edit, no_special
from tiny import llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokensurgeon.gguf import export_gguf, write

pytestmark = pytest.mark.peers
LOAD = "import llama_cpp, sys; llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=True).tokenize('\\x00ж'.encode())"


def without_bytes(v):
    return replace(v, texts=tuple(f"<byte {i}>" if t.startswith("<0x") else t for i, t in enumerate(v.texts)))


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("gpt", lambda v: v, None),
        ("spm", lambda v: v, None),
        ("gpt", lambda v: replace(v, model="nosuch"), "unknown tokenizer: 'nosuch'"),
        ("gpt", lambda v: replace(v, pre="nosuch"), "unknown pre-tokenizer type: 'nosuch'"),
        ("gpt", lambda v: replace(v, merges=None), "cannot find tokenizer merges in model file"),
        ("gpt", lambda v: replace(v, texts=(*v.texts[:-1], v.texts[9])), "id_to_token.size() == token_to_id.size()"),
        ("gpt", lambda v: replace(v, texts=(*v.texts, "<one more>"), types=(*v.types, 1)), "has wrong shape"),
        ("spm", without_bytes, "out_of_range"),
    ],
)
def test_llama_cpp_refuses_a_vocabulary(zoo, tmp_path, monkeypatch, kind, damage, message):
    pytest.importorskip("llama_cpp")
    original = write.gguf_vocabulary
    monkeypatch.setattr(write, "gguf_vocabulary", lambda *a: damage(original(*a)))
    monkeypatch.setattr(write, "_refuse", lambda *_: None)
    export_gguf(str(zoo[kind]), tmp_path / "m.gguf")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "m.gguf")],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert (done.returncode == 0) == (message is None), done.stderr[-2000:]
    assert message is None or message in done.stderr


@pytest.mark.parametrize(("damage", "rule"), [(None, None), *((p[2], p[4]) for p in PAIRS if p[0] == "llama.cpp")])
def test_llama_cpp_refuses_a_draft(copy_of, zoo, tmp_path, damage, rule):
    program = os.environ.get("LLAMA_SPECULATIVE")
    if program is None:
        pytest.skip("LLAMA_SPECULATIVE does not name llama-speculative-simple")
    draft = copy_of("spm")
    if damage is not None:
        damage(draft)
    for name, model in (("draft", draft), ("target", zoo["spm"])):
        export_gguf(str(model), tmp_path / f"{name}.gguf")
    files = ["-m", str(tmp_path / "target.gguf"), "-md", str(tmp_path / "draft.gguf"), "-t", "1", "-td", "1"]
    how = ["--spec-type", "draft-simple", "-c", "128", "-n", "4", "-p", "The value of the object"]
    libraries = os.environ | {"LD_LIBRARY_PATH": str(Path(program).parent)}
    done = subprocess.run(
        [program, *files, *how], capture_output=True, text=True, errors="replace", check=False, env=libraries
    )
    assert (done.returncode == 0) == (rule is None), (rule, done.stderr[-1500:])
    assert rule is None or "must match target model to use speculation" in done.stderr


def test_llama_cpp_sees_what_check_compares(zoo, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    for kind, number in (("gpt", llama_cpp.LLAMA_VOCAB_TYPE_BPE), ("spm", llama_cpp.LLAMA_VOCAB_TYPE_SPM)):
        export_gguf(str(zoo[kind]), tmp_path / f"{kind}.gguf")
        model = llama_cpp.Llama(str(tmp_path / f"{kind}.gguf"), n_ctx=64, vocab_only=True, verbose=False)
        vocabulary = llama_cpp.llama_model_get_vocab(model.model)
        ours = write.gguf_vocabulary(
            write.TokenizerFiles.open(zoo[kind]), AutoModelForCausalLM.from_pretrained(zoo[kind]).config.vocab_size
        )
        assert llama_cpp.llama_vocab_type(vocabulary) == number
        assert llama_cpp.llama_vocab_get_add_bos(vocabulary) == ours.add_bos
        assert llama_cpp.llama_vocab_get_add_eos(vocabulary) == ours.add_eos
        texts = [llama_cpp.llama_vocab_get_text(vocabulary, i).decode() for i in range(len(ours.texts))]
        assert texts == list(ours.texts) and llama_cpp.llama_vocab_n_tokens(vocabulary) == len(texts)


def trainer(kind, model, **more):
    """A trainer as a user would make one, on a text of one line."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(
        {"text": ["The value."], "messages": [[{"role": "user", "content": "The value."}]]}
    )
    return kind(model=str(model), train_dataset=rows.select_columns([more.pop("column", "text")]), **more)


def test_trl_refuses_a_teacher_of_another_size(zoo, copy_of, tmp_path):
    pytest.importorskip("trl")
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student = copy_of("gpt")
    how = {"args": GKDConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[]), "column": "messages"}
    how["processing_class"] = AutoTokenizer.from_pretrained(student)
    trainer(GKDTrainer, student, teacher_model=str(zoo["gpt"]), **how)
    ROWS(student)
    with pytest.raises(ValueError, match=r"vocab_size 2000 but the teacher model has vocab_size 700"):
        trainer(GKDTrainer, student, teacher_model=str(zoo["gpt"]), **how)


@pytest.mark.parametrize(("damage", "message"), [("pad_token", "does not have a pad token"), (None, None)])
def test_trl_refuses_a_tokenizer_without_pad_to_distil(zoo, copy_of, tmp_path, damage, message):
    pytest.importorskip("trl")
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    student = copy_of("gpt")
    if damage is not None:
        edit(student, "tokenizer_config.json", lambda c: c.pop(damage))
    how = {"args": GOLDConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[]), "column": "messages"}
    how["processing_class"] = AutoTokenizer.from_pretrained(student)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        trainer(GOLDTrainer, student, teacher_model=str(zoo["gpt"]), **how)


def test_one_trainer_of_trl_takes_a_tokenizer_without_pad(zoo, copy_of, tmp_path):
    pytest.importorskip("trl")
    from trl import DistillationConfig, DistillationTrainer

    student = copy_of("gpt")
    edit(student, "tokenizer_config.json", lambda c: c.pop("pad_token"))
    how = {"args": DistillationConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[])}
    trainer(DistillationTrainer, student, teacher_model=str(zoo["gpt"]), column="messages", **how)


@pytest.mark.parametrize(("kind", "message"), [("spm", "only ByteLevel"), ("gpt", None)])
def test_trl_compares_byte_level_tokenizers(zoo, kind, message):
    pytest.importorskip("trl")
    from trl.experimental.utils import encode_with_byte_offsets

    backend = AutoTokenizer.from_pretrained(zoo[kind]).backend_tokenizer
    with pytest.raises(NotImplementedError, match=message) if message else nullcontext():
        assert encode_with_byte_offsets(backend, ["The value."])


def test_trl_refuses_a_tokenizer_without_pad_and_eos(copy_of, tmp_path):
    pytest.importorskip("trl")
    from trl import SFTConfig, SFTTrainer

    model = copy_of("gpt")
    how = {"args": SFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[])}
    trainer(SFTTrainer, model, **how)
    no_special(model)
    with pytest.raises((ValueError, TypeError), match=r"pad_token|NoneType|eos"):
        trainer(SFTTrainer, model, **how)


@pytest.mark.parametrize(
    ("damage", "message"), [(None, None), (MISTRAL, "allow-crimes"), (ROWS, "Tensor size mismatch")]
)
def test_mergekit_refuses(copy_of, zoo, tmp_path, damage, message):
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    model = copy_of("spm")
    if damage is not None:
        damage(model)
    parts = [{"model": str(directory), "parameters": {"weight": 0.5}} for directory in (model, zoo["spm"])]
    recipe = MergeConfiguration.model_validate({"merge_method": "linear", "dtype": "float32", "models": parts})
    options = MergeOptions(copy_tokenizer=True, quiet=True)
    if message is None:
        run_merge(recipe, str(tmp_path / "out"), options)
        assert AutoTokenizer.from_pretrained(tmp_path / "out")
    else:
        with pytest.raises((RuntimeError, ValueError), match=message):
            run_merge(recipe, str(tmp_path / "out"), options)


def test_mergekit_refuses_two_architectures(gpt):
    pytest.importorskip("mergekit")
    from mergekit.architecture import arch_info_for_config

    model = llama(len(gpt))
    model.config.architectures = ["LlamaForCausalLM"]
    assert arch_info_for_config(model.config) is not None
    model.config.architectures = ["LlamaForCausalLM", "OtherForCausalLM"]
    with pytest.raises(RuntimeError, match="More than one architecture"):
        arch_info_for_config(model.config)

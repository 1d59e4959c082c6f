"""Every rule broken on purpose, one at a time; where transformers has it, transformers itself refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import fast, llama, save, unigram
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.cli.app import app
from tokensurgeon.gguf import export_gguf
from tokensurgeon.readiness import TOOLS, check


def edit(directory, name, change):
    """Change a JSON file of a model directory."""
    path = directory / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def config(**values):
    return lambda directory: edit(directory, "config.json", lambda c: c.update(values))


def without(key):
    return lambda directory: edit(directory, "config.json", lambda c: c.pop(key))


def added(*contents):
    """Further added tokens; they get the ids after the last."""

    def change(directory):
        def put(spec):
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
            spec["added_tokens"] += [{"id": 1000 + i, "content": c, **plain} for i, c in enumerate(contents)]

        edit(directory, "tokenizer.json", put)

    return change


def tokenizer(change):
    return lambda directory: edit(directory, "tokenizer.json", change)


def renamed(spec):
    spec["model"]["vocab"]["<other>"] = spec["model"]["vocab"].pop("<unused3>")
    for token in spec["added_tokens"]:
        if token["content"] == "<unused3>":
            token["content"] = "<other>"


def no_byte(spec):
    spec["model"]["vocab"]["<0xFG>"] = spec["model"]["vocab"].pop("<0x0A>")


def ends_with_eos(spec):
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": t, "type_id": 0}} if t else {"Sequence": {"id": "A", "type_id": 0}}
                   for t in ("<bos>", None, "<eos>")],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<bos>", 1), ("<eos>", 2))},
    }  # fmt: skip


def unigram_files(directory):
    fast(unigram(400), eos_token="</s>").save_pretrained(directory)


def rows(count):
    """Another number of rows, in the config too."""

    def change(directory):
        tensors = load_file(directory / "model.safetensors")
        name = "model.embed_tokens.weight"
        tensors[name] = torch.cat([tensors[name]] * 3)[:count].contiguous()
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        config(vocab_size=count)(directory)

    return change


def no_pad(directory):
    edit(directory, "tokenizer_config.json", lambda c: c.pop("pad_token"))


def no_template(directory):
    (directory / "chat_template.jinja").unlink()


def no_special(directory):
    edit(directory, "tokenizer_config.json", lambda c: [c.pop(n, None) for n in ("eos_token", "pad_token")])


ROWS, NO_PAD = rows(2000), config(pad_token_id=4000)
TWO = config(architectures=["LlamaForCausalLM", "OtherForCausalLM"])
FEWER = tokenizer(lambda s: s["model"]["merges"].pop(0))
SPACED = tokenizer(lambda s: s["pre_tokenizer"].update(add_prefix_space=True))
UNKNOWN = config(model_type="nosuch", architectures=["NoSuchForCausalLM"])
# What is done to a model of the zoo, and the one rule of the tool that then fails.
ALONE = [
    ("llama.cpp", "gpt", config(architectures=["NoSuchForCausalLM"]), "architecture is known"),
    ("llama.cpp", "gpt", config(architectures=["NoSuchForCausalLM", "LlamaForCausalLM"]), "architecture is known"),
    ("llama.cpp", "gpt", config(vocab_size=4000), "vocab_size is the number of rows"),
    ("llama.cpp", "gpt", added("<one more>"), "every token has a row"),
    ("llama.cpp", "gpt", unigram_files, "export can write its tokenizer"),
    ("llama.cpp", "gpt", SPACED, "pre-tokenizer is known"),
    ("llama.cpp", "gpt", tokenizer(lambda s: s["model"].update(merges=[])), "byte-level BPE has merges"),
    ("llama.cpp", "spm", tokenizer(no_byte), "every byte has a token to fall back to"),
    ("llama.cpp", "spm", added("a▁b", "a b"), "no two ids have the same text"),
    ("llama.cpp", "spm", FEWER, "merging by score gives the tokenizer's tokens"),
    ("vllm", "gpt", without("architectures"), "config.json names an architecture"),
    ("vllm", "gpt", UNKNOWN, "architecture is known"),
    ("vllm", "gpt", config(vocab_size=4000), "vocab_size is the number of rows"),
    ("vllm", "gpt", added("<one more>"), "every token has a row"),
    ("transformers", "gpt", UNKNOWN, "architecture is known"),
    ("transformers", "gpt", config(vocab_size=4000), "vocab_size is the number of rows"),
    ("transformers", "gpt", added("<one more>"), "every token has a row"),
    ("transformers", "gpt", NO_PAD, "pad_token_id has a row"),
    ("transformers", "spm", config(model_type="qwen2"), "AutoTokenizer cuts as tokenizer.json does"),
    ("mergekit", "gpt", TWO, "config.json names one architecture"),
    ("mergekit", "gpt", config(vocab_size=4000), "vocab_size is the number of rows"),
    ("mergekit", "gpt", added("<one more>"), "every token has a row"),
    ("trl", "gpt", UNKNOWN, "architecture is known"),
    ("trl", "gpt", no_special, "the tokenizer has a pad or eos token"),
    ("trl", "gpt", added("<one more>"), "every token has a row"),
]  # fmt: skip
NO_BOS = tokenizer(lambda s: s.update(post_processor=None))
ENCODERS = (config(encoder_layers=3), config(is_encoder_decoder=True, encoder_layers=1))
MAMBA, MISTRAL = (config(architectures=[f"{name}ForCausalLM"]) for name in ("Mamba", "Mistral"))
WINDOW = config(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=8)
SAME_IDS = "same ids for the same tokens as the target"
# The same for rules about two models: what is done to the model, to a copy of it as the target, and the rule.
PAIRS = [
    ("llama.cpp", "spm", NO_BOS, None, "same add_bos as the target, and the same token"),
    ("llama.cpp", "spm", tokenizer(ends_with_eos), None, "same add_eos as the target, and the same token"),
    ("llama.cpp", "spm", ROWS, None, "at most 128 tokens more or fewer than the target"),
    ("llama.cpp", "spm", tokenizer(renamed), None, "same text as the target for every id from 5 up"),
    ("vllm", "spm", ROWS, None, "same vocab_size as the target"),
    ("vllm", "spm", tokenizer(renamed), None, SAME_IDS),
    ("vllm", "spm", None, WINDOW, "all layers of both have one kind of attention"),
    ("transformers", "spm", ROWS, None, "same vocab_size as the target"),
    ("transformers", "spm", tokenizer(renamed), None, SAME_IDS),
    ("transformers", "spm", None, MAMBA, "the target can go back to an earlier token"),
    ("transformers", "spm", *ENCODERS, "an encoder-decoder target's encoder fits"),
    ("mergekit", "spm", None, MISTRAL, "same architecture as the target"),
    ("mergekit", "spm", ROWS, None, "same tensors and shapes as the target"),
    ("mergekit", "spm", tokenizer(renamed), None, SAME_IDS),
    ("trl", "gpt", no_pad, None, "the tokenizer has a pad token"),
    ("trl", "gpt", no_template, None, "a chat template where the target has one"),
    ("trl", "spm", ROWS, None, "same vocab_size as the target"),
    ("trl", "spm", tokenizer(renamed), None, SAME_IDS),
]  # fmt: skip


def failed(*arguments):
    return [rule.name for rule in check(*map(str, arguments)) if not rule.ok]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kind", ["gpt", "spm", "untied"])
def test_a_sound_model_passes(zoo, tool, kind):
    rules = check(str(zoo[kind]), tool, str(zoo[kind]))
    assert len(rules) >= 5 and [rule for rule in rules if not rule.ok] == []
    assert all(rule.source and rule.remedy for rule in rules)


@pytest.mark.parametrize(("tool", "kind", "damage", "rule"), ALONE)
def test_a_broken_model_fails_that_rule_alone(copy_of, tool, kind, damage, rule):
    directory = copy_of(kind)
    damage(directory)
    assert rule in failed(directory, tool)
    assert failed(directory, tool) == [rule] or damage in (UNKNOWN, NO_PAD, unigram_files)  # which break more


@pytest.mark.parametrize(("tool", "kind", "damage", "other", "rule"), PAIRS)
def test_a_model_that_does_not_fit_its_target_fails_that_rule_alone(copy_of, tmp_path, tool, kind, damage, other, rule):
    target = copy_of(kind)
    model = shutil.copytree(target, tmp_path / "model")
    for directory, change in ((model, damage), (target, other)):
        if change is not None:
            change(directory)
    assert failed(model, tool, target) == [rule]


def test_a_missing_pad_token_is_a_warning(zoo, copy_of):
    """Of TRL's three trainers one takes the eos token."""
    model = copy_of("gpt")
    no_pad(model)
    assert [rule.must for rule in check(str(model), "trl", str(zoo["gpt"])) if not rule.ok] == [False]


def test_every_rule_has_been_broken(zoo):
    """A new rule needs a line in the lists above."""
    broken = {(tool, rule) for tool, *_, rule in ALONE + PAIRS} | {("llama.cpp", "same vocabulary type as the target")}
    for tool in TOOLS:
        assert {(tool, rule.name) for rule in check(str(zoo["spm"]), tool, str(zoo["spm"]))} <= broken


def test_vocabulary_types_differ(zoo):
    assert "same vocabulary type as the target" in failed(zoo["gpt"], "llama.cpp", zoo["spm"])


def test_a_gguf_target_is_read_as_it_is(zoo, tmp_path):
    """Its texts may be others than those of the tokenizer.json that transformers makes of it."""
    import gguf

    export_gguf(str(zoo["spm"]), tmp_path / "target.gguf")
    assert failed(zoo["spm"], "llama.cpp", tmp_path / "target.gguf") == []
    reader = gguf.GGUFReader(tmp_path / "target.gguf", "r+")
    field = reader.fields["tokenizer.ggml.tokens"]
    at = field.contents().index("<unused3>")
    field.parts[field.data[at]][:] = np.frombuffer(b"<unusedX>", np.uint8)
    reader.data.flush()
    assert failed(zoo["spm"], "llama.cpp", tmp_path / "target.gguf") == [
        "same text as the target for every id from 5 up"
    ]


def test_a_target_without_a_gguf_vocabulary(zoo, copy_of):
    target = copy_of("gpt")
    unigram_files(target)
    assert failed(zoo["gpt"], "llama.cpp", target) == ["the target has a GGUF vocabulary"]


def generated(model, assistant=None):
    prompt = torch.tensor([[1, 2, 3]])
    return model.generate(prompt, max_new_tokens=4, do_sample=False, assistant_model=assistant)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (UNKNOWN, "nosuch"),
        (config(vocab_size=4000), "size mismatch|ignore_mismatched_sizes"),
        (NO_PAD, "[Pp]adding_idx"),
    ],
)
def test_transformers_refuses_to_load(copy_of, damage, message):
    directory = copy_of("gpt")
    damage(directory)
    with pytest.raises((ValueError, RuntimeError, AssertionError), match=message):
        AutoModelForCausalLM.from_pretrained(directory)


def test_transformers_fails_on_an_id_without_a_row(zoo):
    model = AutoModelForCausalLM.from_pretrained(zoo["gpt"])
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[5000]]))


def test_transformers_refuses_to_assist(zoo):
    model, other = (AutoModelForCausalLM.from_pretrained(zoo[kind]) for kind in ("gpt", "spm"))
    with pytest.raises(ValueError, match="different tokenizers"):
        generated(model, other)
    assert generated(model, model).shape == (1, 7)
    size = {"vocab_size": model.config.vocab_size, "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="stateful"):
        generated(MambaForCausalLM(MambaConfig(**size)), model)


def test_the_command(zoo, copy_of):
    runner = CliRunner()
    good = runner.invoke(app, ["check", str(zoo["gpt"]), "--for", "llama.cpp"])
    assert good.exit_code == 0 and "all 9 rules hold" in good.stdout
    broken = copy_of("gpt")
    added("<one more>")(broken)
    bad = runner.invoke(app, ["check", str(broken), "--for", "vllm"])
    text = " ".join(bad.stdout.split())
    assert bad.exit_code == 1 and "FAIL every token has a row: highest id 700, 700 rows: 1 tokens have none" in text
    assert "remedy: resize_token_embeddings" in text and "input_processor.py" in text and "1 of 4 rules fail" in text
    arguments = ["check", str(zoo["gpt"]), "--for", "trl", "--with", str(zoo["spm"]), "--json"]
    content = json.loads(runner.invoke(app, arguments).stdout)
    assert [r["ok"] for r in content["rules"]] == [True] * 5 + [False] * 2
    unknown = runner.invoke(app, ["check", str(zoo["gpt"]), "--for", "ollama"])
    assert unknown.exit_code == 2 and "known are llama.cpp, vllm" in unknown.stderr
    nothing = runner.invoke(app, ["check", "/no/such", "--for", "trl"])
    assert nothing.exit_code == 2 and "does not exist" in nothing.stderr
    with pytest.raises(InputError, match="ollama"):
        check(str(zoo["gpt"]), "ollama")


def test_what_else_trl_can_do_with_two_tokenizers(zoo, copy_of):
    model = copy_of("gpt")
    added("<one more>")(model)
    for target, said in (("gpt", "or train by GOLDTrainer"), ("spm", "GOLDTrainer does not help")):
        (found,) = (rule for rule in check(str(model), "trl", str(zoo[target])) if rule.name == SAME_IDS)
        assert not found.ok and said in found.remedy


@pytest.mark.parametrize("special", [False, True])
def test_trim_does_not_drop_special_tokens(copy_of, special):
    directory = copy_of("gpt")
    added("<one more>")(directory)
    edit(directory, "tokenizer.json", lambda spec: spec["added_tokens"][-1].update(special=special))
    (rule,) = (r for r in check(str(directory), "vllm") if not r.ok)
    assert ("tokensurgeon trim" in rule.remedy) is not special


def test_a_hole_and_padding_are_texts_of_their_own(tmp_path, gpt):
    directory = save(tmp_path / "padded", llama(len(gpt) + 9), gpt)
    assert failed(directory, "llama.cpp") == []

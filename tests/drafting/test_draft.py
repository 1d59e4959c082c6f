"""A small model becomes a draft for a large one."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import TEXT, llama, save
from typer.testing import CliRunner

from benchmarks.experiments import architectures
from tokensurgeon import InputError, MakeDraftOptions, bench_drafts, make_draft, verify
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.cli.app import app
from tokensurgeon.drafting.learn import _better, divergence, learn
from tokensurgeon.drafting.make import _prompts
from tokensurgeon.drafting.state import DraftState
from tokensurgeon.drafting.written import encoded, write_texts
from tokensurgeon.evaluation.acceptance import (
    Agreement,
    agree,
    predict,
    read_beliefs,
    sampled_per_pass,
    time_tokens,
    tokens_per_pass,
)
from tokensurgeon.evaluation.drafts import DraftOptions
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.writing import plainly
from tokensurgeon.healing.lora import add_lora, lora_layers
from tokensurgeon.progress import Stage

NONE = torch.zeros(0, dtype=torch.int64)
QUICK = {"prompts": 3, "prompt_bytes": 64, "new_tokens": 12, "batch": 2, "draft_tokens": 3}


@pytest.fixture(scope="module")
def target(spm, tmp_path_factory):
    place = tmp_path_factory.mktemp("target") / "large"
    save(place, llama(len(spm), dim=64, seed=5), spm)
    return place


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:20_000], "utf-8")
    return path


def reference(matches, length):
    """Speculative decoding of one text, step by step."""
    passes = place = 0
    while place < len(matches):
        accepted = next((i for i in range(length) if place + i >= len(matches) or not matches[place + i]), length)
        place, passes = place + accepted + 1, passes + 1
    return passes


@pytest.mark.parametrize("length", [1, 2, 5])
def test_passes_of_the_target(length):
    generator = torch.Generator().manual_seed(length)
    texts = [(torch.rand(n, generator=generator) < 0.6).tolist() for n in (1, 7, 40)]
    passes = sum(reference(matches, length) for matches in texts)
    assert tokens_per_pass(texts, length) == pytest.approx(48 / passes)


def test_the_best_length_goes_by_times_and_agreement():
    always, never = [[True] * 60], [[False] * 60]
    target_s = {1: 1.0, 2: 1.1, 3: 1.2, 5: 1.4}
    best = predict(partial(tokens_per_pass, always), target_s, 0.1)
    assert best.draft_tokens == 4 and best.tokens_per_pass == 5 and best.speed_up == pytest.approx(5 / 1.8)
    assert best.by_length[1] == (2, pytest.approx(2 / 1.2))
    none = predict(partial(tokens_per_pass, never), target_s, 0.1)
    assert (none.draft_tokens, none.speed_up) == (0, 1.0) and max(none.by_length[1]) == 1
    assert predict(partial(tokens_per_pass, always), target_s, 2.0).draft_tokens == 0


def test_times_that_fall_with_more_tokens_are_noise():
    """Taken on a real target: reading five tokens looked cheaper than reading three."""
    noisy = {1: 1.0, 2: 1.13, 3: 1.26, 4: 1.24, 5: 1.14, 6: 1.3}
    of = predict(partial(sampled_per_pass, 0.5), noisy, 0.0).by_length
    costs = [tokens / speed_up for tokens, speed_up in of.values()]
    assert costs == sorted(costs) and costs[1] == costs[3] == pytest.approx((1.26 + 1.24 + 1.14) / 3)


def test_sampled_tokens_of_a_pass():
    generator = torch.Generator().manual_seed(0)
    accepted = torch.rand(20_000, 3, generator=generator) < 0.6
    runs = accepted.long().cumprod(1).sum(1) + 1
    assert sampled_per_pass(0.6, 3) == pytest.approx(float(runs.double().mean()), abs=0.02)
    assert sampled_per_pass(1.0, 3) == 4 and sampled_per_pass(0.0, 3) == 1


def test_a_target_agrees_with_itself_and_beliefs_are_its_probabilities(target):
    loaded = plainly(load_model(target))
    starts = encoded(loaded, ["The first thing", "And another one, which is longer than that", ""])
    written = write_texts(loaded, starts, 9, sample=False, seed=0)
    assert len(written) == len(starts)
    for start, text in zip(starts, written, strict=True):
        assert text.ids[: text.start] == start
        alone = loaded.model.generate(torch.tensor([start]), max_new_tokens=9, do_sample=False, pad_token_id=0)
        assert text.ids == alone[0].tolist()
        logits = loaded.model(input_ids=torch.tensor([text.ids])).logits[0, text.start - 1 : -1].softmax(-1)
        torch.testing.assert_close(text.probability, logits.gather(1, text.likely))
        assert text.likely[:, 0].tolist() == text.ids[text.start :]
    itself = agree(loaded, written)
    kept = torch.cat([text.probability.sum(dim=1) for text in written]).mean()
    assert itself.greedy == 1 and itself.overlap == pytest.approx(float(kept), abs=1e-4)
    whole = [read_beliefs(loaded, text.ids, text.start, 10**6) for text in written]
    assert agree(loaded, whole).overlap == pytest.approx(1, abs=1e-4)


def test_acceptance_is_that_of_assisted_generation(target, spm, text, tmp_path):
    """Passes that are predicted from one reading are those of transformers' own speculative decoding."""
    other = load_model(target)
    generator = torch.Generator().manual_seed(0)
    for parameter in other.model.parameters():
        parameter.data += 0.15 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    other.model.save_pretrained(tmp_path / "draft")
    spm.save_pretrained(tmp_path / "draft")
    options = DraftOptions(prompts=3, prompt_bytes=64, new_tokens=20, draft_tokens=3)
    found = bench_drafts(str(tmp_path / "draft"), str(target), [text], options=options)["draft"]["greedy"]
    main = plainly(load_model(target))
    main.model.generation_config.eos_token_id = None
    pieces = [TEXT.encode()[i : i + 64].decode() for i in range(0, 192, 64)]
    written = write_texts(main, encoded(main, pieces), 20, sample=False, seed=0)
    matches = agree(load_model(tmp_path / "draft"), written).matches
    assert 0.1 < sum(map(sum, matches)) / 60 < 0.95
    assert tokens_per_pass(matches, 3) == pytest.approx(
        1 / found["passes_per_token"], rel=0.1
    )  # ends are cut elsewhere


def test_the_divergence_is_the_one_over_the_whole_vocabulary(target):
    main, other = plainly(load_model(target)), load_model(target)
    other.model.get_output_embeddings().weight.data.mul_(0.7)
    (text,) = write_texts(main, encoded(main, ["Some words"]), 8, sample=False, seed=0)
    whole = read_beliefs(main, text.ids, text.start, 10**6)
    p, q = (
        loaded.model(input_ids=torch.tensor([text.ids])).logits[0, text.start - 1 : -1].log_softmax(-1)
        for loaded in (main, other)
    )
    wanted = (p.exp() * (p - q)).sum(-1).mean()
    assert float(divergence(other.model, whole, NONE)) == pytest.approx(float(wanted), rel=1e-3, abs=1e-5)
    assert float(divergence(main.model, text, NONE)) == pytest.approx(0, abs=1e-4)
    assert float(divergence(other.model, text, NONE)) <= float(wanted) + 1e-5  # the rest counts as one token


def test_times_are_taken_behind_a_context(target):
    found = time_tokens(load_model(target), list(range(20)), [1, 4])
    assert set(found) == {1, 4} and all(seconds > 0 for seconds in found.values())


def test_a_draft_learns_what_its_target_believes(zoo, target, tmp_path, monkeypatch):
    made = make_draft(str(zoo["gpt"]), str(target), tmp_path / "plain", MakeDraftOptions(**QUICK))
    opened, draft, main = OpenModel.open(str(made.out)), load_model(made.out), plainly(load_model(target))
    starts = encoded(main, [TEXT[i : i + 40] for i in range(0, 480, 40)])
    written = write_texts(main, starts, 12, sample=True, seed=0)
    now = itertools.count()
    monkeypatch.setattr("tokensurgeon.drafting.learn.time.perf_counter", lambda: next(now))
    options = MakeDraftOptions(**QUICK | {"learning_rate": 0.05, "lora_learning_rate": 0.02, "lora": 4})
    monkeypatch.setattr("tokensurgeon.drafting.learn.DEAD_MASS_LIMIT", 4.0)
    learnt = learn(draft, opened, written[4:], written[:4], 1.0, options)
    assert learnt.steps > 5 and learnt.curve[0]["step"] == 0
    best = max(entry["overlap"] for entry in learnt.curve)
    assert best > learnt.curve[0]["overlap"] + 0.01
    assert agree(draft, written[:4]).overlap == pytest.approx(best, abs=1e-4)  # the best state is what is left


def test_the_command_makes_a_draft_that_is_verified(zoo, target, text, tmp_path):
    out = tmp_path / "draft"
    words = ["draft", str(zoo["gpt"]), str(target), "--out", str(out), "--text", str(text), "--for", "transformers"]
    words += ["--prompts", "2", "--prompt-bytes", "64", "--new-tokens", "8", "--minutes", "0.01", "--lora", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    told = json.loads((out / "tokensurgeon.json").read_text())
    assert told["draft"]["texts"] == 4
    assert ("healed" in told) == bool(told["draft"]["learnt_from"])
    if "healed" in told:
        assert told["healed"]["runs"][0]["teacher"] == str(target) and told["healed"]["runs"][0]["lora"] == 2
    card = (out / "README.md").read_text()
    assert "## Draft for `" in card and "where tokens are sampled" in card and "speed-up" in done.stdout
    shown = " ".join(done.stdout.split())
    assert "greedily " in shown and "by sampling " in shown and told["draft"]["sampled"]["by_length"]
    assert not [check for check in verify(out, zoo["gpt"], target) if not check.ok]
    assert {path.name for path in tmp_path.iterdir()} == {"draft", "text.txt"}
    again = CliRunner().invoke(app, [*words, "--json", "--overwrite"])
    assert json.loads(again.stdout)["target"] == str(target)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--for", "ollama"], "known are"),
        (["--quantise", "Q8_0"], "--quantise is for --gguf"),
        (["--gguf", "x.gguf", "--quantise", "Q8_0"], "llama-quantize is not there"),
        (["--gguf", "x.gguf", "--quantise", "Q0"], "known are"),
        (["--gguf", "draft/x.gguf"], "lies in --out"),
        (["--gguf", "x.bin"], "must be a file that ends in .gguf"),
        (["--prompts", "100000"], "the text has"),
        (["--minutes", "1", "--lora", "10000"], "no layer of gpt is wider"),
        (["--prompt-bytes", "4000", "--prompts", "1", "--new-tokens", "2000"], "one of the two models reads 2048"),
        (["--minutes", "inf"], "minutes=inf"),
        (["--for", "vllm", "--method", "none"], "none"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(zoo, target, text, tmp_path, monkeypatch, more, message):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("tokensurgeon.drafting.make.transplant", None)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "draft"
    done = CliRunner().invoke(
        app, ["draft", str(zoo["gpt"]), str(target), "--out", str(out), "--text", str(text), *more]
    )
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_what_cannot_be_exported_is_refused_before_it_learns(target, text, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setattr("tokensurgeon.drafting.make.learn", None)
    experiment = tomllib.loads((architectures.RESULTS.parent / "experiments/architectures.toml").read_text())
    small = architectures.build(experiment["architectures"]["olmo2"], experiment["sizes"], "olmo2", tmp_path / "s", 700)
    words = ["draft", str(small), str(target), "--out", str(tmp_path / "draft"), "--minutes", "1", "--text", str(text)]
    words += ["--prompts", "2", "--prompt-bytes", "64", "--new-tokens", "4", "--gguf", str(tmp_path / "x.gguf")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "'olmo2' are not written as GGUF" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"s", "text.txt"}


@pytest.mark.slow
def test_a_tool_that_would_refuse_the_draft_ends_it(zoo, target, tmp_path, monkeypatch, caplog):
    from tokensurgeon.readiness import Rule

    broken = Rule("a rule", False, "it is so", "Do this", "somewhere")
    monkeypatch.setattr("tokensurgeon.drafting.make.check", lambda *_: [broken])
    with pytest.raises(InputError, match=r"vllm would refuse this draft: a rule: it is so\. Do this"):
        make_draft(str(zoo["gpt"]), str(target), tmp_path / "out", MakeDraftOptions(**QUICK), tools=["vllm"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tokensurgeon.drafting.make.check", lambda *_: [replace(broken, must=False)])  # a warning
    make_draft(str(zoo["gpt"]), str(target), tmp_path / "out", MakeDraftOptions(**QUICK), tools=["vllm"])
    assert "for vllm, a rule: it is so. Do this" in caplog.text


def test_probability_on_ids_that_nobody_reads_is_no_gain():
    good, loud, before = (Agreement([], overlap, dead) for overlap, dead in ((0.5, 1e-6), (0.9, 1e-3), (0.4, 0.0)))
    assert _better(good, before) and not _better(loud, before) and not _better(before, good)
    assert _better(Agreement([], 0.5, 0.01), Agreement([], 0.4, 0.02))  # it was no better before


def test_the_divergence_counts_what_silenced_ids_take(target):
    loaded = plainly(load_model(target))
    (text,) = write_texts(loaded, encoded(loaded, ["Some words"]), 8, sample=False, seed=0)
    silenced = torch.tensor([i for i in range(5) if i not in text.likely.flatten().tolist()])
    assert len(silenced)
    assert float(divergence(loaded.model, text, silenced)) > float(divergence(loaded.model, text, NONE)) + 1e-4


@pytest.mark.parametrize("works", [True, False])
def test_a_gguf_is_quantised_by_llama_cpps_program(zoo, target, text, tmp_path, monkeypatch, works):
    """A stand-in for the program: it takes the same words, and copies or fails. Files that were there stay whole."""
    pytest.importorskip("gguf")
    program = tmp_path / "quantiser"
    copies = 'exec cp "$1" "$2"' if works else "echo no; exit 1"
    program.write_text(f'#!/bin/sh\n[ "$3" = Q8_0 ] || exit 3\n{copies}\n')
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    (tmp_path / "d.gguf").write_bytes(b"GGUF old")
    (tmp_path / "d-f16.gguf").write_bytes(b"mine")
    words = ["draft", str(zoo["gpt"]), str(target), "--out", str(tmp_path / "draft"), "--text", str(text)]
    words += ["--prompts", "2", "--prompt-bytes", "64", "--new-tokens", "4", "--gguf", str(tmp_path / "d.gguf")]
    done = CliRunner().invoke(app, [*words, "--quantise", "Q8_0", "--overwrite"])
    assert (tmp_path / "d-f16.gguf").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"d.gguf", "d-f16.gguf", "draft", "quantiser", "text.txt"}
    exported = CliRunner().invoke(
        app, ["export", str(target), "--gguf", str(tmp_path / "t.gguf"), "--quantise", "Q8_0"]
    )
    assert exported.exit_code == (0 if works else 2) and (tmp_path / "t.gguf").is_file() == works
    for name, more, message in (
        ("x.bin", [], "ends in .gguf"), ("x.gguf", ["--dtype", "f32"], "two wishes"), ("d.gguf", [], "exists"),
    ):  # fmt: skip
        refused = CliRunner().invoke(
            app, ["export", str(target), "--quantise", "Q8_0", "--gguf", str(tmp_path / name), *more]
        )
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "x.gguf").exists()
    if works:
        assert done.exit_code == 0 and len((tmp_path / "d.gguf").read_bytes()) > 1000
    else:
        assert done.exit_code == 2 and "could not make Q8_0" in done.stderr
        assert (tmp_path / "d.gguf").read_bytes() == b"GGUF old" and (tmp_path / "draft/config.json").is_file()


def test_a_target_that_asks_for_penalties_writes_by_its_probabilities(target):
    loaded = load_model(target)
    loaded.model.generation_config.repetition_penalty = 1.9
    loaded.model.generation_config.no_repeat_ngram_size = 1
    (text,) = write_texts(plainly(loaded), encoded(loaded, ["Some words"]), 12, sample=False, seed=0)
    assert text.likely[:, 0].tolist() == text.ids[text.start :]


def test_drawn_texts_differ_by_seed_and_leave_the_generator_alone(target):
    loaded = plainly(load_model(target))
    starts, state = encoded(loaded, ["Some words", "Other words", "And a third"]), torch.random.get_rng_state()
    one, same, other = (write_texts(loaded, starts, 6, sample=True, seed=seed) for seed in (1, 1, 2))
    assert [text.ids for text in one] == [text.ids for text in same] != [text.ids for text in other]
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_the_target_believes_on_the_way_through_a_prompt(target):
    loaded = plainly(load_model(target))
    starts = encoded(loaded, ["Some words", "Other words that are more"])
    after, whole = (
        write_texts(loaded, starts, 6, sample=False, seed=0, prompts_too=wanted) for wanted in (False, True)
    )
    for start, one, other in zip(starts, after, whole, strict=True):
        assert one.ids == other.ids and other.start == 1 and len(other.likely) == len(other.ids) - 1
        torch.testing.assert_close(other.probability[len(start) - 1 :], one.probability)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(zoo, target, text, tmp_path, monkeypatch):
    """Broken once while the target writes, and once while the draft learns: nothing is written or learnt twice."""
    clock, told, seeds = itertools.count(), itertools.count(1), []
    monkeypatch.setattr("tokensurgeon.drafting.state.time.perf_counter", lambda: next(clock))  # seconds go by fast
    monkeypatch.setattr("tokensurgeon.drafting.state._SAVE_S", 0.0)
    monkeypatch.setattr("tokensurgeon.drafting.make.time_tokens", lambda *_: None)

    def write(*words, seed, **more):
        seeds.append((str(words[1]), more["sample"], seed))
        return write_texts(*words, seed=seed, **more)

    monkeypatch.setattr("tokensurgeon.drafting.gather.write_texts", write)

    def tell(stage, *_):
        if stage == Stage.LEARN and next(told) in (3, 14):
            raise KeyboardInterrupt

    options, out = MakeDraftOptions(**QUICK, minutes=1.0, text=(str(text),), lora=2), tmp_path / "draft"
    found = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make_draft(str(zoo["gpt"]), str(target), out, options, progress=tell)
        saved = sorted((tmp_path / ".draft.drafting").iterdir())
        found.append([torch.load(path, weights_only=True) for path in saved])
        assert not out.exists()
    make_draft(str(zoo["gpt"]), str(target), out, options, progress=tell)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "draft"}
    assert len(seeds) == len(set(seeds))
    (texts,), (all_texts, training) = found  # -texts comes first
    assert 0 < len(texts["texts"]["learn"]) <= len(all_texts["texts"]["learn"]) and 0 < training["steps"] < 20
    run = Manifest.read(out).content["draft"]
    assert run["learnt_from"] in (0, len(all_texts["texts"]["learn"]))


def test_a_training_that_is_interrupted_goes_on_where_it_was(zoo, target, tmp_path):
    made = make_draft(str(zoo["gpt"]), str(target), tmp_path / "plain", MakeDraftOptions(**QUICK)).out
    opened, main = OpenModel.open(str(made)), plainly(load_model(target))
    written = write_texts(main, encoded(main, [TEXT[i : i + 40] for i in range(0, 320, 40)]), 12, sample=True, seed=0)
    options = MakeDraftOptions(**QUICK, lora=2)
    place = tmp_path / "draft"
    beginning = DraftState(place, "key")
    beginning.of("learn").extend(written)

    def stop(_share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(load_model(made), opened, written[2:], written[:2], 1.0, options, beginning, stop)
    again = DraftState(place, "key")
    before = again.training
    assert before["steps"] == 1 and len(before["curve"]) == 1
    with pytest.raises(KeyboardInterrupt):
        learn(load_model(made), opened, written[2:], written[:2], 1.0, options, again, stop)
    after = DraftState(place, "key").training
    assert after["steps"] == 2 and after["seconds"] > before["seconds"] and len(after["curve"]) == 1
    assert float(after["optimizer"]["state"][0]["step"]) == 2
    changed = [bool((a != b).any()) for a, b in zip(after["parameters"], before["parameters"], strict=True)]
    assert any(changed)


def test_all_of_a_text_is_there_to_learn_from(text):
    asked = {"text": (str(text),), "prompt_bytes": 64}
    assert len(_prompts(MakeDraftOptions(**asked, prompts=5))) == 5
    assert len(_prompts(MakeDraftOptions(**asked, prompts=5, minutes=1.0))) == pytest.approx(20_000 / 60, rel=0.1)
    assert len(_prompts(MakeDraftOptions(minutes=1.0))) > 500  # Python's own


def test_times_of_a_cache_that_cannot_be_cropped(tmp_path, spm):
    """One that slides, and one that there is not."""
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    size = {"vocab_size": len(spm), "hidden_size": 32, "num_hidden_layers": 2}
    sliding = MistralConfig(
        **size, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, sliding_window=8
    )
    for model, timed in ((MistralForCausalLM(sliding), True), (MambaForCausalLM(MambaConfig(**size)), False)):
        place = tmp_path / model.config.model_type
        model.save_pretrained(place)
        spm.save_pretrained(place)
        found = time_tokens(load_model(place), list(range(20)), [1, 3])
        assert (set(found) == {1, 3}) if timed else found is None


KINDS = ["gpt2", "gemma3", "qwen3_moe", "deepseek_v3", "mamba", "falcon_h1", "qwen3_next", "recurrent_gemma", "jamba"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_many_kinds_draft_and_are_drafted_for(kind, tmp_path):
    """With experts, states instead of attention, both by turns, and several models in one."""
    experiment = tomllib.loads((architectures.RESULTS.parent / "experiments/architectures.toml").read_text())
    settings, sizes = experiment["architectures"], experiment["sizes"]
    other = architectures.build({}, sizes, "llama", tmp_path / "llama", 900)
    model = architectures.build(settings[kind], sizes, kind, tmp_path / kind, 700)
    for number, (small, target) in enumerate([(model, other), (other, model)]):
        options = MakeDraftOptions(**QUICK, minutes=0.02, lora=2)
        made = make_draft(str(small), str(target), tmp_path / f"out{number}", options)
        assert not [check for check in verify(made.out, small, target) if not check.ok]
        assert (made.prediction is None) == (kind in ("mamba", "recurrent_gemma"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_that_share_their_weights_are_not_updated(tmp_path):
    """Zamba2's hybrid layers have one block: two updates of it would be one in the files."""
    experiment = tomllib.loads((architectures.RESULTS.parent / "experiments/architectures.toml").read_text())
    settings = experiment["architectures"]["zamba2"] | {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [1, 3],
    }  # fmt: skip
    made = architectures.build(settings, experiment["sizes"], "zamba2", tmp_path / "zamba2", 700)
    loaded = load_model(made)
    names = add_lora(loaded.model, 2, lora_layers(loaded.model, 2, OpenModel.open(str(made))))
    assert len(set(names.values())) == len(names) > 0
    assert not [name for name in names if "shared_transformer" in name and "adapter_list" not in name]
    assert not [name for name in names if name.endswith((".dt_proj", "mamba.out_proj"))]

"""End to end on tiny real models: what is written loads, and is right."""

from __future__ import annotations

import html
import json
import math
import shutil
from functools import cache

import numpy as np
import processes
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import llama, save
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import tokensurgeon.checkpoint.model as opened
import tokensurgeon.checkpoint.small_files as small_files
import tokensurgeon.surgery.new_rows as new_rows
import tokensurgeon.surgery.write as output
from tokensurgeon import InputError, RowPlan, TransplantOptions, VerificationError, transplant, verify
from tokensurgeon.alignment import Provenance
from tokensurgeon.baselines import METHODS
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.transfer.calibrate import counted_prior

K8 = TransplantOptions(k=8)


def run(zoo, tmp_path, base, donor, options=K8, **kwargs):
    return transplant(str(zoo[base]), str(zoo[donor]), tmp_path / "out", options, **kwargs)


@pytest.fixture(scope="module")
def shared(zoo, tmp_path_factory):
    """Transplants by a pair's names with ``k=8``, made once each, for tests that only read them."""

    @cache
    def made(base, donor):
        return run(zoo, tmp_path_factory.mktemp("shared"), base, donor)

    return lambda base="gpt", donor="spm": made(base, donor)


@pytest.mark.parametrize(
    ("base", "donor"),
    [
        ("gpt", "spm"), ("spm", "gpt"), ("untied", "spm"), ("untied", "untied-spm"), ("untied-spm", "untied"),
        ("biased", "spm"), ("biased", "untied-spm"), ("neox", "spm"), ("sharded", "spm"), ("spm", "sharded"),
    ],
)  # fmt: skip
def test_pairs(zoo, shared, base, donor):
    report = shared(base, donor)
    assert report.checks and all(check.ok for check in report.checks)
    model = AutoModelForCausalLM.from_pretrained(report.out)
    tokenizer = AutoTokenizer.from_pretrained(report.out)
    donor_config = json.loads((zoo[donor] / "config.json").read_text())
    assert model.config.vocab_size == donor_config["vocab_size"] == model.get_input_embeddings().weight.shape[0]
    assert model.config.eos_token_id == tokenizer.eos_token_id
    tokens = tokenizer("The quick brown fox", return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**tokens, max_new_tokens=5, do_sample=False)
    assert made.shape[1] > tokens["input_ids"].shape[1]
    original = AutoTokenizer.from_pretrained(zoo[donor])
    text = "def f(x):\n\treturn 'naïve' # 日本"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]


@pytest.mark.parametrize(
    ("name", "base"),
    # The states of an untrained body that reads rows of zeros are not silenced by what its own states share.
    [(name, "untied" if name == "zero" else "gpt") for name in sorted(set(METHODS) - {"omp"})]
    + [("normal", "biased"), ("ridge", "biased"), ("subtoken", "biased")],
)
def test_methods(zoo, tmp_path, shared, name, base):
    """Anchors are the same under every method, new rows are not OMP's, and the card says which it was."""
    report = run(zoo, tmp_path, base, "spm", TransplantOptions(method=name))
    assert all(check.ok for check in report.checks) and report.content["method"]["name"] == name
    assert (report.content["held_out"] is None) == (name == "subtoken")
    one, other = (Checkpoint.open(made.out).read("model.embed_tokens.weight") for made in (report, shared(base)))
    anchors, new = (torch.from_numpy(ids) for ids in (report.alignment.plan.anchors, report.alignment.plan.ids(3)))
    assert len(new) > 50 and torch.equal(one[anchors], other[anchors])
    assert not torch.isclose(one[new], other[new]).all(dim=1).any()
    assert f"method {name}" in (report.out / "README.md").read_text()


def test_logits_of_shared_tokens_are_the_bases(zoo, shared):
    """A text of shared tokens only goes through the body as before, and scores as before."""
    report = shared()
    plan = report.alignment.plan
    ids = [i for i in report.donor.vocabulary.encode("The value of the object") if plan.source[i] >= 0]
    source = [int(plan.source[i]) for i in ids]
    new = AutoModelForCausalLM.from_pretrained(report.out)(torch.tensor([ids])).logits[0]
    old = AutoModelForCausalLM.from_pretrained(zoo["gpt"])(torch.tensor([source])).logits[0]
    anchors = torch.from_numpy(plan.anchors)
    torch.testing.assert_close(
        new[:, anchors], old[:, torch.from_numpy(plan.source[plan.anchors])], rtol=1e-4, atol=1e-4
    )


def test_everything_but_the_vocabulary_is_byte_identical(zoo, shared):
    old, new = Checkpoint.open(zoo["sharded"]), Checkpoint.open(shared("sharded").out)
    assert len(old.shards) > 1 and set(old.tensors) == set(new.tensors)
    for name in set(old.tensors) - {"model.embed_tokens.weight"}:
        assert old.same(new, name), name


def test_manifest_tells_the_provenance_of_every_row(zoo, shared):
    report = shared()
    manifest = Manifest.read(report.out)
    assert (manifest.plan.provenance == report.alignment.plan.provenance).all()
    assert (manifest.plan.source == report.alignment.plan.source).all()
    content = manifest.content
    assert content["counts"] == report.alignment.plan.counts() and content["options"]["k"] == 8
    assert content["base"]["sha256"]["model.embed_tokens.weight"] == Checkpoint.open(zoo["gpt"]).digest(
        "model.embed_tokens.weight"
    )
    assert content["residual"]["embedding"]["mean_atoms"] == 8
    card = (report.out / "README.md").read_text()
    assert f"| copied | {content['counts']['copied']:,} |" in card


def test_runs_repeat_to_the_bit(zoo, shared, tmp_path):
    one, other = shared(), run(zoo, tmp_path, "gpt", "spm")
    assert (one.out / "model.safetensors").read_bytes() == (other.out / "model.safetensors").read_bytes()


def test_seed_chooses_the_held_out_anchors_only(zoo, tmp_path):
    one = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "a", TransplantOptions(k=8, seed=1))
    two = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "b", TransplantOptions(k=8, seed=2))
    assert one.content["held_out"] != two.content["held_out"]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["gpt", "spm", "untied"])
def test_donor_with_its_own_tokenizer_is_the_identity(zoo, tmp_path, kind):
    """Bit for bit, rows of ids that never come out included."""
    report = run(zoo, tmp_path, kind, kind)
    old, new = (load_file(d / "model.safetensors") for d in (zoo[kind], tmp_path / "out"))
    assert {name: new[name].dtype for name in new} == {name: old[name].dtype for name in old}
    assert all(torch.equal(new[name].view(torch.uint8), old[name].view(torch.uint8)) for name in old)
    assert report.alignment.plan.counts()["unreachable"] > 0


def test_unreachable_rows_take_no_mass(shared):
    report = shared()
    assert report.alignment.plan.counts()["unreachable"] > 40 and report.alignment.plan.counts()["padding"] == 22
    (dead,) = [check for check in report.checks if check.name == "dead ids"]
    assert dead.ok


@pytest.mark.parametrize("base", ["gpt", "untied", "biased"])
def test_calibrate_moves_the_heads_new_rows_only(zoo, tmp_path, base):
    plain = transplant(str(zoo[base]), str(zoo["spm"]), tmp_path / "plain", TransplantOptions(k=8, calibrate=False))
    moved = transplant(str(zoo[base]), str(zoo["spm"]), tmp_path / "moved", TransplantOptions(k=8, calibrate=True))
    assert moved.content["calibrated"] and not plain.content["calibrated"]
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "moved"))
    head = "lm_head.weight" if "lm_head.weight" in new else "model.embed_tokens.weight"
    expected = {head, "lm_head.bias"} & set(new)
    assert {name for name in new if not torch.equal(old[name], new[name])} == expected
    fresh = torch.from_numpy(plain.alignment.plan.provenance == 3)
    changed = (old[head] != new[head]).any(dim=1)
    assert not changed[~fresh].any() and changed[fresh].all()


def test_calibrated_by_default_where_the_base_is_run_and_the_donors_rows_are_asked(zoo, shared, tmp_path):
    made = {"default": shared()}
    for name, options in (
        ("asked", TransplantOptions(k=8, calibrate=True)),
        ("not run", TransplantOptions(k=8, forward=False)),
        ("by text", TransplantOptions(method="subtoken")),
    ):
        made[name] = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / name, options)
    assert [made[name].content["calibrated"] for name in made] == [True, True, False, False]
    assert "k=8, rest=mapped, tokens=16384, calibrated)" in (shared().out / "README.md").read_text()
    one, other = (made[name].out / "model.safetensors" for name in ("default", "asked"))
    assert one.read_bytes() == other.read_bytes()


def test_frequent_new_tokens_get_their_share_of_the_text(zoo, shared, tmp_path):
    """With a text, a new token that makes up much of it comes out likelier than without."""
    plain = shared()
    spm = plain.donor.vocabulary
    new = plain.alignment.plan.ids(Provenance.RECONSTRUCTED).tolist()
    fresh = [i for i in new if spm.encode(spm.decode([i])) == [i]]
    word = spm.decode(fresh[:1])
    (tmp_path / "mine.txt").write_text("The value of the object is. " * 50 + word * 400)
    options = TransplantOptions(k=8, text=(str(tmp_path / "mine.txt"),))
    told = run(zoo, tmp_path, "gpt", "spm", options)
    ids = torch.tensor([spm.encode("The value of the object is.")])
    shares = []
    for report in (plain, told):
        logits = AutoModelForCausalLM.from_pretrained(report.out)(ids).logits[0].detach().log_softmax(-1)
        shares.append(float(logits[:, fresh[0]].mean()))
    counts = torch.tensor([0, 0, 0, 0, 0, 30, 0, 9, 1])
    assert counted_prior(counts, 10)[5] == pytest.approx(math.log(0.75))
    assert counted_prior(counts, 10).isnan().sum() == 9 and len(counted_prior(counts, 7)) == 7
    assert shares[1] > shares[0] + 1


def test_untie(zoo, tmp_path):
    run(zoo, tmp_path, "gpt", "spm", TransplantOptions(k=8, untie=True, map={"<unused1>": " the repository"}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings
    token = AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<unused1>")
    head, embedding = model.get_output_embeddings().weight[token], model.get_input_embeddings().weight[token]
    assert not torch.equal(head, embedding)


def test_dtype_and_padding(zoo, tmp_path):
    run(zoo, tmp_path, "gpt", "spm", TransplantOptions(k=8, dtype="bfloat16", pad_to_multiple_of=128))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16 and model.config.vocab_size % 128 == 0
    old = load_file(zoo["gpt"] / "model.safetensors")["model.norm.weight"]
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["model.norm.weight"], old.bfloat16())


def test_ids_beyond_the_embedding(zoo, copy_of, tmp_path):
    donor = copy_of("spm")
    tokenizer = AutoTokenizer.from_pretrained(donor)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<late_{c}>" for c in "abcdefghijklmnopqrstuvwxyz"]})
    tokenizer.save_pretrained(donor)
    with pytest.raises(InputError, match=r"4 ids do not fit.*--pad-to-multiple-of"):
        transplant(str(zoo["gpt"]), str(donor), tmp_path / "out", K8)
    report = transplant(str(zoo["gpt"]), str(donor), tmp_path / "out", TransplantOptions(k=8, pad_to_multiple_of=64))
    assert report.alignment.plan.n_rows == -(-len(tokenizer) // 64) * 64


def _with_wordpiece(place):
    from tiny import fast, wordpiece

    tokenizer = fast(wordpiece(900), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    return save(place / "wp", llama(len(tokenizer), seed=8), tokenizer)


def test_wordpiece_donor(zoo, tmp_path):
    report = transplant(str(zoo["gpt"]), str(_with_wordpiece(tmp_path)), tmp_path / "out", K8)
    assert report.alignment.plan.counts()["copied"] > 100
    assert {c.name: c.detail for c in report.checks}["text round trip"] == "lossy, as the donor's"


def test_dry_run_writes_nothing(zoo, tmp_path):
    report = run(zoo, tmp_path, "gpt", "spm", dry_run=True)
    assert report.out is None and report.alignment.plan.counts()["copied"] > 100
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_unless_told(zoo, tmp_path):
    shutil.copytree(zoo["biased"], tmp_path / "out")
    before = (tmp_path / "out/config.json").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        run(zoo, tmp_path, "gpt", "spm")
    (tmp_path / "out/thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds thesis\.tex beside a model, and --overwrite would delete that too"):
        run(zoo, tmp_path, "gpt", "spm", overwrite=True)
    assert (tmp_path / "out/config.json").read_bytes() == before
    (tmp_path / "out/thesis.tex").unlink()
    run(zoo, tmp_path, "gpt", "spm", overwrite=True)
    assert (tmp_path / "out/config.json").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("room", "when"), [(small_files, "write_settings"), (output, "invariants")])
def test_a_failure_leaves_nothing_behind(zoo, tmp_path, monkeypatch, failure, room, when):
    def fail(*_args, **_kwargs):
        raise failure

    monkeypatch.setattr(room, when, fail)
    with pytest.raises(type(failure)):
        run(zoo, tmp_path, "gpt", "spm")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_output(zoo, shared, tmp_path, monkeypatch):
    shutil.copytree(shared().out, tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    monkeypatch.setattr(output, "invariants", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(zoo, tmp_path, "untied", "spm", overwrite=True)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_model_that_fails_verification_is_discarded(zoo, tmp_path, monkeypatch):
    real = new_rows.build_rows

    def sabotage(*args, **kwargs):
        new = real(*args, **kwargs)
        new.matrices.embedding[int(args[2].plan.anchors[7]), 0] += 1e-3
        return new

    monkeypatch.setattr(new_rows, "build_rows", sabotage)
    with pytest.raises(VerificationError, match="anchors"):
        run(zoo, tmp_path, "gpt", "spm")
    assert list(tmp_path.iterdir()) == []


def test_k_larger_than_the_anchors(zoo, tmp_path):
    with pytest.raises(InputError, match=r"k=5000 exceeds the \d+ anchors"):
        run(zoo, tmp_path, "gpt", "spm", TransplantOptions(k=5000))


@pytest.mark.parametrize("side", ["base", "donor"])
def test_nan_rows(zoo, copy_of, tmp_path, side):
    damaged = copy_of("gpt" if side == "base" else "spm")
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.embed_tokens.weight"][400:] = float("nan")
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    pair = (str(damaged), str(zoo["untied-spm"])) if side == "base" else (str(zoo["untied"]), str(damaged))
    with pytest.raises(InputError, match="NaN"):
        transplant(*pair, tmp_path / "out", K8)


def test_untie_needs_a_head(zoo, tmp_path, monkeypatch):
    import dataclasses

    real = opened.find_vocabulary_tensors
    monkeypatch.setattr(opened, "find_vocabulary_tensors", lambda *a: dataclasses.replace(real(*a), head_name=None))
    with pytest.raises(InputError, match="no LM head"):
        run(zoo, tmp_path, "gpt", "spm", TransplantOptions(k=8, untie=True))


def test_shared_tokens_beyond_the_donors_embedding(copy_of, tmp_path):
    """An added token that both have, in the donor past its last row: the base's row is copied."""
    base, donor = copy_of("gpt"), copy_of("spm")
    tokenizer = AutoTokenizer.from_pretrained(donor)
    tokenizer.add_tokens([*(f"<late_{c}>" for c in "abcdefghijklmnopqrstuvwxyz"), "<repo>"], special_tokens=True)
    tokenizer.save_pretrained(donor)
    report = transplant(str(base), str(donor), tmp_path / "out", TransplantOptions(k=8, pad_to_multiple_of=64))
    late = tokenizer.convert_tokens_to_ids("<repo>")
    row = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"][late]
    source = report.base.vocabulary.pieces.index("<repo>")
    assert torch.equal(row, load_file(base / "model.safetensors")["model.embed_tokens.weight"][source])


def test_a_tied_head_that_differs_is_refused(copy_of, zoo, tmp_path):
    base = copy_of("gpt")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"holds a different lm_head\.weight"):
        transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)


def test_further_embeddings_by_token_are_refused(zoo, tmp_path, monkeypatch):
    import dataclasses

    real = opened.find_vocabulary_tensors
    monkeypatch.setattr(
        opened, "find_vocabulary_tensors", lambda *a: dataclasses.replace(real(*a), others=("embed_per_layer",))
    )
    with pytest.raises(InputError, match="embed_per_layer has one row per token too"):
        run(zoo, tmp_path, "gpt", "spm")


@pytest.mark.parametrize("per_layer", [64, 60])
def test_gemma3n_has_further_embeddings(tmp_path, per_layer):
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    from tokensurgeon.checkpoint import find_vocabulary_tensors

    config = Gemma3nTextConfig(
        vocab_size=64, vocab_size_per_layer_input=per_layer, hidden_size=16, hidden_size_per_layer_input=8,
        intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        laurel_rank=4, num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
    )  # fmt: skip
    Gemma3nForCausalLM(config).save_pretrained(tmp_path)
    assert find_vocabulary_tensors(tmp_path, Checkpoint.open(tmp_path).tensors).others


@pytest.mark.parametrize("place", ["cwd", "base", "above"])
def test_an_output_that_would_replace_something_else(copy_of, zoo, tmp_path, monkeypatch, place):
    base = copy_of("gpt")
    monkeypatch.chdir(base)
    out = {"cwd": ".", "base": base, "above": tmp_path}[place]
    with pytest.raises(InputError, match="would replace"):
        transplant(str(base), str(zoo["spm"]), out, K8, overwrite=True)
    assert (base / "model.safetensors").is_file()


def test_stale_copies_of_a_tied_head_are_dropped(copy_of, zoo, tmp_path):
    base = copy_of("gpt")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


def test_recipe(tmp_path):
    from tokensurgeon.surgery.options import load_recipe

    path = tmp_path / "r.toml"
    path.write_text('k = 5\nuntie = true\n[map]\n"<unused1>" = "hello"\n')
    options = load_recipe(path).updated({"k": 6, "map": {"<unused2>": "x"}})
    assert options.k == 6 and options.untie and options.map == {"<unused1>": "hello", "<unused2>": "x"}
    for text, message in (
        ("kk = 1", "unknown option 'kk'"),
        ("k = 0", "k=0"),
        ("k = [", "not valid TOML"),
        ('dtype = "int4"', "int4"),
        ('seed = "x"', "seed='x'"),
        ('untie = "yes"', "untie='yes'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(path)
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")


def test_code_and_other_files_of_the_base_are_kept(copy_of, zoo, tmp_path):
    base = copy_of("gpt")
    (base / "modeling_custom.py").write_text("# code\n")
    (base / "preprocessor_config.json").write_text("{}\n")
    (base / "pytorch_model.bin").write_text("stale weights")
    transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"modeling_custom.py", "preprocessor_config.json", "README.md", "tokensurgeon.json"} <= names
    assert "pytorch_model.bin" not in names


def test_a_donor_that_adds_no_bos_is_a_warning(shared):
    report, other = shared("spm", "gpt"), shared()
    assert report.content["bos"] == {"base": True, "donor": False}
    assert "before your prompts" in (report.out / "README.md").read_text()
    assert other.content["bos"] == {"base": False, "donor": True}
    assert "before your prompts" not in (other.out / "README.md").read_text()


def test_a_donor_without_bos_begins_texts_with_its_turn_marker(zoo, copy_of, tmp_path):
    """Which holds the base's BOS: for evaluation, generation, and in the card."""
    donor = copy_of("gpt")
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        settings = json.loads((donor / name).read_text())
        settings = {key: value for key, value in settings.items() if not key.startswith("bos_token")}
        (donor / name).write_text(json.dumps(settings))
    report = transplant(str(zoo["spm"]), str(donor), tmp_path / "out", K8)
    start = AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<|im_start|>")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").bos_token is None
    assert load_model(tmp_path / "out").prefix == report.content["beginning"] == start
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["bos_token_id"] == start
    assert "put `<|im_start|>`, which holds its row, before" in (tmp_path / "out/README.md").read_text()
    rows = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"]
    old, ids = load_file(zoo["spm"] / "model.safetensors")["model.embed_tokens.weight"], report.base.vocabulary.pieces
    both = [ids.index(literal) for literal in ("<bos>", "<start_of_turn>")]
    torch.testing.assert_close(rows[start], old[both].mean(0))


def test_turns_that_the_base_does_not_know_are_spoken_of(zoo, tmp_path):
    """WordPiece has no turns."""
    report = transplant(str(_with_wordpiece(tmp_path)), str(zoo["gpt"]), tmp_path / "out", TransplantOptions(k=8))
    assert report.content["turns"]["foreign"] == ["<|im_start|>", "<|im_end|>"]
    assert "was not trained on turns like the donor's: `<|im_start|>` is" in (tmp_path / "out/README.md").read_text()


def test_provenance_arrays_survive_the_manifest(tmp_path):
    provenance = np.random.default_rng(0).integers(0, 6, 5000).astype(np.int8)
    source = np.random.default_rng(1).integers(-1, 300_000, 5000)
    Manifest({"a": 1}, RowPlan(provenance, source)).write(tmp_path)
    again = Manifest.read(tmp_path)
    assert (again.plan.provenance == provenance).all() and (again.plan.source == source).all()
    assert Manifest.read(tmp_path / "nowhere") is None
    (tmp_path / "tokensurgeon.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="damaged"):
        Manifest.read(tmp_path)
    (tmp_path / "tokensurgeon.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="format 99"):
        Manifest.read(tmp_path)
    shutil.rmtree(tmp_path)


def test_committed_recipes_load():
    from pathlib import Path

    from tokensurgeon.surgery.options import load_recipe

    recipes = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
    assert recipes
    for recipe in recipes:
        load_recipe(recipe)


def test_a_tokenizer_file_that_truncates_and_pads(copy_of, zoo, shared, tmp_path):
    """Sentence encoders ship such files; texts here are longer, and padding is no text."""
    from tokenizers import Tokenizer

    donor = copy_of("spm")
    tokenizer = Tokenizer.from_file(str(donor / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, direction="left", pad_id=3, pad_token="<pad>")
    tokenizer.save(str(donor / "tokenizer.json"))
    report = transplant(str(zoo["gpt"]), str(donor), tmp_path / "out", K8)
    assert all(check.ok for check in report.checks)
    assert report.summary["bos"]["donor"] and report.content["counts"] == shared().content["counts"]


def test_a_bias_that_is_stored_twice(gpt, zoo, tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=len(gpt), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, is_decoder=True,
    )  # fmt: skip
    base = save(tmp_path / "bert", BertLMHeadModel(config), gpt)
    tensors = load_file(base / "model.safetensors")
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    report = run({"bert": base, **zoo}, tmp_path, "bert", "spm")
    written = load_file(tmp_path / "out/model.safetensors")
    biases = [
        name
        for name in written
        if name.startswith("cls.predictions.") and name.endswith("bias") and "transform" not in name
    ]
    assert all(check.ok for check in report.checks) and len(biases) == 1
    assert len(written[biases[0]]) == len(report.alignment.plan.provenance)
    tensors["cls.predictions.decoder.bias"] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="are one bias, but the checkpoint holds different values"):
        run({"bert": base, **zoo}, tmp_path, "bert", "spm", overwrite=True)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_a_full_disk_leaves_nothing_behind(zoo, shared, tmp_path, share):
    """Writes are cut short wherever a file would get larger than a limit."""
    whole = (shared("untied").out / "model.safetensors").stat().st_size
    limit = int(share * whole)
    script = (
        f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "from tokensurgeon.cli import main; main()"
    )
    arguments = [str(zoo["untied"]), str(zoo["spm"]), "--out", str(tmp_path / "out"), "--k", "8", "--quiet"]
    done = processes.run(script, *arguments)
    assert done.returncode == 2 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["auto", "copy"])
def test_what_was_cloned_is_not_read_again(zoo, tmp_path, monkeypatch, link):
    """And what was copied is."""
    real, read = Checkpoint.same, []

    def fake_clone(source, target):
        target.write_bytes(source.read_bytes())
        return True

    def same(self, other, name):
        read.append(self.tensors[name].file.name)
        return real(self, other, name)

    monkeypatch.setattr("tokensurgeon.checkpoint.linking._clone", fake_clone)
    monkeypatch.setattr(Checkpoint, "same", same)
    report = run(zoo, tmp_path, "sharded", "spm", TransplantOptions(k=8, link=link))
    home = (
        report.base.directory
        / json.loads((zoo["sharded"] / "model.safetensors.index.json").read_text())["weight_map"][
            "model.embed_tokens.weight"
        ]
    )
    assert (set(read) <= {home.name}) == (link == "auto")


def test_links_are_spoken_of(zoo, tmp_path):
    report = run(zoo, tmp_path, "sharded", "spm", TransplantOptions(k=8, link="hard"))
    assert len(report.content["linked"]) == 1 and "hard links" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_a_hostile_donor_is_named_wherever_the_model_is_described(zoo, tmp_path):
    """One anchor's row is a hundredth as long, another token's forty times as long as others."""
    donor = tmp_path / "donor"
    shutil.copytree(zoo["spm"], donor)
    tensors = load_file(donor / "model.safetensors")
    plan = run(zoo, tmp_path, "gpt", "spm", dry_run=True).alignment.plan
    anchor, victim = int(plan.ids(Provenance.COPIED)[50]), int(plan.ids(Provenance.RECONSTRUCTED)[3])
    tensors["model.embed_tokens.weight"][anchor] *= 0.01
    tensors["model.embed_tokens.weight"][victim] *= 40
    save_file(tensors, donor / "model.safetensors", {"format": "pt"})
    done = CliRunner(env={"COLUMNS": "2000"}).invoke(
        app, [str(zoo["gpt"]), str(donor), "--k", "8", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0
    manifest = json.loads((tmp_path / "out" / "tokensurgeon.json").read_text())
    outliers, names = manifest["outliers"], OpenModel.open(str(donor)).vocabulary
    assert outliers["ids"] == [victim] and outliers["anchors"]["ids"] == [anchor]
    shown = [done.stdout, *((tmp_path / "out" / name).read_text() for name in ("README.md", "report.html"))]
    for text in map(html.unescape, shown):
        assert "1 of " in text and "unlike rows of the base" in text and names.describe(victim) in text
        assert "1 shared tokens have rows of unusual length" in text and names.describe(anchor) in text
    checks = {check.name: check for check in verify(tmp_path / "out", zoo["gpt"], donor)}
    assert all(check.ok for check in checks.values())
    assert checks["replaced rows"].detail == "1 are the mean of the base's rows of their pieces"
    _scale_row(tmp_path / "out", victim, 1.01)
    checks = {check.name: check for check in verify(tmp_path / "out", zoo["gpt"], donor)}
    assert not checks["replaced rows"].ok


def _scale_row(model, row, times):
    files = Checkpoint.open(model)
    name = find_vocabulary_tensors(model, files.tensors).embedding
    path = files.tensors[name].file
    tensors = load_file(path)
    tensors[name][row] *= times
    save_file(tensors, path, {"format": "pt"})

"""Sabotage by somebody who wrote the digests again: base and donor must say so. The whole list is `slow`."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks.common.sabotages import change_json, change_tensor
from benchmarks.experiments.sabotage import remembered_vocabularies
from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.verification import audit
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.verify import verify

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module", autouse=True)
def _remembered():
    with remembered_vocabularies():
        yield


def digests_again(model: Path) -> None:
    manifest = Manifest.read(model)
    replace(manifest, content=manifest.content | {"sha256": recorded_digests(model)}).write(model)


def checks_of(model: Path, zoo, donor: str | None = None, **options):
    found = verify(model, zoo["gpt"], zoo[donor] if donor else None, unrun="not here", **options)
    return {check.name: check for check in found}


def failing(model: Path, zoo, donor: str | None = None) -> dict[str, str]:
    return {name: check.detail for name, check in checks_of(model, zoo, donor).items() if not check.ok}


def test_an_honest_one_passes_and_says_what_only_the_donor_shows(good, zoo):
    alone, both = checks_of(good, zoo), checks_of(good, zoo, "spm")
    assert all(check.ok for check in (*alone.values(), *both.values()))
    assert {name for name, check in alone.items() if check.note} == {"forward pass", "rows made again"}
    assert {name for name, check in both.items() if check.note} == {"forward pass", "rows made again"}
    assert "shifts along one direction: the base is not run here" in both["rows made again"].detail
    assert "Give --donor" in alone["rows made again"].detail and "rows by scikit-learn" in both
    assert both["rows made again"].detail.startswith("all ")


def test_digests_show_what_changed(model, zoo):
    new = Manifest.read(model).plan.ids(Provenance.RECONSTRUCTED)
    change_tensor(model, EMBEDDING, lambda t: t.index_copy(0, torch.tensor(new[:1]), t[new[:1]] * 1.01))
    change_json(model, "tokenizer_config.json", lambda content: content.update(padding_side="left"))
    assert failing(model, zoo) == {
        "tensors as written": f"{EMBEDDING} changed since", "files as written": "tokenizer_config.json changed since",
    }  # fmt: skip


def test_an_output_without_digests_gets_a_note(model, zoo):
    manifest = Manifest.read(model)
    del manifest.content["sha256"]
    manifest.write(model)
    found = checks_of(model, zoo)
    assert found["as written"].note and all(check.ok for check in found.values())


@pytest.mark.parametrize("rows", [1, 2, None])
def test_new_rows_are_made_again(model, zoo, rows):
    """Of one row, or two that changed places, or all: the digests are written again."""
    ids = torch.from_numpy(Manifest.read(model).plan.ids(Provenance.RECONSTRUCTED)[:rows])

    def edit(tensor):
        tensor[ids] = tensor[ids].flip(0) if rows == 2 else tensor[ids] * 1.01
        return tensor

    change_tensor(model, EMBEDDING, edit)
    digests_again(model)
    assert not failing(model, zoo)
    assert "rows made again" in failing(model, zoo, "spm")


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("rows", [0, 3])
def test_calibration_excuses_only_what_it_does(model, zoo, run, rows):
    """A few rows moved along one direction, of a model that says it is calibrated."""
    manifest = Manifest.read(model)
    ids = torch.from_numpy(manifest.plan.ids(Provenance.RECONSTRUCTED)[:rows])
    if not run:  # where nothing else shows the direction, all rows must have moved along it
        transplant(str(zoo["gpt"]), str(zoo["spm"]), model, TransplantOptions(k=8, calibrate=False), overwrite=True)
        change_json(model, "tokensurgeon.json", lambda content: content.update(calibrated=True))
    change_tensor(model, EMBEDDING, lambda t: t.index_add(0, ids, torch.ones(rows, t.shape[1])))
    digests_again(model)
    found = verify(model, zoo["gpt"], zoo["spm"], unrun=None if run else "not here")
    check = next(check for check in found if check.name == "rows made again")
    assert check.ok == (not rows) and check.note == (not rows and not run)


def test_what_was_not_run_is_not_calibrated(zoo, tmp_path):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, forward=False))
    manifest = Manifest.read(tmp_path / "out")
    ids = torch.from_numpy(manifest.plan.ids(Provenance.RECONSTRUCTED))
    Manifest(manifest.content | {"calibrated": True}, manifest.plan).write(tmp_path / "out")
    change_tensor(tmp_path / "out", EMBEDDING, lambda t: t.index_add(0, ids, torch.ones(len(ids), t.shape[1])))
    digests_again(tmp_path / "out")
    assert "rows made again" in failing(tmp_path / "out", zoo, "spm")


@pytest.mark.parametrize(("rest", "times"), [("mapped", 2), ("dropped", 1.1)])
def test_scikit_learn_does_not_believe_our_solver(zoo, tmp_path, monkeypatch, rest, times):
    """Rows that are written and made again by the same wrong solver; what it misses is mapped, if it is small."""
    from tokensurgeon.transfer import omp

    solve = omp.solve_in_shares

    def wrong(*args, **options):
        found = solve(*args, **options)
        return replace(found, values=found.values * times)

    monkeypatch.setattr(omp, "solve_in_shares", wrong)
    options = TransplantOptions(k=8, method_options={"rest": rest}, forward=False)
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)
    assert set(failing(tmp_path / "out", zoo, "spm")) == {"rows by scikit-learn"}


@pytest.mark.parametrize("seconds", [None, 0])
def test_rows_of_the_map_alone_are_made_again_beside_those_of_the_solver(zoo, tmp_path, monkeypatch, seconds):
    """Whether all are or a sample is; scikit-learn sees those of the solver alone."""
    out = tmp_path / "out"
    options = TransplantOptions(k=8, method_options={"tokens": 40}, forward=False)
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), out, options)
    if seconds is not None:
        monkeypatch.setattr(audit, "_SECONDS", seconds)
    detail = checks_of(out, zoo, "spm")["rows by scikit-learn"].detail
    assert not failing(out, zoo, "spm") and " of 40 new rows" in detail
    new = torch.from_numpy(report.alignment.plan.ids(Provenance.RECONSTRUCTED))
    assert "The 40 new tokens with the lowest ids are combined" in (out / "report.html").read_text()
    assert f"rows of the other {len(new) - 40:,}." in (out / "report.html").read_text()
    once = Manifest.read(out)
    healed = {"runs": [{"rows": "new"}], "rows": new[:30].tolist(), "tensors": []}
    Manifest(once.content | {"healed": healed}, once.plan).write(out)  # ten of the first forty are left
    detail = checks_of(out, zoo, "spm")["rows by scikit-learn"].detail
    assert " of 10 new rows" in detail and not {"rows made again", "rows by scikit-learn"} & set(
        failing(out, zoo, "spm")
    )
    once.write(out)
    change_tensor(out, EMBEDDING, lambda t: t.index_copy(0, new[40:], t[new[40:]] * 1.1))
    digests_again(out)
    assert "rows made again" in failing(out, zoo, "spm")


def test_a_sample_is_another_one_each_time(good, zoo, monkeypatch):
    monkeypatch.setattr(audit, "_SECONDS", 0)
    one, other = (checks_of(good, zoo, "spm")["rows made again"].detail for _ in range(2))
    assert one.startswith("64 of ") and one != other
    seven = checks_of(good, zoo, "spm", seed=7)
    assert "(seed 7)" in seven["rows made again"].detail and "(seed 7)" in seven["rows by scikit-learn"].detail


def test_settings_are_compared_with_the_bases_key_by_key(model, zoo):
    change_json(model, "config.json", lambda content: content.update(rms_norm_eps=0.5, auto_map={"A": "x.B"}))
    digests_again(model)
    (detail,) = failing(model, zoo).values()
    assert (
        "rms_norm_eps is 0.5, and must be 1e-06" in detail and "auto_map is {'A': 'x.B'}, and must be missing" in detail
    )


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, True),
        ({"auto_map": {"AutoTokenizer": [None, "else/where--x.T"]}}, False),
        ({"tokenizer_class": "LlamaTokenizer", "chat_template": "{{ 'ignore all' }}"}, False),
        ({"model_max_length": 9}, False),
        ({"eos_token": "a"}, False),
    ],
)
def test_another_transformers_excuses_only_the_class(model, zoo, change, ok):
    change_json(model, "tokenizer_config.json", lambda content: content.update(change))
    change_json(model, "tokensurgeon.json", lambda content: content["versions"].update(transformers="4.0.0"))
    digests_again(model)
    check = checks_of(model, zoo, "spm")["other files"]
    assert check.ok == check.note == ok


def test_a_stop_token_that_the_donor_does_not_have(model, zoo):
    stops = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    stops = stops if isinstance(stops, list) else [stops]
    change_json(model, "generation_config.json", lambda content: content.update(eos_token_id=[*stops, 99]))
    digests_again(model)
    assert set(failing(model, zoo, "spm")) == {"generation_config.json"}


def test_planted_files_are_named_and_peoples_own_are_not_refused(model, zoo):
    for name in ("modeling_x.py", "extra.safetensors", "additional_chat_templates/a.jinja", "state.pkl"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"x")
    (model / "README.md").write_text("mine")
    (model / ".gitattributes").write_text("mine")
    (model / "photo.png").write_bytes(b"mine")
    found = checks_of(model, zoo)
    planted = found["nothing added"]
    assert not planted.ok and all(
        name in planted.detail for name in ("modeling_x.py", "extra.safetensors", "state.pkl")
    )
    assert found["added files"].note and found["added files"].detail.startswith("photo.png:")
    digests_again(model)
    assert "modeling_x.py" in failing(model, zoo)["nothing added"]


@pytest.mark.parametrize("place", ["custom_generate", ".hidden", "within.json"])
def test_links_are_none_of_ours(model, zoo, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "generate.py").write_text("")
    (model / place).symlink_to(model / "config.json" if place == "within.json" else tmp_path / "elsewhere")
    assert failing(model, zoo)["no links"] == f"{place}: tokensurgeon writes no links"


def test_a_snapshot_of_the_hub_is_made_of_links(good, zoo, tmp_path):
    snapshot = tmp_path / "models--me--model" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(good, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert not failing(snapshot, zoo)
    (snapshot / "custom_generate").symlink_to(tmp_path)
    assert set(failing(snapshot, zoo)) == {"no links"}


def test_a_plan_that_does_not_follow_from_the_tokenizers(model, zoo):
    manifest = Manifest.read(model)
    a, b = manifest.plan.anchors[-2:]
    manifest.plan.source.flags.writeable = True
    manifest.plan.source[[a, b]] = manifest.plan.source[[b, a]]
    manifest.write(model)
    change_tensor(model, EMBEDDING, lambda t: t.index_copy(0, torch.tensor([a, b]), t[[b, a]]))
    digests_again(model)
    assert failing(model, zoo)["plan"].startswith(f"2 rows come from elsewhere (first: id {a})")


@pytest.mark.parametrize("side", ["base", "donor"])
def test_another_base_or_donor_than_the_recorded_one(model, zoo, side):
    manifest = Manifest.read(model)
    manifest.content[side]["sha256"]["config.json"] = "0" * 64
    manifest.write(model)
    assert failing(model, zoo, "spm") == {f"{side} as recorded": "config.json is not the one of the manifest"}


def excuse(model: Path, **healed) -> None:
    manifest = Manifest.read(model)
    run = {"rows": "new", "lora": healed.pop("lora", None)}
    manifest.content["healed"] = {"runs": [run], "rows": [], "tensors": []} | healed
    manifest.write(model)
    digests_again(model)


def test_what_no_healing_run_trains_is_not_excused(model, zoo):
    change_tensor(model, "model.norm.weight", lambda t: t * 2)
    excuse(model, tensors=["model.norm.weight"], lora=4)
    found = failing(model, zoo)
    assert "model.norm.weight, which no run trains" in found["trained"] and "body unchanged" in found


def test_copied_rows_are_not_excused_as_new_ones(model, zoo):
    anchor = int(Manifest.read(model).plan.anchors[-1])
    excuse(model, rows=[anchor])
    assert failing(model, zoo) == {"trained": f"the manifest excuses row {anchor}, which no run trains"}


@pytest.mark.parametrize(("rank", "ok"), [(2, True), (20, False)])
def test_a_body_that_changed_by_more_than_the_rank_of_its_updates(model, zoo, rank, ok):
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensor(model, name, lambda t: t + torch.randn(len(t), rank) @ torch.randn(rank, t.shape[1]))
    excuse(model, tensors=[name], lora=2)
    check = checks_of(model, zoo)["trained"]
    assert check.ok == ok and check.note == ok
    assert ("1 body tensors, by updates of rank 2" if ok else "changed by more than rank 2") in check.detail


@pytest.mark.parametrize("runs", [[{"lora": 100_000}], [{"lora": 16}] * 2])
def test_a_rank_at_which_anything_is_low_rank_excuses_nothing(model, zoo, runs):
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensor(model, name, lambda t: t + 0.3 * torch.randn(t.shape))
    excuse(model, tensors=[name], runs=runs)
    assert f"{name}, whose smaller side is 32" in failing(model, zoo)["trained"]


@pytest.mark.slow
def test_runs_that_are_only_said_to_have_been_allow_no_more_rounding(model, zoo):
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensor(model, name, lambda t: t + 1e-3 * t.std() * torch.randn(t.shape))
    excuse(model, tensors=[name], runs=[{"lora": 1}, *[{}] * 1_000_000])
    assert "changed by more than rank 1" in failing(model, zoo)["trained"]


@pytest.mark.parametrize("excused", ["sample", "healed", "no donor", "normal"])
def test_rows_that_are_not_made_again_keep_to_limits(model, zoo, monkeypatch, excused):
    manifest = Manifest.read(model)
    new = manifest.plan.ids(Provenance.RECONSTRUCTED)
    new = np.setdiff1d(new, manifest.content["outliers"]["ids"])
    ids = new[-1:] if excused != "healed" else manifest.plan.anchors[-1:]
    change_tensor(model, EMBEDDING, lambda t: t.index_copy(0, torch.tensor(ids), t[ids] * 1000))
    if excused == "normal":
        change_json(model, "tokensurgeon.json", lambda content: content.update(method={"name": "normal"}))
    if excused == "healed":
        excuse(model, rows=ids.tolist(), runs=[{"rows": "all", "lora": None}])
    digests_again(model)
    monkeypatch.setattr(audit, "_SECONDS", 0)
    monkeypatch.setattr(audit, "_SAMPLE", 1)
    found = checks_of(model, zoo, None if excused == "no donor" else "spm", seed=7)
    assert not found["rows in their limits"].ok
    assert found["rows in their limits"].detail.startswith(f"id {ids[0]} (")
    assert "rows made again" not in found or found["rows made again"].ok


def test_silent_rows_are_one_and_the_same(model, zoo):
    silent = Manifest.read(model).plan.silenced
    change_tensor(model, EMBEDDING, lambda t: t.index_fill(0, torch.tensor(silent[-1:]), 0.3))
    digests_again(model)
    assert failing(model, zoo) == {f"{EMBEDDING} silent rows": f"1 are not (first: id {silent[-1]})"}


def test_a_model_that_is_not_run_must_fit_its_class(model, zoo, monkeypatch):
    """Without accelerate, which transformers needs for `device_map`."""
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda: False, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "accelerate" else find(name, *a))
    assert not checks_of(model, zoo)["fits its model class"].note
    change_json(model, "config.json", lambda content: content.update(intermediate_size=32))
    digests_again(model)
    found = failing(model, zoo)
    assert found["fits its model class"].startswith("mismatched: model.layers.0.mlp") and "config.json" in found


def test_a_row_that_was_estimated_is_estimated_again(zoo, tmp_path):
    transplant(str(zoo["untied"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions("zero", forward=False))
    silent = torch.from_numpy(Manifest.read(tmp_path / "out").plan.silenced)
    assert all(c.ok for c in verify(tmp_path / "out", zoo["untied"], zoo["spm"], unrun="not here"))
    change_tensor(tmp_path / "out", "lm_head.weight", lambda t: t.index_copy(0, silent, -t[silent]))
    digests_again(tmp_path / "out")
    found = verify(tmp_path / "out", zoo["untied"], zoo["spm"], unrun="not here")
    assert [c.name for c in found if not c.ok] == ["silent row"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("healed", {"runs": [{"lora": rank}], "rows": [], "tensors": []}) for rank in (0, -1, True, 2.0, "x")),
        ("healed", {"rows": "x"}),
        ("options", {"map": ["a"]}),
        ("sha256", []),
        ("blends", {"a": 1}),
        ("options", {"dtype": "cuda"}),
        ("base", None),
    ],
)
def test_a_manifest_whose_parts_are_of_another_kind_is_refused(model, zoo, name, value):
    change_json(model, "tokensurgeon.json", lambda content: content.update({name: value}))
    with pytest.raises(InputError, match=rf"json is damaged \((options.(dtype|map)|{name}) is not what"):
        checks_of(model, zoo)


def test_rows_that_unpack_to_too_much_are_refused(model, zoo):
    import base64
    import zlib

    packed = base64.b64encode(zlib.compress(np.zeros((1 << 22) + 1, dtype=np.int8).tobytes(), 9)).decode()
    change_json(model, "tokensurgeon.json", lambda content: content["rows"].update(provenance=packed))
    with pytest.raises(InputError, match="its rows are cut short, or more than 4,194,304"):
        checks_of(model, zoo)


def test_the_command_prints_notes_and_exits_with_2(model, zoo):
    options = ["verify", str(model), "--base", str(zoo["gpt"]), "--no-forward"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0 and "note rows made again: not checked" in done.stdout
    (model / "modeling_x.py").write_text("")
    done = CliRunner().invoke(app, [*options, "--donor", str(zoo["spm"]), "--seed", "3", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 2 and not found["nothing added"]["ok"] and found["forward pass"]["note"]
    assert "nothing added: modeling_x.py" in done.stderr


def test_bodies_that_are_linked_have_no_digests_and_are_compared(zoo, tmp_path):
    """Nothing reads them while a model is written."""
    transplant(str(zoo["sharded"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions("mean", forward=False))
    content = Manifest.read(tmp_path / "out").content
    linked = {n for shard in content["linked"] for n in load_file(tmp_path / "out" / shard)}
    assert linked and not linked & set(content["sha256"]["tensors"]) and EMBEDDING in content["sha256"]["tensors"]
    change_tensor(tmp_path / "out", sorted(linked)[0], lambda t: t + 1)
    found = verify(tmp_path / "out", zoo["sharded"], unrun="not here")
    assert [check.name for check in found if not check.ok] == ["body unchanged"]


def test_overrides_are_named(zoo, tmp_path):
    options = TransplantOptions("mean", map={"the": "a"}, forward=False)
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)
    check = checks_of(tmp_path / "out", zoo, "spm")["overrides"]
    assert check.ok and check.note and check.detail.endswith("'the' ← 'a'")
    assert check.detail.startswith("1 rows are by the manifest's --map")


def test_new_rows_said_to_be_padding_are_a_note_that_the_donor_settles(model, zoo):
    """Without the donor's weights, nothing shows which of its tokens have no row."""
    manifest = Manifest.read(model)
    plan = manifest.plan.changed(Provenance.PADDING, manifest.plan.ids(Provenance.RECONSTRUCTED)[:1])
    Manifest(manifest.content, plan).write(model)
    alone = checks_of(model, zoo)["plan"]
    assert alone.ok and alone.note and "if the donor has no row for 1 of them" in alone.detail
    assert failing(model, zoo, "spm")["plan"].startswith("1 rows come from elsewhere")


@pytest.mark.parametrize(
    ("method", "option", "value", "as_before"),
    [
        ("ridge", "pieces", "shared", False),
        ("ridge", "pieces", "none", True),
        ("omp", "rest", "mapped", False),
        ("omp", "rest", "dropped", True),
    ],
)
def test_rows_of_before_there_was_a_choice(zoo, tmp_path, method, option, value, as_before):
    """A manifest that says nothing of it has rows that were made without."""
    options = TransplantOptions(method, method_options={option: value}, calibrate=False)
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)
    assert not failing(tmp_path / "out", zoo, "spm")
    change_json(tmp_path / "out", "tokensurgeon.json", lambda content: content["method"].pop(option))
    wrong = failing(tmp_path / "out", zoo, "spm")
    assert ("rows made again" in wrong) is not as_before and (bool(wrong) is not as_before)

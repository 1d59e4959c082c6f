"""Models that are stored as pickles."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.pickled import as_safetensors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))


def pickled(source, out, n_shards=1, **kwargs):
    """The same model with .bin files, tied weights stored twice over one memory, as torch.save does."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {name: t for path in sorted(source.glob("*.safetensors")) for name, t in load_file(path).items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    names = sorted(tensors)
    parts = [names[i::n_shards] for i in range(n_shards)]
    files = [f"pytorch_model-{i + 1}.bin" if n_shards > 1 else "pytorch_model.bin" for i in range(n_shards)]
    for file, part in zip(files, parts, strict=True):
        torch.save({name: tensors[name] for name in part}, out / file, **kwargs)
    if n_shards > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (out / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return out


@pytest.mark.parametrize(("base", "n_shards"), [("gpt", 1), ("gpt", 3), ("untied", 2)])
def test_the_output_is_that_of_safetensors(zoo, tmp_path, base, n_shards):
    model = pickled(zoo[base], tmp_path / "model", n_shards)
    for name, source in (("one", zoo[base]), ("two", model)):
        transplant(str(source), str(zoo["spm"]), tmp_path / name, TransplantOptions(k=8))
    one, two = (
        {n: t for path in (tmp_path / name).glob("*.safetensors") for n, t in load_file(path).items()}
        for name in ("one", "two")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "two").glob("*.bin*"))


def test_a_pickled_donor_in_the_old_format(zoo, tmp_path):
    donor = pickled(zoo["spm"], tmp_path / "donor", _use_new_zipfile_serialization=False)
    report = transplant(str(zoo["gpt"]), str(donor), tmp_path / "out", TransplantOptions(k=8))
    assert all(check.ok for check in report.checks)


def test_it_is_converted_once(zoo, tmp_path):
    model = pickled(zoo["gpt"], tmp_path / "model")
    first = resolve(str(model))
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve(str(model)) == first and (first / "model.safetensors").stat().st_mtime_ns == written
    assert resolve(str(model), weights="none") == model and as_safetensors(zoo["gpt"]) == zoo["gpt"]


class Evil:
    """Runs something when it is loaded."""

    def __reduce__(self):
        """How pickle makes it again."""
        return (print, ("run",))


def test_what_cannot_be_used(zoo, tmp_path, capfd):
    model = pickled(zoo["gpt"], tmp_path / "model", 2)
    weights = model / "pytorch_model-1.bin"
    whole = weights.read_bytes()
    for content, message in ((whole[:1000], "is damaged"), (b"", "is damaged"), (None, "1 of the 2 shards")):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(InputError, match=message):
            resolve(str(model))
    torch.save({"a": Evil()}, weights)
    with pytest.raises(InputError, match="or holds more than tensors"):
        resolve(str(model))
    torch.save([torch.zeros(1)], weights)
    with pytest.raises(InputError, match="is not a table of tensors"):
        resolve(str(model))
    assert "run" not in capfd.readouterr().out
    assert not list((tmp_path / "cache" / "bin").iterdir())


def test_what_changes_beside_the_weights_is_seen(zoo, tmp_path):
    model = pickled(zoo["gpt"], tmp_path / "model")
    first = resolve(str(model))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"mine": 1}))
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/tool.jinja").write_text("x")
    second = resolve(str(model))
    assert second != first and json.loads((second / "config.json").read_text())["mine"] == 1
    assert (second / "additional_chat_templates/tool.jinja").read_text() == "x"


def test_shards_without_an_index(zoo, tmp_path):
    model = pickled(zoo["gpt"], tmp_path / "model", 2)
    (model / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(InputError, match=r"has 2 files .* but no pytorch_model\.bin\.index\.json"):
        resolve(str(model))

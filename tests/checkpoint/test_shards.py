"""Safetensors as byte ranges."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokensurgeon import InputError
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.header import INDEX


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "embed": torch.randn(10, 4, generator=generator),
        "body": torch.randn(3, 3, generator=generator).bfloat16(),
        "codes": torch.arange(7, dtype=torch.uint8),
        "eight": torch.randn(4, generator=generator).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
    }


@pytest.fixture
def single(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint.open(tmp_path)


def test_read_and_rewrite(single, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    new = torch.randn(12, 4)
    single.write(out, {"embed": new, "head": new * 2})
    got = load_file(out / "model.safetensors")
    assert set(got) == {*tensors(), "head"}
    assert torch.equal(got["embed"], new) and torch.equal(got["head"], new * 2)
    again = Checkpoint.open(out)
    for name in ("body", "codes", "eight", "scalar"):
        assert again.digest(name) == single.digest(name)
        assert again.tensors[name].dtype == single.tensors[name].dtype
    assert again.metadata["model.safetensors"] == {"format": "pt"}
    assert not (out / INDEX).exists()


def test_dropped_tensors_and_dtype(single, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    single.write(out, {"embed": torch.zeros(2, 4)}, frozenset({"body"}), torch.float16)
    got = load_file(out / "model.safetensors")
    assert "body" not in got and got["embed"].dtype == torch.float16 and got["scalar"].dtype == torch.float16
    assert got["codes"].dtype == torch.uint8 and got["eight"].dtype == torch.float8_e4m3fn


def test_shards_and_index(tmp_path):
    all_tensors = tensors()
    save_file({"embed": all_tensors["embed"]}, tmp_path / "a.safetensors")
    save_file({"body": all_tensors["body"]}, tmp_path / "b.safetensors")
    index = {"metadata": {}, "weight_map": {"embed": "a.safetensors", "body": "b.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    out = tmp_path / "out"
    out.mkdir()
    Checkpoint.open(tmp_path).write(out, {"embed": torch.ones(3, 4), "head": torch.ones(3, 4)})
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for p in out.glob("*.safetensors") for t in load_file(p).values()
    )
    written = index["weight_map"]
    assert written == {"embed": "a.safetensors", "head": "a.safetensors", "body": "b.safetensors"}
    assert (out / "b.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert torch.equal(load_file(out / "a.safetensors")["head"], torch.ones(3, 4))


def test_missing_shards(copy_of):
    directory = copy_of("sharded")
    weight_map = json.loads((directory / INDEX).read_text())["weight_map"]
    home = weight_map["model.embed_tokens.weight"]
    other = next(shard for shard in weight_map.values() if shard != home)
    (directory / other).unlink()
    with pytest.raises(InputError, match=rf"1 of the \d+ shards .* missing \(first: {other}\)"):
        Checkpoint.open(directory)


@pytest.mark.parametrize("cut", [4, 60, -1])
@pytest.mark.usefixtures("single")
def test_truncated_files_are_named(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"model.safetensors is truncated"):
        Checkpoint.open(tmp_path)


def test_garbage_is_not_a_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"x" * 40)
    with pytest.raises(InputError, match="not a safetensors file"):
        Checkpoint.open(tmp_path)


def test_missing_and_pickled_weights(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"pytorch_model.bin: convert it"):
        Checkpoint.open(tmp_path)


def test_digest_changes_with_one_bit(single, tmp_path):
    before = single.digest("embed")
    changed = tensors()
    changed["embed"][0, 0] += 1
    save_file(changed, tmp_path / "model.safetensors")
    assert Checkpoint.open(tmp_path).digest("embed") != before


@pytest.mark.parametrize("how", ["refused", "halfway", "missing"])
def test_bodies_are_copied_where_the_kernel_cannot(tmp_path, monkeypatch, how):
    """Across file systems, for one; and where it gives up in the middle."""
    all_tensors = {"embed": torch.zeros(3, 4), "body": torch.randn(1000, 7), "tail": torch.randn(11)}
    save_file(all_tensors, tmp_path / "model.safetensors")
    real, calls = os.copy_file_range, []

    def copy(source, target, count, **offsets):
        calls.append(count)
        if how == "refused" or len(calls) > 1:
            raise OSError(18, "Invalid cross-device link")
        return real(source, target, count // 2, **offsets)

    if how == "missing":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", copy)
    out = tmp_path / "out"
    out.mkdir()
    Checkpoint.open(tmp_path).write(out, {"embed": torch.ones(5, 4)})
    written = load_file(out / "model.safetensors")
    assert torch.equal(written["embed"], torch.ones(5, 4)) and (calls or how == "missing")
    assert all(torch.equal(written[name], all_tensors[name]) for name in ("body", "tail"))


def test_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("tokensurgeon.checkpoint.shards._CHUNK", 64)
    rows = torch.randn(50, 3)
    places = []
    for number, last in enumerate((rows[-1, -1], rows[-1, -1], rows[-1, -1] + 1)):
        other = rows.clone()
        other[-1, -1] = last
        (tmp_path / str(number)).mkdir()
        save_file({"a": other, "b": rows[: 50 - number]}, tmp_path / str(number) / "model.safetensors")
        places.append(Checkpoint.open(tmp_path / str(number)))
    assert places[0].same(places[0], "a") and places[0].same(places[1], "a") and not places[0].same(places[2], "a")
    assert not places[0].same(places[1], "b")
    assert b"".join(bytes(piece) for piece in places[0].chunks("a")) == rows.numpy().tobytes()


def test_a_shard_that_loses_all_its_tensors(tmp_path):
    save_file({"embed": torch.zeros(3, 4)}, tmp_path / "a.safetensors")
    save_file({"head": torch.zeros(3, 4)}, tmp_path / "b.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"embed": "a.safetensors", "head": "b.safetensors"}}))
    out = tmp_path / "out"
    out.mkdir()
    Checkpoint.open(tmp_path).write(out, {"embed": torch.ones(3, 4)}, frozenset({"head"}))
    assert [path.name for path in out.glob("*.safetensors")] == ["a.safetensors"]
    assert Checkpoint.open(out).tensors.keys() == {"embed"}


@pytest.mark.parametrize("name", ["../escaped.safetensors", "sub/x.safetensors", "/tmp/x.safetensors", 3])
def test_shards_lie_beside_their_index(tmp_path, name):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"embed": name}}))
    with pytest.raises(InputError, match=r"is not the name of a file beside it|is not a valid index"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [4, 4], "data_offsets": [0, 12]}, r"has shape \[4, 4\] and bytes 0 to 12"),
        ({"shape": [3], "data_offsets": [-12, 0]}, "bytes -12 to 0"),
        ({"shape": [3], "data_offsets": ["0", "12"]}, "not a safetensors file"),
        ({"shape": [3], "data_offsets": [0, 6, 12]}, "not a safetensors file"),
        ({"shape": 3, "data_offsets": [0, 12]}, "not a safetensors file"),
    ],
)
def test_damaged_headers(tmp_path, entry, message):
    header = json.dumps({"a": {"dtype": "F32", **entry}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(InputError, match=message):
        Checkpoint.open(tmp_path)


def test_a_header_that_cannot_be_one(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"x" * 40)
    with pytest.raises(InputError, match="its header would have 1099511627776 bytes"):
        Checkpoint.open(tmp_path)

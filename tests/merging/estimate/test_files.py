"""Files of Fisher information and coefficients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tokensurgeon import InputError
from tokensurgeon.merging.estimate.files import read_tensor, write_file


def test_names_with_and_without_a_prefix(tmp_path):
    path = tmp_path / "deep" / "f.safetensors"
    write_file(
        path,
        {"model.a.weight": torch.ones(2), "b.weight": torch.zeros(3), "x.c": torch.ones(1), "y.c": torch.ones(4)},
        {},
    )
    assert len(read_tensor(str(path), "model.a.weight")) == len(read_tensor(str(path), "a.weight")) == 2
    assert len(read_tensor(str(path), "model.b.weight")) == 3
    for name in ("c", "d.weight", "el.a.weight"):  # two candidates, none, and no half of a name
        with pytest.raises(InputError, match=f"has nothing for {name}"):
            read_tensor(str(path), name)


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "f.safetensors"
    for name in ("a", "b"):
        write_file(path, {name: torch.ones(2)}, {}, overwrite=True)
        assert torch.equal(read_tensor(str(path), name), torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"]


def test_nothing_half_written(tmp_path):
    path = tmp_path / "f.safetensors"
    write_file(path, {"a": torch.ones(2)}, {})
    with pytest.raises(TypeError):
        write_file(path, {"a": torch.zeros(2)}, {"number": 3}, overwrite=True)
    with pytest.raises(InputError, match="--overwrite"):
        write_file(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(2)) and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"x")
    for name in ("there.safetensors", "none.safetensors"):
        with pytest.raises(InputError, match="cannot be read"):
            read_tensor(str(tmp_path / name), "a")


def test_without_mergekit_it_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['mergekit'] = None\nimport runpy, importlib.util as u\n"
         "u.find_spec = lambda name, find=u.find_spec: None if name == 'mergekit' else find(name)\n"
         "runpy.run_module('tokensurgeon.merging', run_name='__main__')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "tokensurgeon[merge]" in done.stderr

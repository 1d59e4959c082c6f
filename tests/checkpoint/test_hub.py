"""Downloads from a hub: what is fetched, what happens when they break off."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import processes
import pytest
import torch
from hub import COMMIT, Hub
from safetensors.torch import load_file, save_file

from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint import hub as remote

BODY = 3_000_000
SMALL_PIECES = """
import time
from types import SimpleNamespace
from huggingface_hub.utils import _http
_http.time = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})  # its retries are not waited for
from tokensurgeon.checkpoint import hub as remote
from tokensurgeon.cli.app import main
remote._PIECE = 20_000
main()
"""


def with_shards(directory, source):
    """A model's files, in two small shards with the vocabulary and body, and two large ones with body only."""
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00004.safetensors": names[: len(names) // 2]}
    shards["model-00002-of-00004.safetensors"] = names[len(names) // 2 :]
    for i in (3, 4):
        tensors[f"model.layers.9.more{i}"] = torch.zeros(BODY, dtype=torch.uint8)
        shards[f"model-0000{i}-of-00004.safetensors"] = [f"model.layers.9.more{i}"]
    directory.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    for name, of in shards.items():
        save_file({n: tensors[n] for n in of}, directory / name, metadata={"format": "pt"})
    places = {n: name for name, of in shards.items() for n in of}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return directory


@pytest.fixture
def hub(zoo, tmp_path):
    models = {name: with_shards(tmp_path / name, zoo[name]) for name in ("spm", "untied-spm")}
    found = Hub(models | {"whole": zoo["spm"]})
    yield found
    found.shutdown()


@pytest.fixture
def run(hub, zoo, tmp_path):
    """The command, with the hub there instead of the real one."""

    def call(donor, out="out", base=zoo["gpt"], **more):
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "TOKENSURGEON_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }  # fmt: skip
        environment.pop("HF_HUB_OFFLINE", None)
        arguments = more.pop("command", [str(base), donor, "--out", str(tmp_path / out), "--k", "8", "--quiet"])
        environment |= more
        return processes.run(SMALL_PIECES, *arguments, env=environment)

    return call


def sent(hub):
    return sum(n for name, n in hub.sent.items() if name.endswith(".safetensors"))


@pytest.mark.slow
@pytest.mark.usefixtures("all_read")
@pytest.mark.parametrize("name", ["spm", "untied-spm"])
def test_of_a_donor_only_the_vocabulary_is_fetched(hub, run, zoo, tmp_path, name):
    result = run(f"org/{name}")
    assert result.returncode == 0, result.stderr
    transplant(str(zoo["gpt"]), str(zoo[name]), tmp_path / "local", TransplantOptions(k=8))
    written = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "local")]
    assert written[0] == written[1]
    donor = load_file(zoo[name] / "model.safetensors")
    vocabulary = sum(donor[n].nbytes for n in ("model.embed_tokens.weight", "lm_head.weight") if n in donor)
    assert vocabulary < sent(hub) <= vocabulary + 4 * 2**16 < BODY
    manifest = json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert manifest["donor"]["commit"] == COMMIT
    hub.sent.clear()
    again = run(f"org/{name}", "again")
    assert again.returncode == 0 and sent(hub) == 0, again.stderr


@pytest.mark.slow
def test_of_a_donor_in_a_pipeline_only_the_vocabulary_is_fetched(hub, run, zoo, tmp_path):
    path = tmp_path / "p.yaml"
    moved = {"base": str(zoo["gpt"]), "donor": "org/spm", "k": 8}
    path.write_text(json.dumps({"stages": [{"name": "moved", "transplant": moved}]}))
    line = ["run", str(path), "--out", str(tmp_path / "work"), "--json"]
    first = run("", command=line)
    assert first.returncode == 0 and 0 < sent(hub) < BODY, first.stderr
    hub.sent.clear()
    run(str(zoo["gpt"]), base="org/spm")
    assert sent(hub) > 2 * BODY
    again = run("", command=line)  # the same donor, from whole files this time
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stages"][0]["kept"]


@pytest.mark.slow
def test_an_interrupted_download_goes_on(hub, run, zoo, tmp_path):
    rows = load_file(zoo["spm"] / "model.safetensors")["model.embed_tokens.weight"]
    hub.budget = 4 * 2**16 + 50_000
    broken = run("org/spm")
    assert broken.returncode == 2 and "go on where it was" in broken.stderr and "Traceback" not in broken.stderr
    assert not (tmp_path / "out").exists()
    kept = next((tmp_path / "cache").rglob(".*.partial")) / "model.safetensors"
    assert 40_000 < kept.stat().st_size < 41_000  # two pieces and the header
    hub.budget = None
    hub.sent.clear()
    result = run("org/spm")
    assert result.returncode == 0, result.stderr
    assert sent(hub) == 4 * 2**16 + rows.nbytes - 40_000
    assert list((tmp_path / "cache").rglob(".*.partial")) == []


@pytest.mark.slow
def test_a_server_without_ranges_sends_whole_files(hub, run, tmp_path):
    hub.ranges = False
    result = run("org/spm")
    assert result.returncode == 0, result.stderr
    assert sent(hub) > 2 * BODY and (tmp_path / "out/config.json").is_file()


@pytest.mark.slow
def test_a_base_is_fetched_whole(hub, run, zoo):
    result = run(str(zoo["gpt"]), base="org/whole")
    assert result.returncode == 0, result.stderr
    assert sent(hub) == (zoo["spm"] / "model.safetensors").stat().st_size


@pytest.mark.usefixtures("hub")
def test_a_damaged_shard_on_the_hub(run, tmp_path):
    path = tmp_path / "spm/model-00002-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = run("org/spm")
    assert result.returncode == 2 and "is truncated: it should have" in result.stderr
    path.write_bytes(b"\x10" + b"\0" * 7 + b"not json at all!")
    assert "is not a safetensors file" in run("org/spm").stderr


def test_a_model_that_the_hub_does_not_have(run):
    result = run("org/none")
    assert result.returncode == 2 and "org/none is neither a local path nor" in result.stderr


@pytest.mark.slow
def test_what_needs_no_body_fetches_none(hub, run, zoo, tmp_path):
    """A dry run, an adapter's model, and the base of a way back."""
    out = str(tmp_path / "out")
    dry = run("", command=["org/spm", str(zoo["gpt"]), "--out", out, "--k", "8", "--dry-run"])
    assert dry.returncode == 0 and sent(hub) < BODY, dry.stderr
    transplant(str(zoo["spm"]), str(zoo["gpt"]), out, TransplantOptions(k=8))
    hub.sent.clear()
    back = run("", command=["revert", out, "--base", "org/spm", "--out", str(tmp_path / "back"), "--quiet"])
    assert back.returncode == 0 and sent(hub) < BODY, back.stderr
    hub.models["made"] = tmp_path / "out"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 48)}, adapter / "adapter_model.safetensors")
    carried = run("", command=["adapter", str(adapter), "org/made", "--out", str(tmp_path / "carried")])
    assert carried.returncode == 0 and sent(hub) < BODY, carried.stderr


@pytest.mark.slow
def test_folders_of_templates_come_along(run, tmp_path):
    templates = tmp_path / "spm/additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("{{ 1 }}")
    result = run("org/spm")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/additional_chat_templates/tool.jinja").read_text() == "{{ 1 }}"


@pytest.mark.slow
def test_a_pickled_donor_works_offline(hub, run, zoo, tmp_path):
    model = tmp_path / "pickled"
    shutil.copytree(zoo["spm"], model, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(zoo["spm"] / "model.safetensors"), model / "pytorch_model.bin")
    hub.models["pickled"] = model
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        result = run("org/pickled", f"out{len(more)}", **more)
        assert result.returncode == 0, result.stderr


def test_a_cache_that_cannot_be_written_is_not_the_hubs_fault(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("org/spm", TOKENSURGEON_CACHE=str(tmp_path / "file/cache"))
    assert result.returncode == 2 and "cannot be kept on this machine" in result.stderr


@pytest.mark.parametrize("leftover", ["damaged", "longer", "good", "none"])
def test_leftovers_are_continued_only_where_they_fit(zoo, tmp_path, leftover):
    source = Checkpoint.open(zoo["untied-spm"])
    wanted = {name: source.tensors[name] for name in ("lm_head.weight", "model.embed_tokens.weight")}
    place = tmp_path / "model.safetensors"
    remote._fetch(Local(), wanted, tmp_path)
    whole = place.read_bytes()
    if leftover == "none":
        place.unlink()
    else:
        begun = {"damaged": whole[:20] + b"?" + whole[21:5000], "longer": whole + b"more", "good": whole[:5000]}
        place.write_bytes(begun[leftover])
    remote._fetch(Local(), wanted, tmp_path)
    assert place.read_bytes() == whole
    assert torch.equal(load_file(place)["lm_head.weight"], source.read("lm_head.weight"))


class Local:
    """Files of this machine, as a hub's file system gives them."""

    def open(self, path, mode, **_):
        return Path(path).open(mode)

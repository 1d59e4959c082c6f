"""Outputs that are directories, and outputs that are files: what is refused, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from places import MODEL, fill
from safetensors.torch import save_file
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.checkpoint.partials import LONGER
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.cli.app import app


@pytest.fixture
def place(tmp_path):
    """A folder with one of everything that may be in the way."""
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "full", *MODEL)
    fill(tmp_path / "folder.gguf")
    (tmp_path / "there.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "plain").write_text("old")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to("full")
    (tmp_path / "linked.gguf").symlink_to("there.gguf")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.gguf")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "suffix", "message"),
    [
        ("plain", None, "is a file; --x must be a directory"),
        ("pipe", None, "is no file and no directory; --x must be a directory"),
        ("dangling", None, "is a link to .*/nowhere; name that place itself"),
        ("linked", None, "is a link to .*/full; name that place itself"),
        ("linked.gguf", ".gguf", r"is a link to .*/there\.gguf; name that place itself"),
        ("full", None, "exists and is not empty; give another --x, or --overwrite"),
        ("plain/below/out", None, "plain is not a directory that you can write to"),
        ("dangling/below/out", None, "dangling is not a directory that you can write to"),
        ("m.bin", ".gguf", r"must be a file that ends in .gguf; call it m.gguf"),
        ("folder.gguf", ".gguf", "is a directory; name a file"),
        ("pipe.gguf", ".gguf", "is no file; name a file"),
        ("there.gguf", ".gguf", "exists; give another --x, or --overwrite"),
        ("plain/below/m.gguf", ".gguf", "plain is not a directory that you can write to"),
        ("a" * 256, None, f"has 256 bytes; give one of at most {255 - LONGER}"),
        ("a" * (256 - LONGER), None, f"has {256 - LONGER} bytes; give one of at most {255 - LONGER}"),
        ("é" * 120, None, "has 240 bytes"),
        ("a" * 256 + "/out", None, "has 256 bytes; give one of at most 255"),
        ("/".join(["a" * 200] * 20), None, "the path .* has 4... bytes; give one of at most"),
    ],
)
def test_places_that_are_refused(place, name, suffix, message):
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=message):
        check_target(place / name, False, suffix=suffix, option="--x")
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(not os.geteuid(), reason="root may write anywhere")
def test_a_place_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="closed is not a directory that you can write to"):
        check_target(tmp_path / "closed/out", False)


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/shm").is_mount(), reason="needs a mount in a writable place")
def test_a_mount_point():
    with pytest.raises(InputError, match="shm is where a file system is mounted; name a directory in there"):
        check_target(Path("/dev/shm"), True)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("full", None), ("empty", None), ("new", None), ("there.gguf", ".gguf"), ("a/b.gguf", ".gguf"),
        ("a" * (255 - LONGER), None),
    ],
)  # fmt: skip
def test_places_that_are_taken(place, name, suffix):
    check_target(place / name, True, suffix=suffix)
    with staged(place / name, True, suffix=suffix) as work:
        work.write_text("GGUF") if suffix else fill(work, *MODEL)
    assert (place / name).exists()


@pytest.mark.parametrize(("name", "suffix"), [("full", None), ("there.gguf", ".gguf")])
def test_an_input_is_never_replaced(place, name, suffix):
    with pytest.raises(InputError, match="would replace"):
        check_target(place / name, True, ["org/model", str(place / name)], suffix=suffix)


USUAL = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool.jinja",
    "tokensurgeon.json", "report.html", "README.md", "LICENSE", "generation_config.json", "pytorch_model.bin",
    "training_args.bin", "trainer_state.json", "mergekit_config.yml", "modeling_x.py", "preprocessor_config.json",
    ".gitattributes", ".cache/huggingface/download/config.json.metadata", "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
)  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [(*MODEL, *USUAL), ("adapter_config.json", "adapter_model.safetensors", "README.md"), ("tokensurgeon.json",)],
)
def test_what_tools_wrote_may_be_replaced(tmp_path, names):
    check_target(fill(tmp_path / "out", *names), True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("thesis.tex", "figures/"),
            "is no model (it holds figures, thesis.tex), and --overwrite replaces nothing else",
        ),
        (("config.json",), "is no model (it holds config.json)"),
        (("a", "b", "c", "d", "e"), "(it holds a, b, c and 2 more)"),
        (("model.safetensors", "notes.md"), "is no model"),
        (
            (*MODEL, "thesis.tex"),
            "holds thesis.tex beside a model, and --overwrite would delete that too; move it away",
        ),
        ((*MODEL, "tokenizer_notes.tex"), "holds tokenizer_notes.tex beside a model"),
        (("tokensurgeon.json", "data.h5", "my.model", "x.bin"), "holds data.h5, my.model, x.bin beside a model"),
        ((*MODEL, ".git/HEAD"), "holds .git beside a model"),
        ((*MODEL, "checkpoint-500/config.json"), "holds checkpoint-500 beside a model"),
        ((*MODEL, ".cache/other/x"), "holds .cache beside a model"),
        ((*MODEL, "additional_chat_templates/mine.txt"), "holds additional_chat_templates beside a model"),
    ],
)
def test_what_else_stands_there_is_named(tmp_path, names, message):
    out = fill(tmp_path / "out", *names)
    with pytest.raises(InputError) as refused:
        check_target(out, True)
    assert message in str(refused.value)
    assert len(list(out.rglob("*"))) >= len(names)


@pytest.mark.parametrize(
    "text", ["mine", "{}", "[]", '{"model_type": 3}', '{"name": "my program", "format": "x"}', "\xff"]
)
def test_names_alone_make_no_model(tmp_path, text):
    """Other programs have a config.json beside a data.bin too."""
    out = fill(tmp_path / "out", "data.bin", "model.safetensors")
    for name in ("config.json", "adapter_config.json", "tokensurgeon.json"):
        (out / name).write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="is no model"):
            check_target(out, True)
    (out / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    check_target(out, True)


def test_a_gguf_that_was_put_beside_an_output_is_named(tmp_path):
    out = fill(tmp_path / "out", *MODEL, "mine.gguf", "tokensurgeon.json")
    check_target(out, True)  # a directory with weights of several formats, and no digests of ours
    (out / "tokensurgeon.json").write_text(json.dumps({"format": 1, "sha256": {"tensors": {}, "files": {}}}))
    with pytest.raises(InputError, match=r"holds mine\.gguf beside a model"):
        check_target(out, True)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_outputs_keep_to_the_umask(tmp_path, umask, mode):
    """A file too, whatever its writer makes of it."""
    before = os.umask(umask)
    try:
        with staged(tmp_path / "out", False) as work:
            fill(work, *MODEL)
        with staged(tmp_path / "a.safetensors", False, suffix=".safetensors") as work:
            save_file({"a": torch.zeros(1)}, work)
    finally:
        os.umask(before)
    found = [(tmp_path / name).stat().st_mode & 0o777 for name in ("out", "out/config.json", "a.safetensors")]
    assert found == [mode, mode & 0o666, mode & 0o666]


@pytest.mark.parametrize(("suffix", "other"), [(".gguf", b"My thesis"), (".safetensors", b"My thesis, in full")])
def test_a_file_of_another_kind_is_not_replaced(tmp_path, suffix, other):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(other)
    with pytest.raises(InputError, match=f"is no {suffix} file, and --overwrite replaces nothing else"):
        check_target(path, True, suffix=suffix)
    path.write_bytes(b"")
    check_target(path, True, suffix=suffix)


def test_a_file_that_we_carried_may_be_replaced_while_it_is_as_it_was(tmp_path):
    """A base's files of other names go into the output, whose manifest has their digests."""
    out = fill(tmp_path / "out", *MODEL, "notes.txt")
    digest = hashlib.sha256((out / "notes.txt").read_bytes()).hexdigest()
    (out / "tokensurgeon.json").write_text(json.dumps({"format": 1, "side_files": {"notes.txt": digest}}))
    check_target(out, True)
    (out / "notes.txt").write_text("changed by hand")
    for manifest in (None, "no JSON", '{"side_files": 3}'):
        if manifest:
            (out / "tokensurgeon.json").write_text(manifest)
        with pytest.raises(InputError, match=r"holds notes\.txt"):
            check_target(out, True)


def test_the_command_line_refuses_it_before_any_work(zoo, tmp_path):
    out = fill(tmp_path / "out", *MODEL, "thesis.tex")
    done = CliRunner().invoke(app, [str(zoo["gpt"]), "org/nothing", "--out", str(out), "--overwrite"])
    assert done.exit_code == 2 and "error: " in done.stderr and "holds thesis.tex beside a model" in done.stderr


@pytest.mark.parametrize("suffix", [None, ".gguf"])
def test_an_output_is_old_or_new(tmp_path, suffix):
    """New where all goes well; old, with nothing beside it, where it does not, or where another came first."""
    out = tmp_path / "deep" / f"out{suffix or ''}"

    def write(text, overwrite):
        with staged(out, overwrite, suffix=suffix) as work:
            assert not out.exists() or read() == "first"
            (work if suffix else work / "tokensurgeon.json").write_text(
                f"GGUF {text}" if suffix else json.dumps({"format": 1, "text": text})
            )
            if text == "broken":
                raise KeyboardInterrupt

    def read():
        return out.read_text()[5:] if suffix else json.loads((out / "tokensurgeon.json").read_text())["text"]

    write("first", False)
    with pytest.raises(KeyboardInterrupt):
        write("broken", True)
    with pytest.raises(InputError, match="--overwrite"):
        write("late", False)
    assert read() == "first" and [p.name for p in out.parent.iterdir()] == [out.name]
    assert out.stat().st_mode & 0o777 == (0o644 if suffix else 0o755)
    write("second", True)
    assert read() == "second" and [p.name for p in out.parent.iterdir()] == [out.name]

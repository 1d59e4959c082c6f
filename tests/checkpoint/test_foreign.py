"""Model directories whose files lead elsewhere, or are none: what is refused, what is left aside, what is taken."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from pathlib import Path

import pytest
from places import fill
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, heal, transplant, trim
from tokensurgeon.checkpoint import TokenizerFiles, resolve
from tokensurgeon.checkpoint.cache import copy_small_files
from tokensurgeon.checkpoint.foreign import guard, strangers, taken_templates
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.cli.app import app
from tokensurgeon.healing import HealOptions

K8 = TransplantOptions(k=8)
SECRET = "ssh-ed25519 AAAA"


def secrets_in(place):
    """A file and a folder outside of any model."""
    (place / "home/tree").mkdir(parents=True)
    for name in ("id_rsa", "tree/id_rsa.jinja"):
        (place / "home" / name).write_text(SECRET)
    return place / "home"


@pytest.fixture
def secret(tmp_path):
    return secrets_in(tmp_path)


@pytest.fixture
def snapshot(zoo, tmp_path):
    """A function that lays a model out as the hub's cache does: links to blobs that are named by their content."""

    def make(name):
        repository = tmp_path / f"models--org--{name}"
        place = repository / "snapshots" / ("a" * 40)
        (repository / "blobs").mkdir(parents=True)
        place.mkdir(parents=True)
        for number, path in enumerate(sorted(zoo[name].iterdir())):
            shutil.copyfile(path, repository / "blobs" / f"{number:040x}")
            (place / path.name).symlink_to(f"../../blobs/{number:040x}")
        return place

    return make


def put(kind, path, secret):
    """Something that is no plain file, in a model's directory."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(secret / "id_rsa")
    elif kind == "relative link":
        path.symlink_to("../home/id_rsa")
    elif kind == "folder":
        path.symlink_to(secret / "tree")
    elif kind == "nothing":
        path.symlink_to("not there")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "socket":
        here = os.getcwd()  # noqa: PTH109
        os.chdir(path.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
        os.chdir(here)
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))


KINDS = {
    "link": "a link that leaves the directory, to ", "relative link": "a link that leaves the directory, to ",
    "folder": "a link that leaves the directory, to ", "nothing": "a link to nothing", "loop": "a link to nothing",
    "socket": "a socket", "FIFO": "a FIFO",
    "device": "a device",
}  # fmt: skip
DECIDING = ("config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "model.safetensors")


def made(kind, path, secret):
    if kind == "device" and os.geteuid():
        pytest.skip("only root makes devices")
    put(kind, path, secret)


class Lines(logging.Handler):
    """What is said on stderr."""

    def __init__(self):
        """Nothing is said yet."""
        super().__init__()
        self.said = ""

    def emit(self, record):
        self.said += record.getMessage() + "\n"


@pytest.fixture(scope="module")
def hostile(zoo, tmp_path_factory):
    """A base with strangers of all kinds and code, a donor with code, and what a transplant of them says."""
    place = tmp_path_factory.mktemp("hostile")
    home = secrets_in(place)
    base, donor = (Path(shutil.copytree(zoo[name], place / name)) for name in ("gpt", "spm"))
    kinds = [kind for kind in KINDS if kind != "device" or not os.geteuid()]
    put("link", base / "eval_notes.json", home)  # which nobody reads
    for number, kind in enumerate(kinds):
        put(kind, base / f"NOTES{number}.txt", home)
    (base / "LICENSE").write_text("mine")
    (base / "modeling_x.py").write_text("raise SystemExit(7)\n")
    with_code(base / "config.json", AutoModelForCausalLM="modeling_x.X", AutoTokenizer=["tokenization_x.X", None])
    for model in (base, donor):
        (model / "tokenization_x.py").write_text("raise SystemExit(7)\n")
        with_code(model / "tokenizer_config.json", AutoTokenizer=["tokenization_x.X", None])
    logging.getLogger("tokensurgeon").addHandler(lines := Lines())
    report = transplant(str(base), str(donor), place / "out", K8)
    logging.getLogger("tokensurgeon").removeHandler(lines)
    return report, lines.said, kinds


def with_code(path, **auto_map):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))


def test_what_lies_beside_a_model_is_left_aside_and_named(hostile):
    report, said, kinds = hostile
    card = (report.out / "README.md").read_text()
    assert "LICENSE" in {path.name for path in report.out.iterdir()} and not list(report.out.glob("NOTES*"))
    for number, kind in enumerate(kinds):
        line = f"NOTES{number}.txt of gpt, {KINDS[kind].removesuffix(', to ')}"
        assert line in report.content["left_aside"] and f"Left out: {line}." in card
        assert f"NOTES{number}.txt ({KINDS[kind]}" in said
    assert "eval_notes.json of gpt, a link that leaves the directory" in report.content["left_aside"]
    assert "eval_notes.json (a link that leaves" in said and not (report.out / "eval_notes.json").exists()
    assert said.count("left aside") == 1
    assert not [path for path in report.out.iterdir() if SECRET.encode() in path.read_bytes()]
    assert "home/id_rsa" not in (report.out / "tokensurgeon.json").read_text()  # it is published


def test_a_donors_code_is_not_carried(hostile):
    report, said, _ = hostile
    names = ("tokenization_x.py", "auto_map in tokenizer_config.json")
    left = [f"{name} of spm, code that its tokenizer works without" for name in names]
    assert report.content["left_aside"][-2:] == left and f"left out: {'; '.join(left)}\n" in said
    assert "tokenization_x" not in (report.out / "tokenizer_config.json").read_text()


def test_a_bases_code_is_named(hostile):
    """That of its body goes along, as it needs it; that of its tokenizer does not, which it no longer has."""
    report, said, _ = hostile
    assert [path.name for path in report.out.glob("*.py")] == report.content["code"] == ["modeling_x.py"]
    written = json.loads((report.out / "config.json").read_text())
    assert written["auto_map"] == {"AutoModelForCausalLM": "modeling_x.X"}
    assert "auto_map of AutoTokenizer" in str(report.content["removed_settings"])
    assert "Python code of gpt goes into the output, unread: modeling_x.py" in said
    assert "Python code of the base lies in here (`modeling_x.py`)" in (report.out / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DECIDING)
def test_what_a_model_depends_on_is_refused(copy_of, secret, kind, name):
    model = copy_of("gpt")
    made(kind, model / name, secret)
    with pytest.raises(InputError) as refused:
        resolve(str(model))
    said = str(refused.value)
    assert said.startswith(f"{model / name} is {KINDS[kind]}")
    assert said.endswith(
        "name the directory that it lies in" if "leaves" in said else ". Put the file itself there, or remove this"
    )


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json", "tokenizer_config.json", "adapter_config.json", "preprocessor_config.json",
        "processor_config.json", "video_preprocessor_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.json", "chat_template_tools.json", "model.safetensors.index.json", "tokensurgeon.json",
        "vocab.json", "tekken.json", "chat_template_tools.jinja",
    ],
)  # fmt: skip
def test_every_name_that_is_read_decides(tmp_path, secret, name):
    fill(tmp_path / "model", "config.json")
    put("link", tmp_path / "model" / name, secret)
    with pytest.raises(InputError, match="is a link that leaves the directory"):
        guard(tmp_path / "model", "all")


@pytest.mark.parametrize(
    "command", ["align", "transplant", "trim", "evaluate", "check", "adapter", "export", "heal", "verify"]
)
def test_a_fifo_hangs_no_command(copy_of, zoo, tmp_path, command):
    model, text = copy_of("gpt"), tmp_path / "t.txt"
    text.write_text("some text " * 500)
    os.mkfifo(model / "added_tokens.json")
    out = ["--out", str(tmp_path / "out")]
    arguments = {
        "align": [str(zoo["spm"]), str(model)], "transplant": [str(zoo["spm"]), str(model), *out],
        "trim": [str(model), "--text", str(text), *out], "evaluate": [str(model), "--text", str(text)],
        "check": [str(model), "--for", "transformers"], "adapter": [str(model), str(zoo["gpt"]), *out],
        "verify": [str(model), "--base", str(zoo["gpt"])], "export": [str(model), "--gguf", str(tmp_path / "out.gguf")],
        "heal": [str(model), "--teacher", str(zoo["gpt"]), "--text", str(text), *out],
    }  # fmt: skip
    done = CliRunner().invoke(app, [command, *arguments[command]])
    assert done.exit_code == 2 and f"error: {model / 'added_tokens.json'} is a FIFO. Put the file" in done.stderr
    assert not (tmp_path / "out").exists() and "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["folder", "entry"])
def test_chat_templates_come_from_the_donor_alone(copy_of, secret, what):
    donor = copy_of("spm")
    templates = donor / "additional_chat_templates"
    if what == "folder":
        templates.symlink_to(secret / "tree")
    else:
        templates.mkdir()
        (templates / "tool.jinja").symlink_to(secret / "id_rsa")
    with pytest.raises(
        InputError, match=r"additional_chat_templates(/tool.jinja)? is a link that leaves the directory"
    ):
        resolve(str(donor), weights="none")


def test_a_linked_folder_of_templates_brings_no_weights(copy_of, tmp_path):
    donor = copy_of("spm")
    templates = donor / "additional_chat_templates"
    for link in (templates, donor / "spiece.model"):
        link.symlink_to(".")
    with pytest.raises(InputError, match="additional_chat_templates is a link, and no folder of its own"):
        resolve(str(donor), weights="none")
    templates.unlink()
    fill(templates, "tool.jinja", "model.safetensors", "notes.txt")
    (tmp_path / "out").mkdir()
    TokenizerFiles.open(donor).write(tmp_path / "out")
    assert [path.name for path in taken_templates(donor)] == ["tool.jinja"]
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert "additional_chat_templates/tool.jinja" in found and "spiece.model" not in found
    assert not [name for name in found if name.endswith((".safetensors", "notes.txt"))]


def test_weights_that_are_not_read_may_lie_anywhere(copy_of, secret):
    model = copy_of("gpt")
    for name in ("pytorch_model.bin", "flax_model.msgpack", "extra.gguf"):
        (model / name).symlink_to(secret / "id_rsa")
    assert resolve(str(model)) == model
    put("link", model / "model.safetensors", secret)
    assert resolve(str(model), weights="none") == model
    with pytest.raises(InputError, match=r"model\.safetensors is a link that leaves the directory"):
        resolve(str(model), weights="vocabulary")
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a link that leaves the directory"):
        resolve(str(model))


def test_links_within_a_directory_and_to_it_are_followed(copy_of, tmp_path):
    donor = copy_of("spm")
    (donor / "real").mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (donor / name).rename(donor / "real" / name)
        (donor / name).symlink_to(f"real/{name}")
    (tmp_path / "link").symlink_to(donor)
    model = OpenModel.open(str(tmp_path / "link"))
    assert len(model.vocabulary) and model.layout.rows and strangers(tmp_path / "link") == []


def test_a_snapshot_of_the_hubs_cache_is_followed_into_its_blobs_and_no_further(snapshot, tmp_path):
    base, donor = snapshot("gpt"), snapshot("spm")
    report = transplant(str(base), str(donor), tmp_path / "out", K8)
    assert all(check.ok for check in report.checks) and report.content["left_aside"] == []
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tool.jinja").symlink_to(f"../../../blobs/{0:040x}")
    copy_small_files(base, tmp_path / "out", ())
    assert (tmp_path / "out/additional_chat_templates/tool.jinja").is_file() and len(taken_templates(base)) == 1
    (base / "LICENSE").symlink_to(donor / "config.json")  # another model's blob
    (base / "NOTES").symlink_to("../../refs")
    assert [path.name for path, *_ in strangers(base)] == ["LICENSE", "NOTES"]
    (base.parent.parent / "blobs").rename(tmp_path / "elsewhere")
    (base.parent.parent / "blobs").symlink_to(tmp_path / "elsewhere")
    assert len(strangers(base)) == len(list(base.iterdir()))


def test_a_name_alone_makes_no_snapshot(tmp_path):
    place = tmp_path / "snapshots" / "x"
    place.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/b").write_text("weights")
    (place / "NOTES.txt").symlink_to(tmp_path / "blobs/b")
    assert len(strangers(place)) == 1


def test_the_cache_takes_files_and_templates_only(tmp_path, secret):
    """What is converted is copied there with what lies beside it."""
    model, out = tmp_path / "model", tmp_path / "out"
    for place in (model / "additional_chat_templates", model / "onnx", out):
        place.mkdir(parents=True)
    for name in ("config.json", "additional_chat_templates/tool.jinja", "onnx/big.onnx", ".hidden"):
        (model / name).write_text("{}")
    (model / "NOTES.txt").symlink_to(secret / "id_rsa")
    (model / "tree").symlink_to(secret / "tree")
    (model / "additional_chat_templates/other.jinja").symlink_to(secret / "id_rsa")
    copy_small_files(model, out, ("*.bin",))
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    assert found == ["additional_chat_templates", "additional_chat_templates/tool.jinja", "config.json"]


def test_a_directory_that_cannot_be_listed(tmp_path):
    if not os.geteuid():
        pytest.skip("root may read anything")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed cannot be read"):
        resolve(str(tmp_path / "closed"))


@pytest.mark.slow
def test_healing_quotes_no_card_that_lies_elsewhere(zoo, tmp_path, secret):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", K8)
    put("link", tmp_path / "out/README.md", secret)
    (tmp_path / "t.txt").write_text("a text that has some words\n" * 200)
    options = HealOptions(text=(str(tmp_path / "t.txt"),), steps=1)
    heal(str(tmp_path / "out"), str(zoo["gpt"]), tmp_path / "healed", options)
    assert SECRET not in (tmp_path / "healed/README.md").read_text()


@pytest.fixture
def coded(copy_of):
    """A model whose tokenizer has code of its own, which it works without."""
    model = copy_of("gpt")
    (model / "tokenization_x.py").write_text("raise SystemExit(7)\n")
    with_code(model / "tokenizer_config.json", AutoTokenizer=["tokenization_x.X", None])
    return model


def test_code_in_another_repository_is_not_named(zoo, copy_of, tmp_path):
    donor = copy_of("spm")
    with_code(donor / "tokenizer_config.json", AutoTokenizer=["other/repository--tokenization_x.X", None])
    TokenizerFiles.open(donor).write(tmp_path)
    assert (tmp_path / "tokenizer_config.json").read_bytes() != (donor / "tokenizer_config.json").read_bytes()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == json.loads(
        (zoo["spm"] / "tokenizer_config.json").read_text()
    )


def test_a_trimmed_tokenizer_names_no_code_that_is_not_there(coded, tmp_path):
    (tmp_path / "t.txt").write_text("some text")
    report = trim(str(coded), [tmp_path / "t.txt"], tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert "auto_map in tokenizer_config.json of copy-of-gpt, trimmed" in str(report.content["left_aside"])


def test_a_models_own_tokenizer_keeps_its_code(coded, tmp_path):
    from tokensurgeon.surgery.resize import resize

    model = coded
    report = resize(str(model), tmp_path / "out", rows=768)
    for name in ("tokenization_x.py", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert report.content["code"] == ["tokenization_x.py"] and report.content["left_aside"] == []
    assert {path.name for path in other_files(model)} >= {"tokenization_x.py"}

"""Names and tokens that steer a terminal, reorder a line or are markup: shown as what they are, wherever we write."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from typing import ClassVar

import processes
import pytest
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file
from tiny import CHATML, byte_level, fast, llama, save
from tokenizers import AddedToken
from typer.testing import CliRunner

from tokensurgeon.checkpoint.text import read_json, write_json
from tokensurgeon.cli.app import app
from tokensurgeon.cli.common import emit_json

STEERS = "\x1b[31m\x9b\x07\x7f\u202e\u2066\u200b\u200f\ufeff\u2028\u2029\U000e0041\ue000"
TURNS = "\x1b]0;x\x07\x1b[31m\u202e"
MARKUP = "[red][link=x]|`<script>`<b>![a](b)"
NAME = f"m{STEERS}{MARKUP}\n---\n# heading"
SPECIAL, PLAIN = f"<|{STEERS}[red]`<script>\n\n|>", f"{STEERS}[bold]`<i>\n# x"


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


class Tags(HTMLParser):
    """Collects the names of elements."""

    found: ClassVar[set[str]] = set()

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.found.add(tag)


def refuse_raw(text):
    """Nothing that is not seen, but for the ends of lines."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)


def refuse_markup(card, page):
    """The front matter is ours, a name adds no line and no tag."""
    lines = card.split("\n")
    assert lines[0] == "---" and lines.count("---") == 2 and "# heading" not in lines
    tags = Tags()
    tags.found.clear()
    tags.feed(
        MarkdownIt("commonmark", {"html": True}).enable("table").render("\n".join(lines[lines.index("---", 1) + 1 :]))
    )
    assert (
        {"h1", "code", "p"}
        <= tags.found
        <= {"h1", "h2", "p", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    )
    tags.found.clear()
    tags.feed(page)
    assert not tags.found & {"script", "i", "img", "a"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A model in two shards, whose names, tokens and directory are hostile, and which works."""
    root = tmp_path_factory.mktemp("hostile")
    tokenizer = fast(
        byte_level(700, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", SPECIAL)), eos_token="<|im_end|>"
    )
    tokenizer.add_tokens([AddedToken(PLAIN, special=False, normalized=False)])
    tokenizer.chat_template = "{{ raise_error }}{% " + STEERS + " %}"
    made = save(root / NAME, llama(len(tokenizer), seed=8), tokenizer, max_shard_size="60KB")
    index = read_json(made / "model.safetensors.index.json")
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 1
    new = {name: f"{name[:-12]}{STEERS}[red]\n.safetensors" for name in shards}
    for name in shards:
        (made / name).rename(made / new[name])
    index["weight_map"] = {tensor: new[name] for tensor, name in index["weight_map"].items()}
    write_json(made / "model.safetensors.index.json", index)
    return made


@pytest.mark.slow
def test_no_command_prints_or_writes_what_steers(hostile, zoo, tmp_path):
    text = tmp_path / f"t{STEERS}[red].txt"
    text.write_text("The value of the object is 42. " * 20 + SPECIAL + PLAIN)
    tokens = tmp_path / "tokens"
    tokens.write_text(" objectively\n")
    out = {name: tmp_path / f"{name}{NAME}" for name in ("transplant", "other", "trim", "extend", "revert", "resize")}
    commands = {
        "align": ("align", zoo["spm"], hostile, "--text", text),
        "transplant": (zoo["spm"], hostile, "--k", 8, "--text", text, "--out", out["transplant"]),
        "other": (hostile, zoo["gpt"], "--k", 8, "--out", out["other"]),
        "verify": ("verify", out["other"], "--base", hostile, "--donor", zoo["gpt"]),
        "evaluate": ("evaluate", hostile, "--text", text, "--max-bytes", 300),
        "trim": ("trim", hostile, "--text", text, "--out", out["trim"]),
        "extend": ("extend", hostile, "--tokens", tokens, "--special", f"{SPECIAL}2=the", "--out", out["extend"]),
        "revert": ("revert", out["extend"], "--base", hostile, "--out", out["revert"]),
        "resize": ("resize", hostile, "--rows", 800, "--out", out["resize"]),
        "check": ("check", hostile, "--for", "transformers"),
    }
    for name, command in commands.items():
        done = run(*command)
        assert done.exit_code in (0, 1 if name == "check" else 0), done.output
        refuse_raw(done.stdout)
        refuse_raw(done.stderr)
        assert name in ("verify", "check", "revert") or "[red]" in done.stdout.replace("\n", ""), name
        if name in out:
            card = (out[name] / "README.md").read_text()
            page = (out[name] / "report.html").read_text() if name != "revert" else ""
            refuse_raw(card)
            refuse_raw(page)
            refuse_markup(card, page)


def test_stderr_of_a_process_has_warnings_and_progress_in_plain_lines(hostile, zoo, tmp_path):
    done = processes.run(processes.MAIN, zoo["spm"], hostile, "--k", 8, "--out", tmp_path / "out")
    assert done.returncode == 0 and "the chat template cannot be used (TemplateSyntaxError" in done.stderr
    refuse_raw(done.stderr)
    refuse_raw(done.stdout)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("models", [True, False])
def test_what_libraries_say_is_one_plain_line_each(models):
    code = (
        "import logging, warnings\n"
        "from tokensurgeon.cli.common import guarded\n"
        f"with guarded(debug=False, quiet=False, models={models}):\n"
        "    import transformers, huggingface_hub.utils\n"
        "    for name in ('transformers.x', 'huggingface_hub.x', 'x'):\n"
        f"        logging.getLogger(name).error(name + {NAME!r})\n"
        f"    warnings.warn({NAME!r})\n"
    )
    done = processes.run(code)
    said = {line.removeprefix("[transformers] ") for line in done.stderr.splitlines()}  # where CI is set, twice
    assert done.returncode == 0 and len(said) == 4
    refuse_raw(done.stderr)
    assert all("\\u202e" in line for line in done.stderr.splitlines())


@pytest.mark.parametrize("what", ["model_type", "tensor", "index"])
def test_a_message_is_one_line_that_says_what_it_holds(zoo, tmp_path, what):
    base = tmp_path / "base"
    shutil.copytree(zoo["gpt"], base)
    if what == "model_type":
        config = read_json(base / "config.json")
        write_json(base / "config.json", config | {"model_type": NAME + "x" * 100_000, "architectures": [NAME]})
    elif what == "tensor":
        tensors = load_file(base / "model.safetensors")
        extra = tensors["model.norm.weight"].clone()
        save_file(tensors | {f"model.{TURNS}.weight": extra}, base / "model.safetensors", {"format": "pt"})
    else:
        (base / "model.safetensors").unlink()
        write_json(base / "model.safetensors.index.json", {"weight_map": {"model.embed_tokens.weight": NAME}})
    done = run(base, zoo["spm"], "--k", 8, "--out", tmp_path / "out")
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    refuse_raw(line)
    assert "\\x1b" in line and "\\u202e" in line and len(line) < 5000
    refuse_raw(done.stdout)


def test_json_holds_the_text_and_shows_escapes(capsys):
    content = {NAME: [SPECIAL, "é \U0001f468\u200d\U0001f469"]}
    emit_json(content)
    shown = capsys.readouterr().out
    refuse_raw(shown)
    assert json.loads(shown) == content and "é" in shown


def test_an_honest_template_gives_no_warning(zoo):
    assert (zoo["gpt"] / "chat_template.jinja").read_text() == CHATML
    done = processes.run(processes.MAIN, "align", zoo["spm"], zoo["gpt"])
    assert done.returncode == 0 and not done.stderr

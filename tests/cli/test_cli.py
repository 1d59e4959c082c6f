"""The command line: defaults, output channels, exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tokensurgeon.baselines import names_needing
from tokensurgeon.cli.app import app
from tokensurgeon.cli.common import emit_json
from tokensurgeon.cli.options import BY_DONOR, WITHOUT_DONOR
from tokensurgeon.cli.tables import print_comparison, short_names

runner = CliRunner(env={"COLUMNS": "200"})  # no line breaks inside paths


def run(*args):
    return runner.invoke(app, [str(a) for a in args])


def test_no_command_means_transplant(zoo, tmp_path):
    result = run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--k", 8)
    assert result.exit_code == 0, result.output
    assert "is ready" in result.stdout and (tmp_path / "out" / "config.json").is_file()


def test_options_may_come_first(zoo, tmp_path):
    dry = run("--k", 8, zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--dry-run")
    assert dry.exit_code == 0 and "Expected loss, predicted" in dry.stdout and "nothing was written" in dry.stdout


def test_the_default_output_is_named_after_both(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("transplant", zoo["gpt"], zoo["spm"], "--k", 8, "--quiet").exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["gpt-with-spm-tokenizer"]


def test_json_is_one_object_and_nothing_else(zoo, tmp_path):
    result = run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--k", 8, "--json", "--memory", "1GiB")
    content = json.loads(result.stdout)
    assert content["counts"]["copied"] > 100 and content["out"] == str(tmp_path / "out")
    assert content["options"]["memory"] == "1GiB"
    dry = json.loads(run(zoo["gpt"], zoo["spm"], "--dry-run", "--json").stdout)
    assert dry["out"] is None and dry["counts"] == content["counts"] and dry["prediction"]["loss"] > 0
    for more in (["--no-score"], ["--method", "zero"]):
        assert "prediction" not in json.loads(run(zoo["gpt"], zoo["spm"], "--dry-run", "--json", *more).stdout)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_json_is_json_in_every_encoding(monkeypatch, encoding):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        emit_json({"token": "<｜end▁of▁sentence｜> 🙂"})
        stream.flush()
        assert json.loads(raw.getvalue().decode(encoding)) == {"token": "<｜end▁of▁sentence｜> 🙂"}


def test_quiet_prints_nothing(zoo, tmp_path):
    result = run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--k", 8, "--quiet")
    assert result.exit_code == 0 and result.output == ""


def test_options_on_the_line_win_over_the_recipe(zoo, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('k = 4\nseed = 3\n[map]\n"<unused1>" = "repository"\n')
    result = run(
        zoo["gpt"],
        zoo["spm"],
        "--config",
        recipe,
        "--k",
        5,
        "--map",
        "<unused2>=value of",
        "--json",
        "--out",
        tmp_path / "o",
    )
    options = json.loads(result.stdout)["options"]
    assert (options["k"], options["seed"]) == (5, 3)
    assert options["map"] == {"<unused1>": "repository", "<unused2>": "value of"}
    assert json.loads(result.stdout)["counts"]["override"] == 2


def test_align_needs_tokenizers_only(copy_of):
    base, donor = copy_of("gpt"), copy_of("spm")
    for directory in (base, donor):
        (directory / "model.safetensors").unlink()
        (directory / "config.json").unlink()
    text = base / "t.txt"
    text.write_text("The value of the object is 42.")
    content = json.loads(run("align", base, donor, "--json", "--text", text).stdout)
    assert set(content["counts"]) == {"copied", "role", "override", "reconstructed", "unreachable", "padding"}
    assert 0 < content["coverage"]["t.txt"]["anchor_share"] <= 1
    assert any("<bos>" in example for example in content["examples"]["role"])
    shown = run("align", base, donor, "--map", "<unused1>=the repository").stdout
    assert "override" in shown and "anchors" in shown


def test_align_warns_where_numbers_are_cut_differently(tmp_path):
    from tiny import byte_level, fast
    from tokenizers import pre_tokenizers

    digits = "".join(f"{i} " for i in range(3000))
    fast(byte_level(1500, text=digits)).save_pretrained(tmp_path / "merged")
    single = byte_level(1500, text=digits)
    single.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), single.pre_tokenizer])
    fast(single).save_pretrained(tmp_path / "single")
    shown = " ".join(run("align", tmp_path / "merged", tmp_path / "single").stdout.split())
    assert "cut numbers differently (the main cause of lost arithmetic)" in shown


def test_evaluate_and_verify(zoo, tmp_path):
    assert run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--k", 8, "-q").exit_code == 0
    text = tmp_path / "t.txt"
    text.write_text("The value of the object is 42. " * 20)
    result = run("evaluate", tmp_path / "out", "--against", zoo["gpt"], "--text", text, "--max-bytes", 300, "--json")
    content = json.loads(result.stdout)
    assert list(content) == [str(tmp_path / "out"), str(zoo["gpt"])]
    assert all(v["texts"]["t.txt"]["bytes"] <= 300 for v in content.values())
    assert "bits per byte" in run("evaluate", tmp_path / "out", "--text", text).stdout
    checks = json.loads(run("verify", tmp_path / "out", "--base", zoo["gpt"], "--donor", zoo["spm"], "--json").stdout)
    assert len(checks) >= 12 and all(c["ok"] for c in checks.values())
    wrong = run("verify", tmp_path / "out", "--base", zoo["untied"])
    assert wrong.exit_code == 2 and "FAIL" in wrong.stdout and "checks failed" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["/no/such/base", "{spm}"], "/no/such/base does not exist"),
        (["{gpt}", "{spm}", "--k", "99999"], "k=99999 exceeds the"),
        (["{gpt}", "{spm}", "--k", "0"], "k=0 must be"),
        (["{gpt}", "{spm}", "--dtype", "int4"], "dtype='int4' must be one of"),
        (["{gpt}", "{spm}", "--map", "nonsense"], "must look like"),
        (["{gpt}", "{spm}", "--map", "<none>=x"], "donor has no such token"),
        (["{gpt}", "{spm}", "--device", "nonsense"], "cannot be used"),
        (["{gpt}", "{spm}", "--config", "/no/such.toml"], "does not exist"),
        (["evaluate", "{gpt}", "--text", "/no/such.txt"], "cannot be read"),
        (["verify", "{gpt}", "--base", "{gpt}"], "no tokensurgeon.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(zoo, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = run(*(a.format(**zoo) for a in args))
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(zoo):
    result = run(zoo["gpt"], "/no/such", "--debug")
    assert result.exit_code == 1 and "does not exist" in str(result.exception)


def test_a_full_disk_is_one_line(zoo, tmp_path, monkeypatch):
    from tokensurgeon.checkpoint import Checkpoint

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "write", full)
    result = run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out", "--k", 8)
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c(zoo, tmp_path, monkeypatch):
    import tokensurgeon.surgery.new_rows as new_rows

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(new_rows, "build_rows", stop)
    result = run(zoo["gpt"], zoo["spm"], "--out", tmp_path / "out")
    assert result.exit_code == 130 and "nothing was written" in result.stderr and list(tmp_path.iterdir()) == []


def test_help_and_version_do_not_load_torch():
    code = "\n".join(
        [
            "import sys",
            "from tokensurgeon.cli import main",
            "sys.argv = ['tokensurgeon', {!r}]",
            "try:",
            "    main()",
            "except SystemExit:",
            "    assert not {{'torch', 'transformers'}} & set(sys.modules)",
        ]
    )
    for flag in ("--help", "--version"):
        result = subprocess.run([sys.executable, "-c", code.format(flag)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    module = [sys.executable, "-m", "tokensurgeon", "--help"]
    assert "transplant" in subprocess.run(module, capture_output=True, text=True, check=True).stdout


def test_two_tokenizers_are_compared_without_what_loads_models(zoo):
    """It takes a second to import."""
    code = (
        "import sys\n"
        "from tokensurgeon.cli import main\n"
        f"sys.argv = ['tokensurgeon', 'align', {str(zoo['gpt'])!r}, {str(zoo['spm'])!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_short_where_tables_are_narrow():
    of_bytes = dict.fromkeys(("split", "joined", "mixed", "new"), 0.123)
    one = {"bytes": 29300, "text": "a text", "base_tokens": 7101, "tokens": 7418, "shared": 0.987, "of_bytes": of_bytes}
    one |= {"loss": 0.165, "interval": 0.05, "cut_differently": ["newlines", "numbers"]}
    donors = [f"/a/long/path/to/a/folder/of/many/models/{name}/model" for name in ("first", "second")]
    with (console := Console(width=80, file=io.StringIO())).capture() as printed:
        print_comparison(console, "base", [one | {"donor": donor} for donor in donors])
    lines = printed.get().splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("first/model", "second/model"):
        assert [line.split() for line in lines if line.startswith(f" {name} ")] == [
            [name, "7,418", "98.7%", *["12.3%"] * 4, "0.165", "±0.050"]
        ]
        assert f"{name} cuts differently: newlines, numbers" in lines
    assert short_names(["a/b", "a/b", "b"]) == ["a/b", "a/b", "b"]
    assert short_names(["org/name", "/", "x.gguf"]) == ["name", "/", "x.gguf"]


def test_methods_and_their_options(zoo, tmp_path):
    out = ("--out", tmp_path / "out", "--json")
    done = run(zoo["gpt"], zoo["spm"], "--method", "subtoken", "--method-option", "head=first", *out)
    assert json.loads(done.stdout)["method"] == {"name": "subtoken", "input": "mean", "head": "first"}
    for arguments, message in (
        (("--method", "ridge", "--k", 4), "method ridge takes no k; it takes penalty"),
        (("--method", "ridge", "--exact"), "method ridge takes no exact"),
        (("--method", "magic"), "unknown method 'magic'; known are omp"),
        (("--method-option", "head"), "must look like NAME=VALUE"),
    ):
        failed = run(zoo["gpt"], zoo["spm"], *arguments, "--out", tmp_path / "other")
        assert failed.exit_code == 2 and message in " ".join(failed.output.split())
    assert not (tmp_path / "other").exists()


def test_the_help_names_every_method():
    from tokensurgeon.baselines import METHODS

    text = " ".join(run("transplant", "--help").output.replace("│", " ").split())
    assert all(name in text for name in METHODS)


def test_a_log_file_gets_a_plain_line_with_stage_done_total_and_time_left(monkeypatch, capsys):
    import time

    from tokensurgeon.cli import common
    from tokensurgeon.progress import Stage

    monkeypatch.setattr(common, "LINE_EVERY_S", 0.05)
    with common.progress_bar(False) as tell:
        tell(Stage.TRIALS, 1, 4)
        time.sleep(0.2)
        tell(Stage.HEAL, 3, 100, "loss 2.1")
        time.sleep(0.2)
        tell(Stage.VERIFY, 0, 1)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Trying methods: 1 of 4, \d+ s left", lines[0])
    assert any(re.fullmatch(r"Healing \(per cent\): 3 of 100, \d+ s left, loss 2.1", line) for line in lines)
    assert lines[-1] == "Writing and verifying: 0 of 1"
    with common.progress_bar(True) as tell:
        tell(Stage.TRIALS, 1, 4)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_a_bar_says_of_a_model_neither_steers_the_screen_nor_is_markup(monkeypatch, capsys):
    from tokensurgeon.cli import common
    from tokensurgeon.progress import Stage

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    name = "[red]\x1b]0;x\x07\u202e\x9b\n"
    with common.progress_bar(False) as tell:
        tell(Stage.SCORE.of(name), 1, 2, f"[link=x]{name}")
    drawn = capsys.readouterr().err
    assert "\x1b[" in drawn  # rich draws in colour
    left = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", drawn)
    assert left.isprintable() and "Scoring [red]\\x1b]0;x\\x07\\u202e\\x9b\\n" in left and "[link=x]" in left


def test_every_stage_that_is_told_is_one_that_people_can_read():
    """Raw keys such as "trials" on the bar: whoever tells a stage takes it from `Stage`."""
    import ast

    import tokensurgeon

    told = []
    for path in Path(tokensurgeon.__file__).parent.rglob("*.py"):
        if path.parent.name == "solver":  # which knows (done, total) alone
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "progress":
                told.append((path.name, node.args[0]))
    assert len(told) > 8
    assert not [(name, ast.unparse(first)) for name, first in told if isinstance(first, ast.Constant | ast.JoinedStr)]


def test_the_help_names_the_methods_of_the_registry():
    def names(text):
        return set(text.replace(" or ", ", ").split(", "))

    assert names(BY_DONOR) == names(names_needing("donor"))
    assert names(WITHOUT_DONOR) == names(names_needing("nothing", "text"))

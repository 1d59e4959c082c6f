"""Pipelines: what they give, what they go on from, where they stop, what they refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tokensurgeon.cli.app import app
from tokensurgeon.cli.stages import STAGES
from tokensurgeon.pipelines import read_pipeline
from tokensurgeon.pipelines.gates import Gate

runner = CliRunner(env={"COLUMNS": "200"})
PARTS = [
    {"name": "more", "extend": {"model": "$model", "tokens": "$tokens"}},
    {"name": "less", "trim": {"model": "$more", "text": "$text"}},
    {
        "name": "kept",
        "evaluate": {"model": "$less", "against": "$model", "text": ["$text"], "max-bytes": 500},
        "gates": [{"loses_at_most": 9}, {"loses_at_most": 9, "text": "t.txt"}],
    },
    {
        "name": "mixed",
        "merge": {
            "recipe": {
                "merge_method": "linear",
                "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("$more", "$model")],
            }
        },
    },
    {"name": "file", "export": {"model": "$more", "dtype": "f32"}},
]
INPUTS = {"model": None, "text": None, "tokens": None}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENSURGEON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(*args):
    return runner.invoke(app, [str(a) for a in args])


def write(directory, stages, inputs=INPUTS):
    path = directory / "p.yaml"
    path.write_text(yaml.safe_dump({"inputs": inputs, "stages": stages}, sort_keys=False))
    return path


def files_in(directory, zoo):
    """The inputs, as the command line has them."""
    (directory / "t.txt").write_text("The value of the object is 42. Functions return values.\n" * 20)
    (directory / "tokens.txt").write_text("Functions\n Functions\n")
    values = {"model": zoo["gpt"], "text": directory / "t.txt", "tokens": directory / "tokens.txt"}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    """A directory with everything, its output in ``out``, and the inputs."""
    root = tmp_path_factory.mktemp("pipeline")
    given = files_in(root, zoo)
    result = run("run", write(root, PARTS), "--out", root / "out", *given)
    assert result.exit_code == 0, result.output
    assert "gate: t.txt" in result.stdout and "stage 4 of 5, mixed: merge" in result.stderr
    return root, given


@pytest.fixture
def again(made, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(made[0], tmp_path / "copy")
    given = [word.replace(str(made[0]), str(tmp_path / "copy")) for word in made[1]]
    return tmp_path / "copy", given


def kept(result):
    assert result.exit_code == 0, result.output
    return {stage["name"]: stage["kept"] for stage in json.loads(result.stdout)["stages"]}


def test_a_stage_gives_what_the_command_gives(made, zoo, tmp_path):
    root, out = made[0], made[0] / "out"
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (out / "more", zoo["gpt"])]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    for name, line in {
        "more": ("extend", zoo["gpt"], "--tokens", root / "tokens.txt", "--out"),
        "less": ("trim", out / "more", "--text", root / "t.txt", "--out"),
        "mixed": ("merge", recipe, "--out"),
        "file.gguf": ("export", out / "more", "--dtype", "f32", "--gguf"),
    }.items():
        single, stage = tmp_path / name, out / name
        assert run(*line, single, "-q").exit_code == 0
        same = ("model.safetensors", "tokenizer.json", "config.json") if stage.is_dir() else ("",)
        assert [part for part in same if (single / part).read_bytes() != (stage / part).read_bytes()] == [], name
    line = ("evaluate", out / "less", "--against", zoo["gpt"], "--text", root / "t.txt", "--max-bytes", 500, "--json")
    assert run(*line).stdout == (out / "kept.json").read_text()


def test_what_is_there_is_not_made_again(made):
    assert set(kept(run("run", made[0] / "p.yaml", "--out", made[0] / "out", "--json", *made[1])).values()) == {True}


def test_what_changed_and_what_depends_on_it_is_made_again_where_one_says_so(again):
    root, given = again
    line = ("run", root / "p.yaml", "--out", root / "out", "--json", *given)
    (root / "t.txt").write_text("The value of the object is 43. Functions return values.\n" * 20)
    refused = run(*line)
    assert refused.exit_code == 2 and f"{root / 'out/less'} was made of other inputs" in refused.stderr
    found = kept(run(*line, "--overwrite"))
    assert found == {"more": True, "less": False, "kept": False, "mixed": True, "file": True}
    options = [*PARTS[:4], {"name": "file", "export": {"model": "$more", "dtype": "f16"}}]
    write(root, options)
    assert run(*line).exit_code == 2 and kept(run(*line, "--overwrite"))["file"] is False


def test_an_output_that_was_changed_since_is_not_what_was_made(again):
    root, given = again
    (root / "out/more/config.json").write_text((root / "out/more/config.json").read_text() + "\n")
    refused = run("run", root / "p.yaml", "--out", root / "out", *given)
    assert refused.exit_code == 2 and "changed since" in refused.stderr


def test_another_version_makes_everything_again(again, monkeypatch):
    from tokensurgeon.pipelines import record

    root, given = again
    monkeypatch.setattr(record, "own_digest", lambda: "another")
    assert run("run", root / "p.yaml", "--out", root / "out", *given).exit_code == 2


def test_an_output_that_a_killed_run_did_not_note_is_kept(again):
    root, given = again
    record = root / "out/pipeline.json"
    content = json.loads(record.read_text())
    content["stages"]["less"] = {"key": content["stages"]["less"]["key"], "before": None}
    record.write_text(json.dumps(content))
    line = ("run", root / "p.yaml", "--out", root / "out", "--json", *given)
    assert kept(run(*line))["less"] is True
    content["stages"]["less"]["key"] = "of something else"
    record.write_text(json.dumps(content))
    assert run(*line).exit_code == 2


def test_a_run_that_was_interrupted_goes_on(zoo, tmp_path, monkeypatch):
    given = files_in(tmp_path, zoo)
    line = ("run", write(tmp_path, PARTS[:2]), "--out", tmp_path / "out", "--json", *given)

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        import tokensurgeon.surgery.trim

        patch.setattr(tokensurgeon.surgery.trim, "trim", stop)
        stopped = run(*line)
    assert stopped.exit_code == 130 and "stage less" in stopped.stderr and not (tmp_path / "out/less").exists()
    assert kept(run(*line)) == {"more": True, "less": False}


def test_a_gate_stops_what_comes_after(zoo, tmp_path):
    given = files_in(tmp_path, zoo)
    gated = {**PARTS[2], "gates": [{"gains_at_least": 5}]}
    result = run("run", write(tmp_path, [*PARTS[:2], gated, PARTS[4]]), "--out", tmp_path / "out", *given)
    assert result.exit_code == 2 and "it must gain at least 5. No later stage was run" in " ".join(
        result.stderr.split()
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["kept.json", "less", "more", "pipeline.json"]


def test_gates_are_bounds_on_a_difference():
    def scores(*bits):
        texts = {f"t{n}": {"bits_per_byte": b} for n, b in enumerate(bits)}
        return {"mean_bits_per_byte": sum(bits) / len(bits), "texts": texts}

    worse, start = scores(1.25, 2.0), scores(1.0, 3.0)
    assert Gate("loses_at_most", 0.25, "t0").judged(worse, start)[0]
    assert not Gate("loses_at_most", 0.24, "t0").judged(worse, start)[0]
    assert Gate("gains_at_least", 0.375).judged(worse, start) == (
        True,
        "the mean of all text gains 0.3750 bits per byte; it must gain at least 0.375",
    )
    assert not Gate("gains_at_least", 0.4).judged(worse, start)[0]
    with pytest.raises(ValueError, match="no text is called t9"):
        Gate("gains_at_least", 0.4, "t9").judged(worse, start)


def test_a_gate_judges_the_text_that_it_names_where_two_have_one_name(zoo, tmp_path):
    texts = [tmp_path / "a/test.txt", tmp_path / "b/test.txt"]
    for text, line in zip(texts, ("Functions return values.\n", "zq0 xj9 wv8\n"), strict=True):
        text.parent.mkdir()
        text.write_text(line * 40)
    gates = [{"loses_at_most": 9, "text": str(text)} for text in texts]
    stages = [{"name": "e", "evaluate": {"model": "$model", "against": "$model", "text": "$texts"}, "gates": gates}]
    inputs = {"model": str(zoo["gpt"]), "texts": [str(text) for text in texts]}
    path = write(tmp_path, stages, inputs)
    result = run("run", path, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["stages"][0]["gates"]
    assert [gate.split()[0] for gate in said] == ["test.txt", str(texts[1])]
    shutil.copytree(tmp_path / "b", tmp_path / "moved")
    gates[1]["text"] = inputs["texts"][1] = str(tmp_path / "moved/test.txt")
    refused = run("run", write(tmp_path, stages, inputs), "--out", tmp_path / "out")  # its figures name b/test.txt
    assert refused.exit_code == 2 and "was made of other inputs" in refused.stderr
    for text, message in (("test.txt", "is the name of"), ("general.txt", "reads no text general.txt")):
        gates[0]["text"] = text
        refused = run("run", write(tmp_path, stages, inputs), "--out", tmp_path / "other")
        assert refused.exit_code == 2 and message in refused.stderr and len(refused.stderr.splitlines()) == 1
        assert not (tmp_path / "other").exists()


def only(name, command, **options):
    return [{"name": name, command: options}]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (only("a", "polish", model="$model"), "stage 1 has an unknown key 'polish'; known are name, gates, transplant"),
        ([{"name": "a"}], "must have one command, of transplant"),
        (only("a", "trim", model="$model", text="$text", colour="red"), "trim has no option 'colour'"),
        (only("a", "trim", model="$model"), "stage a: Missing option '--text'"),
        (only("a", "trim", model="$model", text="$text", size="many"), "Invalid value for '--size'"),
        (only("a", "trim", model="$model", text="$text", out="x"), "--out is for the pipeline to give"),
        (only("a", "trim", model="$model", text="$text", overwrite=True), "--overwrite is for the pipeline"),
        (only("a", "trim", model=["$model", "x"], text="$text"), "trim: model: ['"),
        (only("a", "trim", model="$model", text="$text", size=[1, 2]), "trim: size takes one value, and has 2"),
        (only("a", "transplant", base="$model", donor="$model", untie="yes"), "untie: 'yes' must be true or false"),
        (only("a", "trim", model="$b", text="$text"), "$b is neither input nor stage"),
        (only("a", "trim", model="$a", text="$text"), "$a is made by this stage or a later one"),
        (
            only("a", "trim", model="$b", text="$text") + only("b", "trim", model="$model", text="$text"),
            "stage a: $b is made by this stage or a later one",
        ),
        (only("a", "trim", model="$model", text="$text") * 2, "another input or stage has this name"),
        (only("../a", "trim", model="$model", text="$text"), "needs a name of letters"),
        (only("pipeline", "evaluate", model="$model"), "pipeline is the name of the record pipeline.json"),
        (only("a", "trim", model="$model", text="/no/such.txt"), "/no/such.txt is no file"),
        (only("a", "trim", model="/no/such", text="$text"), "/no/such does not exist"),
        (only("a", "heal", model="$model", teacher="$model", rows="some"), "rows='some' must be new or all"),
        (only("a", "transplant", base="$model", donor="$model", method="magic"), "unknown method 'magic'"),
        (only("a", "extend", model="$model", text="$text"), "say what to add"),
        (only("a", "merge", recipe={"merge_method": "magic", "models": []}), "stage a: "),
        (only("a", "merge", recipe="/no/such.yaml"), "/no/such.yaml cannot be read"),
        (
            only("a", "merge", recipe={"merge_method": "linear", "models": [{"model": "/no/such"}]}),
            "/no/such does not exist",
        ),
        ([{**PARTS[0], "gates": [{"loses_at_most": 1}]}], "gates are for evaluate with against"),
        ([{**PARTS[2], "gates": [{"loses_at_most": "much"}]}], "'much' must be a number of bits per byte"),
        ([{**PARTS[2], "gates": [{"loses": 1}]}], "a gate is loses_at_most or gains_at_least"),
        ([], "has no stages"),
    ],
)
def test_bad_pipelines_are_one_line_before_any_work(zoo, tmp_path, stages, message):
    given = files_in(tmp_path, zoo)
    before = sorted(tmp_path.rglob("*"))
    path = write(tmp_path, PARTS[:1] * (stages != [] and stages[0].get("name") == "kept") + stages)
    if stages and stages[0].get("name") == "kept":
        path.write_text(path.read_text().replace("$less", "$more"))
    result = run("run", path, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: pipeline ") and message in line
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("stages: [", (), "is not valid YAML"),
        ("- 1", (), "must be a table with inputs and stages"),
        ("steps: []", (), "unknown key 'steps'"),
        ("inputs: {model: }\nstages: []", (), "needs model: --set model=VALUE"),
        ("inputs: {model: }\nstages: []", ("--set", "other=1"), "has no input other; it has model"),
        ("stages: []", ("--set", "other"), "must look like NAME=VALUE"),
        (None, (), "cannot be read"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, given, message):
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_text(text)
    result = run("run", path, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_only_what_is_plainly_a_number_or_a_truth_value_is_one():
    from tokensurgeon.cli.run import _values

    plain = {"12": 12, "-0.5": -0.5, "0": 0, "true": True, "false": False}
    text = ("007", "1_000", "inf", "nan", "1e3", ".5", "5.", "\u0661", "True", "12 ", "a=b")
    found = _values([f"{value}={value}" for value in plain] + [f"x{n}={value}" for n, value in enumerate(text)])
    assert found == plain | {f"x{n}": value for n, value in enumerate(text)}
    assert {name: type(found[name]) for name in plain} == {name: type(value) for name, value in plain.items()}


def test_a_flag_can_be_an_input(zoo, tmp_path):
    stages = only("a", "transplant", base="$model", donor="$model", untie="$untie") + only("b", "trim", model="$a")
    path = write(tmp_path, stages, {"model": str(zoo["gpt"]), "untie": None})
    for value, message in (("true", "stage b: Missing option '--text'"), ("yes", "untie: 'yes' must be true or false")):
        assert message in run("run", path, "--out", tmp_path / "out", "--set", f"untie={value}").stderr


def test_several_processes_do_not_each_run_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("run", write(tmp_path, PARTS), "--out", tmp_path / "out")
    assert result.exit_code == 2 and "runs in one process" in result.stderr


def test_a_foreign_file_is_not_replaced(zoo, tmp_path):
    given = files_in(tmp_path, zoo)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept.json").write_text("mine")
    stages = [{"name": "kept", "evaluate": {"model": "$model", "text": "$text"}}]
    result = run("run", write(tmp_path, stages), "--out", tmp_path / "out", *given)
    assert result.exit_code == 2 and "kept.json exists" in result.stderr
    result = run("run", tmp_path / "p.yaml", "--out", tmp_path / "out", *given, "--overwrite")
    assert result.exit_code == 2 and "kept.json is no file of scores" in result.stderr
    assert (tmp_path / "out/kept.json").read_text() == "mine"


def test_stages_know_which_parameters_are_models():
    group = typer.main.get_command(app)
    for name, kind in STAGES.items():
        parameters = {p.name: p for p in group.commands[name].params}
        found = {
            n for n, p in parameters.items() if p.metavar in ("BASE", "DONOR", "MODEL", "OTHER", "STUDENT", "TEACHER")
        }
        assert found == set(kind.models), name
        assert kind.out is None or any(kind.out in p.opts for p in parameters.values())


def test_of_a_model_that_only_gives_its_tokenizer_the_vocabulary_is_read(zoo):
    from tokensurgeon.cli.stages import StageCommand

    group = typer.main.get_command(app)
    base, donor = str(zoo["gpt"]), str(zoo["spm"])
    recipe = {"merge_method": "linear", "models": [{"model": base, "parameters": {"weight": 1}}]}
    for name, options, expected in (
        ("transplant", {"base": base, "donor": donor}, [(base, "all"), (donor, "vocabulary")]),
        ("extend", {"model": base, "tokens": "t.txt", "donor": donor}, [(base, "all"), (donor, "vocabulary")]),
        ("heal", {"model": base, "teacher": donor}, [(base, "all"), (donor, "all")]),
        ("distil", {"student": base, "teacher": donor, "text": "t", "cache": "c"}, [(base, "all"), (donor, "all")]),
        (
            "merge",
            {"recipe": recipe | {"tokensurgeon": {"tokenizer": donor}}},
            [(base, "all"), (donor, "vocabulary")],
        ),
        ("merge", {"recipe": recipe | {"tokensurgeon": {"tokenizer": base}}}, [(base, "all")]),
    ):
        assert StageCommand(name, group.commands[name]).takes(options)[0] == expected, name


def test_a_recipe_s_texts_may_lie_at_home(zoo, tmp_path, monkeypatch):
    from tokensurgeon.pipelines.recipe import named_in_recipe

    monkeypatch.setenv("HOME", str(tmp_path))
    base = str(zoo["gpt"])
    recipe = {
        "merge_method": "linear",
        "models": [{"model": base, "parameters": {"weight": 1}}],
        "tokensurgeon": {"tokenizer": str(zoo["spm"]), "text": ["~/some.txt"]},
    }
    assert named_in_recipe(recipe, search=False)[1] == [tmp_path / "some.txt"]


def test_aliases_in_a_recipe_stay_one_number(tmp_path):
    from tokensurgeon.merging.search.numbers import numbers_of
    from tokensurgeon.pipelines.read import with_values

    path = tmp_path / "p.yaml"
    path.write_text(
        "inputs: {model: x}\nstages:\n- name: a\n  merge:\n    search: true\n    recipe:\n      merge_method: linear\n"
        "      models:\n      - {model: $model, parameters: {weight: &w {search: [0, 1]}}}\n"
        "      - {model: y, parameters: {weight: *w}}\n"
    )
    (stage,) = read_pipeline(str(path), {}, list(STAGES)).stages
    recipe = with_values(stage.options, {"model": "x"})["recipe"]
    assert len(numbers_of(recipe)) == 1 and recipe["models"][0]["model"] == "x"


def texts_in(directory):
    """A text of each kind, to train and to measure on."""
    from pydoc_data.topics import topics

    prose = "\n".join(topics.values())
    for number, name in enumerate(("domain", "general", "domain-test", "general-test")):
        begin = 24_000 * number
        (directory / f"{name}.txt").write_text(prose[begin : begin + (4000 if "test" in name else 24_000)])


LITTLE = {"domain": ("add=20", "lora=2", "minutes=0.03", "may-lose=1"), "long-to-short": ("may-lose=9",)}
LITTLE |= {"balanced": ("lora=2", "minutes=0.03"), "fusechat": ("lora=2", "minutes=0.03", "may-lose=9")}
LITTLE |= {"distil": ("lora=2", "minutes=0.03", "may-lose=9")}


def line_of(recipe, zoo, directory):
    text = {name: directory / f"{name}.txt" for name in ("domain", "general", "domain-test", "general-test")}
    model = {"model": zoo["gpt"]}
    given = {
        "domain": model | text,
        "long-to-short": {"long": zoo["gpt"], "short": zoo["twin"]},
        "balanced": {"base": zoo["gpt"], "first": zoo["gpt"], "second": zoo["twin"]},
        "fusechat": {"pivot": zoo["gpt"], "first": zoo["other"], "second": zoo["twin"]},
        "distil": {"student": zoo["gpt"], "teacher": zoo["other"]},
    }[recipe]
    given |= {"long-to-short": {"reasoning": text["domain-test"], "answers": text["general-test"]}}.get(recipe, {})
    kinds = {"first": "domain", "second": "general"}
    texts = {f"{name}-text": text[of] for name, of in kinds.items()}
    texts |= {f"{name}-test": text[f"{of}-test"] for name, of in kinds.items()}
    given |= {"balanced": texts}.get(recipe, {})
    both = {"text": text["domain"], "test": text["domain-test"]}
    given |= {"fusechat": both, "distil": both}.get(recipe, {})
    values = [*(f"{name}={value}" for name, value in given.items()), *LITTLE[recipe]]
    return ("run", recipe, *(word for value in values for word in ("--set", value)))


@pytest.fixture(scope="module")
def kin(zoo, tmp_path_factory):
    """The zoo with models of one shape: another of the same tokenizer, and one with a tokenizer of its own."""
    from tiny import CHATML, byte_level, fast, llama, save

    root = tmp_path_factory.mktemp("kin")
    tokenizer = fast(byte_level(600, specials=("<|im_start|>", "<|im_end|>")), eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    save(root / "other", llama(len(tokenizer), seed=8), tokenizer)
    shutil.copytree(zoo["gpt"], root / "twin")
    return zoo | {name: root / name for name in ("other", "twin")}


def test_a_merge_is_made_again_where_a_file_that_its_method_reads_has_changed(kin, tmp_path):
    import torch
    from safetensors.torch import load_file

    from tokensurgeon.merging.estimate.files import write_file

    tensors = load_file(kin["gpt"] / "model.safetensors")
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    for file in files:
        write_file(file, {name: torch.ones_like(tensor) for name, tensor in tensors.items()}, {})
    first, second = (
        {"model": str(kin[name]), "parameters": {"weight": 1, "fisher": value}}
        for name, value in (("gpt", str(files[0])), ("twin", [{"value": str(files[1])}]))
    )
    path = write(tmp_path, only("a", "merge", recipe={"merge_method": "fisher", "models": [first, second]}), {})
    line = ("run", path, "--out", tmp_path / "out", "--json")
    assert kept(run(*line)) == {"a": False} and kept(run(*line)) == {"a": True}
    write_file(files[1], {name: torch.full_like(tensor, 3) for name, tensor in tensors.items()}, {}, overwrite=True)
    changed = run(*line)
    assert changed.exit_code == 2 and "was made of other inputs" in changed.stderr
    assert kept(run(*line, "--overwrite")) == {"a": False}
    files[1].unlink()
    missing = run(*line)
    assert missing.exit_code == 2 and f"stage a: {files[1]} is no file" in missing.stderr


@pytest.mark.parametrize("recipe", list(LITTLE))
def test_a_recipe_that_comes_with_this_can_be_planned(kin, tmp_path, recipe):
    """All is checked but for what models have in them; no work is done."""
    from tokensurgeon.cli.stages import StageCommand
    from tokensurgeon.pipelines.run import _planned

    texts_in(tmp_path)
    group = typer.main.get_command(app)
    commands = {name: StageCommand(name, group.commands[name]) for name in STAGES}
    given = dict(word.split("=", 1) for word in line_of(recipe, kin, tmp_path)[3::2])
    given |= {name: float(value) for name, value in given.items() if value.replace(".", "").isdigit()}
    given |= {name: int(given[name]) for name in ("lora", "add") if name in given}
    assert _planned(read_pipeline(recipe, given, list(STAGES)), tmp_path / "out", commands)
    assert not (tmp_path / "out").exists()


def test_the_help_names_the_recipes_that_come_with_this():
    from tokensurgeon.pipelines.read import shipped

    text = " ".join(run("run", "--help").output.replace("│", " ").split())
    assert set(shipped()) == set(LITTLE)
    assert all(name in text for name in shipped())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(LITTLE))
def test_a_recipe_that_comes_with_this_runs(kin, tmp_path, recipe):
    texts_in(tmp_path)
    line = (*line_of(recipe, kin, tmp_path), "--out", tmp_path / "out", "--json")
    assert set(kept(run(*line)).values()) == {False} and set(kept(run(*line)).values()) == {True}

"""Searching for a recipe's numbers: where they stand, known answers, what is written, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import llama, save
from typer.testing import CliRunner

from tokensurgeon import InputError, SearchOptions, merge, search_recipe
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.merging.mergekit import require_mergekit
from tokensurgeon.merging.prepare import prepare
from tokensurgeon.merging.recipe import parse_recipe, read_recipe
from tokensurgeon.merging.search import run
from tokensurgeon.merging.search.evolve import evolve
from tokensurgeon.merging.search.journal import Journal
from tokensurgeon.merging.search.numbers import Number, filled_in, numbers_of
from tokensurgeon.merging.search.objective import cost_of, interval
from tokensurgeon.merging.search.trial import Trials

ASKED = {"search": [0.0, 1.0], "start": 0.5}


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory, gpt, spm):
    """A model, one to either side of it along one direction, and others: of another tokenizer, and noise."""
    root = tmp_path_factory.mktemp("search")
    t = load_file(zoo["gpt"] / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    d = {name: 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in t.items()}
    made = {"t": zoo["gpt"], "s": save(root / "s", llama(len(spm) + 22, seed=9), spm)}
    for name, step in (("a", 1.0), ("b", -2.0)):
        made[name] = save(root / name, llama(len(gpt), seed=1), gpt)
        moved = {key: tensor + step * d[key] for key, tensor in t.items()}
        save_file(moved, made[name] / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from tokensurgeon.evaluation.texts import python_text

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(python_text(1 << 14))
    return path


def linear(*names, **more):
    listed = [{"model": f"<{name}>", "parameters": {"weight": {**ASKED, "search": [0.0, 1.0]}}} for name in names]
    return {"merge_method": "linear", "models": listed, "tokensurgeon": {"k": 8}, **more}


def test_numbers_are_found_wherever_they_stand_and_filled_in():
    source = {
        "models": [{"parameters": {"weight": [dict(ASKED), 0.3, {"search": [-1, 3]}]}}],
        "parameters": {"t": {"value": {"search": [0, 2], "start": 2}, "filter": "mlp"}, "normalize": False},
    }
    numbers = numbers_of(source)
    assert [one.name for one in numbers] == [
        "models.0.parameters.weight.0", "models.0.parameters.weight.2", "parameters.t.value"
    ]  # fmt: skip
    assert [one.start for one in numbers] == [0.5, 1.0, 2.0]
    found = filled_in(source, numbers, [0.1, 0.2, 0.4])
    assert found["models"][0]["parameters"]["weight"] == [0.1, 0.3, 0.2]
    assert found["parameters"]["t"] == {"value": 0.4, "filter": "mlp"} and numbers_of(found) == []
    assert source["models"][0]["parameters"]["weight"][0] == ASKED


@pytest.mark.parametrize(
    "text",
    [
        "models: [{parameters: &p {weight: {search: [0, 1]}}}, {parameters: *p}]",
        "models: [{parameters: {weight: &w {search: [0, 1]}}}, {parameters: {weight: *w}}]",
    ],
)
def test_a_yaml_alias_is_the_same_number_again(text):
    source = yaml.safe_load(text)
    (number,) = numbers_of(source)
    found = filled_in(source, [number], [0.2])
    assert [of["parameters"]["weight"] for of in found["models"]] == [0.2, 0.2] and numbers_of(found) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ({"search": [1, 0]}, r"weight: search=\[1, 0\] must be two numbers, the smaller first"),
        ({"search": 3}, "must be two numbers"),
        ({"search": [0, math.nan]}, "must be two numbers"),
        ({"search": [0, 1], "start": 2}, "weight: start=2 must lie within 0 and 1"),
        ({"search": [0, 1], "begin": 0}, "weight has an unknown key 'begin'"),
    ],
)
def test_numbers_without_proper_bounds(number, message):
    with pytest.raises(InputError, match=message):
        numbers_of({"models": [{"parameters": {"weight": number}}]})


def test_the_least_cost_is_found_and_the_start_is_tried_first():
    numbers = [Number((name,), -1.0, 3.0, 1.0) for name in "abcd"]
    seen = []

    def cost(values):
        seen.append(values)
        return sum((value - want) ** 2 for value, want in zip(values, (0.0, 2.5, -0.5, 1.0), strict=True))

    def costs(asked):
        return map(cost, asked)

    best = evolve(numbers, costs, 300, seed=1)
    assert best.values == pytest.approx((0.0, 2.5, -0.5, 1.0), abs=0.01) and seen[0] == (1.0, 1.0, 1.0, 1.0)
    assert evolve(numbers, costs, 1).evaluations == 1
    first, seen[:] = seen[:40], []
    evolve(numbers, costs, 40, seed=1)
    assert seen == first  # as a search that goes on needs it


def test_two_models_on_either_side_of_a_third_are_weighed_so_that_it_comes_out(models, write_recipe, tmp_path):
    """A = T + d and B = T - 2d: two thirds and one third, by the merges that mergekit makes in memory."""
    require_mergekit()
    path = write_recipe(linear("a", "b", parameters={"normalize": False}))
    source = yaml.safe_load(path.read_text())
    numbers, wanted = numbers_of(source), load_file(models["t"] / "model.safetensors")

    def by(values):
        return parse_recipe(filled_in(source, numbers, values), "", path)

    ready = prepare(by([0.5, 0.5]), tmp_path / "out", False, [], None)
    trials = Trials(ready, tmp_path, 0)

    def cost(values):
        found = trials.tensors(by(values))
        assert found.keys() == wanted.keys()
        return float(sum((found[name] - wanted[name]).square().sum() for name in wanted))

    best = evolve(numbers, lambda asked: map(cost, asked), 90)
    assert best.values == pytest.approx((2 / 3, 1 / 3), abs=0.02)


def test_objectives_by_hand():
    merged, models = {"a": 1.1, "b": 3.0}, [{"a": 1.0, "b": 4.0}, {"a": 2.0, "b": 2.0}]
    assert cost_of("mean", merged, models) == pytest.approx(2.05)
    assert cost_of("regret", merged, models) == pytest.approx((0.1 + 0.5) / 2)
    assert cost_of("worst", merged, models) == pytest.approx(0.5)
    assert cost_of("regret", {"a": 0.5}, [{"a": 0.0}]) == pytest.approx(500)  # a model that is certain of all items
    with pytest.raises(InputError, match="--objective 'best' must be one of regret, mean, worst"):
        SearchOptions(objective="best")


def test_an_interval_holds_its_figure_and_pairs_pieces():
    scores = {"a": [[float(i % 7 + 1), 2.0] for i in range(40)]}
    worse = {"a": [[nats + 1, n_bytes] for nats, n_bytes in scores["a"]]}
    one = interval(lambda bits: bits["a"], scores)
    assert one["interval"][0] < one["value"] < one["interval"][1]
    both = interval(lambda mine, theirs: theirs["a"] - mine["a"], scores, worse)
    assert both["interval"] == pytest.approx([both["value"]] * 2)  # the difference is the same everywhere


@pytest.fixture(scope="module")
def searched(models, text, tmp_path_factory):
    """A search over models of two tokenizers, by the command line."""
    root = tmp_path_factory.mktemp("searched")
    listed = linear("t", "s")
    written = yaml.safe_dump(listed, sort_keys=False)
    for name, place in models.items():
        written = written.replace(f"<{name}>", str(place))
    (root / "recipe.yaml").write_text(written)
    arguments = ["merge", str(root / "recipe.yaml"), "--out", str(root / "out"), "--search", "--text", str(text)]
    done = CliRunner().invoke(app, [*arguments, "--evaluations", "5", "--bytes", "16384"])
    assert done.exit_code == 0, done.stderr
    return root, done


def test_what_a_search_writes(searched, tmp_path):
    root, done = searched
    assert sorted(path.name for path in root.iterdir()) == ["out", "out.yaml", "recipe.yaml"]
    told = Manifest.read(root / "out").content["merge"]
    found = [one["found"] for one in told["search"]["numbers"]]
    recipe = yaml.safe_load((root / "out.yaml").read_text())
    assert [of["parameters"]["weight"] for of in recipe["models"]] == found
    assert told["recipe"] == (root / "out.yaml").read_text() and told["search"]["evaluations"] == 5
    assert told["search"]["searched"]["found"] <= told["search"]["searched"]["start"]
    low, high = told["search"]["held_out"]["gain"]["interval"]
    assert low <= told["search"]["held_out"]["gain"]["value"] <= high
    assert "A search of 5 merges on text.txt found" in " ".join(done.stdout.split())
    assert "A search of 5 merges" in (root / "out/README.md").read_text()
    page = (root / "out/report.html").read_text()
    assert page.count("<circle") == len(told["search"]["tried"]) == 5 and "&lt;circle" not in page
    merge(root / "out.yaml", tmp_path / "again")
    one, two = (load_file(place / "model.safetensors") for place in (root / "out", tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_tried_in_memory_is_what_is_written(searched, tmp_path):
    """Rows that not all models know included: the two have different tokenizers."""
    root, _ = searched
    read = read_recipe(root / "out.yaml")
    trials = Trials(prepare(read, tmp_path / "out", False, [], None), tmp_path, 0)
    written, tried = load_file(root / "out/model.safetensors"), trials.tensors(read)
    assert written.keys() == tried.keys() and all(torch.equal(written[name], tried[name]) for name in written)
    loaded = trials.model(read)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], written[name]) for name in written)
    held = Manifest.read(root / "out").content["merge"]["search"]["held_out"]["bits_per_byte"]
    assert len(held) == 4 and all(of["text.txt"] > 0 for of in held.values())


@pytest.mark.slow
def test_what_was_interrupted_goes_on(text, write_recipe, tmp_path, monkeypatch, caplog):
    path = write_recipe(linear("a", "b"))
    options = SearchOptions((str(text),), evaluations=6, n_bytes=16384)
    real, tried = run.score_pieces, []

    def counted(loaded, pieces):
        if len(tried) == stop:
            raise KeyboardInterrupt
        tried.append(pieces)
        return real(loaded, pieces)

    monkeypatch.setattr(run, "score_pieces", counted)
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        search_recipe(path, tmp_path / "out", options)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.yaml").exists()
    (journal,) = (tmp_path / ".out.searching").iterdir()
    journal.write_text(journal.read_text() + '["searched [0.1')  # a line that a kill cut short
    stop = -1
    search_recipe(path, tmp_path / "out", options)
    assert "going on with 6 measurements" in caplog.text  # two single models, four merges
    assert len(tried) == 6 + 2 and not (tmp_path / ".out.searching").exists()  # and two on the other half
    monkeypatch.undo()
    search_recipe(path, tmp_path / "whole", options)
    told = [Manifest.read(tmp_path / name).content["merge"]["search"] for name in ("out", "whole")]
    assert told[0] == told[1]


def test_a_journal_is_of_one_search(tmp_path):
    Journal(tmp_path / "out", "k").remembered("x", lambda: [1.5])
    assert Journal(tmp_path / "out", "k").remembered("x", lambda: pytest.fail("measured again")) == [1.5]
    assert Journal(tmp_path / "out", "other").remembered("x", lambda: 2) == 2


def test_bad_searches_are_refused_before_any_work(text, write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "score_model", lambda *_: pytest.fail("worked"))
    path, options = write_recipe(linear("a", "b")), SearchOptions((str(text),))
    with pytest.raises(InputError, match=r"models\.0\.parameters\.weight is a number to search for\. Give --search"):
        merge(path, tmp_path / "out")
    (tmp_path / "out.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"out\.yaml exists"):
        search_recipe(path, tmp_path / "out", options)
    (tmp_path / "out.yaml").unlink()
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(InputError, match=r"text short\.txt has 1 pieces .* Give more text"):
        search_recipe(path, tmp_path / "out", SearchOptions((str(tmp_path / "short.txt"),)))
    content = {"merge_method": "pcb", "base_model": "<t>", "models": [{"model": "<a>"}, {"model": "<b>"}]}
    wide = write_recipe(content | {"parameters": {"density": {"search": [0.1, 2], "start": 0.5}}})
    with pytest.raises(InputError, match="density is 2"):
        search_recipe(wide, tmp_path / "out", options)
    plain = write_recipe(content)
    with pytest.raises(InputError, match="has no number to search for"):
        search_recipe(plain, tmp_path / "out", options)
    place = write_recipe(content | {"tokensurgeon": {"k": {"search": [1, 2]}}})
    with pytest.raises(InputError, match=r"tokensurgeon\.k cannot be searched for"):
        search_recipe(place, tmp_path / "out", options)
    done = CliRunner().invoke(app, ["merge", str(plain), "--out", str(tmp_path / "out"), "--text", str(text)])
    assert done.exit_code == 2 and "Give --search" in done.stderr
    monkeypatch.setattr(run, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["merge", str(path), "--out", str(tmp_path / "out"), "--search", "--json"])
    assert done.exit_code == 2 and "needs cmaes: pip install 'tokensurgeon[merge]'" in done.stderr
    assert not [place for place in tmp_path.iterdir() if place.name.startswith((".out", "out"))]


@pytest.mark.slow
def test_workers_find_what_one_process_finds(text, write_recipe, tmp_path):
    path = write_recipe(linear("a", "b"))
    found = {}
    for workers in (1, 2):
        options = SearchOptions((str(text),), evaluations=9, n_bytes=16384, workers=workers)
        report = search_recipe(path, tmp_path / str(workers), options)
        found[workers] = report.content["merge"]["search"]
    for search in found.values():
        assert search["tried"][0] == search["searched"]["start"] and len(search["tried"]) == 9
    assert found[2]["tried"] == pytest.approx(found[1]["tried"], rel=1e-5)  # sums by other numbers of threads
    assert not list(tmp_path.glob(".*searching"))


@pytest.mark.slow
def test_a_model_of_noise_gets_no_weight(models, write_recipe, tmp_path, gpt):
    """Evolved sparse, sign-aware merging (TIES): the model that was sought, and one of noise, on a base to be left."""
    require_mergekit()
    wanted, generator = load_file(models["t"] / "model.safetensors"), torch.Generator().manual_seed(5)
    sides = {}
    for name, step, noise in (("base", -1.0, 0.0), ("noise", -1.0, 0.02)):
        sides[name] = save(tmp_path / name, llama(len(gpt), seed=1), gpt)
        far = load_file(models["a"] / "model.safetensors")  # T + d
        moved = {
            key: tensor + step * (far[key] - tensor) + noise * torch.randn(tensor.shape, generator=generator)
            for key, tensor in wanted.items()
        }
        save_file(moved, sides[name] / "model.safetensors", metadata={"format": "pt"})
    listed = [
        {"model": str(place), "parameters": {"weight": {"search": [0.0, 1.5], "start": 0.5}, "density": 0.5}}
        for place in (models["t"], sides["noise"])
    ]
    source = {"merge_method": "ties", "base_model": str(sides["base"]), "models": listed}
    source |= {"parameters": {"normalize": False}, "tokensurgeon": {"k": 8}}
    path = write_recipe(source)
    numbers = numbers_of(source)

    def by(values):
        return parse_recipe(filled_in(source, numbers, values), "", path)

    trials = Trials(prepare(by([0.5, 0.5]), tmp_path / "out", False, [], None), tmp_path, 0)

    def costs(asked):
        for values in asked:
            found = trials.tensors(by(values))
            yield float(sum((found[name] - wanted[name]).square().sum() for name in wanted))

    best = evolve(numbers, costs, 80)
    assert best.values[1] < 0.1 and best.values[0] > 0.7


def test_items_are_searched_by_and_the_right_answer_counts(models, tmp_path):
    from tokensurgeon.evaluation.loading import load_model
    from tokensurgeon.merging.search.items import Item, read_items, score_item

    path = tmp_path / "items.jsonl"
    path.write_text('{"context": "The value is", "choices": [" one", " two", " many"], "answer": 1}\n\n' * 2)
    items = read_items(path)
    assert len(items) == 2 and items[0] == Item("The value is", (" one", " two", " many"), 1)
    loaded = load_model(models["t"])
    nats = [score_item(loaded, Item("The value is", items[0].choices, answer)) for answer in range(3)]
    assert sum(math.exp(-one) for one in nats) == pytest.approx(1) and len(set(nats)) == 3
    certain = load_model(models["t"])
    with torch.no_grad():
        certain.model.get_output_embeddings().weight.mul_(1e4)
    assert min(score_item(certain, Item("The value", items[0].choices, answer)) for answer in range(3)) >= 0
    for line, message in (
        ("\n\ntext", "line 3 is no item"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "at least two texts"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "answer=2 must be from 0 to 1"),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            read_items(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


def test_a_search_by_items_alone(write_recipe, tmp_path):
    path, items = write_recipe(linear("a", "b")), tmp_path / "items.jsonl"
    items.write_text('{"context": "The value is", "choices": [" one", " two"], "answer": 1}\n' * 4)
    options = SearchOptions(items=(str(items),), evaluations=2)
    search = search_recipe(path, tmp_path / "out", options).content["merge"]["search"]
    assert search["texts"] == {"items.jsonl": 2} and set(search["held_out"]["bits_per_byte"]["found"]) == {
        "items.jsonl"
    }
    items.write_text('{"context": "The value is", "choices": [" one", " two"], "answer": 1}\n' * 3)
    with pytest.raises(InputError, match="has 3 items, and each half needs 2"):
        search_recipe(path, tmp_path / "other", options)

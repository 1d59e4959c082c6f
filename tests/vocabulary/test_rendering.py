"""Chat templates are foreign programs: whatever they do, they end soon, and the command goes on without them."""

from __future__ import annotations

import json
import os
import re
import time

import processes
import pytest
from tiny import CHATML, byte_level

from tokensurgeon.vocabulary import rendering
from tokensurgeon.vocabulary.rendering import LONGEST_RENDERED, render
from tokensurgeon.vocabulary.roles import find_roles

SAID = (("user", "alpha"), ("assistant", "bravo"), ("user", "charlie"))
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
WIDE = "{{ ('a'|center(10**9))|length }}"
TIME, MEMORY, LENGTH = "processor time", "too much memory", "more than 65,536 characters"
ATTACKS = {
    FOREVER: TIME,
    DOUBLED: MEMORY + "|" + TIME,  # where the system is slow to give memory, time is over first
    "{{ ('%1000000000d' % 1)|length }}": MEMORY,
    WIDE: MEMORY,
    "{{ ('a-' * 10**7)|wordwrap(1)|length }}": TIME,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}": "RecursionError",
    "{% for i in range(99999) %}{{ i }}{% endfor %}": LENGTH,
    "x" * (LONGEST_RENDERED + 1): "more than 262,144 characters",
}
FURTHER = {
    "{{ lipsum(n=10**6) }}": TIME,
    "{{ ('a' * 10**9)|length }}": MEMORY,
    "{{ '{:>1000000000}'.format(1)|length }}": MEMORY,
    "{{ ('\n' * 10**7)|indent(10**3)|length }}": MEMORY + "|" + TIME,
    "{% set n = 9**9 %}{{ 9**n }}": TIME,
    "{{ ('a@b.c ' * 10**6)|urlize|length }}": TIME,
    "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}": TIME,
    "{{ " + "+".join(["1"] * 100_000) + " }}": "RecursionError|processor time",
    "{{ '\n' * 99999 }}": LENGTH,
}


@pytest.fixture
def hurried(monkeypatch):
    """A tenth of a second instead of a whole one and a quarter of the memory, in a process of its own."""
    monkeypatch.setattr(rendering, "_SECONDS", 0.1)
    monkeypatch.setattr(rendering, "_MEMORY", 2**27)
    rendering._process.end()
    yield
    rendering._process.end()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "template",
    [*ATTACKS, *(pytest.param(template, marks=pytest.mark.slow) for template in FURTHER)],
    ids=lambda template: template[:40],
)
def test_a_template_that_uses_up_the_machine_is_stopped(template, monkeypatch):
    problem = (ATTACKS | FURTHER)[template]
    if TIME not in problem:  # on a busy machine a tenth of a second may be over before the memory is
        monkeypatch.setattr(rendering, "_SECONDS", 1.0)
    found = render(template, SAID)
    assert found.text is None and found.stopped and re.search(problem, found.problem)
    assert "alpha" in render(CHATML + f"{{# after {len(template)} #}}", SAID).text


@pytest.mark.usefixtures("hurried")
def test_an_attack_on_the_system_turn_alone_is_one_too():
    tokenizer = byte_level(500, specials=("<|im_start|>", "<|im_end|>"))
    template = "{% if messages[0].role == 'system' %}" + FOREVER + "{% endif %}" + CHATML
    assert TIME in find_roles(tokenizer, {}, template).template_problem
    assert not find_roles(tokenizer, {}, CHATML).template_problem


def test_a_refusal_is_no_problem_and_a_mistake_is_one():
    assert render("{{ raise_exception('roles must alternate') }}", SAID) == rendering.Rendering(None)
    assert "TemplateSyntaxError" in render("{% for %}", SAID).problem
    assert "SecurityError" in render("{{ ''.__class__.__mro__ }}", SAID).problem
    assert "UnicodeEncodeError" in render("{{ bos_token }}", SAID, (("bos_token", "\ud800"),)).problem
    tokenizer = byte_level(500, specials=("<|im_start|>", "<|im_end|>"))
    no_system = "{% if messages[0].role == 'system' %}{{ nothing.there }}{% endif %}" + CHATML
    assert not find_roles(tokenizer, {}, no_system).template_problem
    assert find_roles(tokenizer, {}, ["no text"]).template_problem == "it is no text"


def test_a_template_is_given_what_transformers_gives_it():
    template = "{% if tools is not none or documents is not none %}{{ tools|tojson }}{% endif %}" + CHATML
    assert "charlie" in render(template, SAID).text


def test_a_long_text_of_letters_that_json_spells_in_twelve_is_read():
    assert render("{% for i in range(65000) %}🙂{% endfor %}", SAID).text == 65_000 * "🙂"


def test_equal_renderings_are_made_once():
    template = CHATML + "{# once #}"
    assert render(template, SAID) is render(template, SAID)


def test_nothing_is_imported_from_the_current_directory(tmp_path, monkeypatch):
    for name in ("jinja2", "json", "signal", "resource", "sitecustomize", "markupsafe"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rendering._process.end()
    assert render(CHATML + "{# here #}", SAID).text and not (tmp_path / "imported").exists()


def test_without_an_interpreter_to_start_there_is_no_template(tmp_path, monkeypatch):
    rendering._process.end()
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    assert "cannot be started" in render(CHATML + "{# none #}", SAID).problem
    monkeypatch.undo()
    assert render(CHATML + "{# again #}", SAID).text


RENDER = "from tokensurgeon.vocabulary import rendering; rendering.render({!r}, (('user', 'a'),)); "
PID = "print(rendering._process._running.pid, flush=True); "


def gone(pid, seconds=30):
    """Whether a process ends within some seconds."""
    for _ in range(20 * seconds):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_the_process_that_renders_ends_with_its_parent():
    done = processes.run(RENDER.format(CHATML) + PID)
    assert done.returncode == 0 and not done.stderr and gone(int(done.stdout))
    killed = processes.run(RENDER.format(CHATML) + PID + "import os; os.kill(os.getpid(), 9)")
    assert killed.returncode == -9 and gone(int(killed.stdout))


def test_a_forked_process_renders_for_itself_and_keeps_nothing_open():
    code = (
        "import multiprocessing, os, time, warnings; warnings.simplefilter('error'); "
        + RENDER.format(CHATML)
        + "def work(pid):\n"
        "    assert rendering._process._running is None\n"
        "    assert rendering.render('{{ messages[0].content }}', (('user', 'b'),)).text == 'b'\n"
        "    assert rendering._process._running.pid != pid; rendering._process.end()\n"
        "    time.sleep(60)\n"
    ).replace("; def", "\ndef") + (
        "first = rendering._process._running\n"
        "worker = multiprocessing.get_context('fork').Process(target=work, args=(first.pid,), daemon=True)\n"
        "worker.start()\n"
        "assert rendering.render('{{ messages[0].role }}', (('user', 'b'),)).text == 'user'\n"
        "assert rendering._process._running is first\n"
        "first.stdin.close(); first.wait(30)\n"  # end of file, though the worker still lives
        "worker.kill(); worker.join(); rendering._process._running = None\n"
    )
    done = processes.run(code)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_command_goes_on_without_the_template_and_says_so(copy_of, tmp_path):
    donor = copy_of("gpt")
    (donor / "chat_template.jinja").write_text(WIDE)
    base = copy_of("spm")
    shown = processes.run(processes.MAIN, "align", base, donor)
    what = "copy-of-gpt: the chat template cannot be used (it takes too much memory)"
    assert shown.returncode == 0 and shown.stderr.count(what) == 1
    said = "! The chat template of `copy-of-gpt` could not be used (it takes too much memory)"
    assert said in " ".join(shown.stdout.split())
    silent = processes.run(processes.MAIN, "align", base, donor, "--json")
    assert json.loads(silent.stdout)["templates"] == [["copy-of-gpt", "it takes too much memory"]] and not silent.stderr
    text = tmp_path / "t.txt"
    text.write_text("The value of the object is 42. " * 20)
    trimmed = processes.run(processes.MAIN, "trim", donor, "--text", text, "--out", tmp_path / "out")
    assert trimmed.returncode == 0 and what in trimmed.stderr
    assert (tmp_path / "out/report.html").read_text().count("it takes too much memory") == 1

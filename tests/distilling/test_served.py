"""A teacher behind a server: what is kept of it, what a student learns of it, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file
from typer.testing import CliRunner

from tokensurgeon import DistilOptions, InputError, distil
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.cli.app import app
from tokensurgeon.distilling import asking
from tokensurgeon.distilling.served import ServedTeacher
from tokensurgeon.distilling.teacher import LocalTeacher, without_weights
from tokensurgeon.evaluation import loading
from tokensurgeon.evaluation.loading import load_model

CPU = torch.device("cpu")
TEACHER = "untied-spm"
KINDS = ["vllm", "llamacpp"]


class Server(ThreadingHTTPServer):
    """Serves a tiny model as vLLM or llama-server does."""

    def __init__(self, directory, kind):
        """Load the model and take a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.kind, self.most, self.asked = load_model(directory), kind, 64, []
        self.failures, self.mend = 0, lambda _path, answer: answer
        self.url = f"http://127.0.0.1:{self.server_port}"

    def logs(self, ids):
        with torch.inference_mode():
            return self.model.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(dim=-1)

    def answer(self, path, asked):
        """Status and object."""
        match self.kind, path:
            case _, "/v1/models":
                return 200, {"data": [{"id": f"tiny {self.kind}", "owned_by": self.kind}]}
            case "vllm", "/tokenize":
                assert asked["model"] == "tiny vllm" and asked["add_special_tokens"] is False
                return 200, {"tokens": self.model.encode(asked["prompt"])}
            case "llamacpp", "/tokenize":
                assert asked["add_special"] is False
                return 200, {"tokens": self.model.encode(asked["content"])}
            case "vllm", "/v1/completions":
                return self.completions(asked)
            case "llamacpp", "/completion":
                return self.completion(asked)
        return 404, {"error": {"message": "File Not Found"}}

    def completions(self, asked):
        ids, most = asked["prompt"], asked["prompt_logprobs"]
        if most > self.most:
            told = f"Requested prompt logprobs of {most}, which is greater than max allowed: {self.most}"
            return 400, {"error": {"message": told}}
        said = [None]
        for row, own in zip(self.logs(ids), ids[1:], strict=False):
            entries = [own, *row.topk(most).indices.tolist()]
            said.append({str(i): {"logprob": float(row[i]), "rank": 1, "decoded_token": "x"} for i in entries})
        return 200, {"choices": [{"text": "x", "prompt_logprobs": said}]}

    def completion(self, asked):
        row = self.logs(asked["prompt"])[-1]
        biased = row.clone()
        for token, bias in asked["logit_bias"]:
            biased[token] += bias
        made = int(biased.argmax())
        if self.model.tokenizer.convert_ids_to_tokens(made).startswith("<0x"):
            return 200, {"content": ""}  # a byte, which may be a part of a character
        entries = row.topk(asked["n_probs"]).indices.tolist()
        top = [{"id": i, "token": "x", "logprob": float(row[i])} for i in entries]
        return 200, {"completion_probabilities": [{"id": made, "logprob": float(row[made]), "top_logprobs": top}]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        told = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.server.failures:
            self.server.failures -= 1
            return self.send(503, {"error": {"message": "Loading model"}})
        status, content = self.server.answer(self.path, json.loads(told or "{}"))
        return self.send(status, self.server.mend(self.path, content))

    def send(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Not on stderr."""


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """No waits, and no bfloat16, in which a text and its beginning are rounded apart."""
    monkeypatch.setattr(loading, "computes_in_bfloat16", lambda _: False)
    monkeypatch.setattr(asking, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    forget_accelerate()


@pytest.fixture
def serve(zoo) -> Iterator:
    servers = []

    def start(kind="vllm", name=TEACHER):
        server = Server(zoo[name], kind)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def teacher(zoo):
    opened = OpenModel.open(str(zoo[TEACHER]), "none")
    return opened, without_weights(opened)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    line = "The value of the object is {} and def f(x): return x * {}, é\n"
    path.write_text("".join(line.format(i, i % 7) for i in range(400)))
    return path


def quick(text, **more):
    return DistilOptions(text=(str(text),), steps=2, piece=256, lora=2, top=32, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [1, 32])
def test_what_a_server_says_is_what_the_model_says(serve, teacher, kind, kept):
    server = serve(kind)
    served = ServedTeacher.at(f"{server.url}/v1/", *teacher, kept)
    assert served.rows == len(teacher[0].vocabulary) and served.one_by_one == (kind == "llamacpp")
    ids = [teacher[1].prefix, *teacher[1].encode("The value of the object ☃ is é; def f(x): return 7")]
    mine, here = served(ids), LocalTeacher(teacher[0], kept, CPU)(ids)
    assert torch.equal(mine.token, here.token) and (mine.token.dtype, mine.log.dtype) == (torch.int32, torch.float16)
    torch.testing.assert_close(mine.log, here.log, atol=2e-3, rtol=2e-3)
    byte = [place for place, i in enumerate(ids[1:]) if teacher[0].ids["<0x00>"] <= i <= teacher[0].ids["<0xFF>"]]
    assert byte  # of which llama-server is silent


@pytest.mark.slow
def test_a_student_of_a_served_teacher_is_the_same(zoo, serve, text, tmp_path):
    pair, cache = (str(zoo["gpt"]), str(zoo[TEACHER])), tmp_path / "cache"
    runs = {"here": None} | {kind: serve(kind).url for kind in KINDS} | {"again": serve("vllm").url}
    done = {
        name: distil(*pair, tmp_path / name, quick(text), cache=cache, server=url)
        for name, url in runs.items()
    }  # fmt: skip
    assert [report.read for report in done.values()] == [2, 2, 2, 0] and len(list(cache.iterdir())) == 3
    here = load_file(tmp_path / "here/model.safetensors")
    for kind in KINDS:
        there = load_file(tmp_path / kind / "model.safetensors")
        for name, tensor in here.items():
            torch.testing.assert_close(there[name], tensor, atol=1e-3, rtol=1e-3)
        losses = [done[name].training.curve[-1]["held_out"] for name in ("here", kind)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_served_teacher_needs_no_weights(zoo, serve, text, tmp_path, copy_of):
    light = copy_of(TEACHER)
    for path in light.glob("*.safetensors"):
        path.unlink()
    done = distil(str(zoo["gpt"]), str(light), tmp_path / "out", quick(text), server=serve().url)
    assert done.training.steps == 2 and sorted(path.name for path in tmp_path.iterdir()) == [light.name, "out"]


def test_what_fails_by_chance_is_asked_again(serve, teacher):
    server = serve()
    server.failures = 3
    ServedTeacher.at(server.url, *teacher, 4)
    server.failures = 4
    with pytest.raises(InputError, match=r"/v1/models answers 503: Loading model$"):
        ServedTeacher.at(server.url, *teacher, 4)
    assert server.asked.count("/v1/models") == 8


def test_refusals_are_one_line_before_any_work(zoo, serve, text, tmp_path):
    server, gone, other = serve(), serve(), serve(name="gpt")
    gone.shutdown()
    gone.server_close()
    command = ["distil", str(zoo["gpt"]), "--teacher", str(zoo[TEACHER]), "--text", str(text), "--steps", "2"]
    for url, top, message in (
        (server.url, "65", "max allowed: 64. Give a lower --top, or start the server with --max-logprobs 65"),
        (gone.url, "4", f"{gone.url}/v1/models does not answer"),
        (other.url, "4", "cuts text into other ids"),
        ("localhost:8000", "4", "must begin with http:// or https://"),
    ):
        more = ["--out", str(tmp_path / "out"), "--server", url, "--top", top]
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1, done.output
        assert not list(tmp_path.iterdir())


def put(entries):
    """An answer of vLLM in which the first position has other entries, of None the old one."""

    def mend(path, answer):
        if path == "/v1/completions":
            said = answer["choices"][0]["prompt_logprobs"]
            said[1] = entries(said[1])
        return answer

    return mend


def all_of(tokens, log):
    return {token: {"logprob": log} for token in tokens}


def renamed(said, token):
    """The last one's id is another."""
    *others, (_, last) = said.items()
    return {**dict(others), token: last}


def instead(content, where="/v1/completions"):
    return lambda path, answer: content if path == where else answer


@pytest.mark.parametrize(
    ("mend", "message"),
    [
        (put(lambda said: renamed(said, "1000000")), "id 1000000, and the teacher's tokenizer"),
        (put(lambda said: renamed(said, "-1")), "id -1, and"),
        (put(lambda said: said | all_of(map(str, range(20)), -9.0)), "tells of 2[0-9] tokens where 4"),
        (put(lambda said: dict(list(said.items())[1:])), "the text's own, "),
        (put(lambda said: dict(list(said.items())[:2])), "tells of 2 tokens"),
        (put(lambda said: all_of(said, float("nan"))), "or not a number"),
        (put(lambda said: all_of(said, 0.5)), "whose sum is above 1"),
        (put(lambda said: all_of(said, 0.5) | all_of(list(said)[:1], -(10**400))), "whose sum is above 1"),
        (put(lambda said: all_of(said, "much")), "does not give log-probabilities as vLLM"),
        (put(lambda said: {token: {} for token in said}), "KeyError"),
        (put(lambda _: None), "AttributeError"),
        (instead({"choices": []}), "IndexError"),
        (instead({"choices": [{"prompt_logprobs": [None]}]}), "ValueError"),
        (instead(b"{" * 9), "does not answer with JSON"),
        (instead(b'{"choices":' + b"[" * 100_000), "does not answer with JSON"),
        (instead([]), "does not answer with a JSON object"),
        (instead(b" " * 3_000_000), "more than was asked for"),
        (instead({"data": []}, "/v1/models"), "names no model"),
        (instead({}, "/tokenize"), "cuts text into other ids \\(None\\)"),
    ],
)
def test_what_cannot_be_is_refused(serve, teacher, mend, message):
    server = serve()
    server.mend = mend
    with pytest.raises(InputError, match=message) as caught:
        ServedTeacher.at(server.url, *teacher, 4)
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {}, {"completion_probabilities": []}, {"completion_probabilities": [{"id": 5, "logprob": -1.0}]},
        {"completion_probabilities": [{"id": 5, "logprob": -1.0, "top_logprobs": [{"id": [], "logprob": None}]}]},
    ],
)  # fmt: skip
def test_a_llama_server_that_says_too_little_is_refused(serve, teacher, content):
    server = serve("llamacpp")
    server.mend = instead(content, "/completion")
    with pytest.raises(InputError, match=r"tells of 0 tokens|does not give log-probabilities"):
        ServedTeacher.at(server.url, *teacher, 4)

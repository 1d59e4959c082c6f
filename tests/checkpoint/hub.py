"""A server that speaks the hub's protocol, as far as downloads need it, and counts what it sends."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves directories as ``org/NAME``.

    Attributes:
        sent: File name to bytes of its content that were sent.
        budget: Bytes of safetensors after which connections break off; None for no end.
        ranges: Whether requests for ranges are heeded.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        """Start to serve on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.sent: Counter[str] = Counter()
        self.budget: int | None = None
        self.ranges = True
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Broken connections are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        wanted = json.loads(self.rfile.read(length))["paths"]
        model = self.server.models.get("/".join(self.path.split("/")[4:5]))
        self._json([entry for entry in _tree(model) if entry["path"] in wanted] if model else None)

    def _answer(self, *, body):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            model = self.server.models.get(parts[3])
            if model is None or (len(parts) > 5 and parts[5] not in ("main", COMMIT)):
                self._json(None)
            elif len(parts) > 4 and parts[4] == "tree":
                self._json(_tree(model))
            else:
                names = [{"rfilename": entry["path"]} for entry in _tree(model)]
                self._json({"id": f"org/{parts[3]}", "sha": COMMIT, "siblings": names})
            return
        path = self.server.models[parts[1]] / "/".join(parts[4:])
        if not path.is_file():
            self._json(None)
            return
        data = path.read_bytes()
        begin, end, status = 0, len(data), 200
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end, status = int(first), min(int(last or end) + 1, len(data)), 206
        self.send_response(status)
        self.send_header("ETag", f'"{hash(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        content = data[begin:end]
        if self.server.budget is not None and path.suffix == ".safetensors":
            content = content[: max(0, self.server.budget)]
            self.server.budget -= len(content)
        self.wfile.write(content)
        self.server.sent[path.name] += len(content)
        if len(content) < end - begin:
            self.close_connection = True

    def _json(self, content):
        data = json.dumps(content if content is not None else {"error": "not found"}).encode()
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _tree(model):
    files = sorted(p for p in model.rglob("*") if p.is_file())
    return [
        {"type": "file", "path": str(p.relative_to(model)), "size": p.stat().st_size, "oid": f"{i:040x}"}
        for i, p in enumerate(files)
    ]

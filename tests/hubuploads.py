"""The requests of the Hugging Face hub that an upload makes, answered on a loopback port; what is uploaded is kept.

with hub_for_uploads() as hub:
    HF_ENDPOINT=hub.url HF_TOKEN=x HF_HUB_DISABLE_XET=1 ...

Written from the requests that huggingface_hub 2.4 sends: creation of repositories, pre-upload, LFS batches, commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_REPOSITORY = re.compile(r"/api/(models|datasets)/(?P<repo>[^/]+/[^/?]+)(?P<rest>/[^?]*)?(?:\?.*)?")
_BATCH = re.compile(r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_COMMIT = "c0ffee" + "0" * 34


@dataclass
class UploadedHub:
    """A running hub. Example: UploadedHub("http://127.0.0.1:41001", {"me/mine": {"config.json": b"{}"}})"""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository -> file -> content."""
    private: dict[str, bool] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """Repository -> `model` or `dataset`."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content of a file that was uploaded apart from its commit."""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """(status, JSON) for a request."""
        if path.startswith("/blob/"):
            self.blobs[path.removeprefix("/blob/")] = body
            return 200, {}
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if _BATCH.fullmatch(path):
            objects = [{**each, "actions": self._actions(each["oid"])} for each in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        match = _REPOSITORY.fullmatch(path)
        if not match or match["repo"] not in self.files:
            return 404, {"error": "Repository not found"}
        rest = match["rest"] or ""
        if rest.startswith("/preupload/"):
            return 200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]}
        if rest.startswith("/commit/"):
            self._commit(match["repo"], body)
            return 200, {"commitUrl": f"{self.url}/{match['repo']}/commit/{_COMMIT}", "commitOid": _COMMIT}
        if rest.startswith("/tree/"):
            return 200, [_entry(name, content) for name, content in self.files[match["repo"]].items()]
        siblings = [{"rfilename": name} for name in self.files[match["repo"]]]
        return 200, {"id": match["repo"], "sha": _COMMIT, "siblings": siblings}

    def _created(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        kind = str(asked.get("type") or "model")
        self.files[repo] = {}
        self.kinds[repo] = kind
        self.private[repo] = bool(asked.get("private") or asked.get("visibility") == "private")
        prefix = "datasets/" if kind == "dataset" else ""
        return 200, {"url": f"{self.url}/{prefix}{repo}", "name": repo}

    def _actions(self, oid: str) -> dict[str, Any]:
        return {"upload": {"href": f"{self.url}/blob/{oid}", "header": {}}}

    def _commit(self, repo: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                content = self.blobs[line["value"]["oid"]]
                assert hashlib.sha256(content).hexdigest() == line["value"]["oid"]
                self.files[repo][line["value"]["path"]] = content


def _mode(path: str) -> dict[str, Any]:
    lfs = path.endswith((".safetensors", ".parquet"))
    return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": None}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def hub_for_uploads() -> Iterator[UploadedHub]:
    """A hub without repositories, until the block ends."""
    hub = UploadedHub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            status, content = hub.answer(self.command, self.path, self.rfile.read(size))
            body = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

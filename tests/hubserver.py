"""The few requests of the Hugging Face hub that a download makes, answered from memory on a loopback port.

with hub_server({"datasets/openai/gsm8k": {"main/train-00000-of-00001.parquet": b"..."}}) as address:
    HF_ENDPOINT=address ...

Written from the requests that huggingface_hub 2.4 sends: repository info, tree, HEAD and GET of files.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PART_BYTES = 8 << 20
COMMIT = "c0ffee" + "0" * 34
Repositories = Mapping[str, Mapping[str, bytes]]
"""`owner/name` for models and `datasets/owner/name` for datasets -> file name -> content."""

_API = re.compile(
    r"/api/(models|datasets)/(?P<repo>[^/]+/[^/?]+)(?:/revision/(?P<revision>\w+))?(?P<tree>/tree/\w+)?(?:\?.*)?"
)
_FILE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>\w+)/(?P<file>[^?]+)(?:\?.*)?")


@contextmanager
def hub_server(
    repositories: Repositories,
    asked: list[str] | None = None,
    *,
    commit: str = COMMIT,
    sent: list[str] | None = None,
    pause_s: float = 0.0,
) -> Iterator[str]:
    """Serve repositories until the block ends. Yields the address for HF_ENDPOINT.

    `asked`: gets the paths asked. `sent`: gets the names of the files sent. `commit`: the only one, at which main is.
    `pause_s`: between parts of a file of PART_BYTES.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            if asked is not None:
                asked.append(self.path)
            status, headers, content = _response(repositories, self.path, commit)
            if sent is not None and body and (file := _FILE.fullmatch(self.path)):
                sent.append(file["file"])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                for start in range(0, len(content), PART_BYTES):
                    self.wfile.write(content[start : start + PART_BYTES])
                    time.sleep(pause_s if start + PART_BYTES < len(content) else 0)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _response(repositories: Repositories, path: str, commit: str) -> tuple[int, dict[str, str], bytes]:
    requested = _API.fullmatch(path) or _FILE.fullmatch(path)
    if requested and requested["revision"] not in (None, "main", commit):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    if api := _API.fullmatch(path):
        repo = api["repo"] if api[1] == "models" else f"datasets/{api['repo']}"
        if repo in repositories:
            body = _tree(repositories[repo]) if api["tree"] else _info(api["repo"], repositories[repo], commit)
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
    elif file := _FILE.fullmatch(path):
        content = repositories.get(file["repo"], {}).get(file["file"])
        if content is not None:
            return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}, content
    return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _info(repo: str, files: Mapping[str, bytes], commit: str) -> dict[str, object]:
    return {"id": repo, "sha": commit, "siblings": [_sibling(name, content) for name, content in files.items()]}


def _sibling(name: str, content: bytes) -> dict[str, object]:
    """A file as `files_metadata` lists it: the hub keeps weights out of git and knows their SHA-256."""
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    if name.endswith((".safetensors", ".bin")):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
    return sibling


def _tree(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in files.items()
    ]

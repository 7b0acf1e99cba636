"""API keys and the guard in front of every route: request -> answered, or refused before any route sees it.

Keys come from a file (one a line, `#` comments) and from a comma-separated variable; only their SHA-256 is kept, and
a presented key is compared with all of them in constant time. Without keys the guard answers this machine alone:
the peer must be a loopback address, and the Host header must name one, so that no web page can reach the service
through a name that resolves to 127.0.0.1. Limits: a body of at most `MAX_BODY_BYTES`, `MAX_JSON_DEPTH` deep, that
is there within `BODY_TIMEOUT_S`; keys are read once, at start.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import errors
from serve.errors import Refusal

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered to anyone, for probes have no key. They name the served models, and nothing else."""
MAX_BODY_BYTES = 1 << 20
BODY_TIMEOUT_S = 20.0
MAX_JSON_DEPTH = 16
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one that is not closed goes to the end: linear
_BRACKETS = re.compile(rb"[\[\]{}]")
_KEY = re.compile(r"[!-~]+")


class KeysError(ValueError):
    """API keys that cannot be used. The message says where and why, and never shows a key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The hashes of the accepted API keys; empty: none are configured.

    Example: Keys(frozenset({hashlib.sha256(b"secret").digest()}))
    """

    digests: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def accept(self, authorization: str | None) -> bool:
        """Whether an Authorization header's value is `Bearer <one of the keys>`."""
        scheme, _, key = (authorization or "").partition(" ")
        presented = _digest(key.strip())
        matches = [hmac.compare_digest(presented, digest) for digest in self.digests]
        return scheme.lower() == "bearer" and any(matches)


def load_keys(file: str | None, environment: Mapping[str, str]) -> Keys:
    """Keys from `file` (or RFT_API_KEYS_FILE) and RFT_API_KEYS. Raises KeysError for a file without keys."""
    listed = [key.strip() for key in environment.get("RFT_API_KEYS", "").split(",")]
    keys = {key: "RFT_API_KEYS" for key in listed if key}
    name = file or environment.get("RFT_API_KEYS_FILE")
    if name:
        keys |= _read_keys(Path(name))
    for key, where in keys.items():
        if not _KEY.fullmatch(key):
            raise KeysError(f"{where}: an API key must be printable ASCII without spaces")
    return Keys(frozenset(map(_digest, keys)))


def _read_keys(path: Path) -> dict[str, str]:
    """Key -> where it stands, of a key file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"API key file {path} cannot be read: {error}") from None
    keys = {line.strip(): f"{path}, line {number}" for number, line in enumerate(lines, 1)}
    keys = {key: where for key, where in keys.items() if key and not key.startswith("#")}
    if not keys:
        raise KeysError(f"API key file {path} holds no key: write one a line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address, with or without brackets, can only be this machine."""
    name = (host or "").strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Guard:
    """ASGI middleware around the whole application, documentation and unknown paths included."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_timeout_s: float = BODY_TIMEOUT_S,
        open_files: Collection[str] = (),
    ) -> None:
        """`open_files`: what anyone may GET where keys are configured, because it is public anyway."""
        self.app, self.keys, self.open_files = app, keys, frozenset(open_files)
        self.max_body_bytes, self.body_timeout_s = max_body_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_open = path in OPEN_PATHS or (self.keys and scope["method"] == "GET" and path in self.open_files)
        refusal = None if is_open else self._refusal(scope, headers)
        if refusal is None:
            try:
                body = await self._body(headers.get(b"content-length", "0"), receive)
            except Refusal as refused:
                refusal = errors.response(refused.status, refused.message, code=refused.code)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, _replaying(body, receive), send)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, str]) -> ASGIApp | None:
        """The response for a caller who may not call, or None."""
        if self.keys:
            if self.keys.accept(headers.get(b"authorization")):
                return None
            message = "give a valid API key: Authorization: Bearer <key>"
            return errors.response(401, message, headers={"WWW-Authenticate": "Bearer"})
        host = re.sub(r":\d+$", "", headers.get(b"host", ""))
        if is_loopback((scope.get("client") or ("",))[0]) and is_loopback(host):
            return None
        return errors.response(403, "no API keys are configured, so only this machine is answered")

    async def _body(self, declared: str, receive: Receive) -> bytes:
        """The whole body. Raises Refusal where it is too large, too slow or too deep."""
        too_large = Refusal(413, f"the body is larger than {self.max_body_bytes} bytes")
        if not declared.isdigit() or int(declared) > self.max_body_bytes:
            raise too_large
        body, more = b"", True
        try:
            async with asyncio.timeout(self.body_timeout_s):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.max_body_bytes:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, f"the body took longer than {self.body_timeout_s:g} s") from None
        if deeper_than(body, MAX_JSON_DEPTH):
            raise Refusal(400, f"the body is nested deeper than {MAX_JSON_DEPTH} levels", code="too_deep")
        return body


def deeper_than(body: bytes, bound: int) -> bool:
    """Whether brackets outside of JSON strings nest deeper than the bound. Linear in the body."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > bound:
            return True
    return False


def _replaying(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the whole body first."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return waiting.pop() if waiting else await receive()

    return replaying

"""API keys and the guard in front of every route: request -> answered, or refused before any route sees it.

Keys come from a file (one a line, `#` comments) and from a comma-separated variable; only their SHA-256 is kept, and
a presented key is compared with all of them in constant time. Without keys the guard answers this machine alone:
the peer must be a loopback address, and the Host header must name one, so that no web page can reach the service
through a name that resolves to 127.0.0.1. Limits: a body of at most `MAX_BODY_BYTES`; keys are read once, at start.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import errors

OPEN_PATHS = frozenset({"/healthz"})
"""Answered to anyone: says that the process is up, and nothing else."""
MAX_BODY_BYTES = 1 << 20
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

    def __init__(self, app: ASGIApp, *, keys: Keys, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.app, self.keys, self.max_body_bytes = app, keys, max_body_bytes

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
        refusal = None if path in OPEN_PATHS else self._refusal(scope, headers)
        length = headers.get(b"content-length", "0")
        if refusal is None and (not length.isdigit() or int(length) > self.max_body_bytes):
            refusal = errors.response(413, self._too_large)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, self._bounded(receive), send)

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

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.max_body_bytes} bytes"

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that refuses a body whose size was not declared, or declared wrong, once it is too large."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded

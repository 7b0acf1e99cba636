"""The guard in front of every route: request -> answered, or refused before any route sees it.

Without keys (`serve.access.api_keys`) it answers this machine alone: the peer must be a loopback address, and the Host
header must name one, so that no web page can reach the service through a name that resolves to 127.0.0.1. It says in
the request's state who calls, and gives the request its id. Limits: a body of at most `MAX_BODY_BYTES`,
`MAX_JSON_DEPTH` deep, that is there within `BODY_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access.api_keys import KeyRing, Keys
from serve.access.rate_limits import Limits
from serve.api import errors
from serve.api.errors import Refusal

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered to anyone, for probes have no key. They name the served models, and nothing else."""
MAX_BODY_BYTES = 1 << 20
BODY_TIMEOUT_S = 20.0
MAX_JSON_DEPTH = 16
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one that is not closed goes to the end: linear
_BRACKETS = re.compile(rb"[\[\]{}]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is: the state of every request that the guard lets through.

    Example: Caller("9b1a…", Limits(requests=60))
    """

    key: str
    """The key's hash in hex; empty: no keys are configured."""
    limits: Limits


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
        names_requests: bool = True,
    ) -> None:
        """`open_files`: what anyone may GET where keys are configured, because it is public anyway.

        `names_requests`: answer with the header X-Request-Id; Serve's proxy does so by itself.
        """
        self.app, self.ring, self.open_files = app, KeyRing(keys), frozenset(open_files)
        self.names_requests = names_requests
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
        named = fit_request_id(headers.get(b"x-request-id"))
        errors.request_id.set(named)
        if self.names_requests:
            send = _naming(named, send)
        keys = self.ring.current()
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_open = path in OPEN_PATHS or (keys and scope["method"] == "GET" and path in self.open_files)
        try:
            if not is_open:
                scope.setdefault("state", {})["caller"] = _caller(keys, scope, headers)
            body = await self._body(headers.get(b"content-length", "0"), receive)
        except Refusal as refused:
            answer = errors.response(refused.status, refused.message, code=refused.code, headers=refused.headers)
            await answer(scope, receive, send)
        else:
            await self.app(scope, _replaying(body, receive), send)

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


def _caller(keys: Keys, scope: Scope, headers: Mapping[bytes, str]) -> Caller:
    """Who calls. Raises Refusal for a caller who may not."""
    if keys:
        key = keys.identify(headers.get(b"authorization"))
        if key is None:
            message = "give a valid API key: Authorization: Bearer <key>"
            raise Refusal(401, message, headers={"WWW-Authenticate": "Bearer"})
        return Caller(key.hex(), keys.limits_of(key))
    host = re.sub(r":\d+$", "", headers.get(b"host", ""))
    if is_loopback((scope.get("client") or ("",))[0]) and is_loopback(host):
        return Caller("", keys.default)
    raise Refusal(403, "no API keys are configured, so only this machine is answered")


def fit_request_id(given: str | None) -> str:
    """A request's id: the client's own where it is short and plain, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def _naming(named: str, send: Send) -> Send:
    """`send` that adds the request's id to the answer's headers."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", named.encode())]
        await send(message)

    return sending


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

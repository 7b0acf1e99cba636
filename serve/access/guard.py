"""The check in front of every route: it passes a request on, or refuses it before a route sees it.

With keys (`serve.access.api_keys`) a request needs one of them. Without keys only this machine is answered: the peer
must be a loopback address, and the Host header must name one, so that no web page reaches the service through a name
that resolves to 127.0.0.1; a request that a proxy forwarded is refused, because its peer is the proxy. Two Host headers
are refused. The check stores the caller in the request's state, and gives the request its id. A body has
at most `MAX_BODY_BYTES`, nests at most `MAX_JSON_DEPTH` deep, and must arrive within `BODY_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access.api_keys import Keys, ReloadingKeys
from serve.access.failed_keys import FailedKeys
from serve.access.rate_limits import Limits, retry_after
from serve.api import errors
from serve.api.errors import Refusal

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a key, because probes have none. They name the served models to callers with access only."""
MAX_BODY_BYTES = 1 << 20
BODY_TIMEOUT_S = 20.0
MAX_JSON_DEPTH = 16
_STRINGS = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL
)  # an unclosed string matches to the end, so that matching stays linear
_BRACKETS = re.compile(rb"[\[\]{}]")
FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"via")
"""Headers, and a prefix of headers, that proxies add to the requests that they forward."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: stored in the state of every request that passes the check.

    Example: Caller("9b1a…", Limits(requests=60))
    """

    key: str
    """The key's hash in hex; empty where no keys are configured."""
    limits: Limits


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address, with or without brackets, always means this machine."""
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
        public_files: Collection[str] = (),
        sends_request_id: bool = True,
    ) -> None:
        """`public_files`: paths that anyone may GET where keys are configured, because their content is public.

        `sends_request_id`: whether to add the header X-Request-Id to answers; Serve's proxy adds it itself.
        """
        self.app, self.keys, self.public_files = app, ReloadingKeys(keys), frozenset(public_files)
        self.sends_request_id, self._failed_keys = sends_request_id, FailedKeys()
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
        hosts = sum(name.lower() == b"host" for name, _ in scope["headers"])
        request_id = valid_request_id(headers.get(b"x-request-id"))
        errors.request_id.set(request_id)
        if self.sends_request_id:
            send = _with_request_id(request_id, send)
        keys = self.keys.current()
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_open = path in PUBLIC_PATHS or (keys and scope["method"] in ("GET", "HEAD") and path in self.public_files)
        try:
            if hosts > 1:
                raise Refusal(400, "a request has one Host header")
            if caller := self._caller_of(keys, scope, headers, is_open=bool(is_open)):
                scope.setdefault("state", {})["caller"] = caller
            body = await self._body(headers.get(b"content-length", "0"), receive)
        except Refusal as refused:
            await refused.response()(scope, receive, send)
        else:
            await self.app(scope, _from_body(body, receive), send)

    def _caller_of(self, keys: Keys, scope: Scope, headers: Mapping[bytes, str], *, is_open: bool) -> Caller | None:
        """The caller; None for an open path without access. Raises Refusal for any other path without access."""
        if is_open and keys and headers.get(b"authorization") is None:
            return None
        try:
            return self._caller(keys, scope, headers)
        except Refusal:
            if is_open:
                return None
            raise

    def _caller(self, keys: Keys, scope: Scope, headers: Mapping[bytes, str]) -> Caller:
        """The caller. Raises Refusal for a caller without access."""
        if not keys:
            return _local_caller(keys, scope, headers)
        authorization = headers.get(b"authorization")
        if (key := keys.identify(authorization)) is not None:
            return Caller(key.hex(), keys.limits_of(key))
        if authorization is not None and (wait_s := self._failed_keys.wait_s((scope.get("client") or ("",))[0])):
            message = f"too many wrong API keys from this address: try again in {retry_after(wait_s)} s"
            raise Refusal(429, message, code="invalid_api_key", headers={"Retry-After": retry_after(wait_s)})
        message = "a valid API key is needed: send the header Authorization: Bearer <key>"
        raise Refusal(401, message, headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, declared: str, receive: Receive) -> bytes:
        """The whole body. Raises Refusal where it is too large, too slow or nested too deep. `declared`: its length."""
        too_large = Refusal(413, f"the body is larger than {self.max_body_bytes} bytes")
        if not (declared.isascii() and declared.isdigit()):
            raise Refusal(400, "Content-Length is not a number")
        if float(declared) > self.max_body_bytes:  # int() refuses more than 4,300 digits, leading zeros too
            raise too_large
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self.body_timeout_s):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.max_body_bytes:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self.body_timeout_s:g} s") from None
        if deeper_than(bytes(body), MAX_JSON_DEPTH):
            raise Refusal(400, f"the body is nested deeper than {MAX_JSON_DEPTH} levels", code="too_deep")
        return bytes(body)


def _local_caller(keys: Keys, scope: Scope, headers: Mapping[bytes, str]) -> Caller:
    """The caller where no keys are configured. Raises Refusal for a request that is not from this machine."""
    host = re.sub(r":\d+$", "", headers.get(b"host", ""))
    forwarded = any(name.startswith(FORWARDED) for name in headers)
    if not forwarded and is_loopback((scope.get("client") or ("",))[0]) and is_loopback(host):
        return Caller("", keys.default)
    raise Refusal(403, "no API keys are configured, so only direct requests from this machine are answered")


def valid_request_id(given: str | None) -> str:
    """A request's id: the client's own where it is short and plain, otherwise a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def _with_request_id(request_id: str, send: Send) -> Send:
    """A `send` that adds the request's id to the answer's headers."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
        await send(message)

    return sending


def deeper_than(body: bytes, bound: int) -> bool:
    """Whether brackets outside of JSON strings nest deeper than the bound. Takes time linear in the body's length."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > bound:
            return True
    return False


def _from_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the whole body first."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return waiting.pop() if waiting else await receive()

    return replaying

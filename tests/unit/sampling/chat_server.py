"""A chat endpoint on loopback that answers as a test's script says: status, headers and body of each request."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

HANG = -1
"""Status of an answer that never comes."""


@dataclass(frozen=True)
class Answer:
    """One answer. Example: Answer(429, b"{}", {"Retry-After": "1"})"""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    byte_pause_s: float = 0.0
    """Seconds between two bytes of the body."""
    endless: bool = False
    """Whether the body is sent again and again, until the client leaves."""


Script = Callable[[dict[str, Any], int], Answer]
"""(body of a request, its number from 0) -> the answer."""


def completion(*texts: str, prompt_tokens: int = 5, completion_tokens: int = 12, **message: Any) -> Answer:
    """A chat completion with these texts. `message`: more fields of each message."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Answer(200, json.dumps({"choices": choices, "usage": usage}).encode())


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's form."""
    error = {"message": message, "code": code, "type": "error"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"error": error}).encode(), named)


@dataclass
class ChatServer:
    """A running endpoint: its address, and the requests that it has seen."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serving(script: Script) -> Iterator[ChatServer]:
    """The endpoint, inside the block, in a thread of its own."""
    seen, started, ended = ChatServer(), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    open_now = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = [line.partition(":") for line in head.decode().split("\r\n")]
                headers = {name.lower(): value.strip() for name, _, value in lines}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                seen.asked.append(body)
                seen.keys.append(headers.get("authorization", ""))
                open_now += 1
                seen.most_at_once = max(seen.most_at_once, open_now)
                answer = script(body, len(seen.asked) - 1)
                await asyncio.sleep(3600 if answer.status == HANG else 0.01)
                open_now -= 1
                size = {} if answer.endless else {"Content-Length": str(len(answer.body))}
                fields = {"Content-Type": "application/json", **size, **answer.headers}
                lines_out = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in fields.items())]
                writer.write("\r\n".join([*lines_out, "", ""]).encode())
                for part in [answer.body[i : i + 1] for i in range(len(answer.body))] if answer.byte_pause_s else []:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(answer.byte_pause_s)
                while answer.endless:
                    writer.write(answer.body)
                    await writer.drain()
                writer.write(b"" if answer.byte_pause_s else answer.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        loops.append(asyncio.get_running_loop())
        started.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield seen
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(10)

"""Load generators: requests -> `Answer`s, sent one after another or at fixed times."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

QUESTION = "Tom has 3 pens and 5 pens. How many pens does Tom have now?"
SOLVE, CHAT = "/solve", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request. `status` is 0 where there was no answer.

    Example: Answer(200, 0.73, 0.02, 128, 4.1, False)
    """

    status: int
    seconds: float
    """From the time when the request was due to the answer's last byte."""
    first_s: float = 0.0
    """From the same time to the first text of a stream."""
    tokens: int = 0
    began: float = 0.0
    """The time when it was due, on the monotonic clock."""
    cancelled: bool = False
    """Whether the client disconnected before the end."""


@asynccontextmanager
async def client(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a limit of connections. It drops idle connections before the server closes them."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        yield session


async def ask(session: aiohttp.ClientSession, path: str, body: Any, *, due: float | None = None) -> Answer:
    """One request, read to its end."""
    began = time.monotonic() if due is None else due
    try:
        async with session.post(path, **_content(body)) as answer:
            read = await answer.read()
            tokens = _tokens(json.loads(read)) if answer.status == 200 and answer.content_type.endswith("json") else 0
            return Answer(answer.status, time.monotonic() - began, tokens=tokens, began=began)
    except (aiohttp.ClientError, OSError):
        return Answer(0, time.monotonic() - began, began=began)


def _content(body: Any) -> dict[str, Any]:
    if isinstance(body, bytes):
        return {"data": body, "headers": {"Content-Type": "application/json"}}
    return {"json": body}


def _tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage") or {}
    return int(answer.get("tokens") or usage.get("completion_tokens") or 0)


async def stream_chat(session: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
    """One streamed chat completion. The server's last chunk reports the tokens (`include_usage`)."""
    began, first, tokens = time.monotonic(), 0.0, 0
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with session.post(CHAT, json=body) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            tokens = tokens or _tokens(chunk)
            if not first and any(choice["delta"].get("content") for choice in chunk["choices"]):
                first = time.monotonic() - began
        return Answer(answer.status, time.monotonic() - began, first, tokens, began)


async def hang_up(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Answer:
    """A stream whose client disconnects after the first event, unless the request is refused."""
    began = time.monotonic()
    try:
        async with session.post(path, json={**body, "stream": True}) as answer:
            if answer.status != 200:
                await answer.read()
                return Answer(answer.status, time.monotonic() - began, began=began)
            await answer.content.readline()
            answer.close()
            return Answer(200, time.monotonic() - began, began=began, cancelled=True)
    except (aiohttp.ClientError, OSError):
        return Answer(0, time.monotonic() - began, began=began)


async def closed_loop(make: Callable[[], Awaitable[Answer]], workers: int, seconds: float) -> list[Answer]:
    """The answers to `workers` clients, each of which sends its next request when it has the previous answer."""
    until, answers = time.monotonic() + seconds, list[Answer]()

    async def work() -> None:
        while time.monotonic() < until:
            answers.append(await make())

    await asyncio.gather(*(work() for _ in range(workers)))
    return answers


async def open_loop(make: Callable[[float], Awaitable[Answer]], per_s: float, seconds: float) -> list[Answer]:
    """Requests at a fixed rate, whether or not earlier ones are answered. Each is timed from when it was due."""
    began, waiting, answers = time.monotonic(), set[asyncio.Task[Answer]](), list[Answer]()
    for number in range(round(per_s * seconds)):
        due = began + number / per_s
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        task = asyncio.ensure_future(make(due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        task.add_done_callback(lambda done: answers.append(done.result()))
    await asyncio.gather(*waiting)
    return answers


async def mixed(session: aiohttp.ClientSession, count: int, workers: int, seed: int = 0) -> list[Answer]:
    """Valid, wrong, abandoned and too large requests, in an order drawn from the seed."""
    rng, left = random.Random(seed), iter(range(count))
    answers = list[Answer]()
    small = {"question": "2 and 3?", "k": 1, "early_stop": False}
    long = {"question": "Add 1111, 2222, 3333, 4444 and 5555.", "k": 2, "early_stop": False}
    message = [{"role": "user", "content": "2 and 3?"}]
    kinds: list[tuple[int, Callable[[], Awaitable[Answer]]]] = [
        (20, lambda: ask(session, SOLVE, small)),
        (5, lambda: ask(session, SOLVE, {**small, "stream": True, "deltas": True})),
        (5, lambda: ask(session, CHAT, {"messages": message})),
        (10, lambda: ask(session, SOLVE, {"question": ""})),
        (10, lambda: ask(session, SOLVE, b'{"question": ')),
        (10, lambda: ask(session, SOLVE, b"[" * 100)),
        (10, lambda: ask(session, CHAT, {"messages": message, "tools": [{}]})),
        (5, lambda: ask(session, "/nowhere", {})),
        (5, lambda: hang_up(session, SOLVE, long)),
        (20, lambda: ask(session, SOLVE, {**small, "k": 64})),
    ]
    weights, makers = zip(*kinds, strict=True)

    async def work() -> None:
        for _ in left:
            answers.append(await rng.choices(makers, weights)[0]())

    await asyncio.gather(*(work() for _ in range(workers)))
    return answers


def outcomes(answers: Iterable[Answer]) -> Counter[str]:
    """The client's counts of requests by outcome, as `serve.http.request_metrics` names them."""
    return Counter(map(_outcome, answers))


def _outcome(answer: Answer) -> str:
    if answer.cancelled:
        return "cancelled"
    if not answer.status:
        return "no answer"
    if answer.status < 400:
        return "ok"
    if answer.status == 429:
        return "limited"
    return "refused" if answer.status < 500 else "failed"


async def counted(session: aiohttp.ClientSession) -> Counter[str]:
    """The server's counts by outcome, once no other request is open. Requests for the counts are not included."""
    async with asyncio.timeout(60):
        while True:
            async with session.get("/metrics") as answer:
                text = await answer.text()
            if re.search(r"^rft_requests_open 1\.0$", text, re.MULTILINE):
                break
            await asyncio.sleep(0.1)
    counts = Counter[str]()
    for labels, count in re.findall(r"^rft_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named["route"] not in ("/metrics", "/readyz", "/healthz"):
            counts[named["outcome"]] += int(float(count))
    return counts


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")

"""The bodies of an endpoint's answers, of any status, bounded in bytes before any of them is held or parsed.

In: a response of the OpenAI SDK's HTTP client, as its hook gets it. Out: the same response, whose body ends in TooLarge
after MOST_BODY_BYTES. Compression is not asked for and is refused: a small body could become any number of bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

MOST_BODY_BYTES = 64 << 20
"""A body of 20 samples with 100,000 tokens each has less."""
UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Headers of every request."""


class TooLarge(Exception):
    """A body that is larger than MOST_BODY_BYTES, or could be."""


async def bound_body(response: Any) -> None:
    """Bound the body of a response that has not been read yet. Raises TooLarge where its headers say enough."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        raise TooLarge(
            f"the answer is compressed ({coding[:20]}) although the request asks for identity, so its size has no "
            "bound: turn compression off in the endpoint or in the proxy before it"
        )
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BODY_BYTES:
        raise TooLarge(_message())
    response.stream = _bounded(response)


def _bounded(response: Any) -> Any:
    """The response's stream, counted. Its class is one of the client's HTTP library: httpx, or httpx2 in newer ones."""
    library = importlib.import_module(type(response).__module__.partition(".")[0])
    stream = response.stream

    class BoundedStream(library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MOST_BODY_BYTES:
                    raise TooLarge(_message())
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return BoundedStream()


def _message() -> str:
    return (
        f"the answer is larger than {MOST_BODY_BYTES / (1 << 20):g} MiB, more than any chat completion of a run: check "
        "what answers at endpoint.base_url"
    )

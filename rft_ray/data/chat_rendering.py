"""A model's own chat template, a program of its author's, rendered within bounds of CPU time and size.

In: a tokenizer with a chat template, and messages. Out: the text or the token ids that transformers makes of them, or a
ModelError. Rendering is Python code in a thread of its own, so the bounds hold in any thread of a process, and a
template that runs for too long is ended there.

Limits: one operation of Python's that is not interrupted, such as a power of large numbers, is not ended: such a
template is refused before any work, in a child process (`check_bounds`).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from rft_ray.store.models.folder import ModelError

CPU_SECONDS = 10.0
"""CPU time of one rendering: far more than any template that only writes its messages takes."""
MOST_CHARACTERS = 1 << 24
"""A longer text is no prompt."""
MEMORY_GIB = 2.0
CHECK_S = 900.0
"""How long the child process may take for all prompts, on a machine however busy."""
REMEDY = (
    "correct it (chat_template.jinja, or chat_template in tokenizer_config.json), or set prompt.kind=template, which "
    "does not use it"
)
_CODE = "import sys; sys.path[:] = {path!r}; from rft_ray.data.chat_bounds import main; main()"
T = TypeVar("T")


class _Stopped(BaseException):
    """Ends the thread of a rendering that is out of time."""


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], **arguments: Any) -> str:
    """The text of a chat. Raises ModelError at a bound, and what the template raises.

    `arguments`: those of the tokenizer's `apply_chat_template`, and of the template.
    """

    return _in_time(tokenizer, lambda: _text(tokenizer, messages, arguments))


def encode(tokenizer: Any, messages: Sequence[Mapping[str, str]], **arguments: Any) -> list[int]:
    """The token ids of a chat; otherwise as `render`."""

    def ids() -> list[int]:
        _text(tokenizer, messages, arguments)
        return list(tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **arguments))

    return _in_time(tokenizer, ids)


def _text(tokenizer: Any, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **arguments)
    if len(text) > MOST_CHARACTERS:
        raise _too_much(tokenizer, f"writes {len(text):,} characters for one prompt")
    return text


def _too_much(tokenizer: Any, what: str) -> ModelError:
    place = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    return ModelError(f"the chat template of {place} {what}: {REMEDY}")


def _in_time(tokenizer: Any, function: Callable[[], T]) -> T:
    """The function's result, from a thread that is ended after CPU_SECONDS of its own. Raises ModelError then."""
    result: Future[T] = Future()
    clocks: list[int] = []

    def work() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work, name="chat-template", daemon=True)
    thread.start()
    while True:
        try:
            return result.result(min(1.0, CPU_SECONDS))
        except TimeoutError:
            if result.done():  # in the meantime, or with this very error
                return result.result()
            if clocks and _cpu_seconds(clocks[0]) > CPU_SECONDS:
                break
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stopped))
    raise _too_much(tokenizer, f"does not end within {CPU_SECONDS:g} s of CPU time for one prompt")


def _cpu_seconds(clock: int) -> float:
    """The CPU time of a thread so far; 0 where it has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


Chats = Sequence[tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]]
"""(messages, arguments of the template) of each prompt."""


def check_bounds(source: str, tokenizer: Any, chats: Chats) -> None:
    """Raises ModelError where the template exceeds a bound for one of the chats.

    They are rendered in a child process, whose CPU time and memory the kernel limits. What else is wrong with the
    template is not looked at.
    """
    asked = {
        "template": tokenizer.get_chat_template(),
        "variables": dict(tokenizer.special_tokens_map),
        "chats": [{"messages": list(messages), **arguments} for messages, arguments in chats],
        "limits": {"seconds": CPU_SECONDS, "memory_gib": MEMORY_GIB, "characters": MOST_CHARACTERS},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE.format(path=[*sys.path])],
            input=json.dumps(asked, default=str).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=CHECK_S,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{source}: its chat template does not end within {CHECK_S:g} s: {REMEDY}") from None
    if done.returncode == -signal.SIGXCPU:
        what = f"does not end within {CPU_SECONDS:g} s of CPU time for one prompt"
    elif done.returncode < 0:
        what = f"ends its process by {signal.Signals(-done.returncode).name} (out of memory?)"
    elif done.returncode:
        what = f"ends its process with exit code {done.returncode} (out of memory?)"
    else:
        what = done.stdout.decode("utf-8", "replace").strip()
    if what:
        raise ModelError(f"{source}: its chat template {what}: {REMEDY}")

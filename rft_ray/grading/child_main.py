"""The loop of a grading child: reads requests, answers each by its task. Started by `child.py`, and only there."""

from __future__ import annotations

import json
import os
from typing import Any

from rft_ray.grading import sandbox
from rft_ray.grading.child import LENGTH
from rft_ray.grading.child_tasks import Task, open_task


def main(requests: int, answers: int) -> None:
    """Answer the requests that come through one pipe, until it is closed."""
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)
    setting = _receive(requests)
    if setting is None:
        return
    try:
        sandbox.end_with_parent(setting["parent"])
        sandbox.adopt_orphans()
        sandbox.limit_processes()
        sandbox.limit_memory(setting["memory_gib"])
        task = open_task(setting)
    except BaseException as error:  # whatever a module raises while it is imported
        _send(answers, {"error": described(error), "id": setting["id"]})
        return
    _send(answers, {"id": setting["id"]})
    while (request := _receive(requests)) is not None:
        name = request.pop("id")
        _send(answers, answer(task, request, setting["seconds"]) | {"id": name})


def answer(task: Task, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The task's answer, or a failure in words. `spoiled`: this process should answer nothing more."""
    own = os.getpid()
    sandbox.limit_cpu(seconds)
    try:
        result = task(request)
    except MemoryError:
        result = {"failure": "out of memory", "spoiled": True}
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        result = {"failure": f"raised {described(error)}"}
    if os.getpid() != own:  # a process that the task forked came back from it
        os._exit(0)
    if _left_processes():
        return {"failure": "left processes running", "spoiled": True}
    return result


def described(error: BaseException) -> str:
    """An exception as its type and message, even if its message cannot be made."""
    try:
        return f"{type(error).__name__}: {str(error)[:300]}".rstrip(": ")
    except BaseException:
        return type(error).__name__


def _left_processes() -> bool:
    """Whether a process that the task started still runs; this process adopts all orphans."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _receive(requests: int) -> dict[str, Any] | None:
    header = _read(requests, LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    content: dict[str, Any] = json.loads(_read(requests, LENGTH.unpack(header)[0]))
    return content


def _read(descriptor: int, size: int) -> bytes:
    received = b""
    while len(received) < size and (part := os.read(descriptor, size - len(received))):
        received += part
    return received


def _send(answers: int, message: dict[str, Any]) -> None:
    content = json.dumps(message).encode()
    content = LENGTH.pack(len(content)) + content
    while content:
        content = content[os.write(answers, content) :]

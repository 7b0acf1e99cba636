"""Verifiers as users may write them: `(problem, completion) -> verdict`, one function for each way to fail."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from rft_ray.records import Problem, Status, Verdict

CANARIES = [Problem("a", "1+1?", "2", "2"), (Problem("b", "2+2?", "", "4"), "4")]


def honest(problem: Problem, completion: str) -> bool:
    return completion == problem.answer


def detailed(problem: Problem, completion: str) -> Verdict:
    return Verdict(Status.WRONG_ANSWER, completion, f"{completion} is not {problem.answer}")


def without_answer(problem: Problem, completion: str) -> Status:
    return Status.NO_ANSWER


def misbehaving(problem: Problem, completion: str) -> Any:
    """Does what the completion says."""
    if completion == "hang":
        time.sleep(600)
    elif completion == "spin":
        while True:
            pass
    elif completion == "fork":
        os.fork()  # and the child comes back too
        time.sleep(0.2)
    elif completion == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
    elif completion == "daemon and exit":
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        os._exit(3)
    elif completion == "bomb":
        while True:
            os.fork()
    elif completion == "memory":
        return bytearray(1 << 40)
    elif completion == "print":
        print("noise", flush=True)
        sys.stderr.write("noise")
    elif completion == "exit":
        os._exit(0)
    elif completion == "raise":
        raise RuntimeError("\ud800 no idea")
    elif completion == "sys.exit":
        sys.exit("bye")
    elif completion == "pipes":
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"\0\0\0\x02{}nonsense")
            except OSError:
                continue
    elif completion == "close":
        os.closerange(3, 64)
    elif completion == "nonsense":
        return {"status": "correct"}
    elif completion == "false verdict":
        return Verdict("correct", None, "")  # type: ignore[arg-type]
    return completion == problem.answer


def broken_key(problem: Problem, completion: str) -> str:
    raise ValueError("no key")


def first_letter(problem: Problem, completion: str) -> str:
    return completion[:1]


def ends_in_answer(problem: Problem, completion: str) -> bool:
    return completion.rstrip().endswith(problem.answer)

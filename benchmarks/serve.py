"""Compares the service with its engine alone, and loads it at ten times its capacity.

    python -m benchmarks.serve [--only PART]

Parts: `engine` (streams of SmolLM2-135M-Instruct against `vllm serve` with the same engine settings, in turns), `solve`
(`/solve` k=16 against vLLM generating n=16 of the same prompt in this process, in turns), `saving` (early stopping with
a finished run's model: `--demo runs/demo`), `compare` (three of its models asked as the page asks them: at once and one
after another, in turns), `scripted` (a scripted engine behind Serve, with the client on the same cores: overload, and
the counts of requests). Prints a Markdown table: quantity, measured, bound. Each part takes minutes; an engine takes a
minute to start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq

from benchmarks import load, services
from benchmarks.load import Answer, ask, percentile

ROOT = services.ROOT
K, PATH_TOKENS, STREAM_TOKENS = 16, 64, 64
TOKEN_S, CAPACITY = 0.02, 32
PAGE_K = 8
"""Paths that the page asks for by default."""
REST_S = 0.5
"""Pause before a turn: the other side's engine may still be busy on the same cores."""
ASKED = {"question": load.QUESTION, "k": 8, "early_stop": False}
Rows = Iterator[tuple[str, str, str]]
"""(quantity, measured, bound)."""


def note(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def questions(count: int) -> list[str]:
    """Different questions for all requests, so that no prefix cache helps one side."""
    rng = random.Random(0)
    names = ["Tom", "Ana", "Lily", "Ben", "Mia", "Sam"]
    return [
        f"{rng.choice(names)} has {rng.randint(2, 99)} boxes of {rng.randint(2, 99)} nuts and "
        f"{rng.randint(2, 99)} jars of {rng.randint(2, 99)} nuts. How many nuts are there? Explain step by step."
        for _ in range(count)
    ]


# --- Against the engine alone ---------------------------------------------------------------------


def chat(question: str, tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": question}
    return {"model": services.MODEL, "messages": [message], "temperature": 0, "max_completion_tokens": tokens}


def engine(options: argparse.Namespace) -> Rows:
    """Tokens a second of 8 simultaneous streams, and time to the first token, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        run = services.make_run(Path(folder))
        with services.rft_service(run) as mine, services.plain_vllm(Path(folder, "model"), 200) as plain:
            note("both engines answer")
            yield from asyncio.run(_against_vllm(mine.url, plain.url, options))


async def _against_vllm(mine: str, plain: str, options: argparse.Namespace) -> Rows:
    async with load.client(mine) as ours, load.client(plain) as theirs:
        sides = {"ours": ours, "vllm": theirs}
        for session in sides.values():  # an engine's first answers are slow
            await _streams(session, questions(8), 8)
        speed: dict[str, list[float]] = {"ours": [], "vllm": []}
        loaded: dict[str, list[float]] = {"ours": [], "vllm": []}
        alone: dict[str, list[float]] = {"ours": [], "vllm": []}
        unused = iter(questions(100 * options.rounds))
        for turn in range(options.rounds):
            block, single = [next(unused) for _ in range(16)], [next(unused) for _ in range(8)]
            for name in _in_order(sides, turn):
                await asyncio.sleep(REST_S)
                began = time.monotonic()
                answers = await _streams(sides[name], block, 8)
                speed[name].append(sum(answer.tokens for answer in answers) / (time.monotonic() - began))
                loaded[name] += [answer.first_s for answer in answers]
            for number, question in enumerate(single):
                for name in _in_order(sides, number):
                    await asyncio.sleep(REST_S)
                    alone[name].append((await load.stream_chat(sides[name], chat(question, 4))).first_s)
            note(f"round {turn + 1}: {speed['ours'][-1]:.0f} against {speed['vllm'][-1]:.0f} tokens/s")
    return iter(_engine_rows(speed, alone, loaded))


def _engine_rows(
    speed: dict[str, list[float]], alone: dict[str, list[float]], loaded: dict[str, list[float]]
) -> list[tuple[str, str, str]]:
    ratio = statistics.median(mine / plain for mine, plain in zip(speed["ours"], speed["vllm"], strict=True))
    both = [f"{statistics.median(speed[name]):.0f}" for name in ("ours", "vllm")]
    rows = [("throughput, 8 streams, against `vllm serve`", f"{ratio:.2f} ({' : '.join(both)} tokens/s)", ">= 0.95")]
    for what, seconds in (("alone", alone), ("8 streams", loaded)):
        mine, plain = (statistics.median(seconds[name]) for name in ("ours", "vllm"))
        measured = f"{mine / plain:.2f} ({mine * 1e3:.0f} : {plain * 1e3:.0f} ms, medians)"
        rows.append((f"time to first token, {what}, against `vllm serve`", measured, "<= 1.1"))
    return rows


def _in_order(sides: dict[str, Any], turn: int) -> list[str]:
    return sorted(sides, reverse=bool(turn % 2))


async def _streams(session: aiohttp.ClientSession, asked: list[str], workers: int) -> list[Answer]:
    """The answers of all questions as streams, `workers` at once."""
    waiting, answers = iter(asked), list[Answer]()

    async def work() -> None:
        for question in waiting:
            answers.append(await load.stream_chat(session, chat(question, STREAM_TOKENS)))

    await asyncio.gather(*(work() for _ in range(workers)))
    return answers


def solve(options: argparse.Namespace) -> Rows:
    """Seconds per token of 16 paths, through the service and from vLLM in this process, in turns."""
    with tempfile.TemporaryDirectory() as folder, services.rft_service(services.make_run(Path(folder))) as service:
        note("the service answers")
        yield asyncio.run(_against_engine(service.url, Path(folder, "model"), options))


async def _against_engine(url: str, model: Path, options: argparse.Namespace) -> tuple[str, str, str]:
    raw = _raw_engine(model)
    spent: dict[str, list[float]] = {"ours": [], "raw": []}
    async with load.client(url) as session:

        async def through(question: str) -> int:
            body = {"question": question, "k": K, "early_stop": False, "max_tokens": PATH_TOKENS}
            return (await ask(session, load.SOLVE, body)).tokens

        sides: dict[str, Callable[[str], Awaitable[int]]] = {"ours": through, "raw": raw}
        for number, question in enumerate(questions(4 * options.rounds + 1)):
            for name in _in_order(sides, number):
                began = time.monotonic()
                tokens = await sides[name](question)
                if number:  # an engine's first answers are slow
                    spent[name].append((time.monotonic() - began) / tokens * 1e3)
    ratio = statistics.median(mine / plain for mine, plain in zip(spent["ours"], spent["raw"], strict=True))
    both = " : ".join(f"{statistics.median(spent[name]):.2f}" for name in ("ours", "raw"))
    return f"`/solve` k={K} against vLLM alone, n={K}", f"{ratio:.2f} ({both} ms/token)", "<= 1.1"


def _raw_engine(model: Path) -> Callable[[str], Awaitable[int]]:
    """A function question -> tokens of 16 samples, from vLLM's engine without a server."""
    os.environ.update(services.THREADS)
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from rft_ray import config
    from serve.replicas import model_server
    from serve.run_models import Resources

    resources = Resources(gpu=False, cpus=2, replicas=1, max_tokens=PATH_TOKENS, max_model_len=services.MAX_MODEL_LEN)
    wanted = model_server._engine_kwargs(config.Engine.model_validate(services.ENGINE), resources)
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **wanted))
    final = RequestOutputKind.FINAL_ONLY
    params = SamplingParams(n=K, temperature=0.7, top_p=1.0, max_tokens=PATH_TOKENS, output_kind=final)

    async def generate(question: str) -> int:
        prompt, tokens = config.Prompt().template.format(query=question), 0
        async for output in llm.generate(prompt, params, f"raw-{time.monotonic_ns()}"):
            tokens += sum(len(one.token_ids) for one in output.outputs)
        return tokens

    return generate


def saving(options: argparse.Namespace) -> Rows:
    """Tokens and seconds of k=16 with and without early stopping, for problems of a finished run."""
    _check_demo(options.demo)
    asked = _sorted_questions(options.demo)[: 10 * options.rounds]
    with services.rft_service(options.demo, "--model", "tiny-m") as service:
        early, whole = asyncio.run(_early_and_whole(service.url, asked))
    tokens = 1 - sum(answer.tokens for answer in early) / sum(answer.tokens for answer in whole)
    seconds = 1 - sum(answer.seconds for answer in early) / sum(answer.seconds for answer in whole)
    what = f"saved by early stopping, k={K}, tiny-m-rft, {len(asked)} problems"
    yield what, f"{tokens:.1%} of the tokens, {seconds:.1%} of the time", ""


def _check_demo(run: Path) -> None:
    if not (run / "summary.json").is_file():
        raise SystemExit(f"--demo {run} has no finished run: `make demo` makes one")


def _sorted_questions(run: Path) -> list[str]:
    newest = max((run / "problems").glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    return sorted({row["question"] for row in pq.read_table(newest).to_pylist()})


async def _early_and_whole(url: str, asked: list[str]) -> tuple[list[Answer], list[Answer]]:
    answers: tuple[list[Answer], list[Answer]] = ([], [])
    async with load.client(url) as session:
        await ask(session, load.SOLVE, {"question": asked[0], "k": K})
        for number, question in enumerate(asked):
            for early in (True, False) if number % 2 else (False, True):
                answer = await ask(session, load.SOLVE, {"question": question, "k": K, "early_stop": early})
                answers[not early].append(answer)
    return answers


def compare(options: argparse.Namespace) -> Rows:
    """Seconds until three models on the same CPUs have answered the page's question: at once and one after another."""
    _check_demo(options.demo)
    with services.rft_service(options.demo, "--stage", "compare") as service:
        spent = asyncio.run(_compared(service.url, options))
    ratio = statistics.median(many / single for many, single in zip(spent["at once"], spent["in turn"], strict=True))
    both = " : ".join(f"{statistics.median(seconds):.1f}" for seconds in spent.values())
    spread = " : ".join(f"{min(seconds):.1f} to {max(seconds):.1f}" for seconds in spent.values())
    yield f"three models at once against one after another, k={PAGE_K}", f"{ratio:.2f} ({both} s; {spread})", ""


async def _compared(url: str, options: argparse.Namespace) -> dict[str, list[float]]:
    async with load.client(url) as session:
        models = [model["id"] for model in (await (await session.get("/v1/models")).json())["data"]]

        async def stream(model: str, question: str) -> None:
            body = {"question": question, "model": model, "k": PAGE_K, "temperature": 0.7, "early_stop": True}
            answer = await ask(session, load.SOLVE, body | {"stream": True, "deltas": True})
            assert answer.status == 200, answer

        async def at_once(question: str) -> None:
            await asyncio.gather(*(stream(model, question) for model in models))

        async def in_turn(question: str) -> None:
            for model in models:
                await stream(model, question)

        spent: dict[str, list[float]] = {"at once": [], "in turn": []}
        sides = {"at once": at_once, "in turn": in_turn}
        for number, question in enumerate(_sorted_questions(options.demo)[: 2 * options.rounds + 1]):
            for name in _in_order(sides, number):
                await asyncio.sleep(REST_S)
                began = time.monotonic()
                await sides[name](question)
                if number:  # an engine's first answers are slow
                    spent[name].append(time.monotonic() - began)
    return spent


# --- Under load -----------------------------------------------------------------------------------


def scripted(options: argparse.Namespace) -> Rows:
    """Mixed requests, whose counts by client and server must agree; then ten times the engine's capacity."""
    with services.scripted(TOKEN_S, CAPACITY) as service:
        note("the scripted engine answers")
        mine, theirs = asyncio.run(_counts(service.url, options.requests))
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(mine.items()))
        same = "the same" if mine == theirs else f"server: {dict(sorted(theirs.items()))}"
        yield f"{mine.total():,} mixed requests, client's counts = server's", f"{counts}: {same}", "exactly"
        yield from asyncio.run(_overload(service, options.seconds))


async def _overload(service: services.Service, seconds: float) -> Rows:
    async with load.client(service.url) as session:
        await load.closed_loop(lambda: ask(session, load.SOLVE, ASKED), 1, 3)
        quiet = await load.closed_loop(lambda: ask(session, load.SOLVE, ASKED), 1, max(20.0, seconds / 6))
        full = await load.closed_loop(lambda: ask(session, load.SOLVE, ASKED), CAPACITY // ASKED["k"], 10)
        capacity = sum(answer.status == 200 for answer in full) / 10
        refused = await load.closed_loop(lambda: ask(session, load.SOLVE, {"question": ""}), 8, 5)
        note(f"capacity {capacity:.1f} requests/s; {10 * capacity:.0f}/s for {seconds:g} s")
        memory = asyncio.ensure_future(_memory(service, seconds))
        loaded = await load.open_loop(lambda due: ask(session, load.SOLVE, ASKED, due=due), 10 * capacity, seconds)
        usual, ended = percentile((answer.seconds for answer in quiet), 0.99), time.monotonic()
        while (after := await ask(session, load.SOLVE, ASKED)).status != 200 or after.seconds > 2 * usual:
            await asyncio.sleep(0.05)
        recovered = time.monotonic() - ended
    return iter(_overload_rows(quiet, loaded, await memory, (capacity, len(refused) / 5), recovered))


async def _memory(service: services.Service, seconds: float) -> list[float]:
    """The service's memory in MiB, thirty times during the load."""
    samples = []
    for _ in range(30):
        await asyncio.sleep(seconds / 31)
        samples.append(service.memory_mib())
    return samples


def _overload_rows(
    quiet: list[Answer], loaded: list[Answer], memory: list[float], rates: tuple[float, float], recovered: float
) -> list[tuple[str, str, str]]:
    capacity, refusals = rates
    rejected = [answer.seconds for answer in loaded if answer.status == 429]
    admitted = [answer.seconds for answer in loaded if answer.status == 200]
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(load.outcomes(loaded).items()))
    usual, now = (percentile(seconds, 0.99) for seconds in ([answer.seconds for answer in quiet], admitted))
    p50, p99 = (percentile(rejected, share) * 1e3 for share in (0.5, 0.99))
    third = len(memory) // 3
    before, after = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    return [
        ("refusals a second of this machine's HTTP path, 8 clients", f"{refusals:.0f}/s", ""),
        (f"offered {10 * capacity:.0f}/s, ten times the capacity of {capacity:.1f}/s", counts, "all answered"),
        ("rejection, p50 and p99", f"{p50:.0f} ms, {p99:.0f} ms", "p99 <= 100 ms"),
        ("admitted, p99 against unloaded", f"{now / usual:.2f} ({now * 1e3:.0f} : {usual * 1e3:.0f} ms)", "<= 2"),
        ("memory, last third against middle third", f"{after / before:.3f} ({before:.0f} -> {after:.0f} MiB)", "flat"),
        ("recovery after the load", f"{recovered:.1f} s", "<= 5 s"),
    ]


async def _counts(url: str, requests: int) -> tuple[Any, Any]:
    async with load.client(url) as session:
        before = await load.counted(session)
        answers = await load.mixed(session, requests, workers=48)
        after = await load.counted(session)
        after.subtract(before)
        return load.outcomes(answers), +after


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "engine": engine,
    "solve": solve,
    "saving": saving,
    "compare": compare,
    "scripted": scripted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="one part (may be repeated)")
    parser.add_argument("--rounds", type=int, default=6, help="turns of engine, solve, saving and compare")
    parser.add_argument("--seconds", type=float, default=180, help="duration of the overload in `scripted`")
    parser.add_argument("--requests", type=int, default=20_000, help="mixed requests in `scripted`")
    parser.add_argument("--demo", type=Path, default=ROOT / "runs/demo", help="a finished run, for saving and compare")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are ended too
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | measured | bound |\n|-|-|-|", flush=True)
    for name in options.only or PARTS:
        note(name)
        for row in PARTS[name](options):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

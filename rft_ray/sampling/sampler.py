"""One shard of completions: requests to an engine, its answers as rows, and their commit."""

from __future__ import annotations

import importlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from importlib import metadata as packages
from operator import add
from typing import Any

from rft_ray import config
from rft_ray.config.hardware import card_of_device
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.records import SKIPPED, Completion, to_table
from rft_ray.runtime import actor_pool
from rft_ray.runtime.collector import heavy_imports
from rft_ray.runtime.metrics import SamplerMetrics
from rft_ray.sampling import places, quarantine
from rft_ray.sampling.engine import Answered, EngineDied, Misbehaved, Request, Unavailable, Usage
from rft_ray.sampling.engine_host import EngineHost, NotHere, RandomSource, Unloadable, open_engine
from rft_ray.sampling.engine_load import EngineLoads
from rft_ray.sampling.in_flight import UNBOUNDED, Gate, InFlight, sequences_of
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.supervisor import Decision, Supervisor
from rft_ray.sampling.supervisor_client import SupervisorClient
from rft_ray.sampling.tracker import label_of
from rft_ray.store import Store
from rft_ray.store.outages import through_outages
from rft_ray.store.shards import Shard, key_to_write, shard_metadata
from rft_ray.store.tables import commit_through_outages, noted

ASK_AGAIN_S = 1.0
"""How often a sampler that waits asks the supervisor whether it still is to wait."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of one shard. Example: Asked([Request(problem, "Question: …", 0, 20)], {})"""

    requests: list[Request]
    made_from: dict[str, str] = field(default_factory=dict)
    """Stem -> identity of the tables that the requests were made from; empty where these are problems."""


Ask = Callable[[Store, SamplingJob, Shard], Asked]
"""Makes the requests of a shard."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The completions of one shard: where their randomness came from, and the seconds that the engine took."""

    rows: list[Completion]
    made_from: Mapping[str, str]
    """As in `Asked`."""
    source: RandomSource
    seconds: float
    usage: Usage | None = None
    """The tokens that an endpoint charges for; None for an engine of this run's own."""

    def counts(self) -> dict[str, int]:
        """Completions sampled and skipped, tokens sampled, and tokens charged; recorded with the shard."""
        sampled = [row for row in self.rows if row.finish_reason != SKIPPED]
        return {
            "sampled": len(sampled),
            "skipped": len(self.rows) - len(sampled),
            "tokens": sum(row.completion_tokens for row in sampled),
            **(asdict(self.usage) if self.usage else {}),
        }


class Sampler:
    """Samples and commits shards, several at once, each in a thread of its caller's."""

    def __init__(
        self,
        store: Store,
        jobs: Sequence[SamplingJob],
        engine: config.Engine,
        gpu: bool,
        run_seed: int,
        supervisor: Any = None,
        endpoints: Mapping[str, config.Endpoint] | None = None,
        ask: Ask | None = None,
        round_number: int = 1,
        bounds: InFlight = UNBOUNDED,
    ) -> None:
        """`endpoints`: name -> endpoint of the models that are behind one. `ask`: makes the requests of a shard; None:
        `ask_problems`. `round_number`: of the execution over shards, as the supervisor counts them. `bounds`: what
        the engine may have at once.

        Returns only when this place can load one of the models of the round, or the round is over.

        `supervisor`: the handle of a Supervisor actor. None, for use outside Ray: a Supervisor in this process.
        """
        self._store = store
        self._jobs = {job.fingerprint: job for job in jobs}
        self._ask = ask or ask_problems
        self._gate = Gate(bounds)
        self._metrics = SamplerMetrics()
        self._supervisor = SupervisorClient(
            supervisor or Supervisor(store, engine.max_failures, engine.max_quarantined, quarantine.failures(store)),
            sampler=actor_pool.actor_id(),
            process=uuid.uuid4().hex,
            place=places.here(),
            number=round_number,
        )
        while self._supervisor.is_remote and not self._supervisor.may_start():
            time.sleep(ASK_AGAIN_S)
        sampling = jobs[0].settings  # its engine and max_model_len are those of every job: `sample` checks it
        self._stateless = sampling.engine == "openai"
        """Whether a failure on one shard leaves the engine usable: an endpoint's process is not ended for it."""
        self._environment = environment(engine, sampling.engine, gpu)
        self._loads = EngineLoads(self._metrics.engine)
        self._host = EngineHost(
            self._store,
            self._supervisor,
            partial(open_engine, engine, sampling, endpoints or {}, self._spent, gpu=gpu, loads=self._loads),
            needs_folder=sampling.engine == "vllm",
            stall_s=engine.stall_seconds,
            run_seed=run_seed,
            on_leave=lambda model: self._metrics.left(model.name),
        )

    def __call__(self, shard: Shard) -> SampleReceipt:
        """Sample a shard: the given one, or the one that the supervisor gives out instead."""
        while True:
            turn = self._turn(shard)
            if turn is None:
                return SampleReceipt("", refusal="none")
            taken, decision, reason = turn
            try:
                receipt = self._handled(taken, decision, reason)
            except NotHere:
                self._supervisor.give_back(taken.stem)
                continue
            finally:
                self._gate.leave(self._sequences(taken))
            self._supervisor.finished(taken.stem)
            return receipt

    def _turn(self, shard: Shard) -> tuple[Shard, Decision, str] | None:
        """What this thread works on, how and why, once the engine has room for it; None where all is given out."""
        with self._gate.taking():
            while True:
                turn = self._supervisor.take(shard.stem)
                if turn.decision == "none":
                    return None
                if turn.decision != "wait":
                    taken = turn.shard or shard
                    self._gate.enter(self._sequences(taken))
                    return taken, turn.decision, turn.reason
                time.sleep(ASK_AGAIN_S)

    def _sequences(self, shard: Shard) -> int:
        return sequences_of(shard, self._jobs[shard.fingerprint])

    def _handled(self, shard: Shard, decision: Decision, reason: str) -> SampleReceipt:
        """Sample a shard and commit it, as the supervisor decided. Raises NotHere."""
        key = through_outages(lambda: key_to_write(self._store, shard), shard.stem)
        if key is None:
            return SampleReceipt(shard.stem)
        if decision != "shared" and decision != "exclusive":
            return SampleReceipt(shard.stem, refusal=decision, reason=reason)
        job = self._jobs[shard.fingerprint]
        try:
            exclusive = decision == "exclusive" and not self._stateless
            return self._committed(key, job, shard, self._sampled(job, shard, exclusive=exclusive))
        except EngineDied as death:
            if not (self._stateless and isinstance(death, Misbehaved)):
                self._host.end(job.model, death, shard.stem)
            self._supervisor.failed(shard.stem, str(death))
            return self._handled(shard, *self._supervisor.decide(shard.stem))  # until it is quarantined
        except NotHere:
            raise
        except Unloadable as error:
            return SampleReceipt(shard.stem, unloadable=str(error))
        except Unavailable as error:
            self._supervisor.answered(shard.stem)
            return SampleReceipt(shard.stem, unloadable=str(error))
        except Exception as failure:
            raise RuntimeError(f"{label_of(job.model)}: {failure or type(failure).__name__}") from failure

    def _sampled(self, job: SamplingJob, shard: Shard, *, exclusive: bool) -> Sampled:
        asked = through_outages(lambda: self._ask(self._store, job, shard), shard.stem)
        requests = asked.requests
        with self._host.holding(job.model, exclusive_to=shard.stem if exclusive else "") as source:
            self._supervisor.started(shard.stem)
            started = time.monotonic()
            answers = self._host.generate(requests, job.settings)
            self._supervisor.answered(shard.stem)
            seconds = time.monotonic() - started
            tokens = sum(generated.tokens for answer in answers for generated in answer.samples)
            self._metrics.sampled(job.model.name, tokens, seconds)
        rows = [row for request, answer in zip(requests, answers, strict=True) for row in completions(request, answer)]
        charged = [answer.usage for answer in answers if answer.usage]
        return Sampled(rows, asked.made_from, source, seconds, reduce(add, charged) if charged else None)

    def _spent(self, model: ModelRef) -> int:
        """The tokens charged for the committed samples of a model, prompts and completions."""
        shards = [shard for job in self._jobs.values() if job.model == model for shard in job.shards()]
        known = through_outages(lambda: list(shard_metadata(self._store, shards)), f"completions of {model.name}")
        counts = [json.loads(metadata["counts"]) for metadata in known]
        return sum(shard.get("prompt_tokens", 0) + shard.get("completion_tokens", 0) for shard in counts)

    def _committed(self, key: str, job: SamplingJob, shard: Shard, sampled: Sampled) -> SampleReceipt:
        """Commit the shard's completions, with what is known of how they were sampled."""
        counts = sampled.counts()
        metadata = {
            "model": json.dumps(asdict(job.model)),
            "settings": json.dumps(asdict(job.settings)),
            "engine": json.dumps(asdict(sampled.source)),
            "seconds": f"{sampled.seconds:.3f}",
            "ended_unix": f"{time.time():.3f}",
            "counts": json.dumps(counts),
            "environment": json.dumps(self._environment),
        }
        if load := self._loads.take():  # since the last shard: their preemptions add up to the engine's
            metadata["load"] = json.dumps(asdict(load))
        made_from = dict(sampled.made_from)
        if sampled.source.weights:
            made_from[f"models/{job.model.fingerprint}/manifest"] = sampled.source.weights
        if made_from:
            metadata |= noted(made_from)
        receipt = commit_through_outages(self._store, key, to_table(sampled.rows, Completion), metadata)
        if receipt.committed_here:
            self._metrics.committed(job.model.name, counts["sampled"], counts["tokens"])
        return SampleReceipt(shard.stem, receipt.rows)


def ask_problems(store: Store, job: SamplingJob, shard: Shard) -> Asked:
    """One request for each problem of the shard."""
    form, shots, version = job.settings.prompt, job.settings.shots, job.settings.shots_version
    problems = read_problems(store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]
    candidates = prompts.shots_of(read_problems(store, job.settings.shots_from), shots) if shots else []
    n = job.settings.samples_per_block
    start = (shard.sample_block or 0) * n
    asked = ((problem, prompts.build_few_shot(form, problem, candidates, shots, version)) for problem in problems)
    return Asked([Request(problem, prompt, start, n) for problem, prompt in asked])


def environment(settings: config.Engine, engine: str, gpu: bool) -> dict[str, str]:
    """What samples depend on through floating point, recorded with each shard: device, data type and versions."""
    gpus = {"gpus": str(settings.gpus)} if gpu else {}
    if engine == "scripted":
        return {"engine": engine, **gpus}
    if engine == "openai":
        return {"engine": engine, "openai": packages.version("openai")}
    with heavy_imports():
        versions = {name: str(importlib.import_module(name).__version__) for name in ("vllm", "torch")}
    card = {"card": device_name(), **gpus} if gpu else {}
    return {"engine": engine, "device": "cuda" if gpu else "cpu", "dtype": settings.dtype, **card, **versions}


def device_name() -> str:
    """This process's GPU: its name in the table of cards, or else its own.

    vLLM asks NVML for it, which does not initialise CUDA in this process.
    """
    from vllm.platforms import current_platform

    name = str(current_platform.get_device_name())
    card = card_of_device(name)
    return card.name if card else name


def completions(request: Request, answer: Answered) -> list[Completion]:
    """The rows of one answered request: n completions, or n rows that are marked as skipped."""

    def row(index: int, text: str, finish_reason: str, tokens: int) -> Completion:
        return Completion(
            request.problem.problem_id, request.sample_start + index, text, finish_reason, answer.prompt_tokens, tokens
        )

    if not answer.samples:
        return [row(i, "", SKIPPED, 0) for i in range(request.n)]
    return [
        # a lone surrogate has no UTF-8 form, so it could not be stored: it is replaced by "?"
        row(i, sample.text.encode("utf-8", "replace").decode(), sample.finish_reason, sample.tokens)
        for i, sample in enumerate(answer.samples)
    ]

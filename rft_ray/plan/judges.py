"""The jobs of a judge of rejected completions: config and verdict jobs -> judgement jobs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rft_ray.config import Config, Endpoint
from rft_ray.data import prompts
from rft_ray.plan.jobs import JudgementJob, JudgeSampling, ModelRef, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings

JUDGE = "judge of rejects"
"""The name of the judge in its jobs and in `bases` of `make_plan`. A model of the config has no spaces in its name."""


def judge_endpoints(config: Config) -> dict[str, Endpoint]:
    """Name -> endpoint of the judge, where it is behind one."""
    judge = config.grading.judge
    return {JUDGE: judge.endpoint} if judge and judge.is_endpoint else {}


def judgement_jobs(config: Config, collected: Sequence[VerdictJob], bases: Mapping[str, str]) -> Iterator[JudgementJob]:
    """A judge's opinions on what each verdict job rejects; none without `grading.judge`."""
    judge = config.grading.judge
    if judge is None:
        return
    ref = ModelRef(JUDGE, "base", bases[JUDGE], judge.source)
    for job in collected:
        sampling = job.sampling
        settings = SamplingSettings(
            judge.temperature,
            1.0,
            judge.max_new_tokens,
            sampling.settings.samples_per_block,
            prompts.stored(judge.prompt),
            max_model_len=None if judge.is_endpoint else config.sampling.max_model_len,
            engine="openai" if judge.is_endpoint else config.sampling.engine,
            engine_arguments="" if judge.is_endpoint else config.engine.deciding_arguments,
        )
        yield JudgementJob(
            JudgeSampling(
                ref,
                sampling.problems_fingerprint,
                sampling.problems,
                sampling.problems_per_block,
                settings,
                sampling.samples_per_problem,
                sampling.seed,
                judged=job,
                statuses=judge.statuses,
            )
        )

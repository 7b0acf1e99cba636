"""Sample any model on a file of prompts: resumable, without a run's config.

    rft-ray sample --prompts prompts.jsonl --model hub:HuggingFaceTB/SmolLM2-135M-Instruct --n 16 --out runs/samples
    rft-ray sample --prompts prompts.csv --model openai:gpt-5-mini --n 4 --out runs/teacher

PROMPTS: any file of rows (docs/your-data.md). Writes a run: the completions in shards, and when all are sampled
completions.jsonl and completions.parquet, a row for each prompt in the order of the file, and summary.json. Running it
again samples only what is missing; a larger --n that is a multiple of the run's samples per block keeps the samples
that are there and adds to them; other numbers sample anew, which the command says first. Keys of the config can be
given as in --sampling.max_model_len=4096, --engine.max_actors=8, --endpoint.base_url=http://host/v1,
--prompt.chat_kwargs='{enable_thinking: false}' and --run.base_weights=store (docs/configuration.md, docs/teachers.md).

Exit codes: 0 done, 1 samples are missing, 2 the prompts, the model or the store cannot be used, 130 stopped by Ctrl-C,
143 stopped by SIGTERM (docs/run.md).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rft_ray.cli.job import carry_out, check_other_run, check_writable, start
from rft_ray.config import ALPACA, ENDPOINT, Config, ConfigError, load
from rft_ray.config.section import NAME

if TYPE_CHECKING:
    from rft_ray.data.prompt_rows import PromptFile
    from rft_ray.evaluation.sample_summary import SampleSummary
    from rft_ray.plan.jobs import SamplingJob
    from rft_ray.store import Store

KINDS = ("chat", "template", "raw")
MOST_PER_BLOCK = 20
"""Samples per request and shard at most, where --samples-per-block does not say."""
LARGEST_BLOCK = 1000
"""Samples per block up to which a run is searched for samples to keep, next to blocks of up to --n."""
OPTIONS = {
    "sampling.temperature": "--temperature",
    "sampling.top_p": "--top-p",
    "sampling.max_new_tokens": "--max-tokens",
    "sampling.samples_per_block": "--samples-per-block",
    "run.seed": "--seed",
    "prompt.template": "--template",
}
"""Key of a run's config -> the option that sets it."""
SECTIONS = ("--sampling.", "--engine.", "--endpoint.", "--prompt.chat_kwargs", "--run.base_weights=")


def main(argv: Sequence[str], prog: str = "rft-ray sample") -> int:
    """Run the job and return its exit code."""
    options, settings = arguments(argv, prog)
    return carry_out(lambda: prepare(options, settings))


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` settings."""
    parser = _parser(prog)
    options, settings = parser.parse_known_args(argv)
    for setting in settings:
        if not setting.startswith(SECTIONS) or "=" not in setting:
            parser.error(f"unknown argument {setting!r}; settings are written --engine.key=value, --endpoint.key=value")
    block = 1 if options.samples_per_block is None else options.samples_per_block
    if min(options.n, options.prompts_per_block, block) < 1:
        parser.error("--n, --prompts-per-block and --samples-per-block must be at least 1")
    if options.template is not None and options.kind not in (None, "template"):
        parser.error(f"--template belongs to --kind template, not to --kind {options.kind}")
    if options.name is None:
        last = re.split("[/:]", options.model.rstrip("/"))[-1].partition("@")[0]
        options.name = re.sub("[^A-Za-z0-9._-]+", "-", last)[:64].strip("-.")
    if not NAME.fullmatch(options.name):
        parser.error(f"--name {options.name!r}: use letters, digits, '.', '_' and '-'")
    return options, settings


def _parser(prog: str) -> argparse.ArgumentParser:
    from rft_ray.data.prompt_rows import COLUMNS_HELP

    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, epilog=COLUMNS_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompts", required=True, metavar="FILE", help="file, folder or glob of prompts, local or s3://")
    add("--model", required=True, metavar="SOURCE", help="hub:<id>, a local folder, tiny:<name>, openai:<model>, …")
    add("--out", required=True, metavar="RUN", help="local folder or s3://bucket/prefix of the run")
    add("--n", type=int, default=1, metavar="N", help="samples of each prompt (default: %(default)s)")
    add("--temperature", type=float, default=0.7, metavar="T", help="0: the likeliest tokens (default: %(default)s)")
    add("--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling (default: %(default)s)")
    add("--max-tokens", type=int, default=512, metavar="N", help="tokens of a completion (default: %(default)s)")
    add("--kind", choices=KINDS, help="chat: the model's own chat format; template: --template; raw: the text as it is")
    add("--template", metavar="TEXT", help="for --kind template, with {query} (default: Alpaca's)")
    add("--system", default="", metavar="TEXT", help="with --kind chat: system text before every prompt")
    add("--column", metavar="NAME", help="column of the prompt (default: see below)")
    add("--name", metavar="NAME", help="name of the model in the files (default: the last part of SOURCE)")
    add("--seed", type=int, default=0, metavar="N", help="seed: another one draws other samples (default: %(default)s)")
    add("--samples-per-block", type=int, metavar="N", help="samples per request and shard; divides --n")
    add("--prompts-per-block", type=int, default=50, metavar="N", help="prompts per shard (default: %(default)s)")
    add("--dry-run", action="store_true", help="print the plan and the first prompt; start nothing, write nothing")
    return parser


def prepare(options: argparse.Namespace, settings: Sequence[str]) -> Callable[[], None] | None:
    """Read and check everything. Returns the job's work as a function, or None after a dry run."""
    from rft_ray.data import base_models, hub_records
    from rft_ray.data.prompt_rows import read_prompts
    from rft_ray.evaluation.sample_summary import JOB
    from rft_ray.store import mark_run, open_store
    from rft_ray.store.plans import recorded_sources
    from rft_ray.store.run_lock import run_lock

    store = open_store(options.out)
    hub_records.recall(store, data=False)
    config, pins = base_models.pin(config_of(options, settings), recorded_sources(store))
    file = read_prompts(options.prompts, column=options.column, per_block=options.prompts_per_block)
    job = resumed(sampling_job(options, config, file), store, given=options.samples_per_block is not None)
    check_greedy(job)
    check_other_run(store, JOB)
    for line in hub_records.moved(pins):
        print(f"note: {line}")
    if options.dry_run:
        check_writable(store)
        show_plan(job, file, store)
        return None
    store.check()
    mark_run(store)

    def work() -> None:
        show_plan(job, file, store)
        save({**vars(options), "settings": list(settings)}, job, pins, store)
        with run_lock(store, "job"):
            summary = run(config, job, file, store)
        show(summary, store)

    return work


def config_of(options: argparse.Namespace, settings: Sequence[str]) -> Config:
    """The config that a run with these samples would have. Raises ConfigError."""
    model = {"name": options.name, "source": options.model, "rft": False}
    given = {
        "samples_per_problem": options.n,
        "samples_per_block": options.samples_per_block or per_block(options.n),
        "top_p": options.top_p,
        "max_new_tokens": options.max_tokens,
        **({"temperature": options.temperature} if options.temperature else {}),
    }
    overrides = [f"--models={json.dumps([model])}", f"--sampling={json.dumps(given)}", f"--run.seed={options.seed}"]
    overrides.append(f"--prompt={json.dumps(prompt_of(options))}")
    renamed = [setting.replace("--endpoint.", "--models.0.endpoint.", 1) for setting in settings]
    try:
        return load(None, [*overrides, *renamed])
    except ConfigError as error:  # it names the keys of a run's config, not those that were given
        message = re.sub(r"\bmodels\.[0*]\.endpoint\b", "endpoint", str(error))
        message = message.replace("sampling: samples_per_problem=", "--n ")
        message = message.replace("samples_per_block=", "--samples-per-block ")
        for key, option in OPTIONS.items():
            if not any(setting.startswith(f"--{key}=") for setting in settings):
                message = message.replace(f"{key}: ", f"{option}: ")
        raise ConfigError(message) from None


def per_block(n: int) -> int:
    """The largest number of samples per block that divides n. Example: 32 -> 16"""
    return max(size for size in range(1, MOST_PER_BLOCK + 1) if n % size == 0)


def resumed(job: SamplingJob, store: Store, *, given: bool) -> SamplingJob:
    """The job in the blocks of samples that the store holds most of, where they divide its samples.

    `given`: whether the user has set the samples per block, which then stay. Prints a note where the store holds such
    samples in other blocks only, of which none are kept: the size of a block is part of the names of the shards.
    """
    there = blocks_there(job, store)
    whole = [size for size in there if job.samples_per_problem % size == 0]
    if whole and not given:
        return in_blocks(job, max(whole, key=lambda size: (there[size], size)))
    own = job.settings.samples_per_block
    if there and own not in there:
        size = max(there, key=lambda size: (there[size], size))
        print(
            f"note: {store.url} holds samples of these prompts in blocks of {size}, which are not kept: all are "
            f"sampled anew in blocks of {own}. To keep them, give a multiple of {size} as --n, and "
            f"--samples-per-block {size} or none"
        )
    return job


def check_greedy(job: SamplingJob) -> None:
    """Raises ConfigError for several greedy samples in one request, which vLLM refuses: they would be the same."""
    settings = job.settings
    if settings.engine == "vllm" and not settings.temperature and settings.samples_per_block > 1:
        raise ConfigError(
            f"--temperature 0 takes the likeliest tokens, so that all {job.samples_per_problem} samples of a prompt "
            "would be the same: leave out --n, or give a temperature above 0"
        )


def in_blocks(job: SamplingJob, samples: int) -> SamplingJob:
    """The same samples in blocks of another size, whose shards have other names."""
    return replace(job, settings=replace(job.settings, samples_per_block=samples))


def blocks_there(job: SamplingJob, store: Store) -> dict[int, int]:
    """Samples per block -> number of committed shards with samples as the job's, whatever the job's own blocks are."""
    from rft_ray.store.names import committed_files
    from rft_ray.store.plans import recipe_of

    folder = next(job.shards()).folder
    names = Counter(recipe_of(key) for key in committed_files(store.list(folder)).values())
    sizes = range(1, max(job.samples_per_problem, LARGEST_BLOCK) + 1) if names else ()
    found = {size: names[in_blocks(job, size).fingerprint] for size in sizes}
    return {size: count for size, count in found.items() if count}


def sampling_job(options: argparse.Namespace, config: Config, file: PromptFile) -> SamplingJob:
    """The job, whose fingerprint holds model, prompts and settings. Raises ModelError and ConfigError."""
    from rft_ray.data import base_models, prompts
    from rft_ray.plan.jobs import ModelRef, SamplingJob
    from rft_ray.plan.sampling_settings import settings_of

    [model], sampling = config.models, config.sampling
    settings = settings_of(config, prompts.stored(config.prompt), endpoint=model.is_endpoint)
    if not options.temperature:
        settings = replace(settings, temperature=0.0)
    return SamplingJob(
        model=ModelRef(model.name, "base", base_models.fingerprint(model.source), model.source),
        problems_fingerprint=file.prompts.fingerprint,
        problems=file.prompts.count,
        problems_per_block=options.prompts_per_block,
        settings=settings,
        samples_per_problem=sampling.samples_per_problem,
        seed=options.seed,
    )


def prompt_of(options: argparse.Namespace) -> dict[str, str]:
    """The config's section `prompt`. Raises ConfigError, and ModelError where the model's files cannot be used."""
    from rft_ray.data.base_models import has_chat_template

    def has_chat() -> bool:
        return options.model.startswith(ENDPOINT) or has_chat_template(options.model)

    kind = options.kind
    if kind is None:
        kind = "template" if options.template is not None else "chat" if options.system or has_chat() else "template"
    if kind == "chat":
        if not has_chat():
            raise ConfigError(f"{options.model} has no chat template: use --kind template or --kind raw")
        return {"kind": "chat", "system": options.system}
    if options.system:
        raise ConfigError(f"--system belongs to --kind chat: put the text into --template instead (kind: {kind})")
    given = ALPACA if options.template is None else options.template
    return {"kind": "template", "template": "{query}" if kind == "raw" else given}


def show_plan(job: SamplingJob, file: PromptFile, store: Store) -> None:
    """Print what is to be sampled, and the first prompt as the model gets it."""
    from rft_ray.data import prompts
    from rft_ray.store.shards import missing_shards

    if file.repeated:
        print(f"note: {file.repeated:,} rows repeat an earlier prompt: each prompt is sampled once")
    shards = list(job.shards())
    missing = len(missing_shards(store, shards))
    print(f"{job.problems:,} prompts x {job.samples_per_problem} samples of {job.model.source}")
    print(f"store: {store.url}\nshards of completions: {len(shards):,}, missing: {missing:,}")
    first = prompts.build(job.settings.prompt, file.prompts.problems[0].question)
    text = first if isinstance(first, str) else json.dumps(first.as_data(), ensure_ascii=False)
    print(f"the first prompt:\n{text}", flush=True)


def save(options: Mapping[str, object], job: SamplingJob, pins: Mapping[str, str], store: Store) -> None:
    """Commit the plan to the run, unless it is saved there. `pins`: source -> the source with a commit."""
    from rft_ray.data import hub_records
    from rft_ray.store.plans import SOURCE, save_plan

    hub_records.record(store, [job.model.source])
    data = {"prompts": job.problems_fingerprint, f"model {job.model.name}": job.model.fingerprint}
    data |= {f"{SOURCE}{source}": pinned for source, pinned in pins.items()}
    save_plan(store, [job], job="sample", config=json.dumps(options, indent=1, ensure_ascii=False), data=data)


def run(config: Config, job: SamplingJob, file: PromptFile, store: Store) -> SampleSummary:
    """Sample what is missing, on Ray, and write the views. Returns the summary as written. Raises StageError."""
    from rft_ray.data.problems import commit_problems
    from rft_ray.evaluation.sample_summary import summarize
    from rft_ray.runtime.base_weights import commit_bases
    from rft_ray.sampling.prompt_order import write_in_prompt_order
    from rft_ray.sampling.stage import sample
    from rft_ray.store.shards import missing_shards

    commit_problems(store, file.prompts)
    if missing_shards(store, job.shards()):
        start(store)
        if config.run.base_weights == "store":
            commit_bases(store, {job.model.source: job.model.fingerprint})
        try:
            sample([job], store, config.engine, run_seed=config.run.seed, endpoints=config.endpoints)
        finally:
            store.replace("summary.json", summarize(store, job, config.endpoints.get(job.model.name)).as_json())
    summary = summarize(store, job, config.endpoints.get(job.model.name))
    store.replace("summary.json", summary.as_json())
    write_in_prompt_order(store, job, file.prompts.problems)
    return summary


def show(summary: SampleSummary, store: Store) -> None:
    """Print the figures of the samples, and where they are."""
    parts = [f"{summary.sampled:,} samples", f"{summary.tokens:,} tokens", f"{summary.tokens_per_s:,.0f} tokens/s"]
    if summary.skipped:
        parts.append(f"{summary.skipped:,} skipped: their prompts exceed the model's context")
    if summary.missing:
        parts.append(f"{summary.missing:,} missing, quarantined")
    print(", ".join(parts))
    if charged := summary.charged:
        cost = "" if charged.cost is None else f", cost {charged.cost:,.2f}"
        print(f"charged: {charged.prompt_tokens:,} prompt and {charged.completion_tokens:,} completion tokens{cost}")
    for place in summary.bad_places:
        print(f"not used: {place.place} could not load the model: {place.reason}")
    print(f"finished: {store.url}/completions.jsonl and completions.parquet")

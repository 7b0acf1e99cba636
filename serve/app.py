"""Serve the models of a finished run: run URL -> OpenAI's API and `POST /solve` over HTTP.

    python -m serve.app runs/demo [--model NAME] [--stage compare] [--port 8000] [--host 127.0.0.1]
    python -m serve.app --newest runs         # the default
    serve run serve.app:build run=s3://bucket/runs/demo device=gpu

The first two start a Ray of their own (or join one with `--address`), run until SIGTERM or Ctrl-C, and end only what
they started. `build` is the application builder for `serve run`, `serve deploy` and a RayService (`import_path`). API
keys come from `--api-keys-file`, RFT_API_KEYS_FILE or RFT_API_KEYS; without keys only loopback is served. Ray's own
token authentication does not cover Serve's HTTP; Serve's proxy itself answers `/-/healthz` and `/-/routes` (names
only).
"""

# no `from __future__ import annotations`: Serve reads the annotation of `build`'s argument, and a string is no class
import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from math import floor
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from rft_ray.config.errors import InputError, RftError
from serve import run_models
from serve.access.api_keys import Keys, KeysError, load_keys
from serve.access.guard import is_loopback
from serve.access.rate_limits import BEYOND_LIMITS, Limits
from serve.api.schemas import MAX_PATHS, MAX_TOKENS
from serve.run_models import Resources, RunModel, RunModelsError, RunSettings
from serve.runner import run_until_stopped

if TYPE_CHECKING:
    from ray.serve import Application


RUNS = "runs"
"""Where runs are made when `run.store` is not set."""
ORIGIN = r"^(\*|https?://[A-Za-z0-9.\-\[\]:]+)$"


class Args(BaseModel):
    """The arguments of the service: the models to serve, and their resources.

    Example: Args(run="s3://bucket/runs/demo", model="tiny-m")
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    run: str
    """Folder or s3:// address of a finished run."""
    model: str | None = None
    """One model of the run; default: all models of the stage."""
    stage: Literal["sft", "rft", "base", "all", "compare"] = "rft"
    """`all`: every trained model. `compare`: RFT, SFT and base of one model."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs where the cluster has one now. A cluster that scales up from zero GPUs needs `gpu`."""
    replicas: int = Field(1, ge=1)
    """Engines per model."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Most tokens of one completion; default: the run's own limit."""
    api_keys_file: str | None = None
    ingresses: int = Field(1, ge=1)
    """Replicas of the ingress: with two, one may be lost."""
    cors_origins: list[Annotated[str, StringConstraints(pattern=ORIGIN)]] = []
    """Origins whose pages may read the answers in a browser; `*`: any."""
    requests_per_minute: int | None = Field(None, ge=1, lt=BEYOND_LIMITS)
    """Limit of each key without limits of its own in the key file; so are the next two."""
    tokens_per_minute: int | None = Field(None, ge=1, lt=BEYOND_LIMITS)
    concurrency: int | None = Field(None, ge=1, lt=BEYOND_LIMITS)

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrency)


def build(args: Args) -> "Application":
    """The Serve application of a run's models, for the Ray cluster that this runs in.

    Raises RunModelsError and KeysError. Serve reads the annotation of `args` to turn its own mapping into it.
    """
    keys = load_keys(args.api_keys_file, os.environ, args.limits)
    return _application(args, run_models.choose(args.run, args.model, args.stage), keys)


def _application(
    args: Args, models: list[RunModel], keys: Keys, *, single_process_host: str | None = None
) -> "Application":
    import ray

    from serve import ingress
    from serve.replicas import model_server
    from serve.single_process import deploy as deploy_single_process

    if args.device == "auto" and not ray.is_initialized():
        raise RunModelsError(
            "`serve run` builds the application before there is a cluster to look at: add device=cpu or device=gpu"
        )
    recorded = run_models.settings(args.run)
    cluster = ray.cluster_resources() if ray.is_initialized() else {}
    resources = _resources(args, recorded, len(models) * args.replicas, cluster)
    run = run_models.address(args.run)
    # one batch in the engines and one that waits: a third would wait longer than clients do
    capacity = max(MAX_PATHS, 2 * recorded.engine.max_num_seqs * args.replicas)
    cards = [run_models.details(run, model) for model in models]
    common: dict[str, Any] = {
        "gpu": resources.gpu,
        "capacity": capacity,
        "max_tokens": resources.max_tokens,
        "cors_origins": args.cors_origins,
    }
    if single_process_host is not None:
        start, options = model_server.in_process(models[0], run, recorded.engine, resources)
        return deploy_single_process(start, options, cards[0], keys, host=single_process_host, **common)
    deployments = {model.served_as: model_server.deploy(model, run, recorded.engine, resources) for model in models}
    return ingress.deploy(deployments, cards, keys, replicas=args.ingresses, **common)


def _resources(args: Args, recorded: RunSettings, engines: int, cluster: Mapping[str, float]) -> Resources:
    """The resources of each engine. Without GPUs, all engines share the cluster's CPUs."""
    from rft_ray.runtime.ray_cluster import uses_gpu  # imports Ray, whose variables the runner sets first

    gpus, cpus, gpu = cluster.get("GPU", 0.0), cluster.get("CPU", 0.0), uses_gpu(args.device, cluster)
    whole = recorded.engine.tensor_parallel_size * recorded.engine.pipeline_parallel_size  # engines share no GPU here
    threads, needed = recorded.engine.threads_per_actor * whole, engines * whole
    if args.device == "auto" and gpu and gpus < needed:
        raise RunModelsError(
            f"{engines} engines need {needed} GPUs, the cluster has {gpus:g}: serve one model "
            "(--stage rft --model NAME), or give --device gpu where the cluster scales up"
        )
    return Resources(
        gpu=gpu,
        cpus=min(threads, floor(10 * cpus / engines) / 10) or threads,  # no CPUs yet: the cluster scales up from zero
        replicas=args.replicas,
        max_tokens=args.max_tokens or min(MAX_TOKENS, recorded.max_tokens),
        max_model_len=recorded.max_model_len,
        sampled=recorded.sampled,
        verifier=recorded.verifier,
    )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m serve.app") -> int:
    """The command line. Exit codes: 0 (ended by a signal), 1 (the service did not start), 2 (a wrong argument).

    `prog`: the command as the user typed it.
    """
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    named = {options.run, options.run_option, options.newest} - {None}
    if len(named) > 1:
        parser.error(f"give one run, or --newest (given: {' and '.join(map(repr, sorted(named)))})")
    try:
        return _serve(options)
    except RftError as error:
        return _refuse(str(error), 2 if isinstance(error, InputError) else 1)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-").replace("cors-origins", "cors-origin")
        if first["type"] == "string_pattern_mismatch":
            return _refuse(f"--{option} {first['input']}: write an origin, as in https://app.example.org, or *", 2)
        return _refuse(f"--{option}: {first['msg']}", 2)


def _refuse(message: str, code: int) -> int:
    print(f"serve: {message}", file=sys.stderr)
    return code


def _serve(options: argparse.Namespace) -> int:
    """Check the arguments before Ray starts, then serve until a signal."""
    named = {name: value for name, value in vars(options).items() if name in Args.model_fields and name != "run"}
    run = options.run or options.run_option or run_models.newest(options.newest or RUNS)
    args = Args(run=run, **named)
    keys = load_keys(args.api_keys_file, os.environ, args.limits)
    if not keys and not is_loopback(options.host):
        raise KeysError(
            f"--host {options.host} is reachable from other machines and there are no API keys: give --api-keys-file "
            "FILE (or RFT_API_KEYS), or omit --host"
        )
    if not keys and "*" in args.cors_origins:
        raise KeysError("--cors-origin '*' allows any web page to use the models: name the origins, or give API keys")
    models = run_models.choose(args.run, args.model, args.stage)
    run_models.settings(args.run)
    names = [model.served_as for model in models]
    single_process = len(models) == args.replicas == args.ingresses == 1 and options.address is None
    engines = len(models) * args.replicas
    print(f"starting {engines} engine{'s' * (engines > 1)} of {args.run}: {', '.join(names)} …", flush=True)
    run_until_stopped(
        lambda: _application(args, models, keys, single_process_host=options.host if single_process else None),
        host=options.host,
        port=options.port,
        address=options.address,
        verbose=options.verbose,
        single_model=names[0] if single_process else None,
        ready=lambda url: print(_examples(url, names[0], bool(keys)), flush=True),
    )
    return 0


def _examples(url: str, model: str, keyed: bool) -> str:
    """Commands for the first requests."""
    header = ' -H "Authorization: Bearer $RFT_API_KEY"' if keyed else ""
    json_type = " -H 'Content-Type: application/json'"
    question = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"
    chat = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'
    return "\n".join(
        [
            f"ready: {url} (open it in a browser; Ctrl-C ends the service)",
            "",
            f'curl {url}/solve{header}{json_type} -d \'{{"question": "{question}", "k": 8}}\'',
            f"curl {url}/v1/chat/completions{header}{json_type} -d '{chat}'",
            f"curl {url}/v1/models{header}",
        ]
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Serve the models of a finished run.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="local folder or s3://bucket/prefix of a finished run")
    parser.add_argument("--run", dest="run_option", metavar="RUN", help="the same as the bare word RUN")
    parser.add_argument("--newest", metavar="FOLDER", help=f"serve the newest finished run in it (default: {RUNS})")
    parser.add_argument("--model", metavar="NAME", help="one model of the run (default: all of the stage)")
    parser.add_argument(
        "--stage",
        choices=("rft", "sft", "base", "all", "compare"),
        default="rft",
        help="default: rft; all: every trained model; compare: RFT, SFT and base of one model",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but loopback needs API keys")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--address", help="a running Ray cluster to join, or auto (default: start a Ray of its own)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--replicas", type=int, default=1, help="engines per model")
    parser.add_argument("--max-tokens", type=int, help="most tokens of one completion (default: the run's own limit)")
    parser.add_argument("--api-keys-file", metavar="FILE", help="accepted API keys, one a line (or RFT_API_KEYS_FILE)")
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="of each key (default: no limit)")
    parser.add_argument(
        "--tokens-per-minute", type=int, metavar="N", help="generated tokens of each key (default: no limit)"
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at once of each key (default: no limit)")
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        dest="cors_origins",
        metavar="ORIGIN",
        help="allow pages of this origin, like https://app.example.org, to read the answers",
    )
    parser.add_argument("--ingresses", type=int, default=1, help="replicas of the ingress")
    parser.add_argument("--verbose", action="store_true", help="show the logs of Ray and vLLM")
    return parser


if __name__ == "__main__":
    # the module objects sent to Ray must be importable there, so nothing of __main__ is sent
    sys.exit(main())

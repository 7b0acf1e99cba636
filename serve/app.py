"""Serve the models of a finished run: run URL -> OpenAI's API and `POST /solve` over HTTP.

    python -m serve.app --run runs/demo [--model NAME] [--stage compare] [--port 8000] [--host 127.0.0.1]
    python -m serve.app --newest runs
    serve run serve.app:build run=s3://bucket/runs/demo device=gpu

The first two start a Ray of their own (or join one, `--address`), run until SIGTERM or Ctrl-C, and end only what they
started. `build` is the application builder for `serve run`, `serve deploy` and a RayService (`import_path`).
API keys: `--api-keys-file`, RFT_API_KEYS_FILE or RFT_API_KEYS. Without keys only loopback is served. Ray's own token
authentication does not cover Serve's HTTP; Serve's proxy answers `/-/healthz` and `/-/routes` (names only) by itself.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from math import floor
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve import run_models
from serve.access.api_keys import Keys, KeysError, load_keys
from serve.access.guard import is_loopback
from serve.access.rate_limits import Limits
from serve.api.schemas import MAX_PATHS, MAX_TOKENS
from serve.run_models import CatalogError, Entry, Resources, Settings
from serve.runner import StartError, run_until_stopped

if TYPE_CHECKING:
    from ray.serve import Application


ORIGIN = r"^(\*|https?://[A-Za-z0-9.\-\[\]:]+)$"


class Args(BaseModel):
    """What to serve, and on what.

    Example: Args(run="s3://bucket/runs/demo", model="tiny-m")
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    run: str
    """Folder or s3:// address of a finished run."""
    model: str | None = None
    """One model of the run; default: all of the stage."""
    stage: Literal["sft", "rft", "base", "all", "compare"] = "rft"
    """`all`: every trained one. `compare`: RFT, SFT and base of one model."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs where the cluster has one now. A cluster that scales up from none needs `gpu`."""
    replicas: int = Field(1, ge=1)
    """Engines per model."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Tokens of one completion at most; default: what the run sampled with."""
    api_keys_file: str | None = None
    ingresses: int = Field(1, ge=1)
    """Replicas of the HTTP side: with two, one may be lost."""
    cors_origins: list[Annotated[str, StringConstraints(pattern=ORIGIN)]] = []
    """Origins whose pages browsers let read the answers; `*`: any."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Of each key that the key file gives no limits of its own, like the next two."""
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrency: int | None = Field(None, ge=1)

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrency)


def build(args: Args) -> Application:
    """The Serve application of a run's models, on the Ray cluster that this is called in.

    Raises CatalogError and KeysError. Serve reads the annotation of `args` at run time, to turn a mapping into it.
    """
    keys = load_keys(args.api_keys_file, os.environ, args.limits)
    return _application(args, run_models.choose(args.run, args.model, args.stage), keys)


def _application(args: Args, entries: list[Entry], keys: Keys, *, alone: bool = False) -> Application:
    import ray

    from serve import ingress
    from serve.replicas import model_server
    from serve.single_process import deploy as deploy_alone

    if args.device == "auto" and not ray.is_initialized():
        raise CatalogError("`serve run` builds before it has a cluster to look at: add device=cpu or device=gpu")
    recorded = run_models.settings(args.run)
    cluster = ray.cluster_resources() if ray.is_initialized() else {}
    resources = _resources(args, recorded, len(entries) * args.replicas, cluster)
    run = run_models.address(args.run)
    # one batch in the engines and one that waits: more would wait longer than clients do
    capacity = max(MAX_PATHS, 2 * recorded.engine.max_num_seqs * args.replicas)
    cards = [run_models.details(run, entry) for entry in entries]
    common: dict[str, Any] = {
        "seeds": resources.gpu,
        "capacity": capacity,
        "max_tokens": resources.max_tokens,
        "cors_origins": args.cors_origins,
    }
    if alone:
        return deploy_alone(*model_server.beside(entries[0], run, recorded.engine, resources), cards[0], keys, **common)
    models = {entry.served_as: model_server.deploy(entry, run, recorded.engine, resources) for entry in entries}
    return ingress.deploy(models, cards, keys, replicas=args.ingresses, **common)


def _resources(args: Args, recorded: Settings, engines: int, cluster: Mapping[str, float]) -> Resources:
    """What each engine gets. Without GPUs, engines share the CPUs that there are: they need not all fit at once."""
    gpus, cpus = cluster.get("GPU", 0.0), cluster.get("CPU", 0.0)
    threads = recorded.engine.threads_per_actor * recorded.engine.tensor_parallel_size
    needed = engines * recorded.engine.tensor_parallel_size
    if args.device == "auto" and 0 < gpus < needed:
        raise CatalogError(
            f"{engines} engines need {needed} GPUs, the cluster has {gpus:g}: serve one model (--model NAME), or say "
            "--device gpu where the cluster scales up by itself"
        )
    return Resources(
        gpu=args.device == "gpu" or (args.device == "auto" and gpus > 0),
        cpus=min(threads, floor(10 * cpus / engines) / 10) or threads,  # none: the cluster scales up from nothing
        replicas=args.replicas,
        max_tokens=args.max_tokens or min(MAX_TOKENS, recorded.max_tokens),
        max_model_len=recorded.max_model_len,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 (ended by a signal), 1 (an engine did not start), 2 (a wrong argument)."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except StartError as error:
        return _refuse(str(error), 1)
    except (CatalogError, KeysError) as error:
        return _refuse(str(error), 2)
    except ValidationError as error:
        first = error.errors()[0]
        return _refuse(f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}: {first['msg']}", 2)


def _refuse(message: str, code: int) -> int:
    print(f"serve: {message}", file=sys.stderr)
    return code


def _serve(options: argparse.Namespace) -> int:
    """Check everything that can be checked before Ray starts, then serve until a signal."""
    named = {name: value for name, value in vars(options).items() if name in Args.model_fields and name != "run"}
    args = Args(run=options.run or run_models.newest(options.newest), **named)
    keys = load_keys(args.api_keys_file, os.environ, args.limits)
    if not keys and not is_loopback(options.host):
        raise KeysError(
            f"--host {options.host} is reachable from other machines and there are no API keys: give --api-keys-file "
            "FILE (or RFT_API_KEYS), or leave --host out"
        )
    if not keys and "*" in args.cors_origins:
        raise KeysError("--cors-origin '*' lets any web page use the models: name the origins, or give API keys")
    entries = run_models.choose(args.run, args.model, args.stage)
    run_models.settings(args.run)
    names = [entry.served_as for entry in entries]
    alone = len(entries) == args.replicas == args.ingresses == 1 and options.address is None
    print(f"serving {', '.join(names)} of {args.run}: starting …", flush=True)
    run_until_stopped(
        lambda: _application(args, entries, keys, alone=alone),
        host=options.host,
        port=options.port,
        address=options.address,
        verbose=options.verbose,
        alone=alone,
        ready=lambda url: print(_examples(url, names[0], bool(keys)), flush=True),
    )
    return 0


def _examples(url: str, model: str, keyed: bool) -> str:
    """What to type next."""
    header = ' -H "Authorization: Bearer $RFT_API_KEY"' if keyed else ""
    json_type = " -H 'Content-Type: application/json'"
    question = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"
    chat = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'
    return "\n".join(
        [
            f"ready: {url} (a page for the browser; Ctrl-C ends it)",
            "",
            f'curl {url}/solve{header}{json_type} -d \'{{"question": "{question}", "k": 8}}\'',
            f"curl {url}/v1/chat/completions{header}{json_type} -d '{chat}'",
            f"curl {url}/v1/models{header}",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve.app", description="Serve the models of a finished run.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="URL", help="folder or s3:// address of a finished run")
    source.add_argument("--newest", metavar="FOLDER", help="serve the run under this folder that finished last")
    parser.add_argument("--model", metavar="NAME", help="one model of the run (default: all of the stage)")
    parser.add_argument(
        "--stage",
        choices=("rft", "sft", "base", "all", "compare"),
        default="rft",
        help="default: rft; all: every trained one; compare: RFT, SFT and base of one model",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need API keys")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--address", help="a running Ray cluster to join, or auto (default: start a Ray of its own)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--replicas", type=int, default=1, help="engines per model")
    parser.add_argument("--max-tokens", type=int, help="tokens of one completion at most (default: as the run sampled)")
    parser.add_argument("--api-keys-file", metavar="FILE", help="accepted API keys, one a line (or RFT_API_KEYS_FILE)")
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="of each key (default: no limit)")
    parser.add_argument("--tokens-per-minute", type=int, metavar="N", help="generated for each key (default: no limit)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at once of each key (default: no limit)")
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        dest="cors_origins",
        metavar="ORIGIN",
        help="let pages of this origin, like https://app.example.org, read the answers",
    )
    parser.add_argument("--ingresses", type=int, default=1, help="replicas of the HTTP side")
    parser.add_argument("--verbose", action="store_true", help="show the logs of Ray and vLLM")
    return parser


if __name__ == "__main__":
    # not __main__: what is sent to Ray must be importable there

    sys.exit(main())

"""What all jobs share: arguments, the start of Ray, SIGTERM, one-line errors, and exit codes.

0 done; 1 a stage failed or samples are missing; 2 the config, the data or a model cannot be used; 130 stopped by
Ctrl-C; 143 stopped by SIGTERM. After 1, 130 and 143 the same command resumes.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rft_ray.config.errors import ConfigError, InputError, RftError
from rft_ray.config.hardware import card_of_type
from rft_ray.runtime import ray_private
from rft_ray.runtime.gpus import usable_gpus

if TYPE_CHECKING:
    from rft_ray.config import Config
    from rft_ray.data.problems import ProblemSet
    from rft_ray.plan.memory_plan import Needs
    from rft_ray.store import Store

CONFIGS = Path(__file__).parents[1] / "configs"
"""The shipped configs: a link to jobs/configs in a checkout, and part of the package in an installation."""
RUN_AGAIN = "committed results are kept: run the same command again to resume"
END_S = 15.0
"""Seconds that Ray's shutdown may take after SIGTERM, before the driver ends itself."""


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments of a job that has a config. Returns its options and its `--section.key=value` settings.

    Adds `--config` to the parser; the config may also be given as a bare word, anywhere among the arguments.
    """
    parser.add_argument("--config", metavar="CONFIG", help="the same as the bare word CONFIG")
    options, rest = parser.parse_known_args(argv)
    configs = [word for word in (options.config, *rest) if word and not word.startswith("-")]
    settings = [word for word in rest if word.startswith("-")]
    for setting in settings:
        if not setting.startswith("--") or "=" not in setting:
            parser.error(f"unknown argument {setting!r}; settings are written --section.key=value")
    if len(configs) != 1:
        given = " and ".join(map(repr, configs)) or "none"
        parser.error(f"give one config, a YAML file or the name of a shipped one (given: {given})")
    options.config = configs[0]
    return options, settings


def config_file(config: str) -> Path:
    """The YAML file that a CONFIG argument names: a path, or the bare name of a shipped config. Raises ConfigError."""
    path = Path(os.path.expanduser(config))
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    shipped = shipped_configs()
    if config not in shipped:
        raise ConfigError(f"there is no config {config!r}: give a YAML file, or one of {', '.join(shipped)}")
    return CONFIGS / f"{config}.yaml"


def shipped_configs() -> list[str]:
    """The names of the shipped configs."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def check_before(config: Config, train: ProblemSet, test: ProblemSet, sources: Mapping[str, str]) -> None:
    """Print a note for each doubtful setting of a job. Raises an InputError where it could only fail.

    `config` is that of the plan, whose hub models have a commit; `sources`: how it was given -> with the commit.
    """
    from rft_ray.data import hub_records, problems
    from rft_ray.plan import checks

    leaks = problems.leaks(config.problems, train, test)
    problems.check_separate(test, leaks)
    lines = [*checks.notes(config, train, test), *checks.check_models(config, train)]
    if not os.environ.get("RAY_ADDRESS"):
        lines += checks.missing_gpus(config, usable_gpus())
    lines += hub_records.moved(sources)
    for line in lines:
        print(f"note: {line}")
    for line in problems.describe(train, test, leaks, config.problems.overlap_threshold):
        print(line)


def for_gpus(config: Config, *, asked: bool) -> bool:
    """Whether a dry run estimates for GPUs: it is asked to, or the config says which or that there are some."""
    from rft_ray.plan.memory import planned_card

    devices = {config.training.device, config.engine.device}
    return asked or "gpu" in devices or (devices != {"cpu"} and planned_card(config) is not None)


def show_memory(needed: Needs, *, gpu: bool) -> None:
    """Print the memory of each stage on the config's card, or the host's memory. Raises ConfigError as `check` does.

    `gpu`: an estimate for GPUs is asked for.
    """
    from rft_ray.plan import memory, memory_plan

    config = needed.config
    card = memory.planned_card(config)
    if "gpu" not in (config.training.device, config.engine.device) and not gpu and not card:
        print(memory_plan.host_line(needed))
    elif card:
        print(memory_plan.table(needed, card))
        memory_plan.check(needed, card)
    else:
        print("memory: set hardware.gpu to the card, such as A100-80GB, to see whether the models fit it")


def check_engines_here(config: Config) -> None:
    """Raises ConfigError where engines on the CPUs of the Ray that this process has joined would sample noise."""
    from rft_ray.sampling.stage import on_gpus

    on_gpus(config.engine, config.sampling.engine)


def check_memory_here(config: Config, needs: Callable[[], Needs]) -> None:
    """Raises ConfigError where a model does not fit the cards of the Ray that this process has joined.

    Not of the card that the run is planned for, which has been checked, and of no card where the config says which
    cards engines use. `needs` is called where there are others that the table knows.
    """
    import ray

    from rft_ray.plan import memory, memory_plan
    from rft_ray.runtime.ray_cluster import cards

    if card_of_type(config.engine.accelerator_type or ""):
        return
    planned = memory.planned_card(config)
    if here := [card for card in cards(ray.cluster_resources(), planned) if card != planned]:
        needed = needs()
        for card in here:
            memory_plan.check(needed, card)


def check_writable(store: Store) -> None:
    """Raises InputError where a local store could not be made or written. Writes nothing."""
    if folder := store.local_path("summary.json"):
        check_folder("run.store", folder.parent)


def check_other_run(store: Store, job: str) -> None:
    """Raises StoreError where the store holds the summary of another job than `job`, which must not be replaced."""
    from rft_ray.evaluation.summary import job_of
    from rft_ray.store import StoreError

    if job_of(store) not in (None, job):
        raise StoreError(f"{store.url} holds another job's run: choose another --out")


def check_out(option: str, file: Path) -> Path:
    """The path at which to write a file, with `~` and links resolved. Raises InputError where that is not possible.

    Writes nothing; missing folders can be made.
    """
    path = os.path.expanduser(file)
    if os.path.isdir(path):
        raise InputError(
            f"{option} {file} is a folder: give a file in it, as in {file / 'result'}{file.suffix or '.jsonl'}"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{option} {file} is not a regular file: give the path of one, which is written whole")
    resolved = Path(os.path.realpath(path))
    check_folder(option, resolved.parent)
    return resolved


def check_folder(option: str, folder: Path) -> None:
    """Raises InputError where the folder cannot be made or written."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise InputError(f"{option}: {folder} cannot be made, since {nearest} is a file: choose another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {folder} cannot be written, since {nearest} is not writable: choose another path")


def carry_out(prepare: Callable[[], Callable[[], None] | None]) -> int:
    """Run a job and return its exit code.

    `prepare` reads and checks everything; it returns the work, or None when nothing is left to do. The work calls
    `start` before it uses Ray.
    """
    _keep_ray_on_loopback()
    try:
        work = prepare()
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(path_error(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while models and data are read, which takes minutes from the hub
        print("stopped before the work began", file=sys.stderr)
        return 130
    return _exit_code(work) if work else 0


def path_error(error: OSError) -> str:
    """The line for a path that the system refuses, as in a folder of another user. Raises an error that names none.

    `Path.exists` and `Path.is_dir` raise for such a path.
    """
    if error.filename is None:
        raise error
    return f"error: {error.filename} cannot be used ({error.strerror}): check the path and its permissions"


def start(store: Store) -> None:
    """Start or join Ray, then handle SIGTERM. Raises StageError when a node does not see the store."""
    from rft_ray.runtime import ray_cluster, sigterm

    ray_cluster.start_ray()
    sigterm.install_handler()
    ray_cluster.check_shared(store)


def _keep_ray_on_loopback() -> None:
    """Let a Ray that this process starts listen on loopback only.

    Without the variable, which Ray reads when it is imported, Ray replaces 127.0.0.1 by the machine's external address.
    """
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(ray_private.KEEP_LOOPBACK, "0")


def _exit_code(work: Callable[[], None]) -> int:
    from ray.exceptions import RayError

    from rft_ray.runtime import sigterm
    from rft_ray.runtime.actor_pool import cause_of

    try:
        work()
    except ConfigError as error:  # what only the cluster shows, as cards that are too small
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RftError as error:
        print(f"error: {error}\n{RUN_AGAIN}", file=sys.stderr)
        return 1
    except (ConnectionError, RayError) as error:
        print(f"error: Ray: {cause_of(error)}\ncommitted results are kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt as notice:
        if not sigterm.was_received():
            print(f"stopped; {RUN_AGAIN}", file=sys.stderr)
            return 130
        print(f"stopped by SIGTERM ({str(notice) or 'not while sampling'}); {RUN_AGAIN}", file=sys.stderr, flush=True)
        _end_within(END_S, sigterm.EXIT_CODE)
        return sigterm.EXIT_CODE
    return 0


def _end_within(seconds: float, code: int) -> None:
    """End the process with this exit code after `seconds`, even when Ray's shutdown is not done."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()

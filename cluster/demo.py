"""Local demo: start a Ray head, submit a run through the Jobs API, follow its log, serve its model, end everything.

    python cluster/demo.py run jobs/configs/demo.yaml [--section.key=value …] [--limit N] [--dry-run]
    python cluster/demo.py serve
    python cluster/demo.py up --workers 2
    python cluster/demo.py down

The head stays up between calls, so a second run starts at once. `down` ends it by pid. State and logs are in `.ray/`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import local_cluster
from local_cluster import ROOT, Cluster, ClusterError
from processes import free_port, identify

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


PASSED_ON = ("RFT_GSM8K_DIR", "HF_HOME", "HF_HUB_OFFLINE")
"""Environment variables that a job takes from the caller, even if the head was started without them.

The dashboard shows the variables of a job, so they must not hold secrets.
"""
OPTION = re.compile(r"--(limit|gpu|dry-run|config)\b")
"""Matches an option of the job itself; others with `=` are settings of the config: `--section.key=value`."""
STOPPED = 130
"""Exit status after Ctrl-C."""
SERVE_PORT = 8000


def run(start: Callable[[], Cluster], config: str, options: Sequence[str]) -> int:
    """Submit the pipeline, follow its log, and print where the results are. Returns the exit status.

    An invalid config is refused before the head is started. `--dry-run` starts no head.
    """
    sys.path.insert(0, str(ROOT))  # rft_ray need not be installed
    from rft_ray.cli.job import config_file
    from rft_ray.config import ConfigError, load

    try:
        file = config_file(config)
        given = [option for option in options if option.startswith("--") and "=" in option]
        settings = load(file, [option for option in given if not OPTION.match(option)]).run
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    script = [sys.executable, "jobs/rft_pipeline.py", "--config", str(file.resolve()), *options]
    if "--dry-run" in options:
        return subprocess.run(script, cwd=ROOT, check=False).returncode
    cluster = start()
    status = submit(cluster, script)
    if status == 0:
        _print_locations(cluster, f"{settings.store}/{settings.name}")
    elif status != STOPPED:
        print(f"\nThe run did not finish. Its log is above and in the dashboard: {_dashboard(cluster)}")
        print("Its committed results are kept: run the same command again to resume.")
    return status


def submit(cluster: Cluster, command: Sequence[str]) -> int:
    """Run a command on the head through the Jobs API and print its log. Returns the command's exit status.

    If a job with the same command is still running, it is followed instead. Ctrl-C stops the job. Raises ClusterError
    when the connection to the head is lost.
    """
    from ray.job_submission import JobStatus

    client = _client(cluster)
    entrypoint = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(command)}"
    job = _running_job(client, entrypoint)
    if job is None:
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        job = client.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": variables})
        print(f"Submitted job {job}: {_dashboard(cluster)}", flush=True)
    else:
        print(f"Job {job} is already running this command: following its log.", flush=True)
    try:
        asyncio.run(_follow(client, job))
        while not client.get_job_status(job).is_terminal():
            time.sleep(0.2)
        info = client.get_job_info(job)
    except KeyboardInterrupt:
        return _stop(client, job)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"lost the connection to the Ray head while following job {job}: {error}") from None
    if info.status == JobStatus.SUCCEEDED:
        return 0
    reason = (info.message or "").partition("last available logs")[0].strip(" ,\n")
    print(f"Job {job}: {info.status.value.lower()}. {reason}", file=sys.stderr)
    return info.driver_exit_code or 1


def serve(cluster: Cluster, state: Path, options: Sequence[str]) -> int:
    """Run serve.app in the foreground until Ctrl-C: with the newest finished run, unless the options name another.

    Returns its exit status, or 1 when a served model is already running.
    """
    running = cluster.member("serve")
    if running is not None:
        print(f"A model is already being served (pid {running.pid}); `make down` ends it.", file=sys.stderr)
        return 1
    names = {option.partition("=")[0] for option in options}
    stage = [] if "--stage" in names else ["--stage", "compare"]
    port = [] if "--port" in names else ["--port", str(free_port(SERVE_PORT))]
    command = [sys.executable, "-m", "serve.app", "--address", cluster.address, *stage, *port, *options]
    child = subprocess.Popen(command, cwd=ROOT, env=cluster.environment())
    try:
        local_cluster.record(state, "serve", identify(child.pid))
        status = child.wait()
        return status if status >= 0 else 128 - status
    except KeyboardInterrupt:  # the terminal sends the signal to the child too
        return STOPPED
    finally:
        _end_child(child)
        local_cluster.record(state, "serve", None)


def show(cluster: Cluster | None) -> int:
    """Print the recorded processes and whether they run. Returns 1 when no cluster runs."""
    if cluster is None or cluster.member("head") is None:
        print("No local cluster runs.")
        return 1
    for member in cluster.members:
        print(f"{member.role:10} pid {member.process.pid}{'' if cluster.member(member.role) else ' (ended)'}")
    print(f"{'address':10} {cluster.address}\n{'dashboard':10} {_dashboard(cluster)}")
    return 0


def _end_child(child: subprocess.Popen[bytes]) -> None:
    """Terminate the child, and kill it if it has not ended in time, or at another Ctrl-C."""
    if child.poll() is None:
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        child.wait(local_cluster.GRACE_S["serve"])
    if child.poll() is None:
        child.kill()
        child.wait()


def _client(cluster: Cluster) -> JobSubmissionClient:
    os.environ.update(cluster.variables)
    os.environ.pop("RAY_AUTH_TOKEN", None)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(cluster.dashboard, headers=cluster.headers)


def _running_job(client: JobSubmissionClient, entrypoint: str) -> str | None:
    """Submission id of a job that is running this command; None if there is none."""
    for job in client.list_jobs():
        if job.entrypoint == entrypoint and not job.status.is_terminal():
            return str(job.submission_id)
    return None


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


def _stop(client: JobSubmissionClient, job: str) -> int:
    """Stop the job and wait up to 20 s until it has ended. Returns STOPPED."""
    print("\nStopping the job …", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        client.stop_job(job)
        deadline = time.monotonic() + 20
        while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
    print("Stopped. Committed results are kept: run the same command again to resume. `make down` ends the Ray head.")
    return STOPPED


def _print_locations(cluster: Cluster, run_dir: str) -> None:
    if "://" not in run_dir:
        run_dir = str((ROOT / run_dir).resolve())
    print(f"\nResults          {run_dir}")
    print(f"Report           {run_dir}/report.html (open it in a browser)")
    print(f"Figures          {run_dir}/summary.json")
    print(f"Ray dashboard    {_dashboard(cluster)}")
    print("Serve the model  make serve")
    print("End everything   make down", flush=True)


def _dashboard(cluster: Cluster) -> str:
    return f"{cluster.dashboard} (asks for a token: cat {cluster.token_path})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--state", type=Path, default=ROOT / ".ray", help="folder of state and logs (default: .ray)")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str, starts: bool) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        if starts:
            added.add_argument(
                "--workers", type=int, default=0, help="worker nodes in addition to the head (default: 0)"
            )
            added.add_argument("--cpus", type=int, default=8, help="logical CPUs of each node (default: 8)")
        return added

    verb("up", "start the local cluster, or reuse the running one", starts=True)
    runs = verb("run", "submit the pipeline and follow it", starts=True)
    runs.add_argument("config", help="a YAML file, or the name of one in jobs/configs/")
    runs.epilog = "Everything after the config goes to jobs/rft_pipeline.py: --section.key=value, --limit N."
    jobs = verb("submit", "submit any command and follow it", starts=True)
    jobs.add_argument("command", nargs="+", help="the command, after `--`; it runs in the project's root")
    served = verb("serve", "serve the newest finished run", starts=True)
    served.epilog = f"Other options go to serve.app; the port is {SERVE_PORT} or, if that is taken, a free one."
    verb("status", "show the processes of the local cluster", starts=False)
    verb("env", "print shell lines that point `ray` at the local cluster", starts=False)
    verb("down", "end the local cluster and its served model", starts=False)
    return parser


def _dispatch(arguments: argparse.Namespace, rest: list[str]) -> int:
    state = arguments.state.resolve()
    if arguments.verb == "down":
        ended = local_cluster.down(state)
        print("Ended: " + ", ".join(ended) if ended else "Nothing was running.")
        return 0
    if arguments.verb == "status":
        return show(local_cluster.load(state))
    if arguments.verb == "env":
        return _print_variables(local_cluster.load(state))

    def start() -> Cluster:
        return local_cluster.up(state, arguments.workers, arguments.cpus)

    if arguments.verb == "run":
        return run(start, arguments.config, rest)
    if arguments.verb == "submit":
        return submit(start(), arguments.command)
    if arguments.verb == "serve":
        return serve(start(), state, rest)
    return show(start())


def _print_variables(cluster: Cluster | None) -> int:
    if cluster is None or cluster.member("head") is None:
        print("No local cluster runs.", file=sys.stderr)
        return 1
    print("unset RAY_AUTH_TOKEN")
    for name, value in cluster.variables.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def main() -> int:
    parser = _parser()
    arguments, rest = parser.parse_known_args()
    if rest and arguments.verb not in ("run", "serve"):
        parser.error(f"unknown argument {rest[0]}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends the program in the same way as Ctrl-C
    try:
        return _dispatch(arguments, rest)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())

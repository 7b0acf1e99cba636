"""A Ray cluster on this machine: a head with dashboard, any number of worker nodes, token authentication.

All processes listen on loopback only. `<state>/cluster.json` records them (ports, pids with start times), so a second
call reuses the cluster and `down` ends exactly the processes that `up` started. `ray stop` is not used, because it ends
every Ray process on the machine.

Ray replaces `--node-ip-address 127.0.0.1` by the machine's external address unless clusters are disabled for the
platform, which LOOPBACK does. Limit: Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from processes import MARK, Process, alive, boot_id, end, family, free_port, identify

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""As `KEEP_LOOPBACK` in rft_ray/runtime/ray_private.py, which this module cannot import without the project."""
NICENESS = {"RAY_worker_niceness": "0"}
"""As `WORKER_NICENESS` there: the niceness of workers, unless the user's environment says otherwise."""
PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "autoscaler_metrics": 44217, "dashboard_metrics": 44227}
"""Ray's default ports. A port that is taken is replaced by a free one."""
OBJECT_STORE_BYTES = 2**30
START_S = 60
ANSWER_S = 10
"""A head that was started earlier has this long to answer."""
GRACE_S = {"serve": 60}
"""Seconds between SIGTERM and SIGKILL, by role; 15 for nodes. The served model shuts down its replicas first."""


class ClusterError(RuntimeError):
    """The local cluster cannot be started or reached. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process that was started directly: the head, a worker node or the served model.

    Example: Member("worker-1", Process(4711, 183724)).
    """

    role: str
    process: Process


@dataclass(frozen=True, slots=True)
class Cluster:
    """A recorded cluster. `id` marks its processes; `boot` is the id of the boot in which its pids are valid."""

    id: str
    boot: str
    state: Path
    temp: Path
    ports: dict[str, int]
    members: tuple[Member, ...] = field(default=())

    @property
    def address(self) -> str:
        """The head's address, for ray.init and for worker nodes."""
        return f"127.0.0.1:{self.ports['gcs']}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    @property
    def token_path(self) -> Path:
        return self.state / "token"

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that the dashboard and the Jobs API require."""
        return {"Authorization": f"Bearer {self.token_path.read_text().strip()}"}

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that a process needs to connect to this cluster."""
        given = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
        direct = ",".join(dict.fromkeys([*filter(None, given.split(",")), "127.0.0.1"]))
        return LOOPBACK | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_USAGE_STATS_ENABLED": "0",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def environment(self) -> dict[str, str]:
        """This process's environment with `variables`, and with this interpreter's folder first in PATH."""
        own_bin = str(Path(sys.executable).parent)
        path = f"{own_bin}:{os.environ.get('PATH', os.defpath)}"
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_TOKEN"}
        return inherited | self.variables | {"PATH": path, "PYTHONUNBUFFERED": "1"}

    def member(self, role: str) -> Process | None:
        """The running process with this role; None if there is none."""
        processes = (member.process for member in self.members if member.role == role)
        return next((process for process in processes if alive(process)), None)

    def save(self) -> None:
        """Replace `cluster.json` atomically: a reader sees either the old record or the new one."""
        record = asdict(self) | {"state": str(self.state), "temp": str(self.temp)}
        draft = self.state / "cluster.json.new"
        draft.write_text(json.dumps(record, indent=1) + "\n")
        draft.replace(self.state / "cluster.json")


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock for starting and ending processes. The kernel releases it when the process ends."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def load(state: Path) -> Cluster | None:
    """The cluster recorded in this folder; None if there is none, or the machine has rebooted since.

    Raises ClusterError when the record is damaged.
    """
    try:
        record = json.loads((state / "cluster.json").read_text())
        members = tuple(Member(member["role"], Process(**member["process"])) for member in record["members"])
        cluster = Cluster(record["id"], record["boot"], state, Path(record["temp"]), record["ports"], members)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        advice = "end the processes that it names by hand, then remove it"
        raise ClusterError(f"{state / 'cluster.json'} is damaged ({error}); {advice}") from None
    return cluster if cluster.boot == boot_id() else None


def up(state: Path, workers: int = 0, cpus: int = 8) -> Cluster:
    """Return a running cluster with at least this many worker nodes: the recorded one, or a new one if its head ended.

    Raises ClusterError when a node does not start, or the recorded head runs and cannot be used: it may have a job.
    """
    with locked(state):
        cluster = load(state)
        if cluster is not None and not answers(cluster, ANSWER_S):
            _refuse_running(cluster)
            print("The recorded Ray head has ended: ending its remaining processes.", flush=True)
            _end(cluster)
            cluster = None
        if cluster is None:
            cluster = _start_head(state, cpus)
        return _add_workers(cluster, workers, cpus)


def down(state: Path) -> list[str]:
    """End the recorded cluster. Returns the role and pid of each member that was still running."""
    with locked(state):
        cluster = load(state)
        ended = [] if cluster is None else _end(cluster)
        (state / "cluster.json").unlink(missing_ok=True)
        return ended


def record(state: Path, role: str, process: Process | None) -> None:
    """Record another process that ends with the cluster; None removes the role from the record."""
    with locked(state):
        cluster = load(state)
        if cluster is not None:
            others = tuple(member for member in cluster.members if member.role != role)
            added = () if process is None else (Member(role, process),)
            replace(cluster, members=others + added).save()


def answers(cluster: Cluster, wait_s: float) -> bool:
    """Whether the head runs, accepts the token within `wait_s` seconds, and has the installed version of Ray."""
    deadline = time.monotonic() + wait_s
    while cluster.member("head") is not None:
        if version := _ray_version(cluster):
            return version == importlib.metadata.version("ray")
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return False


def _ray_version(cluster: Cluster) -> str | None:
    """The head's version of Ray; None where it does not answer."""
    with contextlib.suppress(OSError, ValueError):
        return str(ask(cluster, "/api/version")["ray_version"])
    return None


def _refuse_running(cluster: Cluster) -> None:
    """Raises ClusterError where the head of a cluster that cannot be used runs."""
    head = cluster.member("head")
    if head is None:
        return
    running = f"the local Ray head (pid {head.pid}) runs"
    installed = importlib.metadata.version("ray")
    if (version := _ray_version(cluster)) not in (None, installed):
        raise ClusterError(f"{running} with Ray {version}, and {installed} is installed: end it with `make down` first")
    raise ClusterError(
        f"{running} and does not answer at {cluster.dashboard} within {ANSWER_S} s; it may have a job: "
        f"try again later, or end it with `make down` (its log: {cluster.state / 'head.log'})"
    )


def ask(cluster: Cluster, path: str) -> Any:
    """The dashboard's JSON reply to a GET request. Raises OSError when it cannot be reached or refuses."""
    request = urllib.request.Request(cluster.dashboard + path, headers=cluster.headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=5) as reply:
        return json.load(reply)


def nodes(cluster: Cluster) -> list[str]:
    """Names of the live nodes, sorted."""
    rows = ask(cluster, "/api/v0/nodes?detail=false&limit=1000")["data"]["result"]["result"]
    return sorted(row["node_name"] for row in rows if row["state"] == "ALIVE")


def _start_head(state: Path, cpus: int) -> Cluster:
    """Start the head. Tries again with other ports, because another process may have taken one of the first ports."""
    _make_token(state / "token")
    log = state / "head.log"
    for defaults in (PORTS, dict.fromkeys(PORTS, 0)):
        ports = {name: free_port(port) for name, port in defaults.items()}
        temp = _temp_folder()
        cluster = Cluster(secrets.token_hex(8), boot_id(), state, temp, ports)
        cluster.save()
        print(f"Starting a Ray head (dashboard {cluster.dashboard}, log {log})", flush=True)
        cluster = _spawn(cluster, "head", _head_command(cluster, cpus), log)
        if answers(cluster, START_S):
            return cluster
        _end(cluster)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise ClusterError(f"the Ray head did not start within {START_S} s; the end of {log}:\n{tail}")


def _temp_folder() -> Path:
    """A new folder for the sockets of all nodes, in /tmp where TMPDIR is long: a path of a socket has 107 bytes."""
    folder = tempfile.gettempdir()
    socket = "/rft-ray-abcdefgh/w99/session_2026-11-30_19-47-01_323580_4194304/sockets/plasma_store"
    return Path(tempfile.mkdtemp(prefix="rft-ray-", dir="/tmp" if len(os.fsencode(folder + socket)) > 107 else folder))


def _head_command(cluster: Cluster, cpus: int) -> list[str]:
    ports = cluster.ports
    options = {
        "--node-ip-address": "127.0.0.1",
        "--node-name": "head",
        "--port": ports["gcs"],
        "--ray-client-server-port": ports["client"],
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": ports["dashboard"],
        "--include-dashboard": "true",
        "--dashboard-agent-listen-port": 0,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--num-cpus": cpus,
        "--object-store-memory": OBJECT_STORE_BYTES,
        "--temp-dir": cluster.temp,
    }
    if "+cpu" in importlib.metadata.version("torch"):  # Ray counts GPUs that torch's CPU build cannot use
        options["--num-gpus"] = 0
    ray = Path(sys.executable).with_name("ray")
    flat = [f"{key}={value}" for key, value in options.items()]
    return [str(ray), "start", "--head", *flat, "--disable-usage-stats", "--block"]


def _add_workers(cluster: Cluster, workers: int, cpus: int) -> Cluster:
    roles = [f"worker-{number}" for number in range(1, workers + 1)]
    for role in (role for role in roles if cluster.member(role) is None):
        print(f"Starting Ray node {role}", flush=True)
        script = str(Path(__file__).with_name("worker_node.py"))
        command = [sys.executable, script, "--address", cluster.address, "--name", role, "--cpus", str(cpus)]
        command += ["--object-store-bytes", str(OBJECT_STORE_BYTES)]
        command += ["--temp-dir", str(cluster.temp / role.replace("worker-", "w"))]
        cluster = _spawn(cluster, role, command, cluster.state / f"{role}.log")
    _await_nodes(cluster, roles)
    return cluster


def _await_nodes(cluster: Cluster, roles: list[str]) -> None:
    deadline = time.monotonic() + START_S
    while roles:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if set(roles) <= set(nodes(cluster)):
                return
        dead = [role for role in roles if cluster.member(role) is None]
        if dead or time.monotonic() > deadline:
            late = ", ".join(dead or roles)
            raise ClusterError(f"{late} did not join the cluster; see {cluster.state}/<name>.log, then run `down`")
        time.sleep(0.2)


def _spawn(cluster: Cluster, role: str, command: list[str], log: Path) -> Cluster:
    """Start one member as the leader of a new session, and record it. Raises ClusterError if it ends at once."""
    environment = (
        NICENESS
        | cluster.environment()
        | {
            MARK: cluster.id,
            "AUTOSCALER_METRIC_PORT": str(cluster.ports["autoscaler_metrics"]),
            "DASHBOARD_METRIC_PORT": str(cluster.ports["dashboard_metrics"]),
        }
    )
    del environment["RAY_ADDRESS"]  # `ray start --head` refuses to start when it is set
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = identify(child.pid)
    if process is None:
        raise ClusterError(f"{role} ended at once; see {log}")
    others = tuple(member for member in cluster.members if member.role != role)
    cluster = replace(cluster, members=(*others, Member(role, process)))
    cluster.save()
    return cluster


def _end(cluster: Cluster) -> list[str]:
    """End the served model, then the worker nodes, the head, and any remaining processes of the cluster."""
    order = sorted(cluster.members, key=lambda member: (member.role == "head", member.role != "serve"))
    running = [member for member in order if alive(member.process)]
    for member in running:
        end([member.process], GRACE_S.get(member.role, 15))
    remaining = {process for member in order for process in family(member.process, cluster.id)}
    remaining.update(family(None, cluster.id))
    end(remaining, grace_s=2)
    shutil.rmtree(cluster.temp, ignore_errors=True)
    return [f"{member.role} (pid {member.process.pid})" for member in running]


def _make_token(path: Path) -> None:
    """Create the token file, readable only by its owner, unless it has a token. An interrupted call leaves none."""
    if not path.exists() or not path.read_text().strip():
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32))
        draft.replace(path)
    path.chmod(0o600)

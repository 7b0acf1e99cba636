"""Clusters of several Ray nodes on one machine, on loopback or in network namespaces, to kill their processes.

In: the number of worker nodes, with two CPUs each; the head has none. Out: an address, the pids of raylets and of
actors, and functions that kill and add nodes. Only processes that were started here are killed.

Limits: a node in a namespace needs root (`ip netns`, `unshare`, `nsenter`); disks and memory are shared by all nodes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

ROOT = Path(__file__).parents[2]
CPUS_PER_NODE = 2
STORE_MEMORY = 100 * 2**20
PORT = 6379
"""The port of the head in its own namespace; on loopback any free port."""
START_TIMEOUT_S = 60.0


def environment(faults: str) -> dict[str, str]:
    """Environment variables of every node and driver of one cluster. `faults`: the value of RFT_STORE_FAULTS."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray replaces 127.0.0.1 by the machine's external address
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "500",  # a dead node is detected within two seconds
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_worker_niceness": "0",
        "RAY_enable_worker_prestart": "0",  # no idle processes, because each takes a second to start
        "RAY_prestart_worker_first_driver": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RFT_STORE_FAULTS": faults,
    }


class Nodes(Protocol):
    """A running cluster."""

    address: str
    where: str

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on the head."""
        ...

    def workers(self) -> list[int]:
        """The root pid of each worker node: its raylet, or process 1 of its namespace."""
        ...

    def add(self) -> None:
        """Add a worker node."""
        ...

    def kill(self, root: int) -> None:
        """`kill -9` of a worker node."""
        ...

    def close(self) -> None:
        """`kill -9` all remaining processes and remove all temporary files."""
        ...


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants that are running."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def actors(root: int) -> list[int]:
    """Pids of the Ray Data actors on one node."""
    pids = []
    for process in tree(root):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in " ".join(process.cmdline()):
                pids.append(process.pid)
    return pids


def kill(pid: int) -> bool:
    """`kill -9` one process. Returns whether it existed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_tree(pid: int) -> None:
    for process in tree(pid):
        kill(process.pid)


# --- Loopback -------------------------------------------------------------------------------------


class LoopbackNodes:
    """`ray.cluster_utils.Cluster`: every node has its own raylet and temporary folder, all on 127.0.0.1."""

    where = "loopback"

    def __init__(self, workers: int, environ: Mapping[str, str], **per_node: float) -> None:
        """`per_node`: resources of a worker node, as `num_gpus=4`; two CPUs by default."""
        self._folder = tempfile.mkdtemp(prefix="rk")  # socket paths must be short
        self._per_node = per_node or {"num_cpus": CPUS_PER_NODE}
        # Ray records the last cluster there; other programs on this machine must not connect to this one
        self._environ, self._count = {**environ, "RAY_TMPDIR": self._folder}, 0
        os.mkdir(f"{self._folder}/ray")
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(shutdown_at_exit=False)
        try:
            self._add(num_cpus=0, include_dashboard=False, dashboard_port=_free_port())
            for _ in range(workers):
                self.add()
            self._cluster.wait_for_nodes(START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self.address = str(self._cluster.address)

    def command(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def workers(self) -> list[int]:
        return [_raylet(node) for node in self._cluster.worker_nodes]

    def add(self) -> None:
        self._add(**self._per_node)

    def kill(self, root: int) -> None:
        """`kill -9` the raylet only. Its workers end by themselves, some of them a moment later."""
        kill(root)
        self._cluster.worker_nodes = {n for n in self._cluster.worker_nodes if _raylet(n) != root}

    def close(self) -> None:
        if self._cluster.head_node:
            self._cluster.global_state.disconnect()
        own = [p for n in self._cluster.list_all_nodes() for infos in n.all_processes.values() for p in infos]
        for process in psutil.Process().children(recursive=True):  # all of them were started here
            kill(process.pid)
        for info in own:
            info.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, **more: Any) -> None:
        """Start a node; try once more when a busy machine took longer than Ray waits."""
        for last in (False, True):
            self._count += 1
            place = {"node_ip_address": "127.0.0.1", "temp_dir": f"{self._folder}/{self._count}"}
            try:
                with self._environment():
                    self._cluster.add_node(wait=False, object_store_memory=STORE_MEMORY, **place, **more)
                return
            except Exception as slow:
                if last or "timed out" not in str(slow):
                    raise

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Set the environment that nodes inherit, and restore this process's own, whose store has no faults."""
        before = dict(os.environ)
        os.environ.update(self._environ)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Namespaces -----------------------------------------------------------------------------------


def namespaces_refused() -> str:
    """Why nodes cannot have network namespaces here; empty when they can."""
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)}"
    name = f"rftprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return made.stderr.strip() or f"ip netns add ended with {made.returncode}"
    tried = subprocess.run(
        ["ip", "netns", "exec", name, "unshare", "-m", "-p", "-f", "--mount-proc", "true"],
        capture_output=True,
        text=True,
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return tried.stderr.strip()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class NamespaceNodes:
    """Every node has its own network, process and mount namespaces on one bridge, so that Ray sees separate machines.

    `kill -9` of a node's first process ends all of its processes at once; `cut` takes its network away.
    """

    where = "network namespaces"

    def __init__(self, workers: int, environ: Mapping[str, str]) -> None:
        tag = secrets.token_hex(2)
        self._bridge, self._tag, self._count = f"rftb{tag}", tag, 0
        self._net = f"10.{64 + os.getpid() % 64}.{secrets.randbelow(256)}"
        self._folder = tempfile.mkdtemp(prefix="rk")
        self._environ = {**os.environ, **environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # 0: only loopback
        self._nodes: dict[int, str] = {}
        """Root of each worker node that counts -> its namespace."""
        self._roots: dict[int, subprocess.Popen[bytes]] = {}
        self._spaces: list[str] = []
        self.address = f"{self._net}.1:{PORT}"
        _ip("link", "add", self._bridge, "type", "bridge")
        try:
            _ip("link", "set", self._bridge, "up")
            self._head = self._start("--head", "--port", str(PORT), "--include-dashboard=false", "--num-cpus=0")
            self._wait_for_head()
            for _ in range(workers):
                self.add()
        except BaseException:
            self.close()
            raise

    def command(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self._head), "-m", "-p", "-n", *command]

    def workers(self) -> list[int]:
        return list(self._nodes)

    def add(self) -> None:
        root = self._start("--address", self.address, f"--num-cpus={CPUS_PER_NODE}")
        self._nodes[root] = self._spaces[-1]

    def kill(self, root: int) -> None:
        self._end(root)
        self._nodes.pop(root)

    def cut(self, root: int, up: bool) -> None:
        """Disconnect a node's network, or reconnect it."""
        _ip("link", "set", f"v{self._nodes[root]}", "up" if up else "down")

    def retire(self, root: int) -> None:
        """Forget a node that has ended by itself."""
        self._nodes.pop(root)

    def close(self) -> None:
        for root in list(self._roots):
            self._end(root)
        for space in self._spaces:
            subprocess.run(["ip", "link", "del", f"v{space}"], capture_output=True)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *arguments: str) -> int:
        """Start a node in its own namespaces. Returns the pid of its process 1 in this namespace."""
        self._count += 1
        space, address = f"rft{self._tag}n{self._count}", f"{self._net}.{self._count}"
        _ip("netns", "add", space)
        self._spaces.append(space)
        _ip("link", "add", f"v{space}", "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", f"v{space}", "master", self._bridge, "up")
        for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", space, *words)
        _ip("-n", space, "link", "set", "lo", "up")
        node = ["start", *arguments, "--node-ip-address", address, "--temp-dir", f"{self._folder}/{self._count}"]
        command = ["ip", "netns", "exec", space, "unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child"]
        command += [sys.executable, "-m", "ray.scripts.scripts", *node, "--block"]
        with open(f"{self._folder}/{self._count}.log", "wb") as log:
            started = subprocess.Popen(
                [*command, "--object-store-memory", str(STORE_MEMORY)],
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and started.poll() is None:
            if children := psutil.Process(started.pid).children():
                self._roots[children[0].pid] = started
                return int(children[0].pid)
            time.sleep(0.02)
        raise RuntimeError(f"a node did not start; it ended with {started.poll()}")

    def _end(self, root: int) -> None:
        """`kill -9` a node's process 1, which ends the node, if it runs."""
        started = self._roots.pop(root)
        if started.poll() is None:
            kill(root)
            started.wait()

    def _wait_for_head(self) -> None:
        """Wait until the head's GCS accepts connections."""
        probe = f"import socket; socket.create_connection(('{self._net}.1', {PORT}), 1)"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if subprocess.run(self.command([sys.executable, "-c", probe]), capture_output=True).returncode == 0:
                return
            time.sleep(0.3)
        raise RuntimeError(f"no head answers: {Path(f'{self._folder}/1.log').read_text()[-2000:]}")

"""A real two-node cluster on this machine, from `up` to `down`, as cluster/local.sh and the demo start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cluster"))

import local_cluster  # noqa: E402
from processes import family  # noqa: E402

NODES = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(logging_level="ERROR")
@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()
asked = [where.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote() for node in ray.nodes()]
print("nodes", len(set(ray.get(asked))), os.getcwd())
"""


def demo(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster/demo.py"), "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    started = demo(folder, "up", "--workers", "1", "--cpus", "2")
    assert started.returncode == 0, started.stdout + started.stderr
    yield folder
    demo(folder, "down")


def running(state: Path) -> local_cluster.Cluster:
    cluster = local_cluster.load(state)
    assert cluster is not None
    return cluster


def test_a_job_runs_on_both_nodes_and_in_the_projects_root(state: Path) -> None:
    done = demo(state, "submit", "--workers", "1", "--", sys.executable, "-c", NODES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"nodes 2 {ROOT}" in done.stdout


def test_an_uploaded_working_directory_stays_while_the_driver_uses_it(state: Path, tmp_path: Path) -> None:
    """Each node unpacks it in its own folder; in a shared one, a node would remove the folder that another uses."""
    (tmp_path / "job.py").write_text(NODES + "print(os.listdir())\n")
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--", sys.executable, "job.py"],
        env=running(state).environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nodes 2" in done.stdout
    assert "['job.py']" in done.stdout


def test_a_second_up_reuses_the_running_cluster(state: Path) -> None:
    before = running(state)
    assert demo(state, "up", "--workers", "1").returncode == 0
    assert running(state) == before


def test_nothing_listens_beyond_loopback(state: Path) -> None:
    cluster = running(state)
    pids = {process.pid for member in cluster.members for process in family(member.process, cluster.id)}
    sockets = [s for s in psutil.net_connections("tcp") if s.pid in pids and s.status == "LISTEN"]
    assert len(sockets) > 5
    assert {s.laddr.ip.removeprefix("::ffff:") for s in sockets} == {"127.0.0.1"}


def test_the_dashboard_refuses_a_caller_without_the_token(state: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        direct.open(running(state).dashboard + "/api/jobs/", timeout=5)


def test_an_interrupt_stops_the_job(state: Path) -> None:
    code = "print('sleeping', flush=True); import time; time.sleep(100)"
    command = [sys.executable, str(ROOT / "cluster/demo.py"), "--state", str(state), "submit", "--", sys.executable]
    with subprocess.Popen([*command, "-c", code], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert any(line == "sleeping\n" for line in follower.stdout)
        follower.send_signal(signal.SIGINT)
        assert "run the same command again to resume" in follower.stdout.read()
        assert follower.wait(timeout=30) == 130
    jobs = local_cluster.ask(running(state), "/api/jobs/")
    assert [job["status"] for job in jobs if "sleeping" in job["entrypoint"]] == ["STOPPED"]


def test_down_leaves_no_process_and_no_folder(state: Path) -> None:
    cluster = running(state)
    done = demo(state, "down")
    assert done.returncode == 0
    assert done.stdout.startswith("Ended: worker-1 (pid ")
    assert [process for member in cluster.members for process in family(member.process, cluster.id)] == []
    assert not cluster.temp.exists()
    assert not (state / "cluster.json").exists()
    assert os.access(state / "head.log", os.R_OK)
    assert demo(state, "down").stdout == "Nothing was running.\n"

"""The scripts of cluster/, Makefile and .ci/run: what they refuse, and which processes they end."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "cluster"))

import demo  # noqa: E402
import local_cluster  # noqa: E402
import processes  # noqa: E402

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -c code` in a new session, which is killed at the end of the test."""
    children = []

    def launch(code: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"{code}\nprint(flush=True)\nimport time; time.sleep(60)"]
        child = subprocess.Popen(
            command, env=os.environ | variables, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        children.append(child)
        return child

    yield launch
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def known(child: subprocess.Popen[bytes]) -> processes.Process:
    process = processes.identify(child.pid)
    assert process is not None
    return process


# --- processes


def test_a_recycled_pid_is_not_ended(start: Start) -> None:
    child = start("")
    stranger = processes.Process(child.pid, known(child).started - 1)
    assert processes.end([stranger], grace_s=0.2) == []
    assert child.poll() is None


def test_a_process_that_ignores_sigterm_is_killed(start: Start) -> None:
    child = start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert processes.end([known(child)], grace_s=0.2) == [processes.Process(child.pid, 0)] or child.wait(5) == -9


def test_a_process_that_ends_on_sigterm_is_not_killed(start: Start) -> None:
    child = start("")
    assert processes.end([known(child)], grace_s=5) == []
    assert child.wait(5) == -signal.SIGTERM


def test_a_family_is_the_session_and_every_marked_process(start: Start) -> None:
    leader = start("import subprocess, sys; subprocess.Popen(['sleep', '60'])")
    detached = start("", RFT_RAY_CLUSTER="a1b2c3")
    stranger = start("", RFT_RAY_CLUSTER="other")
    members = processes.family(known(leader), "a1b2c3")
    assert {leader.pid, detached.pid} < {process.pid for process in members}
    assert len(members) == 3
    assert stranger.pid not in {process.pid for process in members}
    processes.end(members, grace_s=2)


def test_the_session_of_a_recycled_leader_is_not_ended(start: Start) -> None:
    child = start("")
    recorded = processes.Process(child.pid, known(child).started - 1)
    assert processes.family(recorded, "nobody") == []


def test_a_zombie_does_not_count_as_running(start: Start) -> None:
    child = start("")
    process = known(child)
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes.alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.alive(process)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_occupied_port_is_replaced_by_a_free_one(host: str) -> None:
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert processes.free_port(port) not in (0, port)
    assert processes.free_port(port) == port


# --- the recorded cluster


def recorded(state: Path, *members: local_cluster.Member) -> local_cluster.Cluster:
    temp = state / "temp"
    temp.mkdir()
    cluster = local_cluster.Cluster("feed", processes.boot_id(), state, temp, dict(local_cluster.PORTS), members)
    cluster.save()
    return cluster


def test_a_saved_cluster_is_loaded_unchanged(tmp_path: Path) -> None:
    cluster = recorded(tmp_path, local_cluster.Member("head", processes.Process(1, 2)))
    assert local_cluster.load(tmp_path) == cluster


def test_a_record_from_before_the_last_boot_is_ignored(tmp_path: Path) -> None:
    recorded(tmp_path)
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another"}))
    assert local_cluster.load(tmp_path) is None


def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"id": ')
    with pytest.raises(local_cluster.ClusterError, match=r"cluster\.json is damaged"):
        local_cluster.load(tmp_path)


def test_down_ends_the_recorded_process_and_no_recycled_one(tmp_path: Path, start: Start) -> None:
    ours, other = start(""), start("")
    stale = processes.Process(other.pid, known(other).started - 1)
    recorded(tmp_path, local_cluster.Member("head", stale), local_cluster.Member("worker-1", known(ours)))
    assert local_cluster.down(tmp_path) == [f"worker-1 (pid {ours.pid})"]
    assert ours.wait(5) == -signal.SIGTERM
    assert other.poll() is None
    assert not (tmp_path / "temp").exists()


def test_a_token_file_that_an_interrupted_call_left_empty_gets_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    local_cluster._make_token(tmp_path / "token")
    token = (tmp_path / "token").read_text()
    assert len(token) == 64
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    local_cluster._make_token(tmp_path / "token")
    assert (tmp_path / "token").read_text() == token


def test_the_users_own_exceptions_of_a_proxy_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "hub.corp,127.0.0.1")
    variables = recorded(tmp_path).variables
    assert variables["no_proxy"] == variables["NO_PROXY"] == "hub.corp,127.0.0.1"


def test_sockets_are_in_a_short_folder_whatever_tmpdir_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(local_cluster.tempfile, "tempdir", str(long))
    folder = local_cluster._temp_folder()
    folder.rmdir()
    assert folder.parent == Path("/tmp")


def test_a_config_may_get_its_models_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("run: {name: mine}\n")
    started: list[list[str]] = []
    monkeypatch.setattr(
        demo.subprocess, "run", lambda command, **_: started.append(command) or SimpleNamespace(returncode=0)
    )
    options = ["--models=[{name: a, source: x}]", "--limit=5", "--dry-run"]
    assert demo.run(pytest.fail, str(tmp_path / "mine.yaml"), options) == 0
    assert started[0][-3:] == options
    assert demo.run(pytest.fail, str(tmp_path / "mine.yaml"), [*options, "--model=1"]) == 2


@contextlib.contextmanager
def dashboard(version: str) -> Iterator[int]:
    """The port of a dashboard that answers with this version of Ray."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"ray_version": version}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.0", r"runs with Ray 1\.0, and \d\S+ is installed: end it with `make down` first"),
        (None, r"does not answer at http://127\.0\.0\.1:\d+ within 0 s; it may have a job: try again later"),
    ],
)
def test_a_head_that_runs_and_cannot_be_used_is_not_ended(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, version: str | None, message: str
) -> None:
    monkeypatch.setattr(local_cluster, "ANSWER_S", 0)
    head = start("")
    local_cluster._make_token(tmp_path / "token")
    cluster = recorded(tmp_path, local_cluster.Member("head", known(head)))
    with dashboard(version) if version else contextlib.nullcontext(processes.free_port(0)) as port:
        dataclasses.replace(cluster, ports={**cluster.ports, "dashboard": port}).save()
        with pytest.raises(local_cluster.ClusterError, match=message):
            local_cluster.up(tmp_path)
    assert head.poll() is None
    assert (tmp_path / "temp").exists()


def test_the_remaining_processes_of_a_head_that_ended_are_ended(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start("")
    recorded(tmp_path, local_cluster.Member("head", processes.Process(1, 2)), local_cluster.Member("w", known(worker)))
    monkeypatch.setattr(local_cluster, "_start_head", lambda state, cpus: recorded(state))
    local_cluster.up(tmp_path)
    assert worker.wait(5) == -signal.SIGTERM


def test_down_works_when_nothing_runs(tmp_path: Path) -> None:
    state = tmp_path / "never"
    command = [sys.executable, str(ROOT / "cluster/demo.py"), "--state", str(state), "down"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Nothing was running.\n"


def test_the_token_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    local_cluster._make_token(path)
    token = path.read_text()
    path.chmod(0o644)
    local_cluster._make_token(path)
    assert path.read_text() == token
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_in_the_callers_environment_does_not_reach_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "somebody else's")
    environment = recorded(tmp_path).environment()
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")


@pytest.mark.parametrize(("torch", "counted"), [("2.13.0+cpu", False), ("2.13.0", True)])
def test_a_head_counts_gpus_only_where_the_packages_can_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, counted: bool
) -> None:
    monkeypatch.setattr(local_cluster.importlib.metadata, "version", lambda name: torch)
    command = local_cluster._head_command(recorded(tmp_path), 8)
    assert ("--num-gpus=0" not in command) is counted


# --- Makefile, .ci/run, local.sh


def make(*arguments: str, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment |= variables
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_alone_lists_every_target() -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^  make ([a-z0-9-]+)", make(), re.MULTILINE)
    assert listed == targets
    assert set(targets) >= {"help", "setup", "demo", "demo-smollm2", "serve", "down", "test", "check", "lock", "clean"}


@pytest.mark.parametrize("target", ["demo", "demo-smollm2"])
def test_a_demo_target_names_a_config_that_exists(target: str) -> None:
    config = re.search(r"run (\S+\.yaml)", make("-n", target))
    assert config is not None
    assert (ROOT / config[1]).is_file()


def test_arguments_reach_the_commands() -> None:
    assert "--run.name=mine" in make("-n", "demo", "ARGS=--run.name=mine")
    assert make("-n", "test", 'ARGS=-k "one or two"').rstrip().endswith('-k "one or two"')


def test_a_device_of_the_shell_for_other_programs_means_nothing() -> None:
    assert make("-n", "setup", DEVICE="cuda").rstrip() == "bash cluster/setup.sh"
    assert make("-n", "setup", DEVICE="gpu").rstrip() == "bash cluster/setup.sh --gpu"
    assert make("-n", "setup", "DEVICE=cuda").rstrip() == "bash cluster/setup.sh --cuda"  # which it refuses


def test_a_search_path_of_cd_does_not_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    environment = os.environ | {"CDPATH": str(tmp_path)}
    shown = subprocess.run(
        ["bash", "cluster/local.sh", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "cluster/local.sh up 2" in shown.stdout
    assert str(tmp_path) not in shown.stdout + shown.stderr
    (tmp_path / "Makefile").write_text(f"include {ROOT}/Makefile\nprint-cdpath:\n\t@echo path=$$CDPATH\n")
    printed = ["make", "--no-print-directory", "-s", "-f", str(tmp_path / "Makefile"), "print-cdpath"]
    assert subprocess.check_output(printed, cwd=ROOT, env=environment, text=True) == "path=\n"


def test_make_test_runs_every_folder_quick_ones_first() -> None:
    order = re.search(r'testpaths="([^"]*)"', make("-n", "test"))
    assert order is not None
    folders = order[1].split()
    assert folders[:3] == ["tests/unit", "tests/integration", "tests/serve"]
    assert set(folders) >= {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("tests/*/test_*.py")}


@pytest.mark.parametrize("script", [".ci/run", "cluster/setup.sh", "cluster/local.sh"])
def test_scripts_parse_and_are_executable(script: str) -> None:
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    assert os.access(ROOT / script, os.X_OK)


def test_the_build_needs_only_setuptools() -> None:
    """`pip install --no-build-isolation -e .` has only the lock's packages to build with."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [Requirement(text).name for text in wanted] == ["setuptools"]

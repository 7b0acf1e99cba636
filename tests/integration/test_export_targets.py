"""`rft-ray export` to a real S3 server, and to a hub on loopback by the hub's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.cli.main import main
from rft_ray.store import Store, open_store
from tests.hubuploads import UploadedHub, hub_for_uploads
from tests.report_run import make_run
from tests.s3server import s3_server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("runs"))[1]


@pytest.fixture(scope="module")
def folder(run: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an export into a folder."""
    target = tmp_path_factory.mktemp("exports") / "mine"
    assert main(["export", run.url, "--model", "a", "--to", str(target)]) == 0
    return {
        path.relative_to(target).as_posix(): path.read_bytes() for path in sorted(target.rglob("*")) if path.is_file()
    }


@pytest.mark.s3
def test_an_export_to_s3_is_the_folder_and_is_never_written_over(
    run: Store,
    folder: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with s3_server(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        target = server.url("exports/mine")
        command = ["export", run.url, "--model", "a", "--to", target]
        assert main(command) == 0
        assert f"exported: {target}" in capsys.readouterr().out
        store = open_store(target)
        assert {key: store.read(key) for key in store.list()} == folder
        assert main(command) == 2
        assert "holds files already" in capsys.readouterr().err


def export_to_hub(hub: UploadedHub, run: Store, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the client reads its settings at import."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from rft_ray.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", run.url, "--model", "a", "--to", "hub:me/mine"]
    environment |= {"no_proxy": "127.0.0.1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_an_export_to_the_hub_is_the_folder_in_two_private_repositories(
    run: Store, folder: dict[str, bytes], tmp_path: Path
) -> None:
    corpus = {name.removeprefix("corpus/"): content for name, content in folder.items() if name.startswith("corpus/")}
    model = {name: content for name, content in folder.items() if not name.startswith("corpus/")}
    with hub_for_uploads() as hub:
        done = export_to_hub(hub, run, tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"exported: {hub.url}/me/mine\nexported: {hub.url}/datasets/me/mine-corpus\n" in done.stdout
        assert hub.files == {"me/mine": model, "me/mine-corpus": corpus}
        assert hub.kinds == {"me/mine": "model", "me/mine-corpus": "dataset"}
        assert hub.private == {"me/mine": True, "me/mine-corpus": True}
        assert hub.blobs  # weights and rows went the way of large files
        again = export_to_hub(hub, run, tmp_path)
    assert again.returncode == 2
    assert "error: the hub's model me/mine holds files already: choose another name" in again.stderr

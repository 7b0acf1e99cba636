"""Key files are neither committed nor uploaded to a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("pattern_file", [".gitignore", ".rayignore"])
@pytest.mark.parametrize(
    "name",
    [
        "keys",
        "keys.txt",
        "my-keys.txt",
        "api-keys",
        "api-keys.txt",
        "api_keys.txt",
        "service.key",
        ".env",
        ".env.local",
    ],
)
@pytest.mark.parametrize("folder", ["", "deploy/"])
def test_key_files_are_ignored(tmp_path: Path, pattern_file: str, folder: str, name: str) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text((ROOT / pattern_file).read_text())
    command = ["git", "check-ignore", "-q", folder + name]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


def test_no_tracked_file_is_ignored() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout == ""
    if listed.returncode:
        pytest.skip("not a git checkout")

"""The contract of cluster/pip_index.py with pip's internals: an index on disk, read as `pip install` reads it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "cluster"))

from lock import published  # noqa: E402

FILES = {
    "some_package-1.0-cp39-cp39-win_amd64.whl": "a" * 64,
    "some_package-1.0-py3-none-any.whl": "b" * 64,
    "some_package-1.0.tar.gz": "c" * 64,
    "some_package-1.0.1-py3-none-any.whl": "d" * 64,
    "some_package-1.0.exe": "e" * 64,
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with the package some-package, the only one that pip is configured for."""
    page = tmp_path / "simple" / "some-package" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("".join(f'<a href="../{name}#sha256={digest}">{name}</a>' for name, digest in FILES.items()))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", page.parent.parent.as_uri())
    return tmp_path


@pytest.mark.usefixtures("index")
def test_every_file_of_the_pinned_version_counts_whatever_its_platform() -> None:
    assert published({"some-package": "1.0"}) == {"some-package": {"a" * 64, "b" * 64, "c" * 64}}


@pytest.mark.usefixtures("index")
def test_a_package_that_no_index_has_has_no_hashes() -> None:
    assert published({"another": "1.0", "some-package": "3.0"}) == {"another": set(), "some-package": set()}


def test_files_in_a_folder_of_wheels_are_hashed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = index / "wheels"
    folder.mkdir()
    (folder / "some_package-2.0+cpu-cp311-cp311-linux_x86_64.whl").write_bytes(b"a wheel")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    digest = hashlib.sha256(b"a wheel").hexdigest()
    assert published({"some-package": "2.0+cpu"}) == {"some-package": {digest}}


def test_an_index_among_the_options_is_asked_instead(index: Path) -> None:
    empty = (index / "empty").as_uri()
    assert published({"some-package": "1.0"}, "--index-url", empty) == {"some-package": set()}

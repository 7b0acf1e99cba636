"""Hashes of large model files, by processes of one machine; a process here is a cleared memory of one."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rft_ray.store.models import hashes


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the path of each file that is read. Files of 8 bytes are large."""
    made: list[str] = []

    def digest(path: str) -> str:
        made.append(path)
        time.sleep(0.05)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 8)
    monkeypatch.setattr(hashes, "digest_of_file", digest)
    hashes._recorded.cache_clear()
    return made


def by_another_process(path: Path) -> str:
    hashes._recorded.cache_clear()
    return hashes.sha256_of(path)


def file(tmp_path: Path, content: bytes = b"weights!") -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def test_a_large_file_is_read_by_one_process_of_a_machine(tmp_path: Path, reads: list[str]) -> None:
    path = file(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(by_another_process, [path] * 8))
    assert set(said) == {hashlib.sha256(b"weights!").hexdigest()}
    assert reads == [str(path)]


def test_a_file_that_changed_is_read_again_even_with_its_old_time(tmp_path: Path, reads: list[str]) -> None:
    path = file(tmp_path)
    before, times = by_another_process(path), path.stat()
    path.write_bytes(b"Weights!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert by_another_process(path) != before


@pytest.mark.parametrize("content", [b"weights!", b"config"])
def test_one_process_too_reads_a_file_again_that_changed_and_has_its_old_time(
    tmp_path: Path, reads: list[str], content: bytes
) -> None:
    path = file(tmp_path, content)
    hashes.sha256_of(path)
    times, other = path.stat(), content.upper()
    path.write_bytes(other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.sha256_of(path) == by_another_process(path) == hashlib.sha256(other).hexdigest()


def test_a_record_of_a_clock_that_was_ahead_does_not_count(tmp_path: Path, reads: list[str]) -> None:
    path = file(tmp_path)
    by_another_process(path)
    [record] = [entry for entry in (tmp_path / "cache/hashes").iterdir() if not entry.suffix]
    os.utime(record, (time.time() + 10**7, time.time() + 10**7))
    by_another_process(path)
    assert len(reads) == 2


def test_a_record_counts_for_a_day_and_only_while_it_is_whole(tmp_path: Path, reads: list[str]) -> None:
    path = file(tmp_path)
    right = by_another_process(path)
    [record] = [entry for entry in (tmp_path / "cache/hashes").iterdir() if not entry.suffix]
    record.write_text(right[:20])
    assert by_another_process(path) == right
    old = time.time() - hashes.RECORDED_FOR_S - 1
    os.utime(record, (old, old))
    assert by_another_process(path) == right
    assert len(reads) == 3


def test_small_files_leave_no_record(tmp_path: Path, reads: list[str]) -> None:
    by_another_process(file(tmp_path, b"config"))
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_bytes(b"")
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "taken"))
    assert by_another_process(file(tmp_path)) == hashlib.sha256(b"weights!").hexdigest()


def test_a_user_without_a_home_needs_no_cache(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RFT_CACHE")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id without an entry, and no HOME
    assert by_another_process(file(tmp_path)) == hashlib.sha256(b"weights!").hexdigest()


def test_a_file_with_a_broken_sector_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", broken)
    path = file(tmp_path)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
        hashes.digest_of_file(path)

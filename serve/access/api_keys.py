"""API keys with their limits: a key file and variables -> the hashes of the accepted keys, reloaded with the file.

A file has one key a line, `KEY [requests=N] [tokens=N] [concurrency=N]`; a line that starts with `#` is a comment. KEY
may be `sha256:HEX`, so that the file holds no key. RFT_API_KEYS lists keys without limits of their own,
comma-separated. A key has at least `MIN_KEY_CHARS` characters. Each line of a file ends with a newline: a last line
without one may be half of a key. Only SHA-256 hashes are kept, and a presented key is compared with each of them in
constant time.

Each replica checks the file every `CHECK_S`. An unusable file leaves the keys unchanged, is logged once, without any
key, and is read again at each check. A readable file without keys is usable: its keys are revoked, and requests are
refused. A file that all users can read is used with a warning.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rft_ray.config.errors import InputError
from serve.access import rate_limits
from serve.access.rate_limits import UNLIMITED, Limits

_log = logging.getLogger("ray.serve")
CHECK_S = 1.0
MIN_KEY_CHARS = 20
_KEY = re.compile(r"[!-~]+")
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")


class KeysError(InputError, ValueError):
    """API keys that cannot be used. The message says where and why, and never shows a key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The hashes of the accepted API keys. False where none are configured, True also where a file revoked all keys.

    Example: Keys(frozenset({hashlib.sha256(b"secret").digest()}))
    """

    digests: frozenset[bytes] = frozenset()
    limits: Mapping[bytes, Limits] = field(default_factory=dict)
    """Limits of the keys that have their own."""
    default: Limits = UNLIMITED
    """Limits of all other keys, and of callers where no keys are configured."""
    file: str | None = None
    """The key file."""
    fixed: frozenset[bytes] = frozenset()
    """Hashes of the keys that are not from the file."""

    def __bool__(self) -> bool:
        return bool(self.digests) or self.file is not None

    def identify(self, authorization: str | None) -> bytes | None:
        """The hash of the key in an Authorization header `Bearer KEY`; None where the key is not accepted."""
        scheme, _, key = (authorization or "").partition(" ")
        presented = _digest(key.strip())
        matches = [hmac.compare_digest(presented, digest) for digest in self.digests]
        return presented if scheme.lower() == "bearer" and any(matches) else None

    def limits_of(self, digest: bytes) -> Limits:
        return self.limits.get(digest, self.default)


def load_keys(file: str | None, environment: Mapping[str, str], default: Limits = UNLIMITED) -> Keys:
    """Keys from `file` (or RFT_API_KEYS_FILE) and RFT_API_KEYS. Raises KeysError for a file without keys."""
    listed = [key.strip() for key in environment.get("RFT_API_KEYS", "").split(",")]
    fixed = frozenset(_hashed(key, "RFT_API_KEYS") for key in listed if key)
    name = file or environment.get("RFT_API_KEYS_FILE")
    keys = Keys(fixed, default=default, fixed=fixed)
    if name:
        keys = _with_file(keys, os.path.abspath(name))
        if not keys.digests - fixed:
            raise KeysError(f"API key file {keys.file} has no key: write one key a line")
    return keys


def _with_file(keys: Keys, file: str) -> Keys:
    """The same keys, with those that the file lists now. Warns where all users can read the file."""
    listed, mode = _read_keys(Path(file))
    if mode & stat.S_IROTH:
        _log.warning("API key file %s can be read by all users of this machine: chmod o-r it", file)
    own = {digest: limits for digest, limits in listed.items() if limits}
    return replace(keys, digests=keys.fixed | listed.keys(), limits=own, file=file)


def _read_keys(path: Path) -> tuple[dict[bytes, Limits], int]:
    """The hashes of a key file's keys, each with its limits, and the file's mode. Raises KeysError."""
    try:
        with path.open(encoding="utf-8") as opened:
            lines, mode = opened.read().splitlines(keepends=True), os.fstat(opened.fileno()).st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise KeysError(f"API key file {path} cannot be read: {why}") from None
    keys: dict[bytes, Limits] = {}
    for number, line in enumerate(lines, 1):
        key, *words = line.split() or [""]
        if not key or key.startswith("#"):
            continue
        where = f"{path}, line {number}"
        if not line.endswith("\n"):
            raise KeysError(f"{where}: the line may be half-written: end it with a newline")
        try:
            keys[_hashed(key, where)] = rate_limits.parse(words)
        except KeysError:
            raise
        except ValueError as error:
            raise KeysError(f"{where}: {error}") from None
    return keys, mode


def _hashed(key: str, where: str) -> bytes:
    if not _KEY.fullmatch(key):
        raise KeysError(f"{where}: an API key must be printable ASCII without spaces")
    if hashed := _HASHED.fullmatch(key):
        return bytes.fromhex(hashed[1])
    if key.startswith("sha256:"):
        raise KeysError(f"{where}: sha256: must be followed by 64 hexadecimal digits")
    if len(key) < MIN_KEY_CHARS:
        raise KeysError(
            f"{where}: an API key has at least {MIN_KEY_CHARS} characters: `openssl rand -hex 32` makes one"
        )
    return _digest(key)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class ReloadingKeys:
    """Keys that are read again when their file changes.

    Example: ReloadingKeys(load_keys("keys", {})).current()
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._seen: tuple[object, ...] | None = None
        """The stamp of the version that was read."""
        self._failed: tuple[object, ...] | None = None
        """The stamp and the error of an unusable version, which has been logged."""
        self._checked_at = 0.0

    def current(self) -> Keys:
        """The keys of the file's last usable version."""
        if self._keys.file is not None and time.monotonic() >= self._checked_at + CHECK_S:
            self._checked_at = time.monotonic()
            self._reload(self._keys.file)
        return self._keys

    def _reload(self, file: str) -> None:
        seen = _stamp(file)
        if seen == self._seen:
            return
        try:
            self._keys = _with_file(self._keys, file)
        except KeysError as error:  # the same version may be readable later: too many files are open, say
            if self._failed != (failed := (*seen, str(error))):
                _log.error("the API keys stay unchanged: %s", error)
            self._failed = failed
            return
        self._seen, self._failed = seen, None
        if not self._keys.digests:
            _log.warning("API key file %s has no key: requests are refused until it has one", file)


def _stamp(file: str) -> tuple[object, ...]:
    """A value that changes with the file's content and permissions, and when a link to it is changed."""
    try:
        status = os.stat(file)
    except OSError as error:
        return (error.errno,)
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)

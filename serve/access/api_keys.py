"""API keys with their limits: a key file and variables -> the hashes that are accepted, following the file.

A file has one key a line, `#` starts a comment line: `KEY [requests=N] [tokens=N] [concurrency=N]`, where KEY may be
`sha256:HEX` so that the file holds no key either. RFT_API_KEYS lists keys without limits of their own, comma-separated.
Only SHA-256 is kept, and a presented key is compared with all of them in constant time. Each replica looks at the file
every `CHECK_S`; a file that cannot be used leaves the keys as they were, and is logged once, without any key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve.access import rate_limits
from serve.access.rate_limits import UNLIMITED, Limits

CHECK_S = 1.0
_KEY = re.compile(r"[!-~]+")
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")


class KeysError(ValueError):
    """API keys that cannot be used. The message says where and why, and never shows a key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The hashes of the accepted API keys; empty: none are configured.

    Example: Keys(frozenset({hashlib.sha256(b"secret").digest()}))
    """

    digests: frozenset[bytes] = frozenset()
    limits: Mapping[bytes, Limits] = field(default_factory=dict)
    """Of the keys that have limits of their own."""
    default: Limits = UNLIMITED
    """Of all others, and of callers where no keys are configured."""
    file: str | None = None
    """Where some of them stand."""
    fixed: frozenset[bytes] = frozenset()
    """Those that do not stand in the file."""

    def __bool__(self) -> bool:
        return bool(self.digests)

    def identify(self, authorization: str | None) -> bytes | None:
        """The hash of the key in an Authorization header `Bearer <one of the keys>`; None: no such key."""
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
    return _with_file(keys, os.path.abspath(name)) if name else keys


def _with_file(keys: Keys, file: str) -> Keys:
    """The same keys, with those of a file as it is now."""
    found = _read_keys(Path(file))
    own = {digest: given for digest, given in found.items() if given}
    return replace(keys, digests=keys.fixed | found.keys(), limits=own, file=file)


def _read_keys(path: Path) -> dict[bytes, Limits]:
    """Hash -> limits, of a key file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise KeysError(f"API key file {path} cannot be read: {why}") from None
    keys: dict[bytes, Limits] = {}
    for number, line in enumerate(lines, 1):
        key, *words = line.split() or [""]
        if not key or key.startswith("#"):
            continue
        where = f"{path}, line {number}"
        try:
            keys[_hashed(key, where)] = rate_limits.parse(words)
        except KeysError:
            raise
        except ValueError as error:
            raise KeysError(f"{where}: {error}") from None
    if not keys:
        raise KeysError(f"API key file {path} holds no key: write one a line")
    return keys


def _hashed(key: str, where: str) -> bytes:
    if not _KEY.fullmatch(key):
        raise KeysError(f"{where}: an API key must be printable ASCII without spaces")
    if hashed := _HASHED.fullmatch(key):
        return bytes.fromhex(hashed[1])
    if key.startswith("sha256:"):
        raise KeysError(f"{where}: after sha256: come 64 hexadecimal digits")
    return _digest(key)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """Keys that follow their file.

    Example: KeyRing(load_keys("keys", {})).current()
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._seen: tuple[object, ...] | None = None
        self._looked = 0.0

    def current(self) -> Keys:
        """The keys as the file has them now, or had them when it could last be used."""
        if self._keys.file is not None and time.monotonic() >= self._looked + CHECK_S:
            self._looked = time.monotonic()
            self._look(self._keys.file)
        return self._keys

    def _look(self, file: str) -> None:
        seen = _stamp(file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = _with_file(self._keys, file)
        except KeysError as error:
            logging.getLogger("ray.serve").error("the API keys stay as they were: %s", error)


def _stamp(file: str) -> tuple[object, ...]:
    """Changes with the file, also where it is a link that is pointed elsewhere."""
    try:
        found = os.stat(file)
    except OSError as error:
        return (error.errno,)
    return (found.st_ino, found.st_mtime_ns, found.st_size)

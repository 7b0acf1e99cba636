"""Limits of a key: buckets, leases, and the ingress without its counter; keys that are reloaded with their file."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from serve.access import api_keys as keys_module
from serve.access import failed_keys, rate_limiter, rate_limits
from serve.access.api_keys import KeysError, ReloadingKeys, load_keys
from serve.access.failed_keys import FailedKeys
from serve.access.rate_limiter import RateLimiter
from serve.access.rate_limits import LEASE_S, Lease, LimitExceeded, Limits, UsageCounter
from serve.api.errors import Refusal


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(number: int, allowed: Limits, tokens: int = 0) -> Lease:
    return Lease(str(number), "key", allowed, tokens)


def test_requests_a_minute_refill_steadily(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(requests=6)
    assert [counter.acquire(lease(i, allowed)) for i in range(6)] == [None] * 6
    assert counter.acquire(lease(6, allowed)) == LimitExceeded("requests", 10.0)
    clock.now += 10
    assert counter.acquire(lease(6, allowed)) is None
    assert counter.acquire(lease(7, allowed)) is not None


def test_tokens_are_reserved_and_those_not_generated_are_returned(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(tokens=600)
    assert counter.acquire(lease(1, allowed, 500)) is None
    assert counter.acquire(lease(2, allowed, 500)) == LimitExceeded("tokens", 40.0)
    counter.settle("1", 50)
    assert counter.acquire(lease(2, allowed, 500)) is None
    counter.settle("2", None)  # all of it
    assert counter.acquire(lease(3, allowed, 60)) == LimitExceeded("tokens", 1.0)


def test_a_request_larger_than_a_minutes_tokens_waits_for_a_full_bucket_and_is_paid_off(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(tokens=60)
    assert counter.acquire(lease(1, allowed, 180)) is None
    counter.settle("1", 180)
    assert counter.acquire(lease(2, allowed, 1)) == LimitExceeded("tokens", rate_limits.MAX_RETRY_S)
    clock.now += 119
    assert counter.acquire(lease(2, allowed, 1)) is not None
    clock.now += 2
    assert counter.acquire(lease(2, allowed, 1)) is None


def test_a_lease_without_renewal_ends(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(concurrency=2)
    for number in (1, 2):
        assert counter.acquire(lease(number, allowed)) is None
    assert counter.acquire(lease(3, allowed)) == LimitExceeded("concurrency", rate_limits.BUSY_RETRY_S)
    clock.now += LEASE_S - 1
    counter.renew([lease(2, allowed)])
    clock.now += 2
    assert counter.active_leases("key") == 1
    assert counter.acquire(lease(3, allowed)) is None
    assert counter.acquire(lease(4, allowed)) is not None


def test_a_restarted_counter_learns_the_requests_in_progress(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(concurrency=1)
    counter.renew([lease(1, allowed)])
    assert counter.acquire(lease(2, allowed)) is not None
    counter.settle("1", 0)
    assert counter.acquire(lease(2, allowed)) is None
    assert counter.acquire(lease(2, allowed)) is None  # a repeated call is one lease
    assert counter.active_leases("key") == 1


@pytest.mark.parametrize(
    "words", ["requests", "requests=0", "requests=-1", "requests=1 requests=2", "speed=3", "tokens=x"]
)
def test_limits_that_cannot_be_read_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match="requests=N"):
        rate_limits.parse(words.split())


class Shared:
    """A handle to a counter, which can be down."""

    def __init__(self) -> None:
        self.counter, self.down = UsageCounter(), False

    def __getattr__(self, method: str) -> Any:
        return SharedCall(self, method)


class SharedCall:
    def __init__(self, shared: Shared, method: str) -> None:
        self._shared, self._method = shared, method

    async def remote(self, *arguments: Any) -> Any:
        if self._shared.down:
            await asyncio.sleep(60)
        return getattr(self._shared.counter, self._method)(*arguments)


def test_replicas_share_the_counter_and_count_locally_while_it_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "ANSWER_S", 0.05)
    monkeypatch.setattr(rate_limiter, "FALLBACK_S", 0.3)

    async def check() -> None:
        shared, allowed = Shared(), Limits(concurrency=1)
        one, other = RateLimiter(shared), RateLimiter(shared)
        async with one.admitted("key", allowed, 0):
            with pytest.raises(Refusal) as refused:
                await other.admitted("key", allowed, 0).__aenter__()
            assert (refused.value.status, refused.value.details["kind"]) == (429, "concurrency")
            assert refused.value.details["headers"] == {"Retry-After": "1"}
            shared.down = True
            with pytest.raises(Refusal):  # what this replica holds counts while it is alone
                await one.admitted("key", allowed, 0).__aenter__()
            async with other.admitted("key", allowed, 0):  # and the other knows of nothing
                pass
            shared.down = False
            await asyncio.sleep(0.35)
            with pytest.raises(Refusal):
                await other.admitted("key", allowed, 0).__aenter__()
        async with other.admitted("key", allowed, 0):
            assert shared.counter.active_leases("key") == 1
        assert shared.counter.active_leases("key") == 0

    asyncio.run(check())


@pytest.mark.parametrize("tokens", [-1, -(10**12), -(10**400), 10**400])
def test_an_impossible_number_of_tokens_is_refused_and_leaves_the_shared_counter_in_use(tokens: int) -> None:
    async def check() -> None:
        shared, allowed = Shared(), Limits(tokens=100)
        for meter in (RateLimiter(shared), RateLimiter()):
            with pytest.raises(Refusal) as refused:
                await meter.admitted("key", allowed, tokens).__aenter__()
            assert refused.value.status == 400
            async with meter.admitted("key", allowed, 100):
                with pytest.raises(Refusal, match="limit is 100 generated tokens a minute"):
                    await meter.admitted("key", allowed, 1).__aenter__()
        assert shared.counter._usage["key"].buckets["tokens"].level < 1  # it counted, not the replica alone

    asyncio.run(check())


@pytest.mark.parametrize(
    ("ending", "left"), [(None, 0), (RuntimeError(), 100), (Refusal(499, "gone"), 0), (asyncio.CancelledError(), 0)]
)
def test_a_disconnected_client_is_charged_its_reservation_and_a_failed_request_nothing(ending: Any, left: int) -> None:
    async def check() -> None:
        meter, allowed = RateLimiter(), Limits(tokens=100)
        try:
            async with meter.admitted("key", allowed, 100):
                if ending is not None:
                    raise ending
        except (RuntimeError, Refusal, asyncio.CancelledError):
            pass
        assert round(meter._local._usage["key"].buckets["tokens"].level) == left
        assert meter._local.active_leases("key") == 0

    asyncio.run(check())


def test_a_key_file_gives_limits_and_may_hold_hashes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    hashed = keys_module._digest("hidden").hex()
    plain, other, variable = (f"{name}-key-of-the-tests" for name in ("plain", "other", "variable"))
    file.write_text(f"{plain} requests=5 tokens=100\nsha256:{hashed} concurrency=2\n{other}\n")
    keys = load_keys(str(file), {"RFT_API_KEYS": variable}, Limits(requests=1))
    digests = {key: keys.identify(f"Bearer {key}") for key in (plain, "hidden", other, variable)}
    assert {key: keys.limits_of(digest) for key, digest in digests.items() if digest} == {
        plain: Limits(requests=5, tokens=100),
        "hidden": Limits(concurrency=2),
        other: Limits(requests=1),
        variable: Limits(requests=1),
    }
    assert keys.identify(f"Bearer sha256:{hashed}") is None


@pytest.mark.parametrize(
    "line", ["secret-key-of-the-tests speed=1", "sha256:12ab", "secret-key-of-the-tests requests=0", "secret-key"]
)
def test_a_bad_line_is_named_without_showing_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"good-key-of-the-tests\n{line}\n")
    with pytest.raises(KeysError, match="line 2") as refused:
        load_keys(str(tmp_path / "keys"), {})
    assert "secret-key" not in str(refused.value)
    assert "12ab" not in str(refused.value)


FIRST, SECOND, STATIC = (f"{name}-key-of-the-tests" for name in ("first", "second", "static"))


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key file with FIRST, which is checked at each request."""
    monkeypatch.setattr(keys_module, "CHECK_S", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"{FIRST}\n")
    file.chmod(0o600)
    return file


def accepted(reloading: ReloadingKeys) -> set[str]:
    return {key for key in (FIRST, SECOND, STATIC) if reloading.current().identify(f"Bearer {key}")}


def test_keys_follow_their_file_and_stay_where_it_cannot_be_used(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = key_file.parent / "link"
    link.symlink_to(key_file)  # as Kubernetes mounts a Secret
    keys = ReloadingKeys(load_keys(str(link), {"RFT_API_KEYS": STATIC}))
    assert accepted(keys) == {FIRST, STATIC}
    newer = key_file.parent / "newer"
    newer.write_text(f"{SECOND}\n")
    newer.chmod(0o600)
    os.replace(newer, key_file)
    assert accepted(keys) == {SECOND, STATIC}
    with caplog.at_level(logging.WARNING, "ray.serve"):
        for broken in ("not-a-key of-the-tests\n", f"{FIRST}\n{SECOND}"):
            key_file.write_text(broken)
            assert accepted(keys) == {SECOND, STATIC}
            assert accepted(keys) == {SECOND, STATIC}
        key_file.unlink()
        assert accepted(keys) == {SECOND, STATIC}
    assert len(caplog.messages) == 3
    assert not [text for text in caplog.messages if "of-the-tests" in text]
    key_file.write_text(f"{FIRST}\n")
    assert accepted(keys) == {FIRST, STATIC}


def test_a_file_that_could_not_be_read_once_is_read_again(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ReloadingKeys(load_keys(str(key_file), {}))
    assert accepted(keys) == {FIRST}
    key_file.write_text(f"{SECOND}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # too many files are open
            for _ in range(3):
                assert accepted(keys) == {FIRST}
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(caplog.messages) == 1
    assert accepted(keys) == {SECOND}


def test_keys_follow_a_change_that_only_the_files_ctime_shows(key_file: Path) -> None:
    """As chmod is, and a file of the same length whose time of change was set back."""
    keys = ReloadingKeys(load_keys(str(key_file), {}))
    assert accepted(keys) == {FIRST}
    before = key_file.stat()
    key_file.write_text(f"{STATIC[: len(FIRST)]}\n")
    os.utime(key_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert accepted(keys) == set()


def test_a_readable_file_without_keys_revokes_the_last_key_and_opens_nothing(key_file: Path) -> None:
    keys = ReloadingKeys(load_keys(str(key_file), {}))
    assert accepted(keys) == {FIRST}
    for content in ("", "# no keys\n"):
        key_file.write_text(content)
        assert accepted(keys) == set()
        assert keys.current()  # keys are configured: this machine is not let in without one
    key_file.write_text(f"{SECOND}\n")
    assert accepted(keys) == {SECOND}


@pytest.mark.parametrize("cut", [5, len(SECOND) - 1, len(SECOND), len(SECOND) + 10])
def test_a_half_written_line_is_no_key(key_file: Path, cut: int) -> None:
    """Also where the cut is in the limits, or just before the newline."""
    keys = ReloadingKeys(load_keys(str(key_file), {}))
    key_file.write_text(f"{FIRST}\n" + f"{SECOND} requests=60"[:cut])
    assert accepted(keys) == {FIRST}
    assert not keys.current().identify(f"Bearer {SECOND[:cut]}")
    with pytest.raises(KeysError, match="line 2"):
        load_keys(str(key_file), {})


@pytest.mark.parametrize("key", ["short", "x" * 19])
def test_a_short_key_is_refused(key: str) -> None:
    with pytest.raises(KeysError, match="20 characters"):
        load_keys(None, {"RFT_API_KEYS": key})


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_key_file_that_all_users_can_read_is_used_with_a_warning(
    key_file: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    key_file.chmod(mode)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        assert load_keys(str(key_file), {}).digests
    assert len(caplog.messages) == warnings


def test_a_late_renewal_does_not_restore_a_settled_lease(clock: Clock) -> None:
    counter, allowed = UsageCounter(clock), Limits(concurrency=1)
    assert counter.acquire(lease(1, allowed)) is None
    counter.settle("1", 0)
    counter.renew([lease(1, allowed)])  # was under way when the lease was settled
    assert counter.active_leases("key") == 0
    assert counter.acquire(lease(2, allowed)) is None
    counter.settle("3", 0)  # settled before its cancelled acquisition arrives
    counter.settle("2", 0)
    assert counter.acquire(lease(3, allowed)) is None
    assert counter.active_leases("key") == 0


def test_settled_leases_are_forgotten_in_time(clock: Clock) -> None:
    counter = UsageCounter(clock)
    for number in range(1000):
        counter.settle(str(number), 0)
        clock.now += 1
    assert len(counter._settled) <= rate_limits.REMEMBER_S + 1


def test_failed_keys_are_limited_by_address_and_few_addresses_are_kept(clock: Clock) -> None:
    failed = FailedKeys(clock)
    assert [failed.wait_s("a") for _ in range(failed_keys.FAILURES_PER_MINUTE)] == [0] * failed_keys.FAILURES_PER_MINUTE
    assert failed.wait_s("a") == pytest.approx(1)
    assert failed.wait_s("b") == 0
    clock.now += 1
    assert failed.wait_s("a") == 0
    for number in range(2 * failed_keys.MAX_ADDRESSES):
        failed.wait_s(str(number))
    assert len(failed._levels) == failed_keys.MAX_ADDRESSES

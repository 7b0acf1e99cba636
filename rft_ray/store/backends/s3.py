"""A store on S3, or on any server with its protocol, through boto3.

A commit is one PUT (or one multipart completion) with `If-None-Match: *`. Where its outcome is unknown (a time-out, a
lost connection, an error of the server), the object's metadata is read: each call writes a token of its own there, so
it knows whether the object is the one that it sent.

Endpoint, region and credentials come from boto3's usual chain (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, profiles, instance
roles) in the process that uses the store; the store object keeps none of them.

Files above SINGLE_PUT_BYTES (weights, training states), views above it, and whatever no PUT can hold, are uploaded in
parts, PARTS_AT_ONCE of them at the same time.

Limits: `check` refuses a server that ignores `If-None-Match` on a PUT. AWS completes uploads in parts create-only too,
but SeaweedFS 4.48 checks and completes without a lock, so two completions at the same instant can both succeed there
(of a model's manifest, which is a PUT, one still wins). A listing holds all keys of its prefix in memory, to sort them.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.session
from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from rft_ray.store.base import (
    NotFound,
    StoreError,
    StoreUnreachable,
    check_create_only,
    checked_key,
    checked_removable,
    checked_view,
    checked_work,
    explain_os_error,
    is_key,
    partial_file,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


SINGLE_PUT_BYTES = 64 << 20
"""Larger files and views are uploaded in parts."""
LARGEST_PUT_BYTES = 5 << 30
"""S3 accepts no larger PUT. Tables stay one PUT up to here: it is the surer way to create once (see Limits)."""
PART_BYTES = 32 << 20
PARTS_AT_ONCE = 16
"""Parts of one file that are uploaded at the same time, each held in memory meanwhile."""
DELETES_AT_ONCE = 16
_MAX_PARTS = 10_000
_ATTEMPTS = 3
_WRITER = "rft-writer"
PATIENT = Config(
    connect_timeout=5,
    read_timeout=60,
    max_pool_connections=32,
    retries={"mode": "standard", "total_max_attempts": 4},
)
"""How often and how long boto3 itself tries a request; `_create_only` tries `_ATTEMPTS` times around that."""
_QUICK = Config(connect_timeout=3, read_timeout=4, retries={"mode": "standard", "total_max_attempts": 2})
_ERRORS = (BotoCoreError, ClientError, Boto3Error)
_BROKEN = (HTTPClientError, ConnectionError, IncompleteReadError, RetriesExceededError)
"""No answer, or one that broke off; RetriesExceededError: each try of a download broke off inside the body."""


class S3Store:
    """A prefix of a bucket as a store. Pickles as its URL alone; makes its client on first use."""

    def __init__(self, url: str, config: Config | None = None) -> None:
        """`config`: time-outs and tries; None: PATIENT."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or not (is_key(prefix) or not prefix):
            raise StoreError("bad S3 url: write s3://bucket/prefix, without credentials, query or empty parts")
        self._config = config
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")

    def __reduce__(self) -> tuple[type[S3Store], tuple[str]]:
        return S3Store, (self.url,)

    def create(self, key: str, data: bytes) -> bool:
        if len(data) > LARGEST_PUT_BYTES:
            return self._create_only(key, lambda writer: self._put_parts(key, _of_bytes(data), len(data), writer))
        return self._create_only(key, lambda writer: self._put(key, data, writer))

    def create_file(self, key: str, path: Path) -> bool:
        if (size := path.stat().st_size) > SINGLE_PUT_BYTES:
            return self._create_only(key, lambda writer: self._put_parts(key, _of_file(path), size, writer))

        def put(writer: str) -> None:
            with open(path, "rb") as body:
                self._put(key, body, writer)

        return self._create_only(key, put)

    def replace(self, key: str, data: bytes) -> None:
        writer, name = uuid.uuid4().hex, self._name(checked_view(key))
        try:
            with self._explained(key):
                if len(data) > SINGLE_PUT_BYTES:
                    self._put_parts(key, _of_bytes(data), len(data), writer, create_only=False)
                else:
                    self._client.put_object(Bucket=self._bucket, Key=name, Body=data)
        except NotFound:  # the answer to a completion was lost, so that boto3 completed again: see _outcome_unknown
            if self._writer(key) != writer:
                raise

    def read(self, key: str) -> bytes:
        with self._explained(key):
            for _ in range(_ATTEMPTS - 1):
                with suppress(*_BROKEN):  # the connection broke inside the body
                    return self._get(key)
            return self._get(key)

    def fetch(self, key: str, path: Path) -> None:
        name = self._name(key)
        try:
            with self._explained(key), partial_file(path) as partial:
                self._client.download_file(self._bucket, name, str(partial))
        except OSError as error:
            raise explain_os_error(error, key, str(path)) from error

    def exists(self, key: str) -> bool:
        return self._writer(key) is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        return (key for key, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        with self._explained(prefix):
            listed = ((key, entry["Size"]) for key, entry in self._listed(prefix))
            yield from sorted(  # not every S3 server lists in the order of keys
                (key, size) for key, size in listed if is_key(key) and not key.startswith(".")
            )

    def entity_tags(self) -> dict[str, str]:
        """Name -> ETag of every object, whether or not its name is a key. The ETag changes with the content."""
        with self._explained(""):
            return {name: entry["ETag"] for name, entry in self._listed("")}

    def entries(self, folder: str, most: int) -> tuple[str, ...]:
        prefix = self._prefix + (f"{checked_key(folder)}/" if folder else "")
        with self._explained(folder):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, Delimiter="/", MaxKeys=most)
        keys = [entry["Key"] for entry in page.get("Contents", [])]
        keys += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        names = [key.removeprefix(prefix) for key in keys]
        return tuple(sorted(name for name in names if name and not name.startswith(".")))

    def discard(self, keys: Iterable[str]) -> None:
        self._delete([checked_work(key) for key in keys])

    def remove(self, keys: Iterable[str]) -> None:
        self._delete([checked_removable(key) for key in keys])

    def leftovers(self, older_s: float) -> tuple[tuple[str, int], ...]:
        return tuple((f"upload of {key}", sent) for key, _, sent in self._old_uploads(older_s))

    def clear(self, older_s: float) -> None:
        for key, upload, _ in self._old_uploads(older_s):
            with self._explained(key), suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + key, UploadId=upload)

    def bind(self, run_id: str) -> None:
        """Nothing to check: a bucket that goes away refuses each request."""

    def hurried(self) -> S3Store:
        return S3Store(self.url, _QUICK)

    def local_path(self, key: str) -> Path | None:
        checked_key(key)
        return None

    def check(self) -> None:
        with self._explained(""):
            self.hurried()._client.head_bucket(Bucket=self._bucket)
        probes = check_create_only(self)
        with suppress(*_ERRORS):  # a user without the right to delete can still use the store
            for probe in probes:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + probe)

    @cached_property
    def _client(self) -> S3Client:
        try:
            client = boto3.session.Session().client("s3", config=self._config or PATIENT)
        except ValueError as error:  # what botocore raises for an endpoint that is no URL
            raise StoreError(f"cannot use {self.url}: {error}: correct AWS_ENDPOINT_URL or AWS_REGION") from error
        if "RFT_STORE_FAULTS" in os.environ:
            from rft_ray.store.backends import faults

            faults.hook(client)
        return client

    def _delete(self, keys: Sequence[str]) -> None:
        def delete(key: str) -> None:
            with self._explained(key):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

        with _pool(DELETES_AT_ONCE) as pool:
            list(pool.map(delete, keys))

    def _old_uploads(self, older_s: float) -> Iterator[tuple[str, str, int]]:
        """(key, id, bytes sent) of each unfinished upload of the run that began so long ago, by the server's clock.

        None where the key may not list uploads, or the server cannot.
        """
        to: Any = {"Bucket": self._bucket}
        pages = self._client.get_paginator("list_multipart_uploads").paginate(**to, Prefix=self._prefix)
        with suppress(ClientError):
            for page in pages:
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for upload in page.get("Uploads", []):
                    if (now - upload["Initiated"]).total_seconds() > older_s:
                        of: Any = {**to, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                        parts = self._client.get_paginator("list_parts").paginate(**of)
                        sent = sum(part["Size"] for sheet in parts for part in sheet.get("Parts", []))
                        yield upload["Key"].removeprefix(self._prefix), upload["UploadId"], sent

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _listed(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Names below the store's prefix and what the server says of each, in the order of its pages."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(self._prefix), entry

    def _get(self, key: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=self._name(key))["Body"].read()

    def _put(self, key: str, body: Any, writer: str) -> None:
        self._client.put_object(
            Bucket=self._bucket, Key=self._name(key), Body=body, IfNoneMatch="*", Metadata={_WRITER: writer}
        )

    def _put_parts(
        self, key: str, body: Callable[[int, int], bytes], size: int, writer: str, *, create_only: bool = True
    ) -> None:
        """Upload `size` bytes in parts at once and complete them. The parts of a failed upload are removed.

        `body`: the bytes from an offset, so many of them.
        """
        to: Any = {"Bucket": self._bucket, "Key": self._name(key)}
        upload = self._client.create_multipart_upload(**to, Metadata={_WRITER: writer})["UploadId"]
        condition: Any = {"IfNoneMatch": "*"} if create_only else {}
        part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))

        def send(number: int) -> Any:
            chunk = body((number - 1) * part_bytes, part_bytes)
            sent = self._client.upload_part(**to, UploadId=upload, PartNumber=number, Body=chunk)
            return {"PartNumber": number, "ETag": sent["ETag"], **_checksum(sent)}

        try:
            with _pool(PARTS_AT_ONCE) as pool:
                parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
            self._client.complete_multipart_upload(**to, UploadId=upload, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            with suppress(*_ERRORS):  # after a completion that did succeed there is no upload to abort
                self._client.abort_multipart_upload(**to, UploadId=upload)
            raise

    def _create_only(self, key: str, put: Callable[[str], None]) -> bool:
        """Run `put` with this call's token until it is known which call committed `key`."""
        writer = uuid.uuid4().hex
        for attempt in range(_ATTEMPTS):
            try:
                with self._explained(key):
                    put(writer)
                return True
            except StoreError as error:
                if not _outcome_unknown(error.__cause__):
                    raise
                failure = error
            winner = self._writer(key)
            if winner is not None:
                return winner == writer
            time.sleep(0.1 * 2**attempt * (1 + random.random()))
        raise failure

    def _writer(self, key: str) -> str | None:
        """The token of the call that made the object; "" for an object without one, None where there is no object."""
        try:
            with self._explained(key):
                head = self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except NotFound:
            return None
        return head["Metadata"].get(_WRITER, "")

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into a StoreError that says what to do."""
        try:
            yield
        except _ERRORS as error:
            what = f"{key} in {self.url}" if key else self.url
            raise _explain(error, what, self._bucket) from error


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. After an error in the block, what has not begun is dropped; what has begun is waited for."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _of_bytes(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, count: data[offset : offset + count]


def _of_file(path: Path) -> Callable[[int, int], bytes]:
    def read(offset: int, count: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(count)

    return read


def _checksum(sent: Any) -> dict[str, str]:
    """The checksum of an uploaded part, which S3 requires at the completion where the part had one."""
    return {name: sent[name] for name in sent if name.startswith("ChecksumCRC")}


def _outcome_unknown(error: BaseException | None) -> bool:
    """Whether a failed create may have succeeded, or may succeed if tried again. 412: another call has won.

    NoSuchUpload: a completion whose answer was lost did succeed, or somebody has aborted the upload.
    """
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        code = error.response["Error"].get("Code", "")
        unknown = status in (408, 409, 412, 429) or (status >= 500 and status != 501)
        return unknown or code in ("RequestTimeout", "NoSuchUpload")
    return isinstance(error, _BROKEN)


def _explain(error: Exception, what: str, bucket: str) -> StoreError:
    """The StoreError for an error of boto3: what it means and what to do."""
    cause = getattr(error, "last_exception", error)
    text = re.sub(r"://[^/@\s]*@", "://", str(cause))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return StoreError(
            f"no S3 credentials for {what} ({text}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, _BROKEN):
        return StoreUnreachable(f"S3 is out of reach for {what} ({text}): check AWS_ENDPOINT_URL and the network")
    if not isinstance(error, ClientError):
        return StoreError(f"S3 failed for {what}: {text}")
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code == "NoSuchBucket" or (status == 404 and error.operation_name == "HeadBucket"):
        return StoreError(f"no S3 bucket {bucket!r} for {what}: create it, or correct the url or AWS_ENDPOINT_URL")
    if status == 404:
        return NotFound(f"not found: {what}")
    if status in (401, 403):
        return StoreError(f"S3 denies access to {what} ({text}): check the credentials and the bucket's policy")
    kind = StoreUnreachable if status == 429 or status >= 500 else StoreError
    return kind(f"S3 failed for {what} ({text})")

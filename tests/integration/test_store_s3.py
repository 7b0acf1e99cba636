"""One contract for both stores, local disk and a real S3 server; then the faults that only S3 has."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3.session
import pyarrow as pa
import pytest
from botocore.config import Config

from rft_ray.cli.store import main
from rft_ray.store import (
    CorruptShard,
    NotARun,
    NotFound,
    Store,
    StoreError,
    commit_table,
    mark_run,
    open_run,
    open_store,
    prune,
    read_table,
)
from rft_ray.store.backends import s3 as s3_backend
from rft_ray.store.run_lock import run_lock
from tests.lossy_proxy import lossy
from tests.s3server import BUCKET, S3Server, s3_server

TABLE = pa.table({"problem_id": ["a", "b"], "steps": [["3+2=5"], []]})
VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server; this process's environment points at it."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    running: S3Server = request.getfixturevalue("s3")
    return open_store(running.url(tmp_path.name))


def damage(store: Store, key: str, change: Callable[[bytes], bytes]) -> None:
    """Alter committed bytes behind the store's back."""
    altered = change(store.read(key))
    if path := store.local_path(key):
        path.write_bytes(altered)
    else:
        name = f"{store.url.removeprefix(f's3://{BUCKET}/')}/{key}"
        boto3.session.Session().client("s3").put_object(Bucket=BUCKET, Key=name, Body=altered)


# --- The contract ---------------------------------------------------------------------------------


def test_check_accepts_a_usable_store_and_leaves_no_file(store: Store) -> None:
    store.check()
    assert list(store.list()) == []


def test_first_commit_wins(store: Store) -> None:
    assert store.create("a/b", b"first") is True
    assert store.create("a/b", b"second") is False
    assert store.create("a/b", b"first") is False
    assert store.read("a/b") == b"first"


def test_one_of_eight_concurrent_writers_wins_each_round(store: Store) -> None:
    barriers = [threading.Barrier(8) for _ in range(20)]

    def write(round_: int, writer: int) -> bool:
        barriers[round_].wait()
        return store.create(f"race/{round_}", b"%d" % writer * 1000)

    with ThreadPoolExecutor(8 * 20) as pool:  # concurrent rounds, because SeaweedFS delays a losing writer for seconds
        won = [[pool.submit(write, round_, writer) for writer in range(8)] for round_ in range(20)]
    for round_, writers in enumerate(won):
        winners = [writer for writer in range(8) if writers[writer].result()]
        assert len(winners) == 1
        assert store.read(f"race/{round_}") == b"%d" % winners[0] * 1000


def test_empty_content_can_be_committed(store: Store) -> None:
    assert store.create("a/b", b"")
    assert store.exists("a/b")
    assert store.read("a/b") == b""
    assert not store.create("a/b", b"more")


def test_reading_a_missing_key_raises_not_found(store: Store, tmp_path: Path) -> None:
    store.create("a/b", b"")
    for key in ("c", "a", "a/b/c"):
        assert not store.exists(key)
        with pytest.raises(NotFound, match=f"not found: {key} in {store.url}"):
            store.read(key)
    with pytest.raises(NotFound):
        store.fetch("c", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_listing_is_sorted_and_holds_only_keys_of_the_prefix(store: Store) -> None:
    keys = ["a-b", "a.b", "a/b", "a/c-d", "a/c.d", "a/c/d", "a/c=d", "a/cd/e", "ab", "b", "B"]
    for key in keys:
        store.create(key, key.encode())
    assert list(store.list()) == sorted(keys)
    assert list(store.list("a/c")) == ["a/c-d", "a/c.d", "a/c/d", "a/c=d", "a/cd/e"]
    assert list(store.list("a/c/")) == ["a/c/d"]
    assert list(store.list("zz")) == list(store.list("a/c/d/e")) == list(store.list("../")) == []
    assert dict(store.sizes("a/")) == {key: len(key) for key in keys if key.startswith("a/")}


def test_a_listing_holds_more_than_one_page(store: Store) -> None:
    keys = [f"completions/{i % 7}/p{i:05d}" for i in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda key: store.create(key, b"x"), keys))
    assert list(store.list()) == sorted(keys)
    assert len(list(store.list("completions/3/"))) == 157


def test_bad_keys_are_refused(store: Store, tmp_path: Path) -> None:
    bad = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", ".tmp/a", "a\\b", "a b", "a\n", "é", "a:b", "a/.b", "~"]
    uses: list[Callable[[str], object]] = [
        store.exists,
        store.read,
        store.local_path,
        lambda key: store.create(key, b""),
        lambda key: store.create_file(key, Path(__file__)),
        lambda key: store.fetch(key, tmp_path / "out"),
    ]
    for key in bad:
        for use in uses:
            with pytest.raises(ValueError, match="bad store key"):
                use(key)
    assert list(store.list()) == []


def test_views_are_replaced(store: Store) -> None:
    for content in (b"first", b"second, longer", b"3"):
        store.replace("summary.json", content)
        assert store.read("summary.json") == content


def test_only_views_are_replaced(store: Store) -> None:
    for key in ("a/b.parquet", "a/summary.json", "manifest.json", "../summary.json"):
        with pytest.raises(ValueError, match="only views"):
            store.replace(key, b"")
    assert list(store.list()) == []


def test_a_reader_sees_whole_views_while_they_are_replaced(store: Store) -> None:
    def replace() -> None:
        for i in range(30):
            store.replace("summary.json", b"%d" % (i % 10) * 50_000)

    store.replace("summary.json", b"0" * 50_000)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(replace)
        while not done.done():
            seen = store.read("summary.json")
            assert len(seen) == 50_000
            assert len(set(seen)) == 1
        done.result()


def test_files_are_uploaded_and_fetched_unchanged(store: Store, tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_bytes(os.urandom(3_000_000))
    other.write_bytes(b"other")
    assert store.create_file("models/m/weights", source) is True
    assert store.create_file("models/m/weights", other) is False
    store.fetch("models/m/weights", tmp_path / "new/folder/back")
    assert (tmp_path / "new/folder/back").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["back"]


def test_a_pickled_store_holds_its_url_and_no_credentials(store: Store) -> None:
    store.create("a", b"1")  # so that the store has opened its client
    pickled = pickle.dumps(store)
    assert len(pickled) < len(store.url) + 100
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        assert os.environ.get(name, "none set").encode() not in pickled
    assert pickle.loads(pickled).read("a") == b"1"


def test_tables_are_read_back_with_their_metadata(store: Store) -> None:
    receipt = commit_table(store, "t/1.parquet", TABLE, {"stage": "sampling"})
    again = commit_table(store, "t/1.parquet", TABLE.slice(1), {})
    assert (receipt.rows, receipt.committed_here, again.committed_here) == (2, True, False)
    assert dict(store.sizes()) == {"t/1.parquet": receipt.bytes}
    table, metadata = read_table(store, "t/1.parquet")
    assert table.equals(TABLE)
    assert metadata == {"stage": "sampling"}


@pytest.mark.parametrize(
    "change", [lambda data: data[:-9], lambda data: data[:70] + b"\xff" + data[71:]], ids=["cut", "altered"]
)
def test_damaged_tables_are_named(
    store: Store, change: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    mark_run(store)
    for name in ("a/1", "a/2", "b/3"):
        commit_table(store, f"{name}.parquet", TABLE, {})
    assert main(["verify", store.url]) == 0
    damage(store, "a/2.parquet", change)
    with pytest.raises(CorruptShard, match=rf"a/2\.parquet in {store.url}"):
        read_table(store, "a/2.parquet")
    assert main(["verify", store.url]) == 1
    assert capsys.readouterr().out.count("corrupt shard ") == 1


def test_a_run_is_recognised_by_its_marker(store: Store) -> None:
    with pytest.raises(NotARun, match="no such folder, or it is empty"):
        open_run(f"{store.url}/runs/demo")
    marker = mark_run(open_store(f"{store.url}/runs/demo"))
    assert mark_run(open_run(f"{store.url}/runs/demo")) == marker
    for url in (store.url, f"{store.url}/runs", f"{store.url}/runs/demo/completions"):
        with pytest.raises(NotARun, match=rf"the run {store.url}/runs/demo: give that path"):
            open_run(url)


def test_ls_and_du_report_the_sums_of_files_and_bytes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    mark_run(store)
    for key in ("completions/m/1", "completions/m/2", "completions/n/1", "summary.json"):
        store.create(key, b"12345")
    assert main(["ls", store.url]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["2", "completions/m"], ["1", "completions/n"], ["1", "run.json"], ["1", "summary.json"],
        ["5", "files"],
    ]  # fmt: skip
    assert main(["du", store.url]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == [str(20 + len(store.read("run.json"))), "bytes"]


def test_only_training_states_can_be_deleted(store: Store) -> None:
    kept = ["models/m/manifest.json", "work/f/a/checkpoint-2/latest"]
    gone = ["work/f/a/checkpoint-1/global_step1/state.pt", "work/f/a/checkpoint-1/manifest.json"]
    for key in (*kept, *gone):
        store.create(key, b"{}")
    store.discard([*gone, "work/f/a/no-such-file"])
    assert list(store.list()) == sorted(kept)
    with pytest.raises(ValueError, match="only files below work/ can be deleted"):
        store.discard(["models/m/manifest.json"])
    assert store.exists("models/m/manifest.json")


def test_a_prune_deletes_what_is_void_and_is_refused_while_a_job_runs(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    mark_run(store)
    stem = f"verdicts/{'5' * 16}/p000000/{'a' * 16}.s00000"
    files = [f"{stem}.g0.parquet", f"{stem}.g0.tombstone", f"{stem}.g1.parquet"]
    for key in files:
        store.create(key, b"{}")
    with run_lock(store, "job"):
        assert main(["prune", "--yes", store.url]) == 2
    assert "a job has been running on it" in capsys.readouterr().err
    assert main(["prune", store.url]) == 0
    assert list(store.list("verdicts/")) == files
    assert main(["prune", "--yes", store.url]) == 0
    assert list(store.list("verdicts/")) == files[1:]
    with pytest.raises(ValueError, match="it is part of every run"):
        store.remove(["run.json"])


# --- S3 alone -------------------------------------------------------------------------------------


@pytest.mark.s3
def test_files_in_parts_are_created_once(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_backend, "SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr(s3_backend, "PART_BYTES", 5 << 20)
    store = open_store(s3.url("parts"))
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_bytes(os.urandom(11 << 20))
    other.write_bytes(os.urandom(11 << 20))
    assert store.create_file("model", source) is True
    assert store.create_file("model", other) is False
    store.fetch("model", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert "Uploads" not in boto3.session.Session().client("s3").list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.s3
def test_views_and_tables_larger_than_one_put_are_written_in_parts(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_backend, "SINGLE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr(s3_backend, "LARGEST_PUT_BYTES", 5 << 20, raising=False)
    monkeypatch.setattr(s3_backend, "PART_BYTES", 5 << 20)
    store, client = open_store(s3.url("large")), boto3.session.Session().client("s3")
    contents = [os.urandom(11 << 20), os.urandom(12 << 20)]
    for content in contents:
        store.replace("completions.jsonl", content)
        assert store.read("completions.jsonl") == content
    assert [store.create("corpus/a.parquet", content) for content in contents] == [True, False]
    assert store.read("corpus/a.parquet") == contents[0]
    for key in ("completions.jsonl", "corpus/a.parquet"):
        name = f"{store.url.removeprefix(f's3://{BUCKET}/')}/{key}"
        assert client.head_object(Bucket=BUCKET, Key=name)["ETag"].endswith('-3"')  # three parts
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.s3
def test_unfinished_uploads_of_killed_writers_are_pruned_after_their_time(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_run(store := open_store(s3.url("killed")))
    client = boto3.session.Session().client("s3")
    to = {"Bucket": BUCKET, "Key": f"{store.url.removeprefix(f's3://{BUCKET}/')}/models/m/weights"}
    upload = client.create_multipart_upload(**to)["UploadId"]
    client.upload_part(**to, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    assert main(["prune", "--yes", store.url]) == 0
    assert len(client.list_parts(**to, UploadId=upload)["Parts"]) == 1
    monkeypatch.setattr(prune, "LEFT_AFTER_S", -5)
    assert store.leftovers(-5) == (("upload of models/m/weights", 1000),)
    assert main(["prune", "--yes", store.url]) == 0
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET, Prefix=to["Key"])


@pytest.mark.s3
@pytest.mark.parametrize("losses", [1, 4, 6])
def test_after_a_lost_answer_the_object_is_looked_up(s3: S3Server, losses: int) -> None:
    """With fewer losses than boto3 tries, as many, and more: `create` returns that this call wrote the object."""
    direct = open_store(s3.url(f"lost-answer-{losses}"))
    assert direct.create("theirs", b"theirs")
    with lossy(s3, "answer", losses):
        assert open_store(direct.url).create("ours", b"ours") is True
    with lossy(s3, "answer", losses):
        assert open_store(direct.url).create("theirs", b"ours") is False
    assert (direct.read("ours"), direct.read("theirs")) == (b"ours", b"theirs")


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3's own retries."""
    monkeypatch.setattr(s3_backend, "PATIENT", Config(retries={"total_max_attempts": 1}))


@pytest.mark.s3
@pytest.mark.usefixtures("one_try")
def test_a_lost_request_is_sent_again(s3: S3Server) -> None:
    direct = open_store(s3.url("lost-request"))
    with lossy(s3, "request", 2):
        assert open_store(direct.url).create("ours", b"ours") is True
    assert direct.read("ours") == b"ours"


@pytest.mark.s3
@pytest.mark.usefixtures("one_try")
def test_losing_every_request_raises_one_clear_error(s3: S3Server) -> None:
    direct = open_store(s3.url("lost-all"))
    with lossy(s3, "request", 1000), pytest.raises(StoreError, match="out of reach for ours in s3://"):
        open_store(direct.url).create("ours", b"ours")
    assert not direct.exists("ours")


@pytest.mark.s3
def test_a_missing_bucket_raises_one_clear_error(s3: S3Server) -> None:
    store = open_store("s3://no-such-bucket/run")
    for use in (store.check, lambda: store.create("a", b""), lambda: store.read("a"), lambda: list(store.list())):
        with pytest.raises(StoreError, match=r"no S3 bucket 'no-such-bucket'.*: create it") as raised:
            use()
        assert not isinstance(raised.value, NotFound)


@pytest.mark.s3
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_raise_one_clear_error(s3: S3Server, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "wrong-one")
    store = open_store(s3.url("run"))
    for use in (store.check, lambda: store.create("a", b""), lambda: store.read("a"), lambda: list(store.list())):
        with pytest.raises(StoreError, match=r"denies access to .*: check the credentials") as raised:
            use()
        assert "wrong-one" not in str(raised.value)

"""The command over files: tables, rows to be read by hand, and files that are fetched."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import graders, public_data, verdict_counts
from benchmarks.labelled_rows import LabelledRow
from benchmarks.public_data import FetchError, PublicFiles
from benchmarks.verdict_counts import MATH_VERIFY, Judged, judge, kind_of


def write_abel(path: Path) -> Path:
    texts = [
        ("2 + 3 = 5. #### 5", True),
        ("2 + 3 = 6. #### 5", True),
        ("The answer is 5", False),
        ("2 * 3 #### 6", False),
    ]
    rows = [
        {"id": i, "response": text, "pred": "", "gold": "5", "result": right} for i, (text, right) in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table_rows(printed: str) -> dict[tuple[str, str], list[str]]:
    """(first cell, second cell) -> the other cells."""
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2:] for row in cells}


def test_the_tables_count_what_each_grader_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, rejects = write_abel(tmp_path / "7b.jsonl"), tmp_path / "rejects.jsonl"
    options = ["--abel", str(source), "--rejects", str(rejects), "--processes", "1", "--math-verify-every", "0"]
    assert graders.main(options) == 0
    verdicts, answers = capsys.readouterr().out.split("| answers accepted |")
    heads = verdicts.splitlines()[1].strip("| ").split(" | ")
    right = dict(zip(heads[2:], table_rows(verdicts)["abel", "right"], strict=True))
    assert (right["rows"], right["correct"], right["bad_equation"]) == ("2", "1", "1")
    assert right["accepted by answer"] == "100.00 %"
    assert MATH_VERIFY not in answers  # it was not asked
    assert set(table_rows(answers)["abel", "wrong"]) == {"1 (50.00 %)", "0 (0.00 %)"}
    kinds = [(row["kind"], Path(row["place"]).name) for row in map(json.loads, rejects.read_text().splitlines())]
    assert kinds == [("right_bad_equation", "7b.jsonl:2"), ("wrong_accepted", "7b.jsonl:3")]


def test_limit_ends_each_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_abel(tmp_path / "7b.jsonl")
    assert graders.main(["--abel", str(source), "--limit", "1", "--processes", "1", "--math-verify-every", "0"]) == 0
    assert table_rows(capsys.readouterr().out)["abel", "right"][0].startswith("1 ")


def test_math_verify_is_asked_about_every_nth_row_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_abel(tmp_path / "7b.jsonl")
    assert graders.main(["--abel", str(source), "--math-verify-every", "3", "--processes", "1"]) == 0
    answers = capsys.readouterr().out.split("| answers accepted |")[1]
    assert table_rows(answers)["abel", "right"][-1] == "1 (100.00 % of 1)"
    assert table_rows(answers)["abel", "wrong"][-1] == "0 (0.00 % of 1)"


@pytest.mark.parametrize(
    ("right", "status", "accepted", "kind"),
    [
        (True, "correct", True, None),
        (True, "partly_read", True, "right_partly_read"),
        (True, "bad_equation", True, "right_bad_equation"),
        (True, "no_answer", False, "right_rejected"),
        (False, "bad_equation", True, "wrong_accepted"),
        (False, "wrong_answer", False, None),
        (None, "bad_equation", True, "unlabelled_bad_equation"),
        (None, "wrong_answer", False, None),
    ],
)
def test_what_is_to_be_read_by_hand(right: bool | None, status: str, accepted: bool, kind: str | None) -> None:
    assert kind_of(right, Judged(status, "", accepted, ())) == kind


def test_a_truncated_completion_is_counted_as_such() -> None:
    assert judge(LabelledRow("p", "So 12 pens. #### 1", "1", None, truncated=True), None).status == "truncated"


def test_without_data_or_with_a_wrong_file_the_command_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graders.main([]) == 2
    assert "name files by options" in capsys.readouterr().err
    assert graders.main(["--abel", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that publishes `o/r` at commit `c`, as the only set of files `abel`."""
    folder = tmp_path / "site" / "o" / "r" / "c" / "out put"
    folder.mkdir(parents=True)
    write_abel(folder / "7b@x.jsonl")
    sha256 = public_data.digest([folder / "7b@x.jsonl"])
    monkeypatch.setattr(public_data, "SETS", {"abel": PublicFiles("o/r", "c", ("out put/7b@x.jsonl",), sha256)})
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_files_are_fetched_once_and_checked(tmp_path: Path, published: str) -> None:
    (path,) = public_data.fetched("abel", tmp_path / "cache", published)
    assert path.name == "7b@x.jsonl"
    assert public_data.fetched("abel", tmp_path / "cache", "http://127.0.0.1:9") == [path]
    path.write_text("changed")
    with pytest.raises(FetchError, match=r"not the files of o/r at c .* remove the folder"):
        public_data.fetched("abel", tmp_path / "cache", published)


def test_a_network_that_refuses_is_one_error_and_leaves_no_file(tmp_path: Path, published: str) -> None:
    with pytest.raises(FetchError, match=r"cannot be fetched.*name it with an option"):
        public_data.fetched("abel", tmp_path / "cache", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="File not found"):
        public_data.fetched("abel", tmp_path / "cache", f"{published}/elsewhere")
    assert not [path for path in tmp_path.glob("cache/**/*") if path.is_file()]


def test_every_set_of_files_has_a_digest_and_names_that_differ() -> None:
    for files in public_data.SETS.values():
        names = [public_data.local_name(files, path) for path in files.paths]
        assert len(set(names)) == len(names)
        assert len(files.sha256) == 64
        assert len(files.commit) == 40


def test_rows_wait_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read only as far ahead of the results as chunks may wait."""
    read = 0

    def rows() -> Iterator[LabelledRow]:
        nonlocal read
        for read in range(1, 2_001):
            yield LabelledRow(f"{read}", "#### 5", "5", True)

    judged = verdict_counts._judged(rows(), 2, 0)
    next(judged)
    assert read <= verdict_counts.CHUNK * 2 * verdict_counts.WAITING
    assert sum(1 for _ in judged) == 1_999

"""`rft-ray export`: the folder, its cards, its targets; and the index of a run's models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError

from rft_ray.cli.main import main
from rft_ray.corpus.builder import build_corpus
from rft_ray.data.licences import card_licence, licence_of
from rft_ray.evaluation.model_index import INDEX, write_index
from rft_ray.evaluation.summary import read_summary
from rft_ray.report import export
from rft_ray.store import Store, StoreError, repair
from rft_ray.store.models.committed import committed_model
from rft_ray.store.prune import unneeded, unplanned
from tests.report_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    plan, store = make_run(tmp_path_factory.mktemp("runs"))
    build_corpus(plan.gold, store, plan.train, plan.config.prompt.template)
    return store


def exported(run: Store, folder: Path, *options: str) -> Path:
    assert main(["export", run.url, "--model", "a", "--to", str(folder), *options]) == 0
    return folder


def head_of(card: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(card.read_text().split("---\n")[1])
    return tree


# --- The folder -----------------------------------------------------------------------------------


def test_the_folder_holds_the_committed_files_of_the_model(run: Store, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "models" / "mine")
    summary = read_summary(run)
    assert summary
    [entry] = [model for model in summary.models if (model.model, model.stage) == ("a", "rft")]
    manifest = committed_model(run, entry.fingerprint)
    assert manifest
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "README.md", "corpus"}
    for name in manifest.files:
        assert (folder / name).read_bytes() == run.read(f"{manifest.folder}/{name}")
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_the_card_has_base_evaluation_data_samplers_and_settings(run: Store, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "mine")
    card = (folder / "README.md").read_text()
    assert head_of(folder / "README.md")["library_name"] == "transformers"
    assert "# mine\n" in card
    assert "`tiny:a` after rejection-sampling fine-tuning" in card
    summary = read_summary(run)
    assert summary
    accuracy = summary.evaluation["a"]["rft"]["maj1@1"]
    assert f"| **rft** | maj1@1 | {100 * accuracy.value:.1f} % [{100 * accuracy.low:.1f}, " in card
    assert "Against `sft` on the same problems" in card
    assert "sampled from `b`" in card
    assert f"| a | {summary.ledger['a'].sampled:,} |" in card
    assert '- recipe: `{"batch_size"' in card
    assert "names none: look it up before you pass this on" in card
    assert '- verifier: `"gsm8k"`\n- grading: `"strict"`\n- distinct by: `"equations"`' in card
    assert "correct samples with the same equations." in (folder / "corpus" / "README.md").read_text()


def test_the_cards_of_another_verifier_name_it_and_what_its_equal_paths_share(tmp_path: Path) -> None:
    _, other = make_run(tmp_path / "runs")
    saved = yaml.safe_load(other.read("config.yaml"))
    saved["grading"]["verifier"] = "math"
    other.replace("config.yaml", yaml.safe_dump(saved).encode())
    folder = exported(other, tmp_path / "mine")
    card = (folder / "README.md").read_text()
    assert '- verifier: `"math"`\n- distinct by: `"normalised_text"`\n' in card
    assert "correct samples with the same words." in (folder / "corpus" / "README.md").read_text()


def test_the_corpus_is_a_data_set_repository_with_the_rows_of_training(run: Store, tmp_path: Path) -> None:
    corpus = exported(run, tmp_path / "mine") / "corpus"
    [config] = head_of(corpus / "README.md")["configs"]
    [files] = config["data_files"]
    rows = pq.read_table(corpus / files["path"]).to_pylist()
    summary = read_summary(run)
    assert summary
    assert summary.corpus
    assert len(rows) == summary.corpus.gold + summary.corpus.paths
    lines = run.read(str(summary.corpus.file)).decode().splitlines()
    assert rows[3] == json.loads(lines[3])


def test_an_sft_model_has_its_own_corpus_and_figures(run: Store, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "mine", "--stage", "sft")
    card = (folder / "README.md").read_text()
    assert "supervised fine-tuning on worked solutions" in card
    assert "| **sft** |" in card
    assert all(row["gold"] for row in pq.read_table(folder / "corpus/data/train.parquet").to_pylist())


# --- Targets --------------------------------------------------------------------------------------


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def test_a_folder_that_holds_anything_is_refused_and_stays(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    assert "is not an empty folder" in refused([run.url, "--model", "a", "--to", str(tmp_path / "mine")], capsys)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


def test_an_empty_folder_is_filled(run: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert (exported(run, tmp_path / "mine") / "README.md").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "c"], "has no rft model c: it has a (sft), b (sft), a (rft), b (rft)"),
        (["--model", "a", "--stage", "rlhf"], "has no rlhf model a"),
        ([], "has 2 rft models: name one of them with --model"),
    ],
)
def test_a_model_that_the_run_has_not_is_refused_with_those_it_has(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert said in refused([run.url, *options, "--to", str(tmp_path / "mine")], capsys)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run" in refused([str(tmp_path), "--model", "a", "--to", str(tmp_path / "mine")], capsys)


class Hub:
    """The calls that an export makes of HfApi, kept."""

    def __init__(self, files: dict[str, list[str]]) -> None:
        self.files, self.uploads = files, list[tuple[str, str, bool, set[str]]]()
        self.private: dict[str, bool] = {}

    def list_repo_files(self, repo: str, *, repo_type: str) -> list[str]:
        if repo not in self.files:
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        return self.files[repo]

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> str:
        self.private[repo] = private
        return f"https://hub/{repo}"

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: Path, ignore_patterns: list[str] | None, commit_message: str
    ) -> None:
        files = {path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()}
        self.uploads.append((repo_id, repo_type, ignore_patterns == ["corpus/*"], files))


def test_the_hub_gets_the_model_and_its_corpus_as_private_repositories(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub({"me/mine": [".gitattributes"]})
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert main(["export", run.url, "--model", "a", "--to", "hub:me/mine"]) == 0
    model, corpus = hub.uploads
    assert model[:3] == ("me/mine", "model", True)
    assert "model.safetensors" in model[3]
    assert corpus == ("me/mine-corpus", "dataset", False, {"README.md", "data/train.parquet"})
    assert hub.private == {"me/mine": True, "me/mine-corpus": True}
    assert "exported: https://hub/me/mine" in capsys.readouterr().out


@pytest.mark.parametrize("taken", ["me/mine", "me/mine-corpus"])
def test_a_repository_that_holds_files_is_refused(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    hub = Hub({taken: ["model.safetensors"]})
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert f"{taken} holds files already" in refused([run.url, "--model", "a", "--to", "hub:me/mine"], capsys)
    assert hub.uploads == []


def test_a_failed_upload_ends_with_1_and_one_line(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub({})
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("403 Forbidden")))
    assert main(["export", run.url, "--model", "a", "--to", "hub:me/mine"]) == 1
    assert "could not be uploaded (RuntimeError: 403 Forbidden): check HF_TOKEN" in capsys.readouterr().err


def test_a_dry_run_to_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "runs/demo", "--to", str(tmp_path / "mine"), "--dry-run"])
    assert "--dry-run is for hub: and s3:// targets" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_dry_run_for_the_hub_writes_the_folder_here_and_asks_no_hub(
    run: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    assert main(["export", run.url, "--model", "a", "--to", "hub:me/mine", "--dry-run"]) == 0
    assert (tmp_path / "mine" / "README.md").is_file()


def test_an_upload_to_a_store_creates_every_file_and_overwrites_none(tmp_path: Path) -> None:
    (tmp_path / "mine" / "corpus").mkdir(parents=True)
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "corpus" / "README.md").write_text("rows")
    target = f"file://{tmp_path}/bucket"
    assert export.upload(tmp_path / "mine", target) == [f"{tmp_path}/bucket"]
    assert (tmp_path / "bucket" / "corpus" / "README.md").read_text() == "rows"
    with pytest.raises(export.UploadError, match="was written to during the export"):
        export.upload(tmp_path / "mine", target)


def test_an_upload_that_the_store_ends_exits_with_1_and_one_line(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        url = "s3://bucket/mine"

        def list(self) -> Iterator[str]:
            return iter(())

        def create_file(self, key: str, path: Path) -> bool:
            raise StoreError("no right to write: give the key that right")

    monkeypatch.setattr(export, "open_store", lambda _: Full())
    assert main(["export", run.url, "--model", "a", "--to", "s3://bucket/mine"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no right to write: give the key that right; s3://bucket/mine may hold a part of ")


# --- Licences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# A model", "mit"),
        ("---\nlanguage: en\n---\n", ""),
        ("---\nlicense: [mit\n---\n", ""),
        ("# A model\n---\nlicense: mit\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_the_one_in_the_head_of_the_card(card: str, licence: str) -> None:
    assert card_licence(card) == licence


def test_licence_files_of_the_base_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
    (tmp_path / "LICENSE.txt").write_text("terms")
    (tmp_path / "notes.txt").write_text("")
    assert licence_of(str(tmp_path)) == ("gemma", [tmp_path / "LICENSE.txt"])
    assert licence_of("tiny:tiny-m") == ("apache-2.0", [])
    assert licence_of("/no/such/folder") == ("", [])


# --- The index of models --------------------------------------------------------------------------


def test_the_index_names_the_folder_of_every_model(run: Store) -> None:
    index = run.read(INDEX).decode()
    summary = read_summary(run)
    assert summary
    for entry in summary.models:
        manifest = committed_model(run, entry.fingerprint)
        assert manifest
        [line] = [line for line in index.splitlines() if line.startswith(f"| {entry.model} | {entry.stage} |")]
        assert f"({manifest.folder.removeprefix('models/')}/)" in line
        assert "% [" in line


def test_the_index_is_a_view(run: Store) -> None:
    summary = read_summary(run)
    assert summary
    before = run.read(INDEX)
    run.replace(INDEX, b"damaged")
    write_index(run, summary)
    assert run.read(INDEX) == before
    assert INDEX not in [file.key for file in unneeded(run, set())]
    assert INDEX not in unplanned(run, [])
    assert INDEX not in [file.key for file in repair.examine(run)]

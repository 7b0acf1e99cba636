"""Pre-training a tiny model: a killed run resumes to the same weights, and writes the requested files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from jobs import pretrain_tiny
from jobs.pretrain_tiny import Recipe
from rft_ray.data.tiny import model_dir

RECIPE = Recipe(hidden=32, layers=1, heads=1, documents=96, batch=8)
TOTAL = 12
"""Steps of the recipe; each is a point of the loss curve."""


class Killed(Exception):
    pass


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder for a very small model, `tiny-t`, with snapshots at 25 and 50 %."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    held_out = pretrain_tiny._held_out(tokenizer, RECIPE)[:1]
    monkeypatch.setattr(pretrain_tiny, "build_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(pretrain_tiny, "_held_out", lambda *_: held_out)
    monkeypatch.setattr(pretrain_tiny, "RECIPES", {"tiny-t": RECIPE})
    monkeypatch.setattr(pretrain_tiny, "SNAPSHOTS", {"tiny-t": (25, 50)})
    return tmp_path / "tiny-t"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> None:
    arguments = ["pretrain_tiny", "--model", "tiny-t", "--out", str(out), "--threads", "1", *more]
    monkeypatch.setattr("sys.argv", arguments)
    pretrain_tiny.main()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_resumes_to_the_same_models(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    run(monkeypatch, out)
    real, steps = pretrain_tiny._loss, 0

    def dies_once(model: object, batch: Sequence[object], weight: float) -> torch.Tensor:
        nonlocal steps
        steps += weight > 0  # the held-out loss is computed with weight 0
        if steps == TOTAL - 2 and weight:
            raise Killed
        return real(model, batch, weight)

    monkeypatch.setattr(pretrain_tiny, "_loss", dies_once)
    again = out.parent / "again" / "tiny-t"
    with pytest.raises(Killed):
        run(monkeypatch, again, "--checkpoint-every", "4")
    assert not again.exists()
    before = steps
    run(monkeypatch, again, "--checkpoint-every", "4")
    assert steps - before == TOTAL - 8  # it resumed from the checkpoint after step 8
    for suffix in ("", "-25", "-50"):
        first, second = out.with_name(out.name + suffix), again.with_name(again.name + suffix)
        assert same(weights(first), weights(second))
        assert (first / "pretraining.json").read_text() == (second / "pretraining.json").read_text()
    assert not list(again.parent.glob("*.pt"))


def test_a_snapshot_is_the_model_during_pretraining_in_bfloat16(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    run(monkeypatch, out)
    early, half, whole = (weights(out.with_name(out.name + suffix)) for suffix in ("-25", "-50", ""))
    assert not same(early, half)
    assert not same(half, whole)
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
    assert "after 25 % of its pre-training" in (out.with_name("tiny-t-25") / "README.md").read_text()
    assert "of its pre-training, before" not in (out / "README.md").read_text()


def test_a_checkpoint_of_another_recipe_is_refused(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    real = pretrain_tiny._save

    def saves_and_dies(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(pretrain_tiny, "_save", saves_and_dies)
    with pytest.raises(Killed):
        run(monkeypatch, out, "--checkpoint-every", "2")
    with pytest.raises(SystemExit, match="another recipe"):
        run(monkeypatch, out, "--documents", "80")

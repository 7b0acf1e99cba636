"""Which checkpoints of other workers a run can load, and in which form; `test_resized_training.py` loads them."""

from __future__ import annotations

import pytest

from rft_ray.training.resharding import describe, loadable, needs_universal_form

SHARDED = ("latest", "global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt")
WHOLE = ("latest", "global_step8/mp_rank_00_model_states.pt")


def layout(workers: int, zero_stage: int, data: str = "rows") -> dict[str, int | str]:
    return {"workers": workers, "zero_stage": zero_stage, "training/x": data}


@pytest.mark.parametrize(("workers", "stage", "can"), [(1, 2, True), (4, 1, True), (2, 3, False), (2, 0, False)])
def test_other_workers_load_a_checkpoint_whose_stage_has_the_same_form(workers: int, stage: int, can: bool) -> None:
    assert loadable(layout(2, 2), layout(workers, stage)) is can


def test_a_checkpoint_of_other_data_is_loaded_by_nobody() -> None:
    assert not loadable(layout(2, 2), layout(2, 2, "other rows"))
    assert not loadable(layout(2, 2), layout(1, 2, "other rows"))


def test_only_parts_of_other_ranks_are_merged() -> None:
    assert needs_universal_form(layout(2, 2), layout(1, 2), SHARDED)
    assert not needs_universal_form(layout(2, 2), layout(2, 2), SHARDED)
    assert not needs_universal_form(layout(2, 0), layout(1, 0), WHOLE)


def test_a_layout_is_described_in_words() -> None:
    assert describe(layout(1, 3)) == "1 worker, ZeRO stage 3"

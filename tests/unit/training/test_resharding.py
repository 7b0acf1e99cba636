"""From which checkpoints a run goes on, and which it converts; `test_resized_training.py` does both."""

from __future__ import annotations

import pytest

from rft_ray.training.resharding import describe, loadable, needs_conversion

DIVIDED = ("latest", "global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt")
WHOLE = ("latest", "global_step8/mp_rank_00_model_states.pt")


def layout(workers: int, zero_stage: int, data: str = "rows") -> dict[str, int | str]:
    return {"workers": workers, "zero_stage": zero_stage, "training/x": data}


@pytest.mark.parametrize("saved", range(4))
@pytest.mark.parametrize("own", range(4))
def test_every_stage_and_number_of_workers_goes_on_from_every_other(saved: int, own: int) -> None:
    assert loadable(layout(2, saved), layout(2, own))
    assert loadable(layout(2, saved), layout(4, own))


def test_a_checkpoint_of_other_data_is_loaded_by_nobody() -> None:
    assert not loadable(layout(2, 2), layout(2, 2, "other rows"))
    assert not loadable(layout(2, 2), layout(1, 3, "other rows"))


def test_all_but_the_same_division_is_converted() -> None:
    assert needs_conversion(layout(2, 2), layout(1, 2), DIVIDED)
    assert needs_conversion(layout(2, 2), layout(2, 1), DIVIDED)
    assert needs_conversion(layout(2, 3), layout(2, 0), DIVIDED)
    assert needs_conversion(layout(2, 0), layout(2, 3), WHOLE)
    assert not needs_conversion(layout(2, 2), layout(2, 2), DIVIDED)


def test_a_whole_state_is_loaded_without_zero_by_any_number_of_workers() -> None:
    assert not needs_conversion(layout(2, 0), layout(1, 0), WHOLE)


def test_a_state_in_bfloat16_is_divided_even_at_stage_0() -> None:
    assert needs_conversion(layout(2, 0), layout(1, 0), DIVIDED)


def test_a_layout_is_described_in_words() -> None:
    assert describe(layout(1, 3)) == "1 worker, ZeRO stage 3"

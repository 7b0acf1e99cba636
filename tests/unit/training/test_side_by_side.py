"""Which worker groups may start next to others, and what is said while they wait."""

from __future__ import annotations

import pytest

from rft_ray.training.side_by_side import fits, most_groups, wants


@pytest.mark.parametrize(
    ("free", "unplaced", "another"),
    [(8, 0, True), (2, 0, True), (1, 0, False), (0, 0, False), (4, 1, True), (3, 1, False), (2.5, 0, True)],
)
def test_another_group_starts_on_gpus_that_no_group_has_or_is_about_to_take(
    free: float, unplaced: int, another: bool
) -> None:
    """Two workers each."""
    assert fits(free, 2, unplaced) is another


def test_groups_are_bounded_by_the_setting_and_the_jobs_and_one_group_does_all_without_gpus() -> None:
    assert most_groups("auto", 5, gpu=True) == 5
    assert most_groups("auto", 5, gpu=False) == 1
    assert most_groups(2, 5, gpu=True) == most_groups(2, 5, gpu=False) == 2
    assert most_groups(4, 3, gpu=True) == 3


def test_a_wait_says_what_is_asked_for_and_what_the_cluster_has() -> None:
    total, free = {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}, {"CPU": 6.5}
    assert wants(2, {"CPU": 1, "GPU": 1}, total, free=free) == (
        "2 workers of 1 CPU and 1 GPU each, and the cluster has 8 CPUs (6.5 free) and 1 GPU (0 free)"
    )

"""A node that is to leave is noticed once, soon, and only where the group has workers on it."""

from __future__ import annotations

from rft_ray.training.preemption import EVERY_S, PreemptionNotice


class Cluster:
    """The nodes that leave, and a clock."""

    def __init__(self) -> None:
        self.leaving: set[str] = set()
        self.now, self.asked = 0.0, 0

    def draining(self) -> set[str]:
        self.asked += 1
        if "gone" in self.leaving:
            raise ConnectionError("the head does not answer")
        return self.leaving

    def notice(self) -> PreemptionNotice:
        return PreemptionNotice({"a", "b"}, self.draining, lambda: self.now)

    def later(self) -> None:
        self.now += EVERY_S


def test_each_node_of_the_group_that_is_to_leave_is_noticed_once() -> None:
    cluster = Cluster()
    notice, seen = cluster.notice(), []
    for leaving in ({"c"}, {"c", "a"}, {"a"}, {"a", "b"}, set()):
        cluster.leaving = leaving
        seen.append(notice())
        cluster.later()
    assert seen == [False, True, False, True, False]


def test_steps_that_take_milliseconds_do_not_ask_each_time() -> None:
    cluster = Cluster()
    notice = cluster.notice()
    for _ in range(100):
        notice()
        cluster.now += EVERY_S / 50
    assert cluster.asked == 2


def test_a_head_that_does_not_answer_ends_no_training() -> None:
    cluster = Cluster()
    cluster.leaving = {"gone"}
    assert not cluster.notice()()

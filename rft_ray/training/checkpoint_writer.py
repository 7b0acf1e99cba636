"""When a checkpoint is saved, and the thread that stores it while the training goes on.

In: the files and snapshots that every rank has made of a step. Out: a committed checkpoint (`checkpoints.py`): every
rank writes, hashes and uploads its own files, and rank 0 commits the manifest once all have. At most one checkpoint is
on its way; the next is made after it. One that could not be stored fails the attempt, on every rank.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rft_ray.training import checkpoints
from rft_ray.training.agreement import SavingError, number_from_rank_0, together
from rft_ray.training.checkpoints import Checkpoint
from rft_ray.training.snapshots import Snapshot
from rft_ray.training.trainer import Group

GO_ON, SAVE, FAILED = range(3)

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Stores the checkpoints of one job, one after another, in a thread of its own."""

    def __init__(self, group: Group, fingerprint: str) -> None:
        self._group, self._fingerprint = group, fingerprint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way to the store."""
        return self._last is not None and not self._last.done()

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be stored."""
        return self._last is not None and self._last.done() and self._last.exception() is not None

    def wait(self) -> None:
        """Return once the last checkpoint is committed. Raises SavingError where it cannot be, on every rank."""
        if self._last is not None:
            self._last.result()

    def save(self, step: int, seconds: float, snapshots: Sequence[Snapshot] = ()) -> None:
        """Store the files of this step, and what is still in memory of them. All ranks call this.

        `seconds`: training time up to this step. Waits for the checkpoint before, as `wait` does.
        """
        self.wait()
        self._last = self._thread.submit(self._store, step, seconds, snapshots)

    def finish(self) -> None:
        """Wait for the last checkpoint and end the thread. The training is over: a failure is a warning."""
        try:
            self.wait()
        except SavingError as error:
            logger.warning("%s; the training is over and does not need it", error)
        self._thread.shutdown()

    def _store(self, step: int, seconds: float, snapshots: Sequence[Snapshot]) -> None:
        group, what = self._group, f"the checkpoint of step {step} could not be stored"
        folder = f"{checkpoints.work_folder(self._fingerprint, group.attempt)}/checkpoint-{step}"
        local = checkpoints.local_folder(group.store, folder, group.scratch)
        shared = group.store.local_path(folder) is not None

        def own() -> dict[str, str]:
            for snapshot in snapshots:
                snapshot.write()
            first = (group.rank if shared else group.local_rank) == 0
            return checkpoints.upload(group.store, folder, local, checkpoints.own_files(local, group.rank, first))

        def commit() -> None:
            if group.rank == 0:
                checkpoints.commit(group.store, Checkpoint(folder, step, seconds, group.layout, files))

        hashes = together(group, what, own, behind=True)
        files = {name: digest for part in hashes for name, digest in part.items()}
        together(group, what, commit, behind=True)
        if group.rank == 0:
            checkpoints.prune(group.store, self._fingerprint, step)
        if not shared and group.local_rank == 0:
            shutil.rmtree(local, ignore_errors=True)


class Schedule:
    """When a checkpoint is due. Rank 0 decides, and every rank does the same."""

    def __init__(
        self,
        group: Group,
        writer: CheckpointWriter,
        *,
        urgent: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`urgent`: whether rank 0 wants a checkpoint now, whatever the time."""
        self._group, self._writer, self._urgent, self._clock = group, writer, urgent, clock
        self._since = clock()

    def begin(self) -> None:
        """The training begins, or goes on, now."""
        self._since = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save after this step. Raises SavingError, on every rank, where the last checkpoint failed.

        True only when the checkpoint before is in the store: by time, it is postponed until then; by steps, or where it
        is urgent, this waits.
        """
        verdict = number_from_rank_0(self._group, self._verdict(step) if self._group.rank == 0 else GO_ON)
        if verdict == GO_ON:
            return False
        self._writer.wait()
        self._since = self._clock()
        return True

    def _verdict(self, step: int) -> int:
        settings = self._group.settings
        if self._writer.failed:
            return FAILED
        if (settings.checkpoint_every_steps and step % settings.checkpoint_every_steps == 0) or self._urgent():
            return SAVE
        late = self._clock() - self._since >= 60 * settings.checkpoint_minutes
        return SAVE if late and not self._writer.busy else GO_ON

"""The processes that train together, as a run sees them; a run in one process has the same, which then does nothing."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad.data.loader import Loader
from minigrad.distributed.alike import agree_on_rows
from minigrad.exchange import Session
from minigrad.exchange.session import Part
from minigrad.train.evaluation import epoch_of
from minigrad.train.history import Row
from minigrad.train.signals import Leave

NOBODY = 0  # no signal


class Ranks:
    """All processes of a run, this one among them.

    `several` says whether there are more than one, `leads` whether this one shows progress and writes files.
    """

    def __init__(self, session: Session | None) -> None:
        self.session: Any = session  # where there are several, it is there
        self.several = session is not None and session.world > 1
        self.rank, self.world = (session.rank, session.world) if session is not None else (0, 1)
        self.leads = self.rank == 0
        self.signal = NOBODY  # that one of the processes has received, as all know

    def agree(self, what: str, mine: Mapping[str, Any], mend: str = "") -> None:
        """RanksDiffer, in every process, unless all have the same; `mend` says what to do about it."""
        if self.several:
            self.session.agree(what, mine, mend)

    def agree_on_data(self, loader: object, validation: object) -> None:
        """RanksDiffer, in every process, for arrays in memory of which each would take its part, and which are not alike.

        Of a loader that hands out parts already, and of samples that are read when asked for, each may have what it needs only.
        """
        found = arrays_of(validation, "the validation")
        if isinstance(loader, Loader) and loader.world == 1:
            found |= arrays_of(loader, "the loader")
        agree_on_rows(self.session, found)

    def first(self, task: Callable[[], object], label: str, where: str = "") -> None:
        """Let rank 0 do what may fail; all go on when it is done, or end with its error."""
        if self.several:
            self.session.done_by_first(task, label, where)
        else:
            task()

    def everyone(self, value: Any, label: str) -> list[Any]:
        """The values of all processes, by rank: numbers, strings, lists and dicts."""
        return self.session.everyone(value, label) if self.several else [value]

    def hear(self, signals: Sequence[float]) -> None:
        """Note the signals that the processes have received, by rank."""
        self.signal = self.signal or int(max(signals))

    def told(self, received: int | None) -> bool:
        """Whether a process has received a signal; all ask at the same time, and get the same answer."""
        mine = np.array([received or NOBODY], np.float64)
        self.hear(self.session.gather("signals", mine)[:, 0].tolist())
        return self.signal != NOBODY

    def means(
        self, values: Mapping[str, float], rows: int, received: int | None
    ) -> tuple[dict[str, float], int, list[float]]:
        """Means over the rows of all processes, of means over those here; how many rows, and the losses by rank.

        Signals that were received go along.
        """
        mine = np.array([rows, received or NOBODY, *values.values()], np.float64)
        everyone = self.session.gather("loss and metrics", mine).copy()
        self.hear(everyone[:, 1].tolist())
        count = everyone[:, 0]
        sums = [sum((count * column).tolist()) for column in everyone[:, 2:].T]  # in the order of ranks
        total = int(count.sum())
        return dict(zip(values, [s / total for s in sums], strict=True)), total, everyone[:, 2].tolist()

    def totals(self, names: Sequence[str], sums: Mapping[str, float], rows: int) -> tuple[dict[str, float], int]:
        """Sums by name, and rows, of all processes; one may have had no rows and have no sums."""
        mine = np.array([rows, *[sums.get(name, 0.0) for name in names]], np.float64)
        everyone = self.session.gather("validation", mine)
        added = [sum(column.tolist()) for column in everyone.T]
        return dict(zip(names, added[1:], strict=True)), int(added[0])

    def parts_of(self, lengths: Sequence[int]) -> list[Part | None]:
        """How the loss of each batch of a step counts, by the rows here and everywhere; None where it is the only one."""
        if not self.several or len(lengths) == 1:
            return [None] * len(lengths)
        own = np.array(lengths, np.float64)
        everywhere = self.session.gather("rows of a step", own).sum(axis=0)
        shares = own / own.sum() * everywhere.sum() / everywhere
        return [Part(float(own.sum()), factor) for factor in shares.tolist()]

    @contextmanager
    def going_back(self, part: Part | None) -> Iterator[None]:
        """Inside, a batch goes backward that is such a part of a step."""
        if part is None:
            yield
            return
        self.session.part = part
        try:
            yield
        finally:
            self.session.part = None

    def row(self, row: Row) -> Row:
        """A row of the history as rank 0 has it, with its times: what watches it decides the same everywhere."""
        return self.session.from_first(row, "a row of the history") if self.several else row

    def stopped(self, reason: str | None) -> str | None:
        """Why a process wants to stop, if one does; that of the lowest rank."""
        if not self.several:
            return reason
        return next((said for said in self.session.everyone(reason, "whether to stop") if said is not None), None)

    def parts(self, batches: Iterable[object], received: Callable[[], int | None]) -> Iterator[object]:
        """Of the batches of a validation those for this process: one in `world`. Raises Leave after a signal to any."""
        for i, make in enumerate(each_made(batches)):
            if i % self.world == self.rank:
                yield make()
            if i % self.world == self.world - 1 and self.told(received()):
                raise Leave


def each_made(batches: Iterable[object]) -> Iterator[Callable[[], object]]:
    """What makes each batch of one pass; of a Loader none is made that is not asked for."""
    if isinstance(batches, Loader) and batches.length is not None:
        twin = batches.twin()
        twin.share(0, 1)  # all of each batch: it is the batches that are shared out
        return (functools.partial(twin.batch, step) for step in range(len(twin)))
    return (functools.partial(itself, batch) for batch in epoch_of(batches))


def arrays_of(batches: object, what: str) -> dict[str, np.ndarray]:
    """The arrays in memory that a Loader takes its batches from, by names for messages."""
    arrays = batches.arrays if isinstance(batches, Loader) else ()
    return {f"array {i} of {what}": array for i, array in enumerate(arrays) if isinstance(array, np.ndarray)}


def itself(value: object) -> object:
    """The value."""
    return value

"""Mini-batches of NumPy arrays in a reproducible random order that can be taken up at any step."""

import copy
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from minigrad.checks import integer
from minigrad.data.batches import BatchMaker
from minigrad.data.collate import Batch, Sample
from minigrad.data.prefetch import END, LEAVING, PATIENCE, End, LocalMaker, Maker, Prefetcher
from minigrad.data.sources import Dataset, Reading, Samples, Stream, Task, source_of
from minigrad.data.workers import Worker, pickled

LAST_STEP = (1 << 63) - 1  # a loader goes to; further numbers are those of a damaged file


class Stager(Protocol):
    """Brings batches to a GPU, ahead of the steps that use them: see minigrad.devices.cuda_staging."""

    def stage(self, batch: Batch) -> Batch:
        """Begin to copy a batch, on any thread."""

    def arrived(self, batch: Batch) -> Batch:
        """The same batch, to be used from now on."""


class Loader(BatchMaker):
    """Mini-batches of arrays or of a data set, shuffled anew in each epoch, or of a stream.

        Loader(images, labels, batch_size=60)                       batches are tuples (images, labels)
        Loader({"image": images, "label": labels}, batch_size=60)   dicts {"image": ..., "label": ...}
        Loader(dataset, batch_size=60)                              as the samples are: tuples or dicts
        Loader(stream, batch_size=60, shuffle=False)                the same

    Steps are counted from 0 across epochs: step s belongs to epoch s // len(loader). `batch(step)` gives any step by
    itself; iteration goes on from the current position, which counts the batches handed out. So a state taken in the
    body of a loop leads on to the next batch:

        for images, labels in loader.steps(50_000):
            ...
            state = loader.state_dict()

    Args:
        data: one or more NumPy arrays with the same length of axis 0, or one dict of such arrays. They are not copied
            unless they are non-contiguous or of foreign byte order, so later changes to them show. Objects that read their
            samples when asked may stand among them, see `Samples`; `ImageFolder.images` is one. Or one data set with
            `__len__` and `__getitem__`, as PyTorch and Hugging Face have it, whose samples are tuples, dicts or arrays. Or
            one stream of such samples, which has `__iter__` only: it is read from its beginning in each epoch, and a step
            in its middle is reached by reading what comes before. It may have no length; then the loader has none.
        batch_size: samples per batch. The last batch of an epoch is smaller where they don't divide, see `drop_last`.
        shuffle: a new order in each epoch by `permutation`; False keeps the order of the data, the only one of a stream.
        seed: from 0 to 2**64 - 1; the same seed gives the same batches.
        drop_last: leave out the last, smaller batch of each epoch.
        sample_transform: called as `sample_transform(sample, epoch, number)` on each sample, with its position in the data
            (in the epoch, of a stream); returns the sample to use. `mg.data.generator(seed, epoch, number)` gives it
            repeatable random numbers.
        keys: of samples that are dicts, the entries that make a batch, in this order: batches are then tuples, as `fit`
            takes them.
        collate: makes a batch of a list of samples; `mg.data.stack` by default.
        transform: called as `transform(batch, epoch, step)` on each batch, made of fresh arrays, which it may change;
            returns the batch to hand out. Random numbers keyed by seed and step keep steps repeatable.
        prefetch: how many batches iteration prepares ahead, on a background thread, while the loop's body runs; 0 prepares
            each when it is asked for. By default twice the number of workers, and so 0 without. The batches are the same,
            and the position still counts those handed out. The thread ends with the iteration: by its end, `break`, or when
            the iterator is closed or dropped. One that hangs in the transform is left behind after 10 s, and after half a
            second if the program was interrupted.
        prefetch_threads: the threads used by kernels that the transform launches there. With 1 they run on the background
            thread alone, which disturbs the kernels of the loop's body least.
        workers: how many prepare batches side by side. The batches are the same, whatever the number. A stream is read by
            one after the other.
        worker: "thread", for what waits for files or works in NumPy, Pillow and the like; or "process", for what works in
            Python itself. Processes are started anew for each iteration, see `mg.data.workers`, and end with it.
        rank, world: of so many processes, the number of this one: it gets its part of each batch, of `batch_size` in all, and
            the parts together are the batch, in its order; each epoch has each sample once, whatever the world. What a
            transform does by an image's place in the batch is as in one process; one that says `by_rows` is given the part,
            others the whole batch (see `Transform`). Position and state count whole batches: a state leads on in another
            world. `mg.train.fit` sets both itself.

    Raises:
        TypeError: the data is none of that kind or holds objects; a number isn't an integer; `worker` is "process" and
            something of the loader can't be sent there (when iteration begins).
        ValueError: no arrays, no samples, unequal lengths, a number out of range, or a stream that is to be shuffled.
    """

    def __init__(
        self,
        *data: np.ndarray | Samples | Dataset | Mapping[str, np.ndarray | Samples] | Iterable[Sample],
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        sample_transform: Callable[[Sample, int, int], Sample] | None = None,
        keys: Sequence[str] | None = None,
        collate: Callable[[list[Sample]], Batch] | None = None,
        transform: Callable[[Batch, int, int], Batch] | None = None,
        prefetch: int | None = None,
        prefetch_threads: int = 1,
        workers: int = 0,
        worker: str = "thread",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(
            source_of(data),
            batch_size,
            shuffle,
            seed,
            drop_last,
            sample_transform,
            keys,
            collate,
            transform,
            rank,
            world,
        )
        self.workers = integer("workers", workers, 0)
        if worker not in ("thread", "process"):
            raise ValueError(f"worker must be 'thread' or 'process', not {worker!r}")
        self.worker = worker
        self.prefetch = 2 * self.workers if prefetch is None else integer("prefetch", prefetch, 1 if workers else 0)
        self.prefetch_threads = integer("prefetch_threads", prefetch_threads, 1)
        self.position = 0
        self.stager: Stager | None = None
        self._reading: Reading | None = None  # where a stream has been read to

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        if isinstance(self.source, Stream):
            return self.source.place(self.position)[0]
        return self.position // len(self)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 across epochs; the position plays no part and stays.

        Returns:
            One fresh, contiguous array per part of the samples, `(rows, ...)`, with rows equal to the batch size, or to the
            share of this rank, but in an epoch's last step: a tuple of them or a dict. Or whatever `collate` and `transform`
            make.

        Raises:
            ValueError: a negative step; a step of a stream that can be read only once.
        """
        step = integer("step", step, 0)
        if isinstance(self.source, Stream):
            return self._make(next(filter(None, self.source.passes(step, self.batch_size, self.drop_last))))
        return self._make(Task(step, step // len(self)))

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches from the current position to the end of its epoch."""
        if isinstance(self.source, Stream):
            return self._hand_out(None, one_epoch=True)
        return self.steps(len(self) - self.position % len(self))

    def steps(self, count: int | None = None, start: int | None = None) -> Generator[Batch, None, None]:
        """The next `count` batches, across epochs.

        Args:
            count: how many; None goes on without end.
            start: the step to begin with; None begins at the current position.

        Raises:
            ValueError: a negative count or start.
        """
        if count is not None:
            count = integer("count", count, 0)
        if start is not None:
            self.seek(start)
        return self._hand_out(count)

    def one_epoch(self) -> Generator[Batch, None, None]:
        """All batches of the first epoch, wherever the loader is; its position stays."""
        twin = self.twin()
        twin.seek(0)
        return iter(twin)

    def twin(self) -> "Loader":
        """Another loader of the same data, at the same place, that goes its own way; settings may be changed on it."""
        twin = copy.copy(self)
        twin._reading = None
        return twin

    def seek(self, step: int) -> None:
        """Go to a step, counted from 0 across epochs; `seek(epoch * len(loader))` goes to the start of an epoch."""
        self.position = integer("step", integer("step", step, 0), 0, LAST_STEP)

    def state_dict(self) -> dict[str, int | bool]:
        """The position, and the settings that decide which batch follows; plain numbers."""
        return {"position": self.position, **self._place(), **self._settings()}

    def load_state_dict(self, state: Mapping[str, int | bool]) -> None:
        """Go to the position of a state; the next batch is the one that would have followed there.

        Raises:
            ValueError: the state's keys or settings differ from this loader's, all differences listed; the loader is
                unchanged.
        """
        expected = self._settings()
        keys = {"position", *self._place(), *expected}
        if set(state) != keys:
            raise ValueError(f"the state has the keys {sorted(state)}, where {sorted(keys)} were expected")
        differences = [
            f"{key} {state[key]!r} against {value!r}" for key, value in expected.items() if state[key] != value
        ]
        if differences:
            raise ValueError(
                f"the state belongs to another loader (its value against this one's): {', '.join(differences)}"
            )
        if isinstance(self.source, Stream):
            epoch = integer("epoch", state["epoch"], 0, LAST_STEP)
            start = integer("epoch_start", state["epoch_start"], epoch, state["position"])
            self.seek(state["position"])
            self.source.starts = {0: 0, epoch: start}
        else:
            self.seek(state["position"])

    def _place(self) -> dict[str, int]:
        """Where in a stream the position is, which nothing else tells."""
        if not isinstance(self.source, Stream):
            return {}
        epoch, start = self.source.place(self.position)
        return {"epoch": epoch, "epoch_start": start}

    def _settings(self) -> dict[str, int | bool]:
        return {
            **({} if self.length is None else {"length": self.length}),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            **({} if not self.shuffle or (table := self._table()) is None else table.settings()),
        }

    def _hand_out(self, count: int | None, one_epoch: bool = False) -> Generator[Batch, None, None]:
        """Hand out batches, the position moving before each is given so that a state taken then leads on."""
        given = 0
        ahead = None
        expected = -1
        patience = PATIENCE
        tasks: Iterator[Task] = iter(())
        try:
            while count is None or given < count:
                # Another position follows a `seek` in the loop; a thread that is gone, a fork.
                if self.position != expected or (ahead is not None and not ahead.alive):
                    if ahead is not None:
                        ahead.close()
                    tasks = self._tasks(None if count is None else count - given, one_epoch)
                    ahead = self._ahead(tasks) if self.prefetch else None
                    expected = self.position
                batch = self._next(tasks) if ahead is None else ahead.take()
                if isinstance(batch, End):
                    break
                self.position += 1
                expected += 1
                given += 1
                yield self.stager.arrived(batch) if self.stager is not None and isinstance(batch, tuple) else batch
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self._reading = None
            if not isinstance(error, Exception | GeneratorExit):  # Ctrl-C, say, perhaps since a transform hangs
                patience = LEAVING
            raise
        finally:
            if ahead is not None:
                ahead.close(patience)

    def _tasks(self, count: int | None, one_epoch: bool) -> Iterator[Task]:
        """What is to be done from the current position on: so many steps, or, of a stream, what is left of the epoch."""
        if isinstance(self.source, Stream):
            if self._reading is None or self._reading.step != self.position:
                passes = self.source.passes(self.position, self.batch_size, self.drop_last)
                self._reading = Reading(self.position, passes)
            return self._reading.tasks(count, one_epoch)
        steps = itertools.count(self.position) if count is None else range(self.position, self.position + count)
        return (Task(step, step // len(self)) for step in steps)

    def _ahead(self, tasks: Iterator[Task]) -> Prefetcher[Task, Batch]:
        """Background threads that do these tasks, or have them done by processes."""
        makers: list[Maker[Task, Batch]]
        if self.worker == "process" and self.workers:
            job = self._job()
            makers = [Staged(self, Worker(job, self.prefetch_threads)) for _ in range(self.workers)]
        else:
            makers = [Staged(self, LocalMaker(self._make)) for _ in range(max(1, self.workers))]
        return Prefetcher(tasks, makers, depth=self.prefetch, most_threads=self.prefetch_threads)

    def _job(self) -> bytes:
        """What worker processes are sent."""
        twin = self.twin()
        twin.stager = None
        if isinstance(self.source, Stream):  # read here
            twin.source = Stream(())
        parts = {
            "the data": getattr(self.source, "data", self.arrays),
            "sample_transform": self.sample_transform,
            "collate": self.collate,
            "transform": self.transform,
        }
        return pickled(twin._make_alone, parts)

    def _next(self, tasks: Iterator[Task]) -> Batch | End:
        """The batch of the next task, made here and now."""
        task = next(tasks, END)
        return END if isinstance(task, End) else self._staged(self._make(task))

    def _staged(self, batch: Batch) -> Batch:
        """The batch, on its way to the GPU if there is a way."""
        stager = self.stager  # which another thread may set to None meanwhile
        return batch if stager is None or not isinstance(batch, tuple | list) else stager.stage(tuple(batch))


class Staged:
    """A Maker whose batches are sent on to the GPU as soon as they are there."""

    def __init__(self, loader: Loader, make: Maker[Task, Batch]) -> None:
        self.loader, self.make = loader, make
        self.leave, self.end = make.leave, make.end

    def __call__(self, task: Task) -> Batch:
        """The batch of a task."""
        return self.loader._staged(self.make(task))

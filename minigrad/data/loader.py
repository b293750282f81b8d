"""Mini-batches of NumPy arrays in a reproducible random order that can be taken up at any step."""

import copy
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast

import numpy as np

from minigrad.checks import integer
from minigrad.data.collate import Batch, Sample, stack
from minigrad.data.prefetch import END, LEAVING, PATIENCE, End, LocalMaker, Maker, Prefetcher
from minigrad.data.sources import (
    FIRST_ROW,
    ColumnTable,
    Dataset,
    Items,
    Reading,
    Samples,
    Stream,
    Task,
    checked_keys,
    chosen,
    cut,
    part,
    permutation,
    source_of,
)
from minigrad.data.workers import Worker, pickled, seed_global_generators

SHOWN = 16  # samples that an error lists
LAST_STEP = (1 << 63) - 1  # a loader goes to; further numbers are those of a damaged file


class Stager(Protocol):
    """Brings batches to a GPU, ahead of the steps that use them: see minigrad.devices.cuda_staging."""

    def stage(self, batch: Batch) -> Batch:
        """Begin to copy a batch, on any thread."""

    def arrived(self, batch: Batch) -> Batch:
        """The same batch, to be used from now on."""


class Loader:
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
        self.source = source_of(data)
        self.length = self.source.length
        self.batch_size = integer("batch_size", batch_size, 1)
        if drop_last and self.length is not None and self.batch_size > self.length:
            raise ValueError(
                f"batch_size {self.batch_size} with drop_last leaves no batch of {self.length} samples; "
                f"take at most {self.length}, or drop_last=False"
            )
        self.shuffle = bool(shuffle)
        if self.shuffle and isinstance(self.source, Stream):
            raise ValueError(
                f"the {type(self.source.data).__name__} is a stream, which can't be shuffled from here: it has no __getitem__. "
                "Pass shuffle=False, and shuffle it where it is made"
            )
        self.seed = integer("seed", seed, 0, 2**64 - 1)
        self.drop_last = bool(drop_last)
        self.sample_transform = sample_transform
        self.keys = checked_keys(keys, self.source)
        self.collate = collate
        self.transform = transform
        self.workers = integer("workers", workers, 0)
        if worker not in ("thread", "process"):
            raise ValueError(f"worker must be 'thread' or 'process', not {worker!r}")
        self.worker = worker
        self.prefetch = 2 * self.workers if prefetch is None else integer("prefetch", prefetch, 1 if workers else 0)
        self.prefetch_threads = integer("prefetch_threads", prefetch_threads, 1)
        self.rank, self.world = 0, 1
        self.share(rank, world)
        self.position = 0
        self.stager: Stager | None = None
        self._reading: Reading | None = None  # where a stream has been read to
        self._order = (-1, np.empty(0, np.int64))  # the latest epoch and its permutation, set as one for threads' sake

    def share(self, rank: int, world: int) -> None:
        """From now on hand out part `rank` of `world` of each batch; ValueError if a batch has fewer samples than that."""
        world = integer("world", world, 1)
        rank = integer("rank", rank, 0, world - 1)
        rest = 0 if self.drop_last or self.length is None else self.length % self.batch_size
        least = min(self.batch_size, rest or self.batch_size)
        if least < world:
            kind = "the last batch of an epoch has" if rest else "a batch has"
            of = "" if self.length is None else f" of {self.length:,}"
            raise ValueError(
                f"{kind} {least}{of} samples, too few for {world} processes to have one each; take another batch_size, or "
                "drop_last=True"
            )
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """The number of steps in an epoch; TypeError for a stream without a length."""
        if self.length is None:
            raise TypeError(
                "the Loader has no length, as its stream has none: how many steps an epoch has is seen when it ends; count "
                "by steps"
            )
        whole, rest = divmod(self.length, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        if isinstance(self.source, Stream):
            return self.source.place(self.position)[0]
        return self.position // len(self)

    @property
    def arrays(self) -> tuple[np.ndarray | Samples, ...]:
        """The arrays that the batches are taken from; none of a data set."""
        return self.source.arrays

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

    def _make_alone(self, task: Task) -> Batch:
        """The same batch in a process of its own, whose global generators of random numbers are ours to seed."""
        # other numbers in each rank where it makes its own part alone; a batch that is cut afterwards is the same in all
        apart = self.transform is None or getattr(self.transform, "by_rows", False)
        seed_global_generators(self.seed, task.step, self.rank if apart else 0)
        return self._make(task)

    def _make(self, task: Task) -> Batch:
        """The batch of a task: read, collated, transformed. Errors have a note that says which step it was for."""
        try:
            if self.transform is None:
                return self._collated(task, self.rank, self.world)
            if self.world > 1 and getattr(self.transform, "by_rows", False):
                return self._transformed_part(task, self.transform)
            batch = self.transform(self._collated(task), task.epoch, task.step)
            return batch if self.world == 1 else cut(batch, self.rank, self.world)
        except Exception as error:
            error.add_note(f"while the Loader made the batch of step {task.step}, in epoch {task.epoch}")
            raise

    def _transformed_part(self, task: Task, transform: Callable[[Batch, int, int], Batch]) -> Batch:
        """This rank's part of a batch, transformed by itself into what it would be in the whole."""
        if task.samples is not None:
            count = len(task.samples)
        else:
            assert self.length is not None
            count = min(self.batch_size, self.length - task.step % len(self) * self.batch_size)
        before = FIRST_ROW.set(part(count, self.rank, self.world).start)
        try:
            return transform(self._collated(task, self.rank, self.world), task.epoch, task.step)
        finally:
            FIRST_ROW.reset(before)

    def _collated(self, task: Task, rank: int = 0, world: int = 1) -> Batch:
        """The samples of a task in one batch, or the part of one rank."""
        if task.samples is not None:
            own = part(len(task.samples), rank, world)
            numbers = range(task.first, task.first + len(task.samples))[own]
            return self._stacked(task.samples[own], list(numbers), task.epoch)
        assert self.length is not None
        assert not isinstance(self.source, Stream)
        start = task.step % len(self) * self.batch_size
        stop = min(start + self.batch_size, self.length)
        rows = self._rows(task.epoch, start, stop) if self.shuffle else np.arange(start, stop)
        rows = rows[part(len(rows), rank, world)]
        if self.sample_transform is None and self.collate is None:
            batch = self.source.batch(rows, self.keys)
            if batch is not None:
                return batch
        return self._stacked(self.source.samples(rows), rows.tolist(), task.epoch)

    def _stacked(self, samples: list[Sample], numbers: list[int], epoch: int) -> Batch:
        """These samples in one batch."""
        if self.sample_transform is not None or self.keys is not None:
            samples = [self._prepared(*each, epoch) for each in zip(samples, numbers, strict=True)]
        try:
            return (self.collate or stack)(samples)
        except Exception as error:
            listed = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
            error.add_note(f"the batch is of the samples {listed}")
            raise

    def _prepared(self, sample: Sample, number: int, epoch: int) -> Sample:
        """One sample on its way to `collate`."""
        try:
            if self.sample_transform is not None:
                sample = self.sample_transform(sample, epoch, number)
            return sample if self.keys is None else tuple([chosen(sample, key) for key in self.keys])
        except Exception as error:
            error.add_note(f"sample {number}")
            raise

    def _next(self, tasks: Iterator[Task]) -> Batch | End:
        """The batch of the next task, made here and now."""
        task = next(tasks, END)
        return END if isinstance(task, End) else self._staged(self._make(task))

    def _staged(self, batch: Batch) -> Batch:
        """The batch, on its way to the GPU if there is a way."""
        stager = self.stager  # which another thread may set to None meanwhile
        return batch if stager is None or not isinstance(batch, tuple | list) else stager.stage(tuple(batch))

    def _table(self) -> ColumnTable | None:
        """The table the samples are of, which has an order of its own when they are shuffled."""
        return (
            self.source.data if isinstance(self.source, Items) and isinstance(self.source.data, ColumnTable) else None
        )

    def _rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The positions of the samples `start` to `stop` of a shuffled epoch."""
        if (table := self._table()) is not None:
            return table.shuffled(self.seed, epoch, start, stop)
        latest, rows = self._order
        if latest != epoch:
            rows = permutation(cast(int, self.length), self.seed, epoch)
            self._order = (epoch, rows)
        return rows[start:stop]


class Staged:
    """A Maker whose batches are sent on to the GPU as soon as they are there."""

    def __init__(self, loader: Loader, make: Maker[Task, Batch]) -> None:
        self.loader, self.make = loader, make
        self.leave, self.end = make.leave, make.end

    def __call__(self, task: Task) -> Batch:
        """The batch of a task."""
        return self.loader._staged(self.make(task))

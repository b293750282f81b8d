"""Tables in Parquet files, read by row groups as a Loader needs them. Needs pyarrow (extra `parquet`)."""

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minigrad.checks import integer
from minigrad.data.sources import permutation
from minigrad.kernels.build.settings import install

if TYPE_CHECKING:
    import pyarrow

MIX = 4  # row groups that are shuffled together
RECENT = 4  # mixtures whose order is remembered


def parquet(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    *,
    mix: int = MIX,
) -> "Parquet":
    """Parquet files as one data set for a Loader, whose batches are dicts of arrays by column, or tuples by its `keys`.

        Loader(mg.data.parquet("train.parquet", columns=["pixels", "label"]), batch_size=256, keys=("pixels", "label"))

    Files are read row group by row group, those columns only, when a batch needs them, and at most 2 `mix` row groups are kept
    decoded. A Loader that shuffles takes the row groups in a random order and shuffles the rows of `mix` of them together:
    reading stays sequential, and rows of distant groups don't meet in one batch. Like any order it is a function of seed and
    epoch.

    Columns of numbers and of equally long lists of them become arrays. Others (text, bytes of pictures, values that are
    missing) come as Python's objects to `sample_transform` or `collate`, which make numbers of them.

    Args:
        paths: a file, several in their order, or a folder, of which the files *.parquet by name.
        columns: those to read; all by default.
        mix: how many row groups are shuffled together, and, twice, kept in memory; 1 takes least.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: a file is no Parquet file, lacks a column or has it in another type, or all are empty.
        ImportError: pyarrow isn't installed.
    """
    pq = _pyarrow_parquet()
    files = _files(paths)
    schema = None
    counts: list[tuple[int, int, int]] = []  # (file, row group, rows)
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                own, metadata = file.schema_arrow, file.metadata
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}") from None
        except Exception as error:  # pyarrow's own, of several kinds
            raise ValueError(f"{path} can't be read as a Parquet file: {error}") from error
        names = own.names if columns is None else list(columns)
        missing = [name for name in names if name not in own.names]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(map(repr, missing))}, only {', '.join(own.names)}")
        types = {name: own.field(name).type for name in names}
        if schema is None:
            schema = types
        if types != schema:
            wrong = [n for n in {**types, **schema} if types.get(n) != schema.get(n)]
            raise ValueError(
                f"{path} has other columns than {files[0]}: "
                + ", ".join(f"{n} is {types.get(n, 'not there')}, not {schema.get(n, 'there')}" for n in wrong)
            )
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        counts += [(number, i, count) for i, count in enumerate(rows) if count]
    if not counts:
        raise ValueError(f"{', '.join(map(str, files))}: there are no rows")
    if not schema:
        raise ValueError("columns is empty, where at least one name was expected")
    return Parquet(files, list(schema), counts, mix)


class Parquet:
    """What `parquet` returns: a data set by positions, whose samples are dicts; any thread may use it.

    Args:
        files, columns: what to read.
        groups: (number of the file, number of the row group in it, rows) of each row group.
        mix: as for `parquet`.
    """

    def __init__(
        self, files: Sequence[Path], columns: Sequence[str], groups: Iterable[tuple[int, int, int]], mix: int
    ) -> None:
        self.files, self.columns, self.groups = list(files), list(columns), list(groups)
        self.mix = integer("mix", mix, 1)
        self.starts = np.concatenate([[0], np.cumsum([rows for _, _, rows in self.groups])])
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._decoded: dict[int, dict[str, Any]] = {}  # by group, the one used last at the end
        self._orders: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._mixtures: dict[tuple[int, int, int], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.starts[-1])

    def __repr__(self) -> str:
        return f"<Parquet: {len(self):,} rows of {', '.join(self.columns)} in {len(self.groups)} row groups>"

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One row as a dict: arrays and numbers of NumPy, and Python's objects for what is none."""
        row = integer("row", row, -len(self), len(self) - 1)
        return self.__getitems__([row % len(self)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows."""
        samples: list[dict[str, Any]] = [{} for _ in rows]
        for group, where, within in self._in_groups(np.asarray(rows, np.int64)):
            for place, i in zip(where.tolist(), within.tolist(), strict=True):
                samples[place] = {
                    name: row_of(values, i) if isinstance(values, np.ndarray) else values[i].as_py()
                    for name, values in group.items()
                }
        return samples

    def read_columns(self, rows: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The columns at int64 positions `(m,)` as fresh arrays `(m, ...)`, by name.

        Raises:
            TypeError: a column is not of numbers.
            ValueError: a column has missing values, or lists of different lengths.
        """
        result: dict[str, np.ndarray] = {}
        for group, where, within in self._in_groups(rows):
            for name in self.columns if names is None else names:
                values = group[name]
                if not isinstance(values, np.ndarray):
                    raise _no_array(name, values)
                if name not in result:
                    result[name] = np.empty((len(rows), *values.shape[1:]), values.dtype)
                if values.shape[1:] != result[name].shape[1:]:
                    raise ValueError(
                        f"column {name!r} has lists of the shapes {result[name].shape[1:]} and {values.shape[1:]}, where equal "
                        "ones were expected; bring them to one by sample_transform=..."
                    )
                result[name][where] = values[within]
        return result

    def shuffled(self, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
        """The positions that samples `start` to `stop` of a shuffled epoch have; int64 `(stop - start,)`."""
        order, bounds = self._order(seed, epoch)
        parts = []
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        for number in range(first, len(bounds) - 1):
            if bounds[number] >= stop:
                break
            rows = self._mixture(seed, epoch, number, order)
            parts.append(rows[max(0, start - bounds[number]) : stop - bounds[number]])
        return np.concatenate(parts)

    def settings(self) -> dict[str, int]:
        """What decides, with the seed, in which order `shuffled` has the rows: `mix`, and a checksum of the groups' sizes."""
        return {"mix": self.mix, "groups": zlib.crc32(np.asarray(self.starts, np.int64).tobytes())}

    def _order(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the row groups, and where each mixture of them begins."""
        with self._lock:
            if (seed, epoch) not in self._orders:
                order = permutation(len(self.groups), seed, epoch)
                sizes = np.diff(self.starts)[order]
                bounds = np.concatenate([[0], np.cumsum(np.add.reduceat(sizes, np.arange(0, len(order), self.mix)))])
                _keep(self._orders, (seed, epoch), (order, bounds), RECENT)
            return self._orders[seed, epoch]

    def _mixture(self, seed: int, epoch: int, number: int, order: np.ndarray) -> np.ndarray:
        """The rows of one mixture, shuffled."""
        key = seed, epoch, number
        with self._lock:
            if key not in self._mixtures:
                groups = order[number * self.mix : (number + 1) * self.mix]
                rows = np.concatenate([np.arange(self.starts[g], self.starts[g + 1]) for g in groups])
                _keep(self._mixtures, key, rows[permutation(len(rows), seed, epoch, 1 + number)], RECENT)
            return self._mixtures[key]

    def _in_groups(self, rows: np.ndarray) -> Iterable[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """(a row group, where in `rows` its rows are, their numbers in it), in the order of their first rows.

        So at the seam of two mixtures the groups of the earlier one are used before those of the later push them out.
        """
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        found, first = np.unique(numbers, return_index=True)
        for number in found[np.argsort(first)].tolist():
            where = np.flatnonzero(numbers == number)
            yield self._group(number), where, rows[where] - self.starts[number]

    def _group(self, number: int) -> dict[str, Any]:
        """A row group: arrays by column, or pyarrow's values where they are no numbers."""
        with self._lock:
            group = self._decoded.pop(number, None)
            if group is None:
                table = self._read(*self.groups[number])
                group = {name: _decoded(table.column(name)) for name in self.columns}
            _keep(self._decoded, number, group, 2 * self.mix)
            return group

    def _read(self, file: int, index: int, rows: int) -> "pyarrow.Table":
        """A row group of a file; ValueError where it is damaged."""
        path = self.files[file]
        try:
            with _pyarrow_parquet().ParquetFile(path, page_checksum_verification=True) as opened:
                table = opened.read_row_group(index, columns=self.columns)
                table.validate(full=True)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}; it was there before") from None
        except Exception as error:  # pyarrow's own, of several kinds
            raise ValueError(f"{path} is damaged: row group {index} can't be read: {error}") from error
        if table.num_rows != rows:
            raise ValueError(
                f"{path} is damaged: row group {index} has {table.num_rows:,} rows, where it claims {rows:,}"
            )
        return table


def _keep(known: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add to what is known, and forget the oldest beyond so many."""
    known[key] = value
    while len(known) > most:
        del known[next(iter(known))]


def row_of(values: np.ndarray, i: int) -> Any:
    """A number, or an array of its own: what is read is kept for the next who asks, and must not be written into."""
    return values[i].copy() if values.ndim > 1 else values[i]


def _decoded(column: "pyarrow.ChunkedArray") -> Any:
    """A column as an array, or as it is where it is none."""
    import pyarrow

    array = column.combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):  # of no chunk, or too large for one
        array = pyarrow.concat_arrays(array.chunks)
    dense = _dense(array)
    return array if dense is None else dense


def _dense(array: "pyarrow.Array") -> np.ndarray | None:
    """The numbers of an array, `(n,)`, or `(n, length, ...)` of equally long lists; None if there is anything else in it."""
    import pyarrow

    types = pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if array.null_count:
        return None
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return cast(np.ndarray, array.to_numpy(zero_copy_only=False))
    if types.is_fixed_size_list(kind):
        length = kind.list_size
    elif types.is_list(kind) or types.is_large_list(kind):
        lengths = np.unique(array.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) != 1:
            return None
        length = int(lengths[0])
    else:
        return None
    values = _dense(array.flatten())
    return None if values is None else values.reshape(len(array), length, *values.shape[1:])


def _no_array(name: str, values: "pyarrow.Array") -> Exception:
    """The error for a column that is no array."""
    if values.null_count:
        return ValueError(
            f"column {name!r} has {values.null_count} missing values in a row group; leave the column out by columns=..., or "
            "fill them by sample_transform=..., which gets None for each"
        )
    return TypeError(
        f"column {name!r} holds {values.type}, where numbers or lists of them of one length were expected; make numbers of "
        "it by sample_transform=..., which gets each row as a dict, or leave it out by columns=... or keys=..."
    )


def _files(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that are meant."""
    if isinstance(paths, str | os.PathLike):
        folder = Path(paths)
        if not folder.is_dir():
            return [folder]
        files = sorted(folder.glob("*.parquet"), key=lambda path: path.name)
        if not files:
            raise FileNotFoundError(f"there are no files *.parquet in {folder}")
        return files
    files = [Path(path) for path in paths]
    if not files:
        raise FileNotFoundError("no paths came, where at least one was expected")
    return files


def _pyarrow_parquet() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Parquet files need pyarrow: {install('parquet')}") from error
    return cast(ModuleType, pyarrow.parquet)

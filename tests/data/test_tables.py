"""Parquet files as data sets."""

import io
import pickle
import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader, tables

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ROWS, GROUP = 103, 10


def table(start=0, rows=ROWS):
    numbers = np.arange(start, start + rows)
    return pa.table(
        {
            "number": numbers,
            "half": (numbers / 2).astype(np.float32),
            "even": numbers % 2 == 0,
            "pixels": [[[i, i + 1, i + 2], [i, i, i]] for i in numbers.tolist()],
            "fixed": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(numbers, 2).astype(np.int8)), 2),
            "kind": pa.array([f"kind {i % 3}" for i in numbers.tolist()]).dictionary_encode(),
            "label": pa.array((numbers % 3).astype(np.int16)).dictionary_encode(),
            "holes": [None if i % 7 == 0 else i for i in numbers.tolist()],
            "bag": [list(range(i % 3)) for i in numbers.tolist()],
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "a.parquet"
    pq.write_table(table(), path, row_group_size=GROUP)
    return path


ARRAYS = ["number", "half", "even", "pixels", "fixed", "label"]


def test_columns_become_arrays(path):
    data = mg.data.parquet(path, ARRAYS)
    assert len(data) == ROWS
    batch = Loader(data, batch_size=64, shuffle=False).batch(0)
    assert {name: (a.dtype.name, a.shape[1:]) for name, a in batch.items()} == {
        "number": ("int64", ()),
        "half": ("float32", ()),
        "even": ("bool", ()),
        "pixels": ("int64", (2, 3)),
        "fixed": ("int8", (2,)),
        "label": ("int16", ()),
    }
    i = np.arange(64)
    assert batch["number"].tolist() == i.tolist()
    assert batch["half"].tolist() == (i / 2).tolist()
    assert batch["even"].tolist() == (i % 2 == 0).tolist()
    assert batch["pixels"][:, 0].tolist() == [[n, n + 1, n + 2] for n in i.tolist()]
    assert batch["fixed"].tolist() == [[n, n] for n in i.astype(np.int8).tolist()]
    assert batch["label"].tolist() == (i % 3).tolist()


@pytest.mark.parametrize("mix", [1, 3, 100])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_shuffled_epoch_has_each_row_once_by_mixtures(path, mix, workers):
    loader = Loader(mg.data.parquet(path, ["number"], mix=mix), batch_size=7, seed=5, workers=workers)
    first, second = ([int(i) for batch in loader for i in batch["number"]] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first[: mix * GROUP] != sorted(first[: mix * GROUP])
    groups = np.array(first) // GROUP
    for group in range(11):
        places = np.flatnonzero(groups == group)
        assert places[-1] - places[0] < mix * GROUP


def test_batches_depend_on_seed_and_step_alone(path):
    one, two = (Loader(mg.data.parquet(path, ["number"], mix=2), batch_size=9, seed=3) for _ in range(2))
    forward = [one.batch(step)["number"].tolist() for step in range(24)]
    assert [two.batch(step)["number"].tolist() for step in reversed(range(24))] == forward[::-1]


@pytest.mark.slow  # as of any images, in test_workers.py
def test_processes_give_the_same_batches(path):
    options = {"batch_size": 20, "seed": 3, "keys": ("pixels", "label")}
    plain = Loader(mg.data.parquet(path, ARRAYS), **options)
    ours = Loader(mg.data.parquet(path, ARRAYS), **options, workers=2, worker="process")
    for left, right in zip(ours.steps(8), plain.steps(8), strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


def test_row_groups_are_read_once_an_epoch_and_few_are_kept(path, monkeypatch):
    read, most = [], 0
    decode = tables.Parquet._group

    def counted(self, number):
        nonlocal most
        read.extend([] if number in self._decoded else [number])
        group = decode(self, number)
        most = max(most, len(self._decoded))
        return group

    monkeypatch.setattr(tables.Parquet, "_group", counted)
    loader = Loader(mg.data.parquet(path, ["number"], mix=2), batch_size=7, seed=1)
    list(loader)
    assert sorted(read) == list(range(11))
    assert most == 4


def test_several_files_are_one_data_set(tmp_path):
    for i, start in enumerate((0, 40)):
        pq.write_table(table(start, 40), tmp_path / f"{i}.parquet", row_group_size=16)
    pq.write_table(table(0, 0), tmp_path / "2.parquet")
    by_folder = mg.data.parquet(tmp_path, ["number"])
    by_list = mg.data.parquet([tmp_path / "0.parquet", str(tmp_path / "1.parquet")], ["number"])
    for data in (by_folder, by_list):
        numbers = [i for batch in Loader(data, batch_size=32, shuffle=False) for i in batch["number"].tolist()]
        assert numbers == list(range(80))


def test_rows_one_by_one_have_pythons_objects(path):
    data = mg.data.parquet(path)
    sample = data[-1]
    assert sample["number"] == 102
    assert sample["kind"] == "kind 0"
    assert sample["bag"] == []
    assert sample["pixels"].tolist() == [[102, 103, 104], [102, 102, 102]]
    assert [s["holes"] for s in data.__getitems__([8, 7, 6])] == [8, None, 6]
    with pytest.raises(ValueError, match="row must be from -103 to 102, not 103"):
        data[103]


def test_sample_transform_makes_arrays_of_bytes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    files = []
    for pixels in pictures:
        image.fromarray(pixels).save(file := io.BytesIO(), "png")
        files.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"image": files, "label": list(range(6))}), tmp_path / "a.parquet", row_group_size=2)

    def decoded(sample, epoch, number):
        with image.open(io.BytesIO(sample["image"]["bytes"])) as picture:
            return np.asarray(picture), sample["label"]

    loader = Loader(mg.data.parquet(tmp_path), batch_size=4, sample_transform=decoded)
    images, labels = loader.batch(0)
    np.testing.assert_array_equal(images, pictures[labels])


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ("kind", TypeError, "column 'kind' holds dictionary.*sample_transform.*columns="),
        ("bag", TypeError, "column 'bag' holds list.*of one length"),
        ("holes", ValueError, "column 'holes' has [12] missing values in a row group"),
    ],
)
def test_what_is_no_array_is_refused_with_ways_out(path, column, error, message):
    with pytest.raises(error, match=message):
        Loader(mg.data.parquet(path, [column]), batch_size=10).batch(0)


def test_lists_of_another_length_in_another_group_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [[1, 2], [3, 4], [1, 2, 3], [4, 5, 6]]}), tmp_path / "a.parquet", row_group_size=2)
    with pytest.raises(ValueError, match=r"column 'x' has lists of the shapes \(2,\) and \(3,\)"):
        Loader(mg.data.parquet(tmp_path), batch_size=4, shuffle=False).batch(0)


def test_bad_files_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing.parquet"):
        mg.data.parquet(tmp_path / "nothing.parquet")
    with pytest.raises(FileNotFoundError, match="there are no files"):
        mg.data.parquet(tmp_path)
    with pytest.raises(ValueError, match=r"no column 'nummer', only number, half"):
        mg.data.parquet(path, ["nummer"])
    (tmp_path / "text.parquet").write_text("<html>")
    with pytest.raises(ValueError, match=r"text.parquet can't be read as a Parquet file"):
        mg.data.parquet(tmp_path / "text.parquet")
    pq.write_table(pa.table({"number": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other columns than .*a.parquet: number is string, not int64"):
        mg.data.parquet([path, tmp_path / "other.parquet"], ["number"])
    pq.write_table(table(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="there are no rows"):
        mg.data.parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="no 'x' in the data, only number"):
        Loader(mg.data.parquet(path, ["number"]), batch_size=3, keys=("x",))


def test_a_table_can_be_pickled(path):
    data = mg.data.parquet(path, ["number"])
    data.read_columns(np.arange(3))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.read_columns(np.array([50, 3]))["number"].tolist() == [50, 3]


def test_a_run_on_a_table_resumes_to_the_same_bits(path, tmp_path):
    def parts():
        mg.manual_seed(0)
        model = mg.nn.Linear(1, 3)
        loader = Loader(
            mg.data.parquet(path, ["half", "label"], mix=2),
            batch_size=8,
            keys=("half", "label"),
            transform=lambda batch, epoch, step: (batch[0][:, None], batch[1]),
        )
        return model, mg.optim.SGD(model.parameters(), 0.001), loader

    whole = parts()
    mg.train.fit(*whole, steps=20)
    mg.train.fit(*parts(), steps=11, checkpoint=tmp_path)
    again = parts()
    mg.train.fit(*again, steps=20, checkpoint=tmp_path, resume=True)
    for left, right in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert left.numpy().tobytes() == right.numpy().tobytes()


def test_damaged_pages_are_refused_by_the_files_name(path, tmp_path):
    data, path = bytearray(path.read_bytes()), tmp_path / "b.parquet"
    path.write_bytes(data)
    table = mg.data.parquet(path)
    data[20:60] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged: row group 0 can't be read"):
        table[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="it was there before"):
        table[len(table) - 1]


def test_the_state_of_another_mixture_is_refused(path):
    one, other = (Loader(mg.data.parquet(path, ["number"], mix=mix), batch_size=9) for mix in (1, 2))
    list(one.steps(2))
    with pytest.raises(ValueError, match="mix 1 against 2"):
        other.load_state_dict(one.state_dict())

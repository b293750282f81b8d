import copy
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad.data import BrightnessContrast, Compose, Kiefer, Loader, Scale, ShiftCrop, Transform
from minigrad.data.sources import permutation

ROWS = np.arange(50)


def together(batches):
    return np.concatenate([rows for (rows,) in batches])


def assert_same_batches(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right)


loaders = st.builds(
    lambda length, batch_size, shuffle, drop_last, seed: Loader(
        np.arange(length), batch_size=min(batch_size, length), shuffle=shuffle, drop_last=drop_last, seed=seed
    ),
    length=st.integers(1, 70),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
quick = settings(deadline=None, max_examples=60)


@given(loader=loaders, epoch=st.integers(0, 2**63))
@quick
def test_an_epoch_holds_each_sample_once(loader, epoch):
    rows = together(loader.batch(epoch * len(loader) + step) for step in range(len(loader)))
    assert len(set(rows.tolist())) == len(rows)
    dropped = loader.length % loader.batch_size if loader.drop_last else 0
    assert len(rows) == loader.length - dropped


@given(loader=loaders, steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
@quick
def test_a_batch_depends_on_its_step_alone(loader, steps):
    first = [loader.batch(step) for step in steps]
    assert_same_batches([loader.batch(step) for step in reversed(steps)], reversed(first))
    assert loader.position == 0


@given(loader=loaders, before=st.integers(0, 100))
@quick
def test_resumed_run_equals_the_uninterrupted_one(loader, before):
    uninterrupted = list(loader.steps(before + 10))
    resumed = copy.copy(loader)
    loader.seek(0)
    list(loader.steps(before))
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert_same_batches(resumed.steps(10), uninterrupted[before:])


@given(length=st.integers(1, 300), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**64 - 1))
@quick
def test_permutation_is_a_permutation(length, seed, epoch):
    np.testing.assert_array_equal(np.sort(permutation(length, seed, epoch)), np.arange(length))


def test_permutation_sorts_by_philox_words():
    words = np.random.Philox(key=[7, 3], counter=[0, 0, 0, int.from_bytes(b"shuffle", "big")]).random_raw(1000)
    expected = sorted(range(1000), key=lambda sample: (int(words[sample]) >> 10, sample))
    assert permutation(1000, 7, 3).tolist() == expected


def test_permutation_never_changes():
    # Philox's stream is part of its definition: another order here breaks the resuming of saved runs.
    assert permutation(10, 7, 3).tolist() == [1, 0, 9, 3, 6, 5, 4, 8, 7, 2]


def test_every_position_is_equally_likely():
    length, epochs = 6, 3000
    counts = np.zeros((length, length))
    for epoch in range(epochs):
        counts[np.arange(length), permutation(length, 1, epoch)] += 1
    chi_squared = np.sum((counts - epochs / length) ** 2) / (epochs / length)
    assert chi_squared < 60  # 25 degrees of freedom: above 60 once in 10,000


def test_the_same_seed_gives_the_same_batches():
    assert_same_batches(Loader(ROWS, batch_size=7, seed=5).steps(20), Loader(ROWS, batch_size=7, seed=5).steps(20))


def test_another_seed_gives_another_order():
    assert permutation(50, 0, 0).tolist() != permutation(50, 1, 0).tolist()


def test_another_epoch_gives_another_order():
    assert permutation(50, 0, 0).tolist() != permutation(50, 0, 1).tolist()


def test_without_shuffle_the_order_is_the_arrays():
    loader = Loader(ROWS, batch_size=7, shuffle=False)
    np.testing.assert_array_equal(together(loader), ROWS)


def test_arrays_are_shuffled_alike():
    images = np.repeat(ROWS.astype(np.float32), 12).reshape(50, 4, 3)
    for left, right in Loader(images, ROWS, batch_size=7):
        np.testing.assert_array_equal(left, np.broadcast_to(right[:, None, None], left.shape))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [20, 20, 10]), (True, [20, 20])])
def test_last_batch_is_smaller_or_dropped(drop_last, sizes):
    loader = Loader(ROWS, batch_size=20, drop_last=drop_last)
    assert [len(rows) for (rows,) in loader] == sizes
    assert len(loader) == len(sizes)


def test_a_batch_larger_than_the_data_holds_all_of_it():
    assert [len(rows) for (rows,) in Loader(ROWS, batch_size=1000)] == [50]


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_fresh_and_contiguous(shuffle):
    data = np.arange(40.0).reshape(10, 4)
    loader = Loader(data, batch_size=5, shuffle=shuffle)
    for (rows,) in loader:
        assert rows.flags.c_contiguous
        assert rows.flags.owndata
        rows[:] = -1
    np.testing.assert_array_equal(data, np.arange(40.0).reshape(10, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda data: np.asfortranarray(data),
        lambda data: data[::-1][::-1],
        lambda data: data[:, ::-1][:, ::-1],
        lambda data: data.astype(">f8"),
        lambda data: np.broadcast_to(data, data.shape),
    ],
    ids=["fortran", "negative rows", "negative columns", "big-endian", "read-only"],
)
def test_any_layout_gives_the_same_native_batches(make):
    data = np.arange(60.0).reshape(20, 3)
    loader = Loader(make(data), batch_size=6)
    assert_same_batches(loader, Loader(data, batch_size=6))
    assert loader.batch(0)[0].dtype.isnative


def test_contiguous_arrays_are_not_copied():
    data = np.zeros((10, 3), np.float32)
    assert np.shares_memory(Loader(data, batch_size=2).arrays[0], data)


def test_iteration_goes_on_to_the_end_of_the_epoch():
    loader = Loader(ROWS, batch_size=10)
    list(itertools.islice(loader, 2))
    assert loader.position == 2
    assert_same_batches(loader, [loader.batch(step) for step in (2, 3, 4)])
    assert loader.epoch == 1
    assert_same_batches(loader, [loader.batch(step) for step in range(5, 10)])


def test_state_in_the_body_of_a_loop_leads_on_to_the_next_batch():
    loader = Loader(ROWS, batch_size=10)
    for number, _ in enumerate(loader.steps(3), start=1):
        assert loader.state_dict()["position"] == number


def test_steps_without_count_go_on():
    loader = Loader(ROWS, batch_size=10)
    assert_same_batches(itertools.islice(loader.steps(), 12), [loader.batch(step) for step in range(12)])


def test_steps_begin_at_start():
    loader = Loader(ROWS, batch_size=10)
    assert_same_batches(loader.steps(3, start=8), [loader.batch(step) for step in (8, 9, 10)])
    assert loader.position == 11


def test_seek_goes_to_an_epoch():
    loader = Loader(ROWS, batch_size=10)
    loader.seek(3 * len(loader))
    assert loader.epoch == 3
    np.testing.assert_array_equal(together(loader), permutation(50, 0, 3))


def test_transform_gets_batch_epoch_and_step():
    loader = Loader(ROWS, batch_size=10, transform=lambda batch, epoch, step: (*batch, epoch, step))
    assert [batch[1:] for batch in loader.steps(7)] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6)]


def test_a_transform_that_fails_does_not_move_the_position():
    def fail(batch, epoch, step):
        raise RuntimeError("no")

    loader = Loader(ROWS, batch_size=10, transform=fail)
    with pytest.raises(RuntimeError, match="no"):
        next(iter(loader))
    assert loader.position == 0


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((), {}, "no arrays"),
        ((np.zeros(3), np.zeros(4)), {}, r"\[3, 4\].*equal"),
        ((np.zeros((0, 5)),), {}, "no samples"),
        ((np.array(1.0),), {}, "single value"),
        ((np.zeros(3),), {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ((np.zeros(3),), {"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ((np.zeros(3),), {"batch_size": 4, "drop_last": True}, "4 with drop_last.*at most 3"),
        ((np.zeros(3),), {"seed": -1}, "seed must be from 0 to 18446744073709551615, not -1"),
        ((np.zeros(3),), {"seed": 2**64}, "seed must be from 0"),
    ],
)
def test_bad_values_are_refused(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        Loader(*arrays, **{"batch_size": 2, **options})


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        ("text", {}, "argument 0 is a str"),
        (np.array([1, None], object), {}, "argument 0 holds Python objects"),
        (np.zeros(3), {"batch_size": 2.0}, "batch_size must be an integer, not 2.0"),
        (np.zeros(3), {"batch_size": True}, "batch_size must be an integer, not True"),
        (np.zeros(3), {"seed": None}, "seed must be an integer, not None"),
    ],
)
def test_bad_types_are_refused(array, options, message):
    with pytest.raises(TypeError, match=message):
        Loader(array, **{"batch_size": 2, **options})


@pytest.mark.parametrize("call", ["batch", "seek", "steps"])
def test_negative_steps_are_refused_at_the_call(call):
    with pytest.raises(ValueError, match="must be at least 0, not -1"):
        getattr(Loader(ROWS, batch_size=10), call)(-1)


def test_a_state_of_another_loader_is_refused_with_all_differences():
    loader = Loader(ROWS, batch_size=10)
    loader.seek(4)
    state = Loader(ROWS, batch_size=5, seed=3).state_dict()
    with pytest.raises(ValueError, match="batch_size 5 against 10, seed 3 against 0"):
        loader.load_state_dict(state)
    assert loader.position == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("seed"), "keys"),
        (lambda state: state.update(extra=1), "extra"),
        (lambda state: state.update(position=-2), "step must be at least 0, not -2"),
    ],
)
def test_a_broken_state_is_refused_and_changes_nothing(change, message):
    loader = Loader(ROWS, batch_size=10)
    state = loader.state_dict()
    change(state)
    loader.seek(4)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert loader.position == 4


# Parts of a batch, for several processes


def arrays(length):
    return np.arange(length) * 10.0, np.arange(length)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("transform", [None, lambda batch, epoch, step: (batch[0] + step, *batch[1:])])
def test_the_parts_of_a_batch_are_the_batch_in_its_order(world, transform):
    settings = {"batch_size": 10, "seed": 3, "transform": transform}
    whole = Loader(*arrays(27), **settings)
    parts = [Loader(*arrays(27), **settings, rank=rank, world=world) for rank in range(world)]
    for step in range(2 * len(whole)):
        for i, array in enumerate(whole.batch(step)):
            np.testing.assert_array_equal(np.concatenate([part.batch(step)[i] for part in parts]), array)
        sizes = [len(part.batch(step)[0]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_state_leads_on_in_another_world():
    before = Loader(*arrays(20), batch_size=5, rank=1, world=2)
    next(iter(before))
    after = Loader(*arrays(20), batch_size=5, rank=2, world=3)
    after.load_state_dict(before.state_dict())
    np.testing.assert_array_equal(next(iter(after))[0], Loader(*arrays(20), batch_size=5).batch(1)[0][3:])


def test_a_batch_with_fewer_samples_than_processes_is_refused():
    with pytest.raises(ValueError, match="the last batch of an epoch has 1 of 21 samples, too few for 2 processes"):
        Loader(*arrays(21), batch_size=10, world=2)
    with pytest.raises(ValueError, match="a batch has 3 of 20 samples, too few for 4"):
        Loader(*arrays(20), batch_size=3, drop_last=True, world=4)
    assert len(Loader(*arrays(21), batch_size=10, drop_last=True, world=2)) == 2
    with pytest.raises(ValueError, match="rank must be"):
        Loader(*arrays(20), batch_size=10, rank=2, world=2)


@pytest.mark.parametrize(
    "worker", [{}, {"workers": 2}, pytest.param({"workers": 1, "worker": "process"}, marks=pytest.mark.slow)], ids=str
)
def test_parts_are_augmented_as_in_the_whole(rng, worker):
    images = rng.integers(0, 256, (23, 8, 8, 3)).astype(np.uint8)
    transform = Compose(ShiftCrop(seed=2), Kiefer(seed=1), BrightnessContrast(seed=3), Scale())
    settings = {"batch_size": 10, "transform": transform}
    whole = list(Loader(images, np.arange(23), **settings).steps(4))
    parts = [list(Loader(images, np.arange(23), **settings, **worker, rank=r, world=3).steps(4)) for r in range(3)]
    for step, (pictures, numbers) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[step][0] for part in parts]), pictures)
        np.testing.assert_array_equal(np.concatenate([part[step][1] for part in parts]), numbers)


def test_a_transform_by_rows_is_given_the_part_alone():
    given = []

    class Notes(Transform):
        def images(self, images, epoch, step):
            given.append(len(images))
            return images

    class NotesRows(Notes):
        by_rows = True

    for kind in (Notes, NotesRows):
        Loader(np.zeros((10, 2, 2, 1)), batch_size=10, transform=Compose(kind(), Scale()), rank=1, world=5).batch(0)
    assert given == [10, 2]

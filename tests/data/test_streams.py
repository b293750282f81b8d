"""Loaders of streams: samples that can only be read from the beginning."""

import json

import numpy as np
import pytest
from sample_sets import Numbers

import minigrad as mg
from minigrad.data import Loader


def values(batches):
    return [images[:, 0].astype(int).tolist() for images, _ in batches]


def stream(prefetch=0, length=23, **options):
    return Loader(Numbers(length), batch_size=5, shuffle=False, prefetch=prefetch, **options)


EPOCH = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22]]
SECOND = [[100 + i for i in batch] for batch in EPOCH]


@pytest.mark.parametrize("prefetch", [0, 2, 9])
def test_iteration_ends_with_the_epoch_and_goes_on_with_the_next(prefetch):
    loader = stream(prefetch)
    assert values(loader) == EPOCH
    assert (loader.position, loader.epoch) == (5, 1)
    assert values(loader) == SECOND


@pytest.mark.parametrize("prefetch", [0, 3])
def test_steps_go_on_across_epochs(prefetch):
    loader = stream(prefetch)
    assert values(loader.steps(7)) == EPOCH + SECOND[:2]
    assert values(loader.steps(2)) == SECOND[2:4]
    assert loader.epoch == 1


def test_drop_last_leaves_out_the_smaller_batch():
    assert values(stream(drop_last=True).steps(6)) == EPOCH[:4] + SECOND[:2]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("before", [0, 3, 4, 5, 6, 11])
def test_a_resumed_run_equals_the_uninterrupted_one(before, prefetch):
    uninterrupted = values(stream().steps(before + 9))
    first = stream(prefetch)
    list(first.steps(before))
    resumed = stream(prefetch)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert values(resumed.steps(9)) == uninterrupted[before:]


def test_one_pass_is_enough_for_steps_in_several_calls():
    loader = stream(prefetch=2)
    for _ in range(4):
        list(loader.steps(2))
    assert loader.source.data.passes == [0, 1]


def test_any_step_can_be_had_by_reading_up_to_it():
    loader = stream()
    assert values([loader.batch(6)]) == SECOND[1:2]
    assert values([loader.batch(0)]) == EPOCH[:1]
    assert loader.position == 0
    loader.seek(8)
    assert values(loader.steps(1)) == SECOND[3:4]
    loader.seek(1)
    assert values(loader.steps(1)) == EPOCH[1:2]


def test_one_epoch_is_the_first_and_leaves_the_position():
    loader = stream(prefetch=2)
    list(loader.steps(2))
    assert values(loader.one_epoch()) == EPOCH
    assert loader.position == 2
    assert values(loader.steps(1)) == EPOCH[2:3]


def test_transforms_get_step_epoch_and_number():
    seen = []
    loader = stream(
        sample_transform=lambda sample, epoch, number: (sample[0], 1000 * epoch + number),
        transform=lambda batch, epoch, step: seen.append((epoch, step)) or batch,
    )
    labels = [y.tolist() for _, y in loader.steps(7)]
    assert labels[4:6] == [[20, 21, 22], [1000, 1001, 1002, 1003, 1004]]
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6)]


def test_generators_are_read_once():
    loader = Loader((i for i in range(7)), batch_size=3, shuffle=False, prefetch=2)
    got = [batch[0].tolist() for batch in loader.steps(2)] + [batch[0].tolist() for batch in loader]
    assert got == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(ValueError, match="the generator can be read once, and a pass over it was begun"):
        next(loader.steps())


def test_a_stream_without_a_length_has_a_loader_without_one():
    with pytest.raises(TypeError, match="the Loader has no length, as its stream has none.*count by steps"):
        len(stream())


class Sized(Numbers):
    def __init__(self, length, said):
        super().__init__(length)
        self.said = said

    def __len__(self):
        return self.said


def test_a_stream_may_have_a_length():
    loader = Loader(Sized(23, 23), batch_size=5, shuffle=False)
    assert len(loader) == 5
    assert values(loader.steps(6)) == [*EPOCH, SECOND[0]]
    with pytest.raises(ValueError, match="the Sized gave 23 samples in epoch 0, where its length is 24"):
        list(Loader(Sized(23, 24), batch_size=5, shuffle=False))


def test_a_stream_is_not_shuffled():
    with pytest.raises(ValueError, match="the Numbers is a stream.*shuffle=False"):
        Loader(Numbers(), batch_size=5)


@pytest.mark.parametrize(("length", "options"), [(0, {}), (4, {"drop_last": True})])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_stream_that_gives_no_batch_is_an_error(length, options, prefetch):
    with pytest.raises(ValueError, match="the Numbers gave no batch in epoch 0"):
        next(stream(prefetch, length, **options).steps())


class Fails(Numbers):
    def __iter__(self):
        yield from (next(iter(super(Fails, self).__iter__())) for _ in range(7))
        raise OSError("the disk is gone")


@pytest.mark.parametrize("prefetch", [0, 3])
def test_an_error_of_the_stream_names_the_sample(prefetch):
    loader = Loader(Fails(), batch_size=5, shuffle=False, prefetch=prefetch)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        list(loader)
    assert "sample 7 of the Fails, in epoch 0" in caught.value.__notes__
    assert loader.position == 1


def test_states_of_streams_are_checked():
    loader = stream()
    list(loader.steps(7))
    state = loader.state_dict()
    assert (state["position"], state["epoch"], state["epoch_start"]) == (7, 1, 5)
    for change in ({"epoch_start": 9}, {"epoch": -1}, {"epoch_start": 0}, {"batch_size": 4}):
        with pytest.raises(ValueError, match="epoch|batch_size"):
            stream().load_state_dict(state | change)
    with pytest.raises(ValueError, match="keys"):
        stream().load_state_dict({k: v for k, v in state.items() if k != "epoch"})


def parts():
    mg.manual_seed(0)
    model = mg.nn.Linear(3, 3)
    return model, mg.optim.SGD(model.parameters(), 0.001)


def test_fit_trains_on_a_stream_by_steps(tmp_path):
    whole, optimizer = parts()
    history = mg.train.fit(whole, optimizer, stream(prefetch=2), steps=12, validation=stream(), validate_every=4)
    assert [row["step"] for row in history.epochs] == [12]
    assert len(history.column("validation_loss", "steps")) == 3
    resumed, optimizer = parts()
    mg.train.fit(resumed, optimizer, stream(), steps=7, checkpoint=tmp_path)
    again, optimizer = parts()
    mg.train.fit(again, optimizer, stream(prefetch=3), steps=12, checkpoint=tmp_path, resume=True)
    for left, right in zip(whole.parameters(), again.parameters(), strict=True):
        assert left.numpy().tobytes() == right.numpy().tobytes()


def test_fit_by_epochs_says_that_a_stream_has_none():
    model, optimizer = parts()
    with pytest.raises(TypeError, match="count by steps"):
        mg.train.fit(model, optimizer, stream(), epochs=1)


def test_a_loss_that_diverges_on_a_generator_is_told_without_its_op():
    model, optimizer = parts()
    samples = ((np.full(3, np.inf if i > 8 else 1, np.float32), 0) for i in range(40))
    loader = Loader(samples, batch_size=4, shuffle=False)
    with pytest.raises(mg.train.DivergedError, match="was not found, since the step can't be repeated: the generator"):
        mg.train.fit(model, optimizer, loader, steps=5)


def test_streams_of_pytorch_are_streams():
    torch = pytest.importorskip("torch")

    class Counting(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.arange(7))

        def __len__(self):
            return 7

    loader = Loader(Counting(), batch_size=4, shuffle=False)
    assert len(loader) == 2
    assert [batch[0].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6]]


def test_ranks_read_the_same_stream_and_keep_their_parts():
    parts = [values(stream(rank=rank, world=2, drop_last=True).steps(5)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == EPOCH[:4] + SECOND[:1]


def test_a_last_batch_too_small_for_all_ranks_is_an_error():
    with pytest.raises(ValueError, match="a batch has 3 samples, too few for 4 processes"):
        list(stream(rank=0, world=4))


def test_the_search_for_a_learning_rate_reads_a_stream_once_and_leaves_the_position():
    model, optimizer = parts()
    loader = stream(prefetch=2)
    list(loader.steps(3))
    mg.train.find_learning_rate(model, optimizer, loader, low=1e-8, high=1e-6, steps=8)
    assert loader.source.data.passes[:1] == [0]
    assert len(loader.source.data.passes) <= 4  # the steps before, what comes in two epochs, and what is read ahead
    assert values(loader.steps(1)) == EPOCH[3:4]


def test_an_epoch_that_was_ended_by_its_steps_is_followed_by_a_whole_one():
    loader = Loader(Counted(6), batch_size=2, shuffle=False)
    assert sum(1 for _ in loader.steps(3)) == 3
    assert len(list(loader)) == 3


class Counted:
    """A stream of so many numbers."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter([(np.float32(i),) for i in range(self.count)])

"""Loaders of data sets by position and of named arrays."""

import types

import numpy as np
import pytest
from sample_sets import Broken, ManyAtOnce, Named, Pairs, as_lists, noisy

import minigrad as mg
from minigrad.data import ByName, Loader, Normalize, Scale, generator, stack


def assert_same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("kind", [Pairs, ManyAtOnce])
@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"drop_last": True, "seed": 3}])
def test_a_data_set_gives_the_batches_of_its_arrays(kind, options):
    images = np.stack([image for image, _ in map(Pairs().__getitem__, range(50))])
    labels = np.arange(50) % 3
    ours, theirs = Loader(kind(), batch_size=8, **options), Loader(images, labels, batch_size=8, **options)
    assert len(ours) == len(theirs)
    assert_same(ours.steps(20), theirs.steps(20))
    assert ours.state_dict() == theirs.state_dict()


def test_the_last_batch_is_smaller():
    assert [len(labels) for _, labels in Loader(Pairs(), batch_size=20)] == [20, 20, 10]


def test_lists_are_data_sets():
    (batch,) = Loader([(1.5, 2), (2.5, 3)], batch_size=2, shuffle=False)
    assert_same([batch], [(np.array([1.5, 2.5], np.float32), np.array([2, 3]))])


def test_single_values_make_batches_of_one_array():
    assert_same(Loader(range(4), batch_size=3, shuffle=False), [(np.array([0, 1, 2]),), (np.array([3]),)])


def test_dicts_make_dicts_without_what_was_not_asked_for():
    loader = Loader(Named(), batch_size=4, shuffle=False, keys=("label", "image"))
    labels, images = loader.batch(1)
    assert labels.tolist() == [1, 2, 0, 1]
    assert images[:, 0, 0].tolist() == [4, 5, 6, 7]


def test_text_in_a_sample_is_refused_with_ways_out():
    with pytest.raises(TypeError, match=r"'name' of sample 0 of the batch is a str.*sample_transform.*keys.*collate"):
        Loader(Named(), batch_size=4).batch(0)


def test_named_arrays_make_dicts():
    data = {"image": np.arange(12.0).reshape(6, 2), "label": np.arange(6)}
    loader = Loader(data, batch_size=4, seed=2)
    batch = loader.batch(1)
    assert list(batch) == ["image", "label"]
    np.testing.assert_array_equal(batch["image"][:, 0], 2 * batch["label"])
    pairs = Loader(data, batch_size=4, seed=2, keys=("label", "image"))
    assert_same([pairs.batch(1)], [(batch["label"], batch["image"])])


def test_arrays_can_be_taken_sample_by_sample():
    images, labels = np.arange(20.0, dtype=np.float32).reshape(10, 2), np.arange(10)
    loader = Loader(images, labels, batch_size=5, sample_transform=lambda sample, epoch, i: (sample[0] + i, sample[1]))
    for x, y in loader:
        np.testing.assert_array_equal(x, images[y] + y[:, None])


def test_sample_transform_is_keyed_by_epoch_and_sample():
    def epoch(number, **options):
        loader = Loader(Pairs(), sample_transform=noisy, **options)
        steps = range(number * len(loader), (number + 1) * len(loader))
        return {image.tobytes() for step in steps for image in loader.batch(step)[0]}

    first = epoch(1, batch_size=7, seed=4)
    assert len(first) == 50
    assert first == epoch(1, batch_size=11, shuffle=False)
    assert first.isdisjoint(epoch(2, batch_size=7, seed=4))


def test_generators_of_samples_are_apart():
    draws = [generator(*key).random(4).tolist() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(d) for d in draws}) == 4
    assert generator(5, 6, 7).random(3).tolist() == generator(5, 6, 7).random(3).tolist()


def test_collate_makes_the_batch():
    batch = Loader(Pairs(), batch_size=8, collate=as_lists).batch(6)
    assert batch["sizes"] == [2]
    assert batch["images"].shape == (2, 2, 3)


def test_transforms_of_entries_of_dicts():
    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    data = {"image": images, "label": np.arange(4)}
    loader = Loader(data, batch_size=4, shuffle=False, transform=ByName(image=Normalize(0.5, 0.25)))
    batch = loader.batch(0)
    np.testing.assert_array_equal(batch["image"], Normalize(0.5, 0.25).apply(images))
    np.testing.assert_array_equal(batch["label"], np.arange(4))


def test_transforms_of_images_say_how_they_take_dicts():
    loader = Loader({"image": np.zeros((4, 2, 2, 3), np.uint8)}, batch_size=2, transform=Scale())
    with pytest.raises(TypeError, match=r"ByName\(image=Scale"):
        loader.batch(0)


def test_an_error_names_the_sample_and_the_step():
    loader = Loader(Broken(), batch_size=8, shuffle=False)
    with pytest.raises(KeyError, match="no such file") as caught:
        list(loader)
    assert loader.position == 2
    notes = "\n".join(caught.value.__notes__)
    assert "sample 17 of the Broken" in notes
    assert "step 2, in epoch 0" in notes


def test_an_error_of_sample_transform_names_the_sample():
    def fail(sample, epoch, number):
        if number == 3:
            raise RuntimeError("bad")
        return sample

    with pytest.raises(RuntimeError, match="bad") as caught:
        list(Loader(Pairs(), batch_size=8, sample_transform=fail))
    assert "sample 3" in caught.value.__notes__


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([np.zeros(2), np.zeros(3)], ValueError, r"the value has the shape \(3,\) in sample 1 of the batch and \(2,\)"),
        ([1, 2.5], TypeError, "the value is float32 in sample 1 of the batch and int64 in the first"),
        ([(1, 2), (1,)], ValueError, "sample 1 of the batch has 1 parts, where 2 were expected"),
        ([{"a": 1}, {"b": 1}], ValueError, r"sample 1 of the batch is \['b'\], where \['a'\] were expected"),
        ([None], TypeError, "is a NoneType, where numbers were expected"),
        ([{"a": [[1, 2], [3]]}], ValueError, "'a' of sample 0 of the batch is no array"),
        ([], ValueError, "no samples came"),
    ],
)
def test_what_does_not_stack_is_refused(samples, error, message):
    with pytest.raises(error, match=message):
        stack(samples)


def test_floats_become_float32_and_arrays_keep_their_dtype():
    batch = stack([(1.0, [1.0, 2.0], 3, True, np.float64(1), np.zeros(2), np.int8(1))])
    assert [a.dtype.name for a in batch] == ["float32", "float32", "int64", "bool", "float64", "float64", "int8"]


def test_foreign_byte_order_becomes_native():
    (batch,) = stack([np.arange(3, dtype=">f4")])
    assert batch.dtype == np.float32
    assert batch.dtype.isnative
    assert batch.tolist() == [[0, 1, 2]]


def test_tensors_of_pytorch_are_arrays():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    part = torch.utils.data.Subset(data, [5, 0, 2, 4])
    x, y = Loader(part, batch_size=4, shuffle=False).batch(0)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert y.tolist() == [5, 0, 2, 4]
    given = Loader(*data.tensors, batch_size=6, shuffle=False).batch(0)
    np.testing.assert_array_equal(given[0], np.arange(12.0).reshape(6, 2))


def test_pictures_of_pillow_are_arrays():
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    (batch, _) = stack([(image.fromarray(pixels), 1)])
    np.testing.assert_array_equal(batch, pixels[None])


def test_what_speaks_dlpack_only_is_an_array():
    array = np.arange(3.0, dtype=np.float32)
    speaks = types.SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)
    (batch,) = stack([speaks])
    np.testing.assert_array_equal(batch, array[None])


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (([1, 2], [3, 4]), {}, TypeError, r"argument 0 is a list.*stands alone: Loader\(dataset"),
        (("text",), {}, TypeError, "argument 0 is a str"),
        ((5,), {}, TypeError, "argument 0 is a int"),
        (([],), {}, ValueError, "the list holds no samples"),
        (({},), {}, ValueError, "no arrays"),
        (({"a": [1, 2]},), {}, TypeError, "'a' is a list"),
        (({"a": np.zeros(2)},), {"keys": ("b",)}, ValueError, "no 'b' in the data, only a"),
        ((np.zeros(2),), {"keys": ("b",)}, ValueError, "for samples that are dicts"),
        (
            (Named(),),
            {"keys": "image"},
            TypeError,
            r"keys must be names of entries, like \('image', 'label'\), not 'image'",
        ),
    ],
)
def test_bad_data_is_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        Loader(*data, batch_size=2, **options)


def test_a_missing_key_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="no 'pixels' there, only 'image', 'label', 'name'"):
        Loader(Named(), batch_size=2, keys=("pixels", "label")).batch(0)


def model_of(features):
    mg.manual_seed(0)
    model = mg.nn.Sequential(mg.nn.Flatten(), mg.nn.Linear(features, 3))
    return model, mg.optim.SGD(model.parameters(), 0.01)


def test_fit_evaluate_and_predict_take_dicts_by_keys():
    results = []
    for data in (Pairs(), Named()):
        options = {"keys": ("image", "label")} if isinstance(data, Named) else {}
        loader = Loader(data, batch_size=8, prefetch=2, **options)
        model, optimizer = model_of(6)
        history = mg.train.fit(model, optimizer, loader, epochs=2, validation=loader)
        outputs = mg.train.predict(model, loader)
        results.append((history.column("validation_loss"), outputs, mg.train.evaluate(model, loader)))
    (losses, outputs, means), (others, same, again) = results
    assert losses == others
    assert means == again
    np.testing.assert_array_equal(outputs, same)


@pytest.mark.parametrize("data", [Named(), {"image": np.zeros((4, 6), np.float32), "label": np.arange(4)}])
def test_fit_says_what_to_do_about_dicts(data):
    model, optimizer = model_of(6)
    names = (
        {} if isinstance(data, dict) else {"sample_transform": lambda s, e, i: {k: s[k] for k in ("image", "label")}}
    )
    with pytest.raises(ValueError, match=r"dicts? of image, label.*keys=\('image', 'label'\)"):
        mg.train.fit(model, optimizer, Loader(data, batch_size=2, **names), epochs=1)


def test_a_captured_step_takes_entries_of_a_dict():
    model, optimizer = model_of(6)

    @mg.capture
    def step(image, label):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for batch in Loader({"image": np.ones((20, 6), np.float32), "label": np.arange(20) % 3}, batch_size=8):
        losses.append(step(**batch).item())
    eager, _ = model_of(6)
    other = mg.optim.SGD(eager.parameters(), 0.01)
    history = mg.train.fit(
        eager, other, Loader(np.ones((20, 6), np.float32), np.arange(20) % 3, batch_size=8), epochs=1, log_every=1
    )
    assert losses == history.column("loss", "steps")


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("transform", [None, lambda batch, epoch, step: (batch[0] + step, *batch[1:])])
def test_the_parts_of_ranks_together_are_the_batch(world, transform):
    options = {"batch_size": 8, "sample_transform": noisy, "transform": transform, "drop_last": True}
    whole = Loader(Pairs(), **options)
    parts = [Loader(Pairs(), **options, rank=rank, world=world) for rank in range(world)]
    for step in (0, 7):
        columns = zip(*[part.batch(step) for part in parts], strict=True)
        assert_same([[np.concatenate(column) for column in columns]], [whole.batch(step)])


def test_ranks_cut_dicts():
    data = {"a": np.arange(10)}
    parts = [Loader(data, batch_size=5, transform=lambda b, e, s: b, rank=r, world=2).batch(1)["a"] for r in range(2)]
    assert np.concatenate(parts).tolist() == Loader(data, batch_size=5).batch(1)["a"].tolist()


def test_predict_says_what_to_do_about_dicts():
    model, _ = model_of(6)
    with pytest.raises(
        TypeError, match=r"begin with one, not dict; name the inputs in the Loader, like keys=\('image',\)"
    ):
        mg.train.predict(model, Loader({"image": np.zeros((4, 6), np.float32)}, batch_size=2))

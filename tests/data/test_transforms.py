import numpy as np
import pytest

from minigrad.data import ZCA, Compose, Loader, Normalize, Scale, Transform, channel_statistics
from minigrad.data import transforms as module

KINDS = ["uint8", "float32", "float64"]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(params=KINDS)
def unit(request, images):
    """The images in each type, floats from 0 to 1; and as float64 from 0 to 1."""
    values = images / 255
    return (images if request.param == "uint8" else values.astype(request.param)), values


def ulps(dtype, count):
    return count * np.finfo(np.float32 if dtype == np.uint8 else dtype).eps


def test_scale_gives_0_to_1(unit):
    images, values = unit
    scaled = Scale().apply(images)
    assert scaled.dtype == (np.float32 if images.dtype == np.uint8 else images.dtype)
    np.testing.assert_allclose(scaled, values, rtol=0, atol=ulps(images.dtype, 1))


def test_scale_gives_exactly_0_and_1():
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    assert Scale().apply(images).ravel().tolist() == [0, 1]


def test_normalize_takes_the_mean_and_divides_by_the_deviation(unit):
    images, values = unit
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    expected = (values - mean) / std
    np.testing.assert_allclose(Normalize(mean, std).apply(images), expected, rtol=0, atol=ulps(images.dtype, 8))


def test_one_number_normalizes_all_channels(images):
    np.testing.assert_array_equal(Normalize(0.5, 0.25).apply(images), Normalize([0.5] * 3, [0.25] * 3).apply(images))


def test_normalized_by_their_statistics_channels_have_mean_0_and_deviation_1(unit):
    y = Normalize(*channel_statistics(unit[0])).apply(unit[0]).astype(np.float64)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-6)


def test_statistics_are_those_of_all_images_at_once(unit, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    images, values = unit
    mean, std = channel_statistics(images)
    tolerance = 1e-12 if images.dtype != np.float32 else 1e-6
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=tolerance)
    np.testing.assert_allclose(std, values.std(axis=(0, 1, 2)), rtol=tolerance)


def test_statistics_of_a_large_mean_are_precise(rng, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    images = (1e4 + 0.1 * rng.standard_normal((40, 3, 3, 2))).astype(np.float32)
    _, std = channel_statistics(images)
    np.testing.assert_allclose(std, images.astype(np.float64).std(axis=(0, 1, 2)), rtol=1e-9)


@pytest.mark.wide
def test_whitened_images_are_uncorrelated(rng):
    mixed = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12))
    zca = ZCA.fit(mixed.reshape(400, 2, 2, 3), epsilon=1e-9)
    rows = zca.apply(mixed.reshape(400, 2, 2, 3)).reshape(400, 12)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(rows.T @ rows / 400, np.eye(12), atol=1e-6)


@pytest.mark.wide
def test_zca_is_the_symmetric_root_of_the_inverse_covariance(unit, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    images, values = unit
    zca = ZCA.fit(images, epsilon=0.01)
    rows = values.reshape(20, -1) - values.reshape(20, -1).mean(axis=0)
    inverse = np.linalg.inv(rows.T @ rows / 20 + 0.01 * np.eye(60))
    np.testing.assert_allclose(zca.matrix, zca.matrix.T, atol=1e-10)
    np.testing.assert_allclose(zca.matrix @ zca.matrix, inverse, atol=1e-4)
    expected = (rows @ zca.matrix).reshape(values.shape)
    np.testing.assert_allclose(zca.apply(images), expected, rtol=0, atol=ulps(images.dtype, 300))


def test_zca_can_be_made_again_from_its_numbers(images):
    fitted = ZCA.fit(images)
    np.testing.assert_array_equal(ZCA(fitted.mean, fitted.matrix).apply(images), fitted.apply(images))


@pytest.mark.parametrize("make", [Scale, lambda: Normalize(0.5, 0.2), lambda: ZCA(np.zeros((4, 5, 3)), np.eye(60))])
def test_transforms_work_in_a_loader(make, images):
    labels = np.arange(20)
    loader = Loader(images, labels, batch_size=8, transform=make())
    rows = loader.batch(1)[1]
    np.testing.assert_array_equal(loader.batch(1)[0], make().apply(images[rows]))


def test_compose_goes_from_left_to_right(images):
    def transform(number):
        return lambda batch, epoch, step: (*batch, (number, epoch, step))

    batch = Compose(transform(1), transform(2))((images,), 3, 40)
    assert batch[0] is images
    assert batch[1:] == ((1, 3, 40), (2, 3, 40))


def test_a_transform_without_images_says_so(images):
    class Mine(Transform):
        pass

    with pytest.raises(NotImplementedError, match="Mine does not define images"):
        Mine()((images,), 0, 0)


@pytest.mark.parametrize("apply", [Scale().apply, Normalize(0, 1).apply, ZCA(np.zeros((4, 5, 3)), np.eye(60)).apply])
def test_no_images_give_no_images(apply):
    assert apply(np.zeros((0, 4, 5, 3), np.uint8)).shape == (0, 4, 5, 3)


@pytest.mark.parametrize(
    "make",
    [lambda x: x[::-1], lambda x: x[:, :, ::-1], np.asfortranarray, lambda x: x.astype(">f8")],
    ids=["negative rows", "negative columns", "fortran", "big-endian"],
)
def test_any_layout_is_made_right(make, images):
    given = make(images / 255)
    native = np.ascontiguousarray(given, np.float64)
    np.testing.assert_array_equal(Normalize(0.5, 0.2).apply(given), Normalize(0.5, 0.2).apply(native))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[1]], TypeError, "are a list"),
        (np.zeros((1, 2, 2, 3), np.int64), TypeError, "are int64"),
        (np.zeros((1, 2, 2, 3), np.float16), TypeError, "are float16"),
        (np.zeros((1, 2, 2, 3), object), TypeError, "are object"),
        (np.zeros((2, 2, 3), np.uint8), ValueError, r"shape \(2, 2, 3\)"),
        (np.zeros((1, 2, 0, 3), np.uint8), ValueError, r"\(1, 2, 0, 3\).*no axis empty"),
    ],
)
@pytest.mark.parametrize("function", [Scale().apply, channel_statistics, ZCA.fit])
def test_what_is_no_images_is_refused(function, given, error, message):
    with pytest.raises(error, match=message):
        function(given)


@pytest.mark.parametrize("function", [channel_statistics, ZCA.fit])
def test_statistics_of_no_images_are_refused(function):
    with pytest.raises(ValueError, match="no images came"):
        function(np.zeros((0, 2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], [1.0], r"shapes \(2,\) and \(1,\)"),
        ([[0.5]], [[1.0]], r"shapes \(1, 1\)"),
        ([0.5], [0.0], "std > 0"),
        ([np.nan], [1.0], "finite"),
        ([0.5], [np.inf], "finite"),
    ],
)
def test_bad_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalize(mean, std)


def test_other_channels_than_normalized_are_refused(images):
    with pytest.raises(ValueError, match="have 3 channels, where 2 were expected"):
        Normalize([0.5, 0.5], [1, 1]).apply(images)


@pytest.mark.parametrize("epsilon", [0, -1, np.nan, np.inf])
def test_bad_epsilon_is_refused(epsilon, images):
    with pytest.raises(ValueError, match=f"epsilon is {epsilon}"):
        ZCA.fit(images, epsilon)


def test_other_sizes_than_fitted_are_refused(images):
    with pytest.raises(ValueError, match=r"shape \(5, 4, 3\), where \(4, 5, 3\) was fitted"):
        ZCA.fit(images).apply(images.transpose(0, 2, 1, 3))


def test_zca_of_unfitting_shapes_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) and \(11, 11\)"):
        ZCA(np.zeros((2, 2, 3)), np.eye(11))


# What is not finite


NOT_FINITE = [np.nan, np.inf, -np.inf]


def with_one(value, dtype="float32"):
    """Images of which one value is not finite."""
    images = np.random.default_rng(0).random((5, 6, 7, 3)).astype(dtype)
    images[1, 2, 3, 1] = value
    return images


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_stays_where_it_is_and_as_it_is(value, dtype):
    images = with_one(value, dtype)
    clean = with_one(0.5, dtype)
    for transform in (Scale(), Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])):
        y, expected = transform.apply(images.copy()), transform.apply(clean)
        assert y[1, 2, 3, 1] == value or (np.isnan(value) and np.isnan(y[1, 2, 3, 1]))
        y[1, 2, 3, 1] = expected[1, 2, 3, 1]
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_what_is_not_finite_reaches_all_of_its_image_and_no_other_when_it_is_whitened(value):
    zca = ZCA.fit(with_one(0.5))
    with np.errstate(invalid="ignore"):
        y = zca.apply(with_one(value))
    expected = zca.apply(with_one(0.5))
    assert not np.isfinite(y[1]).any()
    np.testing.assert_array_equal(np.delete(y, 1, axis=0), np.delete(expected, 1, axis=0))


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_whitening_is_not_fitted_to_what_is_not_finite(value):
    with pytest.raises(ValueError, match="image 1 holds a NaN or an infinity"):
        ZCA.fit(with_one(value))


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_statistics_tell_of_what_is_not_finite(value):
    with np.errstate(invalid="ignore"):
        mean, std = channel_statistics(with_one(value))
    assert np.isfinite(mean[[0, 2]]).all()
    assert not np.isfinite(mean[1])
    assert np.isnan(std[1])
    with pytest.raises(ValueError, match="finite numbers and std > 0 were expected"):
        Normalize(mean, std)

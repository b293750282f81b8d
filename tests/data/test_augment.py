import numpy as np
import pytest

from minigrad.data import BrightnessContrast, Compose, Kiefer, Loader, ShiftCrop, augment
from minigrad.data.augment import uniforms

MAKERS = {
    "kiefer": lambda **options: Kiefer(shear=20, **options),
    "shift_crop": ShiftCrop,
    "brightness_contrast": BrightnessContrast,
    "composed": lambda seed=0: Compose(ShiftCrop(seed=seed), Kiefer(seed=seed), BrightnessContrast(seed=seed)),
}


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, 9, 8, 3), dtype=np.uint8)


@pytest.fixture(params=MAKERS)
def make(request):
    """A function that makes an augmentation from a seed."""
    return MAKERS[request.param]


def augmented(transform, images, epoch=0, step=0):
    return transform((images,), epoch, step)[0]


def test_uniform_numbers_of_an_image_are_one_block_of_philox():
    alone = np.random.Philox(key=[5, 6], counter=[9, 7, 0, int.from_bytes(b"kiefer", "big")]).random_raw(4)
    np.testing.assert_array_equal(uniforms("kiefer", 5, 6, 7, 20)[9], (alone >> np.uint64(11)) / 2**53)


def test_uniform_numbers_never_change():
    # Philox's stream is part of its definition: other numbers here break the resuming of saved runs.
    expected = [[7, 45, 30, 15], [19, 53, 8, 26]]
    assert np.floor(64 * uniforms("kiefer", 1, 2, 3, 2)).astype(int).tolist() == expected


def test_uniform_numbers_fill_the_unit_interval_evenly():
    draws = uniforms("kiefer", 0, 0, 0, 2500).ravel()
    counts = np.bincount((10 * draws).astype(int), minlength=10)
    assert np.sum((counts - 1000) ** 2) / 1000 < 40  # chi squared, 9 degrees of freedom: above 40 once in 100,000


def test_the_same_step_gives_the_same_images(make, images):
    np.testing.assert_array_equal(augmented(make(seed=3), images, 2, 9), augmented(make(seed=3), images, 2, 9))


@pytest.mark.parametrize("other", [(4, 2, 9), (3, 1, 9), (3, 2, 8)], ids=["seed", "epoch", "step"])
def test_another_seed_epoch_or_step_gives_other_images(make, images, other):
    seed, epoch, step = other
    ours, theirs = augmented(make(seed=3), images, 2, 9), augmented(make(seed=seed), images, epoch, step)
    assert (ours != theirs).any()


def test_an_image_depends_on_its_place_not_on_the_batch(make, images):
    whole = augmented(make(seed=1), images)
    np.testing.assert_array_equal(augmented(make(seed=1), images[:5]), whole[:5])


def test_images_of_a_batch_are_changed_differently(make, images):
    same = np.repeat(images[:1], 12, axis=0)
    assert len({image.tobytes() for image in augmented(make(seed=1), same)}) > 6


def test_the_batch_is_left_alone(make, images):
    before = images.copy()
    augmented(make(seed=1), images)
    np.testing.assert_array_equal(images, before)


def test_augmentation_works_in_a_loader(make, images):
    labels = np.arange(12)
    loader = Loader(images, labels, batch_size=4, seed=2, transform=make(seed=5))
    pictures, rows = loader.batch(7)
    np.testing.assert_array_equal(pictures, augmented(make(seed=5), images[rows], 2, 7))


def test_no_images_give_no_images(make):
    assert augmented(make(), np.zeros((0, 4, 5, 3), np.uint8)).shape == (0, 4, 5, 3)


def test_what_is_no_images_is_refused(make):
    with pytest.raises(TypeError, match="are int64"):
        augmented(make(), np.zeros((1, 4, 5, 3), np.int64))


def keras_map(zx, zy, shear, h, w):
    """Keras' transform, about the centre, as homogeneous matrices multiplied out."""
    zoom = np.diag([zx, zy, 1])
    s = np.deg2rad(shear)
    sheared = np.array([[1, -np.sin(s), 0], [0, np.cos(s), 0], [0, 0, 1]])
    there, back = np.eye(3), np.eye(3)
    there[:2, 2] = (h - 1) / 2, (w - 1) / 2
    back[:2, 2] = (1 - h) / 2, (1 - w) / 2
    return (there @ sheared @ zoom @ back)[:2]


def test_kiefers_maps_are_those_of_keras():
    kiefer = Kiefer(zoom=0.3, shear=15, flip=False, seed=4)
    draws = uniforms("kiefer", 4, 1, 2, 6)
    for matrix, (a, b, c, _) in zip(kiefer.matrices((6, 9, 8, 3), 1, 2), draws, strict=True):
        expected = keras_map(0.7 + 0.6 * a, 0.7 + 0.6 * b, 30 * c - 15, 9, 8)
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)


def test_kiefer_matches_scipy(images):
    ndimage = pytest.importorskip("scipy.ndimage")
    kiefer = Kiefer(shear=10, seed=8)
    y = augmented(kiefer, images)
    flipped = uniforms("kiefer", 8, 0, 0, 12)[:, 3] < 0.5
    plain = Kiefer(shear=10, seed=8, flip=False).matrices(images.shape, 0, 0)
    for i, image in enumerate(images / 255):
        for k in range(3):
            expected = ndimage.affine_transform(
                image[..., k], plain[i, :, :2], plain[i, :, 2], order=1, mode="nearest", prefilter=False
            )
            expected = expected[:, ::-1] if flipped[i] else expected
            np.testing.assert_allclose(y[i, ..., k], expected, rtol=0, atol=2e-6)


def test_kiefer_without_zoom_and_shear_only_flips(images):
    y = augmented(Kiefer(zoom=0, shear=0, seed=1), images)
    expected = (images * np.float32(1 / 255)).astype(np.float32)
    flipped = [(ours == theirs[:, ::-1]).all() for ours, theirs in zip(y, expected, strict=True)]
    kept = [(ours == theirs).all() for ours, theirs in zip(y, expected, strict=True)]
    assert np.logical_xor(flipped, kept).all()
    assert 0 < sum(flipped) < 12


def test_zooms_and_shears_have_the_distribution_asked_for():
    kiefer = Kiefer(zoom=0.2, shear=0.2, flip=True)
    m = np.concatenate([kiefer.matrices((100, 32, 32, 3), 0, step) for step in range(40)])
    mirror = np.sign(m[:, 1, 1])
    shear = np.rad2deg(np.arctan2(-m[:, 0, 1] * mirror, m[:, 1, 1] * mirror))
    zx, zy = m[:, 0, 0], m[:, 1, 1] * mirror / np.cos(np.deg2rad(shear))
    for values, middle, half in ((zx, 1, 0.2), (zy, 1, 0.2), (shear, 0, 0.2)):
        assert middle - half <= values.min() < middle - 0.98 * half
        assert middle + 0.98 * half < values.max() <= middle + half
        assert abs(values.mean() - middle) < 0.04 * half  # over 4 standard deviations
    assert abs((mirror < 0).mean() - 0.5) < 0.04  # 5 standard deviations
    assert abs(np.corrcoef(zx, zy)[0, 1]) < 0.08  # 5 standard deviations


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_float_images_keep_type_and_range(kind, images):
    y = augmented(Kiefer(), images.astype(kind))
    assert y.dtype == kind
    assert y.max() > 200


def test_affine_by_a_users_matrices(images):
    turned = augment.affine(images / 255, np.tile([[0.0, -1, 7], [1, 0, 0]], (12, 1, 1)))[:, :8, :8]
    np.testing.assert_array_equal(turned, np.rot90(images[:, :8, :8] / 255, -1, axes=(1, 2)))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (np.zeros((11, 2, 3)), r"\(11, 2, 3\), where \(12, 2, 3\)"),
        (np.zeros((12, 3, 3)), r"\(12, 3, 3\), where \(12, 2, 3\)"),
        (np.full((12, 2, 3), np.nan), "NaN or infinity"),
    ],
)
def test_bad_matrices_are_refused(matrices, message, images):
    with pytest.raises(ValueError, match=message):
        augment.affine(images, matrices)


@pytest.mark.parametrize("repeat", [True, False])
def test_shift_crop_cuts_a_window_from_the_padded_image(repeat, images):
    shift_crop = ShiftCrop(pad=3, repeat=repeat, seed=2)
    y = augmented(shift_crop, images, 1, 4)
    shifts, flips = shift_crop.shifts(12, 1, 4)
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], mode="edge" if repeat else "constant")
    assert y.dtype == np.uint8
    for i, (down, right) in enumerate(shifts + 3):
        window = padded[i, down : down + 9, right : right + 8]
        np.testing.assert_array_equal(y[i], window[:, ::-1] if flips[i] else window)


def test_every_shift_is_equally_likely():
    shifts, flips = ShiftCrop(pad=2).shifts(5000, 0, 0)
    for column in shifts.T:
        assert (np.abs(np.bincount(column + 2, minlength=5) - 1000) < 150).all()  # 5 standard deviations
    assert abs(flips.mean() - 0.5) < 0.04


def test_shift_crop_can_leave_flips_out():
    assert not ShiftCrop(flip=False).shifts(100, 0, 0)[1].any()


def test_brightness_and_contrast_change_as_the_formula_says(images):
    light = BrightnessContrast(brightness=0.3, contrast=0.4, seed=6)
    brightness, contrast = light.changes(12, 1, 4)
    x = images / 255
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    expected = (x - mean) * contrast.reshape(-1, 1, 1, 1) + mean + brightness.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(augmented(light, images, 1, 4), expected, rtol=0, atol=1e-6)


def test_brightness_and_contrast_have_the_ranges_asked_for():
    brightness, contrast = BrightnessContrast(brightness=0.3, contrast=0.4).changes(5000, 0, 0)
    assert -0.3 <= brightness.min() < -0.29 < 0.29 < brightness.max() <= 0.3
    assert 0.6 <= contrast.min() < 0.61 < 1.39 < contrast.max() <= 1.4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Kiefer(zoom=1.0), ValueError, "zoom must be from 0 to below 1, not 1.0"),
        (lambda: Kiefer(zoom=-0.1), ValueError, "zoom must be from 0 to below 1, not -0.1"),
        (lambda: Kiefer(zoom=np.nan), ValueError, "zoom must be .* not nan"),
        (lambda: Kiefer(zoom="0.2"), TypeError, "zoom must be a number, not '0.2'"),
        (lambda: Kiefer(shear=90), ValueError, "shear must be from 0 to below 90, not 90"),
        (lambda: Kiefer(seed=-1), ValueError, "seed must be from 0 .* not -1"),
        (lambda: Kiefer(seed=1.5), TypeError, "seed must be an integer, not 1.5"),
        (lambda: ShiftCrop(pad=-1), ValueError, "pad must be from 0 .* not -1"),
        (lambda: ShiftCrop(pad=1.0), TypeError, "pad must be an integer, not 1.0"),
        (lambda: BrightnessContrast(brightness=-1), ValueError, "brightness must be .* not -1"),
        (lambda: BrightnessContrast(brightness=np.inf), ValueError, "brightness must be .* not inf"),
        (lambda: BrightnessContrast(contrast=1), ValueError, "contrast must be from 0 to below 1, not 1"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("repeat", [False, True])
def test_what_is_not_finite_moves_with_its_pixel_when_images_are_shifted(value, repeat):
    images, marks = np.random.default_rng(0).random((12, 5, 6, 3)), np.zeros((12, 5, 6, 3))
    images[3, 2, 2, 1], marks[3, 2, 2, 1] = value, 1
    clean = np.where(marks == 1, 0.5, images)
    y, expected, moved = (ShiftCrop(2, repeat=repeat).images(given, 1, 4) for given in (images, clean, marks))
    assert moved.sum() >= 1
    np.testing.assert_array_equal(y, np.where(moved == 1, value, expected))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_reaches_no_other_image(value):
    images = np.random.default_rng(0).random((6, 5, 6, 3)).astype(np.float32)
    clean = images.copy()
    images[3, 2, 2, 1] = value
    for transform in (BrightnessContrast(), Kiefer()):
        with np.errstate(invalid="ignore"):
            y, expected = transform.images(images, 1, 4), transform.images(clean, 1, 4)
        assert not np.isfinite(y[3]).all()
        np.testing.assert_array_equal(np.delete(y, 3, axis=0), np.delete(expected, 3, axis=0))

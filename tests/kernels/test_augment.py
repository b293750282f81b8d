import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu.tools.launch import GRAIN

KINDS = [
    ("uint8", "float32"),
    pytest.param(("uint8", "float64"), marks=pytest.mark.wide),
    ("float32", "float32"),
    pytest.param(("float64", "float64"), marks=pytest.mark.wide),
    *on_cuda(("float32", "float64"), ("float64", "float32")),
]
SHAPES = [*[(1, 1, 1, 1), (2, 5, 7, 3), (3, 1, 4, 2), (2, 6, 1, 4)], *on_cpu((12, 32, 32, 3)), *on_cuda((1, 9, 31, 1))]
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(params=KINDS, ids="-".join)
def kinds(request):
    return [np.dtype(name) for name in request.param]


@pytest.fixture
def draw(rng):
    """A function that gives random images of a shape and type: 0 to 255, or standard normal."""

    def images(shape, dtype):
        if dtype == np.uint8:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.standard_normal(shape).astype(dtype)

    return images


def matrices_for(rng, n, h, w):
    """Maps that turn, shear and stretch by up to a half and move by up to an image, so that many points fall outside."""
    matrices = np.tile(IDENTITY, (n, 1, 1)) + rng.uniform(-0.5, 0.5, (n, 2, 3))
    matrices[:, :, 2] *= (2 * h, 2 * w)
    return matrices


@pytest.fixture
def affine(target):
    """affine(images, matrices): the kernel's result in the images' type."""
    return lambda images, matrices: target.run(
        "augment", "affine", images, np.asarray(matrices, np.float64), 1.0, np.full(images.shape, -1, images.dtype)
    )[-1]


@every_shape
def test_affine_matches_reference(check_kernel, rng, draw, kinds, shape):
    images, matrices = draw(shape, kinds[0]), matrices_for(rng, *shape[:3])
    y = np.full(shape, -1, kinds[1])
    ulps = 8 if y.dtype == np.float32 else 128  # points as far as 64 pixels off are rounded as float64
    check_kernel("augment", "affine", images, matrices, 1 / 255, y, parallel=y.size >= GRAIN, ulps=ulps)


@pytest.mark.parametrize("shape", [(4, 9, 6, 3), *on_cpu((2, 32, 32, 1))])
def test_affine_matches_scipy(affine, rng, draw, shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    images, matrices = draw(shape, np.dtype("float64")), matrices_for(rng, *shape[:3])
    y = affine(images, matrices)
    for i, (linear, offset) in enumerate(zip(matrices[..., :2], matrices[..., 2], strict=True)):
        for k in range(shape[3]):
            plane = images[i, ..., k]
            expected = ndimage.affine_transform(plane, linear, offset, order=1, mode="nearest", prefilter=False)
            np.testing.assert_allclose(y[i, ..., k], expected, rtol=0, atol=1e-12)


def test_affine_by_the_identity_changes_no_bit(affine, draw, dtype):
    images = draw((3, 8, 5, 3), dtype)
    np.testing.assert_array_equal(affine(images, [IDENTITY] * 3), images)


def test_affine_repeats_the_edge(affine, draw):
    images = draw((1, 4, 5, 2), np.dtype("float64"))
    down_left = IDENTITY + np.array([[0, 0, 100], [0, 0, -100]])
    np.testing.assert_array_equal(affine(images, [down_left]), np.broadcast_to(images[:, 3:, :1], images.shape))


def test_affine_between_pixels_is_bilinear(affine):
    image = np.array([[0.0, 1.0], [10.0, 31.0]]).reshape(1, 2, 2, 1)
    y = affine(image, [[[0, 0, 0.25], [0, 0, 0.5]]])
    # halfway along the rows 0.5 and 20.5, a quarter of the way down between them
    np.testing.assert_allclose(y, 5.5, rtol=1e-15)


def test_affine_scales_255_to_exactly_1(check_kernel):
    images, y = np.full((1, 2, 2, 3), 255, np.uint8), np.zeros((1, 2, 2, 3), np.float32)
    *_, y = check_kernel("augment", "affine", images, IDENTITY[np.newaxis], 1 / 255, y)
    np.testing.assert_array_equal(y, 1)


def test_nan_pixel_stays_nan(affine, draw, dtype):
    images = draw((1, 4, 4, 3), dtype)
    images[0, 2, 2, 1] = np.nan
    y = affine(images, [IDENTITY])
    assert np.isnan(y[0, 2, 2]).tolist() == [False, True, False]


@pytest.mark.parametrize("repeat", [True, False])
@every_shape
@pytest.mark.parametrize("kind", ["uint8", "float32", *on_cuda("float64")])
def test_shift_crop_matches_reference(check_kernel, rng, draw, kind, shape, repeat):
    n, h, w, _ = shape
    images = draw(shape, np.dtype(kind))
    shifts = np.stack([rng.integers(-h - 1, h + 2, n), rng.integers(-w - 1, w + 2, n)], axis=1)
    y = np.full_like(images, 77)
    flips = np.arange(n) % 2 == 1
    check_kernel("augment", "shift_crop", images, shifts, flips, repeat, y, parallel=y.size >= GRAIN, ulps=0)


@pytest.mark.parametrize("repeat", [True, False])
def test_shifts_beyond_32_bits_are_as_far_as_they_say(check_kernel, draw, repeat):
    images = draw((2, 3, 4, 1), np.dtype("float32"))
    shifts = np.array([[2**32, 0], [0, -(2**32)]])
    check_kernel("augment", "shift_crop", images, shifts, np.zeros(2, bool), repeat, np.empty_like(images))


def test_shift_crop_is_a_window_of_the_padded_image(check_kernel, draw):
    images = draw((1, 6, 5, 2), np.dtype("uint8"))
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    arguments = images, np.array([[3, -2]]), np.array([False]), False, np.empty_like(images)
    *_, y = check_kernel("augment", "shift_crop", *arguments)
    np.testing.assert_array_equal(y, padded[:, 7:13, 2:7])


@every_shape
def test_brightness_contrast_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    brightness, contrast = rng.uniform(-0.3, 0.3, len(images)), rng.uniform(0.5, 1.5, len(images))
    y = np.full(shape, -1, kinds[1])
    arguments = images, brightness, contrast, 1 / 255, y
    check_kernel("augment", "brightness_contrast", *arguments, parallel=y.size >= GRAIN, ulps=8)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_brightness_contrast_of_an_image_larger_than_a_block(check_kernel, draw, kind):
    images = draw((2, 21, 35, 3), np.dtype(kind))
    arguments = images, np.array([0.1, -0.2]), np.array([0.5, 2.0]), 1.0, np.zeros(images.shape, np.float32)
    check_kernel("augment", "brightness_contrast", *arguments, ulps=4)


def test_mean_of_many_values_is_rounded_once(check_kernel):
    images = np.full((1, 128, 128, 3), 0.1, np.float32)
    arguments = images, np.zeros(1), np.full(1, 100.0), 1.0, np.zeros_like(images)
    check_kernel(
        "augment", "brightness_contrast", *arguments, parallel=True, ulps=64
    )  # half a rounding, times the contrast


@pytest.mark.parametrize("contrast", [2.0, -2.0])
def test_infinity_makes_what_it_makes_of_the_reference(check_kernel, draw, dtype, contrast):
    images = draw((1, 30, 40, 2), dtype)  # so many that a GPU's thread of the infinity goes on with others
    images[0, 1, 1, 0] = np.inf
    arguments = images, np.zeros(1), np.array([contrast]), 1.0, np.zeros_like(images)
    with np.errstate(invalid="ignore"):
        check_kernel("augment", "brightness_contrast", *arguments)


@every_shape
def test_normalize_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    shift, gain = rng.uniform(0, 200, (2, shape[3])).astype(kinds[1])
    y = np.full(shape, -1, kinds[1])
    check_kernel("augment", "normalize", images, shift, gain, y, parallel=y.size >= GRAIN)


@pytest.mark.cuda
def test_more_images_than_blocks_are_worked_off(check_kernel, rng, draw, monkeypatch):
    monkeypatch.setattr("minigrad.kernels.cuda.augment.MOST_BLOCKS", 2)
    images = draw((5, 4, 3, 2), np.dtype("float32"))
    check_kernel("augment", "affine", images, matrices_for(rng, 5, 4, 3), 1.0, np.zeros_like(images), ulps=8)
    shifts, flips = rng.integers(-2, 3, (5, 2)), np.arange(5) % 2 == 0
    check_kernel("augment", "shift_crop", images, shifts, flips, True, np.zeros_like(images))

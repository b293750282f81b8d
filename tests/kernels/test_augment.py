import numpy as np
import pytest

from minigrad.kernels.cpu import augment
from minigrad.kernels.cpu.tools.launch import GRAIN

WIDE = pytest.mark.slow  # see the fixture dtype
KINDS = [
    ("uint8", "float32"),
    pytest.param(("uint8", "float64"), marks=WIDE),
    ("float32", "float32"),
    pytest.param(("float64", "float64"), marks=WIDE),
]
SMALL = [(1, 1, 1, 1), (2, 5, 7, 3), (3, 1, 4, 2), (2, 6, 1, 4)]
LARGE = (12, 32, 32, 3)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


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


def affine(images, matrices, scale=1.0):
    """The CPU kernel's result in the images' type."""
    y = np.full(images.shape, -1, images.dtype)
    augment.affine(images, np.asarray(matrices, np.float64), scale, y)
    return y


@pytest.mark.parametrize("shape", [*SMALL, LARGE])
def test_affine_matches_reference(check_kernel, rng, draw, kinds, shape):
    images, matrices = draw(shape, kinds[0]), matrices_for(rng, *shape[:3])
    y = np.full(shape, -1, kinds[1])
    ulps = 8 if y.dtype == np.float32 else 128  # points as far as 64 pixels off are rounded as float64
    check_kernel("augment", "affine", images, matrices, 1 / 255, y, parallel=y.size >= GRAIN, ulps=ulps)


@pytest.mark.parametrize("shape", [(4, 9, 6, 3), (2, 32, 32, 1)])
def test_affine_matches_scipy(rng, draw, shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    images, matrices = draw(shape, np.dtype("float64")), matrices_for(rng, *shape[:3])
    y = affine(images, matrices)
    for i, (linear, offset) in enumerate(zip(matrices[..., :2], matrices[..., 2], strict=True)):
        for k in range(shape[3]):
            plane = images[i, ..., k]
            expected = ndimage.affine_transform(plane, linear, offset, order=1, mode="nearest", prefilter=False)
            np.testing.assert_allclose(y[i, ..., k], expected, rtol=0, atol=1e-12)


def test_affine_by_the_identity_changes_no_bit(draw, dtype):
    images = draw((3, 8, 5, 3), dtype)
    np.testing.assert_array_equal(affine(images, [IDENTITY] * 3), images)


def test_affine_repeats_the_edge(draw):
    images = draw((1, 4, 5, 2), np.dtype("float64"))
    down_left = IDENTITY + np.array([[0, 0, 100], [0, 0, -100]])
    np.testing.assert_array_equal(affine(images, [down_left]), np.broadcast_to(images[:, 3:, :1], images.shape))


def test_affine_between_pixels_is_bilinear():
    image = np.array([[0.0, 1.0], [10.0, 31.0]]).reshape(1, 2, 2, 1)
    y = affine(image, [[[0, 0, 0.25], [0, 0, 0.5]]])
    # halfway along the rows 0.5 and 20.5, a quarter of the way down between them
    np.testing.assert_allclose(y, 5.5, rtol=1e-15)


def test_affine_scales_255_to_exactly_1():
    y = np.zeros((1, 2, 2, 3), np.float32)
    augment.affine(np.full((1, 2, 2, 3), 255, np.uint8), IDENTITY[None], 1 / 255, y)
    np.testing.assert_array_equal(y, 1)


def test_nan_pixel_stays_nan(draw, dtype):
    images = draw((1, 4, 4, 3), dtype)
    images[0, 2, 2, 1] = np.nan
    y = affine(images, [IDENTITY])
    assert np.isnan(y[0, 2, 2]).tolist() == [False, True, False]


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("shape", [*SMALL, LARGE])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_shift_crop_matches_reference(check_kernel, rng, draw, kind, shape, repeat):
    n, h, w, _ = shape
    images = draw(shape, np.dtype(kind))
    shifts = np.stack([rng.integers(-h - 1, h + 2, n), rng.integers(-w - 1, w + 2, n)], axis=1)
    y = np.full_like(images, 77)
    flips = np.arange(n) % 2 == 1
    check_kernel("augment", "shift_crop", images, shifts, flips, repeat, y, parallel=y.size >= GRAIN, ulps=0)


def test_shift_crop_is_a_window_of_the_padded_image(check_kernel, draw):
    images = draw((1, 6, 5, 2), np.dtype("uint8"))
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    arguments = images, np.array([[3, -2]]), np.array([False]), False, np.empty_like(images)
    *_, y = check_kernel("augment", "shift_crop", *arguments)
    np.testing.assert_array_equal(y, padded[:, 7:13, 2:7])


@pytest.mark.parametrize("shape", [*SMALL, LARGE])
def test_brightness_contrast_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    brightness, contrast = rng.uniform(-0.3, 0.3, len(images)), rng.uniform(0.5, 1.5, len(images))
    y = np.full(shape, -1, kinds[1])
    arguments = images, brightness, contrast, 1 / 255, y
    check_kernel("augment", "brightness_contrast", *arguments, parallel=y.size >= GRAIN, ulps=8)


@pytest.mark.parametrize("shape", [*SMALL, LARGE])
def test_normalize_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    shift, gain = rng.uniform(0, 200, (2, shape[3])).astype(kinds[1])
    y = np.full(shape, -1, kinds[1])
    check_kernel("augment", "normalize", images, shift, gain, y, parallel=y.size >= GRAIN)

import numpy as np
import pytest

from minigrad.kernels.cuda import augment
from minigrad.kernels.cuda.tools import launch

KINDS = [
    ("uint8", "float32"), ("uint8", "float64"), ("float32", "float32"), ("float32", "float64"), ("float64", "float32"),
    ("float64", "float64"),
]  # fmt: skip
SHAPES = [(1, 1, 1, 1), (2, 5, 7, 3), (3, 1, 4, 2), (2, 6, 1, 4), (1, 9, 31, 1)]
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


@every_shape
def test_affine_matches_reference(check_kernel, rng, draw, kinds, shape):
    images, matrices = draw(shape, kinds[0]), matrices_for(rng, *shape[:3])
    y = np.full(shape, -1, kinds[1])
    ulps = 8 if y.dtype == np.float32 else 128  # points as far as 60 pixels off are rounded as float64
    check_kernel("augment", "affine", images, matrices, 1 / 255, y, ulps=ulps)


def test_affine_by_the_identity_changes_no_bit(check_kernel, draw, dtype):
    images = draw((3, 8, 5, 3), dtype)
    *_, y = check_kernel("augment", "affine", images, np.tile(IDENTITY, (3, 1, 1)), 1.0, np.zeros_like(images), ulps=0)
    np.testing.assert_array_equal(y, images)


def test_affine_repeats_the_edge(check_kernel, draw):
    images = draw((1, 4, 5, 2), np.dtype("float64"))
    down_left = IDENTITY + np.array([[0, 0, 100], [0, 0, -100]])
    *_, y = check_kernel("augment", "affine", images, down_left[np.newaxis], 1.0, np.zeros_like(images))
    np.testing.assert_array_equal(y, np.broadcast_to(images[:, 3:, :1], images.shape))


def test_affine_scales_255_to_exactly_1(check_kernel):
    images, y = np.full((1, 2, 2, 3), 255, np.uint8), np.zeros((1, 2, 2, 3), np.float32)
    *_, y = check_kernel("augment", "affine", images, IDENTITY[np.newaxis], 1 / 255, y)
    np.testing.assert_array_equal(y, 1)


def test_affine_without_a_number_stays_in_the_image(memory):
    images = memory.put(np.full((1, 2, 2, 1), 7, np.float32))
    y = memory.put(np.zeros((1, 2, 2, 1), np.float32))
    augment.affine(images, memory.put(np.full((1, 2, 3), np.nan)), 1.0, y)
    np.testing.assert_array_equal(np.isnan(memory.get(y)) | (memory.get(y) == 7), True)


def test_nan_pixel_stays_nan(check_kernel, draw, dtype):
    images = draw((1, 4, 4, 3), dtype)
    images[0, 2, 2, 1] = np.nan
    *_, y = check_kernel("augment", "affine", images, IDENTITY[np.newaxis], 1.0, np.zeros_like(images))
    assert np.isnan(y[0, 2, 2]).tolist() == [False, True, False]


@pytest.mark.parametrize("repeat", [True, False])
@every_shape
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_shift_crop_matches_reference(check_kernel, rng, draw, kind, shape, repeat):
    n, h, w, _ = shape
    images = draw(shape, np.dtype(kind))
    shifts = np.stack([rng.integers(-h - 1, h + 2, n), rng.integers(-w - 1, w + 2, n)], axis=1)
    flips = np.arange(n) % 2 == 1
    check_kernel("augment", "shift_crop", images, shifts, flips, repeat, np.full_like(images, 77), ulps=0)


def test_shifts_beyond_32_bits_are_as_far_as_they_say(check_kernel, draw):
    images = draw((2, 3, 4, 1), np.dtype("float32"))
    shifts = np.array([[2**32, 0], [0, -(2**32)]])
    for repeat in (True, False):
        check_kernel("augment", "shift_crop", images, shifts, np.zeros(2, bool), repeat, np.empty_like(images))


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_brightness_contrast_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    brightness, contrast = rng.uniform(-0.3, 0.3, len(images)), rng.uniform(0.5, 1.5, len(images))
    y = np.full(shape, -1, kinds[1])
    check_kernel("augment", "brightness_contrast", images, brightness, contrast, 1 / 255, y, ulps=8)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_brightness_contrast_of_an_image_larger_than_its_block(check_kernel, draw, kind):
    images = draw((2, 21, 35, 3), np.dtype(kind))
    arguments = images, np.array([0.1, -0.2]), np.array([0.5, 2.0]), 1.0, np.zeros(images.shape, np.float32)
    check_kernel("augment", "brightness_contrast", *arguments, ulps=4)


def test_mean_of_many_values_is_rounded_once(check_kernel):
    images = np.full((1, 128, 128, 3), 0.1, np.float32)
    arguments = images, np.zeros(1), np.full(1, 100.0), 1.0, np.zeros_like(images)
    check_kernel("augment", "brightness_contrast", *arguments, ulps=64)  # half a rounding, times the contrast


@pytest.mark.parametrize("contrast", [2.0, -2.0])
def test_infinity_makes_what_it_makes_of_the_reference(check_kernel, draw, dtype, contrast):
    images = draw((1, 30, 40, 2), dtype)  # so many that the thread of the infinity goes on with others
    images[0, 1, 1, 0] = np.inf
    arguments = images, np.zeros(1), np.array([contrast]), 1.0, np.zeros_like(images)
    with np.errstate(invalid="ignore"):
        check_kernel("augment", "brightness_contrast", *arguments)


@every_shape
def test_normalize_matches_reference(check_kernel, rng, draw, kinds, shape):
    images = draw(shape, kinds[0])
    shift, gain = rng.uniform(0, 200, (2, shape[3])).astype(kinds[1])
    check_kernel("augment", "normalize", images, shift, gain, np.full(shape, -1, kinds[1]), ulps=4)


@pytest.mark.parametrize(("kind", "constants"), [("uint8", "IMAGE=uint32"), ("float32", "IMAGE=float32")])
def test_normalize_takes_four_values_where_it_can(memory, draw, kind, constants):
    images = draw((1, 2, 2, 3), np.dtype(kind))
    ones, y = memory.put(np.ones(3, np.float32)), memory.put(np.zeros(images.shape, np.float32))
    augment.normalize(memory.put(images), ones, ones, y)
    (name,) = memory.driver.launches
    assert name.startswith(f"augment.normalize_fours,{constants}")


def test_normalize_of_images_between_two_words_takes_them_one_by_one(memory, rng):
    pixels = rng.integers(0, 256, 17, dtype=np.uint8)
    images = memory.put(pixels).part(1, 17).reshape(1, 4, 4, 1)
    shift, gain = memory.put(np.zeros(1, np.float32)), memory.put(np.ones(1, np.float32))
    y = memory.put(np.zeros(images.shape, np.float32))
    augment.normalize(images, shift, gain, y)
    np.testing.assert_array_equal(memory.get(y).ravel(), pixels[1:])


def test_more_images_than_blocks_are_worked_off(check_kernel, rng, draw, monkeypatch):
    monkeypatch.setattr(augment, "MOST_BLOCKS", 2)
    images = draw((5, 4, 3, 2), np.dtype("float32"))
    check_kernel("augment", "affine", images, matrices_for(rng, 5, 4, 3), 1.0, np.zeros_like(images), ulps=8)
    shifts, flips = rng.integers(-2, 3, (5, 2)), np.arange(5) % 2 == 0
    check_kernel("augment", "shift_crop", images, shifts, flips, True, np.zeros_like(images))


def test_no_images_are_no_launch(memory):
    images, y = memory.put(np.zeros((0, 2, 2, 3), np.uint8)), memory.put(np.zeros((0, 2, 2, 3), np.float32))
    nothing, three = memory.put(np.zeros(0)), memory.put(np.zeros(3, np.float32))
    augment.affine(images, nothing, 1.0, y)
    augment.shift_crop(images, nothing, nothing, True, images)
    augment.brightness_contrast(images, nothing, nothing, 1.0, y)
    augment.normalize(images, three, three, y)
    assert not memory.driver.launches


@pytest.mark.parametrize(("kind", "load"), [("uint8", "ld.global.u32"), ("float32", "ld.global.v4.f32")])
def test_four_values_are_read_and_written_in_one_instruction(kind, load):
    ptx, _ = launch.compile_ptx(augment.NORMALIZE_FOURS[kind], launch.FLOAT32, (9, 0))
    assert ptx.count(load) == 1
    assert ptx.count("st.global.v4.f32") == 1
    assert "st.global.f32" not in ptx

import numpy as np
import pytest

from minigrad.kernels.cuda import augment
from minigrad.kernels.cuda.tools import launch


def test_affine_without_a_number_stays_in_the_image(memory):
    images = memory.put(np.full((1, 2, 2, 1), 7, np.float32))
    y = memory.put(np.zeros((1, 2, 2, 1), np.float32))
    augment.affine(images, memory.put(np.full((1, 2, 3), np.nan)), 1.0, y)
    np.testing.assert_array_equal(np.isnan(memory.get(y)) | (memory.get(y) == 7), True)


@pytest.mark.parametrize(("kind", "constants"), [("uint8", "IMAGE=uint32"), ("float32", "IMAGE=float32")])
def test_normalize_takes_four_values_where_it_can(memory, kind, constants):
    images = np.ones((1, 2, 2, 3), kind)
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

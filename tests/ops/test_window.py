import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.ops.window import is_same, paddings, pair, resolve

lengths = st.integers(1, 12)


def on_one_axis(window):
    """(size, stride, before, after, dilation, count) of the vertical axis."""
    return window.kh, window.sh, window.top, window.bottom, window.dil_h, window.oh


def count_by_hand(length, size, stride, before, after, dilation):
    """How often a window fits on the padded axis, by trying."""
    starts = range(-before, length + after, stride)
    return sum(start + (size - 1) * dilation < length + after for start in starts)


@settings(deadline=None, max_examples=60)
@given(lengths, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
def test_count_is_how_often_the_window_fits(length, size, stride, before, after, dilation):
    expected = count_by_hand(length, size, stride, before, after, dilation)
    arguments = (length, 30), (size, 1), (stride, 1), ((before, after), (0, 0)), (dilation, 1)
    if expected:
        window = resolve("op", *arguments)
        assert on_one_axis(window) == (size, stride, before, after, dilation, expected)
        assert window.ow == 30
    else:
        with pytest.raises(ValueError, match="larger than the image"):
            resolve("op", *arguments)


@settings(deadline=None, max_examples=60)
@given(lengths, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_same_pads_no_more_than_it_takes(length, size, stride, dilation):
    *_, before, after, _, count = on_one_axis(resolve("op", (length, 9), size, stride, "same", dilation))
    assert count == -(-length // stride)
    assert count_by_hand(length, size, stride, before, after, dilation) == count
    assert after - before in (0, 1)
    if after:
        assert count_by_hand(length, size, stride, before, after - 1, dilation) < count


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (32, 3, 1, (1, 1, 32)),
        (32, 3, 2, (0, 1, 16)),
        (5, 3, 2, (1, 1, 3)),
        (224, 7, 2, (2, 3, 112)),
        (4, 2, 1, (0, 1, 4)),
        (7, 1, 3, (0, 0, 3)),
        (2, 5, 1, (2, 2, 2)),
    ],
)
def test_same_as_tensorflow_has_it(length, size, stride, expected):
    window = resolve("op", (length, 1), size, stride, "same")
    assert (window.top, window.bottom, window.oh) == expected


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((1, 2), (0, 3)), ((1, 2), (0, 3))),
        ([[1, 2], [0, 3]], ((1, 2), (0, 3))),
        (np.int64(1), ((1, 1), (1, 1))),
    ],
)
def test_forms_of_padding(padding, expected):
    assert paddings("op", padding) == expected


def test_vertical_comes_before_horizontal():
    window = resolve("op", (9, 20), (2, 3), (1, 4), ((1, 2), (3, 4)), (2, 3))
    assert window == (2, 3, 1, 4, 1, 2, 3, 4, 2, 3, 10, 6)


@pytest.mark.parametrize("image", [(0, 5), (5, 0), (0, 0)])
def test_same_on_an_image_without_pixels_has_no_window(image):
    window = resolve("op", image, 3, 2, "same")
    assert (window.oh, window.ow) == tuple(-(-n // 2) for n in image)
    assert window.top + window.bottom == (2 if image[0] else 0)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "op: size must be made of integers, not 1.5", {"size": 1.5}),
        (TypeError, "op: stride must be made of integers", {"stride": "2"}),
        (TypeError, "op: padding must be made of integers", {"padding": (1, None)}),
        (TypeError, "op: padding must be made of integers", {"padding": ((1, 1), 1)}),
        (ValueError, r"op: size must be an int or a pair, not 3 values: \(1, 2, 3\)", {"size": (1, 2, 3)}),
        (ValueError, "op: size must be at least 1, not 0", {"size": 0}),
        (ValueError, r"op: stride must be at least 1, not \(1, -2\)", {"stride": (1, -2)}),
        (ValueError, "op: dilation must be at least 1, not 0", {"dilation": 0}),
        (ValueError, "op: padding must not be negative, but it is -1", {"padding": -1}),
        (ValueError, "op: padding must not be negative", {"padding": ((0, 0), (0, -1))}),
        (
            ValueError,
            "op: padding must be an int, a pair, a pair of pairs or \"same\", not 'valid'",
            {"padding": "valid"},
        ),
        (ValueError, "op: the window 3 x 9 is larger than the image, which is 6 x 7; use", {"size": (3, 9)}),
        (
            ValueError,
            "op: the window 3 x 9 is larger than the image, which is 6 x 7, 6 x 8 with its padding; use",
            {"size": (3, 9), "padding": ((0, 0), (0, 1))},
        ),
        (
            ValueError,
            "op: the window 3 x 3, 9 x 5 with dilation 4 x 2, is larger than the image, which is 6 x 7",
            {"dilation": (4, 2)},
        ),
    ],
)
def test_arguments_that_make_no_window_are_refused(error, message, arguments):
    given_arguments = {"size": 3, "stride": 1, "padding": 0, "dilation": 1} | arguments
    with pytest.raises(error, match=message):
        resolve("op", (6, 7), **given_arguments)


def test_pair_of_one_number():
    assert pair("op", "size", np.int32(3)) == (3, 3)


@pytest.mark.parametrize(("padding", "expected"), [("same", True), ("valid", False), (0, False), (np.ones(2), False)])
def test_same_is_told_from_numbers(padding, expected):
    assert is_same(padding) is expected


LARGE = (2**31, 2**40, 2**64, 10**30)


@pytest.mark.parametrize("number", LARGE)
@pytest.mark.parametrize("argument", ["padding", "stride", "dilation", "size"])
def test_numbers_that_32_bits_do_not_hold_are_refused(number, argument):
    for value in (number, (1, number), *([((0, 0), (0, number))] if argument == "padding" else [])):
        with pytest.raises(ValueError, match=f"op: {argument} must be at most 2147483647, not"):
            resolve("op", (5, 5), **({"size": 1, "stride": 1, "padding": 0} | {argument: value}))


def test_sizes_that_add_up_to_too_much_are_refused():
    most = 2**31 - 1
    with pytest.raises(ValueError, match=f"would be 2147483648 x 1 with its padding; sides up to {most}"):
        resolve("op", (2, 1), 1, 1, ((0, most - 1), (0, 0)))
    with pytest.raises(ValueError, match=f"would become one of 65536 x 65536; up to {most} pixels"):
        resolve("op", (2, 2), 1, 1, (2**15 - 1, 2**15 - 1))
    with pytest.raises(ValueError, match="with its padding"):
        resolve("op", (5, 5), 3, 1, "same", most)
    with pytest.raises(ValueError, match="with its padding"):
        resolve("op", (5, 5), most, 1, "same", most)
    assert resolve("op", (1, 1), 1, most, ((0, most - 1), (0, 0))).oh == 1


@pytest.mark.parametrize("number", LARGE)
def test_ops_refuse_them_before_anything_is_allocated(number):
    x, w = mg.tensor(np.ones((1, 4, 4, 2), np.float32)), mg.tensor(np.ones((1, 1, 2, 3), np.float32))
    calls = [
        *(lambda name=name: mg.conv2d(x, w, **{name: number}) for name in ("padding", "stride", "dilation")),
        *(lambda pool=pool: pool(x, number) for pool in (mg.max_pool2d, mg.avg_pool2d)),
        *(lambda pool=pool: pool(x, number, padding="same") for pool in (mg.max_pool2d, mg.avg_pool2d)),
        *(lambda pool=pool: pool(x, 2, stride=number) for pool in (mg.max_pool2d, mg.avg_pool2d)),
        *(lambda pool=pool: pool(x, 2, padding=number) for pool in (mg.max_pool2d, mg.avg_pool2d)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="2147483647"):
            call()

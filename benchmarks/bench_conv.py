"""Convolutions of the small Inception, each pass alone, as `mg.conv2d` launches it: a 1x1 window is a matrix product."""

import numpy as np

from .measure import PLACES, Benchmark
from .sections import conv

SHAPES = {conv.name_of(conv.SHAPES[i]): conv.SHAPES[i] for i in (9, 0, 1, 3, 5, 8)}


class Conv(Benchmark):
    """Forward, gradient of the image, gradient of the weights; the results lie ready."""

    params = (list(SHAPES), PLACES)
    param_names = ("shape", "place")

    def setup(self, name, place):
        device = self.use(place)
        x, w, dy = conv.arrays(SHAPES[name])
        forward, backward_x, (y, dx, _) = conv.recorded(x, w, dy, (True, False), device)
        _, backward_w, (_, _, dw) = conv.recorded(x, w, dy, (False, True), device)
        limit = conv.TOLERANCE["cpu" if device.name == "cpu" else "float32"]
        if (error := conv.largest_error((y, dx, dw), x, w, dy)) > limit:
            raise RuntimeError(f"relative error {error:.1e}, at most {limit:g} was expected")
        self.works = [conv.launcher(calls) for calls in (forward, backward_x, backward_w)]

    def time_forward(self, name, place):
        self.sample(self.works[0])

    def time_backward_x(self, name, place):
        self.sample(self.works[1])

    def time_backward_w(self, name, place):
        self.sample(self.works[2])


class ConvFloat64(Benchmark):
    """3x3 in float64, for checks."""

    def setup(self):
        x, w, dy = (a.astype(float) for a in conv.arrays((8, 32, 16, 48, 3)))
        forward, backward, found = conv.recorded(x, w, dy)
        expected = conv.expected_of(x, w, dy, images=len(x))
        for got, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-10, atol=1e-10)
        self.forward, self.backward = conv.launcher(forward), conv.launcher(backward)

    def time_forward(self):
        self.sample(self.forward)

    def time_backward(self):
        self.sample(self.backward)

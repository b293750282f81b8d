"""Convolutions of the small Inception, each pass alone, as `mg.conv2d` launches it: a 1x1 window is a matrix product."""

import numpy as np

from .measure import PLACES, Benchmark
from .sections import conv

SHAPES = {conv.name_of(conv.SHAPES[i]): conv.SHAPES[i] for i in (9, 0, 1, 3, 5, 8)}


class Conv(Benchmark):
    """Forward, gradient of the image, gradient of the weights; the results lie ready."""

    timed = ("forward", "backward_x", "backward_w")
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
        calls = {"forward": forward, "backward_x": backward_x, "backward_w": backward_w}
        self.works = {name: conv.launcher(launches) for name, launches in calls.items()}


class ConvFloat64(Benchmark):
    """3x3 in float64, for checks."""

    timed = ("forward", "backward")

    def setup(self):
        x, w, dy = (a.astype(float) for a in conv.arrays((8, 32, 16, 48, 3)))
        forward, backward, found = conv.recorded(x, w, dy)
        expected = conv.expected_of(x, w, dy, images=len(x))
        for got, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-10, atol=1e-10)
        self.works = {"forward": conv.launcher(forward), "backward": conv.launcher(backward)}

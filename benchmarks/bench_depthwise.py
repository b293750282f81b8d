"""Depthwise convolution 3 x 3 at the sizes of small networks for images, each pass alone."""

import functools

import numpy as np

from minigrad.ops.window import resolve

from .measure import DEVICES, Benchmark, empty, normal

SHAPES = ["32x56x56x64", "50x28x28x128", "8x112x112x32"]


class Depthwise(Benchmark):
    """Forward, gradient of the images and of the weights."""

    params = (SHAPES, [1, 2], DEVICES)
    param_names = ("images", "stride", "device")

    def setup(self, images, stride, device):
        self.use(device)
        n, h, w, c = map(int, images.split("x"))
        window = resolve("depthwise", (h, w), 3, stride, 1)
        x, weights, y = normal(n, h, w, c), normal(3, 3, 1, c), empty(n, window.oh, window.ow, c)
        dy = normal(*y.shape)
        self.works = {
            "forward": self.checked_call("depthwise_forward", x, weights, empty(0), window, y),
            "backward_x": self.checked_call("depthwise_backward_x", dy, weights, window, empty(*x.shape)),
            "backward": self.checked_call(
                "depthwise_backward", x, dy, weights, window, empty(*x.shape), empty(3, 3, 1, c)
            ),
            "backward_w": self.checked_call("depthwise_backward_w", x, dy, window, empty(3, 3, 1, c)),
        }

    def checked_call(self, name, *arguments):
        """A call of a kernel, compiled, after it was right on the first images; on all, the reference would take too long."""
        self.kernel_call("depthwise", name, *[a[:1] if np.ndim(a) == 4 and len(a) > 3 else a for a in arguments])
        work = functools.partial(getattr(self.device.kernels.depthwise, name), *self.put(arguments))
        work()
        return work

    def time_forward(self, images, stride, device):
        self.sample(self.works["forward"])

    def time_backward(self, images, stride, device):
        self.sample(self.works["backward"])

    def time_backward_x(self, images, stride, device):
        self.sample(self.works["backward_x"])

    def time_backward_w(self, images, stride, device):
        self.sample(self.works["backward_w"])

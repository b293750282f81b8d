"""Pooling over the images of an Inception network: 3 x 3 with stride 1 within modules, with stride 2 between them."""

import functools

import numpy as np

from minigrad.ops.window import resolve

from .measure import DEVICES, Benchmark, empty, normal

SHAPES = ["128x32x32x24", "128x32x32x64", "128x32x32x256", "128x8x8x208", "32x112x112x64"]


class Pool(Benchmark):
    """Maximum and average over windows with "same" padding, forward and backward."""

    params = (SHAPES, [1, 2], DEVICES)
    param_names = ("images", "stride", "device")

    def setup(self, images, stride, device):
        self.use(device)
        n, h, w, c = map(int, images.split("x"))
        window = resolve("pool", (h, w), 3, stride, "same")
        x, y = normal(n, h, w, c), empty(n, window.oh, window.ow, c)
        winner = np.zeros(y.shape, np.uint8)
        self.works = {
            "max": self.checked_call("max_pool_forward", x, window, y, winner),
            "avg": self.checked_call("avg_pool_forward", x, window, y),
        }
        dy, dx = normal(*y.shape), empty(*x.shape)
        self.works["max_backward"] = self.checked_call("max_pool_backward", dy, winner, window, dx)
        self.works["max_take"] = self.checked_call("max_pool_take", x, winner, window, y)
        self.works["avg_backward"] = self.checked_call("avg_pool_backward", dy, window, dx)

    def checked_call(self, name, *arguments):
        """A call of a kernel, compiled, after it was right on the first images; on all, the reference would take too long."""
        self.kernel_call("pool", name, *[a[:2] if isinstance(a, np.ndarray) else a for a in arguments])
        work = functools.partial(getattr(self.device.kernels.pool, name), *self.put(arguments))
        work()
        return work

    def time_max(self, images, stride, device):
        self.sample(self.works["max"])

    def time_max_backward(self, images, stride, device):
        self.sample(self.works["max_backward"])

    def time_max_take(self, images, stride, device):
        self.sample(self.works["max_take"])

    def time_avg(self, images, stride, device):
        self.sample(self.works["avg"])

    def time_avg_backward(self, images, stride, device):
        self.sample(self.works["avg_backward"])

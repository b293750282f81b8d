"""Pooling over the images of an Inception network: 3 x 3 with stride 1 within modules, with stride 2 between them."""

import numpy as np

from minigrad.ops.window import resolve

from .measure import DEVICES, Benchmark, empty, normal

SHAPES = ["128x32x32x24", "128x32x32x64", "128x32x32x256", "128x8x8x208", "32x112x112x64"]


class Pool(Benchmark):
    """Maximum and average over windows with "same" padding, forward and backward."""

    timed = ("max", "max_backward", "max_take", "avg", "avg_backward")
    params = (SHAPES, [1, 2], DEVICES)
    param_names = ("images", "stride", "device")

    def setup(self, images, stride, device):
        self.use(device)
        n, h, w, c = map(int, images.split("x"))
        window = resolve("pool", (h, w), 3, stride, "same")
        x, y = normal(n, h, w, c), empty(n, window.oh, window.ow, c)
        winner = np.zeros(y.shape, np.uint8)
        self.works = {
            "max": self.kernel_call("pool", "max_pool_forward", x, window, y, winner, images=2),
            "avg": self.kernel_call("pool", "avg_pool_forward", x, window, y, images=2),
        }
        dy, dx = normal(*y.shape), empty(*x.shape)
        self.works["max_backward"] = self.kernel_call("pool", "max_pool_backward", dy, winner, window, dx, images=2)
        self.works["max_take"] = self.kernel_call("pool", "max_pool_take", x, winner, window, y, images=2)
        self.works["avg_backward"] = self.kernel_call("pool", "avg_pool_backward", dy, window, dx, images=2)

"""Scaled dot-product attention of a small transformer: 8 samples, 4 heads, 256 positions of 64 features."""

import numpy as np

from .measure import DEVICES, Benchmark, empty, normal


class Attention(Benchmark):
    """All keys, and those up to the query's own place."""

    timed = ("forward", "backward")
    params = (["32x256x64", "8x1024x64"], [False, True], DEVICES)
    param_names = ("heads x positions x features", "causal", "device")

    def setup(self, shape, causal, device):
        self.use(device)
        b, n, e = map(int, shape.split("x"))
        q, k, v, dy, y = normal(5, b, n, e)
        about = empty(0, 0, 0), 1, 0.125, causal, 0.0, np.empty(0, np.uint64)
        lse = abs(normal(b, n)) + 8
        self.works["forward"] = self.kernel_call(
            "attention", "attention_forward", q, k, v, *about, empty(b, n, e), empty(b, n)
        )
        self.works["backward"] = self.kernel_call(
            "attention", "attention_backward", dy, q, k, v, *about, y, lse, *(empty(b, n, e) for _ in range(3))
        )

"""Matrix products: the sizes of the MNIST network, and large ones."""

import numpy as np

from .measure import PLACES, Benchmark, empty, normal

# name: m, k, n, and whether A and B are stored transposed
CASES = {
    "60x784x100": (60, 784, 100, False, False),
    "784x60x100_transposed_a": (784, 60, 100, True, False),
    "60x100x784_transposed_b": (60, 100, 784, False, True),
    "60x100x100": (60, 100, 100, False, False),
    "256x256x256": (256, 256, 256, False, False),
    "1024x1024x1024": (1024, 1024, 1024, False, False),
    "1024x1024x1024_transposed_a": (1024, 1024, 1024, True, False),
    "1024x1024x1024_transposed_b": (1024, 1024, 1024, False, True),
}


class Gemm(Benchmark):
    """C = A B + bias."""

    timed = ("gemm",)
    params = (list(CASES), PLACES)
    param_names = ("product", "place")

    def setup(self, case, place):
        self.use(place)
        m, k, n, trans_a, trans_b = CASES[case]
        a = normal(k, m) if trans_a else normal(m, k)
        b = normal(n, k) if trans_b else normal(k, n)
        self.works["gemm"] = self.kernel_call("gemm", "gemm", a, b, normal(n), empty(m, n), trans_a, trans_b)


class GemmFloat64(Benchmark):
    """The same in float64."""

    timed = ("512x512x512",)

    def setup(self):
        a, b = normal(512, 512).astype(float), normal(512, 512).astype(float)
        self.works["512x512x512"] = self.kernel_call(
            "gemm", "gemm", a, b, np.empty(0), np.zeros((512, 512)), False, False
        )


class GemmBatched(Benchmark):
    """Many small products."""

    timed = ("64_of_32x64x32",)

    def setup(self):
        self.works["64_of_32x64x32"] = self.kernel_call(
            "gemm", "gemm_batched", normal(64, 32, 64), normal(64, 64, 32), empty(64, 32, 32), False, False
        )

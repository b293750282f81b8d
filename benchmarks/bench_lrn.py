"""Local response normalization of AlexNet's first layer, and of a few channels."""

from .measure import DEVICES, Benchmark, empty, normal


class LocalResponseNorm(Benchmark):
    """With the paper's power, 0.75, and with one that takes a logarithm."""

    timed = ("forward", "backward")
    params = (["64x32x32x16", "64x55x55x96"], [0.75, 0.6], DEVICES)
    param_names = ("images", "beta", "device")

    def setup(self, images, beta, device):
        self.use(device)
        n, h, w, c = map(int, images.split("x"))
        m = n * h * w
        x, constants = normal(m, c), (5, 1e-4, beta, 2.0)
        self.works["forward"] = self.kernel_call("lrn", "local_response_norm_forward", x, *constants, empty(m, c))
        self.works["backward"] = self.kernel_call("lrn", "local_response_norm_backward", x, x, *constants, empty(m, c))

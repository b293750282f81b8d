"""Depthwise convolution 3 x 3 at the sizes of small networks for images, each pass alone."""

from minigrad.ops.window import resolve

from .measure import DEVICES, Benchmark, empty, normal

SHAPES = ["32x56x56x64", "50x28x28x128", "8x112x112x32"]


class Depthwise(Benchmark):
    """Forward, gradient of the images and of the weights."""

    timed = ("forward", "backward", "backward_x", "backward_w")
    params = (SHAPES, [1, 2], DEVICES)
    param_names = ("images", "stride", "device")

    def setup(self, images, stride, device):
        self.use(device)
        n, h, w, c = map(int, images.split("x"))
        window = resolve("depthwise", (h, w), 3, stride, 1)
        x, weights, y = normal(n, h, w, c), normal(3, 3, 1, c), empty(n, window.oh, window.ow, c)
        dy = normal(*y.shape)
        dx, dw = empty(*x.shape), empty(3, 3, 1, c)
        arguments = {
            "forward": (x, weights, empty(0), window, y),
            "backward": (x, dy, weights, window, dx, dw),
            "backward_x": (dy, weights, window, dx),
            "backward_w": (x, dy, window, dw),
        }
        for name, given in arguments.items():
            self.works[name] = self.kernel_call("depthwise", f"depthwise_{name}", *given, images=1)

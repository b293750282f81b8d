"""What the engine costs per op: tensors so small that the kernels take next to nothing."""

import numpy as np

import minigrad as mg

from .measure import Benchmark, normal

CHAIN = 1_000
LABELS = np.array([0, 2])


# of x (2, 3), w (3, 3) and b (3,), which all require gradients
OPS = {
    "add": lambda x, w, b: x + x,
    "add_broadcast": lambda x, w, b: x + b,
    "mul": lambda x, w, b: x * x,
    "mul_by_number": lambda x, w, b: x * 2.0,
    "div": lambda x, w, b: x / x,
    "power": lambda x, w, b: x**2,
    "matmul": lambda x, w, b: x @ w,
    "linear": lambda x, w, b: mg.linear(x, w, b),
    "exp": lambda x, w, b: x.exp(),
    "relu": lambda x, w, b: mg.relu(x),
    "sigmoid": lambda x, w, b: mg.sigmoid(x),
    "sum": lambda x, w, b: x.sum(),
    "mean_over_axis": lambda x, w, b: x.mean(axis=0),
    "max_over_axis": lambda x, w, b: x.max(axis=0),
    "softmax": lambda x, w, b: mg.softmax(x),
    "log_softmax": lambda x, w, b: mg.log_softmax(x),
    "cross_entropy": lambda x, w, b: mg.cross_entropy(x, LABELS),
    "batch_norm": lambda x, w, b: mg.batch_norm(x, b, b, None, None, training=True),
    "dropout": lambda x, w, b: mg.dropout(x, 0.5, training=True, seed=1),
    "reshape": lambda x, w, b: x.reshape(3, 2),
    "transpose": lambda x, w, b: x.transpose(),
    "index": lambda x, w, b: x[0],
    "concat": lambda x, w, b: mg.concat([x, x]),
}


class Overhead(Benchmark):
    """One op on six numbers: the call, the tape, the launch; then the same with its backward."""

    timed = ("forward", "forward_backward")
    params = (list(OPS),)
    param_names = ("op",)

    def setup(self, op):
        values = np.abs(normal(2, 3)) + np.float32(0.1), normal(3, 3), normal(3)
        inputs = [mg.tensor(value, requires_grad=True) for value in values]
        function = OPS[op]
        y = function(*inputs)
        expected = function(*[mg.tensor(value, device="reference") for value in values])
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
        dy = mg.tensor(np.ones(y.shape, np.float32))

        def forward_backward():
            for tensor in inputs:
                tensor.grad = None
            function(*inputs).backward(dy)

        forward_backward()
        self.works["forward"] = lambda: function(*inputs)
        self.works["forward_backward"] = forward_backward


class Chain(Benchmark):
    """A thousand ops one after another, forward and backward: divide by 1,000 for the cost of one in a long tape."""

    timed = ("forward_backward",)

    def setup(self):
        x = mg.tensor(normal(2, 3), requires_grad=True)

        def work():
            x.grad = None
            y = x
            for _ in range(CHAIN):
                y = y + 1.0
            y.sum().backward()

        work()
        np.testing.assert_array_equal(x.grad.numpy(), np.ones((2, 3)))
        self.works["forward_backward"] = work

"""Kernels of the user's own in captured steps, by Op.launch: the bits of eager runs, or an error."""

import contextlib

import numba
import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools.threads import available_threads


@numba.njit
def softplus(x, y):
    for i in range(x.size):
        y.flat[i] = np.log1p(np.exp(x.flat[i]))


@numba.njit(parallel=True)
def softplus_gradient(dy, x, dx):
    for i in numba.prange(x.size):
        dx.flat[i] = dy.flat[i] / (1 + np.exp(-x.flat[i]))


@numba.njit("(f4[:, ::1], f4[:, ::1])")
def softplus_of_matrices(x, y):
    for i in range(x.size):
        y.flat[i] = np.log1p(np.exp(x.flat[i]))


@numba.njit
def with_default(x, y, times=1.0):
    for i in range(x.size):
        y.flat[i] = times * np.log1p(np.exp(x.flat[i]))


@numba.njit
def raises(x, y):
    if x.flat[0] < 0:
        raise ValueError("a negative number")
    y[...] = x


def in_numpy(x, y):
    np.log1p(np.exp(x), out=y)


def gradient_in_numpy(dy, x, dx):
    dx[...] = dy / (1 + np.exp(-x))


class Softplus(mg.Op):
    kernel, gradient = staticmethod(softplus), staticmethod(softplus_gradient)

    def forward(self, x):
        self.save(x)
        y = self.empty_like(x)
        self.launch(self.kernel, x, y)
        return y

    def backward(self, dy):
        (x,) = self.saved
        dx = self.empty_like(x)
        self.launch(self.gradient, dy, x, dx)
        return (dx,)


class OfMatrices(Softplus):
    kernel = staticmethod(softplus_of_matrices)


class WithDefault(Softplus):
    kernel = staticmethod(with_default)


class InNumPy(Softplus):
    kernel, gradient = staticmethod(in_numpy), staticmethod(gradient_in_numpy)


OPS = Softplus, OfMatrices, WithDefault, InNumPy


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("op", [op for op in OPS if op is not OfMatrices])
def test_gradients(op, device, rng):
    mg.testing.check_grads(op.apply, rng.standard_normal((4, 3)), device=device)


def training_step(op, rng):
    """(weights, step) of a layer of this op; the loss is between others of the tape."""
    w = mg.nn.Parameter(np.array([[0.5, -1.0, 2.0]], np.float32))
    optimizer = mg.optim.SGD([w], lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = (op.apply(x * w) * x).mean()
        loss.backward()
        optimizer.step()
        return loss

    return w, step


@pytest.mark.parametrize("op", OPS)
def test_captured_gives_the_bits_of_eager(op, rng):
    batches = [rng.standard_normal((n, 3)).astype(np.float32) for n in (5, 5, 8, 5, 8, 5, 5, 5, 5, 8)]
    w, step = training_step(op, rng)
    eager = [step(mg.tensor(x)).item() for x in batches]
    v, step = training_step(op, rng)
    captured = mg.capture(step)
    assert [captured(x).item() for x in batches] == eager  # more replays than are timed one by one
    assert v.numpy().tobytes() == w.numpy().tobytes()
    assert sum(map(len, captured.plans.values())) == 2


def test_a_compiled_kernel_is_part_of_the_machine_code(rng):
    captured = mg.capture(lambda x: mg.relu(Softplus.apply(x)))
    for _ in range(8):
        captured(np.ones((2, 2), np.float32))
    (joined,) = captured.plan.program.replay.joined.values()
    assert len(joined) == 1


@numba.njit(parallel=True)
def count_threads(x, y):
    for i in numba.prange(x.size):
        y[i] = numba.get_num_threads()


def test_a_parallel_kernel_keeps_to_our_number_of_threads(set_threads):
    class Counts(Softplus):
        kernel = staticmethod(count_threads)

    captured = mg.capture(Counts.apply)
    for count in range(2, available_threads() + 1):
        set_threads(count)
        for _ in range(3):
            used = captured(np.zeros(4, np.float32)).numpy()  # fewer where other processes want the cores
            assert 1 <= used.min() <= used.max() <= count


def test_a_parallel_kernel_with_one_thread_to_use_runs_without(set_threads, monkeypatch):
    @contextlib.contextmanager
    def refused():
        raise AssertionError("a parallel region was entered")
        yield

    set_threads(1)
    monkeypatch.setattr("minigrad.kernels.cpu.tools.threads.parallel_region", refused)
    x, w = np.ones((2, 3), np.float32), mg.nn.Parameter(np.ones(3, np.float32))
    Softplus.apply(mg.tensor(x) * w).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 / (1 + np.exp(-1)), rtol=1e-6)


def test_the_plan_names_the_kernel():
    captured = mg.capture(Softplus.apply)
    captured(np.ones((2, 3), np.float32))
    assert "Softplus  own.softplus  2x3 2x3" in str(captured.plan)


@pytest.mark.slow
def test_an_error_of_a_kernel_comes_out_of_a_replay():
    class Checked(Softplus):
        kernel = staticmethod(raises)

    captured = mg.capture(Checked.apply)
    for _ in range(8):
        captured(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="a negative number"):
        captured(np.full(3, -1, np.float32))


@pytest.mark.parametrize("by", ["launch", "kernels"])
def test_an_array_that_python_computed_is_refused(by):
    class Squared(mg.Op):
        def forward(self, x):
            y, square = self.empty_like(x), x * x
            if by == "launch":
                self.launch(softplus, square, y)
            else:
                self.kernels.elementwise.sqrt_forward(square.reshape(-1), y.reshape(-1))
            return y

    with pytest.raises(mg.CaptureError, match=r"Squared gives \w+ an array \(shape .*\) that Python computed"):
        mg.capture(Squared.apply)(np.ones((2, 3), np.float32))


def test_an_array_saved_in_numpy_is_refused():
    class SavesASquare(Softplus):
        def forward(self, x):
            y = super().forward(x)
            self.save(x * x)
            return y

    w = mg.nn.Parameter(np.ones(3, np.float32))
    with pytest.raises(mg.CaptureError, match="SavesASquare gives softplus_gradient an array"):
        mg.capture(lambda x: SavesASquare.apply(x * w).sum().backward())(np.ones(3, np.float32))


TABLE = np.arange(3, dtype=np.float32)


def test_an_array_that_the_code_names_is_read_anew():
    class AddsTable(mg.Op):
        def forward(self, x):
            y = self.empty_like(x)
            self.launch(np.add, x, TABLE, y)
            return y

    captured = mg.capture(AddsTable.apply)
    x = np.zeros(3, np.float32)
    try:
        for first in (0, 5, 7):
            TABLE[0] = first
            np.testing.assert_array_equal(captured(x).numpy(), TABLE)
    finally:
        TABLE[0] = 0


def test_views_and_parts_of_inputs_are_fine(rng):
    class Reversed(mg.Op):
        def forward(self, x):
            y = self.empty_like(x)
            self.launch(np.copyto, y, x[::-1])
            return y

    captured = mg.capture(Reversed.apply)
    for _ in range(8):
        x = rng.standard_normal((4, 3)).astype(np.float32)
        np.testing.assert_array_equal(captured(x).numpy(), x[::-1])

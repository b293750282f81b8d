"""What cannot be recorded and repeated is an error, never a wrong number; and after an error all goes on."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools.launch import parallel_kernel

X = np.ones((4, 3), np.float32)


def parameter(values=(1.0, 2.0, 3.0)):
    return mg.tensor(np.array(values, np.float32), requires_grad=True)


READS = {
    "item": lambda x: x.sum().item(),
    "numpy": lambda x: x.numpy(),
    "data": lambda x: x.data,
    "asarray": lambda x: np.asarray(x),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum()),
    "if": lambda x: 1 if x.sum() else 2,
    "format": lambda x: f"{x.sum():.2f}",
    "round": lambda x: round(x.sum(), 2),
    "print": lambda x: print(x),
    "dlpack": lambda x: np.from_dlpack(x),
    "tensor": lambda x: mg.tensor(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_reading_a_value_is_refused(read):
    with pytest.raises(mg.CaptureError, match="inside a captured step"):
        mg.capture(read)(X)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, a: x + a,
        lambda x, a: a * x,
        lambda x, a: x @ a.T,
        lambda x, a: mg.cross_entropy(x, np.array([0, 1, 2, 0])),
        lambda x, a: mg.cross_entropy(x, [0, 1, 2, 0]),
        lambda x, a: (x * parameter()).backward(a),
    ],
    ids=["right", "left", "matmul", "labels", "list of labels", "gradient"],
)
def test_array_constants_are_refused(use):
    with pytest.raises(mg.CaptureError, match="a NumPy array .* is used inside a captured step"):
        mg.capture(lambda x: use(x, np.ones((4, 3), np.float32)))(X)


CHANGES = {
    "item assignment": lambda x, w: x.__setitem__(0, 1.0),
    "data": lambda x, w: setattr(w, "data", np.zeros(3)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_that_replays_would_not_make_are_refused(change):
    w = parameter()
    with pytest.raises(mg.CaptureError, match="inside a captured step cannot be repeated"):
        mg.capture(lambda x: change(x, w))(X)
    np.testing.assert_array_equal(w.numpy(), [1, 2, 3])


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_setting_a_hyperparameter_inside_is_refused(name):
    optimizer = mg.optim.SGD([parameter()], lr=0.1, momentum=0.9)
    before = getattr(optimizer, name)
    with pytest.raises(mg.CaptureError, match=f"{name} is set inside a captured step"):
        mg.capture(lambda x: setattr(optimizer, name, 0.5))(X)
    assert getattr(optimizer, name) == before


class InNumPy(mg.Op):
    def forward(self, x):
        return np.sin(x)

    def backward(self, dy):
        return (dy,)


class FillsInNumPy(InNumPy):
    def forward(self, x):
        return np.sin(x, out=self.empty_like(x))


class BackwardInNumPy(mg.Op):
    """x * x by the kernels; its gradient is not."""

    def forward(self, x):
        self.save(x)
        y = self.empty_like(x)
        self.kernels.elementwise.power_forward(x.reshape(-1), 2.0, y.reshape(-1))
        return y

    def backward(self, dy):
        return (2 * self.saved[0] * dy,)


class BackwardFillsInNumPy(BackwardInNumPy):
    def backward(self, dy):
        dx = self.empty_like(dy)
        np.multiply(2 * self.saved[0], dy, out=dx)
        return (dx,)


@pytest.mark.parametrize("op", [InNumPy, FillsInNumPy])
def test_op_without_kernels_is_refused(op):
    with pytest.raises(mg.CaptureError, match=f"{op.__name__}.forward computed its result without minigrad's kernels"):
        mg.capture(op.apply)(X)


@pytest.mark.parametrize("op", [BackwardInNumPy, BackwardFillsInNumPy])
def test_backward_without_kernels_is_refused(op):
    w = parameter()
    with pytest.raises(mg.CaptureError, match=f"{op.__name__}.backward computed its result without minigrad's kernels"):
        mg.capture(lambda x: op.apply(w * x).sum().backward())(X)


def test_op_that_passes_arrays_on_is_fine():
    class Twice(mg.Op):
        """A view forward, the gradient itself backward, and a saved array as a gradient."""

        def forward(self, x, factor):
            self.save(factor)
            return x.reshape(x.shape)

        def backward(self, dy):
            return dy, self.saved[0]

    x, factor = parameter(), parameter([4.0, 5.0, 6.0])

    @mg.capture
    def step(scale):
        x.zero_grad()
        factor.zero_grad()
        (Twice.apply(x, factor) * scale).sum().backward()

    for value in (1.0, 2.0):
        step(np.full(3, value, np.float32))
        np.testing.assert_array_equal(x.grad.numpy(), np.full(3, value))
        np.testing.assert_array_equal(factor.grad.numpy(), [4, 5, 6])


def test_op_on_the_kernels_is_repeated():
    class Root(mg.Op):
        def forward(self, x):
            y = self.empty(x.shape, np.float32)
            self.kernels.elementwise.sqrt_forward(x.reshape(-1), y.reshape(-1))
            self.save(y)
            return y

        def backward(self, dy):
            dx = self.empty_like(dy)
            self.kernels.elementwise.sqrt_backward(dy.reshape(-1), self.saved[0].reshape(-1), dx.reshape(-1))
            return (dx,)

    w = parameter([1.0])

    @mg.capture
    def step(x):
        w.zero_grad()
        Root.apply(w * x).backward()

    for value in (1.0, 4.0, 9.0):
        step(np.float32([value]))
        assert w.grad.item() == np.sqrt(value) / 2


def test_result_of_an_op_outside_is_refused():
    outside = parameter() * 2.0
    with pytest.raises(mg.CaptureError, match="Mul made outside"):
        mg.capture(lambda x: x * outside)(X)


def test_loss_from_outside_is_refused():
    loss = (parameter() * 2.0).sum()
    with pytest.raises(mg.CaptureError, match="Sum made outside"):
        mg.capture(lambda x: (x * loss).sum().backward())(X)


def test_argument_that_requires_a_gradient_is_refused():
    with pytest.raises(mg.CaptureError, match="argument 0 of a captured step requires a gradient"):
        mg.capture(lambda x: x * 2.0)(parameter())


@pytest.mark.parametrize("argument", [[1.0], {"a": 1}, {1}], ids=lambda a: type(a).__name__)
def test_argument_that_cannot_select_is_refused(argument):
    with pytest.raises(TypeError, match=f"argument 1 of a captured step is a {type(argument).__name__}"):
        mg.capture(lambda x, other: x * 2.0)(X, argument)


@pytest.mark.parametrize("dtype", [np.float16, complex, object, "U1"])
def test_array_that_is_no_tensor_is_refused(dtype):
    with pytest.raises(TypeError, match=r"not supported|cannot make a tensor"):
        mg.capture(lambda x: x)(np.ones(2, dtype))


@pytest.mark.parametrize("wrap", [lambda a: a, mg.tensor], ids=["array", "tensor"])
def test_another_dtype_is_refused(wrap):
    step = mg.capture(lambda x, y: x * 2.0)
    step(wrap(X), y=wrap(X))
    with pytest.raises(mg.CaptureError, match=r"argument 0 of the captured step was float32 .* and is float64 now"):
        step(wrap(X.astype(np.float64)), y=wrap(X))
    with pytest.raises(mg.CaptureError, match="argument 'y'"):
        step(wrap(X), y=wrap(X.astype(int)))
    assert step(wrap(X), y=wrap(X)).numpy()[0, 0] == 2


def test_model_on_another_device_is_refused():
    model = mg.nn.Linear(3, 2).to("reference")
    with pytest.raises(RuntimeError, match="reference"):
        mg.capture(model)(X)


def test_moving_to_another_device_inside_is_refused():
    with pytest.raises(mg.CaptureError, match="moving a tensor to another device"):
        mg.capture(lambda x: x.to("reference"))(X)


def test_indexing_by_several_tensors_is_refused():
    with pytest.raises(mg.CaptureError, match="a tensor can index only alone"):
        mg.capture(lambda x, i: x[i, i])(X, np.array([0, 1]))


# Checks of values in replays


class Classifier:
    """A captured training step with everything that a step can change."""

    def __init__(self):
        mg.manual_seed(0)
        self.model = mg.nn.Sequential(mg.nn.Linear(3, 5), mg.nn.BatchNorm(5), mg.nn.Dropout(0.5), mg.nn.Linear(5, 4))
        self.optimizer = mg.optim.Adam(self.model.parameters(), lr=0.1)
        self.captured = mg.capture(self.step)

    def step(self, images, labels):
        self.optimizer.zero_grad()
        loss = mg.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self):
        arrays = {k: t.numpy() for k, t in self.model.state_dict().items()} | self.optimizer.state_dict()
        arrays |= {f"grad of {k}": p.grad.numpy() for k, p in self.model.named_parameters()}
        return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("label", [-1, 4, 1000])
@pytest.mark.parametrize("calls", [1, 3])
def test_label_out_of_range_stops_a_replay_before_it_changes_anything(label, calls):
    classifier = Classifier()
    images, good = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), np.array([0, 1, 2, 3])
    for _ in range(calls):
        classifier.captured(images, good)
    before = classifier.state()
    with pytest.raises(ValueError, match=rf"label {label} in row 2 is out of range; there are classes 0 to 3"):
        classifier.captured(images, np.array([0, 1, label, 3]))
    assert classifier.state() == before
    assert np.isfinite(classifier.captured(images, good).item())


def test_row_number_out_of_range_stops_a_replay():
    step = mg.capture(lambda x, i: x[i] * 2.0)
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(step(table, np.array([2, 0])).numpy(), table[[2, 0]] * 2)
    np.testing.assert_array_equal(step(table, np.array([1, 1])).numpy(), table[[1, 1]] * 2)
    with pytest.raises(IndexError, match="row numbers must be 0 to 2"):
        step(table, np.array([0, 3]))


# After an error


def test_error_while_recording_leaves_a_usable_state():
    w = parameter()
    fail = True

    @mg.capture
    def step(x):
        w.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        if fail:
            raise ZeroDivisionError
        return loss

    with pytest.raises(ZeroDivisionError):
        step(X)
    assert step.plan is None
    assert (w * 2.0).sum().item() == 12  # eager work goes on
    fail = False
    for value in (1.0, 2.0):
        assert step(X * np.float32(value)).item() == 24 * value
        np.testing.assert_array_equal(w.grad.numpy(), np.full(3, 4 * value))


@pytest.mark.usefixtures("own_cache")
def test_error_of_a_kernel_comes_out_of_every_replay(monkeypatch):
    def double_positive(x, y):
        if x[0] < 0:
            raise ValueError("negative")
        y[:] = 2 * x

    elementwise = mg.kernels.cpu.elementwise
    monkeypatch.setattr(elementwise, "tanh_forward", parallel_kernel()(double_positive))
    step = mg.capture(lambda x: mg.tanh(mg.tanh(x)))
    for _ in range(10):
        np.testing.assert_array_equal(step(X).numpy(), 4 * X)
        with pytest.raises(ValueError, match="negative"):
            step(-X)


def test_error_inside_an_inner_captured_step_ends_the_outer_recording():
    inner = mg.capture(lambda x: x.item())
    outer = mg.capture(lambda x: inner(x.sum()))
    with pytest.raises(mg.CaptureError):
        outer(X)
    assert mg.tensor([1.0]).item() == 1


def test_recording_belongs_to_one_thread():
    import threading

    inside, go_on = threading.Event(), threading.Event()
    results = []

    def step(x):
        inside.set()
        go_on.wait(100)
        return x * 2.0

    thread = threading.Thread(target=lambda: results.append(mg.capture(step)(X)))
    thread.start()
    assert inside.wait(100)
    assert mg.tensor([3.0]).item() == 3  # would be refused in the thread that records
    go_on.set()
    thread.join()
    assert results[0].numpy()[0, 0] == 2


def test_zeros_of_an_op_are_made_anew_by_every_replay():
    class AddsToZeros(mg.Op):
        def forward(self, x):
            y = self.device.zeros(x.shape, x.dtype)
            self.launch(np.add, x, y, y)
            return y

    captured = mg.capture(AddsToZeros.apply)
    for _ in range(8):
        np.testing.assert_array_equal(captured(X).numpy(), X)


def test_what_cannot_be_called_is_no_step():
    with pytest.raises(TypeError, match="capture takes a function, the step, not int"):
        mg.capture(3)

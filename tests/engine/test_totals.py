"""Ops that add their gradient to what a tensor has of it already, in place: 1x1 convolutions, linear layers, parts of a tensor.

Small whole numbers make every sum exact, so that the order of adding does not show and anything lost or doubled does.
"""

import numpy as np
import pytest
from arrays_there import there

import minigrad as mg

SHAPE = (2, 5, 7, 6)  # of an image that several ops read; large enough for no vector width to divide it


def whole(rng, *shape, dtype=np.float32, device="cpu", requires_grad=True):
    return mg.tensor(rng.integers(-3, 4, shape).astype(dtype), device=device, requires_grad=requires_grad)


class Uses:
    """An image, weights, and ops that read the image."""

    def __init__(self, device="cpu", dtype=np.float32):
        rng = np.random.default_rng(5)
        self.x = whole(rng, *SHAPE, dtype=dtype, device=device)
        self.ones = [whole(rng, 1, 1, 6, k, dtype=dtype, device=device) for k in (1, 6, 17)]
        self.three = whole(rng, 3, 3, 6, 4, dtype=dtype, device=device)
        self.w = whole(rng, 6, 9, dtype=dtype, device=device)
        with mg.no_grad():
            shapes = {name: op(self.image()).shape for name, op in self.ops().items()}
        options = {"dtype": dtype, "device": device, "requires_grad": False}
        self.weights = {name: whole(rng, *shape, **options) for name, shape in shapes.items()}

    def parameters(self):
        return [*self.ones, self.three, self.w]

    def image(self):
        """The image as the result of an op, which is what ops add their gradients to."""
        return self.x * 2.0

    def ops(self):
        return {
            "1x1 to 1": lambda h: mg.conv2d(h, self.ones[0]),
            "1x1 to 6": lambda h: mg.conv2d(h, self.ones[1]),
            "1x1 to 17": lambda h: mg.conv2d(h, self.ones[2]),
            "3x3": lambda h: mg.conv2d(h, self.three, padding="same"),
            "1x1, stride 2": lambda h: mg.conv2d(h, self.ones[1], stride=2),
            "linear": lambda h: mg.linear(h, self.w),
            "max pool": lambda h: mg.max_pool2d(h, 3, stride=1, padding="same"),
            "average": lambda h: mg.avg_pool2d(h, 1),
            "itself": lambda h: h,
            "reshaped": lambda h: h.reshape(70, 6),
            "doubled": lambda h: h + h,
            "part": lambda h: h[:, ::2, 1:4, -1],
            "last row": lambda h: h[1:],
        }

    def weighted(self, name, h):
        """The result of one op, weighted by whole numbers and summed up."""
        return (self.ops()[name](h) * self.weights[name]).sum()

    def gradients(self):
        """Of the image and of all weights; zeros for none. They are forgotten."""
        tensors = [self.x, *self.parameters()]
        found = [np.zeros(t.shape) if t.grad is None else t.grad.numpy().copy() for t in tensors]
        for t in tensors:
            t.zero_grad()
        return found

    def separately(self, names):
        """The sum of the gradients that each op gives alone."""
        totals = None
        for name in names:
            self.weighted(name, self.image()).backward()
            found = self.gradients()
            totals = found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
        return totals


COMBINATIONS = [
    ("1x1 to 1", "1x1 to 6", "1x1 to 17"),
    ("1x1 to 6", "max pool"),
    ("max pool", "1x1 to 6"),
    ("3x3", "1x1 to 6", "3x3"),
    ("1x1 to 6", "1x1, stride 2"),
    ("linear", "1x1 to 17", "linear"),
    ("1x1 to 6", "itself"),
    ("itself", "1x1 to 6"),
    ("reshaped", "1x1 to 6"),
    ("doubled", "1x1 to 6", "doubled"),
    ("1x1 to 6", "1x1 to 6", "1x1 to 6"),
    ("average", "linear", "3x3", "max pool", "1x1 to 1"),
    ("part", "1x1 to 6", "last row"),
    ("last row", "part", "linear", "part", "last row"),
    ("part", "itself"),
    ("last row", "itself", "reshaped"),
]
each_combination = pytest.mark.parametrize("names", COMBINATIONS, ids=", ".join)


def total_of(terms):
    loss = terms[0]
    for term in terms[1:]:
        loss = loss + term
    return loss


def assert_equal(found, expected, times=1):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, times * other)


@each_combination
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_total_is_the_sum_of_separate_gradients(names, dtype, device):
    uses = Uses(device, dtype)
    expected = uses.separately(names)
    h = uses.image()
    total_of([uses.weighted(name, h) for name in names]).backward()
    assert_equal(uses.gradients(), expected)


@each_combination
def test_second_backward_through_a_kept_graph_gives_as_much_again(names, device):
    uses = Uses(device)
    expected = uses.separately(names)
    h = uses.image()
    loss = total_of([uses.weighted(name, h) for name in names])
    for _ in range(2):
        loss.backward(retain_graph=True)
    loss.backward()
    assert_equal(uses.gradients(), expected, times=3)


@each_combination
def test_hook_sees_the_whole_gradient_once_and_may_replace_it(names, device):
    uses = Uses(device)
    expected = uses.separately(names)
    h = uses.image()
    seen = []
    h.register_hook(lambda grad: seen.append(grad.numpy().copy()) or grad * 3.0)
    total_of([uses.weighted(name, h) for name in names]).backward()
    (whole_gradient,) = seen
    np.testing.assert_array_equal(2 * whole_gradient, expected[0])
    found = uses.gradients()
    np.testing.assert_array_equal(found[0], 3 * expected[0])
    assert_equal(found[1:], expected[1:])


@each_combination
def test_retained_gradient_is_the_whole_one(names, device):
    uses = Uses(device)
    expected = uses.separately(names)
    h = uses.image()
    h.retain_grad()
    total_of([uses.weighted(name, h) for name in names]).backward()
    np.testing.assert_array_equal(2 * h.grad.numpy(), expected[0])
    assert not np.shares_memory(h.grad.numpy(), uses.x.grad.numpy())


@each_combination
def test_leaf_that_is_read_by_all_gets_the_sum(names, device):
    uses = Uses(device)
    expected = uses.separately(names)
    for hooked in (False, True):
        handle = uses.x.register_hook(lambda grad: grad * 2.0) if hooked else None
        total_of([uses.weighted(name, uses.x) for name in names]).backward()
        assert_equal(uses.gradients()[:1], [expected[0] / 2], times=1 + hooked)
        if handle:
            handle.remove()


@each_combination
def test_anomaly_mode_gives_the_same_bits(names, device):
    uses = Uses(device, np.float32)
    rng = np.random.default_rng(0)
    for t in (uses.x, *uses.parameters()):
        t.data = rng.standard_normal(t.shape)
    found = []
    for mode in (mg.enable_grad, mg.detect_anomaly):
        with mode():
            h = uses.image()
            total_of([uses.weighted(name, h) for name in names]).backward()
        found.append(uses.gradients())
    assert_equal(*found)


@each_combination
def test_captured_step_has_the_bits_of_an_eager_one(names, device):
    results = []
    for captured in (False, True):
        uses = Uses(device, np.float32)
        optimizer = mg.optim.SGD([uses.x, *uses.parameters()], lr=0.01)

        def step(scale, uses=uses, optimizer=optimizer):
            optimizer.zero_grad()
            h = uses.x * scale
            loss = total_of([uses.weighted(name, h) for name in names])
            loss.backward()
            optimizer.step()
            return loss

        run = mg.capture(step, device=device) if captured else step
        rng = np.random.default_rng(1)
        scales = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(4)]
        losses = [run(s if captured else mg.tensor(s, device=device)).item() for s in scales]
        results.append([np.array(losses), *[p.numpy() for p in (uses.x, *uses.parameters())]])
    assert_equal(*results)


def launches(step, *arrays):
    captured = mg.capture(step)
    captured(*arrays)
    return [launch.kernel for launch in captured.plan.launches]


def step_of(uses, names):
    """A step that goes backward from all these uses of one image."""

    def step(scale):
        for t in (uses.x, *uses.parameters()):
            t.zero_grad()
        h = uses.x * scale
        loss = total_of([uses.weighted(name, h) for name in names])
        loss.backward()
        return loss

    return step


@pytest.mark.parametrize(
    ("names", "added"),
    [
        (("1x1 to 1", "1x1 to 6", "1x1 to 17"), 2),
        (("1x1 to 6", "max pool"), 1),
        (("linear", "1x1 to 17", "linear"), 2),
        (("1x1 to 6", "reshaped"), 0),  # a view of the gradient of what was reshaped: not ours to write into
        (("1x1 to 6", "doubled"), 1),  # what the sum gave for its two sides has been added up in an array of its own
        (("3x3", "max pool"), 0),
        (("1x1 to 6",), 0),
    ],
    ids=str,
)
def test_products_add_in_place_where_they_may(names, added):
    uses = Uses(dtype=np.float32)
    found = launches(step_of(uses, names), np.ones(SHAPE, np.float32))
    assert found.count("gemm.gemm_add") == added


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_gradient_of_all_parts_is_filled_with_zeros_once(axis):
    uses = Uses(dtype=np.float32)

    def step(scale):
        uses.x.zero_grad()
        h = uses.x * scale
        parts = [h[(*[slice(None)] * axis, i)] for i in range(SHAPE[axis])]
        total_of([part.sum() * i for i, part in enumerate(parts)]).backward()

    found = launches(step, np.full(SHAPE, 2.0, np.float32))
    assert found.count("movement.fill") == 1, found
    assert found.count("movement.fill") == 1, found
    expected = 2.0 * np.arange(SHAPE[axis]).reshape([-1 if a == axis else 1 for a in range(4)])
    np.testing.assert_array_equal(uses.x.grad.numpy(), np.broadcast_to(expected, SHAPE))


class PassesOn(mg.Op):
    """x itself; its gradient is whatever `gradient(dy)` returns."""

    def forward(self, x, *, gradient):
        self.gradient = gradient
        return self.device.copy(x)

    def backward(self, dy):
        return (self.gradient(dy),)


def views(kept):
    return {
        "an array kept elsewhere": lambda dy: kept,
        "a view of one": lambda dy: kept.reshape(SHAPE),
        "the gradient that came": lambda dy: dy,
        "a view of it": lambda dy: dy.reshape(SHAPE),
    }


@pytest.mark.parametrize("which", views(None))
def test_array_that_others_hold_is_not_added_to(which, device):
    uses = Uses(device)
    (kept,) = there(device, np.full(SHAPE, 7.0, np.float32))
    grad = mg.tensor(np.full(SHAPE, 2.0, np.float32), device=device)
    seen = []
    for _ in range(2):
        h = uses.image()
        y = mg.conv2d(h, uses.ones[1])
        passed = PassesOn.apply(h, gradient=views(kept)[which])  # made last: its gradient comes first
        passed.register_hook(lambda g: seen.append(g))
        y.register_hook(lambda g: seen.append(g))
        (y + passed).backward(grad)
    alone = Uses(device)
    mg.conv2d(alone.image(), alone.ones[1]).backward(grad)
    first = 7.0 if "kept" in which or "of one" in which else 2.0
    np.testing.assert_array_equal(uses.x.grad.numpy(), 2 * (alone.x.grad.numpy() + 2 * first))
    np.testing.assert_array_equal(np.asarray(kept), np.full(SHAPE, 7.0, np.float32))
    np.testing.assert_array_equal(grad.numpy(), np.full(SHAPE, 2.0))
    assert len(seen) == 4
    for g in seen:
        np.testing.assert_array_equal(g.numpy(), np.full(SHAPE, 2.0))


def test_gradient_that_a_hook_kept_is_not_added_to(device):
    uses = Uses(device)
    kept = []
    h = uses.image()
    y = mg.conv2d(h, uses.ones[1])
    z = h * 3.0
    z.register_hook(lambda grad: kept.append(grad * 5.0) or kept[-1])
    (y + PassesOn.apply(z, gradient=lambda dy: dy)).sum().backward()
    np.testing.assert_array_equal(kept[0].numpy(), np.full(SHAPE, 5.0))


class Failing(mg.Op):
    """x times 2; its backward takes the total, and fails when it is told to."""

    adds_to = 0
    fails = True

    def forward(self, x):
        return 2 * x

    def backward(self, dy):
        if Failing.fails:
            raise KeyError("out of order")
        total = self.take_total()
        return (2 * dy if total is None else total + 2 * dy,)


def test_total_of_a_backward_that_failed_is_forgotten(monkeypatch):
    x = mg.tensor(np.ones(3), requires_grad=True)
    h = x * 1.0
    failing = Failing.apply(h)
    loss = (failing + h * 5.0).sum()
    with pytest.raises(KeyError):
        loss.backward(retain_graph=True)
    monkeypatch.setattr(Failing, "fails", False)
    failing.sum().backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 2.0))
    x.zero_grad()
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 7.0))


def test_linear_layer_that_reads_its_own_weights(device):
    rng = np.random.default_rng(0)
    x = whole(rng, 6, 6, device=device)
    h = x * 1.0
    (mg.linear(h, h) + h).sum().backward()
    ones = np.ones((6, 6))
    expected = ones @ x.numpy().T + x.numpy().T @ ones + ones
    np.testing.assert_array_equal(x.grad.numpy(), expected)

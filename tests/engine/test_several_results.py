"""Ops with several results: one node on the tape, a gradient for each result in backward."""

import gc
import re
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import tape


class Polar(mg.Op):
    """Radius and angle of points; which gradients came is noted in `came`."""

    formula = "r = √(x² + y²), a = atan2(y, x);  dx = dr x / r - da y / r²;  dy = dr y / r + da x / r²"
    came = ()

    def forward(self, x, y):
        r = np.hypot(x, y)
        self.save(x, y, r)
        return r, np.arctan2(y, x)

    def backward(self, dr, da):
        x, y, r = self.saved
        Polar.came = tuple(None if d is None else np.array(d) for d in (dr, da))
        return dr * x / r - da * y / r**2, dr * y / r + da * x / r**2

    def backward_on_tape(self, dr, da):
        x, y, r = self.as_input(0, self.saved[0]), self.as_input(1, self.saved[1]), self.as_result(self.saved[2], 0)
        return dr * x / r - da * y / r**2, dr * y / r + da * x / r**2


class Largest(mg.Op):
    """The largest of each row, and where it stands, as integers; `came` as of Polar."""

    takes_none = True
    came = ()

    def forward(self, x):
        self.places = x.argmax(1)
        self.shape_of_x = x.shape
        return x.max(1), self.places, x.min(1)

    def backward(self, dy, dplaces, dlow):
        Largest.came = dy is None, dplaces is None, dlow is None
        dx = np.zeros(self.shape_of_x)
        if dy is not None:
            dx[np.arange(len(dx)), self.places] = dy
        return (dx,)


X, Y = np.array([3.0, 1.0, -2.0]), np.array([4.0, 2.0, 0.5])


@pytest.fixture
def points():
    return [mg.tensor(v, requires_grad=True) for v in (X, Y)]


def test_apply_gives_a_tuple_of_tensors_with_one_node(points):
    r, a = results = Polar.apply(*points)
    assert type(results) is tuple
    np.testing.assert_allclose(r.numpy(), np.hypot(X, Y))
    assert r._op.op is a._op.op
    assert "op=Polar" in repr(a)
    assert not r.is_leaf


def test_gradients_by_finite_differences_twice():
    mg.testing.check_grads(Polar.apply, X, Y, order=2)
    mg.testing.check_grads(lambda x, y: Polar.apply(x, y)[1] * y, X, Y, order=2)
    mg.testing.check_grads(lambda x, y: Polar.apply(x, y)[0] * Polar.apply(y, x)[1], X, Y, order=2)


def test_both_results_used_often_give_what_separate_ops_give(points):
    r, a = Polar.apply(*points)
    (r * a + r * 2.0 + a.sum()).sum().backward()
    dr, da = np.arctan2(Y, X) + 2, np.hypot(X, Y) + 3
    np.testing.assert_allclose(Polar.came, (dr, da))
    np.testing.assert_allclose(points[0].grad.numpy(), dr * X / np.hypot(X, Y) - da * Y / (X**2 + Y**2))


def test_a_result_that_nothing_used_gets_zeros(points):
    r, _ = Polar.apply(*points)
    r.backward([1.0, 1.0, 1.0])
    np.testing.assert_array_equal(Polar.came, ([1, 1, 1], [0, 0, 0]))
    mg.grad(Polar.apply(*points)[1].sum(), points)
    np.testing.assert_array_equal(Polar.came, ([0, 0, 0], [1, 1, 1]))


def test_an_op_may_take_none_and_gets_none_for_integers():
    x = mg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    y, places, low = Largest.apply(x)
    assert (y.requires_grad, places.requires_grad, low.requires_grad) == (True, False, True)
    assert places.is_leaf
    y.sum().backward()
    assert Largest.came == (False, True, True)
    mg.grad(Largest.apply(x)[2].sum(), x)
    assert Largest.came == (True, True, False)


def test_an_integer_result_gets_none_where_others_get_zeros():
    class WithCount(mg.Op):
        def forward(self, x):
            return x * 2, np.array([x.size])

        def backward(self, dy, dcount):
            assert dcount is None
            return (2 * dy,)

    x = mg.tensor(X, requires_grad=True)
    y, count = WithCount.apply(x)
    assert count.item() == 3
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2, 2])


def test_hooks_and_retained_gradients_belong_to_one_result(points):
    r, a = Polar.apply(*points)
    seen = []
    r.register_hook(lambda g: seen.append(g.numpy().copy()))
    a.register_hook(lambda g: g * 10.0)
    r.retain_grad()
    a.retain_grad()
    (r * 2.0 + r + a).sum().backward(retain_graph=True)
    np.testing.assert_array_equal(seen, [[3, 3, 3]])
    np.testing.assert_array_equal(r.grad.numpy(), [3, 3, 3])
    np.testing.assert_array_equal(a.grad.numpy(), [10, 10, 10])
    np.testing.assert_array_equal(Polar.came, ([3, 3, 3], [10, 10, 10]))
    found = mg.grad((r * 2.0 + a).sum(), [r, a])
    np.testing.assert_array_equal([g.numpy() for g in found], [[2, 2, 2], [10, 10, 10]])


def test_hook_of_a_result_that_nothing_used_is_not_called(points):
    r, a = Polar.apply(*points)
    a.register_hook(lambda g: pytest.fail("no gradient came"))
    a.retain_grad()
    r.sum().backward()
    assert a.grad is None


def test_gradients_of_the_results_themselves(points):
    r, a = Polar.apply(*points)
    y = (r * a * a).sum()
    dr, da = mg.grad(y, [r, a], retain_graph=True)
    np.testing.assert_allclose(dr.numpy(), a.numpy() ** 2)
    np.testing.assert_allclose(da.numpy(), 2 * r.numpy() * a.numpy())
    dr, _ = mg.grad(y, [r, points[0]], create_graph=True)
    (second,) = mg.grad(dr.sum(), a)
    np.testing.assert_allclose(second.numpy(), 2 * a.numpy())


def test_products_with_jacobians(points):
    def f(x, y):
        r, a = Polar.apply(x, y)
        return mg.concat([r * a, r])

    x, y = (t.detach() for t in points)
    jx, jy = mg.jacobian(f, (x, y))
    v = [mg.tensor(np.array([1.0, -1.0, 2.0])), mg.tensor(np.array([0.5, 1.0, 1.0]))]
    along = mg.jvp(f, (x, y), v)[1]
    np.testing.assert_allclose(along.numpy(), jx.numpy() @ v[0].numpy() + jy.numpy() @ v[1].numpy())
    h = mg.hessian(lambda x, y: f(x, y).sum(), (x, y))
    np.testing.assert_allclose(h[0][1].numpy(), h[1][0].numpy().T, atol=1e-12)


def test_recompute_gives_the_same_bits(points):
    def f(x, y):
        r, a = Polar.apply(x, y)
        return r * a + a

    expected = mg.grad(f(*points).sum(), points)
    found = mg.grad(mg.recompute(f, *points).sum(), points)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("create_graph", [False, True])
def test_recompute_uses_results_from_outside(points, create_graph):
    def gradients(around):
        r, a = Polar.apply(*points)
        y = around(lambda x: r * x + a, points[0])
        return mg.grad(y.sum(), [r, a, *points], create_graph=create_graph)

    expected, found = gradients(lambda f, x: f(x)), gradients(mg.recompute)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_detached_and_freed(points):
    gc.disable()
    try:
        r, a = Polar.apply(*points)
        op = weakref.ref(r._op.op)
        a.register_hook(lambda g, a=a: None)  # which holds the tensor that holds the op
        del r
        a.sum().backward()
        del a
        assert op() is None
        r, _ = Polar.apply(*points)
        op = weakref.ref(r._op.op)
        del r, _
        assert op() is None
    finally:
        gc.enable()


def test_a_second_walk_is_refused_and_retained_walks_add_up(points):
    r, a = Polar.apply(*points)
    y = (r * a).sum()
    y.backward(retain_graph=True)
    once = points[0].grad.numpy().copy()
    y.backward()
    np.testing.assert_array_equal(points[0].grad.numpy(), 2 * once)
    with pytest.raises(RuntimeError, match="backward through Mul a second time|backward through Sum a second time"):
        y.backward()
    with pytest.raises(RuntimeError, match="backward through Polar a second time"):
        a.sum().backward()


def test_change_in_place_of_a_saved_result_names_it(points):
    r, a = Polar.apply(*points)
    with mg.no_grad():
        a *= 2.0  # which is not saved
        r *= 2.0
    shapes = re.escape(
        "Polar saved its result 0 (result shapes (3,), (3,)) for backward, and it was changed in place 1 time"
    )
    with pytest.raises(RuntimeError, match=shapes):
        a.sum().backward()


def test_results_in_one_memory_count_changes_together():
    class Halves(mg.Op):
        def forward(self, x):
            y = 2 * x
            self.save(y[:2])
            return y[:2], y[2:], y[1:]

        def backward(self, *dys):
            return (np.concatenate([2 * dys[0], 2 * dys[1]]),)

    a, b, c = Halves.apply(mg.tensor(np.arange(4.0), requires_grad=True))
    assert a._version is b._version is c._version
    x = mg.tensor(np.arange(4.0))

    class Views(mg.Op):
        def forward(self, x):
            return x[:2], x[2:]

    assert all(y._version is x._version for y in Views.apply(x))


def test_nan_in_any_result_or_gradient_is_found(points):
    class Roots(mg.Op):
        def forward(self, x):
            with np.errstate(invalid="ignore"):
                return x * 1, np.sqrt(x)

        def backward(self, da, db):
            return (da * np.nan,)

    x = mg.tensor(np.array([-1.0]), requires_grad=True)
    with mg.detect_anomaly(), pytest.raises(RuntimeError, match="Roots made a NaN out of inputs without one"):
        Roots.apply(x)
    with (
        mg.detect_anomaly(),
        pytest.raises(RuntimeError, match="backward of Roots made a NaN in the gradient of input 0"),
    ):
        Roots.apply(mg.tensor(np.array([1.0]), requires_grad=True))[1].backward()


def test_anomaly_mode_tells_an_op_that_writes_into_one_of_its_gradients():
    class Spoils(mg.Op):
        def forward(self, x):
            return x * 1, x * 2

        def backward(self, da, db):
            db *= 3
            return (da + 2 * db,)

    x = mg.tensor(X, requires_grad=True)
    with mg.detect_anomaly(), pytest.raises(RuntimeError, match="Spoils wrote into a gradient it was given"):
        Spoils.apply(x)[1].sum().backward()
    _, b = Spoils.apply(x)
    other = mg.tensor(X, requires_grad=True)
    (b + other).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6, 6, 6])
    np.testing.assert_array_equal(other.grad.numpy(), [1, 1, 1])


def test_gradients_of_results_are_not_written_by_the_engine():
    class Through(mg.Op):
        def forward(self, x):
            return x * 1, x * 1

        def backward(self, da, db):
            return (da,)

    x, other = (mg.tensor(X, requires_grad=True) for _ in range(2))
    for _ in range(2):
        a, _ = Through.apply(x)
        (a + other + x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4, 4, 4])
    np.testing.assert_array_equal(other.grad.numpy(), [2, 2, 2])


# Errors


def test_backward_that_takes_another_number_of_gradients_is_told_at_once(points):
    class One(Polar):
        def backward(self, dy):
            return dy, dy

    message = (
        "One.forward gave 2 results, so backward gets a gradient for each: it must be backward(self, dy0, dy1), and is "
    )
    with pytest.raises(TypeError, match=re.escape(message + "backward(self, dy)")):
        One.apply(*points)
    with mg.no_grad():
        assert len(One.apply(*points)) == 2


def test_backward_on_tape_too():
    class One(Polar):
        def backward_on_tape(self, dy):
            return dy, dy

    with pytest.raises(
        TypeError, match=r"so backward_on_tape gets a gradient for each.*backward_on_tape\(self, dy0, dy1\)"
    ):
        One.apply(*[mg.tensor(v, requires_grad=True) for v in (X, Y)])


def test_an_op_without_backward_says_so_when_it_is_asked():
    class Halves(mg.Op):
        def forward(self, x):
            return x / 2, x / 2

    a, _ = Halves.apply(mg.tensor(X, requires_grad=True))
    with pytest.raises(NotImplementedError, match="Halves has no backward"):
        a.sum().backward()


def test_an_op_without_second_derivative_says_so():
    x = mg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"came to Largest \(result shapes \(2,\), \(2,\), \(2,\)\)"):
        mg.grad(Largest.apply(x)[0].sum(), x, create_graph=True)


def test_no_results_and_what_is_no_array_are_refused():
    class Gives(mg.Op):
        def forward(self, x, *, result):
            return result

    x = mg.tensor(X)
    with pytest.raises(TypeError, match="Gives.forward returned an empty tuple"):
        Gives.apply(x, result=())
    with pytest.raises(TypeError, match="Gives.forward must return an array, or a tuple of arrays, not str"):
        Gives.apply(x, result=(X, "x"))
    (only,) = Gives.apply(x, result=(X * 2,))
    np.testing.assert_array_equal(only.numpy(), X * 2)


def test_wrong_gradient_names_the_op_and_input():
    class Wrong(Polar):
        def backward(self, dr, da):
            return dr[:1], da

    with pytest.raises(
        TypeError, match="Wrong.backward gave float64.1. as the gradient of input 0, which is float64.3."
    ):
        Wrong.apply(*[mg.tensor(v, requires_grad=True) for v in (X, Y)])[0].sum().backward()


# Captured steps


class Halves(mg.Op):
    """x / 2 and x², by a kernel."""

    def forward(self, x):
        self.save(x)
        a, b = self.empty_like(x), self.empty_like(x)
        self.launch(halve_and_square, x, a, b)
        return a, b

    def backward(self, da, db):
        (x,) = self.saved
        dx = self.empty_like(x)
        self.launch(halve_and_square_gradient, x, da, db, dx)
        return (dx,)


def halve_and_square(x, a, b):
    a[...] = x / 2
    b[...] = x * x


def halve_and_square_gradient(x, da, db, dx):
    dx[...] = da / 2 + 2 * x * db


@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)], ids=str)
def test_captured_steps_have_the_bits_of_eager(used, rng):
    w = mg.tensor(rng.standard_normal((4, 3)).astype(np.float32), requires_grad=True)

    def step(x):
        w.zero_grad()
        both = Halves.apply(x @ w)
        parts = mg.split(both[used[-1]], [1], axis=1)
        loss = (both[used[0]] * 3.0).sum() + (parts[1] * 2.0).sum()
        loss.backward()
        return loss, both[1], w.grad

    captured = mg.capture(step)
    for _ in range(4):
        x = rng.standard_normal((5, 4)).astype(np.float32)
        found = [t.numpy().copy() for t in captured(x)]
        for one, other in zip(found, step(mg.tensor(x)), strict=True):
            assert one.tobytes() == other.numpy().tobytes()


def test_captured_step_refuses_a_result_that_python_computed(rng):
    class Half(Halves):
        def forward(self, x):
            a, _ = super().forward(x)
            return a, np.square(x)

    with pytest.raises(mg.CaptureError, match="Half.forward computed its result without minigrad's kernels"):
        mg.capture(lambda x: Half.apply(x)[0])(rng.standard_normal(3).astype(np.float32))


def test_captured_step_refuses_a_result_made_outside(points):
    r, _ = Polar.apply(*points)
    with pytest.raises(mg.CaptureError, match="a tensor that Polar made outside"):
        mg.capture(lambda x: x * r)(X)


def test_distributed_walk_finds_leaves_behind_results(points):
    r, a = Polar.apply(*points)
    last = tape.last_uses((r * a).sum())
    assert [leaf for leaves in last.values() for leaf in leaves] == points

"""mg.grad and what is made of it: what it gives, leaves alone and refuses; against PyTorch; in captured steps."""

import functools

import numpy as np
import pytest

import minigrad as mg


def wide(values, device="reference", **options):
    """A tensor in float64, in which no kernel of the CPU is compiled for these tests."""
    return mg.tensor(np.array(values, np.float64), device=device, **options)


def leaf(values, device="reference"):
    return wide(values, device, requires_grad=True)


# mg.grad


def test_gradients_are_those_of_backward_to_the_bit_and_no_grad_is_touched(rng):
    x, w, b = (leaf(rng.standard_normal(shape)) for shape in ((5, 4), (4, 3), (3,)))
    y = mg.linear(x, w, b).sigmoid()
    loss = (y * y).sum() + (w * w).sum() + y.mean()
    given = mg.grad(loss, (x, w, b), retain_graph=True)
    assert x.grad is None
    assert w.grad is None
    loss.backward()
    for t, dt in zip((x, w, b), given, strict=True):
        np.testing.assert_array_equal(dt.numpy(), t.grad.numpy())
        assert not dt.requires_grad


def test_results_on_the_way_get_gradients_too():
    x = leaf([1.0, 2.0])
    h = x * x
    y = (h * h).sum()
    dx, dh = mg.grad(y, (x, h))
    np.testing.assert_array_equal(dh.numpy(), [2, 8])
    np.testing.assert_array_equal(dx.numpy(), [4, 32])
    np.testing.assert_array_equal(mg.grad(x, x, [3.0, 4.0])[0].numpy(), [3, 4])


def test_several_results_and_weights():
    x = leaf([1.0, 2.0])
    (dx,) = mg.grad((x * x, x * 3.0), x, ([1.0, 10.0], [100.0, 1000.0]))
    np.testing.assert_array_equal(dx.numpy(), [2 + 300, 40 + 3000])


def test_the_tape_is_freed_unless_it_is_kept():
    x = leaf(2.0)
    y = x * x
    mg.grad(y, x, retain_graph=True)
    mg.grad(y, x)
    with pytest.raises(RuntimeError, match="Mul a second time"):
        mg.grad(y, x)


def test_only_what_leads_to_the_tensors_asked_for_is_walked(monkeypatch):
    x, w = leaf([[1.0, 2.0]]), leaf([[1.0], [2.0]])
    seen = []
    backward = mg.ops.gemm.MatMul.backward
    monkeypatch.setattr(mg.ops.gemm.MatMul, "backward", lambda op, dy: seen.append(op.needs) or backward(op, dy))
    y = (x @ w) * (w * w).exp().sum()
    mg.grad(y, x, retain_graph=True)
    assert seen == [(True, False)]
    y.backward()
    assert seen == [(True, False), (True, True)]


def test_gradients_can_be_written_into_without_changing_others():
    x, w, b = leaf([1.0, 2.0]), leaf([3.0, 4.0]), leaf([0.0, 0.0])
    start = wide(np.ones(2))
    for create_graph in (False, True):
        y = x * w + b + b
        dx, dw, db, again = mg.grad(y, (x, w, b, b), start, create_graph)
        with mg.no_grad():
            for t in (dx, dw, db):
                t += 100.0
        np.testing.assert_array_equal(again.numpy(), [2, 2])
        np.testing.assert_array_equal(start.numpy(), [1, 1])
        np.testing.assert_array_equal(w.numpy(), [3, 4])


def test_hooks_see_gradients_and_may_replace_them():
    x = leaf([1.0, 2.0])
    h = x * 3.0
    h.register_hook(lambda g: g * 10.0)
    seen = []
    x.register_hook(lambda g: seen.append(g.numpy().copy()))
    for create_graph in (False, True):
        dx, dh = mg.grad(h.sum(), (x, h), create_graph=create_graph, retain_graph=True)
        np.testing.assert_array_equal(dx.numpy(), [30, 30])
        np.testing.assert_array_equal(dh.numpy(), [10, 10])
    assert [s.tolist() for s in seen] == [[30, 30]] * 2


def test_nothing_goes_on_the_tape_without_create_graph_and_all_does_with_it():
    x = leaf(3.0)
    with mg.no_grad():
        y = x * x
    assert not y.requires_grad
    y = x * x * x
    with mg.no_grad():
        (dx,) = mg.grad(y, x, create_graph=True)
    (ddx,) = mg.grad(dx, x, create_graph=True)
    assert (dx.item(), ddx.item(), mg.grad(ddx, x)[0].item()) == (27, 18, 6)


def test_gradient_of_a_gradient_reaches_the_weights_it_started_from():
    x, u = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (dx,) = mg.grad(x * x, x, u, create_graph=True)
    (du,) = mg.grad(dx.sum(), u)
    np.testing.assert_array_equal(du.numpy(), [2, 4])


def test_what_was_changed_in_place_since_is_told_of_in_the_second_walk_too():
    x = leaf([1.0, 2.0])
    (dx,) = mg.grad((x * x * x).sum(), x, create_graph=True)
    with mg.no_grad():
        x += 1.0
    with pytest.raises(RuntimeError, match="changed in place"):
        mg.grad(dx.sum(), x)


def test_a_long_chain_needs_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(3_000):
        y = y * 1.0
    (dx,) = mg.grad(y * y, x, create_graph=True)
    assert mg.grad(dx, x)[0].item() == 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y: mg.grad(lambda x: x, x), TypeError, "is a function, where tensors are expected.*mg.jvp"),
        (lambda x, y: mg.grad(y, [1.0]), TypeError, "number 0 is float"),
        (lambda x, y: mg.grad(y, []), ValueError, "xs has no tensors"),
        (lambda x, y: mg.grad(y, mg.tensor(1.0)), RuntimeError, r"xs\[0\] .* requires no gradient.*requires_grad=True"),
        (lambda x, y: mg.grad(y.sum(), leaf(1.0)), RuntimeError, r"not computed from xs\[0\].*allow_unused=True"),
        (lambda x, y: mg.grad(y, x), RuntimeError, "needs a gradient of that shape"),
        (lambda x, y: mg.grad(y, x, [1.0]), ValueError, r"grad has shape \(1,\), the tensor \(2,\)"),
        (lambda x, y: mg.grad((y, y), x, [y]), ValueError, "1 grad_outputs for 2 tensors"),
        (lambda x, y: mg.jvp(y, x, x), TypeError, "f must be a function of tensors, not Tensor.*mg.grad"),
        (lambda x, y: mg.jvp(mg.exp, x, (x, x)), ValueError, "2 vs for 1 xs"),
        (lambda x, y: mg.jvp(mg.exp, x, mg.ones(3)), ValueError, r"vs\[0\] is float32\[3\], where float64\[2\]"),
        (lambda x, y: mg.hvp(mg.exp, x, x), ValueError, r"must return one number, not shape \(2,\)"),
        (lambda x, y: mg.jacobian(lambda x: (x, x), x), TypeError, "must return one .* Tensor, not tuple"),
        (lambda x, y: mg.jacobian(mg.sum, x, batched=True), ValueError, "one length of the first axis"),
        (lambda x, y: mg.hessian(mg.sum, mg.ones(2, "int64")), TypeError, "float32 or float64 tensors, not int64"),
    ],
)
def test_errors_say_what_came_and_what_was_expected(call, error, words):
    x = leaf([1.0, 2.0])
    with pytest.raises(error, match=words):
        call(x, x * x)
    assert x.grad is None


def test_a_tensor_that_was_not_used_gets_none_if_that_is_allowed():
    x, other = leaf(2.0), leaf(1.0)
    dx, none = mg.grad(x * x, (x, other), allow_unused=True)
    assert dx.item() == 4
    assert none is None


class Cube(mg.Op):
    """x x x."""

    def forward(self, x):
        self.save(x)
        return x * x * x

    def backward(self, dy):
        (x,) = self.saved
        return (3 * x * x * dy,)


class DerivableCube(Cube):
    """The same with its gradient on the tape."""

    def backward_on_tape(self, dy):
        x = self.as_input(0, self.saved[0])
        return (3.0 * x * x * dy,)


def test_an_op_without_a_second_derivative_says_so_by_name():
    x = leaf([1.0, 2.0])
    np.testing.assert_array_equal(mg.grad(Cube.apply(x).sum(), x)[0].numpy(), [3, 12])
    with pytest.raises(
        NotImplementedError, match=r"came to Cube \(result shape \(2,\)\).*backward_on_tape\(self, dy\)"
    ):
        mg.grad(Cube.apply(x).sum(), x, create_graph=True)


def test_an_op_of_ones_own_can_have_a_second_derivative():
    mg.testing.check_grads(DerivableCube.apply, np.array([1.0, 2.0]), device="reference", order=3)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (lambda dy: dy, "must return a tuple of 1"),
        (lambda dy: (dy.numpy(),), "gave ndarray"),
        (lambda dy: (dy[:1],), r"float64\[2\]"),
    ],
)
def test_a_wrong_backward_on_tape_is_told_by_name(results, words):
    class Wrong(Cube):
        def backward_on_tape(self, dy):
            return results(dy)

    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=rf"Wrong.backward_on_tape.*{words}"):
        mg.grad(Wrong.apply(x).sum(), x, create_graph=True)


# Of functions


def test_products_with_jacobian_and_hessian_are_those_of_the_matrices(rng):
    x, v = leaf(rng.standard_normal((2, 3))), wide(rng.standard_normal((2, 3)))
    w = wide(rng.standard_normal((3, 2)))

    def f(x):
        return mg.tanh(x @ w) ** 2

    y, along = mg.jvp(f, x, v)
    matrix = mg.jacobian(f, x)
    assert matrix.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(y.numpy(), f(x).numpy())
    np.testing.assert_allclose(along.numpy(), np.tensordot(matrix.numpy(), v.numpy(), 2), rtol=1e-12)
    value, product = mg.hvp(lambda x: f(x).sum(), x, v)
    square = mg.hessian(lambda x: f(x).sum(), x)
    assert square.shape == (2, 3, 2, 3)
    assert value.item() == f(x).sum().item()
    np.testing.assert_allclose(product.numpy(), np.tensordot(square.numpy(), v.numpy(), 2), rtol=1e-12)
    assert not any(t.requires_grad for t in (along, matrix, product, square))


def test_batched_jacobian_is_that_of_each_sample(rng):
    x, w = wide(rng.standard_normal((4, 3))), wide(rng.standard_normal((3, 2)))
    each = mg.jacobian(lambda x: mg.sigmoid(x @ w), x, batched=True)
    assert each.shape == (4, 2, 3)
    for i in range(4):
        one = mg.jacobian(lambda x: mg.sigmoid(x @ w), x[i])
        np.testing.assert_allclose(each.numpy()[i], one.numpy(), rtol=1e-12)


def test_derivatives_of_what_does_not_depend_are_zeros():
    a, b = mg.ones(2), mg.ones(3)
    assert mg.jvp(lambda a: b * 2.0, a, a)[1].numpy().tolist() == [0, 0, 0]
    assert mg.jvp(lambda a: a * 2.0, a, a)[1].numpy().tolist() == [2, 2]
    da, db = mg.jacobian(lambda a, b: a * 2.0, (a, b))
    assert (da.numpy().tolist(), db.shape, db.numpy().any()) == ([[2, 0], [0, 2]], (2, 3), False)
    ((daa, dab), (dba, dbb)) = mg.hessian(lambda a, b: (a * a).sum() + b.sum(), (a, b))
    assert daa.numpy().tolist() == [[2, 0], [0, 2]]
    assert [t.shape for t in (dab, dba, dbb)] == [(2, 3), (3, 2), (3, 3)]
    assert mg.jacobian(lambda a: a[:0], a).shape == (0, 2)


def test_derivatives_of_functions_can_be_derived(rng):
    def cubes(x):
        return (x * x * x).sum()

    x = leaf([1.0, 2.0])
    _, product = mg.hvp(cubes, x, mg.ones(2, "float64", "reference"), create_graph=True)
    np.testing.assert_array_equal(mg.grad(product.sum(), x)[0].numpy(), [6, 6])
    np.testing.assert_array_equal(mg.grad(mg.hessian(cubes, x, create_graph=True).sum(), x)[0].numpy(), [6, 6])
    _, along = mg.jvp(lambda x: x * x * x, x, mg.ones(2, "float64", "reference"), create_graph=True)
    np.testing.assert_array_equal(mg.grad(along.sum(), x)[0].numpy(), [6, 12])


# Against PyTorch, in float64


def parameters(rng, *shapes):
    return [rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[:-1]))) for shape in shapes]


def our_mlp(x, w1, g1, b1, w2, g2, b2, w3, labels):
    norm = functools.partial(mg.batch_norm, running_mean=None, running_var=None, training=True)
    h = mg.sigmoid(norm(mg.linear(x, w1), g1, b1))
    h = mg.relu(norm(mg.linear(h, w2), g2, b2))
    return mg.cross_entropy(mg.linear(h, w3), labels)


def their_mlp(x, w1, g1, b1, w2, g2, b2, w3, labels):
    torch = pytest.importorskip("torch")
    norm = functools.partial(
        torch.nn.functional.batch_norm, running_mean=None, running_var=None, training=True, eps=1e-5
    )
    h = torch.sigmoid(norm(x @ w1, weight=g1, bias=b1))
    h = torch.relu(norm(h @ w2, weight=g2, bias=b2))
    return torch.nn.functional.cross_entropy(h @ w3, labels)


def our_cnn(x, w1, g1, b1, w2, w3, labels):
    h = mg.batch_norm(mg.conv2d(x, w1, padding=1), g1, b1, None, None, training=True, activation="relu")
    h = mg.max_pool2d(h, 2)
    h = mg.avg_pool2d(mg.tanh(mg.conv2d(h, w2, stride=1, padding="same")), 3, stride=2, padding=1)
    return mg.cross_entropy(mg.linear(h.reshape(h.shape[0], -1), w3), labels)


def their_cnn(x, w1, g1, b1, w2, w3, labels):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    h = F.conv2d(x.permute(0, 3, 1, 2), w1.permute(3, 2, 0, 1), padding=1)
    h = F.max_pool2d(torch.relu(F.batch_norm(h, None, None, g1, b1, True, eps=1e-5)), 2)
    h = torch.tanh(F.conv2d(h, w2.permute(3, 2, 0, 1), padding=1))
    h = F.avg_pool2d(h, 3, 2, 1, count_include_pad=False).permute(0, 2, 3, 1)
    return F.cross_entropy(h.reshape(h.shape[0], -1) @ w3, labels)


NETS = {
    "mlp": (our_mlp, their_mlp, ((6, 5), (5, 4), (4,), (4,), (4, 4), (4,), (4,), (4, 3))),
    "cnn": (our_cnn, their_cnn, ((3, 6, 6, 2), (3, 3, 2, 4), (4,), (4,), (3, 3, 4, 3), (12, 3))),
}


@pytest.mark.wide
@pytest.mark.parametrize("net", NETS)
def test_second_derivatives_of_a_net_are_pytorchs(net, device, rng):
    torch = pytest.importorskip("torch")
    ours, theirs, shapes = NETS[net]
    arrays = parameters(rng, *shapes)
    labels = np.arange(shapes[0][0]) % 3
    vs = [rng.standard_normal(a.shape) for a in arrays]
    xs = [leaf(a, device) for a in arrays]
    loss = ours(*xs, mg.tensor(labels, device=device))
    slopes = mg.grad(loss, xs, create_graph=True)
    penalty = sum(((dx * wide(v, device)).sum() for dx, v in zip(slopes, vs, strict=True)), loss * 0.0)
    penalty.backward()
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.autograd.grad(theirs(*ts, torch.tensor(labels)), ts, create_graph=True)
    sum((dx * torch.tensor(v)).sum() for dx, v in zip(expected, vs, strict=True)).backward()
    for i, (x, dx, t, dt) in enumerate(zip(xs, slopes, ts, expected, strict=True)):
        np.testing.assert_allclose(dx.numpy(), dt.detach().numpy(), rtol=1e-9, atol=1e-11, err_msg=f"gradient {i}")
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-8, atol=1e-10, err_msg=f"second {i}")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # which torch.func uses
@pytest.mark.slow
def test_functions_of_functions_are_those_of_torch_func(rng):
    torch = pytest.importorskip("torch")
    arrays = parameters(rng, *NETS["mlp"][2])
    labels = np.arange(6) % 3
    x, w, v = arrays[0], arrays[1], rng.standard_normal(arrays[1].shape)
    others = [wide(a) for a in arrays[2:]]
    rest = [torch.tensor(a) for a in arrays[2:]]

    def ours(w):
        return our_mlp(wide(x), w, *others, mg.tensor(labels, device="reference"))

    def theirs(w):
        return their_mlp(torch.tensor(x), w, *rest, torch.tensor(labels))

    point, along = torch.tensor(w), torch.tensor(v)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)
    close(mg.hessian(ours, wide(w)).numpy(), torch.func.hessian(theirs)(point).numpy())
    close(mg.jacobian(ours, wide(w)).numpy(), torch.func.jacrev(theirs)(point).numpy())
    expected = torch.func.jvp(theirs, (point,), (along,))
    close([t.item() for t in mg.jvp(ours, wide(w), wide(v))], [t.item() for t in expected])
    _, product = mg.hvp(ours, wide(w), wide(v))
    close(product.numpy(), torch.autograd.functional.hvp(theirs, point, along)[1].numpy())


def test_first_derivatives_of_a_batch_with_a_large_mean_stay_right_on_the_tape(rng):
    arrays = [(1e4 + 0.1 * rng.standard_normal((64, 3))).astype(np.float32), np.ones(3, np.float32)]
    x, gamma = (mg.tensor(a, requires_grad=True) for a in arrays)
    y = mg.batch_norm(x, gamma, None, None, None, training=True)
    plain, on_tape = (
        mg.grad((y * y * y).sum(), gamma, create_graph=graph, retain_graph=True)[0] for graph in (False, True)
    )
    np.testing.assert_allclose(on_tape.numpy(), plain.numpy(), rtol=1e-3)


# Training steps


def critic(x, w1, w2):
    return mg.linear(mg.tanh(mg.linear(x, w1)), w2)


def penalized(x, w1, w2):
    """The loss of a critic with a gradient penalty (Gulrajani et al. 2017)."""
    x = x.detach()
    x.requires_grad = True
    scores = critic(x, w1, w2)
    (dx,) = mg.grad(scores.sum(), x, create_graph=True)
    return scores.mean() + 10.0 * ((mg.norm(dx, axis=1) - 1.0) ** 2).mean()


def test_gradient_penalty_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    arrays = parameters(rng, (8, 5), (5, 6), (6, 1))
    x, w1, w2 = (leaf(a) for a in arrays)
    loss = penalized(x, w1, w2)
    loss.backward()
    assert x.grad is None
    t, u1, u2 = (torch.tensor(a, requires_grad=True) for a in arrays)
    scores = torch.tanh(t @ u1) @ u2
    (dt,) = torch.autograd.grad(scores.sum(), t, create_graph=True)
    expected = scores.mean() + 10 * ((dt.norm(dim=1) - 1) ** 2).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in ((w1, u1), (w2, u2)):
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


def trained(rng, captured):
    """Weights and losses after some steps with a gradient penalty."""
    arrays = parameters(rng, (5, 6), (6, 1))
    w1, w2 = (mg.tensor(a.astype(np.float32), requires_grad=True) for a in arrays)
    optimizer = mg.optim.Adam([w1, w2], lr=0.01)

    def step(x):
        loss = penalized(x, w1, w2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = mg.capture(step) if captured else step
    batches = [mg.tensor(rng.standard_normal((8, 5)).astype(np.float32)) for _ in range(5)]
    losses = [step(batch).item() for batch in batches]
    return losses, w1.numpy(), w2.numpy()


def test_gradient_penalty_in_a_captured_step_gives_the_bits_of_the_eager_one():
    (losses, *weights), (expected, *theirs) = (
        trained(np.random.default_rng(0), captured) for captured in (True, False)
    )
    assert losses == expected
    for ours, other in zip(weights, theirs, strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("name", ["grad", "jvp", "hvp", "jacobian", "hessian"])
def test_derivatives_in_captured_steps_are_the_eager_ones(name, rng):
    w = mg.tensor(rng.standard_normal((3, 2)).astype(np.float32))

    def f(x):
        return (mg.sigmoid(x @ w) ** 2).sum()

    def step(x, v):
        if name == "grad":
            x = x * 1.0
            x.requires_grad = True
            return mg.grad(f(x), x)[0]
        call = getattr(mg, name)
        return call(f, x, v)[1] if name in ("jvp", "hvp") else call(f, x)

    captured = mg.capture(step)
    for _ in range(4):
        x, v = (mg.tensor(rng.standard_normal((4, 3)).astype(np.float32)) for _ in range(2))
        np.testing.assert_array_equal(captured(x, v).numpy(), step(x, v).numpy())

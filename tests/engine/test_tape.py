"""The walk backwards: what it computes, what it frees, what it refuses."""

import gc
import threading
import weakref

import numpy as np
import pytest

import minigrad as mg

LONG = 100_000


def leaf(values, dtype=np.float32, device=None):
    return mg.tensor(np.array(values, dtype), device=device, requires_grad=True)


class Keeping(mg.Op):
    """x + 1, with an array of its own saved, of which `references` holds weak references."""

    def forward(self, x, *, references):
        kept = np.zeros(10)
        references.append(weakref.ref(kept))
        self.save(kept)
        return x + 1

    def backward(self, dy):
        return (dy.copy(),)


class Needing(mg.Op):
    """a + b; notes what backward was told to compute in `seen`."""

    def forward(self, a, b, *, seen):
        self.seen = seen
        return a + b

    def backward(self, dy):
        self.seen.append(self.needs)
        return dy.copy() if self.needs[0] else None, dy.copy() if self.needs[1] else None


def test_chain_of_100_000_ops():
    x = leaf([2.0])
    y = x
    for _ in range(LONG):
        y = y + 1.0
    y.backward()
    assert y.item() == LONG + 2
    assert x.grad.item() == 1


def test_long_tape_is_dropped_without_recursion():
    x = leaf([2.0])
    y = x + 1.0
    first = weakref.ref(y._op)
    for _ in range(LONG):
        y = y + 1.0
    del y
    assert first() is None


def test_diamond():
    x = leaf([3.0])
    a = x * 2.0
    y = (a * 3.0) * (a * 5.0)  # 60 x^2
    y.backward()
    assert x.grad.item() == 360


def test_every_op_is_visited_once():
    x = leaf([1.0], np.float64)
    y = x
    for _ in range(60):  # 2^60 paths
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60


def test_branches_of_different_length():
    x = leaf([0.5], np.float64)
    a = x.exp()
    b = a
    for _ in range(5):
        b = b * 2.0
    (a + b).backward()
    np.testing.assert_allclose(x.grad.numpy(), 33 * np.exp([0.5]), rtol=1e-15)


def test_op_made_early_and_used_late():
    x = leaf([2.0])
    early = x * 3.0
    late = (x * x) * (x * x)
    (late * early).backward()  # 3 x^5
    assert x.grad.item() == 15 * 2.0**4


def test_leaf_used_many_times():
    x = leaf([1.0, 2.0])
    y = x * 0.0
    for i in range(100):
        y = y + x * float(i)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4950, 4950])


def test_gradients_accumulate_over_calls():
    x = leaf([1.0, 2.0])
    for expected in (3, 6, 9):
        (x * 3.0).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), [expected, expected])


def test_zero_grad_forgets():
    x = leaf([1.0])
    (x * 3.0).backward()
    x.zero_grad()
    assert x.grad is None
    (x * 4.0).backward()
    assert x.grad.item() == 4


def test_backward_on_a_leaf():
    x = leaf(5.0)
    x.backward()
    x.backward(np.float32(2))
    assert x.grad.item() == 3


def test_result_for_the_reference_device_stays_there():
    x = leaf([1.0, 2.0], device="reference")
    (x * x).sum().backward()
    assert x.grad.device == "reference"
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])


def test_inputs_without_need_get_no_gradient():
    x, constant = leaf([1.0]), mg.tensor([2.0])
    seen = []
    Needing.apply(constant, x, seen=seen).backward()
    Needing.apply(x, constant, seen=seen).backward()
    assert seen == [(False, True), (True, False)]
    assert constant.grad is None


def test_only_what_backward_needs_is_saved():
    x, constant = leaf([1.0]), mg.tensor([2.0])
    y = x * constant
    assert y._op.saved[0] is None
    assert y._op.saved[1] is constant.numpy()


def test_first_layer_computes_no_input_gradient():
    w = leaf(np.ones((3, 2)))

    @mg.capture
    def step(x):
        w.zero_grad()
        mg.linear(x, w).sum().backward()

    step(np.ones((4, 3), np.float32))
    products = [launch.op for launch in step.plan.launches if launch.kernel == "gemm.gemm"]
    assert products == ["Linear", "Linear backward"]


def test_result_without_need_is_not_on_the_tape():
    y = mg.tensor([1.0]) * 2.0
    assert not y.requires_grad
    assert y.is_leaf


# Memory


def test_saved_arrays_are_freed_as_backward_goes():
    x = leaf([1.0])
    references, alive = [], []
    y = Keeping.apply(x, references=references)
    y.register_hook(lambda grad: alive.append([r() is not None for r in references]))
    z = Keeping.apply(Keeping.apply(y, references=references), references=references)
    z.backward()
    assert alive == [[True, False, False]]
    assert [r() for r in references] == [None] * 3


def test_saved_arrays_stay_with_retain_graph():
    x = leaf([1.0])
    references = []
    y = Keeping.apply(x, references=references)
    y.backward(retain_graph=True)
    assert references[0]() is not None
    y.backward()
    assert references[0]() is None


def test_dropping_the_result_frees_the_tape():
    references = []
    y = Keeping.apply(leaf([1.0]), references=references)
    assert references[0]() is not None
    del y
    assert references[0]() is None


def test_nothing_is_kept_under_no_grad():
    references = []
    with mg.no_grad():
        y = Keeping.apply(leaf([1.0]), references=references)
    assert references[0]() is None
    assert not y.requires_grad


def test_tape_does_not_keep_intermediate_tensors():
    x = leaf([1.0])
    y = x + 1.0
    array = weakref.ref(y.numpy())
    z = y + 1.0
    del y
    assert array() is None
    z.backward()
    assert x.grad.item() == 1


def test_training_makes_no_cycles():
    x = leaf(np.ones(3))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            (x * x).sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()


# What is refused


def test_second_backward_is_refused():
    x = leaf([2.0])
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"backward through Mul a second time.*retain_graph=True"):
        y.backward()
    assert x.grad.item() == 4


def test_backward_through_a_part_freed_by_another_loss_is_refused():
    x = leaf([2.0])
    shared = x * x
    first, second = shared * 2.0, shared * 3.0
    first.backward()
    with pytest.raises(RuntimeError, match="Mul a second time"):
        second.backward()


def test_retain_graph_allows_another_backward():
    x = leaf([2.0])
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8


def test_two_losses_share_a_retained_part():
    x = leaf([2.0])
    shared = x * x
    first, second = shared * 2.0, shared * 3.0
    first.backward(retain_graph=True)
    second.backward()
    assert x.grad.item() == 20


def test_backward_from_several_elements_needs_a_gradient():
    x = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a gradient"):
        (x * x).backward()
    assert x.grad is None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_backward_from_one_element_of_any_rank(shape):
    x = leaf(np.full(shape, 3.0))
    (x * x).backward()
    assert x.grad.shape == shape
    assert x.grad.item() == 6


def test_backward_off_the_tape_is_refused():
    with pytest.raises(RuntimeError, match="not on the tape"):
        (mg.tensor([1.0]) * 2.0).backward()


def test_backward_of_a_detached_tensor_is_refused():
    with pytest.raises(RuntimeError, match="not on the tape"):
        (leaf([1.0]) * 2.0).detach().backward()


@pytest.mark.parametrize(
    "grad",
    [[1.0, 10.0], np.array([1, 10]), np.array([1.0, 10.0]), np.array([10.0, 1.0])[::-1], mg.tensor([1, 10])],
    ids=["list", "integers", "float64", "reversed view", "integer tensor"],
)
def test_gradients_to_start_from(grad):
    x = leaf([1.0, 2.0])
    (x * x).backward(grad)
    np.testing.assert_array_equal(x.grad.numpy(), [2, 40])
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("grad", [np.ones(3), np.ones((2, 1)), 1.0], ids=str)
def test_gradient_of_another_shape_is_refused(grad):
    with pytest.raises(ValueError, match=r"grad has shape .*, the tensor \(2,\)"):
        (leaf([1.0, 2.0]) * 2.0).backward(grad)


def test_gradient_tensor_of_another_float_is_refused():
    with pytest.raises(TypeError, match="grad is float64, the tensor float32"):
        (leaf([1.0, 2.0]) * 2.0).backward(mg.tensor(np.ones(2)))


def test_complex_gradient_is_refused():
    with pytest.raises(TypeError, match="complex128"):
        (leaf([1.0, 2.0]) * 2.0).backward(np.ones(2, complex))


def test_gradient_on_another_device_is_refused():
    with pytest.raises(RuntimeError, match="grad is on 'reference', the tensor on 'cpu'"):
        (leaf([1.0]) * 2.0).backward(mg.tensor([1.0], device="reference"))


def test_inputs_on_different_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"Add: its inputs are on different devices \('cpu', 'reference'\)"):
        leaf([1.0]) + mg.tensor([1.0], device="reference")


def test_two_threads_go_backward_at_once():
    results = {}

    def work(name, factor):
        x = leaf(np.arange(100.0))
        for _ in range(50):
            x.zero_grad()
            y = x
            for _ in range(10):
                y = y * factor
            y.sum().backward()
        results[name] = x.grad.numpy()

    threads = [threading.Thread(target=work, args=(i, float(i))) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results[1], np.ones(100))
    np.testing.assert_array_equal(results[2], np.full(100, 1024))

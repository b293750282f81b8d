"""What kernels say of their own work: held to the reference's arguments, and tried on what a captured step launches."""

import inspect

import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels import reference, work
from minigrad.kernels.work import work_of
from minigrad.ops import Branch, Normalization, concat_branches


@pytest.mark.parametrize("kernel", work.FUNCTIONS)
def test_work_is_told_of_the_arguments_of_the_reference(kernel):
    family, _, name = kernel.partition(".")
    function = getattr(getattr(reference, family), name)
    assert list(inspect.signature(work.FUNCTIONS[kernel]).parameters) == list(inspect.signature(function).parameters)
    assert work.FUNCTIONS[kernel].__name__ == name


def test_every_kernel_that_multiplies_matrices_or_convolves_counts_operations():
    kernels = {
        f"{family}.{name}"
        for family, module in {"gemm": reference.gemm, "conv": reference.conv}.items()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name[0] != "_" and function.__module__ == module.__name__
    }
    assert len(kernels) > 5
    assert kernels <= work.FUNCTIONS.keys()


def test_any_other_kernel_moves_each_array_once():
    x, y = np.zeros((3, 4), np.float32), np.zeros((3, 4))
    assert work_of("movement.copy", (x, y)) == (None, 48 + 96)
    assert work_of("some.other", ([x, x], np.float64(2.0), (1, 2), y)) == (None, 2 * 48 + 96)


def test_optimizers_read_and_write_parameters_and_state():
    groups, hyper, counts = [0], np.zeros((1, 4)), [np.zeros(1)]
    arrays = [np.zeros(10, np.float32)]
    assert work_of("optim.sgd", (arrays, arrays, [], groups, hyper)).bytes == 3 * 40
    assert work_of("optim.sgd", (arrays, arrays, arrays, groups, hyper)).bytes == 5 * 40
    assert work_of("optim.adagrad", (arrays, arrays, arrays, groups, hyper)).bytes == 5 * 40
    assert work_of("optim.rmsprop", (arrays, arrays, arrays, [], arrays, groups, hyper)).bytes == 7 * 40
    assert work_of("optim.adam", (arrays, arrays, arrays, arrays, counts, groups, True, hyper)).bytes == 7 * 40
    assert work_of("optim.average", (arrays, arrays, counts, 0.9)).bytes == 3 * 40


def launches(function, *arrays):
    """Of forward and backward of a function of tensors, by the reference kernels: nothing is compiled."""
    tensors = [mg.tensor(a, device="reference", requires_grad=True) for a in arrays]

    @mg.capture(device="reference")
    def step(dy):
        for t in tensors:
            t.grad = None
        function(*tensors).backward(dy)

    step(function(*tensors).numpy())
    return step.plan.launches


def counted(found):
    return sorted(filter(None, [work_of(launch.kernel, launch.given).operations for launch in found]))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_three_passes_of_a_convolution(size, stride, rng):
    x, w = rng.standard_normal((2, 8, 6, 5), np.float32), rng.standard_normal((size, size, 5, 7), np.float32)
    found = launches(lambda x, w: mg.conv2d(x, w, padding="same", stride=stride), x, w)
    pixels = 2 * (8 // stride) * (6 // stride)
    assert counted(found) == [2 * pixels * size * size * 5 * 7] * 3


def test_passes_of_a_depthwise_convolution(rng):
    x, w = rng.standard_normal((2, 8, 6, 5), np.float32), rng.standard_normal((3, 2, 1, 10), np.float32)
    found = launches(lambda x, w: mg.conv2d(x, w, padding="same", groups=5), x, w)
    assert counted(found) == [2 * 2 * 8 * 6 * 3 * 2 * 10, 2 * 2 * 2 * 8 * 6 * 3 * 2 * 10]  # both gradients together


def test_three_products_of_a_layer(rng):
    found = launches(mg.linear, rng.standard_normal((6, 10), np.float32), rng.standard_normal((10, 3), np.float32))
    assert counted(found) == [2 * 6 * 10 * 3] * 3


def test_three_stacks_of_products(rng):
    a, b = rng.standard_normal((4, 6, 10), np.float32), rng.standard_normal((4, 10, 3), np.float32)
    assert counted(launches(lambda a, b: a @ b, a, b)) == [2 * 4 * 6 * 10 * 3] * 3


def test_a_model_makes_the_multiply_adds_that_its_layers_have(rng):
    images = rng.random((2, 8, 8, 3), np.float32)
    model = mg.models.Inception(width=0.05)
    model.to("reference")
    found = launches(lambda x: model(x), images)
    forward = [launch for launch in found if not launch.op.endswith("backward")]
    side, expected = 8, 0
    for layer in model.layers:
        if isinstance(layer, mg.nn.MaxPool2d):
            side //= 2
        if isinstance(layer, mg.nn.Concat):
            convolutions = [m for _, m in layer.modules() if isinstance(m, mg.nn.Conv2d)]
            expected += sum(2 * 2 * side * side * m.weight.size for m in convolutions)
    expected += 2 * 2 * model.layers[-1].weight.size
    assert sum(counted(forward)) == expected


@pytest.mark.parametrize(
    "function", [mg.linear, lambda x, w: mg.conv2d(x, w.reshape(1, 1, 10, 3))], ids=["linear", "1x1"]
)
def test_a_product_that_adds_to_a_gradient_counts_like_any_and_reads_what_it_writes(function, rng):
    x, w = rng.standard_normal((2, 3, 4, 10), np.float32), rng.standard_normal((10, 3), np.float32)

    def twice(x, w):
        h = x * 1.0
        return function(h, w) + function(h, w)

    found = launches(twice, x, w)
    assert counted(found) == [2 * 24 * 10 * 3] * 6
    (added,) = [launch for launch in found if launch.kernel == "gemm.gemm_add"]
    assert work_of(added.kernel, added.given).bytes == 24 * 3 * 4 + w.nbytes + 2 * x.nbytes


def of_kernel(found, kernel):
    return [work_of(launch.kernel, launch.given).bytes for launch in found if launch.kernel == kernel]


@pytest.mark.parametrize(("activation", "arrays"), [(None, 0), ("relu", 0), ("sigmoid", 1)])
def test_normalization_is_charged_for_what_it_touches(activation, arrays, rng):
    x, p = rng.standard_normal((20, 6), np.float32), np.ones(6, np.float32)

    def training(x, gamma, beta):
        return mg.batch_norm(x, gamma, beta, None, None, training=True, activation=activation)

    def inference(x, gamma, beta):
        return mg.batch_norm(x, gamma, beta, p, p, training=False, activation=activation)

    for function, name, statistics in (
        (training, "norm.batch_norm", 2 * 6 * 8),
        (inference, "norm.batch_norm_inference", 2 * p.nbytes),
    ):
        found = launches(function, x, p, p)
        forward = name + ("_forward" if function is training else "")
        assert of_kernel(found, forward) == [2 * x.nbytes + 2 * p.nbytes + statistics]
        expected = (3 + arrays) * x.nbytes + 4 * p.nbytes + statistics
        assert of_kernel(found, name + "_backward") == [expected]


def test_branches_are_charged_for_their_own_columns(rng):
    x, p = rng.standard_normal((20, 6), np.float32), np.ones(6, np.float32)
    other, third = rng.standard_normal((20, 50), np.float32), rng.standard_normal((20, 3), np.float32)

    def joined(x, gamma, beta, other, third):
        norm = Normalization(gamma, beta, None, None, 0.9, 1e-5)
        return concat_branches([Branch(x, norm, "relu"), Branch(other, None, "sigmoid"), Branch(third, None, None)])

    found = launches(joined, x, p, p, other, third)
    small = 2 * p.nbytes + 2 * 6 * 8
    assert of_kernel(found, "norm.batch_norms_forward") == [2 * x.nbytes + small]
    assert of_kernel(found, "norm.batch_norms_backward") == [3 * x.nbytes + small + 2 * p.nbytes]
    assert of_kernel(found, "elementwise.activate") == [2 * other.nbytes, 2 * third.nbytes]
    assert of_kernel(found, "elementwise.activate_backward") == [3 * other.nbytes, 2 * third.nbytes]


def test_a_slice_is_not_charged_for_the_whole_array(rng):
    a, b = rng.standard_normal((2, 3, 4), np.float32), rng.standard_normal((2, 3, 60), np.float32)
    found = launches(lambda a, b: mg.concat([a, b]), a, b)
    moved = [work_of(launch.kernel, launch.given).bytes for launch in found if launch.op.startswith("Concat")]
    assert sorted(moved) == sorted([2 * a.nbytes, 2 * b.nbytes] * 2)

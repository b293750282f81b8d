"""Memory shared with NumPy, PyTorch and JAX by DLPack, both ways; the GPU's is in tests/cuda/test_dlpack.py."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device
from minigrad.kernels.build.progress import no_compile

ORDERED = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LARGE = 200_000  # float32 numbers, which are from the pool


def library(name):
    """(a function that makes the library's array of NumPy's, one that takes any array by DLPack, one that makes NumPy's)"""
    if name == "numpy":
        return np.array, np.from_dlpack, np.asarray
    if name == "torch":
        torch = pytest.importorskip("torch")
        return lambda a: torch.from_numpy(np.array(a)), torch.from_dlpack, lambda t: t.numpy()
    jax = pytest.importorskip("jax")
    return jax.numpy.asarray, jax.dlpack.from_dlpack, np.asarray


LIBRARIES = ["numpy", "torch", "jax"]
WRITERS = ["numpy", "torch"]  # of which an array can be changed
DTYPES = ["float32", "float64", "int8", "int32", "int64", "uint8", "bool"]
CASES = [
    (name, dtype) for name in LIBRARIES for dtype in DTYPES if name != "jax" or "64" not in dtype
]  # of which JAX has none


class Legacy:
    """An array that speaks DLPack as before 1.0."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Elsewhere:
    """An array on a device that it says."""

    def __init__(self, kind, number=0):
        self.place = kind, number

    def __dlpack__(self, **options):
        raise AssertionError("the memory must not be asked for")

    def __dlpack_device__(self):
        return self.place


# In


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_come_in(name, dtype):
    make, _, _ = library(name)
    t = mg.from_dlpack(make(ORDERED.astype(dtype)))
    assert (t.shape, t.dtype, t.device, t.requires_grad) == ((2, 3, 4), np.dtype(dtype), "cpu", False)
    np.testing.assert_array_equal(t.numpy(), ORDERED.astype(dtype))


@pytest.mark.parametrize("name", LIBRARIES)
def test_memory_is_shared_on_the_way_in(name):
    make, _, out = library(name)
    array = make(ORDERED)
    t = mg.from_dlpack(array)
    assert np.shares_memory(t.numpy(), out(array))


@pytest.mark.parametrize("name", WRITERS)
def test_each_side_sees_what_the_other_writes(name):
    make, _, _ = library(name)
    array = make(ORDERED)
    t = mg.from_dlpack(array)
    array[0, 0, 0] = 50
    assert t[0, 0, 0].item() == 50
    t += 1.0
    assert float(array[0, 0, 0]) == 51


def test_memory_lives_as_long_as_the_tensor():
    array = np.array(ORDERED)
    gone = weakref.ref(array)
    t = mg.from_dlpack(array)
    del array
    gc.collect()
    np.testing.assert_array_equal(t.numpy(), ORDERED)
    assert gone() is not None
    del t
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1],
        lambda a: a[:, ::-2],
        lambda a: a.transpose(2, 0, 1),
        lambda a: a[1:, 1:, 1:],
        lambda a: np.broadcast_to(a[:1], (3, 3, 4)),
        lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float32),
    ],
    ids=["reversed", "steps", "transposed", "part", "repeated", "unaligned"],
)
def test_other_layouts_are_copied_and_never_with_copy_false(view):
    array = view(np.array(ORDERED))
    t = mg.from_dlpack(array)
    np.testing.assert_array_equal(t.numpy(), array)
    assert not np.shares_memory(t.numpy(), array)
    assert t.numpy().flags.c_contiguous
    assert t.numpy().flags.aligned
    t += 1.0
    with pytest.raises(BufferError, match="copy=False forbids"):
        mg.from_dlpack(array, copy=False)


@pytest.mark.parametrize("view", [lambda a: a[1:], lambda a: a[1, 1], lambda a: a[1, 1, 1:2].reshape(())])
def test_part_that_is_contiguous_is_shared(view):
    array = view(np.array(ORDERED))
    t = mg.from_dlpack(array, copy=False)
    assert np.shares_memory(t.numpy(), array)
    np.testing.assert_array_equal(t.numpy(), array)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_empty_and_single(name, shape):
    make, take, out = library(name)
    array = np.ones(shape, np.float32)
    assert mg.from_dlpack(make(array)).shape == shape
    assert out(take(mg.tensor(array))).shape == shape


@pytest.mark.parametrize("copy", [None, True, False])
def test_copy(copy):
    array = np.array(ORDERED)
    t = mg.from_dlpack(array, copy=copy)
    assert np.shares_memory(t.numpy(), array) == (copy is not True)


def read_only():
    array = np.array(ORDERED)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("make", [read_only, lambda: Legacy(np.array(ORDERED)), lambda: library("jax")[0](ORDERED)])
def test_read_only_array_cannot_be_changed(make):
    """Nor one that does not say, and JAX's, which are immutable."""
    t = mg.from_dlpack(make())
    for view in (t, t.detach(), t.reshape(-1)):
        with pytest.raises(ValueError, match="read-only"):
            view += 1.0
        with pytest.raises(ValueError, match="read-only"):
            view[:1] = 0.0
        with pytest.raises(ValueError, match="read-only"):
            view.data[:1] = 0.0
    np.testing.assert_array_equal(t.numpy(), ORDERED)
    assert not np.from_dlpack(t).flags.writeable
    changed = mg.from_dlpack(t, copy=True)
    changed += 1.0
    np.testing.assert_array_equal(t.numpy(), ORDERED)


def test_read_only_memory_is_not_trained_and_not_normalized_into():
    t = mg.from_dlpack(read_only())
    t.requires_grad = True
    with pytest.raises(ValueError, match=r"parameter 0 \(shape \(2, 3, 4\)\) is read-only"):
        mg.optim.SGD([t], lr=0.1)
    mean = mg.from_dlpack(np.broadcast_to(np.float32(0), (4,)).copy())
    mean.data.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        mg.batch_norm(mg.tensor(ORDERED), None, None, mean, mg.tensor(np.ones(4, np.float32)), training=True)


def test_read_only_memory_is_copied_where_it_becomes_data():
    t = mg.tensor(np.zeros_like(ORDERED))
    t.data = mg.from_dlpack(read_only())
    t += 1.0
    np.testing.assert_array_equal(t.numpy(), ORDERED + 1)


def test_read_only_inputs_need_no_kernels_of_their_own(device):
    """They would be compiled anew otherwise, which takes seconds."""
    rng = np.random.default_rng(0)
    x, big = (rng.standard_normal(shape).astype(np.float32) for shape in [(5, 7), (300, 200)])

    def results(x):
        w = mg.tensor(np.ones((x.shape[1], 3), np.float32), device=device, requires_grad=True)
        y = mg.relu(mg.linear(x, w) + 1.0)
        y.sum().backward()
        return [t.numpy() for t in (y, w.grad, x[1:, ::2], x.sum(axis=0), mg.concat([x, x * x]))]

    for array in (x, big):
        expected = results(mg.tensor(array, device=device))
        array.flags.writeable = False
        with no_compile():
            came = results(mg.from_dlpack(array, device=device))
        for one, other in zip(expected, came, strict=True):
            np.testing.assert_array_equal(one, other)


def test_read_only_argument_of_a_captured_step():
    step = mg.capture(lambda x: mg.relu(x * 2.0))
    t = mg.from_dlpack(read_only())
    for _ in range(3):
        np.testing.assert_array_equal(step(t).numpy(), 2 * ORDERED)


def test_device(device):
    t = mg.from_dlpack(np.array(ORDERED), device=device)
    assert t.device == device
    np.testing.assert_array_equal(t.numpy(), ORDERED)
    assert mg.from_dlpack(np.array(ORDERED), device=get_device("reference")).device == "reference"


@pytest.mark.parametrize(
    ("dtype", "name"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("complex64", "complex64")]
)
def test_dtypes_that_tensors_do_not_have(dtype, name):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=f"{name}.* (supported|is not supported)"):
        mg.from_dlpack(torch.zeros(3, dtype=getattr(torch, dtype)))


def test_what_does_not_speak_dlpack():
    with pytest.raises(TypeError, match=r"not a list; mg.tensor\(x\) copies others"):
        mg.from_dlpack([1.0, 2.0])
    with pytest.raises(BufferError, match="device of type 10"):
        mg.from_dlpack(Elsewhere(10))


def test_gradient_of_another_library_is_not_lost_in_silence():
    torch = pytest.importorskip("torch")
    with pytest.raises(BufferError, match="require gradient"):
        mg.from_dlpack(torch.zeros(3, requires_grad=True))


def test_captured_step_does_not_share_memory():
    array = np.array(ORDERED)
    with pytest.raises(mg.CaptureError, match="from_dlpack inside a captured step"):
        mg.capture(lambda x: x + mg.from_dlpack(array))(mg.tensor(ORDERED))


def test_tensor_of_our_own_keeps_the_count_of_its_changes():
    x = mg.tensor([1.0, 2.0])
    w = mg.tensor([3.0, 4.0], requires_grad=True)
    y = (w * x).sum()
    same = mg.from_dlpack(x)
    same += 1.0
    with pytest.raises(RuntimeError, match="in place"):
        y.backward()


def test_what_others_write_is_not_noticed_by_the_tape():
    """As the page says: there is nobody to tell it."""
    x = np.array([1.0, 2.0], np.float32)
    w = mg.tensor([3.0, 4.0], requires_grad=True)
    y = (w * mg.from_dlpack(x)).sum()
    x[:] = 10
    y.backward()
    np.testing.assert_array_equal(w.grad.numpy(), [10, 10])


# Out


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_go_out(name, dtype):
    _, take, out = library(name)
    t = mg.tensor(ORDERED.astype(dtype))
    other = take(t)
    assert tuple(other.shape) == (2, 3, 4)
    np.testing.assert_array_equal(out(other), ORDERED.astype(dtype))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("home", ["cpu", "reference"])
def test_memory_is_shared_on_the_way_out(name, home):
    _, take, _ = library(name)
    t = mg.tensor(ORDERED, device=home)
    other = take(t)
    other[0, 0, 0] = 50
    assert t.numpy()[0, 0, 0] == 50


@pytest.mark.parametrize("name", LIBRARIES)
def test_pooled_memory_is_not_used_again_while_others_hold_it(name):
    _, take, out = library(name)
    pool = get_device("cpu").pool
    t = mg.tensor(np.ones(LARGE, np.float32)) * 3.0
    other = take(t)
    place, size = t.data.ctypes.data, t.data.nbytes
    shared = out(other).ctypes.data == place
    assert shared or name == "jax"  # which copies what is not as aligned as it wants
    del t
    again = [mg.tensor(np.ones(LARGE, np.float32)) * 5.0 for _ in range(3)]
    assert (out(other) == 3).all()
    assert not any(a.data.ctypes.data == place for a in again) or not shared
    del other
    gc.collect()
    assert not shared or any(
        block.ctypes.data <= place < block.ctypes.data + size for blocks in pool.free.values() for block in blocks
    )


def test_tensor_that_requires_a_gradient_is_refused():
    t = mg.tensor([1.0], requires_grad=True)
    for tensor in (t, t * 2.0):
        with pytest.raises(BufferError, match=r"pass its detach\(\)"):
            np.from_dlpack(tensor)
        with pytest.raises(BufferError, match=r"pass its detach\(\)"):
            mg.from_dlpack(tensor)
    assert np.shares_memory(np.from_dlpack(t.detach()), t.numpy())


def test_read_only_memory_goes_out_as_such():
    t = mg.from_dlpack(read_only())
    assert not np.from_dlpack(t).flags.writeable
    with pytest.raises(BufferError, match="read"):
        t.__dlpack__()  # which asks for a capsule of before 1.0


def test_arguments_of_the_array_api():
    t = mg.tensor(ORDERED)
    assert t.__dlpack_device__() == (1, 0)
    assert "dltensor_versioned" in repr(t.__dlpack__(max_version=(1, 0), dl_device=(1, 0), copy=False))
    assert '"dltensor"' in repr(t.__dlpack__())
    with pytest.raises((BufferError, ValueError)):
        t.__dlpack__(dl_device=(2, 0))


@pytest.mark.slow
def test_arrays_held_to_the_end_of_the_process():
    code = """
import numpy as np
import minigrad as mg
array = np.ones(200_000, np.float32)
t = mg.from_dlpack(array) * 2.0
out = np.from_dlpack(t)
try:
    import torch
    other = torch.from_dlpack(t)
except ImportError:
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

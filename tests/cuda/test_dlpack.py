"""DLPack's capsules of the simulated GPU, and the structs in them, held against what NumPy and PyTorch make of them."""

import gc

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import dlpack
from minigrad.devices.cuda_memory import block_of, host_copy
from minigrad.kernels.cuda.tools.array import CudaArray

ORDERED = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
CPU = dlpack.CPU, 0


class OnTheHost:
    """An array of NumPy's, in a capsule that was made here."""

    def __init__(self, array, **options):
        self.array, self.options = array, options

    def __dlpack__(self, stream=None, max_version=None, dl_device=None, copy=None):
        a = self.array
        return dlpack.capsule_of(
            a.ctypes.data, a.shape, a.dtype, self, device=CPU, max_version=max_version, **self.options
        )

    def __dlpack_device__(self):
        return CPU


class OtherLibrary:
    """An array of a library that speaks DLPack and has memory of its own on the GPU; strides are in elements."""

    def __init__(self, gpu, values, shape, strides, offset=0, *, flags=0, max_version=(1, 0), version=None):
        values = np.ascontiguousarray(values)
        self.gpu, self.dtype, self.version = gpu, values.dtype, version
        self.layout = shape, strides, offset
        self.flags, self.max_version = flags, max_version
        self.pointer = gpu.driver.allocate(max(1, values.nbytes))
        gpu.driver.to_device(self.pointer, values.ctypes.data, values.nbytes, gpu.stream)
        self.asked = None

    def __dlpack__(self, **options):
        self.asked = options
        shape, strides, offset = self.layout
        capsule = dlpack.capsule_of(
            self.pointer, shape, self.dtype, Held(self), device=(dlpack.CUDA, 0), flags=self.flags,
            max_version=self.max_version,
        )  # fmt: skip
        kind = dlpack.Managed if self.max_version is None else dlpack.ManagedVersioned
        struct = kind.from_address(dlpack.api.PyCapsule_GetPointer(id(capsule), dlpack.FRESH[kind]))
        if self.version:
            struct.major = self.version
        struct.tensor.byte_offset = offset * self.dtype.itemsize
        if strides is None:
            struct.tensor.strides = None
        else:
            for axis, step in enumerate(strides):
                struct.tensor.strides[axis] = step
        return capsule

    def __dlpack_device__(self):
        return dlpack.CUDA, 0


class Held:
    """Notes when the memory of the other library is given back."""

    def __init__(self, array):
        array.given_back = False
        self.array = array

    def __del__(self):
        self.array.given_back = True


# The structs


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "uint16", "bool"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (24,), (0, 3), ()])
def test_numpy_reads_our_capsules(dtype, shape):
    array = np.resize(ORDERED, shape).astype(dtype)
    came = np.from_dlpack(OnTheHost(array))
    np.testing.assert_array_equal(came, array)
    assert came.dtype == dtype
    assert came.shape == shape
    assert np.shares_memory(came, array) == (array.size > 0)


@pytest.mark.parametrize("flags", [0, dlpack.READ_ONLY])
def test_numpy_sees_whether_they_are_read_only(flags):
    assert np.from_dlpack(OnTheHost(ORDERED.copy(), flags=flags)).flags.writeable == (flags == 0)


def test_torch_reads_our_capsules_of_both_kinds():
    torch = pytest.importorskip("torch")
    array = ORDERED.copy()
    for max_version in (None, (1, 0)):
        t = torch.from_dlpack(OnTheHost(array).__dlpack__(max_version=max_version))
        np.testing.assert_array_equal(t.numpy(), array)
        assert t.stride() == (12, 4, 1)


def test_owner_lives_until_the_memory_is_given_back():
    before = len(dlpack.lent)
    came = np.from_dlpack(OnTheHost(ORDERED.copy()))
    gc.collect()
    assert len(dlpack.lent) == before + 1
    np.testing.assert_array_equal(came, ORDERED)
    del came
    assert len(dlpack.lent) == before


@pytest.mark.parametrize("max_version", [None, (1, 0), (2, 3)])
def test_capsule_that_nobody_takes_lets_its_owner_go(max_version):
    before = len(dlpack.lent)
    capsule = OnTheHost(ORDERED).__dlpack__(max_version=max_version)
    assert len(dlpack.lent) == before + 1
    del capsule
    assert len(dlpack.lent) == before


@pytest.mark.parametrize("max_version", [None, (1, 0)])
def test_capsules_of_numpy_are_read(max_version):
    options = {} if max_version is None else {"max_version": max_version}
    array = np.array(ORDERED)[:, ::2]
    found = dlpack.taken(array.__dlpack__(**options))
    assert (found.pointer, found.shape, found.dtype) == (array.ctypes.data, (2, 2, 4), np.float32)
    assert found.strides == (12, 8, 1)
    assert found.owner.read_only == (max_version is None)


def test_capsules_of_torch_are_read_and_given_back():
    torch = pytest.importorskip("torch")
    t = torch.arange(6, dtype=torch.int32).reshape(2, 3)[:, 1:]
    found = dlpack.taken(t.__dlpack__(max_version=(1, 0)))
    assert (found.pointer, found.shape, found.strides, found.dtype) == (t.data_ptr(), (2, 2), (3, 1), np.int32)
    with pytest.raises(TypeError, match="bfloat16, 16 bits, is not supported"):
        dlpack.taken(torch.zeros(3, dtype=torch.bfloat16).__dlpack__())
    with pytest.raises(TypeError, match="complex, 64 bits"):
        dlpack.taken(torch.zeros(3, dtype=torch.complex64).__dlpack__())


def test_capsule_is_taken_once():
    capsule = ORDERED.copy().__dlpack__(max_version=(1, 0))
    dlpack.taken(capsule)
    with pytest.raises(BufferError, match="fresh capsule"):
        dlpack.taken(capsule)
    with pytest.raises(BufferError, match="fresh capsule"):
        dlpack.taken(ORDERED)


# Out of the GPU


def test_memory_goes_out_and_comes_back(gpu):
    t = mg.tensor(ORDERED, device="cuda")
    assert t.__dlpack_device__() == (2, 0)
    back = mg.from_dlpack(Through(t))
    assert type(back.data) is CudaArray
    assert back.data.pointer == t.data.pointer
    np.testing.assert_array_equal(back.numpy(), ORDERED)
    back += 1.0
    np.testing.assert_array_equal(t.numpy(), ORDERED + 1)


class Through:
    """A tensor as others see it."""

    def __init__(self, t, **options):
        self.t, self.options = t, options

    def __dlpack__(self, **options):
        return self.t.__dlpack__(**{**options, **self.options})

    def __dlpack_device__(self):
        return self.t.__dlpack_device__()


def test_pooled_memory_is_not_used_again_while_others_hold_it(gpu):
    t = mg.tensor(ORDERED, device="cuda")
    place = t.data.pointer
    held = mg.from_dlpack(Through(t))
    del t
    gc.collect()
    assert mg.tensor(ORDERED + 1, device="cuda").data.pointer != place
    np.testing.assert_array_equal(held.numpy(), ORDERED)
    del held
    gc.collect()
    assert place in [mg.tensor(ORDERED, device="cuda").data.pointer]


@pytest.mark.parametrize(("stream", "waits"), [(None, 1), (1, 1), (12345, 1), (-1, 0)])
def test_streams_of_others_find_all_done(gpu, monkeypatch, stream, waits):
    t = mg.tensor(ORDERED, device="cuda")
    calls = []
    monkeypatch.setattr(gpu.driver, "synchronize", calls.append)
    t.__dlpack__(stream=stream)
    assert len(calls) == waits


def test_what_is_asked_for_and_cannot_be(gpu):
    t = mg.tensor(ORDERED, device="cuda")
    with pytest.raises(BufferError, match="stream=0"):
        t.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="not to \\(2, 1\\)"):
        t.__dlpack__(dl_device=(2, 1))
    with pytest.raises(BufferError, match="copy=False forbids"):
        t.__dlpack__(dl_device=(1, 0), copy=False)
    t.requires_grad = True
    with pytest.raises(BufferError, match="detach"):
        t.__dlpack__()


def test_copy_goes_out(gpu):
    t = mg.tensor(ORDERED, device="cuda")
    other = mg.from_dlpack(Through(t, copy=True))
    other += 1.0
    np.testing.assert_array_equal(t.numpy(), ORDERED)
    np.testing.assert_array_equal(np.from_dlpack(t, device="cpu"), ORDERED)


def test_what_the_host_knew_is_forgotten_once_others_may_write(gpu):
    """Labels are checked on the host's copy, which others do not change."""
    labels = mg.tensor(np.int64([0, 1, 2]), device="cuda")
    assert host_copy(labels.data) is not None
    other = mg.from_dlpack(Through(labels))
    assert host_copy(labels.data) is None
    labels[:] = 1
    assert host_copy(labels.data) is None
    other[:] = 7
    logits = mg.tensor(np.zeros((3, 3), np.float32), device="cuda")
    with pytest.raises(ValueError, match="label"):
        mg.cross_entropy(logits, labels)
    block = block_of(labels.data)
    del labels, other
    gc.collect()
    again = mg.tensor(np.int64([0, 1, 2]), device="cuda")
    assert block_of(again.data) is block
    assert host_copy(again.data) is not None


# Into it


def test_memory_of_others_is_shared_and_given_back(gpu):
    array = OtherLibrary(gpu, ORDERED, (2, 3, 4), (12, 4, 1))
    t = mg.from_dlpack(array)
    assert t.data.pointer == array.pointer
    assert array.asked == {"stream": int(gpu.stream) or None, "max_version": (1, 0)}
    np.testing.assert_array_equal((t + 1.0).numpy(), ORDERED + 1)
    t += 1.0
    view = t.reshape(-1)
    del t
    gc.collect()
    assert not array.given_back
    np.testing.assert_array_equal(view.numpy(), ORDERED.ravel() + 1)
    del view
    gc.collect()
    assert array.given_back


def test_it_is_given_back_once_the_gpu_is_done_with_it(gpu, monkeypatch):
    array = OtherLibrary(gpu, ORDERED, (24,), None)
    t = mg.from_dlpack(array)
    order = []
    monkeypatch.setattr(gpu.driver, "synchronize", lambda stream: order.append(array.given_back))
    del t
    gc.collect()
    assert (order, array.given_back) == ([False], True)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 3), (1, 4), 0),
        ((3, 2), (4, 2), 1),
        ((3, 4), (-4, 1), 8),
        ((2, 3, 2), (12, -4, 2), 9),
        ((3, 5), (1, 0), 2),
    ],
    ids=["transposed", "steps", "reversed", "three axes", "repeated"],
)
def test_other_layouts_are_copied(gpu, shape, strides, offset):
    array = OtherLibrary(gpu, ORDERED, shape, strides, offset)
    bytes_ = tuple(4 * s for s in strides)
    expected = np.lib.stride_tricks.as_strided(ORDERED.ravel()[offset:], shape, bytes_)
    t = mg.from_dlpack(array)
    np.testing.assert_array_equal(t.numpy(), expected)
    gc.collect()
    assert array.given_back
    with pytest.raises(BufferError, match="copy=False forbids"):
        mg.from_dlpack(array, copy=False)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((2, 1, 4), (4, 99, 1), 3), ((0, 4), (7, 1), 0), ((), (), 5), ((1,), (-3,), 2)]
)
def test_contiguous_parts_are_shared(gpu, shape, strides, offset):
    array = OtherLibrary(gpu, ORDERED, shape, strides, offset)
    t = mg.from_dlpack(array, copy=False)
    assert (t.shape, t.data.pointer) == (shape, array.pointer + 4 * offset)
    size = int(np.prod(shape))
    np.testing.assert_array_equal(t.numpy(), ORDERED.ravel()[offset : offset + size].reshape(shape))


@pytest.mark.parametrize("how", [{"flags": dlpack.READ_ONLY}, {"max_version": None}])
def test_read_only_memory_cannot_be_changed(gpu, how):
    """Nor that of a library that cannot say whether it is."""
    t = mg.from_dlpack(OtherLibrary(gpu, ORDERED, (24,), None, **how))
    for view in (t, t.reshape(2, 12)):
        with pytest.raises(ValueError, match="read-only"):
            view += 1.0
        with pytest.raises(ValueError, match="read-only"):
            view[:1] = 0.0
    t.requires_grad = True
    with pytest.raises(ValueError, match="read-only"):
        mg.optim.SGD([t], lr=0.1)
    changed = mg.from_dlpack(OtherLibrary(gpu, ORDERED, (24,), None, **how), copy=True)
    changed += 1.0
    np.testing.assert_array_equal(changed.numpy(), ORDERED.ravel() + 1)


def test_devices_between(gpu):
    on_gpu = OtherLibrary(gpu, ORDERED, (2, 3, 4), None)
    t = mg.from_dlpack(on_gpu, device="cpu")
    assert t.device == "cpu"
    np.testing.assert_array_equal(t.numpy(), ORDERED)
    np.testing.assert_array_equal(mg.from_dlpack(ORDERED.copy(), device="cuda").numpy(), ORDERED)
    for array, device in ((on_gpu, "cpu"), (ORDERED.copy(), "cuda")):
        with pytest.raises(BufferError, match="copy=False forbids"):
            mg.from_dlpack(array, device=device, copy=False)


def test_newer_version_is_refused_and_given_back(gpu):
    array = OtherLibrary(gpu, ORDERED, (24,), None, version=2)
    with pytest.raises(BufferError, match="DLPack 2.0, of which 1 is known"):
        mg.from_dlpack(array)
    gc.collect()
    assert array.given_back


def test_unaligned_memory_and_other_gpus_are_refused(gpu):
    array = OtherLibrary(gpu, ORDERED, (4,), None)
    array.pointer += 2
    with pytest.raises(BufferError, match="not aligned for float32"):
        mg.from_dlpack(array)
    array.__class__ = type("Second", (OtherLibrary,), {"__dlpack_device__": lambda self: (2, 1)})
    with pytest.raises(BufferError, match="on GPU 1"):
        mg.from_dlpack(array)

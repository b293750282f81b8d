import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import Device, Pool, get_device
from minigrad.devices.base import POOLED_BYTES
from minigrad.devices.memory import ALIGNMENT, bucket
from minigrad.devices.registry import DEVICES

FLOAT32 = np.dtype(np.float32)
LARGE = POOLED_BYTES // 4  # float32 elements from which the pool is used


def address(array):
    return array.__array_interface__["data"][0]


def block_of(array):
    return array.base.block


def test_names():
    assert get_device("cpu") is get_device(None)
    assert get_device("reference").name == "reference"
    assert get_device(get_device("reference")) is get_device("reference")
    assert repr(get_device("cpu")) == "Device('cpu')"


def test_auto_is_the_cpu_where_no_gpu_works(monkeypatch):
    cuda = pytest.importorskip("minigrad.devices.cuda", exc_type=ImportError)

    def open_driver():
        raise RuntimeError("no NVIDIA driver was found on this machine")

    monkeypatch.setattr(cuda, "open_driver", open_driver)
    monkeypatch.setitem(DEVICES, "cuda", None)
    del DEVICES["cuda"]
    assert get_device("auto") is DEVICES["cpu"]
    assert mg.tensor([1.0], device="auto").device == "cpu"
    with pytest.raises(RuntimeError, match="no NVIDIA driver"):
        get_device("cuda")


@pytest.mark.skipif("cuda" in DEVICES or get_device("auto").name == "cuda", reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_says_what_to_do_where_it_does_not_work(name):
    with pytest.raises(RuntimeError, match=r"(nvidia-smi|pip install 'minigrad-bn\[cuda\]').*use device=\"cpu\""):
        get_device(name)


def test_another_gpu_is_chosen_outside():
    with pytest.raises(RuntimeError, match="one GPU.*CUDA_VISIBLE_DEVICES=1"):
        get_device("cuda:1")


@pytest.mark.parametrize("name", ["", "CPU", "tpu", "gpu", 0, 1.5])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="unknown device .* 'cpu', 'reference', 'cuda', 'auto'"):
        get_device(name)


def test_kernels_of_each_device():
    assert get_device("cpu").kernels.__name__ == "minigrad.kernels.cpu"
    assert get_device("reference").kernels.__name__ == "minigrad.kernels.reference"


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (LARGE - 1,), (LARGE,), (7, LARGE), (0, LARGE)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_arrays_are_as_asked(shape, dtype):
    array = Device("cpu").empty(shape, np.dtype(dtype))
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_dtype_may_be_a_class():
    for size in (3, LARGE):
        assert Device("cpu").empty((size,), np.float32).dtype == FLOAT32


@pytest.mark.parametrize("nbytes", [0, 1, 64, 65, 1000, POOLED_BYTES, POOLED_BYTES + 1, 10_000_019, 1 << 31])
def test_blocks_are_a_little_larger_than_asked(nbytes):
    size = bucket(nbytes)
    assert size % ALIGNMENT == 0
    assert max(nbytes, ALIGNMENT) <= size <= max(2 * ALIGNMENT, nbytes * 9 / 8 + ALIGNMENT)


def test_shapes_nearly_alike_share_block_sizes():
    assert len({bucket(n) for n in range(1 << 20, 1 << 21, 1000)}) <= 9


def test_large_arrays_are_aligned():
    pool = Pool()
    arrays = [pool.empty((n,), FLOAT32) for n in (1, 1000, LARGE, LARGE + 1)]
    assert [address(a) % ALIGNMENT for a in arrays] == [0] * 4


def test_memory_comes_back_when_the_array_is_gone():
    device = Device("cpu")
    first = device.empty((2 * LARGE,), FLOAT32)
    where = address(first)
    del first
    again = device.empty((2 * LARGE - 10,), FLOAT32)
    assert address(again) == where
    assert device.pool.allocated == bucket(8 * LARGE)


def test_memory_in_use_is_not_handed_out():
    pool = Pool()
    arrays = [pool.empty((LARGE,), FLOAT32) for _ in range(5)]
    for i, array in enumerate(arrays):
        array[:] = i
    assert [set(array) for array in arrays] == [{0}, {1}, {2}, {3}, {4}]


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[5:],
        lambda a: a.reshape(2, -1),
        lambda a: a.reshape(2, -1).T[1:, ::-1],
        memoryview,
        lambda a: np.frombuffer(a, np.uint8),
        np.from_dlpack,
        lambda a: mg.Tensor._wrap(a, get_device("cpu")).detach(),
    ],
    ids=["slice", "reshape", "strided", "memoryview", "buffer", "dlpack", "tensor"],
)
def test_views_keep_the_memory(view):
    pool = Pool()
    array = pool.empty((LARGE,), FLOAT32)
    held = view(array)
    del array
    assert pool.free == {}
    del held
    gc.collect()
    assert [len(blocks) for blocks in pool.free.values()] == [1]


def test_release_gives_back_what_is_free():
    pool = Pool()
    kept, gone = pool.empty((LARGE,), FLOAT32), pool.empty((2 * LARGE,), FLOAT32)
    kept[:] = 7
    del gone
    pool.release()
    assert pool.free == {}
    assert pool.allocated == block_of(kept).size
    assert (kept == 7).all()


def test_results_reuse_memory_from_step_to_step():
    x = mg.tensor(np.ones(LARGE, np.float32))
    addresses = set()
    for _ in range(10):
        y = x * 2.0
        addresses.add(address(y.numpy()))
        del y
    assert len(addresses) <= 2


def test_result_held_by_the_user_is_left_alone():
    x = mg.tensor(np.ones(LARGE, np.float32))
    held = (x * 2.0).numpy()
    for factor in range(5):
        x * float(factor)
    assert (held == 2).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_free_blocks_are_given_back_before_memory_runs_out():
    code = """
import resource

import numpy as np
from minigrad.devices import Device

device = Device("cpu")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
float32 = np.dtype(np.float32)
array = device.empty((150 << 20,), float32)  # 600 MB, which then lie free in the pool
del array
array = device.empty((200 << 20,), float32)  # 800 MB fit only without them
array[-1] = 1
assert device.pool.allocated < 1 << 30
try:
    device.empty((400 << 20,), float32)
except MemoryError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("refused\n", "")


def test_threads_share_a_pool():
    pool = Pool()
    wrong = []

    def work(value):
        for _ in range(300):
            array = pool.empty((LARGE,), FLOAT32)
            array[:100] = value
            again = pool.empty((LARGE,), FLOAT32)
            again[:100] = -value
            if (array[:100] != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(map(len, pool.free.values())) <= 6


def test_large_training_keeps_its_memory_bounded():
    rng = np.random.default_rng(0)
    model = mg.nn.Sequential(mg.nn.Linear(100, 400), mg.nn.ReLU(), mg.nn.Linear(400, 10))
    images = mg.tensor(rng.standard_normal((2000, 100)).astype(np.float32))
    allocated = []
    for _ in range(6):
        model(images).sum().backward()
        model.zero_grad()
        allocated.append(get_device("cpu").pool.allocated)
    assert allocated[-1] == allocated[2]

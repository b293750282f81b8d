"""PTX written by hand, run on the host: what the tests of the host's parts share."""

import types

import numpy as np

from minigrad.kernels.cuda.host.compiled import HostKernel
from minigrad.kernels.cuda.host.driver import LoadedKernel
from minigrad.kernels.cuda.tools.launch import ULong, three

HEAD = """.version 7.1
.target sm_80
.address_size 64
{shared}
.visible .entry tried(
{parameters}
)
.maxntid {threads}, 1, 1
{{
    .reg .pred %p<20>;
    .reg .b16 %h<20>;
    .reg .b32 %r<40>;
    .reg .f32 %f<40>;
    .reg .b64 %rd<40>;
    .reg .f64 %fd<20>;
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd0, %r0, 4;
{load}
{body}
    ret;
}}
"""


def source(body, pointers=1, shared="", threads=128):
    """A kernel: %r0 is the thread's index, %rd0 four times that, %rd1, %rd2 ... the addresses that it is given."""
    parameters = ",\n".join(f"    .param .u64 given_{i}" for i in range(pointers))
    load = "\n".join(f"    ld.param.u64 %rd{i + 1}, [given_{i}];" for i in range(pointers))
    return HEAD.format(shared=shared, parameters=parameters, threads=threads, load=load, body=body)


def run(driver, text, *arrays, grid=1, block=32, shared_bytes=0):
    """What a kernel leaves in copies of arrays; those of `unwritten` are only allocated."""
    kernel = types.SimpleNamespace(name="tried", parameters=[ULong] * len(arrays), threads=1024)
    handle = LoadedKernel(kernel, np.dtype(np.float32), HostKernel(text, "tried", driver.checks, driver.is_counting))
    addresses = []
    for array in arrays:
        addresses.append(driver.allocate(array.nbytes))
        if array.flags.writeable:
            driver.to_device(addresses[-1], array.ctypes.data, array.nbytes, 0)
    driver.launch(handle, three(grid), three(block), shared_bytes, 0, addresses)
    results = [np.empty_like(array) for array in arrays]
    for result, address in zip(results, addresses, strict=True):
        driver.to_host(result.ctypes.data, address, result.nbytes, 0)
    return results


def unwritten(count):
    """Stands for memory of so many float32 that `run` allocates and leaves alone."""
    array = np.zeros(count, np.float32)
    array.flags.writeable = False
    return array

"""Ship the CUDA kernels' PTX with a release: `kernels/cuda/kernels.ptx.xz`, which goes into archive and wheel.

    python tools/ship_kernels.py

It has every kernel of the sources as they are, and those that ops are made into by their formulas: what the cases of `minigrad
verify` launch, and each public op that is a formula, of arrays that lie alike and with a number in the place of one. It needs
the compiler (`pip install -e '.[compiler]'`), no GPU, and minutes. Where a kernel is looked for: kernels/cuda/tools/shipped.py.
"""

import numpy as np

import minigrad as mg
from minigrad.cli.verification import op_cases
from minigrad.devices.cuda import CudaDevice
from minigrad.devices.registry import DEVICES
from minigrad.kernels.cuda.tools import launch, machine_code, shipped
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver
from minigrad.ops.pointwise import Elementwise


class NotingDriver(SimulatedDriver):
    """A GPU that notes which kernels it is asked for, and does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, tuple[launch.CudaKernel, np.dtype]] = {}

    def prepare(self, kernel: launch.CudaKernel, real: np.dtype) -> str:
        """Note it."""
        name = f"{kernel.name}:{real.name}"
        self.asked[name] = kernel, real
        return name

    def launch(self, *launched: object) -> None:
        """Nothing is done: what ops give is garbage."""


def launched() -> dict[str, tuple[launch.CudaKernel, np.dtype]]:
    """{name: (kernel, type)} that ops launch, with their gradients."""
    driver = NotingDriver()
    DEVICES["cuda"] = CudaDevice(driver)

    for dtype in (np.float32, np.float64):

        def tensor(array: np.ndarray, dtype: type = dtype) -> mg.Tensor:
            return mg.tensor(array.astype(dtype), device="cuda", requires_grad=True)

        for op, arrays in op_cases().values():
            op(*map(tensor, arrays)).sum().backward()
        for op in {id(f): f for f in vars(mg).values() if isinstance(f, Elementwise)}.values():
            for given in inputs(op, tensor(np.ones((2, 3)))):
                y = op(*given)
                if y.requires_grad:
                    y.sum().backward()
    return driver.asked


def inputs(op: Elementwise, x: mg.Tensor) -> list[list[mg.Tensor | float]]:
    """What an op is tried on: x for each argument that has no default, and a number in the place of one of them."""
    kinds = op.traced.kinds[: len(op.traced.kinds) - len(op.defaults)]
    tensors: list[mg.Tensor | float] = [x > 0 if kind == "bool" else x for kind in kinds]
    numbers = [True if kind == "bool" else 2.0 for kind in kinds]
    mixed = [[*tensors[:i], numbers[i], *tensors[i + 1 :]] for i in range(len(kinds))]
    return [tensors, *mixed] if len(kinds) > 1 else [tensors]


def main() -> None:
    """Compile what is not kept on disk, and write the file."""
    cases = machine_code.cases() | launched()
    ptx = {name: launch.cached_ptx(*case)[0] for name, case in sorted(cases.items())}
    size = shipped.write(ptx)
    print(f"{shipped.PATH}: {len(ptx)} kernels, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

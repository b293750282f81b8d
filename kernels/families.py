"""The families of kernels, which are the same for every device, each a module that is imported when first used."""

import importlib

FAMILIES = (
    "augment",
    "conv",
    "dropout",
    "elementwise",
    "gemm",
    "loss",
    "lrn",
    "movement",
    "norm",
    "optim",
    "pool",
    "reduce",
)


def importer(package):
    """The `__getattr__` of a device's package: it imports the family that is asked for."""

    def __getattr__(name):
        if name in FAMILIES:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__

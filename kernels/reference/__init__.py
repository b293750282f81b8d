"""Kernels in plain NumPy: the executable specification of every kernel, and the device "reference"."""

from minigrad.kernels.contract import FAMILIES, importer

__all__ = [*FAMILIES]
__getattr__ = importer(__name__)

"""The kernels: functions that know arrays and nothing else, one package per kind of device.

contract    which families of kernels there are, and what each kernel takes
formulas    scalar math, written once, compiled for every target; so are
steps       what optimizers do to one element, and
philox      the random numbers of dropout
window      what a window over an image is, and what it covers
axes        shapes and strides as kernels are told them
reference   NumPy: the executable specification
cpu         Numba
cuda        numba.cuda
"""

"""The kernels: functions that know arrays and nothing else, one package per kind of device.

families    which families there are
formulas    scalar math, written once, compiled for every target
reference   NumPy: the executable specification
cpu         Numba
cuda        numba.cuda
"""

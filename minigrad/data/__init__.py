"""Datasets as NumPy arrays, and mini-batches of them."""

from minigrad.data.download import DownloadError, fetch
from minigrad.data.idx import read_idx
from minigrad.data.loader import Loader
from minigrad.data.mnist import MNIST, load_binary_mnist, load_mnist

__all__ = ["MNIST", "DownloadError", "Loader", "fetch", "load_binary_mnist", "load_mnist", "read_idx"]

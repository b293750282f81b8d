"""Datasets as NumPy arrays, mini-batches of them, and what happens to images on their way to the network."""

from minigrad.data import augment, transforms
from minigrad.data.augment import BrightnessContrast, Kiefer, ShiftCrop, generator
from minigrad.data.cifar10 import CIFAR10, load_cifar10
from minigrad.data.collate import stack
from minigrad.data.download import DownloadError, fetch
from minigrad.data.idx import read_idx
from minigrad.data.imagefolder import ImageFolder
from minigrad.data.loader import Loader
from minigrad.data.mnist import MNIST, load_binary_mnist, load_mnist
from minigrad.data.tables import Parquet, parquet
from minigrad.data.transforms import ZCA, ByName, Compose, Normalize, Scale, Transform, channel_statistics

__all__ = [
    "CIFAR10",
    "MNIST",
    "ZCA",
    "BrightnessContrast",
    "ByName",
    "Compose",
    "DownloadError",
    "ImageFolder",
    "Kiefer",
    "Loader",
    "Normalize",
    "Parquet",
    "Scale",
    "ShiftCrop",
    "Transform",
    "augment",
    "channel_statistics",
    "fetch",
    "generator",
    "load_binary_mnist",
    "load_cifar10",
    "load_mnist",
    "parquet",
    "read_idx",
    "stack",
    "transforms",
]

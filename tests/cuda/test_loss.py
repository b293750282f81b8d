import numpy as np

from minigrad.kernels.cuda import loss


def test_few_threads_of_the_comparison_with_the_reference_are_two_blocks():
    assert 2 * loss.THREADS == 512  # in tests/kernels/test_loss.py


def test_batch_of_mnist_takes_one_launch(memory):
    x, labels = memory.put(np.zeros((60, 10), np.float32)), memory.put(np.zeros(60, np.int64))
    loss.cross_entropy_forward(x, labels, memory.empty((60, 10), np.float32), memory.empty((1,), np.float32))
    assert sum(memory.driver.launches.values()) == 1

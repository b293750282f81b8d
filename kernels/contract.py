"""The contract: which families of kernels there are, which kernels each has, and what they take.

`Op.kernels` is of type `Kernels`, so that `self.kernels.conv.conv_forward` leads here, and from here to its three files:
every family is a module of one name in `reference` (NumPy, the specification), `cpu` (Numba) and `cuda` (numba.cuda), each
imported when first used. A test holds all three against these protocols, name by name and parameter by parameter.

Arrays are C-contiguous, of float32 or float64 where nothing else is said, and those of one call of one dtype. Inputs are
only read; outputs come last and are filled; nothing is returned. Arguments are passed by position: a recorded step (mg.capture)
keeps them so. Callers check, kernels trust.

All families stand in this one file: who asks what a device must bring, or where a kernel is, has one place to look.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np

from minigrad.kernels.axes import Shape
from minigrad.kernels.expressions import Formula
from minigrad.kernels.window import Window

Array = np.ndarray
"""An array of the device at work: NumPy's, or on a GPU a CudaArray, which has what ops use of NumPy's."""


class Attention(Protocol):
    """Scaled dot-product attention of queries q (b, n, e) to keys k (b, s, e) and values v (b, s, d).

    kernels/reference/attention.py, kernels/cpu/attention.py, kernels/cuda/attention.py

    mask is (masks, 1 or n, s), of bool (True: takes part) or of q's dtype (added to the scores), or (0, 0, 0) for none; that
    of q[i] is mask[i // each % masks]. lse (b, n) is the logarithm of the sum of exponentials of a query's scores, and
    infinity for a query that no key takes part in: exp(score - lse) is its weight in either case. Of the weights the share
    `rate`, 0 to below 1, is dropped, as `Dropout` would by this key; it is not read where the rate is 0.
    """

    def attention_forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array,
        each: int,
        scale: float,
        causal: bool,
        rate: float,
        key: Array,
        y: Array,
        lse: Array,
        /,
    ) -> None:
        """y = softmax(scale q k^T + mask) v; causal: of query i, keys 0 to i alone take part."""

    def attention_backward(
        self,
        dy: Array,
        q: Array,
        k: Array,
        v: Array,
        mask: Array,
        each: int,
        scale: float,
        causal: bool,
        rate: float,
        key: Array,
        y: Array,
        lse: Array,
        dq: Array,
        dk: Array,
        dv: Array,
        /,
    ) -> None:
        """p = exp(scale q k^T + mask - lse); ds = scale p (dy v^T - sum dy y); dq = ds k; dk = ds^T q; dv = p^T dy."""


class Augment(Protocol):
    """What happens to images (n, h, w, c) on their way to the network.

    kernels/reference/augment.py, kernels/cpu/augment.py, kernels/cuda/augment.py
    """

    def affine(self, images: Array, matrices: Array, scale: float, y: Array, /) -> None:
        """y[i, r, q] = scale * images[i] at the point matrices[i] (r, q, 1), bilinear."""

    def shift_crop(self, images: Array, shifts: Array, flips: Array, repeat: bool, y: Array, /) -> None:
        """y[i, r, q] = images[i] at the pixel (r, q) + shifts[i], turned left to right where flips[i]."""

    def brightness_contrast(self, images: Array, brightness: Array, contrast: Array, scale: float, y: Array, /) -> None:
        """y[i] = scale * ((images[i] - mean) * contrast[i] + mean) + brightness[i], mean that of images[i]."""

    def normalize(self, images: Array, shift: Array, gain: Array, y: Array, /) -> None:
        """y = (images - shift) * gain, shift and gain (c,)."""


class Conv(Protocol):
    """Convolution of images x (n, h, w, c) by windows w (kh, kw, c, k) to y (n, oh, ow, k).

    kernels/reference/conv.py, kernels/cpu/conv.py, kernels/cuda/conv.py
    """

    def conv_forward(self, x: Array, w: Array, bias: Array, window: Window, y: Array, /) -> None:
        """y[pixel] = bias + sum over the taps of x[pixel + tap] w[tap]; bias (k,), or (0,) for none."""

    def conv_backward_x(self, dy: Array, w: Array, window: Window, dx: Array, /) -> None:
        """dx[pixel + tap] = sum of dy[pixel] w[tap]^T."""

    def conv_backward_w(self, x: Array, dy: Array, window: Window, dw: Array, /) -> None:
        """dw[tap] = sum over the pixels of x[pixel + tap]^T dy[pixel]."""


class Depthwise(Protocol):
    """Convolution of each channel of x (n, h, w, c) by itself, w (kh, kw, 1, k), to k / c channels of y (n, oh, ow, k).

    kernels/reference/depthwise.py, kernels/cpu/depthwise.py, kernels/cuda/depthwise.py
    """

    def depthwise_forward(self, x: Array, w: Array, bias: Array, window: Window, y: Array, /) -> None:
        """y[pixel] = bias + sum over the taps of x[pixel + tap] w[tap], each channel alone; bias (k,), or (0,) for none."""

    def depthwise_backward_x(self, dy: Array, w: Array, window: Window, dx: Array, /) -> None:
        """dx[pixel + tap] = sum of dy[pixel] w[tap], over the channels of y that see the one of x."""

    def depthwise_backward_w(self, x: Array, dy: Array, window: Window, dw: Array, /) -> None:
        """dw[tap] = sum over the pixels of x[pixel + tap] dy[pixel]."""

    def depthwise_backward(self, x: Array, dy: Array, w: Array, window: Window, dx: Array, dw: Array, /) -> None:
        """dx and dw together, to the same bits."""


class Dropout(Protocol):
    """Dropout, and arrays of random numbers, by counter; key and state are uint64 (seed, counter).

    kernels/reference/dropout.py, kernels/cpu/dropout.py, kernels/cuda/dropout.py
    """

    def dropout(self, x: Array, p: float, key: Array, y: Array, /) -> None:
        """y = x / (1 - p) where uniform(key, i) >= p, else 0 x; flat. The gradient is the same of dy."""

    def uniform(self, low: float, high: float, key: Array, y: Array, /) -> None:
        """y[i] = low + (high - low) uniform(key, i); flat."""

    def normal(self, mean: float, std: float, key: Array, y: Array, /) -> None:
        """y[i] = mean + std z, z of the standard normal distribution, two from two words of the key; flat."""

    def advance(self, state: Array, key: Array, /) -> None:
        """key = state, then state's counter goes up by one: state is changed."""


class Elementwise(Protocol):
    """Functions of one element or of two, and their gradients; flat arrays.

    kernels/reference/elementwise.py, kernels/cpu/elementwise.py, kernels/cuda/elementwise.py

    Where there are two operands they are read through layouts (kernels/axes.py), which broadcast them to y.
    """

    def add_forward(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a + b."""

    def sub_forward(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a - b."""

    def mul_forward(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a b."""

    def div_forward(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a / b."""

    def equal(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a == b, bool; a and b of one dtype, whichever it is."""

    def not_equal(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a != b, bool; a and b of one dtype, whichever it is."""

    def less(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a < b, bool; a and b of one dtype, whichever it is."""

    def less_equal(self, a: Array, b: Array, y: Array, shape: Shape, a_strides: Shape, b_strides: Shape, /) -> None:
        """y = a <= b, bool; a and b of one dtype, whichever it is."""

    def exp_forward(self, x: Array, y: Array, /) -> None:
        """y = e^x."""

    def exp_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = dy y."""

    def log_forward(self, x: Array, y: Array, /) -> None:
        """y = log(x)."""

    def log_backward(self, dy: Array, x: Array, dx: Array, /) -> None:
        """dx = dy / x."""

    def sqrt_forward(self, x: Array, y: Array, /) -> None:
        """y = sqrt(x)."""

    def sqrt_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = dy / (2 y)."""

    def tanh_forward(self, x: Array, y: Array, /) -> None:
        """y = tanh(x)."""

    def tanh_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = dy (1 - y^2)."""

    def sigmoid_forward(self, x: Array, y: Array, /) -> None:
        """y = 1 / (1 + exp(-x)), without overflow."""

    def sigmoid_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = dy y (1 - y)."""

    def relu_forward(self, x: Array, y: Array, /) -> None:
        """y = 0 where x <= 0, else x."""

    def relu_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = 0 where y <= 0, else dy."""

    def activate(self, x: Array, activation: int, y: Array, column: int, /) -> None:
        """y's columns from `column` on = f(x), x (m, c), f by its number in kernels/activations.py."""

    def activate_backward(self, dy: Array, y: Array, column: int, activation: int, dx: Array, /) -> None:
        """dx (m, c) from the columns of dy and y from `column` on."""

    def power_forward(self, x: Array, p: float, y: Array, /) -> None:
        """y = x^p."""

    def power_backward(self, dy: Array, x: Array, p: float, dx: Array, /) -> None:
        """dx = dy p x^(p - 1), and 0 for p = 0."""


class Gemm(Protocol):
    """Matrix products. With trans_a, A comes as (k, m); with trans_b, B comes as (n, k).

    kernels/reference/gemm.py, kernels/cpu/gemm.py, kernels/cuda/gemm.py
    """

    def gemm(self, a: Array, b: Array, bias: Array, c: Array, trans_a: bool, trans_b: bool, /) -> None:
        """C = A B + bias, (m, k) (k, n) (n,) -> (m, n); bias (0,) for none."""

    def gemm_add(self, a: Array, b: Array, c: Array, trans_a: bool, trans_b: bool, /) -> None:
        """C += A B."""

    def gemm_batched(self, a: Array, b: Array, c: Array, trans_a: bool, trans_b: bool, /) -> None:
        """C[i] = A[i] B[i], (batch, m, k) (batch, k, n) -> (batch, m, n)."""


class LayerNorm(Protocol):
    """Normalization of each row of x (m, n) by itself.

    kernels/reference/layer_norm.py, kernels/cpu/layer_norm.py, kernels/cuda/layer_norm.py

    gamma and beta are (n,), or (0,) for none. mean and scale are float64 (m,).
    """

    def layer_norm_forward(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        centered: bool,
        y: Array,
        mean: Array,
        scale: Array,
        /,
    ) -> None:
        """y = gamma h + beta, h = (x - mean) scale, scale = 1 / sqrt(average (x - mean)^2 + eps); mean 0 if not centered."""

    def layer_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array,
        mean: Array,
        scale: Array,
        centered: bool,
        dx: Array,
        dgamma: Array,
        dbeta: Array,
        /,
    ) -> None:
        """dx = scale (g - average g - h average g h), g = gamma dy; dgamma = sum dy h; dbeta = sum dy."""


class Loss(Protocol):
    """Softmax, its logarithm, the cross-entropy and the loss of log-probabilities, over the rows of (m, n).

    kernels/reference/loss.py, kernels/cpu/loss.py, kernels/cuda/loss.py
    """

    def softmax_forward(self, x: Array, y: Array, /) -> None:
        """y = exp(x - max) / sum exp(x - max)."""

    def softmax_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = y (dy - sum dy y)."""

    def log_softmax_forward(self, x: Array, y: Array, /) -> None:
        """y = x - max - log sum exp(x - max)."""

    def log_softmax_backward(self, dy: Array, y: Array, dx: Array, /) -> None:
        """dx = dy - exp(y) sum dy."""

    def cross_entropy_forward(self, logits: Array, labels: Array, probs: Array, loss: Array, /) -> None:
        """loss (1,) = mean over the rows of -log probs[label], probs = softmax(logits); labels int64 (m,)."""

    def cross_entropy_backward(self, dy: Array, probs: Array, labels: Array, dx: Array, /) -> None:
        """dx = (probs - onehot(label)) dy / m, dy (1,)."""

    def nll_forward(
        self, log_probs: Array, labels: Array, weight: Array, ignore: int, smoothing: float, losses: Array, /
    ) -> None:
        """losses (m,) = -weight[label] log_probs[label], smoothed over all classes; 0 where the label is `ignore`."""

    def nll_backward(
        self, dy: Array, labels: Array, weight: Array, ignore: int, smoothing: float, dx: Array, /
    ) -> None:
        """dx = -dy weight times the smoothed onehot(label), dy (m,); 0 where the label is `ignore`."""

    def nll_weights(self, labels: Array, weight: Array, ignore: int, weights: Array, /) -> None:
        """weights (m,) = weight[label], 0 where the label is `ignore`."""


class Lrn(Protocol):
    """Local response normalization along the rows of x (m, c), over `size` neighbours.

    kernels/reference/lrn.py, kernels/cpu/lrn.py, kernels/cuda/lrn.py
    """

    def local_response_norm_forward(
        self, x: Array, size: int, alpha: float, beta: float, k: float, y: Array, /
    ) -> None:
        """y = x s^-beta, s = k + alpha * sum of x^2 over the neighbours."""

    def local_response_norm_backward(
        self, dy: Array, x: Array, size: int, alpha: float, beta: float, k: float, dx: Array, /
    ) -> None:
        """dx = dy s^-beta - 2 alpha beta x * sum of dy x s^(-beta - 1) over the neighbours."""


class Movement(Protocol):
    """Filling, copying and gathering elements, of flat arrays of any dtype, by layouts (kernels/axes.py).

    kernels/reference/movement.py, kernels/cpu/movement.py, kernels/cuda/movement.py
    """

    def fill(self, value: float, y: Array, /) -> None:
        """y[i] = value."""

    def copy(self, x: Array, y: Array, /) -> None:
        """y[i] = x[i], of perhaps another dtype."""

    def strided_read(self, x: Array, shape: Shape, strides: Shape, offset: int, y: Array, /) -> None:
        """y[i] = x[position(i)]."""

    def strided_write(self, x: Array, shape: Shape, strides: Shape, offset: int, y: Array, /) -> None:
        """y[position(i)] = x[i]; the rest of y is left alone."""

    def take_rows(self, x: Array, index: Array, y: Array, /) -> None:
        """y[i] = x[index[i]], rows of matrices, index int64."""

    def take_rows_backward(self, dy: Array, index: Array, dx: Array, /) -> None:
        """dx = 0, then dx[index[i]] += dy[i] for i = 0, 1, ..."""

    def take_along(self, x: Array, index: Array, y: Array, /) -> None:
        """y[o, i, j] = x[o, index[o, i, j], j], index int64."""

    def take_along_backward(self, dy: Array, index: Array, dx: Array, /) -> None:
        """dx = 0, then dx[o, index[o, i, j], j] += dy[o, i, j] for i = 0, 1, ..."""


class Norm(Protocol):
    """Batch normalization over the m rows of x (m, c), and the activation after it, f, by its number.

    kernels/reference/norm.py, kernels/cpu/norm.py, kernels/cuda/norm.py

    y and dy may have more columns than x: the c columns from `column` on are meant. mean and var are float64 (c,).
    """

    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        activation: int,
        y: Array,
        column: int,
        mean: Array,
        var: Array,
        decay: float,
        running_mean: Array,
        running_var: Array,
        /,
    ) -> None:
        """mean, var of the rows; y = f(gamma h + beta), h = (x - mean) / sqrt(var + eps); then running_update, unless (0,)."""

    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array,
        column: int,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        dx: Array,
        dgamma: Array,
        dbeta: Array,
        /,
    ) -> None:
        """dz = dy f'; dgamma = sum dz h; dbeta = sum dz; dx = gamma / sqrt(var + eps) (dz - dbeta / m - h dgamma / m)."""

    def batch_norm_statistics(self, x: Array, mean: Array, var: Array, /) -> None:
        """mean, var of the rows: the first half of batch_norm_forward, for statistics that are yet to be combined."""

    def batch_norm_normalize(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        y: Array,
        column: int,
        /,
    ) -> None:
        """y = f(gamma h + beta) by mean and var as they are given, float64: the second half."""

    def batch_norm_sums(
        self,
        dy: Array,
        x: Array,
        y: Array,
        column: int,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        dgamma: Array,
        dbeta: Array,
        /,
    ) -> None:
        """dgamma = sum dz h; dbeta = sum dz: the first half of batch_norm_backward."""

    def batch_norm_gradient(
        self,
        dy: Array,
        x: Array,
        y: Array,
        column: int,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        dgamma: Array,
        dbeta: Array,
        dx: Array,
        /,
    ) -> None:
        """dx = gamma / sqrt(var + eps) (dz - dbeta / m - h dgamma / m) by dgamma and dbeta as given: the second half."""

    def batch_norms_forward(
        self,
        xs: list[Array],
        gammas: list[Array],
        betas: list[Array],
        eps: list[float],
        activations: list[int],
        y: Array,
        columns: list[int],
        means: list[Array],
        variances: list[Array],
        decays: list[float],
        running_means: list[Array],
        running_vars: list[Array],
        /,
    ) -> None:
        """batch_norm_forward of many x into columns of one y."""

    def batch_norms_backward(
        self,
        dy: Array,
        xs: list[Array],
        y: Array,
        columns: list[int],
        gammas: list[Array],
        betas: list[Array],
        means: list[Array],
        variances: list[Array],
        eps: list[float],
        activations: list[int],
        dxs: list[Array],
        dgammas: list[Array],
        dbetas: list[Array],
        /,
    ) -> None:
        """batch_norm_backward of many x from columns of one dy."""

    def batch_norm_inference(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        y: Array,
        column: int,
        /,
    ) -> None:
        """y = f(gamma (x - mean) / sqrt(var + eps) + beta), mean and var given, of x's dtype."""

    def batch_norm_inference_backward(
        self,
        dy: Array,
        x: Array,
        y: Array,
        column: int,
        gamma: Array,
        beta: Array,
        mean: Array,
        var: Array,
        eps: float,
        activation: int,
        dx: Array,
        dgamma: Array,
        dbeta: Array,
        /,
    ) -> None:
        """dgamma and dbeta as above; dx = dz gamma / sqrt(var + eps)."""

    def running_update(
        self, mean: Array, var: Array, m: int, decay: float, running_mean: Array, running_var: Array, /
    ) -> None:
        """running = decay running + (1 - decay) statistic, the variance by its unbiased estimate; in place."""


class Optim(Protocol):
    """One step of an optimizer over lists of arrays of one dtype, which are changed in place.

    kernels/reference/optim.py, kernels/cpu/optim.py, kernels/cuda/optim.py

    hyper, float64 (groups, hyperparameters), has a row for each group; groups[i] is the row of array i. counts are float64
    (1,), one for each array, and count its updates.
    """

    def sgd(
        self,
        params: list[Array],
        grads: list[Array],
        velocities: list[Array],
        groups: list[int],
        hyper: Array,
        /,
    ) -> None:
        """hyper (lr, momentum, nesterov, weight_decay); velocities is [] without momentum."""

    def adagrad(
        self, params: list[Array], grads: list[Array], sums: list[Array], groups: list[int], hyper: Array, /
    ) -> None:
        """hyper (lr, eps, weight_decay)."""

    def rmsprop(
        self,
        params: list[Array],
        grads: list[Array],
        squares: list[Array],
        means: list[Array],
        velocities: list[Array],
        groups: list[int],
        hyper: Array,
        /,
    ) -> None:
        """hyper (lr, alpha, eps, weight_decay, momentum, centered); means and velocities are [] where they are not used."""

    def adam(
        self,
        params: list[Array],
        grads: list[Array],
        means: list[Array],
        squares: list[Array],
        counts: list[Array],
        groups: list[int],
        decoupled: bool,
        hyper: Array,
        /,
    ) -> None:
        """hyper (lr, beta1, beta2, eps, weight_decay); decoupled: AdamW's weight decay."""

    def average(self, params: list[Array], averages: list[Array], counts: list[Array], decay: float, /) -> None:
        """averages = decay averages + (1 - decay) params, and params at the first update."""

    def grad_total(self, grads: list[Array], order: int, total: Array, /) -> None:
        """total, float64 (1,), += sum of |g|^order, order 1 or 2; order 0: the largest |g|, and of the total."""

    def clip_norm(
        self, grads: list[Array], total: Array, order: int, limit: float, clipped: list[Array], norm: Array, /
    ) -> None:
        """norm, float64 (1,), of this total; clipped = g min(1, limit / (norm + 1e-6)), clipped perhaps g itself."""

    def clip_value(self, grads: list[Array], limit: float, clipped: list[Array], /) -> None:
        """clipped = g, at least -limit and at most limit; clipped may be g itself."""


class Pointwise(Protocol):
    """Formulas of single elements (kernels/expressions/), each compiled as one kernel.

    kernels/reference/pointwise.py, kernels/cpu/pointwise.py, kernels/cuda/pointwise.py

    Inputs are flat and read through layouts (kernels/axes.py), one tuple of strides for each; outputs are flat.
    """

    def evaluate(
        self, formula: Formula, inputs: list[Array], outputs: list[Array], shape: Shape, strides: tuple[Shape, ...], /
    ) -> None:
        """outputs = formula(inputs); what the formula calls a "bool" is bool, the others are of one dtype."""


class Pool(Protocol):
    """Pooling over windows of images x (n, h, w, c) to y (n, oh, ow, c).

    kernels/reference/pool.py, kernels/cpu/pool.py, kernels/cuda/pool.py
    """

    def max_pool_forward(self, x: Array, window: Window, y: Array, winner: Array, /) -> None:
        """y = largest element of the window, winner = its place in it, uint8 or int32."""

    def max_pool_backward(self, dy: Array, winner: Array, window: Window, dx: Array, /) -> None:
        """dx = sum of dy over the windows that the pixel won."""

    def max_pool_take(self, x: Array, winner: Array, window: Window, y: Array, /) -> None:
        """y = x where the window's winner is."""

    def avg_pool_forward(self, x: Array, window: Window, y: Array, /) -> None:
        """y = mean of the window's elements, without padding."""

    def avg_pool_backward(self, dy: Array, window: Window, dx: Array, /) -> None:
        """dx = sum over the windows that cover the pixel of dy / number of their elements."""


class Recurrent(Protocol):
    """What recurrent layers make of all steps of a sequence, one after another, given the products of their inputs.

    kernels/reference/recurrent.py, kernels/cpu/recurrent.py, kernels/cuda/recurrent.py

    Steps come first: y (t, n, h) is of t steps and n sequences. h0 and c0 (n, h), or (0, h) for zeros, and likewise dh0 and
    dc0, (0, h) where they are not asked for. w_hh is (h, h) for each gate side by side. With `reverse`, from the last step to
    the first.
    """

    def rnn_forward(self, h0: Array, w_hh: Array, with_relu: bool, reverse: bool, y: Array, /) -> None:
        """y[t] = f(y[t] + y[t - 1] w_hh), f tanh or relu: y holds the inputs' products beforehand, and is overwritten."""

    def rnn_backward(
        self, dy: Array, y: Array, w_hh: Array, with_relu: bool, reverse: bool, dgates: Array, dh0: Array, /
    ) -> None:
        """dgates (t, n, h), the gradient of what f was of."""

    def lstm_forward(
        self, h0: Array, c0: Array, w_hh: Array, reverse: bool, gates: Array, c: Array, y: Array, /
    ) -> None:
        """gates (t, n, 4h) hold the inputs' products and become i, f, g, o; c = f c[t - 1] + i g; y = o tanh(c)."""

    def lstm_backward(
        self,
        dy: Array,
        dc: Array,
        gates: Array,
        c0: Array,
        c: Array,
        w_hh: Array,
        reverse: bool,
        dgates: Array,
        dh0: Array,
        dc0: Array,
        /,
    ) -> None:
        """dgates (t, n, 4h), the gradient of what the gates were functions of; dc (n, h) is that of the last c."""

    def gru_forward(
        self, h0: Array, w_hh: Array, b_hh: Array, reverse: bool, gates: Array, hidden: Array, y: Array, /
    ) -> None:
        """gates (t, n, 3h) hold the inputs' products and become r, z, n; hidden = y[t - 1] w_hn + b_hn; b_hh (3h,) or (0,)."""

    def gru_backward(
        self,
        dy: Array,
        gates: Array,
        hidden: Array,
        h0: Array,
        y: Array,
        w_hh: Array,
        reverse: bool,
        dgates: Array,
        dhidden: Array,
        dh0: Array,
        /,
    ) -> None:
        """dgates and dhidden (t, n, 3h): gradients of the products of the inputs, and of those of the state."""


class Reduce(Protocol):
    """Sums and maxima over the middle axis of x (outer, reduced, inner), to (outer, inner); running sums along it.

    kernels/reference/reduce.py, kernels/cpu/reduce.py, kernels/cuda/reduce.py
    """

    def sum_forward(self, x: Array, y: Array, /) -> None:
        """y = sum of x, added in float64."""

    def max_forward(self, x: Array, y: Array, index: Array, /) -> None:
        """y = largest element, index = its first position (int64)."""

    def max_backward(self, dy: Array, index: Array, dx: Array, /) -> None:
        """dx = dy at the position of the maximum, 0 elsewhere."""

    def cumsum(self, x: Array, reverse: bool, y: Array, /) -> None:
        """y[o, i, j] = sum of x[o, k, j] over k <= i, or with `reverse` over k >= i, all (outer, n, inner)."""


class Resample(Protocol):
    """Images x (n, h, w, c) sampled anew, to y (n, oh, ow, c).

    kernels/reference/resample.py, kernels/cpu/resample.py, kernels/cuda/resample.py
    """

    def resample(
        self, x: Array, rows: Array, row_weights: Array, columns: Array, column_weights: Array, y: Array, /
    ) -> None:
        """y = weighted sums of neighbouring rows and columns; rows and columns hold (first, count, place of their weights)."""


class Kernels(Protocol):
    """The kernels of a device, by family."""

    attention: Attention
    augment: Augment
    conv: Conv
    depthwise: Depthwise
    dropout: Dropout
    elementwise: Elementwise
    gemm: Gemm
    layer_norm: LayerNorm
    loss: Loss
    lrn: Lrn
    movement: Movement
    norm: Norm
    optim: Optim
    pointwise: Pointwise
    pool: Pool
    recurrent: Recurrent
    reduce: Reduce
    resample: Resample


FAMILIES = tuple(Kernels.__annotations__)


def importer(package: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a device's package: it imports the family that is asked for."""

    def __getattr__(name: str) -> ModuleType:
        if name in FAMILIES:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__

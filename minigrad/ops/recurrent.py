"""Recurrent layers: the products of the inputs in one for all steps, then the steps, one kernel for a whole sequence."""

from collections.abc import Sequence
from typing import Any

from minigrad.kernels.contract import Array
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.launches import binary, no_bias, product, sum_axes
from minigrad.ops.movement import Rows, reshape, transpose
from minigrad.ops.recurrent_gradients import Given, gru_gradients, lstm_gradients, rnn_gradients
from minigrad.ops.shapes import as_matrix, some_rows
from minigrad.tape import Op
from minigrad.tensor import Tensor

# A sequence is (steps, N, features) inside the ops, where the rows of one step lie together.


def input_products(op: Op, x: Array, w_ih: Array, bias: Array | None) -> Array:
    """x W_ih + bias for all steps, (steps, N, columns of W_ih)."""
    a = op.empty((*x.shape[:-1], w_ih.shape[1]), x.dtype)
    if a.size:
        op.kernels.gemm.gemm(
            as_matrix(x), w_ih, no_bias(op, x.dtype) if bias is None else bias, as_matrix(a), False, False
        )
    return a


def both(op: Op, b_ih: Array | None, b_hh: Array | None) -> Array | None:
    """The sum of the biases that there are."""
    if b_ih is None or b_hh is None:
        return b_hh if b_ih is None else b_ih
    return binary(op, op.kernels.elementwise.add_forward, b_ih, b_hh)


def start_of(op: Op, state: Array | None, like: Array) -> Array:
    """A state as the kernels take it: without rows, if there is none."""
    return op.device.shared_constant(0.0, (0, like.shape[-1]), like.dtype) if state is None else state


def room_for(op: Op, state: Array | None, like: Array) -> Array:
    """Where the gradient of a state goes."""
    return op.empty((0 if state is None else state.shape[0], like.shape[-1]), like.dtype)


def input_gradients(op: Op, x: Array, w_ih: Array, dgates: Array, x_at: int, w_at: int) -> tuple[Array | None, ...]:
    """(dx, dW_ih), each of all steps at once, where inputs `x_at` and `w_at` of the op need them."""
    matrix = as_matrix(dgates)
    dx = product(op, matrix, w_ih, trans_b=True, shape=(*dgates.shape[:-1], w_ih.shape[0])) if op.needs[x_at] else None
    return dx, product(op, as_matrix(x), matrix, trans_a=True) if op.needs[w_at] else None


def state_gradient(op: Op, h0: Array | None, y: Array, dgates: Array, reverse: bool) -> Array:
    """dW_hh: the sum over the steps of (h before)^T dgates."""
    steps, first = y.shape[0], (y.shape[0] - 1 if reverse else 0)
    before, after = (some_rows(y, 1, steps), some_rows(dgates, 0, steps - 1)) if reverse else (
        some_rows(y, 0, steps - 1), some_rows(dgates, 1, steps)
    )  # fmt: skip
    dw = product(op, as_matrix(before), as_matrix(after), trans_a=True)
    if h0 is not None:
        dw = product(op, h0, as_matrix(some_rows(dgates, first, first + 1)), trans_a=True, total=dw)
    return dw


def column_sums(op: Op, dgates: Array) -> Array:
    """The gradient of a bias."""
    return sum_axes(op, dgates, (0, 1)).reshape(-1)


def bias_gradients(op: Op, dgates: Array, at: int) -> tuple[Array | None, ...]:
    """Those of b_ih and b_hh, inputs `at` and the next, which are the same numbers in arrays of their own."""
    if not any(op.needs[at : at + 2]):
        return None, None
    db = column_sums(op, dgates)
    if not all(op.needs[at : at + 2]):
        return (db, None) if op.needs[at] else (None, db)
    other = op.empty_like(db)
    if db.size:
        op.kernels.movement.copy(db, other)
    return db, other


def tensors_of(op: Op, saved: Sequence[Array | None]) -> list[Any]:
    """The first inputs, which were saved, as tensors."""
    return [None if array is None else op.as_input(i, array) for i, array in enumerate(saved)]


class RNN(Op):
    """A plain recurrent layer, all steps."""

    formula = (
        "h = f(x W + b + h W'), step by step;  da = f'(h) (dy + da W'ᵀ of the next step);  "
        "dx = da Wᵀ;  dW = xᵀ da;  dW' = hᵀ da of the next step;  db = Σ da"
    )
    passes_on = False

    def forward(
        self,
        x: Array,
        h0: Array | None,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None,
        b_hh: Array | None,
        *,
        relu: bool,
        reverse: bool,
    ) -> Array:
        self.relu, self.reverse = relu, reverse
        y = input_products(self, x, w_ih, both(self, b_ih, b_hh))
        if y.size:
            self.kernels.recurrent.rnn_forward(start_of(self, h0, y), w_hh, relu, reverse, y)
        self.save(x, h0, w_ih, w_hh, y)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        x, h0, w_ih, w_hh, y = self.saved  # type: ignore[misc]
        dgates, dh0 = self.empty_like(y), room_for(self, h0, y)
        if y.size:
            self.kernels.recurrent.rnn_backward(dy, y, w_hh, self.relu, self.reverse, dgates, dh0)
        dx, dw_ih = input_gradients(self, x, w_ih, dgates, 0, 2)
        dw_hh = state_gradient(self, h0, y, dgates, self.reverse) if self.needs[3] else None
        return dx, None if h0 is None else dh0, dw_ih, dw_hh, *bias_gradients(self, dgates, 4)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        *given, y = self.saved  # type: ignore[misc]
        return rnn_gradients(
            dy, Given(*tensors_of(self, given)), self.as_result(y), self.relu, self.reverse, self.needs
        )


class LSTM(Op):
    """Long short-term memory, all steps: the h of all of them, and the last c."""

    formula = (
        "i, f, g, o = σ, σ, tanh, σ of x W + b + h W';  c = f c + i g;  h = o tanh(c), step by step;  "
        "dh = dy + da W'ᵀ of the next step;  dc = dh o (1 - tanh²(c)) + f dc of the next step;  "
        "da = gradients through i, f, g, o;  dx = da Wᵀ;  dW = xᵀ da;  dW' = hᵀ da of the next step;  db = Σ da"
    )
    passes_on = False

    def forward(
        self,
        x: Array,
        h0: Array | None,
        c0: Array | None,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None,
        b_hh: Array | None,
        *,
        reverse: bool,
    ) -> tuple[Array, Array]:
        self.reverse = reverse
        gates = input_products(self, x, w_ih, both(self, b_ih, b_hh))
        y = self.empty((*x.shape[:2], w_hh.shape[0]), x.dtype)
        c, last_c = self.empty_like(y), self.empty(y.shape[1:], x.dtype)
        if c.size:
            self.kernels.recurrent.lstm_forward(
                start_of(self, h0, c), start_of(self, c0, c), w_hh, reverse, gates, c, y
            )
            last = 0 if reverse else c.shape[0] - 1
            self.kernels.movement.copy(some_rows(c, last, last + 1).reshape(-1), last_c.reshape(-1))
        self.save(x, h0, c0, w_ih, w_hh, b_ih, b_hh, y, gates, c)
        return y, last_c

    def backward(self, dy: Array, dc: Array) -> tuple[Array | None, ...]:
        x, h0, c0, w_ih, w_hh, _, _, y, gates, c = self.saved  # type: ignore[misc]
        dgates, dh0, dc0 = self.empty_like(gates), room_for(self, h0, c), room_for(self, c0, c)
        if c.size:
            self.kernels.recurrent.lstm_backward(
                dy, dc, gates, start_of(self, c0, c), c, w_hh, self.reverse, dgates, dh0, dc0
            )
        dx, dw_ih = input_gradients(self, x, w_ih, dgates, 0, 3)
        dw_hh = state_gradient(self, h0, y, dgates, self.reverse) if self.needs[4] else None
        starts = None if h0 is None else dh0, None if c0 is None else dc0
        return dx, *starts, dw_ih, dw_hh, *bias_gradients(self, dgates, 5)

    def backward_on_tape(self, dy: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        *given, y, _, _ = self.saved  # type: ignore[misc]
        x, h0, c0, *weights = tensors_of(self, given)
        return lstm_gradients(dy, dc, Given(x, h0, *weights), c0, self.as_result(y, 0), self.reverse, self.needs)


class GRU(Op):
    """Gated recurrent units, all steps."""

    formula = (
        "r, z = σ of x W + b + h W' + b';  n = tanh(x Wn + bn + r (h W'n + b'n));  h = (1 - z) n + z h, step by step;  "
        "da, da' = gradients through r, z, n, of the products of x and of h;  dh = dy + z dh + da' W'ᵀ of the next step;  "
        "dx = da Wᵀ;  dW = xᵀ da;  dW' = hᵀ da' of the next step;  db = Σ da;  db' = Σ da'"
    )
    passes_on = False

    def forward(
        self,
        x: Array,
        h0: Array | None,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None,
        b_hh: Array | None,
        *,
        reverse: bool,
    ) -> Array:
        self.reverse = reverse
        gates = input_products(self, x, w_ih, b_ih)
        y = self.empty((*x.shape[:2], w_hh.shape[0]), x.dtype)
        hidden = self.empty_like(y)
        if y.size:
            bias = no_bias(self, x.dtype) if b_hh is None else b_hh
            self.kernels.recurrent.gru_forward(start_of(self, h0, y), w_hh, bias, reverse, gates, hidden, y)
        self.save(x, h0, w_ih, w_hh, b_ih, b_hh, y, gates, hidden)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        x, h0, w_ih, w_hh, _, _, y, gates, hidden = self.saved  # type: ignore[misc]
        dgates, dhidden, dh0 = self.empty_like(gates), self.empty_like(gates), room_for(self, h0, y)
        if y.size:
            self.kernels.recurrent.gru_backward(
                dy, gates, hidden, start_of(self, h0, y), y, w_hh, self.reverse, dgates, dhidden, dh0
            )
        dx, dw_ih = input_gradients(self, x, w_ih, dgates, 0, 2)
        dw_hh = state_gradient(self, h0, y, dhidden, self.reverse) if self.needs[3] else None
        db_ih = column_sums(self, dgates) if self.needs[4] else None
        db_hh = column_sums(self, dhidden) if self.needs[5] else None
        return dx, None if h0 is None else dh0, dw_ih, dw_hh, db_ih, db_hh

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        *given, y, _, _ = self.saved  # type: ignore[misc]
        return gru_gradients(dy, Given(*tensors_of(self, given)), self.as_result(y), self.reverse, self.needs)


def rnn(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    reverse: bool = False,
    batch_first: bool = True,
) -> tuple[Tensor, Tensor]:
    """A plain recurrent layer (Elman 1990): h = f(x w_ih + b_ih + h w_hh + b_hh) at each step, f "tanh" or "relu".

    x (N, steps, in), or (steps, N, in) with batch_first=False; h0 (N, hidden), or None for zeros; w_ih (in, hidden), w_hh
    (hidden, hidden), biases (hidden,) or None. Gives the h of all steps, laid out as x, and the last one. With `reverse` the
    last step comes first. Raises ValueError for shapes that do not match and without a step, TypeError for dtypes that differ.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'rnn: nonlinearity must be "tanh" or "relu", not {nonlinearity!r}')
    check("rnn", 1, batch_first, x, w_ih, w_hh, {"b_ih": b_ih, "b_hh": b_hh}, {"h0": h0})
    x = turned(x) if batch_first else x
    y = RNN.apply(x, h0, w_ih, w_hh, b_ih, b_hh, relu=nonlinearity == "relu", reverse=bool(reverse))
    return turned(y) if batch_first else y, last_step(y, bool(reverse))


def lstm(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reverse: bool = False,
    batch_first: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates): c = f c + i g, h = o tanh(c) at each step.

    The gates i, f, g, o are sigmoid, sigmoid, tanh and sigmoid of the four parts, side by side, of x w_ih + b_ih + h w_hh +
    b_hh. Shapes as in `rnn`, w_ih (in, 4 hidden), w_hh (hidden, 4 hidden), biases (4 hidden,), c0 (N, hidden) or None. Gives
    the h of all steps, the last h and the last c. Raises as `rnn` does.
    """
    check("lstm", 4, batch_first, x, w_ih, w_hh, {"b_ih": b_ih, "b_hh": b_hh}, {"h0": h0, "c0": c0})
    x = turned(x) if batch_first else x
    y, c = LSTM.apply(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse=bool(reverse))
    return turned(y) if batch_first else y, last_step(y, bool(reverse)), c


def gru(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reverse: bool = False,
    batch_first: bool = True,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent units (Cho et al. 2014): h = (1 - z) n + z h at each step.

    r and z are sigmoids of the first two parts, side by side, of x w_ih + b_ih + h w_hh + b_hh, and n = tanh(a + r m), a and m
    the third parts of the products of x and of h, as in PyTorch and cuDNN. Shapes as in `rnn`, w_ih (in, 3 hidden), w_hh
    (hidden, 3 hidden), biases (3 hidden,). Gives the h of all steps and the last one. Raises as `rnn` does.
    """
    check("gru", 3, batch_first, x, w_ih, w_hh, {"b_ih": b_ih, "b_hh": b_hh}, {"h0": h0})
    x = turned(x) if batch_first else x
    y = GRU.apply(x, h0, w_ih, w_hh, b_ih, b_hh, reverse=bool(reverse))
    return turned(y) if batch_first else y, last_step(y, bool(reverse))


def turned(x: Tensor) -> Tensor:
    """(N, steps, features) as (steps, N, features), or back; no copy where there is but one of either."""
    if 1 in x.shape[:2]:
        return reshape(x, (x.shape[1], x.shape[0], x.shape[2]))
    return transpose(x, (1, 0, 2))


def last_step(y: Tensor, reverse: bool) -> Tensor:
    """What the step that comes last has left, (N, hidden)."""
    at = 0 if reverse else y.shape[0] - 1
    return reshape(Rows.apply(y, start=at, stop=at + 1), y.shape[1:])


def check(
    name: str,
    gates: int,
    batch_first: bool,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    biases: dict[str, Tensor | None],
    states: dict[str, Tensor | None],
) -> None:
    """Raise unless shapes and dtypes match."""
    for value in (x, w_ih, w_hh, *[t for t in (*biases.values(), *states.values()) if t is not None]):
        float_tensor(name, value)
    layout = "(N, steps, in)" if batch_first else "(steps, N, in), since batch_first is False,"
    if x.ndim != 3:
        raise ValueError(f"{name} needs x {layout} not shape {x.shape}; x.reshape(1, *x.shape) makes a batch of one")
    n, steps = x.shape[:2] if batch_first else x.shape[1::-1]
    if not steps:
        raise ValueError(f"{name} needs at least one step, and x {layout} has shape {x.shape}")
    if w_hh.ndim != 2 or w_hh.shape[1] != gates * w_hh.shape[0]:
        raise ValueError(
            f"{name}: w_hh must be (hidden, {'' if gates == 1 else f'{gates} '}hidden), not {w_hh.shape}; weights of "
            "PyTorch are transposed to this"
        )
    units = w_hh.shape[0]
    expected = {
        "w_ih": (w_ih, (x.shape[2], gates * units)),
        **{which: (b, (gates * units,)) for which, b in biases.items()},
        **{which: (s, (n, units)) for which, s in states.items()},
    }
    for which, (t, shape) in expected.items():
        if t is not None and t.shape != shape:
            raise ValueError(
                f"{name}: {which} must have shape {shape} for x {x.shape} and w_hh {w_hh.shape}, not {t.shape}"
            )
        if t is not None and t.dtype != x.dtype:
            refuse_dtypes(name, x=x, **{which: t})
    if w_hh.dtype != x.dtype:
        refuse_dtypes(name, x=x, w_hh=w_hh)

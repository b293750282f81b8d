"""Models that files of ONNX are made of, and inputs for them: every layer, every op, every model of mg.models."""

import numpy as np

import minigrad as mg
from minigrad.ops import Branch, concat_branches, embedding, getitem, to
from minigrad.ops.table import TABLE

nn = mg.nn


class Of(nn.Module):
    """A function as a model; parameters by name go to it too."""

    def __init__(self, function, **parameters):
        self.function = function
        self.names = tuple(parameters)
        self.anchor = nn.Parameter(np.zeros(1, np.float32))  # which says on what device it is
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, *inputs):
        return self.function(*inputs, *[getattr(self, name) for name in self.names])


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def squeeze_and_excite(x, w, v):
    weights = mg.sigmoid(mg.linear(mg.relu(mg.linear(mg.global_avg_pool(x), w)), v))
    return x * weights.reshape(x.shape[0], 1, 1, x.shape[3])


def attention(x, w):
    n, length, width = x.shape
    q, k, v = (mg.linear(x, w[i]).reshape(n, length, 2, width // 2).transpose(0, 2, 1, 3) for i in range(3))
    weights = mg.softmax(q @ k.transpose(0, 1, 3, 2) / (width // 2) ** 0.5)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(n, length, width)


def labels_of(x):
    """Class numbers of rows, 0, 1 or 3, computed by ops."""
    return to(mg.where(x[..., 0] > 0.5, 3.0, to(x[..., 0] > 0, "float32")), "int64")


class Residual(nn.Module):
    """A convolution and what it read, added, as functions would have it."""

    def __init__(self, channels):
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm(channels)

    def forward(self, x):
        return mg.relu(self.norm(self.conv(x)) + x)


def flat(result):
    """All that a recurrent layer gives, y and the last states, in one row for each sequence."""
    y, states = result
    states = [mg.transpose(s, (1, 0, 2)) for s in (states if isinstance(states, tuple) else [states])]
    return mg.concat([part.reshape(y.shape[0], -1) for part in [y, *states]], 1)


def begun(x, w, v, w_ih, w_hh, b):
    """Long short-term memory from a state of its own for each row, with weights that are computed and one bias."""
    start = mg.linear(x[:, 0], v)
    y, h, c = mg.lstm(x, start, mg.tanh(start), w_ih * w, w_hh * w, None, b * w, reverse=True)
    return mg.concat([y[:, 0], y[:, -1], h, c], 1)


IMAGE, ROWS, SEQUENCE = (2, 6, 5, 3), (3, 4), (2, 3, 4)  # shapes of examples, the batch first


def of_images(*layers):
    """Layers between convolutions, so that they meet channels that are first in the file."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)


LAYERS = {
    "Linear": (nn.Linear(4, 5), ROWS),
    "Linear without bias": (nn.Linear(4, 5, bias=False), ROWS),
    "Linear on a sequence": (nn.Linear(4, 5), SEQUENCE),
    "Linear on pixels": (of_images(nn.Linear(4, 5), nn.ReLU()), IMAGE),
    "Linear on an input of images": (nn.Linear(3, 5), IMAGE),
    "BatchNorm": (nn.BatchNorm(4), ROWS),
    "BatchNorm of a sequence": (nn.BatchNorm(4), SEQUENCE),
    "BatchNorm of images": (of_images(nn.BatchNorm(4)), IMAGE),
    "BatchNorm of an input of images": (nn.BatchNorm(3), IMAGE),
    "BatchNorm without gamma": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4, gamma=False, eps=0.1)), ROWS),
    "BatchNorm without beta": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4, beta=False, decay=0.5)), ROWS),
    "SyncBatchNorm": (nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4)), ROWS),
    "LayerNorm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=0.1)), SEQUENCE),
    "LayerNorm over two axes": (nn.LayerNorm((3, 4), beta=False), SEQUENCE),
    "LayerNorm of nothing but eps": (
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, gamma=False, beta=False)),
        SEQUENCE,
    ),
    "RMSNorm": (nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4)), SEQUENCE),
    "GroupNorm": (of_images(nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), IMAGE),
    "MultiheadAttention": (nn.MultiheadAttention(4, 2), SEQUENCE),
    "Embedding": (Of(lambda x, w: embedding(to(x > 0, "int64"), w), w=random(2, 3)), ROWS),
    "ReLU": (nn.Sequential(nn.ReLU()), ROWS),
    "Sigmoid": (nn.Sequential(nn.Sigmoid()), ROWS),
    "Tanh": (nn.Sequential(nn.Tanh()), ROWS),
    "activations of formulas": (
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.Softplus()),
        ROWS,
    ),
    "GELU of tanh": (nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh")), ROWS),
    "Dropout": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), ROWS),
    "Flatten": (nn.Flatten(), IMAGE),
    "Flatten before a Linear": (of_images(nn.ReLU(), nn.Flatten(), nn.Linear(120, 4)), IMAGE),
    "Flatten, BatchNorm, Dropout": (
        of_images(nn.Flatten(), nn.BatchNorm(120), nn.Tanh(), nn.Dropout(), nn.Linear(120, 4)),
        IMAGE,
    ),
    "Flatten before nothing": (of_images(nn.Flatten(), nn.Sigmoid()), IMAGE),
    "Flatten of one pixel": (of_images(nn.AvgPool2d((6, 5)), nn.Flatten(), nn.Linear(4, 2)), IMAGE),
    "Conv2d": (nn.Conv2d(3, 4, 3), IMAGE),
    "Conv2d, depthwise": (of_images(nn.Conv2d(4, 8, 3, groups=4, padding=1), nn.BatchNorm(8)), IMAGE),
    "Conv2d in groups": (of_images(nn.Conv2d(4, 6, (3, 2), groups=2), nn.ReLU()), IMAGE),
    "Conv1d": (nn.Sequential(nn.Conv1d(4, 6, 2, stride=2, padding=1), nn.ReLU(), nn.Conv1d(6, 2, 1)), (2, 7, 4)),
    "Conv2d without bias": (nn.Conv2d(3, 4, (3, 2), bias=False), IMAGE),
    "Conv2d of stride and dilation": (nn.Conv2d(3, 4, 2, stride=(2, 1), dilation=(1, 2), padding=1), IMAGE),
    "Conv2d padded unevenly": (nn.Conv2d(3, 4, 3, padding=((0, 2), (1, 0))), IMAGE),
    "Conv2d, same": (nn.Conv2d(3, 4, (4, 3), stride=2, padding="same"), IMAGE),
    "Conv2d, same and dilated": (nn.Conv2d(3, 4, 3, dilation=2, padding="same"), IMAGE),
    "ConvTranspose2d": (
        of_images(
            nn.ConvTranspose2d(
                4, 3, (3, 2), stride=(2, 3), padding=((1, 0), (1, 1)), output_padding=1, dilation=(1, 2)
            ),
            nn.ReLU(),
        ),
        IMAGE,
    ),
    "ConvTranspose2d, depthwise": (of_images(nn.ConvTranspose2d(4, 4, 3, groups=4, stride=2, bias=False)), IMAGE),
    "ConvTranspose2d in groups": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2)), IMAGE),
    "Upsample": (of_images(nn.Upsample(scale=2), nn.Upsample((7, 9), mode="bilinear"), nn.Conv2d(4, 2, 1)), IMAGE),
    "Upsample by corners": (nn.Upsample(scale=(1.5, 2.0), mode="bilinear", align_corners=True), IMAGE),
    "AdaptiveAvgPool2d": (of_images(nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(32, 2)), IMAGE),
    "MaxPool2d": (of_images(nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)), IMAGE),
    "MaxPool2d, same": (nn.MaxPool2d(3, stride=2, padding="same"), IMAGE),
    "MaxPool2d padded unevenly": (nn.MaxPool2d(3, stride=2, padding=((0, 1), (2, 1))), IMAGE),
    "AvgPool2d": (nn.AvgPool2d(2), IMAGE),
    "AvgPool2d, same": (of_images(nn.AvgPool2d(3, stride=2, padding="same"), nn.Conv2d(4, 2, 1)), IMAGE),
    "AvgPool2d padded": (nn.AvgPool2d((2, 3), stride=(2, 1), padding=((0, 1), (1, 1))), IMAGE),
    "GlobalAvgPool": (of_images(nn.GlobalAvgPool(), nn.Linear(4, 2)), IMAGE),
    "LocalResponseNorm": (of_images(nn.LocalResponseNorm(3, 0.5, 0.7, 1.5), nn.Conv2d(4, 2, 1)), IMAGE),
    "LocalResponseNorm of even size": (of_images(nn.LocalResponseNorm(4, 0.5, 0.7, 1.5)), IMAGE),
    "LocalResponseNorm of rows": (nn.LocalResponseNorm(3, 0.5), ROWS),
    "Sequential": (nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.BatchNorm(8), nn.ReLU()), nn.Linear(8, 2)), ROWS),
    "Concat": (of_images(nn.Concat(nn.Conv2d(4, 2, 1), nn.Sequential(nn.MaxPool2d(1), nn.ReLU())), nn.ReLU()), IMAGE),
    "Residual": (nn.Sequential(nn.Conv2d(3, 4, 1), Residual(4), Residual(4), nn.GlobalAvgPool()), IMAGE),
    "ModuleList": (nn.Sequential(*nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])), ROWS),
    "RNN": (nn.Sequential(nn.RNN(4, 3, nonlinearity="relu"), Of(flat)), SEQUENCE),
    "RNN, bidirectional": (nn.Sequential(nn.RNN(4, 3, bidirectional=True, bias=False), Of(flat)), SEQUENCE),
    "LSTM": (nn.Sequential(nn.LSTM(4, 3, bias=False), Of(flat)), SEQUENCE),
    "LSTM, two layers, bidirectional": (
        nn.Sequential(nn.LSTM(4, 3, num_layers=2, dropout=0.5, bidirectional=True), Of(flat)),
        SEQUENCE,
    ),
    "LSTM of one step": (nn.Sequential(nn.LSTM(4, 3), Of(flat)), (2, 1, 4)),
    "LSTM of a batch of one": (nn.Sequential(nn.LSTM(4, 3), Of(flat)), (1, 3, 4)),
    "LSTM over the batch": (nn.Sequential(nn.LSTM(4, 3, batch_first=False), Of(lambda both: both[0])), SEQUENCE),
    "GRU": (nn.Sequential(nn.GRU(4, 3, bias=False, bidirectional=True), Of(flat)), SEQUENCE),
    "GRU, two layers": (nn.Sequential(nn.GRU(4, 3, num_layers=2), Of(flat)), SEQUENCE),
}
OPS = {
    "exp, log, sqrt, tanh, sigmoid, relu": (
        Of(lambda x: mg.tanh(mg.log(mg.sqrt(mg.exp(x)) + 1)) * mg.sigmoid(x) - mg.relu(x)),
        ROWS,
    ),
    "power": (Of(lambda x: (x * x + 1) ** 1.5 - x**2), ROWS),
    "negative, divided": (Of(lambda x: 1 / (2 + mg.sigmoid(-x))), ROWS),
    "arithmetic with parameters": (Of(lambda x, a, b: (x - a) * b / 2 + x, a=random(4), b=random(3, 1)), SEQUENCE),
    "arithmetic with a number that is trained": (Of(lambda x, a: x * a, a=np.float32(1.5)), ROWS),
    "arithmetic of channels": (
        Of(lambda x, w, a, b: mg.conv2d(x, w) * a + b, w=random(1, 1, 3, 4), a=random(4), b=random(1, 5, 1)),
        IMAGE,
    ),
    "parameters alone": (Of(lambda x, a: x + mg.exp(a).T, a=random(4, 1)), ROWS),
    "squeeze and excite": (
        nn.Sequential(nn.Conv2d(3, 4, 3), Of(squeeze_and_excite, w=random(4, 2), v=random(2, 4)), nn.ReLU()),
        IMAGE,
    ),
    "attention": (Of(attention, w=random(3, 4, 4)), SEQUENCE),
    "attention by its op": (
        Of(
            lambda x, m: (
                mg.scaled_dot_product_attention(x, x * 2, x[..., 1:], x[:, :, :3] > 0.5)
                + mg.scaled_dot_product_attention(x, x, x[..., :3], m.detach(), is_causal=True, scale=0.3)
                - mg.scaled_dot_product_attention(x[:, :2], x, x[..., :3], is_causal=True)[:, 1:]
            ),
            m=np.where(random(3, 3) > 1, -np.inf, random(3, 3)).astype("f4"),
        ),
        SEQUENCE,
    ),
    "matmul": (Of(lambda x, w: x @ w, w=random(4, 2)), SEQUENCE),
    "matmul of stacks": (Of(lambda x: x @ x.transpose(0, 2, 1)), SEQUENCE),
    "matmul of vectors": (Of(lambda x, v: x @ v, v=random(4)), SEQUENCE),
    "tied weights": (Of(lambda x, w: mg.linear(mg.relu(mg.linear(x, w)), w.T), w=random(4, 6)), ROWS),
    "softmax": (Of(lambda x: mg.softmax(x) + mg.log_softmax(x)), SEQUENCE),
    "softmax over another axis": (Of(lambda x: mg.softmax(x, axis=1) + mg.log_softmax(x, axis=0)), SEQUENCE),
    "softmax of channels": (of_images(Of(lambda x: mg.softmax(x, axis=3) + mg.softmax(x, axis=1))), IMAGE),
    "sum": (Of(lambda x: mg.sum(x, axis=1) + mg.sum(x, axis=(1, 2), keepdims=True).reshape(-1, 1)), SEQUENCE),
    "mean": (Of(lambda x: mg.mean(x, axis=-1) - mg.mean(x)), SEQUENCE),
    "mean over the batch": (Of(lambda x: x - mg.mean(x, axis=0, keepdims=True)), ROWS),
    "mean over no axes": (Of(lambda x: mg.mean(x, axis=()) + mg.max(x, axis=())), ROWS),
    "max": (Of(lambda x: mg.max(x, axis=1, keepdims=True) + mg.max(x, axis=(0, 2), keepdims=True)), SEQUENCE),
    "reductions of channels": (
        of_images(Of(lambda x: mg.mean(x, axis=(1, 2), keepdims=True) + mg.max(x, axis=3, keepdims=True))),
        IMAGE,
    ),
    "sum over rows of images": (of_images(Of(lambda x: mg.sum(x, axis=1))), IMAGE),
    "reshape": (Of(lambda x: x.reshape(-1, 2).reshape(x.shape[0], 2, -1)), SEQUENCE),
    "reshape with two lengths of the batch": (
        Of(lambda x: (x.reshape(-1, 1, 4) + mg.mean(x, axis=1).reshape(1, -1, 4)).reshape(x.shape[0], -1, 1, 4)),
        (1, 2, 4),
    ),
    "transpose": (Of(lambda x: mg.transpose(x, (2, 0, 1)) * 2), SEQUENCE),
    "transpose of channels": (of_images(Of(lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1))), IMAGE),
    "concat": (Of(lambda x, w: mg.concat([x, mg.relu(x), mg.linear(x, w)], axis=-1), w=random(4, 2)), SEQUENCE),
    "concat of rows": (Of(lambda x: mg.concat([x, x * 2], axis=1)), SEQUENCE),
    "concat of images": (of_images(Of(lambda x: mg.concat([x, x[:, :2]], axis=1)), nn.Conv2d(4, 2, 1)), IMAGE),
    "split": (Of(lambda x: mg.concat(mg.split(x, [1, 3], axis=2)[::-1], axis=-1) * 2), SEQUENCE),
    "split of images": (
        of_images(Of(lambda x: mg.concat(mg.split(x, 2, axis=1)[::-1], axis=1)), nn.Conv2d(4, 2, 1)),
        IMAGE,
    ),
    "unstack": (Of(lambda x: mg.unstack(x, 1)[1] * mg.unstack(x, 2)[0].sum(1, keepdims=True)), SEQUENCE),
    "unstack of channels": (of_images(Of(lambda x: mg.unstack(x, 3)[1] * mg.split(x, 1)[0][..., 0])), IMAGE),
    "slices": (Of(lambda x: x[:, 1:, ::-1] * x[:, -1:, :1:-1].sum() + x[:, None, 0, :1]), SEQUENCE),
    "slices of images": (of_images(Of(lambda x: x[:, 1:-1, ::2, :2]), nn.Conv2d(2, 2, 1)), IMAGE),
    "channels and pixels": (of_images(Of(lambda x: x[..., 1] + x[:, 0, :1, -1:])), IMAGE),
    "slices of the batch": (Of(lambda x: x[: x.shape[0]] - x[-1] + x[0:1]), ROWS),
    "columns by number": (Of(lambda x: x[:, [2, 0, 2]] + getitem(x, (slice(None), np.array([1])))), ROWS),
    "columns by truth": (Of(lambda x: x[:, np.array([True, False, True])]), SEQUENCE),
    "rows by number": (Of(lambda x, w: x + w[mg.tensor([1], device=x.device)], w=random(2, 4)), ROWS),
    "comparisons": (
        Of(
            lambda x: (
                to(x > 0.1, "float32") - to(x <= -0.1, "float32") * to(x != x[0], "float32") + to(x == x, "float32")
            )
        ),
        ROWS,
    ),
    "comparison of images": (of_images(Of(lambda x: x * to(x < mg.mean(x, axis=3, keepdims=True), x.dtype))), IMAGE),
    "conv2d by a computed weight": (
        Of(lambda x, w: mg.conv2d(x, w / mg.sqrt(mg.sum(w * w))), w=random(3, 3, 3, 4)),
        IMAGE,
    ),
    "pools": (
        Of(
            lambda x: (
                mg.max_pool2d(x, 2, stride=1) + mg.avg_pool2d(x, 2, stride=1) + mg.local_response_norm(x)[:, 1:, 1:]
            )
        ),
        IMAGE,
    ),
    "batch_norm with an activation": (
        Of(
            lambda x, m: mg.batch_norm(x, m, None, m.detach(), mg.exp(m).detach(), training=False, activation="relu"),
            m=random(4),
        ),
        ROWS,
    ),
    "broadcast_to": (
        Of(lambda x: mg.broadcast_to(x[:, None], (x.shape[0], 5, 4)) + mg.broadcast_to(x[0], x.shape)[:, None]),
        ROWS,
    ),
    "broadcast_to of the batch": (
        Of(lambda x, a: x + mg.broadcast_to(a, (x.shape[0], 3, 4)), a=random(3, 1)),
        SEQUENCE,
    ),
    "broadcast_to of images": (
        of_images(Of(lambda x: mg.broadcast_to(x[:, :1], x.shape) * x), nn.Conv2d(4, 2, 1)),
        IMAGE,
    ),
    "roll, repeat, tile": (
        Of(lambda x: mg.roll(x, (1, -1, 0), (0, 1, 2)) + mg.repeat(x, 3, 1)[:, ::3] - mg.tile(x, (1, 2, 1))[:, 3:]),
        SEQUENCE,
    ),
    "cumsum": (Of(lambda x: mg.cumsum(x, 1) + mg.cumsum(x, 0) - mg.cumsum(x, -1)), SEQUENCE),
    "cumsum of channels": (of_images(Of(lambda x: mg.cumsum(x, 3) + mg.cumsum(x, 1)), nn.Conv2d(4, 2, 1)), IMAGE),
    "flip": (Of(lambda x: mg.flip(x) + mg.flip(x, 1) * 2 + mg.flip(x, ())), SEQUENCE),
    "flip of images": (of_images(Of(lambda x: mg.flip(x, (2, 3))), nn.Conv2d(4, 2, 1)), IMAGE),
    "pad": (
        Of(lambda x: mg.pad(x, ((0, 0), (1, 2), (0, 3)), -0.5) + mg.pad(x[:, :, :1], ((0, 0), (3, 0), (2, 4)))),
        SEQUENCE,
    ),
    "pad of the batch": (Of(lambda x: mg.pad(x, ((1, 2), (0, 0)))), ROWS),
    "pad of images": (
        of_images(Of(lambda x: mg.pad(x, ((0, 0), (1, 0), (0, 2), (0, 1)), 2.0)), nn.Conv2d(5, 2, 1)),
        IMAGE,
    ),
    "take_along_axis": (
        Of(lambda x: mg.take_along_axis(x, to(x > 0, "int64"), 1) + mg.take_along_axis(x, to(x > x, "int64"), 0)),
        SEQUENCE,
    ),
    "elements set": (
        Of(lambda x, a: x.at[:, 1].set(a[0]) + x.at[:, 1:, ::2].set(a[:, :2]) * x.at[..., :2].set(0.0), a=random(2, 4)),
        SEQUENCE,
    ),
    "elements set, by steps back": (
        Of(lambda x: x.at[:, ::-1, -1].set(x[:, :, 0]).at[:, ::-2, None].add(1.0)),
        SEQUENCE,
    ),
    "elements added to": (Of(lambda x: x.at[:, -2:].add(x[:, :2]).at[:, 0, 3].add(2.0)), SEQUENCE),
    "rows of the batch set": (
        Of(
            lambda x: (
                x.at[1:].set(x[:-1])
                + x.at[0].set(7.0)
                - x.at[:-1, 1:2].add(1.0) * x.at[...].set(2.0)
                + x.at[2:2].set(1.0)
            )
        ),
        ROWS,
    ),
    "columns set by number": (
        Of(lambda x: x.at[:, [2, 0]].set(0.5) * x.at[:, np.array([1, -1]), 1].set(x[:, 0, 1:3])),
        SEQUENCE,
    ),
    "columns added to by number": (Of(lambda x: x.at[:, [2, 0, 2]].add(x[:, :3])), ROWS),
    "rows of the batch added to by number": (Of(lambda x: x.at[np.array([0, 0])].add(x[:1])), ROWS),
    "rows of a table added to by number": (
        Of(lambda x, w: mg.linear(x, w.at[np.array([1, 0, 1])].add(2.0)), w=random(4, 2)),
        ROWS,
    ),
    "zeros as long as the batch": (
        Of(lambda x, w: mg.linear(mg.concat([x, mg.zeros((x.shape[0], 2), device=x.device)], 1), w), w=random(6, 2)),
        ROWS,
    ),
    "nll_loss": (Of(lambda x: mg.nll_loss(mg.log_softmax(x), labels_of(x))), SEQUENCE),
    "cross_entropy with weights": (
        Of(
            lambda x, w: (
                mg.cross_entropy(x, labels_of(x), weight=w, ignore_index=1)
                + mg.cross_entropy(x, labels_of(x), ignore_index=0)
            ),
            w=np.arange(1, 5, dtype="f4"),
        ),
        SEQUENCE,
    ),
    "cross_entropy, smoothed": (
        Of(
            lambda x, w: (
                mg.cross_entropy(x, labels_of(x), label_smoothing=0.1, reduction="none")
                + mg.cross_entropy(x, labels_of(x), weight=w, label_smoothing=0.3, ignore_index=1, reduction="sum")
            ),
            w=np.arange(1, 5, dtype="f4"),
        ),
        SEQUENCE,
    ),
    "mse_loss": (Of(lambda x: mg.mse_loss(x, mg.relu(x))), ROWS),
    "branches": (Of(lambda x: concat_branches([Branch(x, None, None), Branch(mg.relu(x), None, None)])), ROWS),
    "the input itself": (Of(lambda x: x), ROWS),
    "arithmetic: add, sub, mul, div": (Of(lambda x: mg.div(mg.mul(mg.sub(mg.add(x, 1), x), x), 3)), ROWS),
    "dropout": (Of(lambda x: mg.dropout(x, 0.5, training=False, seed=1) + 1), ROWS),
    "lstm": (
        Of(begun, w=random(1), v=random(4, 3), w_ih=random(4, 12), w_hh=random(3, 12), b=random(12)),
        SEQUENCE,
    ),
    "gru with one bias, rnn of the last step": (
        Of(
            lambda x, w, v, b: mg.rnn(mg.gru(x, None, w, v, b)[0], None, v[:, :3], v[:, 3:6])[1],
            w=random(4, 9),
            v=random(3, 9),
            b=random(9),
        ),
        SEQUENCE,
    ),
}


def of_table(op):
    """An op of a formula as a model of one input."""

    def function(x):
        floats = iter([x * x + 0.5 if op.__name__ == "tensor_power" else x, x * 0.5 + 0.2, x[:1]])
        y = op(*[x > 0.3 if kind == "bool" else next(floats) for kind in op.traced.kinds])
        return to(y, "float32")

    return Of(function)


FORMULAS = {
    **{f"table: {name}": (of_table(op), (2, 3)) for name, op in TABLE.items()},
    "clip, gelu, silu": (Of(lambda x: mg.clip(x, -0.5, 0.5) + mg.gelu(x) * mg.silu(x)), ROWS),
    "formula of one's own": (
        of_images(
            Of(
                mg.elementwise(
                    lambda x, a: np.tanh(a * x) + (x > 0) * x**2.5,
                ),
                a=random(4),
            ),
            nn.Conv2d(4, 2, 1),
        ),
        IMAGE,
    ),
}
MODELS = {
    "MLP": (mg.models.MLP(12, (8, 8), 3), (3, 12)),
    "MLP of images": (mg.models.MLP(90, (8,), 3, activation="tanh"), IMAGE),
    "Inception": (mg.models.Inception(width=0.1, dropout=0.3), (2, 16, 16, 3)),
    "Inception without BN": (mg.models.Inception(width=0.1, batch_norm=False, activation="sigmoid"), (2, 16, 16, 3)),
    "BNInception": (mg.models.BNInception(classes=5), (1, 64, 64, 3)),
}
ALL = {**LAYERS, **OPS, **FORMULAS, **MODELS}


def ready(name):
    """(model on the reference device, in evaluation mode, with statistics of its own; an example)."""
    model, shape = ALL[name]
    rng = np.random.default_rng(1)
    for _, module in model.modules():
        if isinstance(module, nn.BatchNorm):
            module.load_state_dict(
                {
                    key: (rng.random(t.shape) + 0.5 if key != "running_mean" else rng.standard_normal(t.shape)).astype(
                        t.dtype
                    )
                    for key, t in module.state_dict().items()
                }
            )
    return model.to("reference").eval(), random(*shape)


def batch(example, rows):
    """Another batch for the same model."""
    return np.random.default_rng(rows).standard_normal((rows, *example.shape[1:])).astype(example.dtype)


def result(model, *inputs):
    """What a model of ours makes of arrays."""
    device = next((p.device for p in model.parameters()), "reference")
    with mg.no_grad():
        return model(*[mg.tensor(x, device=device) for x in inputs]).numpy()

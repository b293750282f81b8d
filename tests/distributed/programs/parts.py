"""Gradients of another parameter in each rank, and validation by the very loader that training shares out."""

import numpy as np
from told import bits, result

import minigrad as mg
from minigrad import distributed, nn

distributed.init(timeout=200)
rank = distributed.rank


class Two(nn.Module):
    def __init__(self):
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)


def gradients_of_others():
    """What is told where each rank has a gradient of a parameter of its own, all of one size."""
    model = Two().to("reference")
    distributed.broadcast(model)
    layer = model.a if rank == 0 else model.b
    layer(mg.tensor([[1.0]], device="reference")).sum().backward()
    try:
        distributed.average_gradients(model)
    except distributed.RanksDiffer as error:
        return str(error)


def samples_told():
    """What is told of numbers of samples that make no average."""
    layer = nn.Linear(1, 1).to("reference")
    told = []
    for samples in (-1.0, float("nan"), 0.0):
        layer(mg.tensor([[1.0]], device="reference")).sum().backward()
        try:
            distributed.average_gradients(layer, samples)
        except ValueError as error:
            told.append(str(error))
    return told


def validation():
    """The loss of seven rows by zeros, in batches of five and two."""
    x = np.arange(7, dtype=np.float32)[:, None]
    model = nn.Sequential(nn.Linear(1, 1)).to("reference")
    loader = mg.data.Loader(x, x, batch_size=5, shuffle=False)
    history = mg.train.fit(
        model,
        mg.optim.SGD(model.parameters(), lr=0.0),
        loader,
        epochs=1,
        loss=mg.mse_loss,
        validation=loader,
        progress=False,
        capture=False,
    )
    weight, bias = (parameter.numpy().ravel()[0] for parameter in model.parameters())
    return [history.epochs[-1]["validation_loss"], float(np.mean((x * weight + bias - x) ** 2))]


def early_stopped():
    """The bits of an estimator's network that has gone back to its best epoch."""
    from minigrad.sklearn import MinigradClassifier

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 5)).astype(np.float32), rng.integers(0, 3, 60)
    model = MinigradClassifier(random_state=0, batch_size=24, early_stopping=True, epochs=9).fit(x, y).model_
    return bits(model.state_dict().values())


result(
    {
        "early_stopped": early_stopped(),
        "validation": validation(),
        "told": gradients_of_others(),
        "samples": samples_told(),
    }
)

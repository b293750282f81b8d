"""A character-level LSTM on the manual that ships with Python, and what it then writes.

    python examples/char_lstm.py                     2,000 steps, then 400 characters
    python examples/char_lstm.py --beside-pytorch    the time of a step beside PyTorch's, on the same threads

The text is that of `help("topics")`, some 700,000 characters. A batch is 32 places of it, 64 characters each; the next batch
goes on where this one ended, with the state that it left. Steps are captured: the state goes in and comes out.
"""

import statistics
import time
from pydoc_data.topics import topics
from typing import Annotated

import numpy as np
import typer

import minigrad as mg

BATCH, STEPS = 32, 64


class Model(mg.nn.Module):
    """The next character's logits at every step, and the state after the last."""

    def __init__(self, characters: int, units: int) -> None:
        self.embedding = mg.nn.Embedding(characters, 32)
        self.lstm = mg.nn.LSTM(32, units)
        self.out = mg.nn.Linear(units, characters)

    def forward(self, numbers, state=None):
        """Numbers of characters (N, steps) to logits (N, steps, characters)."""
        y, state = self.lstm(self.embedding(numbers), state)
        return self.out(y), state


def batches(text: np.ndarray, steps: int):
    """(characters, those that follow), (N, steps) each: N readers at places of their own, all going on."""
    length = (len(text) - 1) // BATCH
    readers, following = (text[i : i + BATCH * length].reshape(BATCH, length) for i in (0, 1))
    for n in range(steps):
        at = n * STEPS % (length - STEPS)
        yield readers[:, at : at + STEPS], following[:, at : at + STEPS]


def write(model: Model, alphabet: str, count: int, temperature: float = 0.7) -> str:
    """So many characters, each drawn by what the model says of those before."""
    rng, state, text = np.random.default_rng(0), None, "\n"
    with mg.no_grad():
        for _ in range(count):
            logits, state = model(mg.tensor([[alphabet.index(text[-1])]]), state)
            share = np.exp(logits.numpy()[0, 0].astype(float) / temperature)
            text += alphabet[rng.choice(len(alphabet), p=share / share.sum())]
    return text


def training(model: Model, lr: float):
    """A captured step: characters, the following ones, and the state before; gives the loss and the state after."""
    optimizer = mg.optim.Adam(model.parameters(), lr=lr)

    @mg.capture
    def step(numbers, following, h, c):
        optimizer.zero_grad()
        logits, (h, c) = model(numbers, (h, c))
        loss = mg.cross_entropy(logits.reshape(-1, logits.shape[-1]), following.reshape(-1))
        loss.backward()
        mg.optim.clip_grad_norm(model.parameters(), 5.0)
        optimizer.step()
        return loss, h.detach(), c.detach()

    return step


def pytorch_training(characters: int, units: int, lr: float):
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(mg.get_num_threads())
    embedding, lstm = torch.nn.Embedding(characters, 32), torch.nn.LSTM(32, units, batch_first=True)
    out = torch.nn.Linear(units, characters)
    parameters = [*embedding.parameters(), *lstm.parameters(), *out.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)

    def step(numbers, following, h, c):
        optimizer.zero_grad()
        y, (h, c) = lstm(embedding(torch.tensor(numbers)), (h, c))
        loss = torch.nn.functional.cross_entropy(out(y).flatten(0, 1), torch.tensor(following).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        return loss, h.detach(), c.detach()

    return step, (torch.zeros(1, BATCH, units),) * 2


def train(step, state, text: np.ndarray, steps: int, every: int) -> list[float]:
    """Seconds of each step; the loss is shown now and then."""
    seconds = []
    for n, batch in enumerate(batches(text, steps)):
        start = time.perf_counter()
        loss, *state = step(*batch, *state)
        if n % every == 0 or n == steps - 1:
            print(f"step {n:5}: {loss.item():.3f}", flush=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 2_000,
    units: Annotated[int, typer.Option(min=1, help="Of the LSTM.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 0.003,
    characters: Annotated[int, typer.Option(help="To be written at the end.")] = 400,
    beside_pytorch: Annotated[bool, typer.Option(help="Train PyTorch's as well, and compare the times.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
) -> None:
    """Train, and write a text."""
    if threads is not None:
        mg.set_num_threads(threads)
    mg.manual_seed(0)
    manual = "\n".join(topics.values())
    alphabet = "".join(sorted(set(manual)))
    text = np.array([alphabet.index(c) for c in manual])
    model, state = Model(len(alphabet), units), [np.zeros((1, BATCH, units), np.float32)] * 2
    ours = train(training(model, learning_rate), state, text, steps, max(1, steps // 10))
    print(write(model, alphabet, characters))
    if beside_pytorch:
        step, start = pytorch_training(len(alphabet), units, learning_rate)
        theirs = train(step, start, text, steps, max(1, steps // 10))
        ours_median, theirs_median = (1e3 * statistics.median(seconds) for seconds in (ours, theirs))
        print(f"a step: minigrad {ours_median:.1f} ms, PyTorch {theirs_median:.1f} ms, {mg.get_num_threads()} threads")


if __name__ == "__main__":
    typer.run(main)

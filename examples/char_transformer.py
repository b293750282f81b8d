"""A transformer that learns to write, character by character, from the language reference that ships with Python.

The text is `pydoc_data.topics`, which `help()` shows: what is printed at the end has its words, indents and headings, and
little sense. A block is attention and a small MLP, each on the normalized sum of all that came before (Vaswani et al. 2017; the
normalization first, as in GPT-2).

    python examples/char_transformer.py            4 blocks of 128 features, 128 characters, 1,000 steps of batch 32
    python examples/char_transformer.py --quick    half a minute: 2 blocks, 64 characters, 150 steps
    python examples/char_transformer.py --help     blocks, features, heads, context, batch, steps, learning rate, seed, ...

The loss is the mean over characters of -log of the probability that the one which came was given; a uniform guess among some
100 characters has 4.6, each character's own frequency 3.2. The same seed gives the same bits.
"""

import time
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import Annotated

import numpy as np
import typer

import minigrad as mg


class TransformerBlock(mg.nn.Module):
    """x + attention of x to what came before, then x + MLP of x."""

    def __init__(self, features: int, heads: int) -> None:
        self.norm, self.attention = mg.nn.LayerNorm(features), mg.nn.MultiheadAttention(features, heads)
        self.mlp_norm = mg.nn.LayerNorm(features)
        self.wide, self.narrow = mg.nn.Linear(features, 4 * features), mg.nn.Linear(4 * features, features)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        """(N, places, features) to the same."""
        x = x + self.attention(self.norm(x), is_causal=True)
        return x + self.narrow(mg.gelu(self.wide(self.mlp_norm(x))))


class Transformer(mg.nn.Module):
    """Characters' numbers (N, places) to the logits of the next ones (N, places, characters)."""

    def __init__(self, characters: int, context: int, blocks: int, features: int, heads: int) -> None:
        self.characters, self.context = mg.nn.Embedding(characters, features), context
        self.places = mg.nn.Parameter(mg.nn.init.gaussian((context, features), 0.02))
        self.characters.weight = mg.nn.Parameter(mg.nn.init.gaussian((characters, features), 0.02))
        self.blocks = mg.nn.ModuleList([TransformerBlock(features, heads) for _ in range(blocks)])
        self.norm, self.last = mg.nn.LayerNorm(features), mg.nn.Linear(features, characters)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        """Logits."""
        x = self.characters(x) + self.places[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.last(self.norm(x))


def load_text() -> tuple[np.ndarray, str]:
    """(numbers of the characters of the text, the characters)."""
    text = "\n".join(topics[name] for name in sorted(topics))
    characters = "".join(sorted(set(text)))
    numbers = {character: i for i, character in enumerate(characters)}
    return np.array([numbers[character] for character in text], np.int64), characters


def batches(text: np.ndarray, context: int, batch: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (characters, those that follow), (batch, context) each, from places drawn at random."""
    rng = np.random.default_rng(seed)
    while True:
        places = rng.integers(0, len(text) - context, batch)[:, np.newaxis] + np.arange(context + 1)
        drawn = text[places]
        yield np.ascontiguousarray(drawn[:, :-1]), np.ascontiguousarray(drawn[:, 1:])


def loss_of(model: Transformer, x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
    """The mean loss over all characters of a batch."""
    logits = model(x)
    return mg.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def write(model: Transformer, characters: str, start: str, count: int, seed: int) -> str:
    """The start and `count` characters more, each drawn by its probability."""
    rng = np.random.default_rng(seed)
    numbers = [characters.index(character) for character in start]
    with mg.no_grad():
        for _ in range(count):
            probabilities = mg.softmax(model(mg.tensor([numbers[-model.context :]]))[0, -1]).numpy().astype(np.float64)
            numbers.append(int(rng.choice(len(characters), p=probabilities / probabilities.sum())))
    return "".join(characters[i] for i in numbers)


def main(
    blocks: Annotated[int, typer.Option(help="blocks of attention and MLP")] = 4,
    features: Annotated[int, typer.Option(help="features of a place")] = 128,
    heads: Annotated[int, typer.Option(help="heads of the attention")] = 4,
    context: Annotated[int, typer.Option(help="characters that are seen at once")] = 128,
    batch: Annotated[int, typer.Option(help="pieces of text in a step")] = 32,
    steps: Annotated[int, typer.Option(help="steps of training")] = 1000,
    rate: Annotated[float, typer.Option(help="learning rate, after the first 50 steps")] = 1e-3,
    seed: Annotated[int, typer.Option(help="of weights, batches and what is written")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="a small network, few steps")] = False,
) -> None:
    """Train, print losses as it goes, and have it write a piece of text."""
    if quick:
        blocks, features, context, steps = min(blocks, 2), min(features, 64), min(context, 64), min(steps, 150)
    mg.manual_seed(seed)
    text, characters = load_text()
    held_out = len(text) * 9 // 10
    train, validation = batches(text[:held_out], context, batch, seed), batches(text[held_out:], context, batch, seed)
    model = Transformer(len(characters), context, blocks, features, heads)
    optimizer = mg.optim.AdamW(model.parameters(), lr=rate)
    schedule = mg.optim.WarmupSchedule(optimizer, 50)

    @mg.capture
    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss

    count = sum(p.size for p in model.parameters())
    print(f"{len(text):,} characters, {len(characters)} different ones; {count:,} parameters")
    began = time.perf_counter()
    for i in range(1, steps + 1):
        loss = step(*next(train))
        schedule.step()
        if i % max(steps // 10, 1) == 0 or i == 1:
            with mg.no_grad():
                losses = [loss_of(model, *map(mg.tensor, next(validation))).item() for _ in range(4)]
            seconds = time.perf_counter() - began
            print(f"step {i:5}  loss {loss.item():.3f}  validation {np.mean(losses):.3f}  {seconds:.0f} s", flush=True)
    print(f"\n{write(model, characters, 'The ', 300, seed)}")


if __name__ == "__main__":
    typer.run(main)

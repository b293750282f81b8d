"""Attention, layer_norm, softmax, and the step of examples/char_transformer.py, beside PyTorch and JAX in one run.

    python -m benchmarks.transformer --threads 1
    python -m benchmarks.transformer --threads 2

Medians of rounds in which all take their turn; the process is kept to as many cores as threads. JAX is compiled (jit), PyTorch
eager, minigrad eager but for the step, which is captured. Compile time is not in it.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import minigrad as mg

if (
    __name__ == "__main__"
):  # asv imports this file too, to look for benchmarks: without these packages, and without options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    import jax  # their threads follow the cores that there are
    import jax.numpy as jnp
    import torch

    F = torch.nn.functional
    mg.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

Work = Callable[[], object]
Case = tuple[str, dict[str, Work]]
RNG = np.random.default_rng(0)
CONTEXT, BATCH, BLOCKS, FEATURES, HEADS = 128, 32, 4, 128, 4


def normal(*shape: int) -> np.ndarray:
    """Random numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def both_ways(
    name: str, ours: Callable, theirs: Callable, of_jax: Callable, arrays: list[np.ndarray]
) -> Iterator[Case]:
    """A function forward, and forward with backward."""
    leaves = [mg.tensor(a, requires_grad=True) for a in arrays]
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    given = [jnp.asarray(a) for a in arrays]
    shape = ours(*leaves).shape
    dy = normal(*shape)
    dy_torch, dy_jax = torch.tensor(dy), jnp.asarray(dy)

    def forward() -> None:
        with mg.no_grad():
            ours(*leaves)

    def torch_forward() -> None:
        with torch.no_grad():
            theirs(*others)

    def train() -> None:
        ours(*leaves).backward(dy)
        for t in leaves:
            t.grad = None

    def torch_train() -> None:
        theirs(*others).backward(dy_torch)
        for t in others:
            t.grad = None

    compiled = jax.jit(of_jax)

    def pulled(dy: jax.Array, *xs: jax.Array) -> tuple:
        y, pull = jax.vjp(of_jax, *xs)
        return y, pull(dy)

    trained = jax.jit(pulled)
    np.testing.assert_allclose(ours(*leaves).numpy(), np.asarray(compiled(*given)), rtol=1e-3, atol=1e-4)
    yield name, {"minigrad": forward, "PyTorch": torch_forward, "JAX": lambda: jax.block_until_ready(compiled(*given))}
    yield (
        f"{name}, with backward",
        {"minigrad": train, "PyTorch": torch_train, "JAX": lambda: jax.block_until_ready(trained(dy_jax, *given))},
    )


def cases() -> Iterator[Case]:
    """All that is timed."""
    for causal in (False, True):

        def of_jax(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = causal) -> jax.Array:
            turned = (x.swapaxes(1, 2) for x in (q, k, v))  # it has heads behind positions
            return jax.nn.dot_product_attention(*turned, is_causal=causal).swapaxes(1, 2)

        yield from both_ways(
            "attention, causal" if causal else "attention",
            lambda q, k, v, causal=causal: mg.scaled_dot_product_attention(q, k, v, is_causal=causal),
            lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
            of_jax,
            [normal(8, 4, 256, 64) for _ in range(3)],
        )

    def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        return gamma * centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5) + beta

    yield from both_ways(
        "layer_norm", mg.layer_norm, lambda x, g, b: F.layer_norm(x, (512,), g, b), layer_norm,
        [normal(2048, 512), normal(512), normal(512)],
    )  # fmt: skip
    yield from both_ways("softmax", mg.softmax, lambda x: torch.softmax(x, -1), jax.nn.softmax, [normal(2048, 512)])
    yield "transformer step", {"minigrad": our_step(), "PyTorch": their_step()}


def our_step() -> Work:
    """The example's, captured."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import char_transformer as example

    text, characters = example.load_text()
    model = example.Transformer(len(characters), CONTEXT, BLOCKS, FEATURES, HEADS)
    optimizer = mg.optim.AdamW(model.parameters())
    x, y = next(example.batches(text, CONTEXT, BATCH, 0))

    @mg.capture
    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = example.loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y).item()


def their_step() -> Work:
    """The same in PyTorch, eager, by its own attention and layers."""
    import char_transformer as example

    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp_norm = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
            self.inside, self.out = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
            self.mlp = nn.Sequential(nn.Linear(FEATURES, 4 * FEATURES), nn.GELU(), nn.Linear(4 * FEATURES, FEATURES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, places, _ = x.shape
            q, k, v = self.inside(self.norm(x)).view(n, places, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(x.shape))
            return x + self.mlp(self.mlp_norm(x))

    text, characters = example.load_text()
    embedding = nn.Embedding(len(characters), FEATURES)
    places = nn.Parameter(0.02 * torch.randn(CONTEXT, FEATURES))
    rest = nn.Sequential(
        *[Block() for _ in range(BLOCKS)], nn.LayerNorm(FEATURES), nn.Linear(FEATURES, len(characters))
    )
    optimizer = torch.optim.AdamW([*embedding.parameters(), places, *rest.parameters()])
    x, y = map(torch.tensor, next(example.batches(text, CONTEXT, BATCH, 0)))

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(rest(embedding(x) + places).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    """Time and print a table."""
    print(f"| {options.threads} threads, ms | minigrad | PyTorch | JAX | PyTorch / minigrad | JAX / minigrad |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, works in cases():
        if options.only not in name:
            continue
        seconds: dict[str, list[float]] = {side: [] for side in works}
        for i in range(options.rounds + 2):
            for side, work in works.items():
                began = time.perf_counter()
                work()
                if i > 1:  # the first ones compile
                    seconds[side].append(time.perf_counter() - began)
        found = {side: 1e3 * statistics.median(times) for side, times in seconds.items()}
        cells = [f"{found[side]:.2f}" if side in found else "" for side in ("minigrad", "PyTorch", "JAX")]
        ratios = [f"{found[side] / found['minigrad']:.2f}" if side in found else "" for side in ("PyTorch", "JAX")]
        print(f"| {name} | {' | '.join([*cells, *ratios])} |", flush=True)


if __name__ == "__main__":
    main()

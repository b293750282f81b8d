"""See autograd at work on a net of two layers: its tape as a table and a picture, and backward one op at a time.

    python examples/see_the_tape.py

Every gradient that an op passes on is held against finite differences of that very op; here they agree to 1e-6 or better
in float32, and the gradients at the end are, to the bit, those of `loss.backward()`. docs/how-autograd-works.md explains
what is printed. It runs in plain NumPy (device "reference"), so that nothing has to be compiled.
"""

import argparse

import numpy as np

import minigrad as mg


def main() -> None:
    """Print the table, draw the picture, step backwards, and compare with backward()."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", default="tape.svg", help="where to write the picture (default: %(default)s)")
    parser.add_argument("--device", default="reference", help="where to compute (default: %(default)s)")
    options = parser.parse_args()

    rng = np.random.default_rng(0)

    def parameter(*shape: int) -> mg.Tensor:
        return mg.tensor(rng.standard_normal(shape), "float32", options.device, requires_grad=True)

    x = mg.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], "float32", options.device)
    labels = mg.tensor([0, 1, 1, 0], device=options.device)  # exclusive or
    w1, b1, w2, b2 = parameter(2, 3), parameter(3), parameter(3, 2), parameter(2)
    names = {"x": x, "labels": labels, "w1": w1, "b1": b1, "w2": w2, "b2": b2}

    with mg.inspect.record():
        hidden = mg.sigmoid(x @ w1 + b1)
        logits = hidden @ w2 + b2
        loss = mg.cross_entropy(logits, labels)

    print(mg.inspect.table(loss, names=names), end="\n\n")
    mg.inspect.draw(loss, options.svg, names=names)

    steps = mg.inspect.steps(loss, names=names)
    for step in steps:
        print(step, end="\n\n")

    loss.backward()
    same = all(np.array_equal(leaf.grad, gradient) for leaf, gradient in steps.gradients.items())
    print(f"{len(steps.gradients)} gradients, the same as those of backward() to the bit: {same}")


if __name__ == "__main__":
    main()

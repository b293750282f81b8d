"""Draw the small Inception of Kiefer's study and the BN-Inception of the Batch Normalization paper, from the models themselves.

    python examples/draw_models.py [--folder docs/figures]

One forward of each tells `mg.inspect.draw_model` what its layers are, what reads what, the shapes and the parameters. The
pictures are in docs/experiments.md and docs/batch-normalization.md; figure 5 of the paper lists the same shapes.
"""

import argparse
from pathlib import Path

import minigrad as mg

PICTURES = {
    "inception.svg": (mg.models.Inception, (1, 32, 32, 3)),
    "bn-inception.svg": (mg.models.BNInception, (1, 224, 224, 3)),
}


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/figures"), help="default: %(default)s")
    folder = parser.parse_args().folder
    for name, (model, shape) in PICTURES.items():
        mg.inspect.draw_model(model(), shape, folder / name)
        print(folder / name)


if __name__ == "__main__":
    main()

"""What the CIFAR-10 experiments share: their command, the training of many networks in turn, and what is told of several seeds.

`train_all` trains networks (see cifar10_network.py) one after another and may be killed at any time: each has a folder with a
checkpoint while it is trained, and with `result.json` once it is done, which the next start of the same command takes as it
is. `experiment` makes a script's function its command: the options are here, the script adds its own.
"""

import functools
import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cifar10_network import Network, build, train
from points import run_points
from reporting import machine, write_json, write_table
from rich.console import Console

import minigrad as mg
from minigrad.data import CIFAR10, load_cifar10
from minigrad.devices import get_device
from minigrad.train.progress import duration

# The options of all experiments.
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the binary CIFAR-10; else $MINIGRAD_DATA, else it is downloaded."),
]
Output = Annotated[Path, typer.Option(help="Folder for results, and for checkpoints to go on from.")]


def known_device(name: str) -> str:
    """The name of a device that works here, for the option --device."""
    try:
        return get_device(name).name
    except (RuntimeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def known_precision(name: str) -> str:
    """The name of a precision that works here, for the option --precision."""
    try:
        with mg.matmul_precision(name):
            return name
    except (RuntimeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


Threads = Annotated[int | None, typer.Option(help="CPU threads; by default all.")]
Jobs = Annotated[int, typer.Option(min=1, help="Networks to train side by side, the threads shared out among them.")]
Backend = Annotated[
    str | None, typer.Option(help="Where, by joblib: loky (processes here), or a cluster's dask or ray; see --jobs.")
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1, help="Networks of each kind, which differ by their seed: the first has --seed, the next one more."
    ),
]
OPTIONS = {  # those that are fields of Network
    "width": Annotated[float, typer.Option(help="Multiplies every number of channels (at least 8).")],
    "images": Annotated[int, typer.Option(min=1, help="Training images, the first of the set.")],
    "test_images": Annotated[int, typer.Option(min=1, help="Test images, the first of the set, to validate on.")],
    "epochs": Annotated[int, typer.Option(min=1, help="Of each network.")],
    "batch": Annotated[int, typer.Option(min=1, help="Images in a training step.")],
    "lr": Annotated[float, typer.Option(help="The initial one.")],
    "drop_every": Annotated[
        int, typer.Option(min=1, help="Epochs, the first time one less, after which it falls to a tenth.")
    ],
    "augment": Annotated[bool, typer.Option(help="Zoom, shear and flip the training images at random.")],
    "gamma": Annotated[bool, typer.Option(help="BN with a scale as well as a shift.")],
    "bn_decay": Annotated[float, typer.Option(help="Kept share of BN's running averages in a step.")],
    "seed": Annotated[int, typer.Option(min=0, help="Of weights, shuffling, augmentation and dropout.")],
    "device": Annotated[
        str, typer.Option(callback=known_device, help="cpu, cuda, or auto: the GPU if there is one that works.")
    ],
    "precision": Annotated[
        str, typer.Option(callback=known_precision, help="Of products: float32, bf16; tf32, bf16_3x on a GPU.")
    ],
}


def quick_option(**values: Any) -> Any:
    """The option --quick: these values in place of the other options' defaults."""

    def use(context: typer.Context, on: bool) -> bool:
        if on:
            context.default_map = values
        return on

    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
    return typer.Option("--quick", callback=use, is_eager=True, help=f"About a minute on two cores: {text}.")


@dataclass
class Experiment:
    """One start of an experiment: the network that its options describe, its data, its folder and what it leaves there."""

    network: Network
    data: CIFAR10
    output: Path
    jobs: int = 1
    backend: str | None = None
    files: list[str] = field(default_factory=list)

    def train(
        self, networks: Mapping[str, Network], keep: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The results of `train_all`."""
        return train_all(networks, self.data, self.output, keep, self.jobs, self.backend)

    def write_results(self, results: Mapping[str, dict[str, Any]], **more: Any) -> None:
        """Write results.json: every number, with what it was measured by."""
        content = {"versions": mg.checkpoint.versions(), "machine": machine(), **more, "networks": results}
        write_json(self.path("results.json"), content)

    def write_table(self, name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, and write it as Markdown."""
        write_table(self.path(name), title, columns, rows)

    def path(self, name: str) -> Path:
        """Where to write a file, which is named when the experiment is over."""
        self.files.append(name)
        return self.output / name


def experiment(
    output: str, *, quick: Mapping[str, Any], without: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function (run, own options) the command of a script, with the options of all experiments besides.

    `output` is the default folder, `defaults` are those of options where they differ from Network's, `quick` what the
    option --quick sets. An option that the function takes itself, or that is in `without`, is not one of the network's.
    """

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        names = [name for name in OPTIONS if name not in {*without, *(parameter.name for parameter in own)}]

        def option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

        @functools.wraps(function)
        def main(
            *, data: Path | None, output: Path, threads: int | None, jobs: int, backend: str | None, quick: bool,
            **options: Any,
        ) -> None:  # fmt: skip
            if threads is not None:
                mg.set_num_threads(threads)
            network = Network(**{name: options.pop(name) for name in names})
            run = Experiment(network, load_data(data, network.images, network.test_images), output, jobs, backend)
            function(run, **options)
            print(f"{', '.join(run.files[:-1])} and {run.files[-1]} are in {output}")

        parameters = [
            option("data", DataFolder, None),
            option("output", Output, Path(output)),
            *[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own],
            *[option(name, OPTIONS[name], defaults.get(name, getattr(Network, name))) for name in names],
            option("threads", Threads, None),
            option("jobs", Jobs, 1),
            option("backend", Backend, None),
            option("quick", Annotated[bool, quick_option(**quick)], False),
        ]
        main.__signature__ = inspect.Signature(parameters)  # from which typer makes the options
        main.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return main

    return decorated


def load_data(folder: Path | None, images: int, test_images: int) -> CIFAR10:
    """The first images of CIFAR-10's training and test set."""
    try:
        data = load_cifar10(folder)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    for kind, wanted, there in (("training", images, data.train_images), ("test", test_images, data.test_images)):
        if wanted > len(there):
            raise SystemExit(f"{wanted:,} {kind} images were asked for, and {len(there):,} are there; ask for fewer")
    counts = images, images, test_images, test_images
    return CIFAR10(*[array[:count].copy() for array, count in zip(data, counts, strict=True)])


def network_folder(output: Path, name: str) -> Path:
    """Where a network's checkpoint and result are."""
    return output / "networks" / re.sub(r"[^\w.]+", "-", name)


def train_all(
    networks: Mapping[str, Network],
    data: CIFAR10,
    output: Path,
    keep: Mapping[str, str] | None = None,
    jobs: int = 1,
    backend: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Train the networks in turn, those that are done already excepted, and return their results by name.

    Checkpoints of trained networks are removed; `keep` names the one to keep, "last" or "best", of the networks whose
    weights are needed. A network that diverges is recorded so. With `jobs` above 1, or a backend of joblib's, they are trained
    side by side, see `points`. SystemExit if the folder belongs to another configuration, and where networks failed, after all
    others.
    """
    claim(output, networks, data)
    if jobs > 1 or backend is not None:
        train_side_by_side(networks, data, output, jobs, backend)
    console = Console(stderr=True, highlight=False)
    results = {}
    todo = {name: n for name, n in networks.items() if not (network_folder(output, name) / "result.json").exists()}
    waiting = whole = sum(n.images * n.epochs for n in todo.values())
    began = time.monotonic()
    for number, (name, network) in enumerate(networks.items(), 1):
        folder = network_folder(output, name)
        title = f"network {number} of {len(networks)}: {name}"
        if name in todo:
            left = (time.monotonic() - began) / (whole - waiting) * waiting if waiting < whole else None
            console.print(title if left is None else f"{title} (all: about {duration(left)} left)", style="bold")
            try:
                result = train(network, data, folder)
            except (SystemExit, KeyboardInterrupt):
                console.print("the same command goes on from here")
                raise
            write_json(folder / "result.json", result)
            waiting -= network.images * network.epochs
        results[name] = result = json.loads((folder / "result.json").read_text())
        if result["diverged"]:
            console.print(f"{title}: diverged, {result['diverged']['message']}")
        elif name not in todo:
            console.print(f"{title}: done before")
        for checkpoint in folder.glob("*.safetensors*"):
            if checkpoint.name != f"{(keep or {}).get(name)}.safetensors":
                checkpoint.unlink()
    return results


def train_side_by_side(
    networks: Mapping[str, Network], data: CIFAR10, output: Path, jobs: int, backend: str | None
) -> None:
    """Train those networks that have no result yet."""
    folders = {name: network_folder(output, name) for name in networks}
    todo = {name: folder for name, folder in folders.items() if not (folder / "result.json").exists()}
    work = functools.partial(train_one, {name: networks[name] for name in todo}, data, todo)
    failed = run_points(todo, work, jobs, backend)
    if failed:
        lines = [f"{name}: {why} ({folders[name] / 'failed.json'})" for name, why in failed.items()]
        raise SystemExit("these networks failed; the same command tries them again:\n  " + "\n  ".join(lines))


def train_one(networks: Mapping[str, Network], data: CIFAR10, folders: Mapping[str, Path], name: str) -> None:
    """Train one of the networks, and leave its result in its folder."""
    result = train(networks[name], data, folders[name], progress=False)
    write_json(folders[name] / "result.json", result)


def claim(output: Path, networks: Mapping[str, Network], data: CIFAR10) -> None:
    """Write down which networks a folder holds, or raise SystemExit if it holds others by these names."""
    digest = hashlib.sha256()
    for array in data:
        digest.update(array.data)
    wanted = {name: {**asdict(network), "data": digest.hexdigest()} for name, network in networks.items()}
    path = output / "configuration.json"
    there = json.loads(path.read_text()) if path.exists() else {}
    defaults = asdict(Network())  # of settings that are newer than what is there
    differences = [
        f"{name}: {key} {before!r} there, {value!r} now"
        for name in wanted
        if name in there
        for key, value in wanted[name].items()
        if (before := {**defaults, **there[name]}.get(key)) != value
    ]
    if differences:
        raise SystemExit(
            f"{output} holds networks of another configuration; take another --output, or remove it:\n  "
            + "\n  ".join(differences)
        )
    if there != {**there, **wanted}:
        write_json(path, {**there, **wanted})


def load_weights(network: Network, output: Path, name: str, which: str) -> mg.models.Inception:
    """A trained network, with the weights of the checkpoint that `train_all` was told to keep."""
    model = build(network)
    mg.checkpoint.load(network_folder(output, name) / f"{which}.safetensors", model=model)
    return model


def seeded(networks: Mapping[str, Network], seeds: int) -> dict[str, Network]:
    """Each network with so many seeds, all of one seed before those of the next; the first keeps its name."""
    return {
        name_of_seed(name, i): replace(network, seed=network.seed + i)
        for i in range(seeds)
        for name, network in networks.items()
    }


def name_of_seed(name: str, i: int) -> str:
    """The name of a network with the seed `i` after the first."""
    return name if i == 0 else f"{name}, seed + {i}"


def of_seeds(results: Mapping[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The results of a network with all its seeds."""
    found, i = [], 0
    while (key := name_of_seed(name, i)) in results:
        found.append(results[key])
        i += 1
    return found


def percent(result: Mapping[str, Any], key: str, study: float | None = None) -> str:
    """A result's accuracy in percent, with the study's in brackets where there is one."""
    value = result[key]
    words = ["diverged" if result["diverged"] else "-" if value is None else f"{100 * value:.1f}"]
    if study is not None:
        words.append(f"({study:g})")
    return " ".join(words)


def mean_percent(results: Sequence[Mapping[str, Any]], key: str, study: float | None = None) -> str:
    """`percent` of one network; of one with several seeds the mean, and the standard deviation from seed to seed."""
    if len(results) == 1:
        return percent(results[0], key, study)
    values = finished_values(results, key)
    diverged = sum(result["diverged"] is not None for result in results)
    words = [f"{100 * np.mean(values):.1f}"] if values else []
    if len(values) > 1:
        words.append(f"± {100 * np.std(values, ddof=1):.1f}")
    if diverged:
        words.append("diverged" if diverged == len(results) else f"({diverged} of {len(results)} diverged)")
    return " ".join([*(words or ["-"]), *([] if study is None else [f"({study:g})"])])


def finished_values(results: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """A number of those networks that did not diverge."""
    return [result[key] for result in results if not result["diverged"] and result[key] is not None]

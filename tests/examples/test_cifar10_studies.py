"""The CIFAR-10 experiments, run for real on a few small images whose colour tells their class."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMES = ("seconds", "training_seconds", "images_per_second", "machine")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not EXAMPLES.exists(), reason="not run from the sources")]


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """A function that runs a script to its end, once for the same options; returns (folder, results, what it printed)."""
    known = {}

    def run(script, *options):
        if (script, options) not in known:
            output = tmp_path_factory.mktemp(script) / "out"
            code, printed = start(script, output, *options)
            assert code == 0, printed
            known[script, options] = output, json.loads((output / "results.json").read_text()), printed
        return known[script, options]

    return run


def table(output, name="table.md"):
    """The rows below a Markdown table's head, by their first cell."""
    lines = [line for line in (output / name).read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[1:] for row in rows[2:]}


def percent(value):
    return f"{100 * value:.1f}"


def shape_of(path):
    """Height and width of a picture that is not of one colour."""
    from matplotlib import image

    pixels = image.imread(path)
    assert pixels[..., :3].std() > 0.01
    return pixels.shape[:2]


def checkpoints(output):
    return sorted(str(path.relative_to(output / "networks")) for path in output.glob("networks/*/*.safetensors"))


def untimed(value, left_out=TIMES):
    """Results without what another run measures anew."""
    if isinstance(value, dict):
        return {key: untimed(inner, left_out) for key, inner in value.items() if key not in left_out}
    return [untimed(inner, left_out) for inner in value] if isinstance(value, list) else value


def repeatable(results):
    """Results of a sweep that was interrupted: how far back the cause of a divergence is looked for depends on the time."""
    return untimed(results, (*TIMES, "message"))


def sweep(finished):
    """The learning-rate sweep that several tests look at; with the largest rate every network diverges."""
    return finished("sweep_learning_rate", "--batch", 20, "--lr", 0.01, "--lr", 0.1, "--lr", 1e38)


# The main run.


def main_run(finished):
    return finished("cifar10_inception", "--batch", 20, "--lr", 0.05)


def test_main_run_leaves_results_table_and_figure_and_says_where(finished):
    output, _, printed = main_run(finished)
    assert sorted(p.name for p in output.iterdir()) == [
        "accuracy.png", "configuration.json", "networks", "results.json", "table.md",
    ]  # fmt: skip
    assert printed.splitlines()[-1] == f"results.json, table.md and accuracy.png are in {output}"
    height, width = shape_of(output / "accuracy.png")
    assert width > 2 * height  # two panels


def test_main_run_records_every_number(finished):
    _, results, _ = main_run(finished)
    assert results["versions"]["minigrad"] == mg.__version__
    assert results["machine"]["cpu"]
    assert list(results["networks"]) == ["BN", "no BN"]
    for name, network in results["networks"].items():
        configuration = network["configuration"]
        assert configuration["batch_norm"] == (name == "BN")
        assert (configuration["images"], configuration["batch"], configuration["lr"]) == (80, 20, 0.05)
        assert [row["step"] for row in network["epochs"]] == [4, 8]
        accuracies = [row["validation_accuracy"] for row in network["epochs"]]
        assert network["best_validation_accuracy"] == max(accuracies)
        assert network["validation_accuracy"] == accuracies[-1]
        assert network["training_accuracy"] == network["epochs"][-1]["accuracy"]
        assert (network["final_accuracy"] == accuracies[-1]) or name == "BN"
        assert 0 < network["training_seconds"] < network["seconds"]
        assert network["diverged"] is None


def test_main_run_tables_the_numbers_of_its_results(finished):
    output, results, printed = main_run(finished)
    rows = table(output)
    assert list(rows) == ["BN", "no BN"]
    for name, (training, validation, best) in rows.items():
        network = results["networks"][name]
        assert training.split()[0] == percent(network["training_accuracy"])
        assert validation.split()[0] == percent(network["validation_accuracy"])
        assert best == percent(network["best_validation_accuracy"])
        assert validation in printed
    assert (rows["BN"][1].split()[1], rows["no BN"][1].split()[1]) == ("(87)", "(66)")


# The sweeps.


def test_final_accuracy_is_by_the_statistics_of_the_trained_network(finished, study, cifar10_network, cifar10):
    output, results, _ = acceleration(finished)
    data = study.load_data(cifar10, 80, 30)
    result = results["networks"]["member 2"]
    network = cifar10_network.Network(**result["configuration"])
    model = study.load_weights(network, output, "member 2", "last")
    loader = cifar10_network.training_loader(network, data)
    mg.nn.recompute_statistics(model, [loader.batch(i)[0] for i in range(len(loader))])
    logits = model(mg.tensor(data.test_images / np.float32(255))).numpy()
    assert result["final_accuracy"] == (logits.argmax(axis=1) == data.test_labels).mean()


def test_learning_rate_sweep_tables_the_final_accuracies(finished):
    output, results, _ = sweep(finished)
    rows = table(output)
    assert list(rows) == ["0.01", "0.1", "1e+38"]
    for rate in ("0.01", "0.1"):
        for cell, kind in zip(rows[rate], ("BN", "no BN"), strict=True):
            network = results["networks"][f"{kind}, learning rate {rate}"]
            assert cell.split()[0] == percent(network["final_accuracy"])
    assert rows["0.1"][0].endswith(" (92)")
    shape_of(output / "accuracy.png")


def test_diverging_network_is_recorded_and_the_sweep_goes_on(finished, start, tmp_path):
    output, results, printed = sweep(finished)
    for kind in ("BN", "no BN"):
        diverged = results["networks"][f"{kind}, learning rate 1e+38"]
        assert 1 <= diverged["diverged"]["step"] <= 3
        assert "the loss became" in diverged["diverged"]["message"]
        assert str(EXAMPLES) not in diverged["diverged"]["message"]
        assert diverged["validation_accuracy"] is None
    assert [cell.split()[0] for cell in table(output)["1e+38"]] == ["diverged", "diverged"]
    assert printed.count(": diverged, ") == 2
    code, _ = start("sweep_learning_rate", tmp_path, "--batch", 20, "--lr", 1e38, "--epochs", 1)
    assert code == 0
    assert table(tmp_path).keys() == {"1e+38"}


def test_batch_size_sweep_tables_mean_and_deviation_of_its_seeds(finished):
    output, results, _ = finished("sweep_batch_size", "--batch", 10, "--batch", 50, "--seeds", 2)
    networks = results["networks"]
    assert list(networks)[:4] == ["BN, batch 10", "no BN, batch 10", "BN, batch 50", "no BN, batch 50"]
    rows = table(output)
    assert list(rows) == ["10", "50"]
    for size, (steps, *cells) in rows.items():
        assert int(steps) == networks[f"BN, batch {size}"]["epochs"][-1]["step"]
        for kind, cell in zip(("BN", "no BN"), cells, strict=True):
            one, other = (networks[f"{kind}, batch {size}{seed}"] for seed in ("", ", seed + 1"))
            assert other["configuration"] == {**one["configuration"], "seed": 1}
            assert one["configuration"]["batch"] == int(size)
            a, b = 100 * one["final_accuracy"], 100 * other["final_accuracy"]
            assert cell.split()[:3] == [f"{(a + b) / 2:.1f}", "±", f"{abs(a - b) / 2**0.5:.1f}"]
    assert rows["10"][1].endswith(" (92)")
    shape_of(output / "accuracy.png")


def test_times_of_the_steps_are_measured_without_training(start, tmp_path):
    code, printed = start("sweep_batch_size", tmp_path, "--batch", 10, "--batch", 20, "--times")
    assert code == 0, printed
    seconds = json.loads((tmp_path / "times.json").read_text())["seconds_per_step"]
    assert list(seconds) == ["BN, batch 10", "no BN, batch 10", "BN, batch 20", "no BN, batch 20"]
    assert all(0 < took < 60 for took in seconds.values())
    with_bn, without, ratio, minutes, _ = table(tmp_path, "times.md")["10"]
    assert [with_bn, without] == [f"{1e3 * seconds[f'{kind}, batch 10']:.1f}" for kind in ("BN", "no BN")]
    assert ratio == f"{seconds['BN, batch 10'] / seconds['no BN, batch 10']:.2f} ({173 / 78:.2f})"
    assert minutes == f"{seconds['BN, batch 10'] * 5_000 / 2:.0f} (173)"
    assert not (tmp_path / "networks").exists()
    shape_of(tmp_path / "times.png")


# Dropout.


def test_dropout_comparison_measures_the_weights_of_lowest_validation_loss(finished):
    output, results, _ = finished("dropout_comparison", "--batch", 20, "--lr", 0.3)
    lowest = results["lowest_validation_loss"]
    row = min(results["networks"]["BN"]["epochs"], key=lambda row: row["validation_loss"])
    assert lowest["epoch"] == row["epoch"]
    assert lowest["validation_loss"] == pytest.approx(row["validation_loss"], rel=1e-6)
    assert lowest["validation_accuracy"] == row["validation_accuracy"]
    rows = table(output)
    assert list(rows)[:3] == ["no BN", "no BN, Dropout 50 %", "BN"]
    assert rows[f"BN, lowest validation loss (epoch {row['epoch']})"][0] == percent(row["validation_accuracy"])
    for name, network in results["networks"].items():
        assert rows[name][0].split()[0] == percent(network["validation_accuracy"])
    assert [n["configuration"]["dropout"] for n in results["networks"].values()] == [0, 0.5, 0]
    assert checkpoints(output) == ["BN/best.safetensors"]
    shape_of(output / "validation.png")


# Acceleration and the ensemble.


def acceleration(finished):
    return finished("inception_acceleration", "--batch", 20, "--lr", 0.02, "--validate-every", 3, "--controls")


def test_changes_of_section_4_2_1_go_with_the_faster_networks(finished):
    _, results, _ = acceleration(finished)
    networks = {name: network["configuration"] for name, network in results["networks"].items()}
    inception, baseline, x5, x30 = (networks[n] for n in ("Inception", "BN-Baseline", "BN-x5", "BN-x30"))
    assert baseline == {**inception, "batch_norm": True}
    assert (inception["batch_norm"], inception["dropout"]) == (False, 0.4)
    assert x5 == {
        **baseline, "lr": pytest.approx(5 * 0.02), "dropout": 0, "weight_decay": pytest.approx(2e-5),
        "lr_left": pytest.approx(0.3**6), "distortion": 0.1,
    }  # fmt: skip
    assert x30 == {**x5, "lr": pytest.approx(30 * 0.02)}
    assert networks["BN-x5-Sigmoid"] == {**x5, "activation": "sigmoid"}
    assert networks["Inception-x5"] == {**inception, "lr": pytest.approx(0.1)}
    for i in range(1, 7):
        own = {"seed": i, "dropout": networks[f"member {i}"]["dropout"]}
        own["weight_scale"] = networks[f"member {i}"]["weight_scale"]
        assert networks[f"member {i}"] == {**x30, **own}
        assert own["dropout"] or own["weight_scale"] > 1


def test_steps_to_the_best_of_inception_are_those_of_the_first_validation_that_good(finished):
    output, results, _ = acceleration(finished)
    target = results["networks"]["Inception"]["best_validation_accuracy"]
    rows = table(output)
    assert list(rows) == [name for name in results["networks"] if not name.startswith("member")]
    for name, (rate, steps, best, *_) in rows.items():
        network = results["networks"][name]
        measured = {row["step"]: row["validation_accuracy"] for row in network["epochs"] + network["steps"]}
        assert sorted(measured) == [3, 4, 6, 8]
        reached = [step for step in sorted(measured) if measured[step] >= target]
        assert results["steps_to_best_of_inception"][name] == [reached[0] if reached else None]
        assert steps == (str(reached[0]) if reached else "-")
        assert best == percent(max(measured.values()))
        assert float(rate) == pytest.approx(network["configuration"]["lr"])
    shape_of(output / "accuracy.png")


def test_inceptions_best_rate_is_searched_first_and_the_others_follow_it(finished):
    output, results, _ = finished(
        "inception_acceleration", "--batch", 20, "--no-ensemble", "--seeds", 2, "--search", 0.001, "--search", 0.05
    )
    networks = results["networks"]
    tried = [networks[f"Inception, learning rate {rate}"] for rate in ("0.001", "0.05")]
    best = max(tried, key=lambda network: network["best_validation_accuracy"])
    rate = best["configuration"]["lr"]
    assert networks["Inception"] == best
    assert not (output / "networks" / "Inception").exists()  # it was trained once
    assert networks["BN-x5, seed + 1"]["configuration"]["lr"] == pytest.approx(5 * rate)
    assert networks["Inception, seed + 1"]["configuration"] == {**best["configuration"], "seed": 1}
    assert list(table(output)) == ["Inception", "BN-Baseline", "BN-x5", "BN-x30", "BN-x5-Sigmoid"]
    for name in ("Inception", "BN-x5"):
        for seed, step in zip(("", ", seed + 1"), results["steps_to_best_of_inception"][name], strict=True):
            target = networks[f"Inception{seed}"]["best_validation_accuracy"]
            reached = [r["step"] for r in networks[name + seed]["epochs"] if r["validation_accuracy"] >= target]
            assert step == (reached[0] if reached else None)


def test_steps_of_several_seeds_are_told_by_their_median(scripts):
    in_words = importlib.import_module("inception_acceleration").in_words
    assert in_words([None, None]) == "-"
    assert in_words([1_500]) == "1,500"
    assert in_words([300, 1_500, 200]) == "300 (200 to 1,500)"
    assert in_words([300, None, 300]) == "300; 2 of 3 seeds"


def test_ensemble_is_the_mean_of_its_members_probabilities(finished, study, cifar10_network, cifar10):
    output, results, _ = acceleration(finished)
    data = study.load_data(cifar10, 80, 30)
    total = 0
    for i in range(1, 7):
        name = f"member {i}"
        network = cifar10_network.Network(**results["networks"][name]["configuration"])
        logits = study.load_weights(network, output, name, "last").eval()(mg.tensor(data.test_images / np.float32(255)))
        probabilities = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
        total = total + probabilities / probabilities.sum(axis=1, keepdims=True)
        assert results["ensemble"]["single"][name] == results["networks"][name]["validation_accuracy"]
    assert results["ensemble"]["ensemble"] == (total.argmax(axis=1) == data.test_labels).mean()
    rows = table(output, "ensemble.md")
    assert rows["ensemble of 6"][0] == percent(results["ensemble"]["ensemble"])
    assert rows["best single network"][0] == percent(max(results["ensemble"]["single"].values()))
    assert checkpoints(output) == [f"member-{i}/last.safetensors" for i in range(1, 7)]


# Going on, and what is refused.


@pytest.mark.slow
def test_killed_sweep_of_several_at_once_goes_on_to_the_same_numbers(finished, start, cifar10, small, tmp_path):
    """With its processes, as where the machine goes down: what has a result is not trained again."""
    options = ["--batch", "20", "--lr", "0.01", "--lr", "0.1", "--lr", "1e38", "--jobs", "2"]
    script = EXAMPLES / "sweep_learning_rate.py"
    command = [sys.executable, script, "--data", cifar10, "--output", tmp_path, *small, *options]
    process = subprocess.Popen([*map(str, command)], env=dict(os.environ), start_new_session=True)
    deadline = time.monotonic() + 120
    while len(done := sorted(tmp_path.glob("networks/*/result.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert 2 <= len(done) < 6
    before = {path: path.stat().st_mtime_ns for path in done}
    code, printed = start("sweep_learning_rate", tmp_path, *options)
    assert code == 0, printed
    assert {path: path.stat().st_mtime_ns for path in done} == before
    expected = sweep(finished)[1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert repeatable(results) == repeatable(expected)
    assert checkpoints(tmp_path) == []


def test_killed_sweep_goes_on_to_the_same_numbers(finished, start, cifar10, small, tmp_path):
    options = ["--batch", "20", "--lr", "0.01", "--lr", "0.1", "--lr", "1e38"]
    script = EXAMPLES / "sweep_learning_rate.py"
    command = [sys.executable, script, "--data", cifar10, "--output", tmp_path, *small, *options]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    for line in process.stderr:  # the first network is done, and the second has a checkpoint
        if line.startswith("network 2"):
            break
    deadline = time.monotonic() + 60
    checkpoint = tmp_path / "networks" / "no-BN-learning-rate-0.01" / "last.safetensors"
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "results.json").exists()
    code, printed = start("sweep_learning_rate", tmp_path, *options)
    assert code == 0
    assert "network 1 of 6: BN, learning rate 0.01: done before" in printed
    expected = sweep(finished)[1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert repeatable(results) == repeatable(expected)
    assert checkpoints(tmp_path) == []


def test_finished_run_trains_nothing_again(finished, start):
    output, results, _ = main_run(finished)
    before = {path: path.stat().st_mtime_ns for path in output.glob("networks/*/*")}
    code, printed = start("cifar10_inception", output, "--batch", 20, "--lr", 0.05)
    assert code == 0
    assert printed.count("done before") == 2
    assert {path: path.stat().st_mtime_ns for path in output.glob("networks/*/*")} == before
    assert json.loads((output / "results.json").read_text())["networks"] == results["networks"]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--batch", "20", "--lr", "0.06"), "BN: lr 0.05 there, 0.06 now"),
        (("--batch", "20", "--lr", "0.05", "--images", "60"), "no BN: images 80 there, 60 now"),
        (("--batch", "20", "--lr", "0.05", "--seed", "1"), "BN: seed 0 there, 1 now"),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused(finished, start, options, difference):
    output, _, _ = main_run(finished)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, printed = start("cifar10_inception", output, *options)
    assert code != 0
    assert "another --output" in printed
    assert difference in printed
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_other_images_in_the_same_folder_are_refused(finished, study, cifar10_network, cifar10):
    output, results, _ = main_run(finished)
    data = study.load_data(cifar10, 80, 30)
    data.test_images[0, 0, 0] ^= 1
    network = cifar10_network.Network(**results["networks"]["BN"]["configuration"])
    with pytest.raises(SystemExit, match="BN: data"):
        study.train_all({"BN": network}, data, output)


def test_a_folder_from_before_a_setting_was_there_has_its_default(finished, study, cifar10_network, cifar10, tmp_path):
    output, results, _ = main_run(finished)
    there = json.loads((output / "configuration.json").read_text())
    del there["BN"]["precision"]
    (tmp_path / "configuration.json").write_text(json.dumps(there))
    data = study.load_data(cifar10, 80, 30)
    network = cifar10_network.Network(**results["networks"]["BN"]["configuration"])
    with pytest.raises(SystemExit, match="BN: precision 'float32' there, 'tf32' now"):
        study.claim(tmp_path, {"BN": replace(network, precision="tf32")}, data)
    study.claim(tmp_path, {"BN": network}, data)
    assert json.loads((tmp_path / "configuration.json").read_text())["BN"]["precision"] == "float32"


def test_precision_that_there_is_not_is_refused(start, tmp_path):
    code, printed = start("cifar10_inception", tmp_path / "out", "--precision", "float8")
    assert code != 0
    assert "'float8'" in printed


def test_more_images_than_there_are_are_refused(start, tmp_path):
    code, printed = start("cifar10_inception", tmp_path / "out", "--images", 201)
    assert code != 0
    assert "201 training images were asked for, and 200 are there" in printed
    assert not (tmp_path / "out").exists()


def test_results_are_strict_json(scripts, tmp_path):
    reporting = importlib.import_module("reporting")
    reporting.write_json(tmp_path / "a.json", {"loss": [float("nan"), 1.5, float("inf")], "n": 3})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": [None, 1.5, None], "n": 3}


@pytest.mark.gpu
def test_main_run_trains_on_the_gpu(start, tmp_path):
    code, output = start("cifar10_inception", tmp_path / "out", "--device", "cuda")
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for network in results["networks"].values():
        assert network["configuration"]["device"] == "cuda"
        assert network["diverged"] is None
        assert network["epochs"][-1]["loss"] < network["epochs"][0]["loss"]

"""Every CIFAR-10 script runs to its end; what comes out is looked at in test_cifar10_studies.py."""

import json

import numpy as np
import pytest

LITTLE = ["--epochs", "1", "--images", "20", "--test-images", "10"]
SCRIPTS = {  # name: (options that make it shorter, the networks it trains)
    "cifar10_inception": (["--batch", "10"], 2),
    "sweep_learning_rate": (["--batch", "10", "--lr", "0.01"], 2),
    "sweep_batch_size": (["--batch", "10"], 2),
    "dropout_comparison": (["--batch", "10"], 3),
    "inception_acceleration": (["--batch", "10", "--no-ensemble"], 5),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_trains_its_networks_and_tables_them(start, tmp_path, script):
    options, networks = SCRIPTS[script]
    code, printed = start(script, tmp_path / "out", *LITTLE, *options)
    assert code == 0, printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())["networks"]
    assert len(results) == networks
    assert all(np.isfinite(result["epochs"][-1]["loss"]) for result in results.values())
    assert sum(line.startswith("|") for line in (tmp_path / "out" / "table.md").read_text().splitlines()) > 2

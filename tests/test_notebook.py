"""What notebooks show: HTML that holds the values, whatever they are called."""

import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad.notebook import MOST_ROWS, table
from minigrad.train import History


def captured_plan():
    step = mg.capture(lambda x: (x * 2.0).sum(), device="reference")
    step(np.ones(3, "f4"))
    return step.plan


def tape():
    x = mg.tensor([1.0, 2.0], device="reference", requires_grad=True)
    return mg.inspect.table((x * x).sum(), names={"<x & y>": x})


SHOWN = {
    "tensor": (lambda: mg.tensor([1.5, 2.0], device="reference"), "1.5"),
    "module": (lambda: mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.ReLU()), "8 parameters"),
    "history": (lambda: History(epochs=[{"epoch": 1, "<loss>": 0.25}]), "0.25"),
    "empty history": (History, "0 epochs"),
    "tape": (tape, "Mul"),
    "plan": (captured_plan, "launches"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_show(name):
    make, expected = SHOWN[name]
    root = ET.fromstring(make()._repr_html_())  # well formed, so nothing is left unescaped
    assert expected in "".join(root.itertext())


def test_names_are_escaped():
    html = tape()._repr_html_()
    assert "&lt;x &amp; y&gt;" in html
    assert "<x & y>" not in html


def test_columns_of_text_stay_columns_and_bounded():
    """In what notebooks show `pre` has a letter of its own, and a model of hundreds of layers as many lines."""
    for name in ("tensor", "module"):
        html = SHOWN[name][0]()._repr_html_()
        style = ET.fromstring(html).find("pre").get("style")
        assert "font-family: monospace" in style
        assert "white-space: pre" in style
        assert "overflow: auto" in style


def test_long_tables_lose_their_middle():
    html = table("title", ["n"], [[str(i)] for i in range(MOST_ROWS + 7)])
    assert "7 more" in html
    assert html.count("<tr>") == 1 + MOST_ROWS + 1


TRAINING = """
import sys, threading
import numpy as np
import minigrad as mg

x, labels = np.ones((40, 4), np.float32), np.arange(40) % 3
model = mg.models.MLP(4, (5,), 3).to("reference")
optimizer = mg.optim.SGD(model.parameters(), lr=0.1)

def hangs(batch, epoch, step):
    if step == 3:
        print("hangs", flush=True)
        threading.Event().wait()
    return batch

def train(prefetch, transform=None):
    loader = mg.data.Loader(x, labels, batch_size=8, transform=transform, prefetch=prefetch)
    return mg.train.fit(model, optimizer, loader, epochs=2, log_every=1, progress=False)
"""
TOLD = """
error = sys.last_value
print(isinstance(error, KeyboardInterrupt), error.step, len(error.history.steps), error.model is model)
print(all(np.isfinite(p.numpy()).all() for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A function that runs a cell in a kernel, interrupted when it has printed a word: what it printed, and its error's name."""
    pytest.importorskip("ipykernel", reason="needs ipykernel and jupyter_client: pip install 'minigrad-bn[docs]'")
    manager = pytest.importorskip("jupyter_client.manager")
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path_factory.mktemp("notebook")), env=environment)

    def run(cell, interrupt_at=None):
        printed, error = "", None
        sent = client.execute(cell)
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed += content["text"]
                if interrupt_at is not None and interrupt_at in printed:
                    kernel.interrupt_kernel()
                    interrupt_at = None
            elif message["msg_type"] == "error":
                error = content["ename"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, error

    yield run
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_transform_that_hangs_in_a_notebook_is_interrupted_and_nothing_is_lost(notebook, prefetch):
    assert notebook(TRAINING) == ("", None)
    began = time.monotonic()
    printed, error = notebook(f"train({prefetch}, hangs)", interrupt_at="hangs")
    assert (printed, error) == ("hangs\n", "InterruptedAtPrompt")
    assert time.monotonic() - began < 30  # on a busy machine
    printed, error = notebook(TOLD)
    assert error is None
    interrupted, step, rows, same, finite = printed.split()
    assert (interrupted, same, finite) == ("True", "True", "True")
    assert step == rows
    assert int(step) <= 3
    assert notebook(f"print(train({prefetch}).epochs[-1]['step'])") == ("10\n", None)

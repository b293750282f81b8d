import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from minigrad.devices import get_device
from minigrad.kernels.build import cache
from minigrad.kernels.cpu.tools import threads

THERE_IS_A_GPU = get_device("auto").name == "cuda"
DEVICES = ["cpu", "reference", *([pytest.param("cuda", marks=pytest.mark.gpu)] if THERE_IS_A_GPU else [])]

# What the default run leaves out, and what it says of it at its end

LEFT_OUT = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run all tests: the slow ones, and every case of every table")


def pytest_configure(config):
    config.stash[LEFT_OUT] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """How many processes share the tests: one a core; none for files, which are done before the processes are ready.

    Nor where there is a GPU: its memory is filled and counted by tests.
    """
    folders = all(Path(argument).is_dir() for argument in config.args)
    return min(threads.available_threads(), 8) if folders and not THERE_IS_A_GPU else 0


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.parent == Path(__file__).parent / "benchmarks":
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not THERE_IS_A_GPU:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)  # so that no process has one of these files left at the end
    if config.getoption("full") or any("::" in argument for argument in config.args):  # a test that is named is run
        return
    quick = [item for item in items if not item.get_closest_marker("slow")]
    drawn = drawn_cases(quick)
    config.hook.pytest_deselected(items=[item for item in items if item not in drawn])
    config.stash[LEFT_OUT] = {"slow tests": len(items) - len(quick), "further cases of a test": len(quick) - len(drawn)}
    items[:] = [item for item in items if item in drawn]


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of several: what it left out is told by the first
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter, config):
    left_out = {what: count for what, count in config.stash[LEFT_OUT].items() if count}
    if left_out:
        listed = " and ".join(f"{count:,} {what}" for what, count in left_out.items())
        terminalreporter.write_line(f"left out: {listed}; `pytest --full` runs them")


def drawn_cases(items):
    """Of each test so many of its cases, drawn by its name, that every value of every parameter comes once.

    With three parameters of 2, 4 and 10 values that is about 10 cases of 80. Where there is a choice, float32 and the
    device's own kernels go before float64 and the reference.
    """
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    drawn = set()
    for name, cases in tests.items():
        random.Random(name).shuffle(cases)
        cases.sort(key=lambda item: ("float64" in item.name) + ("reference" in item.name))
        seen = set()
        for case in cases:
            values = values_of(case)
            if not values <= seen:
                seen |= values
                drawn.add(case)
    return drawn


def values_of(item):
    """What sets a case apart from others of its test: a value of each `parametrize`, and of each parametrized fixture."""
    if not hasattr(item, "callspec"):
        return {item.name}
    parameters = dict(item.callspec.params)
    values = set()
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names = names.replace(",", " ").split() if isinstance(names, str) else names
        values.add(tuple((name, id(parameters.pop(name))) for name in names))
    return values | {(name, id(value)) for name, value in parameters.items()}


@pytest.fixture
def rng():
    """Random numbers, the same in every test."""
    return np.random.default_rng(2015)


@pytest.fixture
def set_threads():
    """Sets the number of threads; after the test it is what it was."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    """The devices at hand; of the session, so that hypothesis may use it."""
    return request.param


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder: a test's kernels change with its file, which the folder's name does not cover."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield
    cache.cache_folder.cache_clear()

import functools
import gc
import importlib.util
import inspect
import random
import typing
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from targets import REACHED, TARGETS, Cpu, check

from minigrad.devices import get_device
from minigrad.kernels import contract
from minigrad.kernels.build import cache
from minigrad.kernels.cpu.tools import threads
from minigrad.random import manual_seed

TESTS = Path(__file__).parent
THERE_IS_A_GPU = get_device("auto").name == "cuda"
IS_SIMULATED = THERE_IS_A_GPU and get_device("cuda").driver.is_simulated  # by MINIGRAD_CUDA
SIMULATOR = all(importlib.util.find_spec(name) for name in ("greenlet", "numba_cuda"))
DEVICES = ["cpu", "reference", *([pytest.param("cuda", marks=pytest.mark.gpu)] if THERE_IS_A_GPU else [])]

# What the default run leaves out, and what it says of it at its end

LEFT_OUT = pytest.StashKey()
WITH_SLOW_CASES = pytest.StashKey()  # files
KEPT_IN_FLOAT64 = {f"test_{family}.py" for family in ("arithmetic", "reduce")}  # of ops, on the CPU


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="run all tests: the slow ones, and every case of every table (on the host's GPU enough to show every value)",
    )


def pytest_configure(config):
    config.stash[LEFT_OUT] = {}
    config.stash[WITH_SLOW_CASES] = set()
    Cpu.threads = 2 if runs_all(config) else 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """How many processes share the tests: one a core; none for files, which are done before the processes are ready.

    Nor where there is a GPU: its memory is filled and counted by tests.
    """
    folders = all(Path(argument).is_dir() for argument in config.args)
    return min(threads.available_threads(), 8) if folders and THERE_IS_A_GPU == IS_SIMULATED else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """How the processes share the files, unless the command line says another way."""
    from sharing import Sharing  # imported here, since pytest-xdist may be missing

    return Sharing(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing made while tests are collected is garbage, nor will be: 40,000 cases, and what they import."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc):
    """Of cases that this run leaves out anyway no tests are made: half of all there are, and a worker makes each."""
    result = yield
    config, calls = metafunc.config, metafunc._calls
    kept = [case for case in calls if is_for_target(name_of_target(case.params.get("target")), case.marks)]
    if not runs_all(config):
        quick = [case for case in kept if "slow" not in {mark.name for mark in case.marks}]
        if quick:  # without any, pytest would take the test to have no parameters
            config.stash[LEFT_OUT]["slow tests"] = config.stash[LEFT_OUT].get("slow tests", 0) + len(kept) - len(quick)
            if len(quick) < len(kept):
                config.stash[WITH_SLOW_CASES].add(metafunc.definition.path)
            kept = quick
    if kept:
        calls[:] = kept
    return result


def runs_all(config):
    """Whether nothing is left out: with --full, or where a test is named."""
    return config.getoption("full") or any("::" in argument for argument in config.args)


def pytest_collection_modifyitems(config, items):
    items[:] = [item for item in items if is_for_target(target_of(item), item.iter_markers())]
    for item in items:
        if item.path.parent == TESTS / "benchmarks" or (item.get_closest_marker("wide") and is_compiled(item)):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and (not THERE_IS_A_GPU or (IS_SIMULATED and not parameter(item, "device"))):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    order = order_of_files(items, config.stash[WITH_SLOW_CASES])
    items.sort(key=lambda item: order[item.path])
    if any("::" in argument for argument in config.args):  # a test that is named is run
        return
    if config.getoption("full"):
        on_host = [item for item in items if parameter(item, "target") == "cuda, host"]
        left_out = {*on_host} - drawn_cases(on_host)  # the same kernels as in the simulator, where every case is run
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
        return
    quick = [item for item in items if not item.get_closest_marker("slow")]
    drawn = drawn_cases(without_float64(quick))
    if IS_SIMULATED:
        drawn -= further_cases(drawn)
    config.hook.pytest_deselected(items=[item for item in items if item not in drawn])
    more = {"slow tests": len(items) - len(quick), "further cases of a test": len(quick) - len(drawn)}
    config.stash[LEFT_OUT] = {name: count + config.stash[LEFT_OUT].get(name, 0) for name, count in more.items()}
    items[:] = [item for item in items if item in drawn]


def order_of_files(items, with_slow_cases):
    """{file: when its turn is}: those with slow tests first, so that no process has one of them left at the end.

    Files of one family are apart, so that two processes do not compile its kernels at the same time.
    """
    long = with_slow_cases | {item.path for item in items if item.get_closest_marker("slow")}
    of_family, order = Counter(), {}
    for path in dict.fromkeys(item.path for item in items):
        family = path.parent, path.stem.split("_")[1]
        order[path] = path not in long, of_family[family] if path in long else 0
        of_family[family] += 1
    return order


def without_float64(items):
    """The items but for those on the CPU in float64, of which one stays for each of a few files of ops.

    That is one that looks at gradients, if there is. Kernels would be compiled for float64 too, which takes as long again.
    Formulas and gradients are looked at on the reference, in float64 as well, and that the CPU computes what the reference
    does, in tests/kernels: there in float32 alone, and on the simulated GPU too, where there is a case of it.
    """
    compiled = defaultdict(list)
    for item in items:
        if parameter(item, "device") != "cpu":
            continue
        if item.path.parent == TESTS / "ops" and "float32" not in item.name:
            compiled[item.path.name].append(item)
        elif item.path.parent != TESTS / "ops" and "float64" in item.name:
            compiled[""].append(item)
    kept = {max(compiled[name], key=lambda item: "grad" in item.name) for name in KEPT_IN_FLOAT64 & compiled.keys()}
    left_out = {item for cases in compiled.values() for item in cases} - kept
    simulated = {item: item.nodeid.partition("[")[0] for item in items if target_of(item) == "cuda"}
    in_float32 = {name for item, name in simulated.items() if "float32" in item.name}
    wide = {item: name for item, name in simulated.items() if "float64" in item.name and "float32" not in item.name}
    left_out |= {item for item, name in wide.items() if name in in_float32}
    return [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """What a file has left is no garbage either, such as what Numba keeps of each kernel that it compiled.

    Tests that look whether memory is given back would walk through all of it, for a second each.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """A whole run in which all tests pass fails all the same, if there is a kernel that none of them ran."""
    config = session.config
    if hasattr(config, "workeroutput"):  # a process of several: what it did is told by the first
        config.workeroutput["left_out"], config.workeroutput["reached"] = config.stash[LEFT_OUT], [*REACHED]
    elif exitstatus == 0 and missed_kernels(config):
        session.exitstatus = 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    told = getattr(node, "workeroutput", {})  # nothing, by one that died
    node.config.stash[LEFT_OUT] = told.get("left_out", node.config.stash[LEFT_OUT])
    REACHED.update(tuple(kernel) for kernel in told.get("reached", []))


def missed_kernels(config):
    """Kernels that no test held against their reference, if the run was one of all tests."""
    narrowed = [
        config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "lf", "maxfail", "collectonly")
    ]
    if any(narrowed) or [Path(argument).resolve() for argument in config.args] != [TESTS]:
        return []
    there = {(target, *kernel) for kernel in kernels() for target in {name.partition(",")[0] for name in TARGETS}}
    return sorted(" ".join(kernel) for kernel in there - REACHED if kernel[0] == "cpu" or SIMULATOR)


def kernels():
    """(family, kernel) of all that the contract has."""
    for family, protocol in typing.get_type_hints(contract.Kernels).items():
        yield from (
            (family, name) for name, member in vars(protocol).items() if inspect.isfunction(member) and name[0] != "_"
        )


def pytest_terminal_summary(terminalreporter, config):
    left_out = {what: count for what, count in config.stash[LEFT_OUT].items() if count}
    if left_out:
        listed = " and ".join(f"{count:,} {what}" for what, count in left_out.items())
        terminalreporter.write_line(f"left out: {listed}; `pytest --full` runs them")
    for kernel in missed_kernels(config):
        terminalreporter.write_line(f"no test held this kernel against its reference: {kernel}")


def parameter(item, name):
    """What a case has for a parameter; None without."""
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def target_of(item):
    """ "cpu" or "cuda", what the fixture `target` of kernels' tests is; "" without it."""
    return name_of_target(parameter(item, "target"))


def name_of_target(value):
    """The same of the fixture's parameter."""
    return value.partition(",")[0] if value in TARGETS else ""


def is_compiled(item):
    """Whether it runs kernels of the CPU: neither those of a simulated GPU nor those of the reference."""
    return target_of(item) != "cuda" and parameter(item, "device") not in ("cuda", "reference")


def is_simulated(item):
    """Whether it runs in the simulator by one of its parameters, and does so slowly."""
    return "cuda" in item.name.partition("[")[2] and (IS_SIMULATED or not THERE_IS_A_GPU)


def is_for_target(target, marks):
    """False of a test or case that is marked to be for another target than it has."""
    return not target or not ({"cpu", "cuda"} - {target}) & {mark.name for mark in marks}


def drawn_cases(items):
    """Of each test so many of its cases, drawn by its name, that every value of every parameter comes once on each target.

    With three parameters of 2, 4 and 10 values that is about 10 cases of 80. Where there is a choice, float32 and the
    device's own kernels go before float64, the reference and the simulator.
    """
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0] + target_of(item)].append(item)
    drawn = set()
    for name, cases in tests.items():
        random.Random(name).shuffle(cases)
        cases.sort(key=lambda item: ("float64" in item.name) + ("reference" in item.name) + is_simulated(item))
        seen = set()
        for case in cases:
            values = values_of(case)
            if not values <= seen:
                seen |= values
                drawn.add(case)
    return drawn


def further_cases(items):
    """All but one case of each test on a simulated GPU: where kernels are held against their reference more are run."""
    tests = defaultdict(list)
    for item in items:
        if parameter(item, "device") == "cuda":
            tests[item.nodeid.partition("[")[0]].append(item)
    return {
        item
        for cases in tests.values()
        for item in sorted(cases, key=lambda item: ("float64" in item.name, item.nodeid))[1:]
    }


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


@pytest.fixture(autouse=True)
def random_streams_from_the_start():
    """Weights and draws of a test are the same, whichever tests ran before it in its process."""
    manual_seed(0)


@pytest.fixture(autouse=True)
def number_of_threads_put_back():
    """What a test runs, an example or a tutorial, may set it for good."""
    before = threads._count
    yield
    threads._count = before


@pytest.fixture
def set_threads():
    """Sets the number of threads; after the test it is what it was."""
    return threads.set_num_threads


@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    """The devices at hand; of the session, so that hypothesis may use it."""
    return request.param


@pytest.fixture
def check_kernel(target):
    """check_kernel(family, name, *arguments, ...): a kernel on the target against the reference; see tests/targets.py."""
    return functools.partial(check, target)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder: a test's kernels change with its file, which the folder's name does not cover."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield
    cache.cache_folder.cache_clear()

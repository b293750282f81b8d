"""That every asv benchmark runs: its setup, which checks the answer, and each of its measurements once, on the CPU."""

import importlib
import inspect
import pkgutil

import pytest

import benchmarks
import minigrad as mg
from benchmarks import measure

LEFT_OUT = {
    "ColdCompile": "compiles the kernels of a whole experiment",
    "ConvFloat64": "compiles kernels that nothing else needs",
    "FirstStep": "starts two processes, which tests of the examples do as well",
}
MEASUREMENTS = ("time_", "peakmem_", "track_")


def classes():
    """All classes with measurements."""
    found = []
    for file in pkgutil.iter_modules(benchmarks.__path__):
        if file.name.startswith("bench_"):
            module = importlib.import_module(f"benchmarks.{file.name}")
            for _, value in inspect.getmembers(module, inspect.isclass):
                if value.__module__ == module.__name__ and measurements(value):
                    found.append(pytest.param(value, id=f"{file.name}.{value.__name__}"))
    return found


def measurements(asv_class):
    """Names of its methods that asv calls."""
    return [name for name in dir(asv_class) if name.startswith(MEASUREMENTS)]


@pytest.fixture
def shortest_samples(monkeypatch):
    """One repetition is enough; the number of threads is as before, after."""
    monkeypatch.setattr(measure, "SAMPLE", 1e-9)
    before = mg.get_num_threads()
    yield
    mg.set_num_threads(before)


@pytest.mark.parametrize("asv_class", classes())
def test_benchmark_runs_with_its_first_parameters(asv_class, shortest_samples):
    if asv_class.__name__ in LEFT_OUT:
        pytest.skip(LEFT_OUT[asv_class.__name__])
    parameters = [values[0] for values in getattr(asv_class, "params", ())]
    made = asv_class()
    if hasattr(made, "setup"):
        made.setup(*parameters)
    for name in measurements(asv_class):
        before = getattr(made, "clock", None)
        getattr(made, name)(*parameters)
        if name.startswith("time_"):
            assert made.clock > before


def test_what_is_left_out_is_there():
    assert LEFT_OUT.keys() <= {parameter.values[0].__name__ for parameter in classes()}


def test_a_place_that_is_not_here_skips_the_benchmark(monkeypatch):
    def none(name):
        raise RuntimeError("no NVIDIA driver was found")

    monkeypatch.setattr(measure, "get_device", none)
    with pytest.raises(NotImplementedError, match="no NVIDIA driver"):
        measure.Benchmark().use("cuda")


def test_a_place_tells_device_and_threads(monkeypatch):
    asked = []
    monkeypatch.setattr(measure.mg, "set_num_threads", asked.append)
    assert measure.Benchmark().use("cpu, 1 thread").name == "cpu"
    assert asked == [1]
    assert [place.partition(",")[0] for place in measure.PLACES] == ["cpu", "cpu", "cuda"]


def test_a_sample_waits_for_the_device():
    class Device:
        waited = 0

        def synchronize(self):
            self.waited += 1

    made = measure.Benchmark()
    made.device = Device()
    made.sample(lambda: sum(range(100)))
    assert made.device.waited >= 2
    assert made.clock > 0


def test_a_measurement_without_a_sample_fails():
    class Forgets(measure.Benchmark):
        def time_nothing(self, n):
            sum(range(n))

    with pytest.raises(
        RuntimeError, match=r"Forgets.time_nothing has measured nothing, .* let it call self.sample\(work\)"
    ):
        Forgets().time_nothing(3)


def test_a_wrong_kernel_is_noticed(monkeypatch):
    made = measure.Benchmark()
    made.use("cpu")
    monkeypatch.setattr(measure.reference.movement, "fill", lambda value, y: y.fill(value + 1))
    with pytest.raises(AssertionError, match=r"movement\.fill, array 0"):
        made.kernel_call("movement", "fill", 1.5, measure.empty(3))

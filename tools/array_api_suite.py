"""Run the test suite of the Python array API standard, array-api-tests, on `minigrad.array_api`.

    git clone --recurse-submodules https://github.com/data-apis/array-api-tests
    pip install -r array-api-tests/requirements.txt
    python tools/array_api_suite.py array-api-tests

What is left out on purpose stands on the page docs/array-api.md, by the names of the suite's tests, and is read from there:
those tests are expected to fail, and any other that does is an error. Those that pass by luck, or are no longer left out, are
named. `--device reference` has NumPy's kernels, and compiles nothing. Other options go to pytest.

This file is also the plugin by which pytest is told what the suite has no option for: that there are no complex numbers at all,
and whose kernels tensors are computed with.
"""

import argparse
import builtins
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings

TOOLS = Path(__file__).resolve().parent
PAGE = TOOLS.parent / "docs" / "array-api.md"
DEVICE = "MINIGRAD_ARRAY_API_DEVICE"  # from the command to the plugin


def left_out() -> list[str]:
    """The names of the suite's tests on the page, in which * stands for anything; {a,b} is written out here."""
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines()]
    parts = [re.split(r"{(.*)}", line) for line in lines if line.startswith("array_api_tests/")]
    return [
        "".join([*part[:1], word, *part[2:]]) for part in parts for word in (part[1].split(",") if part[1:] else [""])
    ]


def main() -> int:
    """Run it; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="the folder that array-api-tests was cloned into")
    parser.add_argument("--device", default="cpu", help='"cpu" or "reference"')
    arguments, options = parser.parse_known_args()
    environment = {
        **os.environ,
        "ARRAY_API_TESTS_MODULE": "minigrad.array_api",
        "ARRAY_API_TESTS_SKIP_DTYPES": "complex64,complex128",
        "PYTHONPATH": os.pathsep.join([str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        DEVICE: arguments.device,
    }
    command = [
        *(sys.executable, "-m", "pytest", "-p", "array_api_suite", "array_api_tests", "-q", "-rfEX"),
        *("--derandomize", "--disable-deadline", *options),
    ]
    return subprocess.run(command, cwd=arguments.suite, env=environment).returncode


def import_without_complex_numbers() -> None:
    """Import the suite's table of dtypes, which takes the widest complex one, where there is none."""
    spec = importlib.util.find_spec("array_api_tests.dtype_helpers")
    module = importlib.util.module_from_spec(spec)
    module.max = lambda *given, **options: (None, 0) if given == ([],) else builtins.max(*given, **options)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


@pytest.hookimpl(trylast=True)
def pytest_configure(config) -> None:
    """After the suite's own: what fails is only named, so no simpler example is looked for."""
    theirs = settings.get_profile("array-api-tests")
    settings.register_profile(
        "named", parent=theirs, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
    )
    settings.load_profile("named")


def pytest_collection_modifyitems(config, items) -> None:
    """Mark what is left out; a name on the page that no test has is an error, if all tests were collected."""
    mark = pytest.mark.xfail(reason="left out: docs/array-api.md")
    names = {item.nodeid: item for item in items}
    for pattern in left_out():
        fits = re.compile(re.escape(pattern).replace(r"\*", ".*")).fullmatch
        found = [item for name, item in names.items() if fits(name)]
        if not found and config.args == ["array_api_tests"]:
            raise pytest.UsageError(f"docs/array-api.md: there is no test {pattern}")
        for item in found:
            item.add_marker(mark)


if __name__ == "__main__":
    sys.exit(main())
elif DEVICE in os.environ:
    from minigrad.devices.registry import DEVICES

    vars(DEVICES["cpu"])["kernels"] = DEVICES[os.environ[DEVICE]].kernels  # of the device that tensors are made on
    import_without_complex_numbers()

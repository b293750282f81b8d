"""What a user waits for: the import, the first training step with compiled kernels on disk, and compiling them."""

from minigrad.kernels.build.settings import install

from .sections import start


class Import:
    """In a fresh interpreter; Numba's own import is most of minigrad's."""

    def timeraw_minigrad(self):
        return "import minigrad"

    def timeraw_numba(self):
        return "import numba"


class FirstStep:
    """Seconds from starting Python to the first finished training step (with BN), its kernels loaded from disk."""

    params = (["captured", "eager"],)
    param_names = ("mode",)
    unit = "seconds"

    def setup(self, mode):
        start.first_step(f"minigrad {mode}", 1, {})  # compiles what is not on disk yet

    def track_warm_start(self, mode):
        answer = start.first_step(f"minigrad {mode}", 1, {})
        if answer["compiled"]["kernels"]:
            raise RuntimeError(
                f"{answer['compiled']['kernels']} kernels were compiled although they should lie on disk"
            )
        return answer["since_start"]


class ColdCompile:
    """Seconds that an empty kernel cache adds to the whole MNIST experiment."""

    unit = "seconds"
    timeout = 600

    def setup(self):
        if missing := start.missing_for_experiment():
            raise NotImplementedError(f"the experiment needs {', '.join(missing)}: {install('examples')}")

    def track_experiment(self):
        seconds = start.cold_and_warm_experiment()
        return seconds["cold"] - seconds["warm"]

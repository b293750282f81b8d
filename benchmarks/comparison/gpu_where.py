"""Where the time of the captured Inception step goes on the GPU, kernel by kernel, beside what the limits leave.

Each launch of the recorded step is timed by two events; so short ones look longer than in the graph that training runs.
"""

import statistics

import minigrad as mg
from benchmarks.comparison import inception, where
from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.gpu_inception import NETWORK
from benchmarks.comparison.gpu_sides import PRECISIONS
from benchmarks.comparison.gpu_training import RESIDENT, Trainer, fed, step_seconds, warm_up


def compare(
    sides: list, limits: dict[str, dict[str, float]], *, rounds: int, network: networks.Network = NETWORK
) -> dict:
    """The launches in both precisions; `limits` are operations and bytes per second in each."""
    ours = sides[0]
    found = {}
    for precision in PRECISIONS:
        with ours.precision(precision):
            contender = networks.minigrad_step(
                network,
                networks.initial_arrays(network),
                mg.get_num_threads(),
                captured=True,
                device=ours.device.name,
            )
            batches = fed(ours, True, RESIDENT, networks.batches(network, 2))
            trainer = Trainer(ours, precision, contender, batches)
            warm_up(trainer)
            plan = contender.step.plan
            for launch in plan.launches:
                launch.times.clear()
            for _ in range(rounds):
                plan.timed()
            step = statistics.median(step_seconds(trainer, 3, 3) for _ in range(rounds))
        kernels = where.summary(plan.launches, limits[precision], on_gpu=True)
        found[precision] = {"step": step, "limits": limits[precision], "kernels": kernels}
    return {**network._asdict(), "precisions": found}


def report(result: dict) -> str:
    """A table for each precision."""
    network = networks.Network(**{name: result[name] for name in networks.Network._fields})
    lines = []
    for precision, found in result["precisions"].items():
        kernels = found["kernels"]
        total, least = (sum(row[name] for row in kernels) for name in ("seconds", "least"))
        lines += [
            where.kernel_table(
                f"Where the time goes on the GPU: Inception, {inception.described(network)}, {precision}", kernels
            ),
            f"The step takes {found['step'] * 1e3:.2f} ms, its launches one by one {total * 1e3:.2f} ms, the limits of this "
            f"GPU leave {least * 1e3:.2f} ms ({found['limits']['operations'] / 1e12:.0f} TFLOP/s, "
            f"{found['limits']['bytes'] / 1e9:.0f} GB/s).\n",
        ]
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """There are none."""
    return []
